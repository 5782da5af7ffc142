"""The tasks of GLUE, single sentences or pairs, as batches for an encoder."""

from collections.abc import Sized
from typing import Literal

import torch
from torch import Tensor

from lit_fa.datamodules.checksum import sha256_of
from lit_fa.datamodules.data_root import data_root
from lit_fa.datamodules.errors import one_of, require
from lit_fa.datamodules.generators import generator
from lit_fa.datamodules.glue_files import TASKS, read_split
from lit_fa.datamodules.labels import proportional_order
from lit_fa.datamodules.loading import LoadingDataModule
from lit_fa.datamodules.text_set import TextSet
from lit_fa.datamodules.tokenised import cache_folder, check_length, load_tokenizer, tokenised
from lit_fa.datamodules.validation import CHOICES, refuse_choices


class GLUE(LoadingDataModule):
    """One task of GLUE (Wang et al. 2019); a batch is (inputs (n, 3, T) int64, targets (n,)).

    Inputs are token ids, attention mask and token types, padded to the longest text of the batch; the texts of a batch
    have similar lengths. Targets are int64 classes, for STS-B float32 scores from 0 to 5. In RTE and QNLI class 0 is
    entailment, as in the Hugging Face hub.

    GLUE publishes no labels for its test sets. The official development set is therefore the test set here, and a share
    of the training set is held out for validation.

    Args:
        task: CoLA, MRPC, STS-B, RTE, SST-2 or QNLI.
        tokenizer: name or folder of a tokenizer of transformers.
        max_length: largest number of tokens of a text or a pair, including special tokens; longer ones are truncated.
        root: folder of all data sets, with `GLUE/<task>`; default: the environment variable LIT_FA_DATA, else ./data.
        batch_size: training texts per step, over all devices together.
        eval_batch_size: the same for validation and test.
        val_size: number (int) or share (float) of training texts held out for validation, each class in proportion. 0:
            the development set, which is then also the test set unless `test_split` is test.
        val_seed: determines which texts are held out and which are used under a limit.
        validation_is_test: `refuse` or `allow`, see `VisionDataModule`.
        test_split: dev, or test for MRPC and STS-B, whose original test files have labels.
        seed: order of training batches.
        limit_train: largest number of training texts, each class in proportion.
        limit_test: the same for the test set.
        drop_last: omit a last training batch that is not full.
        device: device of the texts; auto: the trainer's device, cpu without a trainer.
        download: download missing files from the hub; False never uses the network.
        cache: folder of the tokenised texts; default: the user's cache, see `datamodules.tokenised`.

    Attributes:
        num_classes: 2, or 1 for a score.
        image_shape: (3, max_length), the largest input of the network.
        train_set, val_set, test_set: after `setup`, the texts on the device.

    Raises:
        DataError: an option that contradicts the task, or files that are not available; one line that names the remedy.
    """

    licence = "that of the task's authors"

    def __init__(
        self,
        task: str,
        tokenizer: str,
        max_length: int = 128,
        root: str | None = None,
        batch_size: int = 32,
        eval_batch_size: int = 256,
        val_size: int | float = 0.1,
        val_seed: int = 0,
        test_split: Literal["dev", "test"] = "dev",
        seed: int = 0,
        limit_train: int | None = None,
        limit_test: int | None = None,
        drop_last: bool = False,
        device: str = "auto",
        download: bool = True,
        cache: str | None = None,
        validation_is_test: Literal["refuse", "allow"] = "refuse",
    ) -> None:
        super().__init__()
        self.task, self.tokenizer, self.max_length = one_of("task", task, TASKS), tokenizer, max_length
        self.root, self.download, self.device, self.cache = data_root(root), download, device, cache_folder(cache)
        self.batch_size, self.eval_batch_size, self.drop_last = batch_size, eval_batch_size, drop_last
        self.val_size, self.val_seed, self.seed = val_size, val_seed, seed
        self.test_split = one_of("test_split", test_split, ["dev", "test"])
        self.limit_train, self.limit_test = limit_train, limit_test
        self.choose_by_test = one_of("validation_is_test", validation_is_test, CHOICES)
        self._check_options()
        self.num_classes, self.image_shape = TASKS[task].num_classes, (3, max_length)
        self._placed_on: torch.device | None = None

    @property
    def validation_is_test(self) -> bool:
        """Whether validation metrics are computed on the test set, because there are no other texts."""
        return not self.val_size and self.test_split == "dev"

    def setup(self, stage: str | None = None) -> None:
        """Read, tokenise, hold out, and put everything on the device; a second call does nothing.

        Raises:
            DataError: missing or broken files, or options that contradict them.
        """
        refuse_choices(self)
        device = self.target_device()
        if self._placed_on == device:
            return
        tokenizer = load_tokenizer(self.tokenizer)
        check_length(tokenizer, self.max_length, pair=len(TASKS[self.task].texts) == 2)
        self._check_vocabulary(tokenizer)
        train = self._tokenised(tokenizer, "train")
        test = self._first(self._tokenised(tokenizer, self.test_split), self.limit_test)
        self.checksum = sha256_of(train, test)
        val = self._tokenised(tokenizer, "dev") if not self.val_size and not self.validation_is_test else test
        if self.val_size:
            order = self._order(train)
            size = max(round(self.val_size * len(train)), 1) if isinstance(self.val_size, float) else self.val_size
            require(size < len(train), f"val_size={self.val_size} leaves no training text: there are {len(train)}")
            val, train = train.select(order[:size].sort().values), train.select(order[size:].sort().values)
        train = self._first(train, self.limit_train)
        self.train_set, self.val_set, self.test_set = (part.to(device) for part in (train, val, test))
        self._placed_on = device

    def _tokenised(self, tokenizer: object, split: str) -> TextSet:
        texts = read_split(self.task, split, self.root, self.download)
        return tokenised(texts, tokenizer, self.max_length, self.cache, f"{self.task}-{split}")

    def _check_vocabulary(self, tokenizer: Sized) -> None:
        module = None if self.trainer is None else self.trainer.lightning_module
        known = getattr(getattr(module, "network", None), "vocabulary", len(tokenizer))
        message = f"tokenizer {self.tokenizer!r} has {len(tokenizer)} tokens and the network knows {known}"
        require(len(tokenizer) <= known, f"{message}: take the tokenizer that belongs to the network")

    def _first(self, texts: TextSet, limit: int | None) -> TextSet:
        return texts if limit is None else texts.select(self._order(texts)[:limit].sort().values)

    def _order(self, texts: TextSet) -> Tensor:
        if texts.labels.is_floating_point():
            return torch.randperm(len(texts), generator=generator("validation", self.val_seed))
        return proportional_order(texts.labels, self.val_seed)

    def _check_options(self) -> None:
        for name in ("batch_size", "eval_batch_size", "limit_train", "limit_test", "max_length"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"{name}={value}: must be at least 1")
        require(
            0 <= self.val_size < float("inf"), f"val_size={self.val_size}: a number of texts or a share of them, from 0"
        )
        labelled = [name for name, task in TASKS.items() if task.test]
        fits = self.test_split == "dev" or self.task in labelled
        require(fits, f"test_split=test: {self.task}'s test file has no labels, those of {' and '.join(labelled)} have")

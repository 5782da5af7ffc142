"""Federated data: the training images of any image set are split among clients, and one batch is one round."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import lightning as L
import numpy as np
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lit_fa.datamodules import partition as schemes
from lit_fa.datamodules.batches import BatchLoader
from lit_fa.datamodules.errors import DataError, one_line, one_of, require
from lit_fa.datamodules.image_set import InMemory
from lit_fa.datamodules.partition_picture import partition_picture
from lit_fa.datamodules.pieces import Pieces, pieces_of
from lit_fa.datamodules.rounds import LocalWork, RoundLoader, checked_parts
from lit_fa.datamodules.validation import refuse_choices
from lit_fa.datamodules.vision import VisionDataModule

SCHEMES: dict[str, Callable[..., schemes.Parts]] = {
    "iid": schemes.iid,
    "shards": schemes.shards,
    "dirichlet": schemes.dirichlet,
    "dirichlet_balanced": schemes.dirichlet_balanced,
    "quantity_skew": schemes.quantity_skew,
}


class Federated(L.LightningDataModule):
    """Training images split among clients; validation and test data stay with the server.

    Args:
        data: the image set; its batch_size and seed are not used for training.
        clients: number of clients; None: 100, or as many as `partition_file` lists.
        clients_per_round: clients sampled in each round without replacement; a number, or a share of all (float).
        partition: `iid`, `shards`, `dirichlet`, `dirichlet_balanced`, `quantity_skew`, or `file`.
        partition_args: further arguments of the partition (per_client, beta, min_size, tries).
        partition_file: with `file`: JSON with one list of training indices per client. No index may occur twice.
            Images in no list are not trained on; a warning gives their number.
        partition_seed: determines which client gets which image.
        batch_size: images per local step; None: all images of the client.
        local_epochs: passes of a client over its images in a round.
        local_steps: local steps per round, in place of `local_epochs`.
        drop_last: omit the last batch of a pass if it is not full.
        rounds_per_epoch: rounds of one epoch of the trainer, which validates after each epoch.
        seed: of client sampling, batch orders and augmentation.

    Attributes:
        parts: after `setup`, each client's indices into the training images.
        class_counts: after `setup`, (clients, classes) numbers of images.

    Raises:
        DataError: more clients per round than clients, an impossible partition, or numbers below one.
    """

    predict_split: str = "test"
    predict_folder: str | None = None

    def __init__(
        self,
        data: VisionDataModule,
        clients: int | None = None,
        clients_per_round: int | float = 10,
        partition: Literal["iid", "shards", "dirichlet", "dirichlet_balanced", "quantity_skew", "file"] = "iid",
        partition_args: dict[str, Any] | None = None,
        partition_file: str | None = None,
        partition_seed: int = 0,
        batch_size: int | None = 50,
        local_epochs: int = 5,
        local_steps: int | None = None,
        drop_last: bool = False,
        rounds_per_epoch: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        one_of("partition", partition, [*SCHEMES, "file"])
        require((partition == "file") == (partition_file is not None), "partition: file and partition_file go together")
        numbers = {"clients": clients, "batch_size": batch_size, "local_epochs": local_epochs}
        numbers |= {"local_steps": local_steps, "rounds_per_epoch": rounds_per_epoch}
        for name, value in numbers.items():
            require(value is None or value >= 1, f"{name}={value}: must be at least 1")
        self.data, self.clients_per_round = data, clients_per_round
        self.partition, self.partition_args, self.partition_seed = partition, dict(partition_args or {}), partition_seed
        self.partition_file = partition_file
        self.clients = self._client_count(clients)
        self.work = LocalWork(batch_size, local_epochs, local_steps, drop_last)
        self.rounds_per_epoch, self.seed = rounds_per_epoch, seed
        self.num_classes, self.image_shape = data.num_classes, data.image_shape
        self._cohort_size(self.clients)
        self.parts: Sequence[Tensor] = []
        self.class_counts: np.ndarray | None = None

    @property
    def validation_is_test(self) -> bool:
        """Whether validation metrics are computed on the test set, because there are no other images."""
        return self.data.validation_is_test

    def example(self, n: int = 2) -> Tensor:
        """Zeros with the shape and dtype of a batch of n images."""
        return self.data.example(n)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one sample of a batch, flattened or not."""
        return tuple(self.example(1).shape[1:])

    def prepare_data(self) -> None:
        """Download missing files."""
        self.data.prepare_data()

    def setup(self, stage: str | None = None) -> None:
        """Read the images and split them among the clients; a second call does nothing."""
        self.data.trainer = self.trainer
        self.data.setup(stage)
        if self.parts:
            return
        labels = self._images().labels.cpu().numpy()
        self.parts = pieces = checked_parts(self._deal(labels), len(labels))
        if left_out := len(labels) - len(pieces.whole):
            rank_zero_warn(f"{self.partition_file} leaves {left_out} of {len(labels)} training images out")
        self.class_counts = schemes.class_counts(labels, self._indices())
        self._show(labels)

    def train_dataloader(self) -> RoundLoader:
        """One epoch of rounds.

        Raises:
            DataError: before `setup`, or if the run chooses by the test set and `validation_is_test` refuses that.
        """
        refuse_choices(self.data)  # again: the learning rate schedule is known only now
        require(bool(self.parts), "Federated: call setup() first (a Trainer does)")
        images = self._images()
        return RoundLoader(
            images,
            self.parts,
            self._cohort_size(len(self.parts)),
            self.work,
            rounds_per_epoch=self.rounds_per_epoch,
            prepare=None if images.images.is_floating_point() else self.data.augmented,
            seed=self.seed,
        )

    def val_dataloader(self) -> BatchLoader:
        """The loader of the image set."""
        return self.data.val_dataloader()

    def test_dataloader(self) -> BatchLoader:
        """The loader of the image set."""
        return self.data.test_dataloader()

    def predict_dataloader(self) -> BatchLoader:
        """The loader of the image set, for `predict_split` or `predict_folder` of this module."""
        self.data.predict_split, self.data.predict_folder = self.predict_split, self.predict_folder
        return self.data.predict_dataloader()

    def _images(self) -> InMemory:
        images, name = self.data.train_set, type(self.data).__name__
        if not isinstance(images, InMemory):
            raise DataError(f"{name} does not fit into memory: set resize or limit_train")
        return images

    def _deal(self, labels: np.ndarray) -> Sequence[Sequence[int] | np.ndarray]:
        if self.partition_file is not None:
            return _read_parts(Path(self.partition_file))
        scheme = SCHEMES[self.partition]
        try:
            return scheme(labels, self.clients, seed=self.partition_seed, **self.partition_args)
        except TypeError as error:
            raise DataError(f"partition_args of {self.partition}: {one_line(error)}") from None

    def _indices(self) -> schemes.Parts:
        pieces = pieces_of(self.parts)
        return Pieces(pieces.whole.numpy(), pieces.sizes)

    def _client_count(self, asked: int | None) -> int:
        if self.partition_file is None:
            return 100 if asked is None else asked
        require(not self.partition_args, f"partition_args={self.partition_args}: a partition from a file has none")
        listed = len(_read_parts(Path(self.partition_file)))
        same = asked is None or asked == listed
        require(
            same, f"clients={asked}, and {self.partition_file} lists {listed}: leave clients out, or take that number"
        )
        return listed

    def _cohort_size(self, clients: int) -> int:
        asked = self.clients_per_round
        share = isinstance(asked, float)
        require(not share or 0 < asked <= 1, f"clients_per_round={asked}: a share of the clients lies in (0, 1]")
        size = max(1, round(asked * clients)) if share else int(asked)
        require(1 <= size <= clients, f"clients_per_round={asked}: there are {clients} clients; sample 1 to {clients}")
        return size

    def _show(self, labels: np.ndarray) -> None:
        """Write a picture (clients x classes) to the run's folder and pass it to loggers that accept images."""
        if self.trainer is None or not self.trainer.loggers:
            return
        folder = self.trainer.log_dir  # a collective operation: all ranks must read it
        if folder is None or not self.trainer.is_global_zero:
            return
        path = partition_picture(labels, self._indices(), Path(folder) / "partition.png")
        for logger in self.trainer.loggers:
            if hasattr(logger, "log_image"):
                logger.log_image("data/partition", [str(path)])


def _read_parts(path: Path) -> list[list[int]]:
    try:
        parts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"partition_file {path} cannot be read: {one_line(error)}") from None
    lists = isinstance(parts, list) and parts and all(isinstance(part, list) for part in parts)
    require(bool(lists), f"partition_file {path} is not a list with one list of indices per client")
    require(all(type(i) is int for part in parts for i in part), f"partition_file {path}: indices are whole numbers")
    return parts

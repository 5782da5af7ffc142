"""Encoders of transformers with a classification head, as modules that take one tensor."""

import inspect
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.resources import files
from typing import Any

import torch
from torch import Tensor, nn

from lit_fa.errors import UserError, nearest, one_line
from lit_fa.networks.weights import head_name

PREFIX = "transformers/"
# names of the same options in different families of models
DROPOUTS = (
    "hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout", "seq_classif_dropout",
)  # fmt: skip
POSITIONS = "max_position_embeddings"


class TextNetwork(nn.Module):
    """A sequence classifier of transformers, from one tensor (n, 3, T) to logits (n, c).

    The three rows of a text are its token ids, its attention mask (1 for a token, 0 for padding) and its token types,
    which are passed only to models that use them.

    Args:
        model: from `AutoModelForSequenceClassification`.
    """

    def __init__(self, model: nn.Module):
        """Wrap the model."""
        super().__init__()
        self.model: Any = model  # its attributes depend on the family of models
        takes = inspect.signature(type(model).forward).parameters
        self.has_types = "token_type_ids" in takes and getattr(model.config, "type_vocab_size", 0) > 1

    def forward(self, inputs: Tensor) -> Tensor:
        """(n, 3, T) int64 to (n, c) logits."""
        ids, mask, types = inputs.unbind(1)
        segments = {"token_type_ids": types} if self.has_types else {}
        return self.model(input_ids=ids, attention_mask=mask, **segments).logits

    @property
    def vocabulary(self) -> int:
        """Number of token ids."""
        return self.model.config.vocab_size

    def token_mask(self, inputs: Tensor) -> Tensor:
        """The mask (n, T) of inputs (n, 3, T): 1 for tokens, 0 for padding."""
        return inputs[:, 1]

    @property
    def longest(self) -> int | None:
        """Largest number of tokens of a text; None: no limit."""
        positions = getattr(self.model.config, POSITIONS, None)
        return None if positions is None else positions - _reserved(self.model.config)

    def example(self, n: int = 2, length: int = 4) -> Tensor:
        """A valid batch (n, 3, length); zeros would be texts without a token."""
        after_padding = (self.model.config.pad_token_id or 0) + torch.arange(1, length + 1, device=self.model.device)
        ids = after_padding.remainder(self.vocabulary).expand(n, -1)
        return torch.stack([ids, torch.ones_like(ids), torch.zeros_like(ids)], 1)


def text_network(
    name: str,
    num_classes: int,
    image_shape: tuple[int, ...],
    pretrained: bool = False,
    dropout: float | None = None,
    max_positions: int | None = None,
    **changes: object,
) -> TextNetwork:
    """Build the encoder `name` with a fresh head of `num_classes` outputs.

    Args:
        name: ``transformers/`` followed by a model's name at the hub, a folder, a folder inside an installed package
            (``package:<name>/<folder>``), or a kind of model (bert, distilbert, ...).
        num_classes: number of logits; 1 for regression.
        image_shape: (3, largest length of a text), from the data.
        pretrained: load the model's weights; otherwise only its configuration is used and the weights are initialised.
        dropout: one rate for all dropouts of the model.
        max_positions: largest number of tokens of a text, including special tokens.
        changes: of entries of the model's configuration.

    Raises:
        UserError: transformers is missing, an unknown name or entry, no weights, or shapes that do not fit.
    """
    if len(image_shape) != 2 or image_shape[0] != 3:
        raise UserError(
            f"{name} reads texts (3, length), and the data are {tuple(image_shape)}: take data such as GLUE"
        )
    config, source = _configuration(name)
    changes |= {entry: dropout for entry in DROPOUTS if dropout is not None and hasattr(config, entry)}
    changes |= {} if max_positions is None else {POSITIONS: max_positions + _reserved(config)}
    _apply(config, name, changes, num_classes)
    longest = getattr(config, POSITIONS, image_shape[1]) - _reserved(config)
    if image_shape[1] > longest:
        raise UserError(f"{name} takes texts of {longest} tokens, and the data have {image_shape[1]}: lower max_length")
    return TextNetwork(_with_weights(name, source, config) if pretrained else _drawn(name, config))


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise UserError("networks for texts need transformers: pip install 'lit-fa[text]'") from error
    return transformers


def _configuration(name: str) -> tuple[Any, str | None]:
    """The model's configuration and the location of its weights, which is None for a kind of model."""
    transformers, source = _transformers(), name.removeprefix(PREFIX)
    kinds = transformers.models.auto.configuration_auto.CONFIG_MAPPING_NAMES
    if source in kinds and not os.path.isdir(source):
        return transformers.AutoConfig.for_model(source), None
    try:
        return transformers.AutoConfig.from_pretrained(folder := _located(source), trust_remote_code=False), folder
    except (OSError, ValueError, ImportError) as error:
        known = [kind for kind in ("bert", "roberta", "distilbert", "electra") if kind in kinds]
        raise UserError(
            f"transformers has no model {source!r} on this machine and none could be fetched: give a folder with "
            f"config.json, a name of the hub where there is a network, or a kind of model ({', '.join(known)}, ...)"
        ) from error


def _located(source: str) -> str:
    """The source with ~ expanded, or the folder of an installed package for ``package:<name>/<folder>``."""
    if not source.startswith("package:"):
        return os.path.expanduser(source)
    package, _, folder = source.removeprefix("package:").partition("/")
    return str(files(package) / folder)


def _reserved(config: Any) -> int:
    """Number of positions that are not used by tokens: RoBERTa and related models count from the padding id on."""
    counts_from_padding = config.model_type in ("roberta", "xlm-roberta", "camembert", "mpnet", "longformer")
    return config.pad_token_id + 1 if counts_from_padding else 0


def _apply(config: Any, name: str, changes: Mapping[str, object], num_classes: int) -> None:
    for entry in changes:
        if entry in ("num_labels", "num_classes", "id2label", "label2id"):
            raise UserError(f"{name}: {entry} follows from the data, remove it from network_args")
        if not hasattr(config, entry):
            entries = ["dropout", "max_positions", *config.to_dict()]
            raise UserError(f"{name} has no option {entry!r}; {nearest(entry, entries)}")
    try:
        for entry, value in {**changes, "num_labels": num_classes}.items():
            setattr(config, entry, value)
    except Exception as error:  # the families of models raise different exceptions
        raise UserError(f"{name}: {one_line(error)}") from error


def _drawn(name: str, config: object) -> nn.Module:
    try:
        return _transformers().AutoModelForSequenceClassification.from_config(config).float()
    except Exception as error:  # sizes that do not divide, models without such a head: different exceptions
        raise UserError(f"{name} cannot be built: {one_line(error)}") from error


def _with_weights(name: str, source: str | None, config: object) -> nn.Module:
    if source is None:
        raise UserError(f"{name} is a kind of model and has no weights: name a model, or set pretrained: false")
    auto = _transformers().AutoModelForSequenceClassification
    try:
        with _silence():
            # the weights may be stored in half precision
            model, report = auto.from_pretrained(
                source, config=config, dtype=torch.float32, ignore_mismatched_sizes=True, output_loading_info=True,
                trust_remote_code=False,
            )  # fmt: skip
    except Exception as error:  # files and network raise different exceptions
        raise UserError(f"the weights of {name} do not load: {one_line(error)}") from error
    _check_sizes(name, model, report["mismatched_keys"])
    return model.train()  # the model is in evaluation mode after loading, which Lightning would keep


def _check_sizes(name: str, model: nn.Module, mismatched: set[tuple[str, torch.Size, torch.Size]]) -> None:
    """Refuse weights of other shapes, except for the head, which is freshly initialised for other classes."""
    head = head_name(model.state_dict())
    other = sorted(f"{key} is {tuple(a)}, not {tuple(b)}" for key, a, b in mismatched if key.rpartition(".")[0] != head)
    if other:
        remedy = "leave out of network_args what changes a size, or set pretrained: false"
        raise UserError(f"the weights of {name} do not load ({'; '.join(other[:3])}): {remedy}")


@contextmanager
def _silence() -> Iterator[None]:
    """Within the block, transformers shows no progress bar and no report about the new head."""
    logging = _transformers().logging
    level, shown = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()

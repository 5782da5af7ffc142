"""Encoders of the transformers package with a classification head, as modules of one tensor."""

import inspect
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files

import torch
from torch import Tensor, nn

from lit_fa.errors import UserError, nearest
from lit_fa.networks.weights import read_out_name

PREFIX = "transformers/"
# what the families call the same thing
DROPOUTS = ("hidden_dropout_prob", "attention_probs_dropout_prob")
DROPOUTS += ("dropout", "attention_dropout", "seq_classif_dropout")
POSITIONS = "max_position_embeddings"


class TextNetwork(nn.Module):
    """A sequence classifier of transformers, from one tensor (n, 3, T) to logits (n, c).

    The three rows of a text are its token ids, its attention mask (1 for a token, 0 for padding) and its token types,
    which reach the model only if it tells types apart.

    Args:
        model: from `AutoModelForSequenceClassification`.
    """

    def __init__(self, model: nn.Module):
        """Wrap the model."""
        super().__init__()
        self.model = model
        takes = inspect.signature(type(model).forward).parameters
        self.has_types = "token_type_ids" in takes and getattr(model.config, "type_vocab_size", 0) > 1

    def forward(self, inputs: Tensor) -> Tensor:
        """(n, 3, T) int64 to (n, c) logits."""
        ids, mask, types = inputs.unbind(1)
        types = {"token_type_ids": types} if self.has_types else {}
        return self.model(input_ids=ids, attention_mask=mask, **types).logits

    @property
    def vocabulary(self) -> int:
        """How many token ids there are."""
        return self.model.config.vocab_size

    def token_mask(self, inputs: Tensor) -> Tensor:
        """(n, T): 1 where a token stands, 0 for padding."""
        return inputs[:, 1]

    @property
    def longest(self) -> int | None:
        """Tokens of the longest text that it takes; None: there is no limit."""
        positions = getattr(self.model.config, POSITIONS, None)
        return None if positions is None else positions - _reserved(self.model.config)

    def example(self, n: int = 2, length: int = 4) -> Tensor:
        """(n, 3, length) a batch that the network can take; zeros would be texts without a token."""
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
        name: ``transformers/`` and a model's name at the hub, a folder, a folder inside an installed package
            (``package:<name>/<folder>``), or a kind of model (bert, distilbert, ...).
        num_classes: number of logits; 1 for a number to predict.
        image_shape: (3, largest length of a text), what the data say.
        pretrained: load the model's weights; else its configuration alone counts, and weights are drawn.
        dropout: one rate for all of the model's dropouts.
        max_positions: longest text, special tokens included.
        changes: of the configuration, by the names that the model's family gives its entries.

    Raises:
        UserError: transformers is missing, an unknown name or entry, no weights, shapes that do not fit.
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


def _transformers():
    try:
        import transformers
    except ImportError as error:
        raise UserError("networks for texts need transformers: pip install 'lit-fa[text]'") from error
    return transformers


def _configuration(name: str) -> tuple[object, str | None]:
    """The model's configuration, and where its weights are; a mere kind of model has none."""
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
    """A folder, where the source is one: in ``package:<name>/<folder>`` that of an installed package."""
    if not source.startswith("package:"):
        return os.path.expanduser(source)
    package, _, folder = source.removeprefix("package:").partition("/")
    return str(files(package) / folder)


def _reserved(config: object) -> int:
    """Positions that no token of a text takes: RoBERTa and its kin count from behind the padding id."""
    counts_from_padding = config.model_type in ("roberta", "xlm-roberta", "camembert", "mpnet", "longformer")
    return config.pad_token_id + 1 if counts_from_padding else 0


def _apply(config: object, name: str, changes: dict, num_classes: int) -> None:
    for entry in changes:
        if entry in ("num_labels", "num_classes", "id2label", "label2id"):
            raise UserError(f"{name}: {entry} follows from the data, remove it from network_args")
        if not hasattr(config, entry):
            entries = ["dropout", "max_positions", *config.to_dict()]
            raise UserError(f"{name} has no option {entry!r}; {nearest(entry, entries)}")
    try:
        for entry, value in {**changes, "num_labels": num_classes}.items():
            setattr(config, entry, value)
    except Exception as error:  # each family checks its entries with errors of its own
        raise UserError(f"{name}: {_one_line(error)}") from error


def _drawn(name: str, config: object) -> nn.Module:
    try:
        return _transformers().AutoModelForSequenceClassification.from_config(config).float()
    except Exception as error:  # sizes that do not divide, families without such a head: each its own kind
        raise UserError(f"{name} cannot be built: {_one_line(error)}") from error


def _with_weights(name: str, source: str | None, config: object) -> nn.Module:
    if source is None:
        raise UserError(f"{name} is a kind of model and has no weights: name a model, or set pretrained: false")
    auto = _transformers().AutoModelForSequenceClassification
    try:
        with _silence():
            # the weights' own dtype may be a half
            model, report = auto.from_pretrained(
                source, config=config, dtype=torch.float32, ignore_mismatched_sizes=True, output_loading_info=True,
                trust_remote_code=False,
            )  # fmt: skip
    except Exception as error:  # files, the network: each its own kind
        raise UserError(f"the weights of {name} do not load: {_one_line(error)}") from error
    _check_sizes(name, model, report["mismatched_keys"])
    return model.train()  # they come in evaluation mode, which Lightning would keep


def _check_sizes(name: str, model: nn.Module, mismatched: set[tuple[str, torch.Size, torch.Size]]) -> None:
    """A head of other classes is drawn anew; any other size must be the weights' own."""
    head = read_out_name(model.state_dict())
    other = sorted(f"{key} is {tuple(a)}, not {tuple(b)}" for key, a, b in mismatched if key.rpartition(".")[0] != head)
    if other:
        remedy = "leave out of network_args what changes a size, or set pretrained: false"
        raise UserError(f"the weights of {name} do not load ({'; '.join(other[:3])}): {remedy}")


@contextmanager
def _silence() -> Iterator[None]:
    """No bar, and no report that the head is new."""
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


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__

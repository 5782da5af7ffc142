"""What a config can name: rules, networks, data, callbacks and algorithms, with their options, read from the code."""

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import lightning as L
import timm
from lightning.pytorch.cli import LightningArgumentParser
from torch.optim import Optimizer

from lit_fa import callbacks, datamodules, federated, rules
from lit_fa.errors import UserError, nearest
from lit_fa.federated.algorithms import FederatedAlgorithm
from lit_fa.federated.local_optimizers import LocalOptimizer
from lit_fa.layers.sources import FeedbackSource
from lit_fa.networks.registry import network_names
from lit_fa.rules.base import LearningRule

# public classes that are bases of others, or that the commands add by themselves
_NOT_CHOSEN = {
    *("LearningRule", "FeedbackSource", "FederatedAlgorithm", "LocalOptimizer", "VisionDataModule"),
    *("Interruption", "Periodic", "PredictionTable", "Probe", "Recorder", "RunRecord", "WandbRun"),
}
_MODULES = re.compile(r"\b(?:[a-zA-Z_]\w*\.)+(?=\w)")


@dataclass(frozen=True)
class Option:
    """An argument of a class or network.

    Attributes:
        name: in YAML.
        type: as it is annotated, without modules.
        default: as Python writes it; "" for an option without one.
        text: what it means.
    """

    name: str
    type: str
    default: str
    text: str


@dataclass(frozen=True)
class Entry:
    """Something that a config can name.

    Attributes:
        name: in YAML.
        group: of the list in which it is shown.
        sentence: what it is.
        about: the rest of its description.
        source: the paper and its formula, of a rule or an algorithm.
        options: its arguments.
    """

    name: str
    group: str
    sentence: str
    about: str = ""
    source: str = ""
    options: list[Option] = field(default_factory=list)


@dataclass(frozen=True)
class Kind:
    """A kind of thing: where it comes from, and what may be named besides.

    Attributes:
        room: the package whose classes are listed.
        groups: title to the base class of its entries.
        besides: what a config can name that is not listed.
    """

    room: Any
    groups: dict[str, type]
    besides: str = "a class of your own by its import path, as mylab.MyClass"

    def classes(self) -> list[tuple[str, type]]:
        """The classes, each with its group."""
        public = [getattr(self.room, name) for name in sorted(self.room.__all__) if name not in _NOT_CHOSEN]
        kinds = [kind for kind in public if inspect.isclass(kind)]
        return [(group, kind) for group, base in self.groups.items() for kind in kinds if issubclass(kind, base)]


KINDS: dict[str, Kind] = {
    "rules": Kind(rules, {"rules": LearningRule, "source of FeedbackAlignment": FeedbackSource}),
    "networks": Kind(None, {}, "any network of timm (timm.list_models()); transformers/NAME"),
    "data": Kind(datamodules, {"data": L.LightningDataModule}),
    "callbacks": Kind(callbacks, {"callbacks": L.Callback}, "Lightning's own (docs/lightning.md); mylab.MyCallback"),
    "algorithms": Kind(
        federated,
        {
            "algorithm": FederatedAlgorithm,
            "local_optimizer": LocalOptimizer,
            "optimizer (of the server)": Optimizer,
        },
    ),
}


def entries(kind: str) -> list[Entry]:
    """All entries of a kind, without their options."""
    if kind == "networks":
        return [_of_network(name) for name in network_names()]
    return [_of_class(c, group) for group, c in KINDS[kind].classes()]


def entry(kind: str, name: str) -> Entry:
    """One entry with its options; `name` may be the import path of a class of the user.

    Raises:
        UserError: nothing is called so, or it cannot be imported.
    """
    if kind == "networks":
        if name not in network_names():
            raise UserError(f"no network of lit-fa is called {name!r}; {nearest(name, network_names())}")
        return _of_network(name, options=True)
    known = {c.__name__: (group, c) for group, c in KINDS[kind].classes()}
    short = name.removeprefix(f"{getattr(KINDS[kind].room, '__name__', '')}.")
    if short in known:
        return _of_class(known[short][1], known[short][0], options=True)
    if "." not in name:
        raise UserError(f"{kind}: nothing is called {name!r}; {nearest(name, [*known])}")
    return _of_class(_own(name, kind), kind, options=True)


def _own(path: str, kind: str) -> type:
    module, _, name = path.rpartition(".")
    try:
        own = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"{path} cannot be imported ({error}); is its folder the current one?") from None
    bases = tuple(KINDS[kind].groups.values())
    if not (inspect.isclass(own) and issubclass(own, bases)):
        raise UserError(f"{path} is none of the {kind}: it has to extend {' or '.join(b.__name__ for b in bases)}")
    return own


def _of_class(kind: type, group: str, *, options: bool = False) -> Entry:
    text = inspect.getdoc(kind) or ""
    module = inspect.getdoc(inspect.getmodule(kind)) or ""
    papers = issubclass(kind, LearningRule | FederatedAlgorithm)
    sentence = _of_module(module) if issubclass(kind, FederatedAlgorithm | L.Callback) else first_sentence(text)
    listed = options_of_class(kind) if options else []
    return Entry(kind.__name__, group, sentence or first_sentence(text), _about(text), module if papers else "", listed)


def _of_network(name: str, *, options: bool = False) -> Entry:
    function = inspect.unwrap(timm.models.model_entrypoint(name))
    text = inspect.getdoc(function) or ""
    listed = _options(lambda parser: parser.add_function_arguments(function, as_group=False)) if options else []
    return Entry(name, "networks", first_sentence(text), _about(text), "", listed)


def options_of_class(kind: type) -> list[Option]:
    """The arguments of a class, as a config gives them."""
    return _options(lambda parser: parser.add_class_arguments(kind, as_group=False))


def _options(add: Callable[[LightningArgumentParser], object]) -> list[Option]:
    """The arguments as the parser of a config sees them, those of base classes included."""
    parser = LightningArgumentParser(add_help=False)
    add(parser)
    return [
        Option(
            action.dest,
            in_words(getattr(action, "_typehint", None) or action.type),
            "" if action.required else _default(action.default),
            " ".join((action.help or "").split()),
        )
        for action in parser._actions
        if action.dest and not action.dest.startswith(("_", "help")) and "." not in action.dest
    ]


def in_words(annotation: Any) -> str:
    """A type as its values are written in YAML, without modules.

    >>> in_words(float | None), in_words(Literal["a", "b"] | bool)
    ('float | null', 'a | b | bool')
    """
    if annotation in (None, NoneType):
        return "null"
    if get_origin(annotation) in (Union, UnionType):
        return " | ".join(map(in_words, get_args(annotation)))
    if get_origin(annotation) is Literal:
        return " | ".join(map(_default, get_args(annotation)))
    return _MODULES.sub("", inspect.formatannotation(annotation))


def _default(value: Any) -> str:
    """A value as it is written in YAML; a class or function by its name."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return value or "''"
    return str(getattr(value, "__name__", value))


def first_sentence(text: str) -> str:
    """The first sentence of a docstring."""
    paragraph = text.partition("\n\n")[0].replace("\n", " ")
    return re.split(r"(?<!et al)[.:](?: |$)", paragraph)[0]


def _of_module(text: str) -> str:
    """The first sentence of a file that is about one class, without the name of the class."""
    name, colon, rest = text.partition("\n\n")[0].partition(": ")
    return first_sentence(rest if colon and name.isidentifier() else text)


def _about(text: str) -> str:
    """A docstring without its first sentence, its arguments and what follows them."""
    rest = text[len(text.partition("\n")[0]) :]
    return re.split(r"\n\s*(?:Args|Attributes|Returns|Raises|Example):|\n>>> ", rest)[0].strip()

"""Whether a run may resume from a checkpoint.

A checkpoint stores the arguments of its module (`constructor`) and a description of its data (`trained_on`). A fit
resumes from it only if both are equal to its own. `FREE` lists the options that may differ, because they affect no
update or because the checkpoint replaces their effect. Options of the trainer, callbacks and loggers may all differ.
"""

import hashlib
import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any

from lit_fa.described import described, imported, path_of
from lit_fa.errors import UserError

FREE = (
    "weights",
    "pretrained",
    "metrics",
    "compile",
    "executor",
    "lanes",
    "validate_every",
    "stream",
    "step",
    "rule.backend",
)
DATA = ("num_classes", "sample_shape", "normalize", "augment", "max_length", "work", "clients_per_round")
_OF = dict.fromkeys(("network", "network_args", "adapter"), "another network") | {"rule": "another rule"}
_OF |= {"optimizer": "another optimizer", "scheduler": "another schedule"}
_OF |= dict.fromkeys(("data", "num_classes", "image_shape", "input_shape"), "other data")
_SHOWN = 3  # differences in a line
_LONGEST = 60  # characters of a value in a line
_BACKPROP = {"class_path": "lit_fa.rules.backprop.Backprop", "init_args": {}}
_PLAIN_SGD = {"partial_path": "torch.optim.sgd.SGD", "init_args": {"lr": 0.1}}
_SGD_ONE = {"partial_path": "torch.optim.sgd.SGD", "init_args": {"lr": 1.0}}
_SAME = {"plain_sgd": _PLAIN_SGD, "averaging_server": _SGD_ONE}  # name of a function to the equivalent partial


class OtherOriginError(UserError):
    """A checkpoint of another run."""


def data_facts(data: Any) -> dict[str, Any]:
    """The training data of a data module as plain data: its class, the options that change samples, a label digest.

    The digest is of the training labels in their order, so it differs for another selection, label noise or seed.
    """
    if data is None:
        return {}
    facts: dict[str, Any] = {"class": path_of(type(data))}
    facts |= {name: described(getattr(data, name)) for name in DATA if hasattr(data, name)}
    labels = getattr(getattr(data, "train_set", None), "labels", None)
    if labels is not None:
        facts |= {"samples": len(labels), "labels": _digest(labels.cpu().numpy())}
    if getattr(data, "class_counts", None) is not None:
        facts |= {"clients": len(data.class_counts), "partition": _digest(data.class_counts)}
    return facts | ({"of": data_facts(data.data)} if hasattr(data, "parts") else {})


def check_origin(checkpoint: Mapping[str, Any], constructor: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    """Refuse to resume from the checkpoint of another run.

    Args:
        checkpoint: its content; missing entries are not compared.
        constructor: of the module that resumes, see `Described`.
        data: of the run that resumes, see `data_facts`.

    Raises:
        OtherOriginError: with the first differences, each with both values.
    """
    there, here = _options(checkpoint.get("constructor") or {}), _options(constructor)
    apart = [] if not there or not here else [*differences(there, here)]
    trained_on = checkpoint.get("trained_on") or {}
    if trained_on and data:
        apart += [(f"data {name}", *sides) for name, *sides in differences(trained_on, data)]
    if not apart:
        return
    whose = _OF.get(re.split(r"[. ]", apart[0][0])[0], "another run")
    listed = "; ".join(f"{name} is {_shown(a)} in it and {_shown(b)} here" for name, a, b in apart[:_SHOWN])
    raise OtherOriginError(
        f"the checkpoint is of {whose}: {listed}; give the config that it was trained with, or begin a new run "
        "from its weights (model.init_args.weights)"
    )


def differences(there: Any, here: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted name, value there, value here) for every difference of two plain descriptions, except options in `FREE`.

    A missing option has its default value. A value that has no description equals every value.
    """
    if any(isinstance(side, Mapping) and "missing_type" in side for side in (there, here)):
        return
    if not (isinstance(there, Mapping) and isinstance(here, Mapping)):
        if _plain(there) != _plain(here):
            yield name, there, here
        return
    if (path := _path(there)) != _path(here):
        yield name, there, here
        return
    known = path or not name  # a class, or the whole: a key on one side only belongs to other code
    if path:
        there, here = _completed(there, here), _completed(here, here)
    for key in [*here, *(key for key in there if key not in here)]:
        inner = f"{name}.{key}".lstrip(".")
        if inner not in FREE and (not known or (key in there and key in here)):
            yield from differences(there.get(key), here.get(key), inner)


def _options(constructor: Mapping[str, Any]) -> dict[str, Any]:
    """The module's options, with equivalent descriptions made equal."""
    options = dict(constructor.get("init_args") or {})
    if "rule" in options:
        options["rule"] = options["rule"] or _BACKPROP
    for name in ("optimizer", "scheduler"):
        value = options.get(name)
        if isinstance(value, Mapping) and "import_path" in value:
            options[name] = _SAME.get(value["import_path"].rpartition(".")[2], value)
    return options


def _path(plain: Mapping[str, Any]) -> str:
    """The name of the class or function without its module, which may have been renamed."""
    paths = (plain.get(key) for key in ("class_path", "partial_path", "import_path"))
    return next((str(path).rpartition(".")[2] for path in paths if path), "")


def _completed(plain: Mapping[str, Any], here: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a class with the defaults of this run's class; the checkpoint's class is not imported."""
    given = {key: value for key, value in (plain.get("init_args") or {}).items()}
    try:
        parameters = inspect.signature(imported(here.get("class_path") or here["partial_path"])).parameters.values()
    except (UserError, KeyError, TypeError, ValueError):
        return given
    defaults = {p.name: described(p.default) for p in parameters if p.default is not p.empty}
    return defaults | given


def _plain(value: Any) -> Any:
    """The value with tuples as lists."""
    return [_plain(entry) for entry in value] if isinstance(value, list | tuple) else value


def _shown(value: Any) -> str:
    """The name of a class, or a value shortened to fit into a line."""
    text = (isinstance(value, Mapping) and _path(value)) or str(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _digest(array: Any) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()[:12]

"""Networks by name: timm's, ours, or an encoder of transformers, for the inputs and classes of a data set."""

import dataclasses
import inspect
import math
from collections.abc import Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import timm
import torch
from timm.layers import create_act, create_norm
from torch import nn

from lit_fa.errors import UserError, nearest
from lit_fa.networks.registry import is_ours
from lit_fa.networks.text import PREFIX, text_network

FROM_THE_DATA = ("num_classes", "in_chans", "img_size", "image_shape")
OF_TIMM = (  # options of its own
    "kwargs", "cfg", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir", "scriptable", "exportable", "no_jit",
)  # fmt: skip
BY_NAME = {"act_layer": (create_act, "_ACT_LAYER_DEFAULT"), "norm_layer": (create_norm, "_NORM_MAP")}
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", NoneType: "null"}
_PLURAL = {int: "whole numbers", float: "numbers", str: "texts"}
FROM_THE_MODEL = {
    "name": "write model.init_args.network",
    "model_name": "write model.init_args.network",
    "pretrained": "write model.init_args.pretrained",
    "checkpoint_path": "write model.init_args.weights",
    "features_only": "a network that returns features has no logits",
}


def create_network(
    name: str,
    num_classes: int,
    image_shape: tuple[int, ...] = (3, 32, 32),
    pretrained: bool = False,
    **network_args: Any,
) -> nn.Module:
    """Build the network `name` for inputs of `image_shape` and `num_classes` classes.

    Args:
        name: any name of `timm.list_models()`, also with a tag such as `resnet18.a1_in1k`, or one of ours; or
            ``transformers/<name or folder>``, an encoder of texts (see `networks.text.text_network`).
        num_classes: number of logits.
        image_shape: (channels, height, width); for texts (3, largest length). The size is passed to networks whose
            weights depend on it (vision transformers, mixers, ours) and not to others (ResNets).
        pretrained: load timm's weights; the input layer is adapted to the channels, the head is freshly initialised.
        network_args: further arguments of the network's constructor.

    Raises:
        UserError: an unknown name or option, an option that the data determine, or weights that are not available.

    >>> create_network("mlp", 10, (1, 28, 28), hidden=[32])(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """
    if name.startswith(PREFIX):
        return text_network(name, num_classes, image_shape, pretrained, **network_args)
    if num_classes < 1:
        raise UserError(f"num_classes is at least 1, not {num_classes}")
    if not timm.is_model(name):
        raise UserError(f"network {name!r} is unknown to timm and to lit-fa; {nearest(name, timm.list_models())}")
    parameters = constructor_parameters(name)
    check_options(name, network_args, parameters)
    if len(image_shape) != 3:
        raise UserError(f"{name} reads images, and the data are {tuple(image_shape)}: set a network {PREFIX}...")
    channels, *size = image_shape
    from_the_data: dict[str, Any] = {"num_classes": num_classes, "in_chans": channels}
    if "img_size" in parameters:
        from_the_data["img_size"] = tuple(size)
    if pretrained:
        return with_timm_weights(name, **from_the_data, **network_args)
    try:
        return timm.create_model(name, **from_the_data, **network_args)
    except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
        if getattr(error, "user_error", False):
            raise
        if isinstance(error, KeyError) and (line := _unknown_value(error, network_args)):
            raise UserError(f"{name}: {line}") from error
        options = ", ".join(f"{key}: {value}" for key, value in network_args.items())
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(
            f"{name} cannot be built for images {tuple(image_shape)} with network_args {{{options}}} ({reason})"
            ": correct them, or set another network"
        ) from error


def configured(
    name: str, num_classes: int, image_shape: tuple[int, ...], pretrained: bool, network_args: Mapping[str, object]
) -> nn.Module:
    """`create_network` with the options of a config.

    Args:
        name, num_classes, image_shape, pretrained: as of `create_network`.
        network_args: option to value.

    Raises:
        UserError: as `create_network`; also for an option in `network_args` that another argument determines.

    >>> configured("mlp", 10, (1, 28, 28), False, {"hidden": [32]})(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """
    check_own(name, network_args)
    return create_network(name, num_classes, image_shape, pretrained, **network_args)


def _unknown_value(error: KeyError, network_args: Mapping[str, object]) -> str:
    """The message for an option's value that timm does not know; "" if the key is not such a value."""
    key = next((key for key, value in network_args.items() if error.args == (value,)), None)
    if key is None:
        return ""
    value, known = network_args[key], [*getattr(*BY_NAME[key], {})] if key in BY_NAME else []
    remedy = nearest(str(value), known) if known else "set another, or leave it out"
    return f"{key} {value!r} is unknown to timm; {remedy}"


def example_input(network: nn.Module, shape: tuple[int, ...], n: int = 2) -> torch.Tensor:
    """A batch (n, *shape) of the network's dtype and on its device, for tracing; its values have no meaning.

    Args:
        network: any module; one with a method `example`, such as those for texts, provides the batch itself.
        shape: of one sample.
        n: number of samples.

    Raises:
        UserError: the network has no parameters.

    >>> example_input(nn.Linear(4, 2).double(), (4,))
    tensor([[0., 0., 0., 0.],
            [0., 0., 0., 0.]], dtype=torch.float64)
    """
    if callable(example := getattr(network, "example", None)):
        return example(n)
    if (parameter := next(network.parameters(), None)) is None:
        raise UserError(f"network: {type(network).__name__} has no parameters, so that nothing can be trained")
    return parameter.new_zeros(n, *shape)


def constructor_parameters(name: str) -> Mapping[str, inspect.Parameter]:
    """Parameters of the function (ours) or class (timm's) that builds the network.

    timm's entrypoints pass their `**kwargs` to a class that is not known in advance. Therefore the network is built
    once on the meta device, without memory or random draws; this takes about 50 ms.
    """
    if is_ours(name):
        return inspect.signature(timm.models.model_entrypoint(name)).parameters
    with torch.device("meta"):
        network = timm.create_model(timm.models.get_arch_name(name))
    return class_parameters(type(network))


def class_parameters(network: type[nn.Module]) -> dict[str, inspect.Parameter]:
    """Parameters of the class; if it takes `**kwargs` (the distilled transformers), also those of its base class.

    `**kwargs` is in the result only if the remaining base class is `nn.Module`.
    """
    parameters = dict(inspect.signature(network).parameters)
    further = [name for name, parameter in parameters.items() if parameter.kind is parameter.VAR_KEYWORD]
    if further and (base := network.__base__) is not None and base is not nn.Module:
        del parameters[further[0]]
        parameters |= class_parameters(base)
    return parameters


def check_options(name: str, network_args: Mapping[str, object], parameters: Mapping[str, inspect.Parameter]) -> None:
    """Check the names of the options and, for our networks, the types of their values.

    Raises:
        UserError: an option that the network does not have or that the data determine, or a value of another type.
    """
    check_own(name, network_args)
    valid = option_names(parameters)
    unknown = [] if valid is None else [key for key in network_args if key not in valid]
    unknown = [key for key in unknown if is_ours(name) or not _accepted(name, key, network_args[key])]
    if unknown:
        own = {key for key in parameters if key != "kwargs"} if is_ours(name) else {*(valid or ())} - {*OF_TIMM}
        visible = sorted(own - {*FROM_THE_DATA, *FROM_THE_MODEL})
        raise UserError(f"{name} has no option {unknown[0]!r}; {nearest(unknown[0], visible)}")
    for key, value in network_args.items():
        hint = parameters[key].annotation if key in parameters else Any
        # timm accepts other types than its annotations name, but no text in place of a number
        checked = is_ours(name) or (isinstance(value, str) and {*_members(hint)} <= {int, float, bool, NoneType})
        if checked and not _fits(value, hint):
            raise UserError(f"{name}: {key} is {_words(hint)}, not {value!r}")


def _members(hint: Any) -> tuple[Any, ...]:
    """The types of a union, or the one type."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _words(hint: Any) -> str:
    """A type in plain words.

    >>> _words(list[int] | int | None)
    'a list of whole numbers, a whole number or null'
    """
    words: list[str] = []
    for kind in _members(hint):
        if get_origin(kind) in (list, tuple, Sequence):
            inner = [_PLURAL.get(entry, "") for entry in get_args(kind) if entry is not ...]
            words.append(f"a list of {inner[0]}" if inner and all(inner) else "a list")
        elif get_origin(kind) is Literal:
            words += get_args(kind)
        else:
            words.append(str(_WORDS.get(kind) or getattr(kind, "__name__", kind)))
    return " or ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]


def _fits(value: object, hint: Any) -> bool:
    """Whether a value has the annotated type of an option; annotations other than plain data accept everything."""
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, UnionType):
        return any(_fits(value, member) for member in inner)
    if hint is NoneType:
        return value is None
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind is Literal:  # the network checks the value
        return isinstance(value, str)
    if kind in (bool, str):
        return isinstance(value, kind)
    if kind in (list, tuple, Sequence):
        return isinstance(value, list | tuple) and all(any(_fits(v, h) for h in inner or (Any,)) for v in value)
    return True


def check_own(name: str, network_args: Mapping[str, object]) -> None:
    """Check that no option is determined by the data or by an option of the model.

    Raises:
        UserError: there is such an option.
    """
    for key in network_args:
        if key in FROM_THE_DATA:
            raise UserError(f"{name}: {key} follows from the data, remove it from network_args")
        if key in FROM_THE_MODEL:
            raise UserError(f"{name}: {key} is not an entry of network_args: {FROM_THE_MODEL[key]}")
    known = timm.is_model(name) and not is_ours(name)
    if known and network_args.get("global_pool", "avg") in ("", None):
        raise UserError(f"{name}: global_pool must pool: a classifier needs one vector per image; write avg or max")


def _accepted(name: str, key: str, value: Any) -> bool:
    """Whether timm accepts the option before the constructor, such as `bn_momentum` of the EfficientNets."""
    try:
        with torch.device("meta"):
            timm.create_model(timm.models.get_arch_name(name), **{key: value})
    except TypeError:
        return False
    return True


def option_names(parameters: Mapping[str, inspect.Parameter]) -> set[str] | None:
    """The option names of a constructor and of `timm.create_model`; None if every name is accepted.

    Some timm classes (`ByobNet`, `MaxxVit`) take `**kwargs` that replace fields of the dataclass `cfg`.
    """
    names = set(parameters) | set(inspect.signature(timm.create_model).parameters) - {"model_name", "pretrained"}
    if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters.values()):
        return names
    config = parameters["cfg"].annotation if "cfg" in parameters else None
    return names | {field.name for field in dataclasses.fields(config)} if dataclasses.is_dataclass(config) else None


def with_timm_weights(name: str, **network_args: Any) -> nn.Module:
    """`timm.create_model(name, pretrained=True)`.

    Raises:
        UserError: there are no weights, or they cannot be loaded.
    """
    if is_ours(name) or not timm.models.is_model_pretrained(name):
        raise UserError(f"{name} has no pretrained weights: set pretrained: false")
    try:
        return timm.create_model(name, pretrained=True, **network_args)
    except OSError as error:  # connection errors of the hub and of urllib, or a file that is missing in the cache
        fetch = f"python -c \"import timm; timm.create_model('{name}', pretrained=True)\""
        raise UserError(
            f"the pretrained weights of {name} are not on this machine and could not be fetched: "
            f"download them first where there is a network ({fetch}) or set pretrained: false"
        ) from error

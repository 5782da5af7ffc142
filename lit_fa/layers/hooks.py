"""Forward hooks that get a module's inputs in order, however the caller passed them.

A plain forward hook of PyTorch gets the positional inputs only, so `layer(input=x)` would look like a call without
inputs.
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

Inputs = tuple[Any, ...]


def before(module: nn.Module, hook: Callable[[Any, Inputs], Inputs | None]) -> RemovableHandle:
    """Register `hook(module, inputs)` before the forward pass; the inputs that it returns, if any, replace them.

    >>> import torch
    >>> shapes = []
    >>> layer = nn.Linear(2, 3)
    >>> _ = before(layer, lambda module, inputs: shapes.append(inputs[0].shape))
    >>> _ = layer(input=torch.zeros(4, 2))
    >>> shapes
    [torch.Size([4, 2])]
    """
    return module.register_forward_pre_hook(partial(_before, hook), with_kwargs=True)


def after(module: nn.Module, hook: Callable[[Any, Inputs, Any], Any], prepend: bool = False) -> RemovableHandle:
    """Register `hook(module, inputs, output)` after the forward pass; what it returns, if anything, is the output.

    Args:
        module: to hook.
        hook: called at every forward pass.
        prepend: whether it runs before the hooks that are already there.
    """
    return module.register_forward_hook(partial(_after, hook), with_kwargs=True, prepend=prepend)


def is_ours(hook: Callable[..., Any]) -> bool:
    """Whether a module's hook was registered by this file, so that it belongs to a rule or a measurement."""
    return isinstance(hook, partial) and hook.func in (_before, _after)


def _before(
    hook: Callable[[Any, Inputs], Inputs | None], module: nn.Module, args: Inputs, kwargs: dict[str, Any]
) -> tuple[Inputs, dict[str, Any]] | None:
    if args or not kwargs:
        result = hook(module, args)
        return None if result is None else (result, kwargs)
    names = _in_order(module, kwargs)
    result = hook(module, tuple(kwargs[name] for name in names))
    return None if result is None else ((), dict(zip(names, result, strict=True)))


def _after(
    hook: Callable[[Any, Inputs, Any], Any], module: nn.Module, args: Inputs, kwargs: dict[str, Any], output: Any
) -> Any:
    return hook(module, args or tuple(kwargs[name] for name in _in_order(module, kwargs)), output)


def _in_order(module: nn.Module, kwargs: dict[str, Any]) -> list[str]:
    """The names of the keyword inputs, in the order of the parameters of `forward`."""
    order = [*inspect.signature(module.forward).parameters] if len(kwargs) > 1 else []
    return sorted(kwargs, key=lambda name: order.index(name) if name in order else len(order))

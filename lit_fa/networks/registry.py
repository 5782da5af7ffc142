"""Registration of our networks with timm, so that `timm.create_model` builds them like timm's own."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import timm
from timm.models import register_model
from torch import nn

from lit_fa.errors import UserError


def register(entrypoint: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """Register `entrypoint` with timm under its name, so that `timm.create_model(name, ...)` builds it.

    timm passes four arguments about pretrained weights to every entrypoint. They are accepted here, so that the
    signature of `entrypoint` lists only the options of the user.

    Raises:
        UserError: from the registered function, if pretrained weights are asked for; there are none.
    """

    @wraps(entrypoint)
    def build(
        pretrained: bool = False,
        pretrained_cfg: object = None,
        pretrained_cfg_overlay: object = None,
        cache_dir: object = None,
        **network_args: Any,
    ) -> nn.Module:
        if pretrained:
            raise UserError(f"{entrypoint.__name__} has no pretrained weights: set pretrained: false")
        return entrypoint(**network_args)

    return register_model(build)


def is_ours(name: str) -> bool:
    """Whether the network of that name is defined in this package."""
    return timm.models.model_entrypoint(name).__module__.startswith(f"{__package__}.")


def network_names() -> list[str]:
    """The networks that lit-fa adds to timm, sorted.

    >>> "mlp" in network_names(), "resnet18" in network_names()
    (True, False)
    """
    return sorted(name for name in timm.list_models() if is_ours(name))

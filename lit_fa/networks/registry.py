"""Our networks live in timm's registry, beside everybody else's: one name space, one `create_model`."""

from collections.abc import Callable
from functools import wraps

import timm
from timm.models import register_model
from torch import nn

from lit_fa.errors import UserError


def register(entrypoint: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """Make `entrypoint` a timm network of that name, so that `timm.create_model(name, ...)` builds it.

    timm hands every entrypoint four arguments about pretrained weights, of which we have none; they are taken here, so
    that an entrypoint's own signature lists exactly what a user may set.

    Raises:
        UserError: from the registered function, if pretrained weights are asked for.
    """

    @wraps(entrypoint)
    def build(pretrained=False, pretrained_cfg=None, pretrained_cfg_overlay=None, cache_dir=None, **network_args):
        if pretrained:
            raise UserError(f"{entrypoint.__name__} has no pretrained weights: set pretrained: false")
        return entrypoint(**network_args)

    return register_model(build)


def is_ours(name: str) -> bool:
    """Whether timm's entry of that name is defined in this package."""
    return timm.models.model_entrypoint(name).__module__.startswith(f"{__package__}.")


def network_names() -> list[str]:
    """The networks that lit-fa adds to timm, sorted.

    >>> "mlp" in network_names(), "resnet18" in network_names()
    (True, False)
    """
    return sorted(name for name in timm.list_models() if is_ours(name))

"""Gradients of a learner, taken and compared."""

from collections.abc import Mapping
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor, nn

from lit_fa.modules import Learner


def gradients(learner: Learner, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """Name to gradient of the learner's scalar on one batch; parameters without gradient are left out."""
    learner.zero_grad(set_to_none=True)
    learner(batch).value.backward()
    return taken(learner)


def taken(module: nn.Module) -> dict[str, Tensor]:
    """What stands in `.grad`, taken away."""
    grads = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
    module.zero_grad(set_to_none=True)
    return grads


def largest_difference(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """Over all tensors of two dictionaries, which must have the same names."""
    assert a.keys() == b.keys()
    return max((torch.as_tensor(a[k]).double() - torch.as_tensor(b[k]).double()).abs().max().item() for k in a)


@overload
def array(tensor: Tensor) -> np.ndarray[Any, Any]: ...
@overload
def array(tensor: None) -> None: ...
def array(tensor: Tensor | None) -> np.ndarray[Any, Any] | None:
    """The values as numpy; None stays None."""
    return None if tensor is None else tensor.detach().numpy()

"""Parameter groups for learning rates and gradient clipping; trained feedback is treated as its weight is.

Kolen & Pollack's B receives the increments of its weight W. So learning rate, weight decay, clipping and freezing of W
apply to B as well. The gradient of B equals that of W and does not count a second time in a norm.
"""

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_value_, clip_grads_with_norm_, get_total_norm

from lit_fa.errors import UserError
from lit_fa.layers.feedback import feedback_layers
from lit_fa.layers.taps import match
from lit_fa.rules.learner import Learner


def followers(learner: nn.Module, *, all_trained: bool = False) -> dict[str, str]:
    """From the name of trained feedback to the name of its weight, both in `learner`.

    With `all_trained` also feedback that the rule's scalar trains, to the weight of its layer.
    """
    names = {id(p): name for name, p in learner.named_parameters()}
    trained = {
        name: layer
        for name, layer in feedback_layers(learner, off=True).items()
        if isinstance(layer.feedback.weight, nn.Parameter)
        and (layer.feedback.source.trained if all_trained else layer.feedback.source.follows)
    }
    return {f"{name}.feedback.weight": names.get(id(layer.weight), "") for name, layer in trained.items()}


def freeze_followers(learner: nn.Module) -> None:
    """Freeze the trained feedback of frozen weights, and unfreeze all other trained feedback."""
    params = dict(learner.named_parameters())
    for feedback, weight in followers(learner, all_trained=True).items():
        if weight in params:
            params[feedback].requires_grad_(params[weight].requires_grad)


def parameter_groups(learner: Learner, layer_lr: Mapping[str, float]) -> list[dict[str, Any]]:
    """The trainable parameters: one group for each entry of `layer_lr` (name or pattern to rate), after the others'.

    Raises:
        UserError: a pattern that matches nothing, or a rate below zero.
    """
    freeze_followers(learner)
    leads = followers(learner)
    measured = learner.measured()
    named = {name: p for name, p in learner.named_parameters() if p.requires_grad and name not in measured}
    own = {full: name for name, full in learner.split({n: n for n, _ in learner.named_parameters()}).network.items()}
    shown = {name: own.get(leads.get(name) or name, name) for name in named}
    groups = []
    for pattern, lr in layer_lr.items():
        if not isinstance(pattern, str):
            raise UserError(f"layer_lr: the name {pattern!r} is no text; put it in quotes")
        if not 0 <= lr < float("inf"):
            raise UserError(f"layer_lr: the rate of {pattern} is {lr}; write 0 or a finite number above it")
        try:
            match([pattern], [shown[name] for name in named if name not in leads])
        except ValueError as error:
            raise UserError(f"layer_lr: {error}") from None
        chosen = [name for name in named if fnmatchcase(shown[name], pattern)]
        groups.append({"params": [named.pop(name) for name in chosen], "lr": lr})
    return [{"params": [*named.values()]}, *groups] if named else groups


def clip_gradients(
    learner: nn.Module,
    optimizer: torch.optim.Optimizer,
    bound: float,
    by: str,
    parts: Mapping[str, int],
    norm: Callable[[list[Tensor]], Tensor] = get_total_norm,
) -> None:
    """Clip `.grad` in place.

    Args:
        learner: gives the names of the parameters.
        optimizer: whose parameters are clipped.
        bound: on every entry, or on the 2-norm of every part.
        by: `value` or `norm`.
        parts: from the name of a parameter to the number of its part; all parameters that it does not have are one
            further part.
        norm: from the gradients of a part to its norm.
    """
    params = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    if by == "value":
        clip_grad_value_(params, bound)
        return
    names = {id(p): name for name, p in learner.named_parameters()}
    follow = followers(learner)
    by_part: dict[int | None, list[nn.Parameter]] = {}
    for p in params:
        name = names.get(id(p), "")
        by_part.setdefault(parts.get(follow.get(name) or name), []).append(p)
    for members in by_part.values():
        leaders = [p.grad for p in members if p.grad is not None and names.get(id(p)) not in follow]
        clip_grads_with_norm_(members, bound, norm(leaders))

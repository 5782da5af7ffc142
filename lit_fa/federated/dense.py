r"""A network read as a chain of dense layers, with every derivative written out, for parameters that are stacked.

$z_l = h_{l-1} W_l^\top + b_l$, $h_l = \phi_l(z_l)$; whatever the rule, $G_l = \delta_l^\top h_{l-1}$ for the error
$\delta_l$ behind $\phi_l'$. The derivative of $\phi$ is read off its value, so z is overwritten by h.

Letters: a lanes, b rows of a local batch, i in, o out, c classes.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_fa.errors import UserError
from lit_fa.federated.round_task import Learner
from lit_fa.functional.criteria import bce, cross_entropy, mse, one_hot
from lit_fa.layers.feedback import Feedback, FeedbackLinear
from lit_fa.layers.observing import observing
from lit_fa.rules.base import Halves, Tensors


class NotWritten(UserError):
    """What has no explicit form here, in one sentence."""


class Activation(NamedTuple):
    """phi in place of its input; and the error before phi in place of that behind it, out of phi's value.

    `passes`: the derivative is one wherever the value is not zero, so an error that is a multiple of the value is right
    already.
    """

    apply: Callable[[Tensor], object]
    gate: Callable[[Tensor, Tensor], object]
    passes: bool = False


@dataclass(frozen=True)
class Dense:
    """One layer of the chain.

    Attributes:
        weight, bias: names as in `Learner.named_parameters()`.
        units: o.
        activation: phi.
        feedback: what a `FeedbackLinear` sends the error back through.
        ready: positions among the network's modules at which the output of phi passes.
    """

    weight: str
    bias: str | None
    units: int
    activation: Activation
    feedback: Feedback | None
    ready: range

    def output(self, x: Tensor, params: Tensors, out: Tensor) -> Tensor:
        """phi(x W^T + b) for x (a, b, i), into out (a, b, o)."""
        linear(x, params[self.weight], None if self.bias is None else params[self.bias], out)
        self.activation.apply(out)
        return out


@dataclass(frozen=True)
class Chain:
    """Layers in order; `modules`: names of the network's innermost modules in order."""

    layers: tuple[Dense, ...]
    modules: tuple[str, ...]

    def is_cut_behind(self, names: list[str]) -> bool:
        """Whether modules `names` end the hidden layers, one each."""
        ends = [max(p for p, m in enumerate(self.modules) if f"{m}.".startswith(f"{name}.")) for name in names]
        hidden = self.layers[:-1]
        return len(ends) == len(hidden) and all(e in layer.ready for e, layer in zip(ends, hidden, strict=True))


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> Tensor:
    """x (a, b, i) times weight (a, o, i) plus bias (a, o), into out (a, b, o)."""
    if bias is None:
        return torch.bmm(x, weight.mT, out=out)
    return torch.baddbmm(bias.unsqueeze(1), x, weight.mT, out=out)


class Workspace:
    """Memory by name that every step uses again; a view of it always lies in one piece."""

    def __init__(self, like: Tensor):
        """like: of the type and device of what is asked for."""
        self.like, self.held = like, {}

    def __call__(self, name: str, *shape: int) -> Tensor:
        """Memory (shape), whose values are what they were."""
        size = math.prod(shape)
        if name not in self.held or self.held[name].numel() < size:
            self.held[name] = self.like.new_empty(size)
        return self.held[name][:size].view(shape)


def read_chain(learner: Learner) -> Chain:
    """The linear layers of the learner's network with what follows each; `check_value` says if that is the network.

    Raises:
        NotWritten: parts of it have no explicit form here.
    """
    found = [*_innermost(learner.network)]
    starts = [p for p, (_, module) in enumerate(found) if isinstance(module, nn.Linear)]
    if not starts:
        raise NotWritten("the network has no linear layer")
    if _bends(found[: starts[0]]):
        raise NotWritten("the network bends its input before the first linear layer")
    ends = [*starts[1:], len(found)]
    layers = tuple(_layer(learner, found, start, end) for start, end in zip(starts, ends, strict=True))
    if layers[-1].ready.start > starts[-1]:
        raise NotWritten("an activation follows the last linear layer")
    _check_parameters(learner, layers)
    return Chain(layers, tuple(name for name, _ in found))


def _innermost(module: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Names and modules without children, in the order in which they were added; a module that stands twice twice."""
    children = {} if isinstance(module, nn.Linear) else {n: m for n, m in module._modules.items() if m is not None}
    if not children and name:
        yield name, module
    for child, inner in children.items():
        yield from _innermost(inner, f"{name}.{child}" if name else child)


def _layer(learner: Learner, found: list[tuple[str, nn.Module]], start: int, end: int) -> Dense:
    name, module = found[start]
    if type(module) not in (nn.Linear, FeedbackLinear):
        raise NotWritten(f"{name} is a {type(module).__name__}, a linear layer of its own kind")
    bends = _bends(found[start + 1 : end])
    if len(bends) > 1:
        raise NotWritten(f"behind {name} stand several activations")
    feedback = module.feedback if isinstance(module, FeedbackLinear) and not module.feedback.off else None
    weight, bias = learner.join(Halves(dict.fromkeys([f"{name}.weight", f"{name}.bias"]), {}))
    bias = None if module.bias is None else bias
    ready = range(start + 1 + bends[0][0] if bends else start, end)
    return Dense(weight, bias, len(module.weight), _activation(bends), feedback, ready)


def _bends(found: list[tuple[str, nn.Module]]) -> list[tuple[int, str, nn.Module]]:
    """Of modules without weights those that change values, with their positions."""
    same = (nn.Identity, nn.Dropout, nn.Flatten)
    for name, module in found:
        if isinstance(module, nn.Dropout) and module.p > 0:
            raise NotWritten(f"{name} draws random numbers")
        if isinstance(module, nn.Flatten) and (module.start_dim, module.end_dim) != (1, -1):
            raise NotWritten(f"{name} flattens other than all dimensions")
    return [(place, name, module) for place, (name, module) in enumerate(found) if type(module) not in same]


def _activation(bends: list[tuple[int, str, nn.Module]]) -> Activation:
    backward = torch.ops.aten
    if not bends:
        return Activation(lambda z: z, lambda delta, h: delta, passes=True)
    _, name, module = bends[0]
    if type(module) is nn.ReLU:
        return Activation(
            torch.relu_, lambda d, h: backward.threshold_backward.grad_input(d, h, 0, grad_input=d), passes=True
        )
    if type(module) is nn.LeakyReLU and module.negative_slope > 0:
        slope = module.negative_slope
        gate = lambda d, h: backward.leaky_relu_backward.grad_input(d, h, slope, True, grad_input=d)  # noqa: E731
        return Activation(partial(F.leaky_relu_, negative_slope=slope), gate)
    if type(module) is nn.Tanh:
        return Activation(torch.tanh_, lambda d, h: backward.tanh_backward.grad_input(d, h, grad_input=d))
    if type(module) is nn.Sigmoid:
        return Activation(torch.sigmoid_, lambda d, h: backward.sigmoid_backward.grad_input(d, h, grad_input=d))
    raise NotWritten(f"{name} is a {type(module).__name__}, whose derivative is not written out")


def _check_parameters(learner: Learner, layers: tuple[Dense, ...]) -> None:
    named = dict(learner.named_parameters(remove_duplicate=False))
    names = [n for layer in layers for n in (layer.weight, layer.bias) if n]
    if len({id(named[n]) for n in names}) < len(names):
        raise NotWritten("layers share a weight")
    others = [n for n, p in named.items() if p.requires_grad and n not in names]
    if others:
        raise NotWritten(f"{others[0]} is trained, and is no weight or bias of a linear layer")
    if named[names[0]].dtype not in (torch.float32, torch.float64):
        raise NotWritten(f"the parameters are {named[names[0]].dtype}")


def check_value(learner: Learner, chain: Chain) -> None:
    """Raise `NotWritten` unless the chain's value on random inputs is the network's.

    So no module is skipped, added to another, or run twice.
    """
    network = learner.network
    params = {name: p.detach().unsqueeze(0) for name, p in learner.named_parameters()}
    first = params[chain.layers[0].weight]
    x = torch.randn(3, first.shape[2], generator=torch.Generator().manual_seed(0)).to(first)
    with observing(network), torch.no_grad():
        try:
            value = network(x)
        except (RuntimeError, ValueError, IndexError) as error:
            raise NotWritten("the network takes no flat input") from error
        h = x.unsqueeze(0)
        for layer in chain.layers:
            h = layer.output(h, params, h.new_empty(1, 3, layer.units))
    if value.shape != h[0].shape or not torch.allclose(value, h[0], rtol=1e-3, atol=1e-4):
        raise NotWritten("the network is more than a chain of its layers")


def _cross_entropy(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    chances, at = logits.log_softmax(-1), targets.unsqueeze(-1)
    losses = chances.gather(-1, at).squeeze(-1).neg_()
    return losses, chances.exp_().scatter_add_(-1, at, chances.new_full((), -1.0).expand(at.shape))


def _mse(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    errors = logits - one_hot(targets, logits)
    return errors.square().mean(-1), errors.mul_(2 / logits.shape[-1])


def _bce(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    hot = one_hot(targets, logits)
    losses = F.binary_cross_entropy_with_logits(logits, hot, reduction="none").mean(-1)
    return losses, logits.sigmoid().sub_(hot).div_(logits.shape[-1])


# logits (a, b, c) and targets (a, b) to every row's own loss (a, b) and its derivative (a, b, c)
ERRORS = {cross_entropy: _cross_entropy, mse: _mse, bce: _bce}

r"""A network read as a chain of dense layers, for parameters that are stacked over clients or lanes.

$z_l = h_{l-1} W_l^\top + b_l$, $h_l = \phi_l(z_l)$. For every rule $G_l = \delta_l^\top h_{l-1}$, with $\delta_l$ the
error at $z_l$. The derivative of $\phi$ is a function of its value, so h overwrites z.

Letters: a clients or lanes, b rows of a batch, i in, o out.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_fa.errors import UserError
from lit_fa.layers.feedback import Feedback, FeedbackLinear
from lit_fa.layers.observing import observing
from lit_fa.rules.base import Halves, Tensors
from lit_fa.rules.learner import Learner

Named = list[tuple[str, nn.Module]]


class Unsupported(UserError):
    """What has no explicit gradient, in one sentence."""


class Activation(NamedTuple):
    """An activation function phi, in place.

    Attributes:
        apply_: overwrites z by phi(z).
        backward_: (error, h) overwrites the error at h = phi(z) by the error at z.
        is_mask: the derivative is one wherever h is not zero: an error that is a multiple of h does not change.
        name: the module, with its options.
    """

    apply_: Callable[[Tensor], object]
    backward_: Callable[[Tensor, Tensor], object]
    is_mask: bool = False
    name: str = ""


@dataclass(frozen=True)
class DenseLayer:
    """One layer of the chain.

    Attributes:
        weight, bias, feedback_weight: names in the learner.
        units: o.
        activation: phi.
        feedback: the backward matrix of a `FeedbackLinear`; None: its own weight.
        fused: whether its backend is `fused`, which multiplies the error by the gain of the feedback.
        outputs: positions of the modules, among the network's, whose output is h.
    """

    weight: str
    bias: str | None
    feedback_weight: str
    units: int
    activation: Activation
    feedback: Feedback | None
    fused: bool
    outputs: range

    def output(self, x: Tensor, params: Tensors, out: Tensor) -> Tensor:
        """phi(x W^T + b) for x (a, b, i), into out (a, b, o)."""
        weight = params[self.weight].mT
        if self.bias is None:
            torch.bmm(x, weight, out=out)
        else:
            torch.baddbmm(params[self.bias].unsqueeze(1), x, weight, out=out)
        self.activation.apply_(out)
        return out

    def first_output(self, xs: Sequence[Tensor], params: Tensors, out: Tensor) -> Tensor:
        """As `output`, from a list of inputs (b, i) that are not stacked."""
        for lane, (x, weight) in enumerate(zip(xs, params[self.weight], strict=True)):
            if self.bias is None:
                torch.mm(x, weight.t(), out=out[lane])
            else:
                torch.addmm(params[self.bias][lane], x, weight.t(), out=out[lane])
        self.activation.apply_(out)
        return out

    def gradient(self, error: Tensor, x: Tensor | Sequence[Tensor], grads: Tensors) -> None:
        """Write the gradients of error (a, b, o) and inputs (a, b, i), or a list of them, into the memory in `grads`.

        Trained feedback has the gradient of its weight.
        """
        if (weight := grads.get(self.weight)) is not None:
            if isinstance(x, Tensor):
                torch.bmm(error.mT, x, out=weight)
            else:
                for own, lane, out in zip(error, x, weight, strict=True):
                    torch.mm(own.t(), lane, out=out)
            if (followed := grads.get(self.feedback_weight)) is not None:
                followed.copy_(weight)
        if self.bias in grads:
            torch.sum(error, 1, out=grads[self.bias])


@dataclass(frozen=True)
class Chain:
    """Layers in order; `modules`: names of the network's modules without children, in order."""

    layers: tuple[DenseLayer, ...]
    modules: tuple[str, ...]

    def is_cut_behind(self, names: list[str]) -> bool:
        """Whether the modules `names` end the hidden layers, one each."""
        ends = [max(p for p, m in enumerate(self.modules) if f"{m}.".startswith(f"{name}.")) for name in names]
        hidden = self.layers[:-1]
        return len(ends) == len(hidden) and all(e in layer.outputs for e, layer in zip(ends, hidden, strict=True))


def read_chain(learner: Learner) -> Chain:
    """The linear layers of the learner's network with their activations; `check_value` tests if that is all of it.

    Raises:
        Unsupported: parts of it have no explicit gradient.
    """
    modules = [*_named_leaves(learner.network)]
    starts = [p for p, (_, module) in enumerate(modules) if isinstance(module, nn.Linear)]
    if not starts:
        raise Unsupported("the network has no linear layer")
    if _nonlinear(modules[: starts[0]]):
        raise Unsupported("the network changes its input before the first linear layer")
    ends = [*starts[1:], len(modules)]
    layers = tuple(_layer(learner, modules, start, end) for start, end in zip(starts, ends, strict=True))
    if layers[-1].outputs.start > starts[-1]:
        raise Unsupported("an activation follows the last linear layer")
    _check_parameters(learner, layers)
    return Chain(layers, tuple(name for name, _ in modules))


def _named_leaves(module: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Names and modules without children, in order of registration; a module that is registered twice occurs twice."""
    children = {} if isinstance(module, nn.Linear) else {n: m for n, m in module._modules.items() if m is not None}
    if not children and name:
        yield name, module
    for child, inner in children.items():
        yield from _named_leaves(inner, f"{name}.{child}" if name else child)


def _layer(learner: Learner, modules: Named, start: int, end: int) -> DenseLayer:
    name, module = modules[start]
    if not isinstance(module, nn.Linear) or type(module) not in (nn.Linear, FeedbackLinear):
        raise Unsupported(f"{name} is a {type(module).__name__}, a linear layer of its own kind")
    activations = _nonlinear(modules[start + 1 : end])
    if len(activations) > 1:
        raise Unsupported(f"several activations follow {name}")
    tensors = (f"{name}.{tensor}" for tensor in ("weight", "bias", "feedback.weight"))
    weight, bias, feedback_weight = learner.join(Halves(dict.fromkeys(tensors), {}))
    return DenseLayer(
        weight=weight,
        bias=None if module.bias is None else bias,
        feedback_weight=feedback_weight,
        units=module.out_features,
        activation=_activation(activations)._replace(name=repr(activations[0][2]) if activations else ""),
        feedback=module.feedback if isinstance(module, FeedbackLinear) and not module.feedback.off else None,
        fused=isinstance(module, FeedbackLinear) and module.backend == "fused",
        outputs=range(start + 1 + activations[0][0] if activations else start, end),
    )


def _nonlinear(modules: Named) -> list[tuple[int, str, nn.Module]]:
    """The modules that change values, of modules without weights, with their positions."""
    for name, module in modules:
        if isinstance(module, nn.Dropout) and module.p > 0:
            raise Unsupported(f"{name} draws random numbers")
        if isinstance(module, nn.Flatten) and (module.start_dim, module.end_dim) != (1, -1):
            raise Unsupported(f"{name} flattens other than all dimensions")
    same = (nn.Identity, nn.Dropout, nn.Flatten)
    return [(place, name, module) for place, (name, module) in enumerate(modules) if type(module) not in same]


def _activation(modules: list[tuple[int, str, nn.Module]]) -> Activation:
    aten = torch.ops.aten
    if not modules:
        return Activation(lambda z: z, lambda error, h: error, is_mask=True)
    _, name, module = modules[0]
    if type(module) is nn.ReLU:
        return Activation(torch.relu_, lambda e, h: aten.threshold_backward.grad_input(e, h, 0, grad_input=e), True)
    if type(module) is nn.LeakyReLU and module.negative_slope > 0:
        slope = module.negative_slope
        backward = lambda e, h: aten.leaky_relu_backward.grad_input(e, h, slope, True, grad_input=e)  # noqa: E731
        return Activation(partial(F.leaky_relu_, negative_slope=slope), backward)
    if type(module) is nn.Tanh:
        return Activation(torch.tanh_, lambda e, h: aten.tanh_backward.grad_input(e, h, grad_input=e))
    if type(module) is nn.Sigmoid:
        return Activation(torch.sigmoid_, lambda e, h: aten.sigmoid_backward.grad_input(e, h, grad_input=e))
    raise Unsupported(f"{name} is a {type(module).__name__}, which has no explicit derivative")


def _check_parameters(learner: Learner, layers: tuple[DenseLayer, ...]) -> None:
    named = dict(learner.named_parameters(remove_duplicate=False))
    names = [n for layer in layers for n in (layer.weight, layer.bias) if n]
    if len({id(named[n]) for n in names}) < len(names):
        raise Unsupported("layers share a weight")
    followers = [layer.feedback_weight for layer in layers if layer.feedback and layer.feedback.source.follows]
    others = [n for n, p in named.items() if p.requires_grad and n not in (*names, *followers)]
    if others:
        raise Unsupported(f"{others[0]} is trained, and is no weight or bias of a linear layer")
    if named[names[0]].dtype not in (torch.float32, torch.float64):
        raise Unsupported(f"the parameters are {named[names[0]].dtype}")


def check_value(learner: Learner, chain: Chain) -> None:
    """Raise `Unsupported` unless chain and network have the same output on random inputs.

    This excludes modules that are skipped, run twice, or added to others.
    """
    network = learner.network
    params = {name: p.detach().unsqueeze(0) for name, p in learner.named_parameters()}
    first = params[chain.layers[0].weight]
    x = torch.randn(3, first.shape[2], generator=torch.Generator().manual_seed(0)).to(first)
    with observing(network), torch.no_grad():
        try:
            value = network(x)
        except (RuntimeError, ValueError, IndexError) as error:
            raise Unsupported("the network takes no flat input") from error
        h = x.unsqueeze(0)
        for layer in chain.layers:
            h = layer.output(h, params, h.new_empty(1, 3, layer.units))
    if value.shape != h[0].shape or not torch.allclose(value, h[0], rtol=1e-3, atol=1e-4):
        raise Unsupported("the network is more than a chain of its layers")

r"""Layers with the weight $U\,\mathrm{diag}(s)\,V^\top$, which is not computed during training.

`factor` replaces a linear or conv layer by such a layer. It has the parameters U, s, V and the bias. The columns of
pruned ranks are zero (`mask`) until `shrink` removes them from parameters, feedback and optimiser state. The feedback
of such a layer is factored too; its factors are buffers.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from lit_fa.functional import svd_factors
from lit_fa.functional.credit import cut
from lit_fa.functional.differentiable import Differentiable
from lit_fa.functional.svd_factors import Factors, Geometry

HOOKS = (
    "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs", "_forward_hooks", "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
)  # fmt: skip
Products = Literal["factors", "fewest"]
COLUMNS = ("U", "s", "V")  # tensors with one column, or entry, for every rank


class FeedbackFactors(nn.Module):
    """B_U, B_s, B_V as buffers of the shapes of U, s, V."""

    U: Tensor
    s: Tensor
    V: Tensor

    def __init__(self, factors: Factors):
        """Register the buffers."""
        super().__init__()
        for name, tensor in zip(COLUMNS, factors, strict=True):
            self.register_buffer(name, tensor)

    @property
    def factors(self) -> Factors:
        """B_U (a, r), B_s (r,), B_V (b, r)."""
        return Factors(self.U, self.s, self.V)


class FactoredLayer(nn.Module):
    """Base class of factored linear and conv layers.

    If `transport` is `feedback`, the backward pass to the input uses the factors of the feedback; if it is `weights`,
    it uses U, s, V, which is backprop. No input gradient is computed unless it is needed. Within `dense_weights`,
    `dense` is a weight that replaces the factors.

    Args:
        weight: of the dense layer.
        bias: of the dense layer, or None.
        rank: of the factors; None: full.

    Attributes:
        U, s, V: (a, r), (r,), (b, r), with the columns and entries of pruned ranks zero.
        mask: (r,), false for a pruned rank.
        energy: sum of the squared singular values before the first pruning.
        shape: of the dense weight.
        products: `factors`: the output is computed with the factors; `fewest`: with the dense weight, composed for the
            batch, if the factors have more entries than it. Both are equal up to rounding, as are the gradients.
    """

    U: nn.Parameter
    s: nn.Parameter
    V: nn.Parameter
    bias: nn.Parameter | None
    mask: Tensor
    energy: Tensor
    shape: tuple[int, ...]
    feedback: FeedbackFactors | None
    transport: Literal["feedback", "weights"]
    dense: Tensor | None
    products: Products

    def __init__(self, weight: Tensor, bias: Tensor | None, rank: int | None = None):
        """Factorise the weight."""
        super().__init__()
        self.shape = tuple(weight.shape)
        for name, tensor in zip(COLUMNS, svd_factors.factorise(weight, rank), strict=True):
            self.register_parameter(name, nn.Parameter(tensor, requires_grad=weight.requires_grad))
        copy = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=bias.requires_grad)
        self.register_parameter("bias", copy)
        self.register_buffer("mask", torch.ones_like(self.s, dtype=torch.bool))
        self.register_buffer("energy", self.s.detach().double().square().sum())  # reference of pruning
        self.feedback, self.transport, self.dense, self.products = None, "weights", None, "factors"

    @property
    def factors(self) -> Factors:
        """U (a, r), s (r,), V (b, r)."""
        return Factors(self.U, self.s, self.V)

    @property
    def rank(self) -> int:
        """Number of columns that are not pruned."""
        return int(self.mask.sum())

    def forward(self, input: Tensor) -> Tensor:
        """The output of the dense layer; `transport` determines the backward pass."""
        x = self.padded(input)
        if self.transport == "weights" or self.feedback is None:
            return self.own(x)
        z = self.own(cut(x))
        return FeedbackThrough.apply(z, x, *self.feedback.factors, self.back) if x.requires_grad else z

    def own(self, x: Tensor) -> Tensor:
        """The output for a padded input, computed with the factors, the weight composed of them, or `dense`."""
        if self.dense is not None:
            return self.by_weight(x, self.dense)
        if self.products == "fewest" and len(self.s) > svd_factors.parity_rank(self.shape):
            return self.by_weight(x, self.merged())
        return self.by_factors(x, self.factors, self.bias)

    def by_feedback(self, input: Tensor) -> Tensor:
        """The output with the feedback in place of the weight, and without bias."""
        assert self.feedback is not None
        return self.by_factors(self.padded(input), self.feedback.factors, None)

    def by_factors(self, x: Tensor, factors: Factors, bias: Tensor | None) -> Tensor:
        """The output for a padded input, computed with `factors`."""
        raise NotImplementedError

    def by_weight(self, x: Tensor, weight: Tensor) -> Tensor:
        """The output for a padded input, computed with a dense weight and the bias."""
        raise NotImplementedError

    def back(self, error: Tensor, factors: Factors, shape: torch.Size) -> Tensor:
        """The error at the padded input of `shape`, through `factors`."""
        raise NotImplementedError

    def padded(self, x: Tensor) -> Tensor:
        """The input with the padding that the convolutions do not apply themselves."""
        return x

    def merged(self) -> Tensor:
        """The dense weight (o, i, *k)."""
        return svd_factors.compose(self.factors, self.shape)

    @torch.no_grad()
    def prune(self, columns: Tensor) -> None:
        """Set all columns except `columns` (indices) to zero, also in the feedback."""
        self.mask.zero_()[columns] = True
        for owner in (self, *([self.feedback] if self.feedback is not None else [])):
            for name in COLUMNS:
                getattr(owner, name).mul_(self.mask)

    @torch.no_grad()
    def shrink(self, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Remove the zero columns from parameters, feedback and optimiser state; parameters stay the same objects."""
        columns = self.mask.nonzero().flatten()
        if len(columns) == len(self.mask):
            return
        for name in COLUMNS:
            parameter = getattr(self, name)
            _shrink_state(parameter, columns, optimizer)
            _replace(parameter, parameter.data[..., columns].contiguous())
            if self.feedback is not None:
                setattr(self.feedback, name, getattr(self.feedback, name)[..., columns].contiguous())
        self.mask = self.mask[columns]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Load factors of any rank (they may have been pruned), or factorise a dense weight."""
        saved = state_dict.get(prefix + "s")
        if saved is not None and saved.shape != self.s.shape:
            self._resize(len(saved))
        if (weight := state_dict.get(prefix + "weight")) is not None:
            state_dict = {key: t for key, t in state_dict.items() if key != prefix + "weight"}
            factors = svd_factors.factorise(weight, len(self.s))
            state_dict |= {prefix + name: t for name, t in zip(COLUMNS, factors, strict=True)}
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _resize(self, rank: int) -> None:
        for name in COLUMNS:
            parameter = getattr(self, name)
            _replace(parameter, parameter.data.new_zeros(*parameter.shape[:-1], rank))
            if self.feedback is not None:
                setattr(self.feedback, name, torch.zeros_like(parameter.data))
        self.mask = self.mask.new_ones(rank)

    def extra_repr(self) -> str:
        """Shape of the weight and rank."""
        return f"{'x'.join(map(str, self.shape))}, rank {self.rank} of {svd_factors.full_rank(self.shape)}"


class FactoredLinear(FactoredLayer):
    """Factored `nn.Linear`; any number of leading dimensions, (*, i) to (*, o)."""

    def __init__(self, layer: nn.Linear, rank: int | None = None):
        """Factorise the weight of `layer` at `rank`."""
        super().__init__(layer.weight, layer.bias, rank)

    def by_factors(self, x: Tensor, factors: Factors, bias: Tensor | None) -> Tensor:
        """(*, i) to (*, o)."""
        return svd_factors.linear(x, factors, bias)

    def by_weight(self, x: Tensor, weight: Tensor) -> Tensor:
        """(*, i) to (*, o)."""
        return F.linear(x, weight, self.bias)

    def back(self, error: Tensor, factors: Factors, shape: torch.Size) -> Tensor:
        """(*, o) to (*, i)."""
        return svd_factors.linear_back(error, factors)


class FactoredConv2d(FactoredLayer):
    """Factored `nn.Conv2d`: a vertical and a horizontal convolution; every stride, dilation and padding mode."""

    def __init__(self, layer: nn.Conv2d, rank: int | None = None):
        """Factorise the weight of `layer` at `rank`."""
        super().__init__(layer.weight, layer.bias, rank)
        self.mode, self.sides = {"zeros": "constant"}.get(layer.padding_mode, layer.padding_mode), [0] * 4
        padding: tuple[int, ...] = (0, 0)
        if layer.padding_mode == "zeros" and not isinstance(layer.padding, str):
            padding = tuple(layer.padding)
        else:
            self.sides = list(layer._reversed_padding_repeated_twice)
        self.geometry = Geometry(layer.kernel_size, layer.stride, padding, layer.dilation)

    def padded(self, x: Tensor) -> Tensor:
        """The input, padded here if the padding is unequal or not with zeros."""
        return F.pad(x, self.sides, self.mode) if any(self.sides) else x

    def by_factors(self, x: Tensor, factors: Factors, bias: Tensor | None) -> Tensor:
        """(n, i, h, w) to (n, o, h', w')."""
        return svd_factors.conv2d(x, factors, bias, self.geometry)

    def by_weight(self, x: Tensor, weight: Tensor) -> Tensor:
        """(n, i, h, w) to (n, o, h', w')."""
        _, stride, padding, dilation = self.geometry
        return F.conv2d(x, weight, self.bias, stride, padding, dilation)

    def back(self, error: Tensor, factors: Factors, shape: torch.Size) -> Tensor:
        """(n, o, h', w') to (n, i, h, w)."""
        return svd_factors.conv2d_back(error, factors, self.geometry, shape[2:])


class FeedbackThrough(Differentiable):
    """Forward: z. Backward: the unchanged error to z, and `back(error, factors, shape of x)` to x."""

    generate_vmap_rule = True

    @staticmethod
    def forward(z: Tensor, *_: object) -> Tensor:  # noqa: D102
        return z.detach()  # an in-place activation after it could not write into a view of z

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], _output: Tensor) -> None:  # noqa: D102
        _, x, u, s, v, ctx.back = inputs
        ctx.shape = x.shape
        ctx.save_for_backward(u, s, v)

    @staticmethod
    def backward(ctx: Any, error: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102
        # under autocast the error is of another type
        factors = Factors(*(t.to(error.dtype) for t in ctx.saved_tensors))
        return error, ctx.back(error, factors, ctx.shape), None, None, None, None


_KINDS: dict[type[nn.Module], Callable[..., FactoredLayer]] = {nn.Linear: FactoredLinear, nn.Conv2d: FactoredConv2d}


def why_not(layer: nn.Module) -> str | None:
    """The reason why a layer cannot be factored, or None."""
    kind = next((k for k in _KINDS if isinstance(layer, k)), None)
    if kind is None:
        return f"a {type(layer).__name__} has no factored form"
    if type(layer).forward is not kind.forward or isinstance(layer, NonDynamicallyQuantizableLinear):
        return f"the weight of a {type(layer).__name__} is used outside the standard forward"
    if getattr(layer, "groups", 1) != 1:
        return f"a convolution in {layer.groups} groups has no matrix"
    if "weight" not in layer._parameters:
        return "its weight is computed from other tensors (weight or spectral normalisation)"
    return None


def tied(network: nn.Module, name: str) -> str | None:
    """The reason why the layer `name` cannot be factored in its network, a shared weight or bias, or None."""
    layer = network.get_submodule(name)
    own = {id(p) for p in layer.parameters(recurse=False)}
    for other, module in network.named_modules():
        if module is not layer and any(id(p) in own for p in module.parameters(recurse=False)):
            return f"it shares a tensor with {other or 'the network'}, which factors cannot do"
    return None


def factor(network: nn.Module, name: str, rank: int | None = None) -> FactoredLayer:
    """Replace the layer `name` of `network` by a factored layer, under all its names.

    Raises:
        ValueError: the layer cannot be factored, or the rank is not between 1 and the full rank.
    """
    layer = network.get_submodule(name)
    if reason := why_not(layer) or tied(network, name):
        raise ValueError(f"{name}: {reason}")
    full = svd_factors.full_rank(layer.get_parameter("weight").shape)
    if rank is not None and not 1 <= rank <= full:
        raise ValueError(f"{name} has ranks from 1 to {full}, not {rank}")
    kind = next(k for k in _KINDS if isinstance(layer, k))
    new = _KINDS[kind](layer, rank).train(layer.training)
    replace(network, layer, new)
    return new


def replace(network: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Replace the module `old` of `network` by `new`, under all its names; its hooks are moved to `new`."""
    for hooks in HOOKS:
        getattr(new, hooks).update(getattr(old, hooks))
    for parent in [*network.modules()]:
        for name, child in parent._modules.items():
            if child is old:
                parent._modules[name] = new


def factored_layers(network: nn.Module) -> dict[str, FactoredLayer]:
    """Name to layer, for every factored layer."""
    return {name: module for name, module in network.named_modules() if isinstance(module, FactoredLayer)}


@contextmanager
def dense_weights(network: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Within, factored layers compute with dense weights; yields layer to weight, a leaf that requires a gradient."""
    layers = factored_layers(network)
    weights = {name: layer.merged().detach().requires_grad_(True) for name, layer in layers.items()}
    for name, layer in layers.items():
        layer.dense = weights[name]
    try:
        yield weights
    finally:
        for layer in layers.values():
            layer.dense = None


def _replace(parameter: nn.Parameter, data: Tensor) -> None:
    """Give a parameter data of another shape; it stays the same object, because the optimiser refers to it."""
    parameter.grad = None
    # If a graph of an earlier step still exists, it has the parameter's gradient node with the old shape. Torch makes a
    # new node only if the type changes, so the type is changed twice.
    parameter.data = torch.empty(0, dtype=torch.float16, device=data.device)
    parameter.data = data


def _shrink_state(parameter: nn.Parameter, columns: Tensor, optimizer: torch.optim.Optimizer | None) -> None:
    state = {} if optimizer is None else optimizer.state.get(parameter, {})
    for name, tensor in state.items():
        if isinstance(tensor, Tensor) and tensor.shape == parameter.shape:
            state[name] = tensor[..., columns].contiguous()

r"""Layers with another matrix than their weight in the backward pass: $\delta_{l-1} = \delta_l B_l$.

`extend` changes a layer in place: it adds a child `feedback` and replaces the class by a subclass, as torch does for
parametrisations. So names, optimisers, `isinstance`, `layer.weight` and pretrained checkpoints stay valid, and
`print(network)` shows the feedback. There are two backends, which tests compare:

* `detour` is the literal form, for any module with a weight: the layer receives its input through a stop-gradient, and
  the feedback adds a path in the backward pass only: ``layer(cut(x)) + gradient_only(feedback(x))``.
* `fused` is one autograd node for the standard forward of linear and conv layers; it costs as much as backprop.
"""

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.conv import _ConvNd

from lit_fa.functional import fused
from lit_fa.functional.credit import Backend, cut, gradient_only
from lit_fa.functional.feedback import named_generator
from lit_fa.layers.factored import FactoredLayer
from lit_fa.layers.sources import FeedbackSource

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
WEIGHT_LAYERS = (nn.Linear, *CONVS, *TRANSPOSED)


def weight_of(layer: nn.Module) -> Tensor:
    """The weight (o, i, *k) of a linear or conv layer: a parameter, or computed from other tensors."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight


class Feedback(nn.Module):
    """The feedback of one layer.

    Attributes:
        weight: the stored tensor, of the shape of the layer's weight: a buffer, a parameter (if the source is trained)
            or None.
        source: of the stored tensor and of the backward matrix.
        gain: constant factor on the backward matrix.
        kind: the layer's class before `extend`.
        off: the backward pass uses the layer's own weight. Then the buffer is empty, also in a state dict; loading
            reads `off` from it.
        twin: a copy of the layer, for a layer with its own forward.
    """

    weight: Tensor | None
    source: FeedbackSource
    gain: float
    kind: type[nn.Module]
    off: bool
    twin: nn.Module

    def __init__(self, source: FeedbackSource, layer: nn.Module, generator: torch.Generator):
        """Draw from `generator` for the weight of `layer`, and move the result to its device."""
        super().__init__()
        weight = weight_of(layer).detach()
        stored = _drawn(source, weight, generator)
        if source.trained and stored is not None:
            self.weight = nn.Parameter(stored, requires_grad=weight_of(layer).requires_grad)
        else:
            self.register_buffer("weight", stored)
        self.source, self.gain, self.kind, self.off = source, source.gain(weight), type(layer), False

    def matrix(self, weight: Tensor) -> Tensor:
        """The backward matrix B, of the shape of `weight`."""
        if self.off:
            return weight.detach()
        stored = self.stored
        if stored is not None and not weight.requires_grad:  # trained feedback of a frozen weight is frozen
            stored = stored.detach()
        return self.source.matrix(weight.detach(), stored) * self.gain

    @property
    def stored(self) -> Tensor | None:
        """The stored tensor, without gradient if the rule's scalar trains it."""
        own = self.weight is not None and self.source.trained and not self.source.follows
        return self.weight.detach() if own and self.weight is not None else self.weight

    def extra_repr(self) -> str:
        """Show the source in print(network)."""
        return f"{self.source}, off" if self.off else repr(self.source)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Switch on or off as it was when it was saved."""
        saved = state_dict.get(f"{prefix}weight")
        if saved is not None and self.weight is not None and (saved.numel() == 0) != self.off:
            self.weight = torch.empty_like(saved, dtype=self.weight.dtype, device=self.weight.device)
            self.off = not self.off
        super()._load_from_state_dict(state_dict, prefix, *args)


class FeedbackLayer(nn.Module):
    """Base class that `extend` adds to a layer.

    Attributes:
        weight: of the layer itself.
        feedback: its stored tensor and source.
        transport: what the backward pass uses: `feedback`, or `weights` inside `true_gradient`.
        backend: see the module's docstring.
    """

    weight: Tensor
    feedback: Feedback
    transport: Literal["feedback", "weights"]
    backend: Backend

    def forward(self, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The layer's own output; the backward pass uses the feedback."""
        if self.transport == "weights" or self.feedback.off:
            return super().forward(input, *args, **kwargs)
        if self.backend == "fused":
            return self.fused(input)
        own = super().forward(cut(input), *args, **kwargs)
        return own + gradient_only(self.detour(input, self.feedback.matrix(self.weight), *args, **kwargs))

    def fused(self, x: Tensor) -> Tensor:
        """`forward` as one autograd node, for layers with the standard forward."""
        raise NotImplementedError

    def detour(self, x: Tensor, matrix: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The layer's own forward with `matrix` as weight, zero bias, and stop-gradients at all other tensors."""
        others = {name: cut(t) for name, t in (*self._parameters.items(), *self._buffers.items()) if t is not None}
        bias = getattr(self, "bias", None)
        zero = {} if bias is None else {"bias": torch.zeros_like(bias)}
        return functional_call(self.feedback.twin, {**others, **zero, "weight": matrix}, (x, *args), kwargs)


class FeedbackLinear(FeedbackLayer, nn.Linear):
    """`nn.Linear` with feedback; any number of leading dimensions, (*, i) to (*, o).

    `extend` makes it of an `nn.Linear`; its constructor is that of `nn.Linear` and adds no feedback.
    """

    def fused(self, x: Tensor) -> Tensor:
        """One autograd node."""
        f = self.feedback
        return fused.linear_feedback(x, self.weight, self.bias, f.stored, f.source.matrix, f.gain)

    def detour(self, x: Tensor, matrix: Tensor) -> Tensor:
        """x B^T."""
        return F.linear(x, matrix)


class _FeedbackConv(FeedbackLayer, _ConvNd):
    def fused(self, x: Tensor) -> Tensor:
        """One autograd node; padding that is unequal or not with zeros is applied before it, as in torch."""
        if x.ndim < self.weight.ndim:  # a single image, which torch's layers accept as well
            return self.fused(x.unsqueeze(0)).squeeze(0)
        f, padding = self.feedback, [0] * len(self.stride)
        if self.padding_mode != "zeros":
            x = F.pad(x, self._reversed_padding_repeated_twice, mode=self.padding_mode)
        elif isinstance(self.padding, str):
            x = F.pad(x, self._reversed_padding_repeated_twice)
        else:
            padding = list(self.padding)
        geometry = (list(self.stride), padding, list(self.dilation), self.groups)
        return fused.conv_feedback(x, self.weight, self.bias, f.stored, f.source.matrix, f.gain, geometry)

    def detour(self, x: Tensor, matrix: Tensor) -> Tensor:
        """The convolution of x with B."""
        return self._conv_forward(x, matrix, None)


class FeedbackConv1d(_FeedbackConv, nn.Conv1d):
    """`nn.Conv1d` with feedback; (n, i, t) to (n, o, t')."""


class FeedbackConv2d(_FeedbackConv, nn.Conv2d):
    """`nn.Conv2d` with feedback; (n, i, h, w) to (n, o, h', w'); groups, dilation and every padding mode.

    `extend` makes it of an `nn.Conv2d`; its constructor is that of `nn.Conv2d` and adds no feedback.
    """


class FeedbackConv3d(_FeedbackConv, nn.Conv3d):
    """`nn.Conv3d` with feedback; (n, i, d, h, w) to (n, o, d', h', w')."""


_STATIC: dict[type[nn.Module], type[FeedbackLayer]] = {
    nn.Linear: FeedbackLinear,
    nn.Conv1d: FeedbackConv1d,
    nn.Conv2d: FeedbackConv2d,
    nn.Conv3d: FeedbackConv3d,
}
_DYNAMIC: dict[type[nn.Module], type] = {}


def extend(
    layer: nn.Module, source: FeedbackSource, generator: torch.Generator, *, backend: Backend = "fused"
) -> FeedbackLayer:
    """Give `layer` feedback from `source`, in place.

    Args:
        layer: a linear or (transposed) conv layer, or a subclass of one with its own forward.
        source: of the backward matrix.
        generator: CPU generator of the draw.
        backend: `fused` if the layer has the standard forward, `detour` for any layer. Subclasses with their own
            forward (weight standardisation, "same" padding) always use the detour.

    Returns:
        The layer itself.

    >>> from lit_fa.layers import SnapshotFeedback
    >>> layer = extend(nn.Linear(2, 2), SnapshotFeedback(rescale="none"), torch.Generator())
    >>> x = torch.ones(1, 2, requires_grad=True)
    >>> grad = torch.autograd.grad(layer(x).sum(), x)[0]  # feedback equal to the weight is backprop
    >>> torch.equal(grad, layer.weight.sum(0, keepdim=True))
    True
    """
    kind = type(layer)
    standard = _STATIC.get(kind) or _same_forward(kind)
    layer.feedback = Feedback(source, layer, generator)
    layer.__class__ = standard or _dynamic(layer)
    assert isinstance(layer, FeedbackLayer)
    layer.transport, layer.backend = "feedback", backend if standard else "detour"
    return layer


def apply_feedback_alignment(
    network: nn.Module, source: FeedbackSource, layers: Iterable[str], *, backend: Backend = "fused"
) -> dict[str, FeedbackLayer]:
    """Give feedback to the named layers of a network, in place, as `rules.FeedbackAlignment` does.

    Args:
        network: any module.
        source: of the backward matrices. Each draw depends only on the source's seed and the layer's name.
        layers: names of linear and conv layers, for example `error_carrying_layers(network, example)`.
        backend: see `extend`.

    Returns:
        Name to layer.

    >>> from lit_fa.layers import RandomFeedback, error_carrying_layers
    >>> network = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> names = error_carrying_layers(network, torch.zeros(2, 4))
    >>> apply_feedback_alignment(network, RandomFeedback(seed=1), names)["2"].feedback.weight.shape
    torch.Size([2, 3])
    """
    seed = getattr(source, "seed", 0)
    generators = {name: named_generator(seed, name) for name in layers}
    return {n: extend(network.get_submodule(n), source, g, backend=backend) for n, g in generators.items()}


def retract(layer: FeedbackLayer) -> nn.Module:
    """Undo `extend`, in place: restore the layer's class, so that it uses backprop."""
    plain: nn.Module = layer
    plain.__class__ = layer.feedback.kind
    del layer.feedback, layer.transport, layer.backend
    return plain


def feedback_layers(network: nn.Module, *, off: bool = False) -> dict[str, FeedbackLayer]:
    """Name to layer, for every layer that `extend` has changed.

    Args:
        network: any module.
        off: include those that are switched off.

    >>> from lit_fa.layers import RandomFeedback
    >>> network = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> layer = apply_feedback_alignment(network, RandomFeedback(), ["2"])["2"]
    >>> switch_off(layer)
    >>> [*feedback_layers(network)], [*feedback_layers(network, off=True)]
    ([], ['2'])
    """
    extended = {name: module for name, module in network.named_modules() if isinstance(module, FeedbackLayer)}
    return {name: layer for name, layer in extended.items() if off or not layer.feedback.off}


def feedback_parameters(network: nn.Module) -> list[nn.Parameter]:
    """The trained feedback (Kolen-Pollack's) of `network`, which are additional parameters of their weights' shapes.

    >>> from lit_fa.layers import KolenPollackFeedback
    >>> network = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> _ = apply_feedback_alignment(network, KolenPollackFeedback(), ["2"])
    >>> [p.shape for p in feedback_parameters(network)]
    [torch.Size([2, 3])]
    """
    return [p for m in network.modules() if isinstance(m, Feedback) for p in m.parameters(recurse=False)]


def switch_off(layer: FeedbackLayer) -> None:
    """Make the backward pass of `layer` use its own weight, and free the stored tensor."""
    layer.feedback.off = True
    layer.feedback.weight = layer.weight.new_empty(0)


def switch_on(layer: FeedbackLayer, generator: torch.Generator) -> None:
    """Make the backward pass of `layer` use feedback again, which its source draws from `generator`, on the CPU."""
    layer.feedback.off = False
    layer.feedback.weight = _drawn(layer.feedback.source, layer.weight.detach(), generator)


@contextmanager
def true_gradient(network: nn.Module) -> Iterator[None]:
    """Within, the backward pass of every layer of `network` uses its own weight: backprop on the same network.

    >>> from lit_fa.layers import SignFeedback
    >>> layer = extend(nn.Linear(3, 1), SignFeedback(), torch.Generator())
    >>> x = torch.ones(1, 3, requires_grad=True)
    >>> with true_gradient(layer):
    ...     torch.equal(torch.autograd.grad(layer(x).sum(), x)[0], layer.weight)
    True
    """
    replacing = [module for module in network.modules() if isinstance(module, (FeedbackLayer, FactoredLayer))]
    layers = [layer for layer in replacing if layer.transport == "feedback"]
    for layer in layers:
        layer.transport = "weights"
    try:
        yield
    finally:
        for layer in layers:
            layer.transport = "feedback"


def _drawn(source: FeedbackSource, weight: Tensor, generator: torch.Generator) -> Tensor | None:
    """The tensor that the source stores for a weight, with the weight's device, type and memory layout."""
    stored = source.draw(weight, generator)
    return None if stored is None else torch.empty_like(weight).copy_(stored)


def _same_forward(kind: type[nn.Module]) -> type | None:
    """The extended class for torch's own subclasses with the standard forward (out-projection, parametrised layers)."""
    for base, extended in _STATIC.items():
        if issubclass(kind, base) and kind.forward is base.forward and kind.__module__.startswith("torch.nn"):
            if "weight" not in vars(kind):
                return extended
            # a parametrised layer: its weight is a property of the class that torch has created for it
            return type(f"Feedback{kind.__name__}", (extended, kind), {})
    return None


def _dynamic(layer: nn.Module) -> type:
    """A new subclass for a type with its own forward; `feedback.twin` is a copy of the layer that runs it again.

    Such classes cannot be pickled; state_dict and deepcopy work.
    """
    shell = copy.copy(layer)
    shell._modules = {name: child for name, child in layer._modules.items() if name != "feedback"}
    shell._parameters, shell._buffers = dict(layer._parameters), dict(layer._buffers)
    # not registered as a child: its tensors are those of the layer, or are passed at every call
    object.__setattr__(layer.feedback, "twin", shell)
    kind = type(layer)
    if kind not in _DYNAMIC:
        _DYNAMIC[kind] = type(f"Feedback{kind.__name__}", (FeedbackLayer, kind), {})
    return _DYNAMIC[kind]

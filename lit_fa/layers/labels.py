r"""Adds a label to the input of a network that has no input for labels.

`pixels`: the label overwrites c entries of the flattened input. `channels`: the label is c constant planes, or
features, in addition to the input; the first layer receives a child `label` that reads them. Without a label the layer
works as before.

A first layer is linear in image and label. If the labelled sample is divided by its length r,
$W\,(x + l)/r = W\,(x/r) + W_{\mathrm{label}}\,(l/r)$. So an image is projected once for all its labels, provided that
the network accepts a different number of rows after its first layer; this is tested on an example. Otherwise every pair
of image and label is a separate sample. Letters: n batch, k labels of a sample, c classes, o all dimensions of the
layer's output except the batch.
"""

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lit_fa.errors import UserError
from lit_fa.functional.differentiable import Differentiable
from lit_fa.functional.feedback import named_generator
from lit_fa.functional.fused import under_autocast
from lit_fa.functional.goodness import divided, length, normalise, overlay, squares
from lit_fa.layers.feedback import CONVS, WEIGHT_LAYERS, weight_of
from lit_fa.layers.hooks import after
from lit_fa.layers.observing import calls, observing


class LabelledInput:
    """Runs a network on samples with labels.

    Args:
        network: its first layer is hooked, and receives the child `label` if the label is in channels.
        example: (n, ...) inputs, whose values have no meaning.
        classes: c.
        position: first of the c entries of the flattened input that the label overwrites; None: channels.
        kind: normalisation of labelled samples, see `functional.goodness.normalise`.
        seed: of the label's weights, initialised like torch's default for the wider layer: ±1/sqrt(fan_in).

    Attributes:
        layer: name of the layer that adds the label to its output; None: the label is written into the input.
        once: whether an image is projected once for all of its labels.

    Raises:
        UserError: the label is in channels, but the first weight layer is not a linear or conv layer that reads the
            input.
    """

    def __init__(
        self, network: nn.Module, example: Tensor, classes: int, position: int | None, kind: str = "rms", seed: int = 0
    ):
        """See the class."""
        self.classes, self.position, self.kind = classes, position, kind
        self.once = False
        self.written: Tensor | None = None
        self.layer, shape = _first_layer(network, example)
        if position is None:
            self.places = _add_label_weights(network, self.layer, shape, classes, seed)
        elif (
            self.layer is None
            or shape is None
            or len(shape) > 2
            or type(network.get_submodule(self.layer)) is not nn.Linear
        ):
            self.layer = None
        if self.layer is not None:
            after(network.get_submodule(self.layer), self.add)
            self.once = self._may_multiply(network, example)
            self.layer = self.layer if self.once or position is None else None

    def __call__(self, network: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        """The network's output (k n, ...), label by label, for inputs (n, ...) and labels (k, n, c).

        The k labels of a sample must have the same length.
        """
        if self.layer is None:
            assert self.position is not None  # labels in channels need a layer
            return network(normalise(torch.cat([overlay(inputs, label, self.position) for label in labels]), self.kind))
        if not self.once:
            inputs, labels = torch.cat([inputs] * len(labels)), labels.flatten(0, 1).unsqueeze(0)
        extra, entries = labels[0].square().sum(1), math.prod(inputs.shape[1:])
        if self.position is None:
            extra, entries = extra * self.places, entries + self.classes * self.places
        else:
            inputs = overlay(inputs, torch.zeros_like(labels[0]), self.position)
        r = length(squares(inputs) + extra, entries, self.kind)
        with self._writing(labels if r is None else (labels / r.unsqueeze(1)).to(labels.dtype)):
            return network(divided(inputs, r))

    def add(self, layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        """The forward hook: turns the output (n, *o) without labels into (k n, *o) with labels."""
        if self.written is None:
            return None
        if self.position is not None:
            tensors = under_autocast(args[0], self.written, weight_of(layer), getattr(layer, "bias", None))
            # the view is created here, because an in-place activation may not write into a view that a Function returns
            return _AddLabel.apply(output.detach(), *tensors, self.position).flatten(0, 1)
        alone = layer.get_submodule("label")(self._planes(layer, args[0])).to(output.dtype)
        # keep the channels_last memory format
        last = output.ndim == 4 and output.shape[1] == output.stride(3) > output.stride(1) == 1
        output, alone = (t.permute(0, 2, 3, 1) if last else t for t in (output, alone))
        both = _added(output.flatten(1), self.written.to(output.dtype), alone.flatten(1))
        both = both.reshape(-1, *output.shape[1:])
        return both.permute(0, 3, 1, 2) if last else both

    def _planes(self, layer: nn.Module, x: Tensor) -> Tensor:
        """The c labels of strength one, at every position of the layer's input x."""
        hot = torch.eye(self.classes, dtype=x.dtype, device=x.device)
        if isinstance(layer, nn.Linear):
            return hot.view(self.classes, *[1] * (x.ndim - 2), -1).expand(-1, *x.shape[1:-1], -1)
        return hot.view(*hot.shape, *[1] * (x.ndim - 2)).expand(-1, -1, *x.shape[2:])

    @contextmanager
    def _writing(self, labels: Tensor) -> Iterator[None]:
        self.written = labels
        try:
            yield
        finally:
            self.written = None

    def _may_multiply(self, network: nn.Module, example: Tensor) -> bool:
        """Whether both methods agree on random samples; in training mode, to detect dropout before the layer."""
        inputs = _random_like(example)
        labels = torch.eye(self.classes).to(inputs)[:2].unsqueeze(1).expand(-1, len(inputs), -1)
        results, layer = [], self.layer
        for self.once in (False, True):
            self.layer = None if self.position is not None and not self.once else layer
            with observing(network), torch.no_grad():
                network.train()
                torch.manual_seed(0)
                try:
                    results.append(self(network, inputs, labels))
                except Exception:  # the network does not accept another number of rows
                    return False
        one, other = results
        return one.shape == other.shape and bool((one - other).norm() <= _tolerance(one) * one.norm())


class _AddLabel(Differentiable):
    """A linear layer's output (n, o) for images with k labels each, (k, n, o), and all of its gradients.

    The label's columns of the weight's gradient are written into the gradient of the image part, which is zero there;
    differentiating a slice of the weight would need another matrix of its size.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(output: Tensor, x: Tensor, labels: Tensor, weight: Tensor, _bias: object, position: int) -> Tensor:
        columns = weight[:, position : position + labels.shape[2]]
        return _added(output, labels, columns.t())

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], _output: Tensor) -> None:
        _, x, labels, weight, _, ctx.position = inputs
        ctx.save_for_backward(x, labels, weight)

    @staticmethod
    def backward(ctx: Any, error: Tensor) -> tuple[Tensor | None, ...]:
        x, labels, weight = ctx.saved_tensors
        _, needs_x, needs_labels, needs_weight, needs_bias, _ = ctx.needs_input_grad
        columns = slice(ctx.position, ctx.position + labels.shape[2])
        whole = error.sum(0)
        grad_weight = None
        if needs_weight:
            grad_weight = whole.t() @ x
            grad_weight[:, columns] = error.flatten(0, 1).t() @ labels.flatten(0, 1)
        grad_labels = error @ weight[:, columns] if needs_labels else None
        return (None, whole @ weight if needs_x else None, grad_labels, grad_weight,
                whole.sum(0) if needs_bias else None, None)  # fmt: skip


def _added(output: Tensor, labels: Tensor, alone: Tensor) -> Tensor:
    """(k, n, o): output (n, o) + labels (k, n, c) times the contribution of each label, `alone` (c, o)."""
    k = len(labels)
    return torch.baddbmm(output.expand(k, *output.shape), labels, alone.expand(k, *alone.shape))


def _first_layer(network: nn.Module, example: Tensor) -> tuple[str | None, torch.Size | None]:
    """Name of the first weight layer, and its input shape if it reads the network's input, and only once; else None."""
    layers = [name for name, m in network.named_modules() if isinstance(m, WEIGHT_LAYERS)]
    inputs = _random_like(example)
    recorded = calls(network, inputs, layers)
    name, read = (recorded[0].name, recorded[0].inputs[0]) if recorded else (None, inputs[:0])
    itself = read.numel() == inputs.numel() and torch.equal(read.flatten(), inputs.flatten())
    if not itself or not name or sum(call.name == name for call in recorded) > 1:
        return name, None
    return name, read.shape


def _add_label_weights(network: nn.Module, name: str | None, shape: torch.Size | None, classes: int, seed: int) -> int:
    """Add the child `label` to the layer `name`; returns the number of positions of its input."""
    layer = network.get_submodule(name) if name else None
    if shape is None or not isinstance(layer, (nn.Linear, *CONVS)):
        first = f"{name} ({type(layer).__name__})" if name else "there is none"
        raise UserError(f"label: channels needs a first linear or conv layer that reads the input itself, not {first}")
    linear = isinstance(layer, nn.Linear)
    twin, weight = copy.deepcopy(layer), layer.weight
    twin.bias = None
    if linear:
        twin.in_features = classes
    else:
        twin.in_channels, twin.groups = classes, 1
    drawn = torch.empty(len(weight), classes, *weight.shape[2:])
    bound = 1 / math.sqrt(weight[0].numel() + drawn[0].numel())
    drawn.uniform_(-bound, bound, generator=named_generator(seed, name, "label"))
    twin.weight = nn.Parameter(drawn.to(weight))
    layer.label = twin
    return math.prod(shape[1:-1] if linear else shape[2:])


def _random_like(example: Tensor) -> Tensor:
    drawn = torch.randn(3, *example.shape[1:], generator=torch.Generator().manual_seed(0))
    return drawn.to(example)


def _tolerance(x: Tensor) -> float:
    return math.sqrt(torch.finfo(x.dtype).eps)

r"""The matrices of the backward pass: $\delta_{l-1} = \delta_l B_l$, for each lane by the source of its feedback.

Lanes may differ in the source: backpropagation's is the weight, random feedback is stored, sign symmetry is computed
from the weight in every step. Letters: k lanes, n batch, o out, i in.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lit_fa.rules.base import Tensors
from lit_fa.written.chain import DenseLayer
from lit_fa.written.workspace import Workspace


class Transport:
    """Sends the error of one layer to the layer below.

    Args:
        layers: this layer in every lane.
        tensors: name to stacked parameter or buffer (k, ...).
        name: of the memory in the workspace.
    """

    def __init__(self, layers: Sequence[DenseLayer], tensors: Tensors, name: str):
        """See the class."""
        self.layer, self.name = layers[0], name
        self.lanes = [_source(layer, tensors[layer.weight][lane]) for lane, layer in enumerate(layers)]
        self.gains = [_gain(layer) for layer in layers]

    def __call__(self, error: Tensor, tensors: Tensors, space: Workspace) -> Tensor:
        """The error (k, n, i) at the output of the layer below, from the error (k, n, o) at this layer."""
        matrix = self._matrix(tensors, space)
        if self.gains != [1.0] * len(self.gains):
            gains = self.gains[0] if len({*self.gains}) == 1 else error.new_tensor(self.gains).view(-1, 1, 1)
            error = error * gains
        out = space(f"error {self.name}", *error.shape[:2], matrix.shape[-1])
        return torch.bmm(error, matrix, out=out)

    def _matrix(self, tensors: Tensors, space: Workspace) -> Tensor:
        """(k, o, i); `gain` is not yet applied."""
        weights, stored = tensors[self.layer.weight], tensors.get(self.layer.feedback_weight)
        if {*self.lanes} == {the_weight}:
            return weights
        if {*self.lanes} == {the_stored} and stored is not None:
            return stored
        matrix = space(f"matrix {self.name}", *weights.shape)
        for lane, source in enumerate(self.lanes):
            matrix[lane] = source(weights[lane], None if stored is None else stored[lane])
        return matrix


def the_weight(weight: Tensor, stored: Tensor | None) -> Tensor:
    """Backpropagation's matrix."""
    return weight


def the_stored(weight: Tensor, stored: Tensor | None) -> Tensor:
    """The matrix of feedback that is fixed, trained or renewed between steps."""
    assert stored is not None
    return stored


def _source(layer: DenseLayer, weight: Tensor) -> Callable[[Tensor, Tensor | None], Tensor]:
    """The function of weight and stored tensor that returns the matrix of a lane."""
    if layer.feedback is None:
        return the_weight
    source, stored, gain = layer.feedback.source, layer.feedback.weight, _gain_in_matrix(layer)
    if stored is not None and gain == 1.0 and source.matrix(weight, stored) is stored:
        return the_stored
    # what other lanes have stored means nothing to a lane that stores nothing
    return lambda weight, own: _times(source.matrix(weight, None if stored is None else own), gain)


def _times(matrix: Tensor, gain: float) -> Tensor:
    return matrix if gain == 1.0 else matrix * gain


def _gain(layer: DenseLayer) -> float:
    """The factor on the error: the fused backend scales the error, and the detour scales the matrix."""
    return 1.0 if layer.feedback is None or not layer.fused else layer.feedback.gain


def _gain_in_matrix(layer: DenseLayer) -> float:
    return 1.0 if layer.feedback is None or layer.fused else layer.feedback.gain

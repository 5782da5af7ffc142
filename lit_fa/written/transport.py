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
        self.lanes = [_source(layer, tensors, lane) for lane, layer in enumerate(layers)]
        self.kinds = {source if isinstance(source, str) else "computed" for source in self.lanes}
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
        if self.kinds == {"weight"}:
            return weights
        if self.kinds == {"stored"} and stored is not None:
            return stored
        matrix = space(f"matrix {self.name}", *weights.shape)
        for lane, source in enumerate(self.lanes):
            if isinstance(source, str):
                matrix[lane] = weights[lane] if source == "weight" or stored is None else stored[lane]
            else:
                matrix[lane] = source(weights[lane], None if stored is None else stored[lane])
        return matrix


def _source(layer: DenseLayer, tensors: Tensors, lane: int) -> str | Callable[[Tensor, Tensor | None], Tensor]:
    """`weight`, `stored`, or the function that computes the matrix of a lane."""
    if layer.feedback is None:
        return "weight"
    source, stored = layer.feedback.source, tensors.get(layer.feedback_weight)
    weight, own = tensors[layer.weight][lane], None if stored is None else stored[lane]
    if own is not None and source.matrix(weight, own) is own and _gain_in_matrix(layer) == 1.0:
        return "stored"
    gain = _gain_in_matrix(layer)
    return source.matrix if gain == 1.0 else lambda weight, own: source.matrix(weight, own) * gain


def _gain(layer: DenseLayer) -> float:
    """The factor on the error: the fused backend scales the error, and the detour scales the matrix."""
    return 1.0 if layer.feedback is None or not layer.fused else layer.feedback.gain


def _gain_in_matrix(layer: DenseLayer) -> float:
    return 1.0 if layer.feedback is None or layer.fused else layer.feedback.gain

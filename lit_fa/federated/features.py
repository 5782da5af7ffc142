"""The penultimate representation, which MOON and FedDecorr use, in any network with any rule.

It is the input of the last weight layer. If the rule has block boundaries, it is the output of the last block, before
the stop-gradient. So a penalty on it trains all layers with backprop, all layers through the feedback with feedback
alignment, and only the last block with a rule that has block boundaries.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from lit_fa.errors import UserError
from lit_fa.layers.feedback import WEIGHT_LAYERS
from lit_fa.layers.hooks import after, before
from lit_fa.layers.observing import calls


class Features:
    """Records the representation while a network runs."""

    def __init__(self, network: nn.Module, example: Tensor, taps: list[str]):
        """Hook the module. taps: names of the blocks of the rule, or empty."""
        self.representations: list[Tensor] | None = None
        modules = dict(network.named_modules())
        if taps:
            self.place = taps[-1]
            after(modules[self.place], lambda _m, _inputs, out: self._record(out), prepend=True)
        else:
            self.place = _last_weight_layer(network, example)
            before(modules[self.place], lambda _m, inputs: self._record(inputs[0]))

    @contextmanager
    def recorded(self) -> Iterator[list[Tensor]]:
        """Within the context, every representation (b, d) is appended to the list."""
        recorded: list[Tensor] = []
        self.representations = recorded
        try:
            yield recorded
        finally:
            self.representations = None

    def _record(self, output: Any) -> None:
        if self.representations is not None:
            self.representations.append(pooled(output[0] if isinstance(output, tuple) else output))


def pooled(output: Tensor) -> Tensor:
    """(b, d) as it is; the mean over positions of maps (b, d, h, w) and of tokens (b, t, d)."""
    if output.ndim == 4:
        return output.mean((2, 3))
    return output.mean(1) if output.ndim == 3 else output


def _last_weight_layer(network: nn.Module, example: Tensor) -> str:
    layers = [name for name, m in network.named_modules() if isinstance(m, WEIGHT_LAYERS)]
    called = [call.name for call in calls(network, example, layers)]
    if not called:
        raise UserError("the algorithm compares representations, and the network has no linear or conv layer")
    return called[-1]

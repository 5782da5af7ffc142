"""The penultimate representation, which MOON and FedDecorr look at, in any network under any rule.

It is read where the rule leaves it a path: at the input of the last weight layer, or, where a rule cuts the network
into blocks, at the output of the last block, before the cut. So a penalty on it trains what the rule lets it reach: all
layers under backprop, by way of the feedback under feedback alignment, the last block alone under a rule with cuts.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from lit_fa.errors import UserError
from lit_fa.layers.feedback import WEIGHT_LAYERS
from lit_fa.layers.observing import calls


class Features:
    """Records the representation while a network runs."""

    def __init__(self, network: nn.Module, example: Tensor, taps: list[str]):
        """Find the place and hook it. taps: names of the blocks behind which the rule cuts, if it does."""
        self.found: list[Tensor] | None = None
        modules = dict(network.named_modules())
        if taps:
            self.place = taps[-1]
            modules[self.place].register_forward_hook(lambda _m, _a, out: self._meet(out), prepend=True)
        else:
            self.place = _last_weight_layer(network, example)
            modules[self.place].register_forward_pre_hook(lambda _m, args: self._meet(args[0]))

    @contextmanager
    def recorded(self) -> Iterator[list[Tensor]]:
        """Within, every representation (b, d) that the network makes is appended to the list."""
        self.found, found = [], []
        try:
            yield found
        finally:
            found.extend(self.found)
            self.found = None

    def _meet(self, output: object) -> None:
        if self.found is not None:
            self.found.append(pooled(output[0] if isinstance(output, tuple) else output))


def pooled(output: Tensor) -> Tensor:
    """(b, d) as it is; the mean over positions of maps (b, d, h, w) and of tokens (b, t, d)."""
    if output.ndim == 4:
        return output.mean((2, 3))
    return output.mean(1) if output.ndim == 3 else output


def _last_weight_layer(network: nn.Module, example: Tensor) -> str:
    layers = [name for name, m in network.named_modules() if isinstance(m, WEIGHT_LAYERS)]
    called = [call.name for call in calls(network, example, layers)]
    if not called:
        raise UserError("the algorithm compares representations, and the network has no linear or conv layer to find")
    return called[-1]

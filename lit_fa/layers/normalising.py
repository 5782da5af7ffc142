"""Stop-gradients that normalise, so that the input of a block does not contain the goodness of the block before."""

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from lit_fa.functional.credit import cut
from lit_fa.functional.goodness import divided, length, squares
from lit_fa.layers.taps import Taps


class NormalisingTaps(Taps):
    """Stop-gradients that normalise the output. The visitor also receives the sums of its squares (n,)."""

    def __init__(self, network: nn.Module, names: list[str], kind: str):
        """names: in the order of the forward pass; kind: see `functional.goodness.normalise`."""
        self.names, self.kind, self.stops = names, kind, False
        super().__init__(network, names)

    def visit(self, name: str, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """Call the visitor with output and squares; return the normalised output with a stop-gradient."""
        if self.visitor is None:
            return output
        if name in self.absent:
            if self.stops and name == self.names[-1]:
                raise _EnoughError
            return output
        tensor = output[0] if isinstance(output, tuple) else output
        passed = cut(tensor)
        sums = squares(passed)
        if name != self.given:
            self.visitor(name, tensor, sums)
        if self.stops and name == self.names[-1]:
            raise _EnoughError
        passed = divided(passed, length(sums, math.prod(passed.shape[1:]), self.kind))
        return (passed, *output[1:]) if isinstance(output, tuple) else passed

    def visit_all(self, visitor: Callable[[str, Tensor, Tensor], None], forward: Callable[[], Tensor]) -> None:
        """Run `forward`, a forward pass of the network, up to the last stop-gradient; the head is not computed."""
        self.stops = True
        try:
            with self.visited_by(visitor):
                forward()
        except _EnoughError:
            pass
        finally:
            self.stops = False


class _EnoughError(Exception):
    """The last stop-gradient has been reached."""

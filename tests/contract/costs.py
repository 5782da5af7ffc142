"""What a step costs, counted rather than timed: floating-point operations, matrix products, bytes alive at once."""

import gc
from collections import Counter
from collections.abc import Callable

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from lit_fa.callbacks.live_bytes import LiveBytes


def peak_bytes(step: Callable[[], object]) -> int:
    """Most bytes alive at once during `step`, above what was there before."""
    gc.collect()
    gc.disable()  # what dies, dies by its last reference: the count does not depend on the collector
    try:
        with LiveBytes() as alive:
            step()
        return alive.peak
    finally:
        gc.enable()


def flops(step: Callable[[], object]) -> int:
    """Floating-point operations of the matrix products and convolutions of `step` (2 for a multiply-add)."""
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


class Products(TorchDispatchMode):
    """Counts calls of matrix products by name; a convolution's backward counts each of the two it is asked for."""

    def __init__(self):
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name in ("mm", "addmm", "bmm", "convolution"):
            self.calls["product"] += 1
        elif name == "convolution_backward":
            wants_input, wants_weight, _ = args[-1]
            self.calls["product"] += wants_input + wants_weight
        return function(*args, **(kwargs or {}))


def products(step: Callable[[], object]) -> int:
    """Matrix products and convolutions that `step` issues."""
    with Products() as mode:
        step()
    return mode.calls["product"]

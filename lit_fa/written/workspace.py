"""Memory that is reused in every step."""

import math

from torch import Tensor


class Workspace:
    """Buffers by name; their views are contiguous."""

    def __init__(self, like: Tensor):
        """like: a tensor of the type and device of the memory."""
        self.like = like
        self.memory: dict[str, Tensor] = {}

    def __call__(self, name: str, *shape: int) -> Tensor:
        """A buffer of this shape, not initialised."""
        size = math.prod(shape)
        if name not in self.memory or self.memory[name].numel() < size:
            self.memory[name] = self.like.new_empty(size)
        return self.memory[name][:size].view(shape)

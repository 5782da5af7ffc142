"""Messages between the stages of a network: point to point, in the order in which they are sent."""

from collections import deque
from collections.abc import Hashable

import torch
from torch import Tensor
from torch import distributed as dist

from lit_fa.errors import UserError

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
MOST_DIMENSIONS = 8


class Link:
    """Sends activations to the next rank and receives them from the previous one; also logits from the last rank.

    A sent tensor is kept until its message has arrived; at most `ahead` messages to a rank are on their way, so a fast
    sender waits. The shape of a message is sent before the first message of every key, which both ranks know.

    Args:
        device: of the tensors.
        ahead: largest number of unfinished messages to one rank.
    """

    def __init__(self, device: torch.device, ahead: int = 2):
        """Without messages."""
        self.device, self.ahead = device, ahead
        self.sent: dict[int, deque[tuple[dist.Work, Tensor]]] = {}
        self.shapes: dict[tuple[int, Hashable, bool], tuple[torch.Size, torch.dtype]] = {}

    def send(self, tensor: Tensor, to: int, key: Hashable) -> None:
        """Start to send a tensor to a rank."""
        tensor = tensor.detach().contiguous()
        form = (tensor.shape, tensor.dtype)
        if (to, key, True) not in self.shapes:
            self._start(_described(tensor).to(self.device), to)
        if self.shapes.setdefault((to, key, True), form) != form:
            raise UserError(f"a block gives {[*form[0]]} for inputs for which it gave another shape: set strategy: ddp")
        self._start(tensor, to)

    def receive(self, source: int, key: Hashable) -> Tensor:
        """Wait for the next tensor of a rank."""
        if (source, key, False) not in self.shapes:
            described = torch.empty(MOST_DIMENSIONS + 2, dtype=torch.int64, device=self.device)
            dist.recv(described, source)
            kind, dimensions, *sizes = described.tolist()
            self.shapes[source, key, False] = (torch.Size(sizes[:dimensions]), DTYPES[kind])
        shape, dtype = self.shapes[source, key, False]
        tensor = torch.empty(shape, dtype=dtype, device=self.device)
        dist.recv(tensor, source)
        return tensor

    def finish(self) -> None:
        """Wait until every message has arrived."""
        for messages in self.sent.values():
            while messages:
                messages.popleft()[0].wait()

    def _start(self, tensor: Tensor, to: int) -> None:
        messages = self.sent.setdefault(to, deque())
        while len(messages) >= self.ahead:
            messages.popleft()[0].wait()
        work = dist.isend(tensor, to)
        assert work is not None  # both ranks are in the group
        messages.append((work, tensor))


def _described(tensor: Tensor) -> Tensor:
    """(2 + MOST_DIMENSIONS,): number of the dtype, number of dimensions, sizes."""
    sizes = [*tensor.shape, *[0] * (MOST_DIMENSIONS - tensor.ndim)]
    return torch.tensor([DTYPES.index(tensor.dtype), tensor.ndim, *sizes])

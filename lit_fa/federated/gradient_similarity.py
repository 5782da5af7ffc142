r"""Similarity of the clients' gradients in each layer: $S_l = \mathrm{mean}_{i<j} \cos(g_{i,l}, g_{j,l})$.

A client takes no step: its gradient is that of the loss over all of its data, by backprop, with the server's weights
and BatchNorm in training mode. Results are sums over clients, which can be added over ranks and nodes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial, reduce

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from lit_fa.errors import UserError
from lit_fa.federated.round_task import Round, client_seed
from lit_fa.functional.drift import clipped_sum, length_without_noise, mean_pairwise_cosine
from lit_fa.functional.feedback import named_generator
from lit_fa.layers.feedback import true_gradient, weight_of
from lit_fa.layers.observing import observing
from lit_fa.rules.base import Batch, Halves, Tensors
from lit_fa.rules.comparing import PrivateComparison
from lit_fa.rules.learner import Learner

CHUNK = 32  # images whose gradients are in memory at once


@dataclass
class Directions:
    """Sums over clients.

    Attributes:
        totals: layer to the sum of the unit vectors of its gradients (d,).
        squares: layer to the sum of their squared lengths: the number of clients, unless noise was subtracted.
        clients: number of clients.
    """

    totals: Tensors
    squares: Tensors
    clients: int

    def add(self, other: "Directions") -> "Directions":
        """The sum of two groups of clients."""
        for name, total in other.totals.items():
            self.totals[name] = self.totals[name] + total if name in self.totals else total
            self.squares[name] = (
                self.squares[name] + other.squares[name] if name in self.squares else other.squares[name]
            )
        self.clients += other.clients
        return self

    def alike(self) -> dict[str, float]:
        """Layer to S_l.

        Raises:
            UserError: there are fewer than two clients.
        """
        if self.clients < 2:
            raise UserError("layers are chosen by comparing clients, and there is one: set data.init_args.clients: 2")
        pairs = {name: (total, self.squares[name]) for name, total in self.totals.items()}
        return {name: mean_pairwise_cosine(*pair, self.clients).item() for name, pair in pairs.items()}


def check_comparable(learner: Learner, private: PrivateComparison | None) -> None:
    """Raise a UserError if a private comparison cannot clip the gradient of a single image."""
    if private is not None and (mixes := _mixing(learner)):
        raise UserError(f"private clips every image's own gradient, which {mixes} mixes: use a network with GroupNorm")


def directions(
    learner: Learner, round: Round, names: Sequence[str], seed: int, private: PrivateComparison | None = None
) -> Directions:
    """The gradient directions of these layers, for the clients of a round in which each sees all of its data."""
    check_comparable(learner, private)
    sums = Directions({}, {}, 0)
    devices = sorted({p.device.index for p in learner.parameters() if p.device.type == "cuda"})
    with observing(learner), true_gradient(learner.network), torch.random.fork_rng(devices):
        learner.train()
        for index, client in enumerate(round.clients):
            torch.manual_seed(client_seed(seed, round.number, client))
            sums.add(_of_client(learner, round, index, names, private))
    return sums


def _of_client(
    learner: Learner, round: Round, index: int, names: Sequence[str], private: PrivateComparison | None
) -> Directions:
    sums: list[Tensor] = []
    gradient = _gradient if private is None else partial(_clipped, clip=private.clip)
    for step in range(round.steps[index]):
        grads = gradient(learner, round.batch(index, step), names)
        sums = [a + b for a, b in zip(sums, grads, strict=True)] if sums else grads
    lengths = [torch.linalg.vector_norm(g) for g in sums]
    if private is not None:
        generator = named_generator(private.seed, "comparison", round.number, round.clients[index])
        deviation = private.noise * private.clip
        sums = [g + deviation * torch.randn(g.shape, generator=generator).to(g) for g in sums]
        lengths = [length_without_noise(g, deviation) for g in sums]
    units = {n: g / length.clamp_min(1e-30) for n, g, length in zip(names, sums, lengths, strict=True)}
    return Directions(units, {n: u.square().sum() for n, u in units.items()}, 1)


def _gradient(learner: Learner, batch: Batch, names: Sequence[str]) -> list[Tensor]:
    """The gradients summed over the samples of a batch, flat, in float64; sums of unequal batches can be added."""
    weights = [weight_of(learner.network.get_submodule(name)) for name in names]
    with torch.enable_grad():
        grads = torch.autograd.grad(learner(batch).value, weights)
    return [g.detach().flatten().double() * len(batch[1]) for g in grads]


def _clipped(learner: Learner, batch: Batch, names: Sequence[str], clip: float) -> list[Tensor]:
    """As `_gradient`, with the gradient of each sample over all layers clipped to the norm `clip`."""
    own = {f"{name}.weight": weight_of(learner.network.get_submodule(name)).detach() for name in names}
    weights = learner.join(Halves(own, {}))

    def loss(weights: Tensors, x: Tensor, y: Tensor) -> Tensor:
        return functional_call(learner, weights, ((x.unsqueeze(0), y.unsqueeze(0)),)).value

    sums: list[Tensor] = []
    with torch.no_grad():  # `grad` makes its own graph; one over the other parameters would hold every chunk in memory
        for x, y in zip(batch[0].split(CHUNK), batch[1].split(CHUNK), strict=True):
            rows = vmap(grad(loss), (None, 0, 0), randomness="different")(weights, x, y)
            sums.append(clipped_sum(torch.cat([g.flatten(1) for g in rows.values()], 1), clip).double())
    return [*reduce(torch.add, sums).split([w.numel() for w in weights.values()])]


def _mixing(learner: Learner) -> str:
    norms = (name for name, m in learner.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
    return next(norms, "")

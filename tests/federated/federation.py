"""A small federation with unequal clients, and a run of rounds on it without a trainer's data."""

import lightning as L
import numpy as np
import torch
from torch import nn

from lit_fa.datamodules.image_set import InMemory
from lit_fa.datamodules.rounds import LocalWork, RoundLoader
from lit_fa.federated import FederatedAlgorithm, LocalOptimizer
from lit_fa.modules import FederatedClassifier
from lit_fa.rules import LearningRule

POPULATION, CLASSES, INPUTS = 6, 4, 5


def loader(
    rounds: int = 3, seed: int = 0, work: LocalWork | None = None, sampled: int = 4, inputs: int = INPUTS
) -> RoundLoader:
    """Six clients of 3 to 29 samples; batches of 8, the last of a pass smaller; two passes."""
    g = torch.Generator().manual_seed(7)
    sizes = [3, 29, 8, 17, 12, 21]
    x = torch.randn(sum(sizes), inputs, generator=g, dtype=torch.float64)
    y = torch.randint(CLASSES, (sum(sizes),), generator=g)
    parts = list(torch.arange(sum(sizes)).split(sizes))
    return RoundLoader(InMemory(x, y), parts, sampled, work or LocalWork(8, 2), rounds_per_epoch=rounds, seed=seed)


def network(seed: int = 0, inputs: int = INPUTS) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(inputs, 7), nn.Tanh(), nn.Linear(7, CLASSES)).double()


def trained(
    algorithm: FederatedAlgorithm | None = None,
    local_optimizer: LocalOptimizer | None = None,
    *,
    rule: LearningRule | None = None,
    executor: str = "sequential",
    rounds: int = 3,
    net: nn.Module | None = None,
    inputs: int = INPUTS,
    work: LocalWork | None = None,
    **options,
) -> FederatedClassifier:
    """The module after `rounds` rounds."""
    net = network(inputs=inputs) if net is None else net
    module = FederatedClassifier(
        net, rule, algorithm, local_optimizer, executor=executor, num_classes=CLASSES, image_shape=(inputs,), **options
    )
    quiet(max_epochs=1).fit(module, loader(rounds, inputs=inputs, work=work))
    return module


def quiet(**options) -> L.Trainer:
    """A trainer that writes nothing."""
    silent = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    return L.Trainer(**{"accelerator": "cpu", **silent, **options})


def weights(module: FederatedClassifier) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in module.learner.named_parameters()}


def largest_difference(a: dict, b: dict) -> float:
    assert a.keys() == b.keys()
    pairs = {k: (torch.as_tensor(a[k]).double(), torch.as_tensor(b[k]).double()) for k in a}
    assert all(x.shape == y.shape for x, y in pairs.values())
    return max((x - y).abs().max().item() for x, y in pairs.values() if x.numel())


def as_reference(net: nn.Module) -> dict[str, np.ndarray]:
    """The network as `tests/reference/federated.py` reads it."""
    return {name: p.detach().numpy().copy() for name, p in zip(("W1", "b1", "W2", "b2"), net.parameters(), strict=True)}


def literal_rounds(rounds: int = 3) -> list[list[dict]]:
    """Each round's clients as plain arrays."""
    found = []
    for round in loader(rounds):
        batches = [
            [tuple(t.numpy() for t in round.batch(lane, step)) for step in range(steps)]
            for lane, steps in enumerate(round.steps)
        ]
        clients = zip(round.clients, round.sizes, batches, strict=True)
        found.append([{"id": c, "size": n, "batches": b} for c, n, b in clients])
    return found

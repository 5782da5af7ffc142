"""Learners without a trainer, whole or divided between two ranks, for `test_sharded.py`."""

import os

import torch
from torch import distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from lit_fa.layers.sharding import local
from lit_fa.modules.groups import parameter_groups
from lit_fa.rules.base import Does, Progress
from lit_fa.rules.learner import Learner
from tests.cases import RULES
from tests.contract.training import IMAGE, NETWORKS, network_for, wholes
from tests.small_networks import CLASSES

STEPS = 3
MEASURED = ("backprop", "fa_uniform", "dfa_dense", "kolen_pollack")


def learner_of(rule: str) -> Learner:
    """In float64, on the first network that the rule can be on."""
    network = NETWORKS[network_for(rule)](0.0).double()
    return Learner(network, RULES[rule][0](), torch.zeros(2, *IMAGE, dtype=torch.float64))


def learn(learner: Learner, rank: int = 0, ranks: int = 1) -> dict[str, torch.Tensor]:
    """A few steps on this rank's part of every batch; the whole state afterwards."""
    generator = torch.Generator().manual_seed(5)
    optimizer = torch.optim.SGD(parameter_groups(learner, {}), lr=0.05, momentum=0.9, weight_decay=1e-2)
    for step in range(STEPS):
        x = torch.randn(8, *IMAGE, generator=generator, dtype=torch.float64)
        y = torch.randint(CLASSES, (8,), generator=generator)
        learner((x[rank::ranks], y[rank::ranks])).value.backward()
        learner.edit_gradients(Progress(step, 0, STEPS, 1, step == STEPS - 1))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if Does.EVOLVES in learner.rule.does:
            learner.after_step(Progress(step + 1, 0, STEPS, 1, step == STEPS - 1))
    return wholes(learner.state_dict())


def sharded(options: tuple[list[str], str]) -> None:
    """On each rank: `learn` every rule with a divided learner, and leave the states and the shares of memory."""
    names, out = options
    if not dist.is_initialized():
        rank = int(os.environ["LOCAL_RANK"])
        dist.init_process_group("gloo", rank=rank, world_size=2)
    rank, mesh = dist.get_rank(), init_device_mesh("cpu", (2,))
    states, shares = {}, {}
    for name in names:
        learner = learner_of(name)
        learner.shard(mesh)
        states[name] = learn(learner, rank, 2)
    for name in MEASURED:
        learner = wide(name)
        before = _bytes(learner)
        learner.shard(mesh)
        shares[name] = _bytes(learner) / before
    torch.save({"states": states, "shares": shares}, f"{out}.{rank}")


def wide(rule: str) -> Learner:
    """Of a network whose weights outnumber its biases, as in practice."""
    layers = [torch.nn.Flatten(), torch.nn.Linear(128, 64), torch.nn.ReLU(), torch.nn.Linear(64, 64), torch.nn.ReLU()]
    network = torch.nn.Sequential(*layers, torch.nn.Linear(64, 10))
    return Learner(network, RULES[rule][0](), torch.zeros(2, *IMAGE))


def _bytes(learner: Learner) -> int:
    return sum(local(tensor).nbytes for tensor in learner.state_dict().values())

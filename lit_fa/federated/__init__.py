"""Rounds of federated learning, without Lightning: how clients train, what algorithms add, which executor runs it.

FedAvg, literally:

>>> import torch
>>> from lit_fa.datamodules.image_set import InMemory
>>> from lit_fa.datamodules.rounds import LocalWork, RoundLoader
>>> data, clients = InMemory(torch.randn(12, 3), torch.arange(12) % 2), [torch.arange(4), torch.arange(4, 12)]
>>> round = RoundLoader(data, clients, clients_per_round=2, work=LocalWork(batch_size=4, epochs=2)).round(0)
>>> def local_training(weight, batches):
...     for x, y in batches:
...         loss = torch.nn.functional.cross_entropy(x @ weight.T, y)
...         weight = weight - 0.1 * torch.autograd.grad(loss, weight)[0]
...     return weight
>>> network = torch.nn.Linear(3, 2, bias=False)
>>> batches = [[round.batch(client, step) for step in range(round.steps[client])] for client in range(2)]
>>> trained = [local_training(network.weight, own) for own in batches]
>>> average = sum(n / sum(round.sizes) * weight for n, weight in zip(round.sizes, trained))

The same by an executor, which takes any network, rule, algorithm and local optimiser (see `client_step`):

>>> from lit_fa.federated.round_task import LocalTraining, RoundTask
>>> from lit_fa.federated.sequential import SequentialExecutor
>>> from lit_fa.modules import Learner
>>> from lit_fa.rules import Backprop
>>> learner, local = Learner(network, Backprop(), data.images[:2]), LocalTraining(FedAvg(), LocalSGD(0.1))
>>> weights = FedAvg().client_weights(round.sizes, round.steps, local.optimizer)
>>> server = {name: p.detach().clone() for name, p in learner.named_parameters()}
>>> task = RoundTask(round, weights, weights, server, buffers={}, states=[{}, {}], server={}, lr=0.1)
>>> result = SequentialExecutor().run(learner, local, task)
>>> torch.allclose(server["network.weight"] - result.update["network.weight"], average)
True
"""

from lit_fa.federated.algorithms import (
    FedAvg,
    FedDecorr,
    FedDyn,
    FederatedAlgorithm,
    FedNova,
    FedProx,
    Moon,
    Scaffold,
)
from lit_fa.federated.local_optimizers import LocalAdam, LocalOptimizer, LocalSchedule, LocalSGD
from lit_fa.federated.server_optimizers import FedAdam, FedYogi

__all__ = [
    "FedAdam",
    "FedAvg",
    "FedDecorr",
    "FedDyn",
    "FedNova",
    "FedProx",
    "FedYogi",
    "FederatedAlgorithm",
    "LocalAdam",
    "LocalOptimizer",
    "LocalSGD",
    "LocalSchedule",
    "Moon",
    "Scaffold",
]

"""Rounds of federated learning, without Lightning: how clients train, what algorithms add, who computes it."""

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

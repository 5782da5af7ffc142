"""Federated algorithms: terms at clients and server besides the rule; one file per paper."""

from lit_fa.federated.algorithms.base import FederatedAlgorithm
from lit_fa.federated.algorithms.fed_avg import FedAvg
from lit_fa.federated.algorithms.fed_decorr import FedDecorr
from lit_fa.federated.algorithms.fed_dyn import FedDyn
from lit_fa.federated.algorithms.fed_nova import FedNova
from lit_fa.federated.algorithms.fed_prox import FedProx
from lit_fa.federated.algorithms.moon import Moon
from lit_fa.federated.algorithms.scaffold import Scaffold

__all__ = ["FedAvg", "FedDecorr", "FedDyn", "FedNova", "FedProx", "FederatedAlgorithm", "Moon", "Scaffold"]

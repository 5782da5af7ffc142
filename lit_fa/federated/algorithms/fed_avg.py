r"""FedAvg: "a server that performs model averaging" of clients that take several steps on their own data.

McMahan et al. 2017, arXiv:1602.05629, algorithm 1: $w \leftarrow \sum_i \tfrac{n_i}{n} w_i$. As a gradient:
$\Delta = \sum_i p_i (w_0 - w_i)$, and SGD with rate one.
"""

from dataclasses import dataclass
from typing import ClassVar

from lit_fa.federated.algorithms.base import FederatedAlgorithm


@dataclass(frozen=True)
class FedAvg(FederatedAlgorithm):
    """Weights by samples. FedAvgM, FedAdam and FedYogi are this algorithm with another server optimiser.

    >>> from lit_fa.federated import LocalSGD
    >>> FedAvg().client_weights(sizes=[10, 30], steps=[1, 3], optimizer=LocalSGD()).tolist()
    [0.25, 0.75]
    """

    paper: ClassVar[str] = "McMahan et al. 2017, arXiv:1602.05629"

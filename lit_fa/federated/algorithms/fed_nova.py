r"""FedNova: normalised averaging, in which clients with more local steps do not have more weight.

Wang et al. 2020, arXiv:2007.07481: with $d_i = (w_0 - w_i) / a_i$ the server takes
$w \leftarrow w_0 - \tau_{\mathrm{eff}} \sum_i p_i d_i$, $\tau_{\mathrm{eff}} = \sum_i p_i a_i$. For plain SGD
$a_i = \tau_i$; with momentum $\rho$ $a_i = [\tau_i - \rho (1 - \rho^{\tau_i}) / (1 - \rho)] / (1 - \rho)$.

With equal local steps this is FedAvg.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lit_fa.errors import UserError
from lit_fa.federated.algorithms.base import FederatedAlgorithm
from lit_fa.federated.local_optimizers import LocalOptimizer, LocalSGD


@dataclass(frozen=True)
class FedNova(FederatedAlgorithm):
    """Normalised averaging, for LocalSGD with or without momentum.

    >>> FedNova().client_weights(sizes=[10, 10], steps=[1, 4], optimizer=LocalSGD()).tolist()
    [1.25, 0.3125]
    """

    paper: ClassVar[str] = "Wang et al. 2020, arXiv:2007.07481"

    def check(self, optimizer: LocalOptimizer) -> None:
        """Refuse all but SGD without Nesterov's form.

        Raises:
            UserError: another local optimiser.
        """
        if not isinstance(optimizer, LocalSGD) or optimizer.nesterov:
            raise UserError("FedNova normalises by the steps of SGD: use LocalSGD without nesterov")

    def client_weights(self, sizes: Sequence[int], steps: Sequence[int], optimizer: LocalOptimizer) -> Tensor:
        """p_i tau_eff / a_i."""
        assert isinstance(optimizer, LocalSGD)  # by `check`
        p = super().client_weights(sizes, steps, optimizer)
        tau, rho = torch.tensor(steps, dtype=torch.float64), optimizer.momentum
        a = (tau - rho * (1 - rho**tau) / (1 - rho)) / (1 - rho)
        return p * (p * a).sum() / a

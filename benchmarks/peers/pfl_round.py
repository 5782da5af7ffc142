"""The round of `benchmarks.federated` under pfl (pip install 'pfl[pytorch]'): median wall seconds of a round.

    python benchmarks/peers/pfl_round.py DATA.npz ROUNDS [1]

DATA.npz contains x (60000, 784) float32, y and parts (100, 600). One process, one thread; the first round does not
count. pfl samples the clients itself, so the weights differ from ours, but the amount of work is the same.
"""

import json
import statistics
import sys
import time
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from torch import nn


class Net(nn.Module):
    """784-200-200-10."""

    def __init__(self) -> None:
        """As in the benchmark."""
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(784, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, 10))

    def loss(self, x: torch.Tensor, y: torch.Tensor, eval: bool = False) -> torch.Tensor:
        """Mean cross-entropy."""
        return F.cross_entropy(self.layers(x), y)

    @torch.no_grad()
    def metrics(self, x: torch.Tensor, y: torch.Tensor, eval: bool = True) -> dict[str, Any]:
        """Metrics, which pfl requires."""
        return {"loss": Weighted(self.loss(x, y).item() * len(y), len(y))}


class Clock(TrainingProcessCallback):  # type: ignore[misc]  # pfl has an environment of its own
    """Wall seconds between rounds."""

    def __init__(self) -> None:
        """Start before the first."""
        self.last = time.perf_counter()
        self.times: list[float] = []

    def after_central_iteration(
        self, aggregate_metrics: Any, model: Any, *, central_iteration: int
    ) -> tuple[bool, Any]:
        """Read the clock."""
        now = time.perf_counter()
        self.times.append(now - self.last)
        self.last = now
        return False, Metrics()


def main(data: str, rounds: int) -> None:
    """The command line."""
    torch.set_num_threads(1)
    arrays = np.load(data)
    x, y, parts = torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["y"]), arrays["parts"]
    users = {str(client): Dataset((x[part], y[part])) for client, part in enumerate(parts)}
    drawn = np.random.default_rng(0)
    clients = FederatedDataset(
        make_dataset_fn=lambda user: users[user], user_sampler=lambda: str(drawn.integers(len(parts)))
    )
    net = Net()
    model = PyTorchModel(
        net,
        local_optimizer_create=torch.optim.SGD,
        central_optimizer=torch.optim.SGD(net.parameters(), lr=1.0),
    )
    backend = SimulatedBackend(training_data=clients, val_data=None)
    train = NNTrainHyperParams(
        local_learning_rate=0.1, local_num_epochs=1, local_batch_size=10, local_max_grad_norm=None
    )
    params = NNAlgorithmParams(
        central_num_iterations=rounds + 1, evaluation_frequency=10**9, train_cohort_size=10, val_cohort_size=0
    )
    clock = Clock()
    FederatedAveraging().run(
        algorithm_params=params,
        backend=backend,
        model=model,
        model_train_params=train,
        model_eval_params=NNEvalHyperParams(local_batch_size=1000),
        callbacks=[clock],
    )
    print(json.dumps({"seconds": statistics.median(clock.times[1:])}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))

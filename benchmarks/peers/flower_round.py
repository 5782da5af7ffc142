"""The round of `benchmarks.federated` under Flower (pip install 'flwr[simulation]'): median wall seconds of a round.

    python benchmarks/peers/flower_round.py DATA.npz ROUNDS ACTORS

DATA.npz contains x (60000, 784) float32, y and parts (100, 600). An actor has one thread; its client is the tuned loop;
the first round does not count. Flower samples the clients itself, so the weights differ from ours, but the amount of
work is the same.
"""

import json
import os
import statistics
import sys
import time
from functools import cache
from typing import Any

os.environ |= {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "RAY_USAGE_STATS_ENABLED": "0"}

import itertools

import numpy as np
import torch
import torch.nn.functional as F
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from torch import nn

client, server = ClientApp(), ServerApp()


@cache
def data() -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """The data, read once in every actor."""
    torch.set_num_threads(1)
    arrays = np.load(os.environ["PEER_DATA"])
    return torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["y"]), arrays["parts"]


@cache
def network() -> nn.Module:
    """784-200-200-10, reused."""
    return nn.Sequential(nn.Linear(784, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, 10))


@client.train()
def train(message: Message, context: Context) -> Message:
    """One local epoch."""
    x, y, parts = data()
    net, part = network(), torch.from_numpy(parts[int(context.node_config["partition-id"])])
    net.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
    params: list[torch.Tensor] = list(net.parameters())
    for places in part[torch.randperm(len(part))].split(10):
        grads = torch.autograd.grad(F.cross_entropy(net(x[places]), y[places]), params)
        with torch.no_grad():
            torch._foreach_add_(params, grads, alpha=-0.1)
    metrics = MetricRecord({"num-examples": len(part)})
    return Message(content=RecordDict({"arrays": ArrayRecord(net.state_dict()), "metrics": metrics}), reply_to=message)


@server.main()
def serve(grid: Grid, context: Context) -> None:
    """FedAvg; the clock is read when the global model would be evaluated."""
    times = [time.perf_counter()]

    def read_clock(number: int, arrays: ArrayRecord) -> MetricRecord:
        times.append(time.perf_counter())
        return MetricRecord({})

    strategy = FedAvg(fraction_train=0.1, min_train_nodes=10, fraction_evaluate=0.0, min_available_nodes=100)
    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(network().state_dict()),
        num_rounds=int(os.environ["PEER_ROUNDS"]) + 1,
        evaluate_fn=read_clock,
    )
    spent = [b - a for a, b in itertools.pairwise(times)][2:]  # without the start and the first round
    print(json.dumps({"seconds": statistics.median(spent)}), flush=True)


if __name__ == "__main__":
    os.environ |= {"PEER_DATA": sys.argv[1], "PEER_ROUNDS": sys.argv[2]}
    sys.path.insert(0, os.path.dirname(__file__))
    import flower_round  # importable by name, or every message would carry a pickle of this file

    resources: dict[str, Any] = {
        "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        "init_args": {"num_cpus": int(sys.argv[3])},
    }
    run_simulation(
        server_app=flower_round.server, client_app=flower_round.client, num_supernodes=100, backend_config=resources
    )

"""Memory, checkpoints and time of federations with many clients; every measurement in a process of its own.

    python -m benchmarks.clients [--json FILE] [--only states|million]

`states`: SCAFFOLD on the MLP 784-200-10 until 1,000 and until 10,000 clients have a state, 100 clients a round:
resident memory after the last round, the checkpoint file and the file of the states. `million`: one million clients of
a synthetic set, FedAvg: processor seconds of the partitions, and of making a round of 100 clients.
"""

import argparse
import json
import logging
import multiprocessing
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_fa.datamodules import partition
from lit_fa.datamodules.image_set import InMemory
from lit_fa.datamodules.rounds import LocalWork, RoundLoader, checked_parts
from lit_fa.federated import LocalSGD, Scaffold
from lit_fa.modules import FederatedClassifier
from lit_fa.outputs import writable_file, write_text

MIB = 1 << 20
COHORT = 100  # clients of a round


def states(clients: int) -> dict[str, float]:
    """Resident memory, checkpoint and store in MiB after every client has been in a round."""
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    images = InMemory(torch.rand(clients, 784), torch.arange(clients) % 10)
    loader = RoundLoader(
        images, list(torch.arange(clients).split(1)), COHORT, LocalWork(1, 1), rounds_per_epoch=clients // COHORT
    )
    loader.cohort = lambda number: [*range(COHORT * number, COHORT * (number + 1))]  # type: ignore[method-assign]
    module = FederatedClassifier(
        "mlp", None, Scaffold(), LocalSGD(0.01), executor="sequential", network_args={"hidden": [200]},
        image_shape=(1, 28, 28), input_shape=(784,),
    )  # fmt: skip
    silent: dict[str, Any] = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    with tempfile.TemporaryDirectory() as folder:
        keeper = ModelCheckpoint(folder, "last", every_n_train_steps=clients // COHORT, enable_version_counter=False)
        trainer = L.Trainer(accelerator="cpu", max_epochs=1, callbacks=[keeper], **silent)
        began = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer.fit(module, loader)
        seconds = (time.process_time() - began) / len(loader)
        store = sum(path.stat().st_blocks * 512 for path in Path(folder).glob("clients-*/*"))
        checkpoint = (Path(folder) / "last.ckpt").stat().st_size
    return {
        "clients with a state": len(module.states), "resident MiB": resident(), "checkpoint MiB": checkpoint / MIB,
        "store MiB": store / MIB, "CPU s a round": seconds,
    }  # fmt: skip


def million(clients: int = 1_000_000, samples: int = 10) -> dict[str, float]:
    """Processor seconds of the partitions of `samples` images a client, and of a round."""
    torch.set_num_threads(1)
    labels = np.arange(clients * samples) % 10
    found: dict[str, float] = {}
    schemes: dict[str, Callable[[], partition.Parts]] = {
        "iid": partial(partition.iid, labels, clients, 0),
        "shards": partial(partition.shards, labels, clients, 0),
        "dirichlet 0.5, 1 sample at least": partial(partition.dirichlet, labels, clients, 0.5, 0, min_size=1),
    }
    parts: Any = None
    for name, scheme in schemes.items():
        began = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            parts = checked_parts(scheme(), len(labels))
        found[f"partition, {name}: CPU s"] = time.process_time() - began
    loader = RoundLoader(
        InMemory(torch.zeros(len(labels), 1), torch.from_numpy(labels)), parts, COHORT, LocalWork(5, 2)
    )
    began, rounds = time.process_time(), 10
    for number in range(rounds):
        loader.round(number)
    found["a round: CPU ms"] = 1e3 * (time.process_time() - began) / rounds
    found["resident MiB"] = resident()
    return found


def resident() -> float:
    """Resident memory of this process now, in MiB."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE") / MIB


def alone(measure: Callable[..., dict[str, float]], *args: int) -> dict[str, float]:
    """What `measure` returns in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, args)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="file for the numbers")
    parser.add_argument("--only", choices=["states", "million"])
    asked = parser.parse_args()
    if asked.json:
        writable_file(asked.json, "--json")
    found: dict[str, dict[str, float]] = {}
    if asked.only != "million":
        found |= {f"SCAFFOLD, {clients:,} clients": alone(states, clients) for clients in (1_000, 10_000)}
    if asked.only != "states":
        found["FedAvg, 1,000,000 clients"] = alone(million)
    for name, values in found.items():
        print(name)
        for what, value in values.items():
            print(f"  {what}: {value:,.2f}")
    if asked.json:
        write_text(asked.json, json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()

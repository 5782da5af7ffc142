"""Cost of the exported network at several ranks, compared with the dense network, on one thread.

    python -m benchmarks.deployed [--networks vgg13_cifar,resnet32_cifar,conv3_32_64_128] [--ranks 0.5,0.25,0.125]
                                  [--batches 1,32] [--rounds 15] [--json FILE]

Both alternate in one process; `time` is the median over rounds of (exported / dense in the same round). `by macs` and
`by time` are the two criteria for the form of a layer, see `lit-fa export --by`. The weights are random, because
neither multiply-adds nor times depend on them.
"""

import argparse
import json
from typing import Any, get_args

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from lit_fa.deployment.measure import compared, dense_twin
from lit_fa.deployment.simplify import By, simplified
from lit_fa.networks import create_network
from lit_fa.outputs import writable_file, write_text
from lit_fa.rules import SVDBackprop
from lit_fa.rules.learner import Learner


def row_of(name: str, rank: float, batch: int, by: By, rounds: int) -> dict[str, Any]:
    """Parameters, multiply-adds and time of one export, relative to the dense network."""
    torch.manual_seed(0)
    x = torch.randn(max(batch, 2), 3, 32, 32)
    network = create_network(name, 10, (3, 32, 32))
    Learner(network, SVDBackprop(rank=rank), x[:2])
    networks = {"dense": dense_twin(network, x[:batch]), "exported": simplified(network, x[:batch], by)}
    costs = compared(networks, x[:batch], rounds)
    shares = {key: costs["exported"][key] / costs["dense"][key] for key in ("parameters", "macs")}
    times = {"ms": costs["exported"]["ms"], "dense_ms": costs["dense"]["ms"], "time": costs["exported"]["ratio"]}
    return {"network": name, "rank": rank, "batch": batch, "by": by} | shares | times


def show(rows: list[dict[str, Any]]) -> None:
    """Print the rows."""
    table = Table(title=f"exported / dense, one thread, torch {torch.__version__}")
    for column in ("network", "rank", "batch", "by", "parameters", "MACs", "time", "ms", "dense ms"):
        table.add_column(column, justify="left" if column in ("network", "by") else "right")
    for r in rows:
        shares = (f"{r[key]:.2f}" for key in ("parameters", "macs", "time"))
        table.add_row(
            r["network"], f"{r['rank']:g}", str(r["batch"]), r["by"], *shares, f"{r['ms']:.2f}", f"{r['dense_ms']:.2f}"
        )
    Console(width=100).print(table)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", default="vgg13_cifar,resnet32_cifar,conv3_32_64_128")
    parser.add_argument("--ranks", default="0.5,0.25,0.125")
    parser.add_argument("--batches", default="1,32")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", metavar="FILE", help="write the rows there")
    options = parser.parse_args()
    if options.json:
        writable_file(options.json, "--json")
    torch.set_num_threads(1)
    cases = [
        (name, float(rank), int(batch), by)
        for name in options.networks.split(",")
        for rank in options.ranks.split(",")
        for batch in options.batches.split(",")
        for by in get_args(By)
    ]
    rows = [row_of(*case, options.rounds) for case in track(cases, "timing", console=Console(stderr=True))]
    show(rows)
    if options.json:
        write_text(
            options.json, json.dumps({"rows": rows, "torch": torch.__version__, "threads": 1}, indent=1), "--json"
        )


if __name__ == "__main__":
    main()

"""Two runs of one config leave the same record, in whatever order Python's sets are read in their processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TIMES = ("wall_time_s", "cpu_time_s", "peak_memory_mib", "started", "finished")
SCRIPT = """
import copy, sys
from pathlib import Path
from lit_fa.callbacks import gradient_alignment
from lit_fa.experiment import run
from tests.cli.test_command_line import RUN

folder, averaged, mean = Path(sys.argv[1]), [], gradient_alignment._named

def noted(kind, angles, inexact):
    averaged.append([*angles.items()])
    return mean(kind, angles, inexact)

gradient_alignment._named = noted  # a record holds what is rounded to float32: the order of the sums shows more
watched = copy.deepcopy(RUN)
watched["trainer"]["callbacks"] = [
    {"class_path": f"callbacks.{name}"} for name in ("GradientAlignment", "WeightAlignment", "AlignmentDominance")
]
watched["data"]["init_args"]["limit_train"] = 512
watched["model"]["init_args"]["network_args"] = {"hidden": [8] * 9}
rounds = copy.deepcopy(watched)
rounds["trainer"]["callbacks"] = [{"class_path": "callbacks.ClientDrift"}]
rounds["model"] = {
    "class_path": "FederatedClassifier",
    "init_args": {"network": "mlp", "rule": {"class_path": "FLFA"}, "executor": "stacked"},
}
data = {"data": {"class_path": "Digits"}, "clients": 8, "clients_per_round": 4, "rounds_per_epoch": 2}
rounds["data"] = {"class_path": "Federated", "init_args": data}
for name, config in (("watched", watched), ("rounds", rounds)):
    run(config, {"path": str(folder / f"{name}.json"), "id": name}, test=False)
(folder / "averaged").write_text(repr(averaged), encoding="utf-8")
"""


@pytest.mark.slow  # starts processes with two hash seeds; tests/test_order.py reads the source for the same fault
def test_records_do_not_depend_on_the_order_of_sets(tmp_path):
    seeds = ("1", "2")
    started = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(tmp_path / seed)],
            env=os.environ | {"PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
        )
        for seed in seeds
    ]
    for process in started:
        said, _ = process.communicate(timeout=1200)
        assert process.returncode == 0, said[-2000:]
    for name in ("watched", "rounds"):
        first, second = (timeless(tmp_path / seed / f"{name}.json") for seed in seeds)
        assert first == second
    first, second = ((tmp_path / seed / "averaged").read_text(encoding="utf-8") for seed in seeds)
    assert len(first) > 1000  # angles of layers by name
    assert first == second


def timeless(path: Path) -> dict:
    return {key: value for key, value in json.loads(path.read_text()).items() if key not in TIMES}

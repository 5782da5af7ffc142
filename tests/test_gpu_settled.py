"""The script for one CUDA device, at its tiny setting on a processor."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.gpu_settled.__main__ import main
from benchmarks.gpu_settled.configs import PAPERS, Item
from benchmarks.gpu_settled.plan import CONNECTED, CONVOLUTIONAL, PLAN
from benchmarks.gpu_settled.training import OutOfTime, train, with_epochs
from lit_fa.spec.expand import expand
from lit_fa.spec.overrides import run_id
from lit_fa.spec.table import load_table

# packages that the device's machine lacks, hidden as if they were not installed
BARE = """
import importlib.abc, importlib.metadata, sys
hidden = {"jsonargparse", "docstring_parser", "typeshed_client", "wandb", "pydantic", "optuna", "medmnist"}
class Hide(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in hidden:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Hide())
real = importlib.metadata.distribution
def distribution(name):
    if name.replace("-", "_") in hidden:
        raise importlib.metadata.PackageNotFoundError(name)
    return real(name)
importlib.metadata.distribution = distribution
importlib.metadata.version = lambda name: distribution(name).version
from benchmarks.gpu_settled.__main__ import main
sys.exit(main(sys.argv[1:]))
"""
SMALL = {
    "seed_everything": 0,
    "trainer": {"max_epochs": 200, "logger": False, "enable_progress_bar": False, "enable_model_summary": False},
    "model": {
        "init_args": {
            "network": "mlp",
            "network_args": {"hidden": [8]},
            "rule": {"class_path": "lit_fa.rules.DirectFeedbackAlignment"},
            "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.01}},
            "scheduler": {"class_path": "torch.optim.lr_scheduler.CosineAnnealingLR", "init_args": {"T_max": 200}},
        }
    },
    "data": {"class_path": "datamodules.Synthetic", "init_args": {"n_train": 32, "n_test": 16, "batch_size": 16}},
}
ITEM = Item("ssa/small.yaml", "DFA", "conv 96-192-512")


@pytest.mark.parametrize("table", ["ssa/small.yaml", "ssa/table2.yaml", *CONVOLUTIONAL, *CONNECTED])
def test_a_run_has_the_config_of_the_table_s_cell(table):
    loaded = load_table(PAPERS / table)
    ids = {(run.cell.row, run.cell.column, run.seed): run.id for run in expand(loaded, loaded.scale("full"))}
    items = [item for item in PLAN if item.table == table]
    assert [run_id(item.config()) for item in items] == [ids[item.row, item.column, item.seed] for item in items]
    assert len({item.key for item in PLAN}) == len(PLAN)


def test_every_cell_of_the_papers_convolutional_networks_is_in_the_plan():
    for table in CONVOLUTIONAL:
        cells = {(cell.row, cell.column) for cell in load_table(PAPERS / table).cells if "full" in cell.scales}
        assert {(item.row, item.column) for item in PLAN if item.table == table} == cells


def test_backprop_direct_feedback_and_ssa_come_first():
    assert [item.row for item in PLAN[:3]] == ["BP", "DFA", "SSA, direct_random"]
    assert (PLAN[2].column, PLAN[2].published["value"]) == ("conv 96-192-512", 86.2)
    assert {item.row for item in PLAN[:12]} == {"BP", "DFA", "SSA, direct_random"}


def test_a_run_that_was_stopped_in_time_goes_on_and_ends_as_if_it_never_was(tmp_path):
    config, never = with_epochs(SMALL, 3), time.monotonic() + 3600
    whole = train(ITEM, config, tmp_path / "whole", never, compiled=False)
    for _ in range(2):
        with pytest.raises(OutOfTime):
            train(ITEM, config, tmp_path / "parts", time.monotonic(), compiled=False)
        assert not (tmp_path / "parts/records").is_dir() or not list((tmp_path / "parts/records").glob("*.json"))
    parts = train(ITEM, config, tmp_path / "parts", never, compiled=False)
    assert parts["metrics"]["test/loss"] == whole["metrics"]["test/loss"]
    assert [parts[key] for key in ("status", "id", "row", "scale")] == ["finished", whole["id"], "DFA", "gpu"]
    assert not list((tmp_path / "parts/checkpoints").glob("*"))


def test_only_without_a_run_is_refused_in_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--only", "cll-conv", "--out", str(tmp_path)])
    assert stopped.value.code == 2
    assert "--only cll-conv: no run has this in its name" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_it_runs_end_to_end_where_only_torch_and_lightning_are_installed(tmp_path):
    command = [sys.executable, "-c", BARE, "--tiny", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]
    results = json.loads((tmp_path / "results.json").read_text())
    assert (results["left"], results["failed"]) == ([], [])
    rows = ["CCL", "Mono-Forward", "PEPITA", "DLL, paper's sign", "EBD"]
    assert [run["row"] for run in results["runs"]] == ["BP", "DFA", "SSA, direct_random", *rows]
    assert {run["status"] for run in results["runs"]} == {"finished"}
    assert [row["rule"] for row in results["race"]] == ["BP", "FA", "DFA"]
    assert {row["network"] for row in results["steps"]} == {"VGG-13", "ResNet-32", "ViT-Tiny"}
    assert all(row["share_of_peak"] > 0 for row in results["steps"])
    assert [(row["network"], row["lanes"]) for row in results["packs"]] == [("MLP, written", 3), ("LeNet, mapped", 3)]
    assert all(row["one"] > 0 and row["many"] > 0 and row["packed"] > 0 for row in results["packs"])
    table = results["packed_table"]
    assert (table["runs"], table["lanes"], len(table["accuracies"])) == (14, 10, 14)
    assert len(list((tmp_path / "records").glob("*.json"))) == 8 + 14
    best = json.loads((tmp_path / "records" / f"{Item('ccl/conv.yaml', 'CCL', 'CIFAR-10').key}.json").read_text())
    assert best["paper"] == "ccl"
    assert best["metrics"]["best_validation/test/accuracy"] >= 0
    assert "| conv 96-192-512 | BP | 0 | 1 | Synthetic |" in (tmp_path / "results.md").read_text()

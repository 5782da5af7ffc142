"""The first and the last point of every shipped sweep train, for an epoch of small data, and log the sweep's metric."""

import json
from pathlib import Path

import pytest

from lit_fa.experiment import run
from lit_fa.spec.sweep import Sweep, load_sweep
from lit_fa.spec.sweep_command import flags

ROOT = Path(__file__).parents[2]
SWEEPS = sorted((ROOT / "paper_configs").glob("*/sweep_*.yaml"))
IMAGES = "'n_train': 64, 'n_test': 32, 'batch_size': 32, 'val_size': 0.2"
# words that come last: data that are small and always there; of papers whose network wants another shape, those below
DIGITS = ["--data={'class_path': 'datamodules.Digits', 'init_args': {'batch_size': 64, 'val_size': 0.2}}"]
SMALL = {
    "conservation": [],
    "fedfwd": [
        "--data.init_args.data={'class_path': 'datamodules.Digits', 'init_args': {'flatten': true, 'val_size': 0.2}}",
        "--data.init_args.clients=10",
        "--data.init_args.clients_per_round=2",
        "--model.init_args.validate_every=1",
    ],
    "flfa": [
        "--data.init_args.data={'class_path': 'datamodules.Digits', 'init_args': {'val_size': 0.2}}",
        "--data.init_args.clients=5",
        "--data.init_args.clients_per_round=2",
        "--data.init_args.local_epochs=1",
    ],
    "fwm": [
        "--pretrain=null",
        f"--data={{'class_path': 'datamodules.Synthetic', 'init_args': {{'image_shape': [1, 6, 6], {IMAGES}}}}}",
        "--model.init_args.network_args={'width': 16, 'depth': 3}",
    ],
    "ssa": [f"--data={{'class_path': 'datamodules.Synthetic', 'init_args': {{'image_shape': [3, 32, 32], {IMAGES}}}}}"],
}


def ends(sweep: Sweep) -> list[dict]:
    """What Optuna would draw in two corners of the space."""
    if sweep.method == "grid":
        return [sweep.grid()[0], sweep.grid()[-1]]
    limits = {n: getattr(p.search, "choices", None) or (p.search.low, p.search.high) for n, p in sweep.searched.items()}
    return [{name: values[at] for name, values in limits.items()} for at in (0, -1)]


@pytest.mark.parametrize("corner", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("path", [pytest.param(path, id=f"{path.parent.name}/{path.stem}") for path in SWEEPS])
def test_a_corner_of_a_sweep_trains(path, corner, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    sweep = load_sweep(path)
    before, after = sweep.command
    drawn = ends(sweep)[corner]
    words = [*before, *flags(sweep.nested(sweep.values(drawn))), *after, *SMALL.get(path.parent.name, DIGITS)]
    record = {"id": "0", "path": str(tmp_path / "0.json")}
    run([*words, "--trainer.max_epochs=1", "--trainer.logger=false"], record, test=False)
    assert sweep.metric.name in json.loads((tmp_path / "0.json").read_text())["metrics"]

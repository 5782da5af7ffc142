"""A trial is an ordinary fit on real digits, of which the study hears while it trains."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lit_fa.errors import UserError
from lit_fa.named_loggers import words_of_a_trial
from lit_fa.spec.sweep import load_sweep
from lit_fa.sweeps.study import Trials
from lit_fa.trial import fit_trial
from tests.checkpoint_attacks import malicious

LR = "model.init_args.optimizer.init_args.lr"
BASE = {
    "seed_everything": 0,
    "trainer": {"max_epochs": 4, "logger": False, "enable_checkpointing": False, "enable_progress_bar": False},
    "model": {"class_path": "Classifier", "init_args": {"network": "mlp", "network_args": {"hidden": [8]}}},
    "data": {"class_path": "Digits", "init_args": {"flatten": True, "val_size": 0.2, "limit_train": 200}},
}
BASE["trainer"] |= {"enable_model_summary": False, "num_sanity_val_steps": 0}
BASE["model"]["init_args"]["optimizer"] = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}}


@pytest.fixture
def trials(tmp_path, monkeypatch):
    """Of a grid of two learning rates, a useful one first."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(BASE))

    def opened(logger="none", **changes) -> Trials:
        sweep = {
            "command": ["lit-fa", "fit", "--config", "base.yaml", "${args}"],
            "method": "grid",
            "metric": {"name": "val/accuracy", "goal": "maximize"},
            "parameters": {LR: {"values": [0.1, 0.0]}},
        }
        (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep | changes))
        words = words_of_a_trial(logger, "lit-fa")
        return Trials(load_sweep("sweep.yaml"), tmp_path / "out", count=2, logger=words)

    return opened


def record_of(trial) -> dict:
    return json.loads(Path(trial.record["path"]).read_text(encoding="utf-8"))


def test_the_study_hears_every_value_and_nothing_is_tested(trials):
    opened = trials()
    trial = next(iter(opened))
    fit_trial(trial.config, trial.record)
    record, heard = record_of(trial), opened.study.trials[0].intermediate_values
    assert [*heard] == [1, 2, 3, 4]
    assert heard[4] == pytest.approx(record["metrics"]["val/accuracy"])
    assert record["parameters"] == {LR: 0.1}
    assert not any(name.startswith("test/") for name in record["metrics"])


def test_a_trial_whose_checkpoint_would_run_code_begins_afresh_and_runs_nothing(trials, tmp_path, caplog):
    trial = next(iter(trials()))
    malicious(Path(trial.record["path"]).with_name(".record") / "last.ckpt", tmp_path / "proof")
    fit_trial(trial.config, trial.record)
    assert record_of(trial)["status"] == "finished"
    assert "more than plain data (posix.mkdir)" in caplog.text
    assert not (tmp_path / "proof").exists()


def test_a_trial_that_the_pruner_gives_up_stops_training(trials):
    opened = trials(early_terminate={"type": "hyperband", "min_iter": 1, "eta": 2})
    good, bad = (trial for trial, _ in zip(opened, range(2), strict=False))
    for trial in (good, bad):
        fit_trial(trial.config, trial.record)
    assert "stopped_early" not in record_of(good)
    assert record_of(bad)["stopped_early"]
    assert [*opened.study.trials[1].intermediate_values] == [1]


def test_a_metric_that_validation_does_not_log_is_named_at_its_first_end(trials):
    trial = next(iter(trials(metric={"name": "val/acuracy", "goal": "maximize"})))
    with pytest.raises(UserError, match=r"the sweep's metric 'val/acuracy' is not logged; nearest: val/accuracy"):
        fit_trial(trial.config, trial.record)


def test_a_metric_that_training_does_not_log_is_named_at_the_end(trials):
    trial = next(iter(trials(metric={"name": "train/acuracy"})))
    with pytest.raises(UserError, match=r"the sweep's metric 'train/acuracy' is not logged; nearest: train/accuracy"):
        fit_trial(trial.config, trial.record)


def test_a_parameter_that_the_config_does_not_have_is_named(trials):
    trial = next(iter(trials(parameters={"model.init_args.rule.init_args.betta": {"values": [1, 2]}})))
    with pytest.raises(UserError, match="betta"):
        fit_trial(trial.config, trial.record)


def test_a_number_of_the_test_is_tested_for(trials):
    trial = next(iter(trials(metric={"name": "test/accuracy", "goal": "maximize"})))
    fit_trial(trial.config, trial.record)
    assert record_of(trial)["metrics"]["test/accuracy"] > 10


def test_every_trial_is_an_offline_run_of_w_and_b_s_own(trials, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    opened = trials(logger="wandb")
    for trial in (trial for trial, _ in zip(opened, range(2), strict=False)):
        fit_trial(trial.config, trial.record)
        (run,) = Path(trial.record["path"]).parent.glob("wandb/offline-run-*/*.wandb")
        inspected = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(run)]
        written = subprocess.run(inspected, capture_output=True, text=True, check=True).stdout
        assert "val/accuracy" in written
        assert LR in written


def test_a_trial_with_ranks_is_refused_in_one_line(trials, monkeypatch):
    opened = trials()
    trial = next(iter(opened))
    monkeypatch.setattr("multiprocessing.parent_process", lambda: object())  # as in a worker
    words = ["--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp"]
    with pytest.raises(UserError, match=r"a trial of a sweep is one process; set devices 1"):
        fit_trial(trial.config | {"words": [*trial.config["words"], *words]}, trial.record)

"""SIGINT, SIGTERM and SIGHUP: a checkpoint is kept, the way to go on is said, and the exit code names the signal."""

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import lightning as L
import pytest
import torch
import yaml
from lightning.pytorch.plugins.environments import SLURMEnvironment

from lit_fa.__main__ import main
from lit_fa.callbacks import Interruption
from lit_fa.experiment import run
from lit_fa.stopping import SIGNALS, Request, Stopped, handled, stop
from tests.cli.test_command_line import RUN

ROOT = Path(__file__).parents[2]


class Send(L.Callback):
    """A signal at a step, or at a hook, of one rank; the environment says which to processes of their own."""

    step, hook, signum = int(os.environ.get("SEND_STEP", -1)), "", signal.SIGTERM
    rank = int(os.environ.get("SEND_RANK", 0))

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == Send.step and trainer.global_rank == Send.rank:
            os.kill(os.getpid(), Send.signum)

    def on_validation_batch_start(self, *_):
        if Send.hook == "validation":
            os.kill(os.getpid(), Send.signum)

    def on_test_batch_start(self, *_):
        if Send.hook == "test":
            os.kill(os.getpid(), Send.signum)


class Early(L.Callback):
    """A signal to the second rank before the ranks have met."""

    def __init__(self):
        if os.environ.get("LOCAL_RANK") == "1":
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture
def config(tmp_path, monkeypatch):
    """The path of a run of three epochs, twelve steps each; `Send.step` says where a signal comes."""
    monkeypatch.chdir(tmp_path)
    for name in ("step", "hook", "signum"):
        monkeypatch.setattr(Send, name, getattr(Send, name))
    trainer = RUN["trainer"] | {"max_epochs": 3, "callbacks": [f"{__name__}.Send"], "default_root_dir": str(tmp_path)}
    Path("run.yaml").write_text(yaml.safe_dump(RUN | {"trainer": trainer}), encoding="utf-8")
    before = {signum: signal.getsignal(signum) for signum in SIGNALS}
    yield "run.yaml"
    assert {signum: signal.getsignal(signum) for signum in SIGNALS} == before


@pytest.fixture(autouse=True)
def as_in_a_terminal():
    """Signals that this process was started to ignore, as SIGHUP under nohup, have their default."""
    ignored = [signum for signum in SIGNALS if signal.getsignal(signum) is signal.SIG_IGN]
    for signum in ignored:
        signal.signal(signum, signal.SIG_DFL)
    yield
    for signum in ignored:
        signal.signal(signum, signal.SIG_IGN)


def weights(path: Path) -> dict:
    return torch.load(path, weights_only=True)["state_dict"]


@pytest.mark.parametrize("signum", SIGNALS)
def test_a_fit_keeps_a_checkpoint_and_exits_with_the_signals_code(config, capsys, signum):
    Send.step, Send.signum = 5, signum
    with pytest.raises(SystemExit) as ended:
        main(["fit", "--config", config])
    assert ended.value.code == 128 + signum
    said = "interrupted after step 6; go on with: lit-fa fit --config run.yaml --ckpt_path"
    assert said in capsys.readouterr().out
    assert torch.load("interrupted.ckpt", weights_only=True)["global_step"] == 6


@pytest.mark.parametrize("command", ["validate", "test"])
def test_an_evaluation_ends_at_once(config, capsys, command):
    Send.hook = {"validate": "validation"}.get(command, command)
    with pytest.raises(SystemExit) as ended:
        main([command, "--config", config])
    assert ended.value.code == 143
    assert "stopped by SIGTERM at once; start it again" in capsys.readouterr().out


def test_sigterm_in_validation_waits_for_the_end_of_the_epoch(config, capsys):
    Send.hook = "validation"
    with pytest.raises(SystemExit) as ended:
        main(["fit", "--config", config, "--trainer.num_sanity_val_steps", "0"])
    assert ended.value.code == 143
    assert "interrupted after step 12;" in capsys.readouterr().out


def test_under_slurm_sigterm_keeps_a_checkpoint_and_the_signal_to_requeue_stays(config, monkeypatch):
    monkeypatch.setattr(SLURMEnvironment, "detect", staticmethod(lambda: True))
    monkeypatch.setattr(SLURMEnvironment, "validate_settings", lambda *_, **__: None)
    for name, value in {"NTASKS": "1", "PROCID": "0", "LOCALID": "0", "NODEID": "0", "JOB_ID": "7"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    seen = []
    monkeypatch.setattr(Send, "on_train_batch_end", lambda *_: seen.append(signal.getsignal(signal.SIGUSR1)), False)
    Send.step = 5
    with pytest.raises(SystemExit) as ended:
        main(["fit", "--config", config])
    assert ended.value.code == 143
    assert Path("interrupted.ckpt").is_file()
    assert "_HandlersCompose" in repr(seen[0])


@pytest.mark.parametrize("step", [5, 35], ids=["in mid-epoch", "in the last step of all"])
def test_a_cell_that_is_asked_to_stop_goes_on_to_the_record_of_an_unbroken_one(config, tmp_path, step):
    cell = yaml.safe_load(Path(config).read_text(encoding="utf-8"))
    Send.step = step
    with pytest.raises(Stopped, match=f"interrupted after step {step + 1}; the same command goes on"), handled(stop):
        run(cell, {"path": str(tmp_path / "broken.json")})
    Send.step = -1
    for name in ("broken", "whole"):
        run(cell, {"path": str(tmp_path / f"{name}.json")})
    broken, whole = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("broken", "whole"))
    assert (broken["metrics"], broken["curves"]) == (whole["metrics"], whole["curves"])
    assert not list(tmp_path.glob(".*/"))


def ended(*words: str, **environment: str) -> subprocess.CompletedProcess:
    """A command in processes of its own, to which this module has another name."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), **environment}
    return subprocess.run([sys.executable, "-m", "lit_fa", *words], env=environment, capture_output=True, text=True)


def two_ranks(config: str, callback: str = "Send") -> dict:
    """The run with two ranks, as plain data."""
    run = yaml.safe_load(Path(config).read_text(encoding="utf-8"))
    ranks = {"accelerator": "cpu", "devices": 2, "strategy": "ddp"}
    run["trainer"] |= {**ranks, "callbacks": [f"tests.cli.test_signals.{callback}"]}
    Path(config).write_text(yaml.safe_dump(run), encoding="utf-8")
    return run


def rank(words: list[str], environment: dict[str, str], folder: str) -> None:
    """A command on one rank, in a process that has imported everything."""
    os.environ |= environment
    os.chdir(folder)
    with open(f"printed.{environment['LOCAL_RANK']}", "w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
    sys.exit(main(words))


def test_two_ranks_stop_at_one_step_though_only_the_second_was_asked(config, tmp_path):
    two_ranks(config)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.contract.training"])
    place |= {"SEND_STEP": "5", "SEND_RANK": "1"}
    words = ["fit", "--config", config]
    ranks = [context.Process(target=rank, args=(words, place | {"LOCAL_RANK": k}, str(tmp_path))) for k in "01"]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    assert [process.exitcode for process in ranks] == [143, 0]
    said = [Path(f"printed.{k}").read_text(encoding="utf-8") for k in "01"]
    assert [text.count("interrupted after step 6; go on with") for text in said] == [1, 0]
    assert torch.load("interrupted.ckpt", weights_only=True)["global_step"] == 6


@pytest.mark.slow  # two processes that import everything
def test_a_command_that_starts_its_ranks_ends_with_the_code_of_the_signal(config):
    two_ranks(config)
    end = ended("fit", "--config", config, SEND_STEP="5", SEND_RANK="1")
    assert end.returncode == 143, end.stderr
    assert end.stdout.count("interrupted after step 6; go on with") == 1
    assert torch.load("interrupted.ckpt", weights_only=True)["global_step"] == 6


@pytest.mark.slow  # two processes that import everything
def test_no_rank_waits_for_one_that_was_ended_before_they_have_met(config):
    two_ranks(config, "Early")
    end = ended("fit", "--config", config)
    assert end.returncode == 143
    assert end.stderr.count("another rank of this run is gone: rank 1 has ended with exit code 143") == 1


@pytest.mark.slow  # four pairs of ranks
@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_cell_of_two_ranks_of_which_one_is_asked_to_stop_goes_on_to_the_record_of_an_unbroken_one(config, rank):
    run = two_ranks(config)
    run["trainer"] |= {"max_epochs": 1}
    Path("base.yaml").write_text(yaml.safe_dump(run), encoding="utf-8")
    table = {
        "paper": {"key": "ranks", "title": "Ranks", "arxiv": "0000.00000", "table": "Table 1"},
        "base": "base.yaml",
        "metric": {"name": "test/accuracy", "unit": "%"},
        **{"seeds": [0], "seeded": ["seed_everything"], "scales": {"full": {"set": {}}}},
        "cells": [{"row": "FA", "column": "digits", "set": {}}],
    }
    Path("table1.yaml").write_text(yaml.safe_dump(table), encoding="utf-8")
    records = []
    for name, step in (("whole", "-1"), ("broken", "2")):
        words = ("table", "run", "table1.yaml", "--out", name, "--allow-dirty")
        end = ended(*words, SEND_STEP=step, SEND_RANK=rank)
        assert end.returncode == 0, end.stdout + end.stderr
        assert ("trying once more" in end.stdout) == (name == "broken")
        (record,) = Path(name).rglob("*.json")
        records.append(json.loads(record.read_text(encoding="utf-8")))
    assert records[0]["metrics"] == records[1]["metrics"]
    assert records[0]["curves"] == records[1]["curves"]


def test_a_second_ctrl_c_does_not_wait():
    interruption = Interruption(str)
    with handled(interruption._ask):
        signal.raise_signal(signal.SIGINT)
        assert interruption.request.signum == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_second_sigterm_changes_nothing_and_a_ctrl_c_behind_it_ends_at_once():
    request = Request()
    for signum in (signal.SIGTERM, signal.SIGTERM, signal.SIGHUP):
        request(signum)
    with pytest.raises(Stopped, match="stopped by SIGTERM"):
        request.check()
    with pytest.raises(Stopped, match="stopped by SIGINT"):
        request(signal.SIGINT)


def test_what_was_to_be_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with handled(stop):
            signal.raise_signal(signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            with pytest.raises(Stopped, match="stopped by SIGTERM"):
                signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_every_other_command_ends_with_one_line(monkeypatch, capsys):
    monkeypatch.setattr("lit_fa.__main__._dispatch", lambda *_: signal.raise_signal(signal.SIGTERM))
    assert main(["runs"]) == 143
    assert capsys.readouterr().err == "lit-fa: stopped by SIGTERM; the same command begins again\n"

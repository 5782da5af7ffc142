"""An error of W&B costs no training: one line, and the whole run goes on offline."""

import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import pytest
import wandb
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringModel

from lit_fa.callbacks import MeasurementError, ResumableWandbLogger
from lit_fa.callbacks.wandb_logger import step_axis
from tests.callbacks.wandb_training import read_back

ROOT = Path(__file__).parents[2]


class Run:
    """A W&B run without W&B, whose calls named in `fails` raise an error; `fails["log"]` is the row's number."""

    starting_step, _attach_id, name = 0, None, ""

    def __init__(self, folder: Path, fails: dict[str, object], **options: object):
        self.id, self.offline, self.fails, self.rows = options["id"], options["mode"] == "offline", fails, []
        self.settings = SimpleNamespace(sync_dir=str(folder / "wandb" / f"offline-run-1-{self.id}"))
        Path(self.settings.sync_dir).mkdir(parents=True, exist_ok=True)
        self.config = SimpleNamespace(update=lambda *_, **__: self.may_fail("config"))
        self.ended: int | None = None

    def may_fail(self, call: str, number: object = True) -> None:
        if self.fails.get(call) == number:
            raise wandb.errors.CommError(f"{call}: 500 Internal Server Error\nmore of it")

    def log(self, row: dict, step: int, commit: bool) -> None:
        self.may_fail("log", step)
        self.rows.append(row)

    def define_metric(self, *_: object, **__: object) -> None:
        self.may_fail("define_metric")

    def finish(self, exit_code: int = 0) -> None:
        self.may_fail("finish")
        self.ended = exit_code


@pytest.fixture
def opened(tmp_path, monkeypatch):
    """Function of what fails in each run that is opened; returns the list of the runs."""

    def failing(*fails: dict[str, object]) -> list[Run]:
        runs: list[Run] = []

        def init(**options: object) -> Run:
            runs.append(Run(tmp_path, fails[len(runs)] if len(runs) < len(fails) else {}, **options))
            runs[-1].may_fail("init")
            return runs[-1]

        monkeypatch.setattr(wandb, "init", init)
        return runs

    return failing


def trained(folder: Path) -> tuple[ResumableWandbLogger, L.Trainer, list[str]]:
    """Six steps, each of them logged, and the lines that begin with W&B."""
    logger = ResumableWandbLogger(id="run", offline=False, dir=str(folder), folder=str(folder))
    trainer = L.Trainer(
        max_epochs=2,
        limit_train_batches=3,
        limit_val_batches=0,
        log_every_n_steps=1,
        accelerator="cpu",
        logger=logger,
        callbacks=[LossLogged()],
        default_root_dir=folder,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        trainer.fit(BoringModel())
        logger.finish()
    return logger, trainer, [str(line.message) for line in said if str(line.message).startswith("W&B")]


class LossLogged(L.Callback):
    def on_train_batch_end(self, trainer, pl_module, outputs, *_):
        pl_module.log("loss", float(trainer.global_step))


def losses(rows: list[dict]) -> list[float]:
    return [row["loss"] for row in rows]


ALL = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]


def test_an_error_in_mid_run_is_one_line_and_the_whole_run_goes_on_offline(opened, tmp_path):
    runs = opened({"log": 3})
    _, trainer, said = trained(tmp_path)
    assert trainer.global_step == 6
    assert said == ["W&B has failed (log: 500 Internal Server Error); training goes on, the whole run goes on offline"]
    assert [run.offline for run in runs] == [False, True]
    assert losses(runs[1].rows) == ALL
    assert runs[1].ended == 0


@pytest.mark.parametrize("second", [{"log": 1}, {"init": True}], ids=["in a row", "at its start"])
def test_after_a_second_error_training_goes_on_and_checkpoints_have_the_rows(opened, tmp_path, second):
    runs = opened({"log": 3}, second)
    logger, trainer, said = trained(tmp_path)
    assert (trainer.global_step, len(runs)) == (6, 2)
    assert said[-1].endswith("training goes on, the rest of the run is in its checkpoints alone")
    assert losses(logger.state([])["rows"]) == ALL


def test_an_error_at_the_end_is_one_line_with_the_command_that_uploads(opened, tmp_path):
    runs = opened({"finish": True})
    _, trainer, said = trained(tmp_path)
    assert trainer.global_step == 6
    assert losses(runs[0].rows) == ALL
    upload = f"upload it with: wandb sync {tmp_path}/wandb/offline-run-1-run"
    assert said == [f"W&B run run could not be finished (finish: 500 Internal Server Error); {upload}"]


def test_an_error_with_the_config_of_a_run_is_none_of_the_training(opened, tmp_path):
    runs = opened({"config": True})
    logger = ResumableWandbLogger(id="run", offline=False, dir=str(tmp_path), folder=str(tmp_path))
    with pytest.warns(UserWarning, match="config: 500 Internal Server Error"):
        logger.log_hyperparams({"rate": 0.1})
    logger.log_metrics({"loss": 1.0}, step=0)
    assert losses(runs[1].rows) == [1.0]


def test_wandb_itself_goes_on_offline_after_an_error(tmp_path, monkeypatch):
    log, failed = wandb.Run.log, []

    def fails_once(run: wandb.Run, *args: object, **options: object) -> None:
        if len(failed) < 4:
            failed.append(args)
        if len(failed) == 3:
            failed.append(args)
            raise wandb.errors.CommError("gone away")
        log(run, *args, **options)

    monkeypatch.setattr(wandb.Run, "log", fails_once)
    logger = ResumableWandbLogger(id="run", offline=True, dir=str(tmp_path), folder=str(tmp_path))
    rows = [({"loss": float(step)}, step) for step in range(5)]
    with pytest.warns(UserWarning, match="gone away"):
        _ = [logger.log_metrics(*row) for row in rows]
    logger.finish()
    assert losses([record["item"] for record in read_back(tmp_path)["history"]]) == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_the_step_has_the_name_that_lightning_gives_it(monkeypatch):
    def log_metrics(self: ResumableWandbLogger, metrics: dict, step: int | None = None) -> None:
        self.experiment.log(metrics | {"global_step": step})

    monkeypatch.setattr("lightning.pytorch.loggers.WandbLogger.log_metrics", log_metrics)
    step_axis.cache_clear()
    assert ResumableWandbLogger(id="a").row({"loss": 1.0}, 3) == {"loss": 1.0, "global_step": 3}
    step_axis.cache_clear()


@pytest.mark.parametrize("kept", [True, "all"])
def test_checkpoints_become_artifacts_also_offline(tmp_path, kept):
    logger = ResumableWandbLogger(id="run", offline=True, dir=str(tmp_path), folder=str(tmp_path), log_model=kept)
    keep = ModelCheckpoint(
        tmp_path / "kept", save_top_k=1 if kept is True else -1, every_n_epochs=1, filename="{epoch}"
    )
    trainer = L.Trainer(
        max_epochs=2,
        limit_train_batches=1,
        limit_val_batches=0,
        accelerator="cpu",
        logger=logger,
        callbacks=[keep],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(BoringModel())
    logger.finish()
    artifacts = [record for record in read_back(tmp_path)["artifact"] if record["type"] == "model"]
    assert [artifact["name"] for artifact in artifacts] == ["model-run"] * (1 if kept is True else 2)


def test_a_sharded_checkpoint_is_no_artifact_and_no_error(tmp_path):
    logger = ResumableWandbLogger(id="run", offline=True, dir=str(tmp_path), folder=str(tmp_path), log_model="all")
    (tmp_path / "sharded.ckpt").mkdir()
    kept = SimpleNamespace(best_model_path=str(tmp_path / "sharded.ckpt"), last_model_path="")
    with pytest.warns(UserWarning, match="a sharded checkpoint is a folder and no artifact"):
        logger.after_save_checkpoint(kept)
    logger.after_save_checkpoint(kept)  # said once
    assert not logger.failed


def test_what_log_model_cannot_be_is_refused():
    with pytest.raises(MeasurementError, match="log_model is true, false or all, not 'some'"):
        ResumableWandbLogger(log_model="some")


BEGIN = """
import os, time
from lit_fa import callbacks
from tests.callbacks.wandb_server import KEY, serving
def rows(*numbers):
    for number in numbers:
        logger.log_metrics({"loss": float(number)}, step=number)
"""
SERVER_DIES = """
with serving() as server:
    os.environ |= {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY, "WANDB_FINISH_TIMEOUT": "4"}
    logger = callbacks.ResumableWandbLogger(id="run", dir=".", folder=".")
    rows(0, 1, 2)
    assert not logger.experiment.offline
rows(3, 4)
logger.finish()
"""
PROCESS_DIES = """
import psutil
logger = callbacks.ResumableWandbLogger(id="run", offline=True, dir=".", folder=".")
rows(0, 1, 2)
time.sleep(1)
for child in psutil.Process().children(recursive=True):
    child.kill()
time.sleep(1)
rows(3, 4)
logger.finish()
"""


def in_a_process(code: str, folder: Path) -> str:
    """What a process of its own prints, without key and network of the caller."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    environment = kept | {"HOME": str(folder), "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
    command = [sys.executable, "-c", BEGIN + code]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.slow
def test_a_server_that_dies_in_mid_run_costs_a_bounded_wait_and_leaves_the_command_that_uploads(tmp_path):
    said = in_a_process(SERVER_DIES, tmp_path)
    assert (
        f"W&B run run could not be finished (Timed out finishing run.); upload it with: wandb sync {tmp_path}" in said
    )


@pytest.mark.slow
def test_the_run_goes_on_offline_where_the_process_of_wandb_is_killed(tmp_path):
    said = in_a_process(PROCESS_DIES, tmp_path)
    assert "W&B has failed (Connection lost); training goes on, the whole run goes on offline" in said
    assert losses([record["item"] for record in read_back(tmp_path)["history"]]) == [0.0, 1.0, 2.0, 3.0, 4.0]

"""Lightning's W&B logger, extended to runs that are killed and resumed and to machines without a network.

W&B cannot resume an offline run: a second process writes a second file with the same run id, whose rows overwrite those
of the first on upload, and the last rows of a killed process are in no file. Therefore the rows of a run are stored in
its checkpoint (`callbacks.WandbRun`). A resumed run writes them again, with the same row numbers, into one new file and
renames older files of the run. A server knows which rows it has, so only later rows are sent.

An error of W&B never ends a run: the rows are written again into an offline run, and training goes on.
"""

import os
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only, rank_zero_warn

from lit_fa.callbacks.errors import MeasurementError
from lit_fa.callbacks.offline import why_offline
from lit_fa.callbacks.rows import AXIS, Row, RowLogger
from lit_fa.lightning_privates import forget_wandb_run, name_wandb_run, set_wandb_run, wandb_options

GRACE = 10.0  # seconds that training waits for a run that has failed
PATIENCE = 600.0  # seconds that `finish` waits for an upload, unless WANDB_FINISH_TIMEOUT is set


@cache
def step_axis() -> str:
    """The key under which Lightning's logger logs the step, on rank 0; its next version has another one."""
    logged: dict[str, Any] = {}

    class Run:
        id = ""

        def log(self, row: dict[str, Any]) -> None:
            logged.update(row)

    run: Any = Run()
    WandbLogger(experiment=run).log_metrics({}, step=0)
    return next(iter(logged))


class ResumableWandbLogger(RowLogger, WandbLogger):
    """One W&B run for one config, even if it is stopped and resumed; offline without a key or a network.

    The run is opened when a fit or test begins, after the checkpoint has been read; before that `experiment` is None.

    Args:
        id: of the run; None: the id in the checkpoint, or on the command line the hash of the config.
        project: at W&B.
        name: displayed name of the run; None: chosen by W&B.
        group: of related runs; on the command line the table.
        job_type: on the command line the cell.
        tags: on the command line rule, data set, scale and commit.
        offline: None: offline without a key or a network, unless WANDB_MODE is set.
        folder: parent of the run's own folder with config, figures and record.
        dir: folder in which W&B stores its files (in `wandb`); None: WANDB_DIR, else the current folder.
        log_model: True: the checkpoints that a `ModelCheckpoint` keeps become artifacts when the fit ends; "all": each
            when it is saved; False: none. Offline they are copied into the run's folder, and uploaded with it.
        checkpoint_name: of these artifacts; None: model-<id>.

    Raises:
        MeasurementError: `log_model` is none of these.
    """

    kind = "wandb"

    def __init__(
        self,
        id: str | None = None,
        project: str = "lit-fa",
        name: str | None = None,
        group: str | None = None,
        job_type: str | None = None,
        tags: list[str] | None = None,
        offline: bool | None = None,
        folder: str = "lightning_logs",
        dir: str | None = None,
        log_model: Literal["all"] | bool = False,
        checkpoint_name: str | None = None,
    ):
        """See the class."""
        if log_model not in (True, False, "all"):
            raise MeasurementError(f"log_model is true, false or all, not {log_model!r}")
        dir = str(Path(dir or os.environ.get("WANDB_DIR", ".")).resolve())  # W&B keeps the first folder of a process
        names: dict[str, Any] = {"group": group, "job_type": job_type, "tags": tags, "name": name, "project": project}
        super().__init__(id=id, save_dir=dir, log_model=log_model, checkpoint_name=checkpoint_name, **names)
        self.options = wandb_options(self)
        del self.options["anonymous"]  # W&B warns that it has no effect
        self.folder, self.offline = folder, offline
        self.rows: list[Row] = []
        self.sent = 0  # number of rows that have been sent
        self.opened = self.failed = self.silent = False
        self.log_model = log_model
        self.run_folder = Path(folder) / (id or "wandb")

    def axis(self) -> str:
        """Lightning's key of the step."""
        return step_axis()

    def identify(self, id: str, config: dict[str, Any], **names: object) -> None:
        """Set the config, and those of id, `group`, `job_type`, `tags` and `name` that are not set yet."""
        name_wandb_run(self, id=self.version or id)
        self.run_folder = Path(self.folder) / str(self.version)
        self.options["config"] = config
        self.options |= {key: value for key, value in names.items() if not self.options.get(key)}
        name_wandb_run(self, name=self.options["name"])

    def continue_run(self, id: str, rows: list[Row]) -> None:
        """Continue the run of a checkpoint, unless a run is open already."""
        if not self.opened:
            name_wandb_run(self, id=id)
            self.rows = [*rows]

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run, on rank 0; None before the first fit or test, and after `finish`."""
        inherited: Any = WandbLogger.experiment  # a property
        return inherited.fget(self) if self.opened else None

    @property
    def save_dir(self) -> str:
        """The run's own folder."""
        return str(self.run_folder)

    @rank_zero_only
    def open(self) -> None:
        """Start the W&B run, and write or send the rows of earlier parts of the run."""
        import wandb

        if self.opened or self.silent:
            return
        reason = "" if self.offline is not None else why_offline()
        mode = "offline" if self.offline or reason else None
        self.options |= {"id": self.version, "mode": mode, "settings": wandb.Settings(**_settings())}
        self.opened = True
        try:
            run = self.experiment
        except wandb.errors.Error as error:
            reason, self.options["mode"] = f"the server said: {_first_line(error)}", "offline"
            run = self.experiment
        name_wandb_run(self, id=run.id)
        self.sent, self._measured = run.starting_step, set[str]()
        if run.offline:
            set_aside(run.settings.sync_dir, run.id)
        if reason:
            rank_zero_info(f"W&B run {run.id} stays offline: {reason}")
        if self.sent > len(self.rows):
            rank_zero_warn(
                f"W&B has {self.sent} rows of run {run.id} already: they are not changed, later ones are added"
            )
        self._send()

    @rank_zero_only
    def add(self, row: Row) -> None:
        """Add one row of plain data and send it; `shown` converts values that are not numbers."""
        self.rows.append(row)
        self.open()
        self._send()

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        """Add hyperparameters to the config of the run."""
        self.open()
        self._guarded(lambda: WandbLogger.log_hyperparams(self, params))

    @rank_zero_only
    def save(self) -> None:
        """Open the run; the trainer calls this after it has read the checkpoint."""
        self.open()

    @rank_zero_only
    def after_save_checkpoint(self, checkpoint_callback: ModelCheckpoint) -> None:
        """Log the checkpoint as an artifact, if `log_model` says so; not one that is sharded, which is a folder."""
        kept = (checkpoint_callback.best_model_path, checkpoint_callback.last_model_path)
        if self.log_model and any(os.path.isdir(path) for path in kept if path):
            rank_zero_warn("log_model: a sharded checkpoint is a folder and no artifact; take the strategy fsdp2_file")
            self.log_model = False
        elif self.opened and self.log_model:
            self._guarded(lambda: WandbLogger.after_save_checkpoint(self, checkpoint_callback))

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Close a run that failed. A successful run may still be tested and is closed by `finish`."""
        if self.opened:
            self._guarded(lambda: WandbLogger.finalize(self, status))
        if status == "failed":
            self.finish(self.exit_code)

    @rank_zero_only
    def finish(self, exit_code: int = 0) -> None:
        """Close the W&B run; log the command that uploads an offline run, or one that could not be sent whole."""
        if not self.opened:
            return
        run, self.opened = self.experiment, False
        forget_wandb_run(self)
        upload = f"wandb sync {Path(run.settings.sync_dir).as_posix()}"
        try:
            run.finish(exit_code=exit_code)
        except Exception as error:  # whatever its kind: the run is trained
            rank_zero_warn(f"W&B run {run.id} could not be finished ({_first_line(error)}); upload it with: {upload}")
        else:
            if run.offline:
                rank_zero_info(f"upload the W&B run with: {upload}")

    def _guarded(self, call: Callable[[], object]) -> None:
        """Call W&B; after an error the run goes on offline."""
        if self.silent:
            return
        try:
            call()
        except Exception as error:  # whatever its kind: a log must not end a run
            self._go_on_offline(error)

    def _go_on_offline(self, error: Exception) -> None:
        """Write the run anew, offline; after a second error its rows are in checkpoints alone."""
        _end_soon(self.experiment)
        forget_wandb_run(self)
        try:
            if self.failed:
                raise error
            self.failed = True
            self._open_offline()
        except Exception:
            self.silent, self.opened = True, False
        where = "the rest of the run is in its checkpoints alone" if self.silent else "the whole run goes on offline"
        rank_zero_warn(f"W&B has failed ({_first_line(error)}); training goes on, {where}")
        self._send()

    def _open_offline(self) -> None:
        import wandb
        from wandb.sdk.mailbox import MailboxClosedError

        self.options["mode"] = "offline"
        settings = wandb.Settings(**_settings(), reinit="create_new")  # the other run may still be ending
        try:
            run = wandb.init(**self.options | {"settings": settings})
        except (OSError, MailboxClosedError):  # W&B's own process is gone: let it start another one
            with suppress(Exception):
                wandb.teardown()
            run = wandb.init(**self.options | {"settings": settings})
        set_wandb_run(self, run)
        set_aside(run.settings.sync_dir, run.id)
        run.define_metric(step_axis())
        run.define_metric("*", step_metric=step_axis(), step_sync=True)
        self.sent, self._measured = 0, set[str]()

    def _send(self) -> None:
        self._guarded(self._send_rows)

    def _send_rows(self) -> None:
        for number in range(self.sent, len(self.rows)):
            row = self.rows[number]
            for key in sorted(row.keys() - self._measured) if AXIS in row else ():
                self.experiment.define_metric(key, step_metric=None if key == AXIS else AXIS)
                self._measured.add(key)
            self.experiment.log({key: shown(value) for key, value in row.items()}, step=number, commit=True)
            self.sent = number + 1


def _end_soon(run: Any) -> None:
    """Close a run that has failed, and wait a while for it: W&B opens no other run of its id before."""

    def finish() -> None:
        with suppress(Exception):
            run.finish(exit_code=1)

    closing = threading.Thread(target=finish, daemon=True)
    closing.start()
    closing.join(GRACE)


def _settings() -> dict[str, Any]:
    """Of every W&B run: quiet, and without its git calls, which would run programs named in a configuration."""
    settings: dict[str, Any] = {"console": "off", "silent": True, "disable_git": True, "finish_timeout_raises": True}
    return settings if "WANDB_FINISH_TIMEOUT" in os.environ else settings | {"finish_timeout": PATIENCE}


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def shown(value: object) -> object:
    """A value of a row for W&B: numbers unchanged; histograms, images and tables as W&B media.

    Rows contain plain data, so that they can be stored in a checkpoint: {"histogram": counts, "edges": ...}, {"image":
    path}, {"columns": ..., "data": ...}.
    """
    import wandb

    if not isinstance(value, dict):
        return value
    if "histogram" in value:
        return wandb.Histogram(np_histogram=(np.array(value["histogram"]), np.array(value["edges"])))
    if "image" in value:
        return wandb.Image(value["image"]) if Path(value["image"]).is_file() else None
    return wandb.Table(columns=value["columns"], data=value["data"])


def set_aside(folder: str, id: str) -> None:
    """Rename the older offline folders of a run, so that `wandb sync` ignores them; the new one has their rows."""
    # W&B appends a number if two folders are created within a second
    present, name = Path(folder), re.compile(rf"offline-run-[^-]+-{re.escape(id)}(-\d+)?")
    for older in sorted(present.parent.iterdir()):
        if name.fullmatch(older.name) and older != present and not older.is_symlink():
            older.rename(older.with_name(f"replaced-{older.name}"))

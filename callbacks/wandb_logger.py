"""Lightning's W&B logger, extended to runs that are killed and resumed and to machines without a network.

W&B cannot resume an offline run: a second process writes a second file with the same run id, whose rows overwrite those
of the first on upload, and the last rows of a killed process are in no file. Therefore the rows of a run are stored in
its checkpoint (`callbacks.WandbRun`). A resumed run writes them again, with the same row numbers, into one new file and
renames older files of the run. A server knows which rows it has, so only later rows are sent.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only, rank_zero_warn

from callbacks.offline import why_offline
from lit_fa.lightning_privates import forget_wandb_run, name_wandb_run, wandb_options

Row = dict[str, Any]
# Keys that are measured at optimiser steps and have them as x-axis; modules log by batches.
MEASURED = ("align/", "conserve/", "dominance/", "factors/", "rank/", "fitted/", "weights/")
AXIS = "measured/step"


class ResumableWandbLogger(WandbLogger):
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
    """

    keeps_rows = True  # checkpoints contain the rows, also those of the current epoch that are not logged yet

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
    ):
        """See the class."""
        dir = str(Path(dir or os.environ.get("WANDB_DIR", ".")).resolve())  # W&B keeps the first folder of a process
        super().__init__(id=id, project=project, name=name, save_dir=dir, group=group, job_type=job_type, tags=tags)
        self.options = wandb_options(self)
        del self.options["anonymous"]  # W&B warns that it has no effect
        self.folder, self.offline = folder, offline
        self.rows: list[Row] = []
        self.sent = 0  # number of rows that have been sent
        self.exit_code = 1  # if the run fails
        self.opened = False
        self.run_folder = Path(folder) / (id or "wandb")

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

        if self.opened:
            return
        reason = "" if self.offline is not None else why_offline()
        mode = "offline" if self.offline or reason else None
        # W&B's git calls would run programs named in a repository's configuration; the commit is among our tags
        settings = wandb.Settings(console="off", silent=True, disable_git=True)
        self.options |= {"id": self.version, "mode": mode, "settings": settings}
        self.opened = True
        try:
            run = self.experiment
        except (wandb.errors.CommError, wandb.errors.AuthenticationError, wandb.errors.UsageError) as error:
            reason, self.options["mode"] = f"the server said: {str(error).splitlines()[0]}", "offline"
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
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add one row; its x-axis is the optimiser step for the keys of `MEASURED`, else Lightning's step."""
        measured = any(key.startswith(MEASURED) for key in metrics)
        axis = {} if step is None else {AXIS if measured else "trainer/global_step": step}
        self.add({key: float(value) for key, value in metrics.items()} | axis)

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
        super().log_hyperparams(params)

    @rank_zero_only
    def save(self) -> None:
        """Open the run; the trainer calls this after it has read the checkpoint."""
        self.open()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Close a run that failed. A successful run may still be tested and is closed by `finish`."""
        super().finalize(status)
        if status == "failed":
            self.finish(self.exit_code)

    @rank_zero_only
    def finish(self, exit_code: int = 0) -> None:
        """Close the W&B run; for an offline run, log the command that uploads it."""
        if not self.opened:
            return
        run, self.opened = self.experiment, False
        forget_wandb_run(self)
        run.finish(exit_code=exit_code)
        if run.offline:
            rank_zero_info(f"upload the W&B run with: wandb sync {Path(run.settings.sync_dir).as_posix()}")

    def _send(self) -> None:
        for number in range(self.sent, len(self.rows)):
            row = self.rows[number]
            for key in sorted(row.keys() - self._measured) if AXIS in row else ():
                self.experiment.define_metric(key, step_metric=None if key == AXIS else AXIS)
                self._measured.add(key)
            self.experiment.log({key: shown(value) for key, value in row.items()}, step=number, commit=True)
        self.sent = max(self.sent, len(self.rows))


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

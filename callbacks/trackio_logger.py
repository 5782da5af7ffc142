"""A logger for Trackio, which keeps its runs in a database on this machine.

Trackio appends to a run that it knows. A resumed run would have the rows after its checkpoint twice, therefore its rows
are in checkpoints, and it is written anew (see `callbacks.wandb_logger`).
"""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only, rank_zero_warn

from lit_fa.callbacks.errors import MeasurementError
from lit_fa.callbacks.rows import AXIS, Row, RowLogger

REMOTE = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL")
STEP = "step"


class ResumableTrackioLogger(RowLogger, Logger):
    """One Trackio run for one config, even if it is stopped and resumed.

    The database is in TRACKIO_DIR, else where Trackio puts it; `trackio show --project lit-fa` shows it. An earlier run
    of the same config is renamed.

    Args:
        id: of the run; None: the id in the checkpoint, or on the command line the hash of the config.
        project: of Trackio.
        name: displayed before the id.
        group: of related runs; on the command line the table.
        folder: parent of the run's own folder with config, figures and record.

    Raises:
        MeasurementError: Trackio is not installed, or would send the run to a server.
    """

    kind = "trackio"

    def __init__(
        self,
        id: str | None = None,
        project: str = "lit-fa",
        name: str | None = None,
        group: str | None = None,
        folder: str = "lightning_logs",
    ):
        """See the class."""
        super().__init__()
        if remote := next((name for name in REMOTE if os.environ.get(name)), None):
            raise MeasurementError(f"{remote} is set, and runs are kept here: unset it, and send them by trackio sync")
        _trackio()
        self.id, self.project, self.label, self.group, self.folder = id, project, name, group, folder
        self.rows: list[Row] = []
        self.config: dict[str, Any] = {}
        self.run: Any = None
        self.resumed = self.silent = False

    @property
    def name(self) -> str:
        """The project."""
        return self.project

    @property
    def version(self) -> str:
        """The id of the run."""
        return self.id or "trackio"

    @property
    def title(self) -> str:
        """The name of the run at Trackio, which has to be another one for every run."""
        return f"{self.label} ({self.version})" if self.label else self.version

    @property
    def save_dir(self) -> str:
        """The run's own folder."""
        return str(Path(self.folder) / self.version)

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The Trackio run, on rank 0; None before the first row, and after `finish`."""
        return self.run

    def axis(self) -> str:
        """Trackio's own step."""
        return STEP

    def identify(self, id: str, config: dict[str, Any], **names: object) -> None:
        """Set the config, and those of id, `group` and `name` that are not set yet; a job type goes to the config."""
        self.id, self.config = self.id or id, _plain(config)
        self.group, self.label = self.group or _text(names.get("group")), self.label or _text(names.get("name"))
        self.config |= {key: names[key] for key in ("job_type", "tags") if names.get(key)}

    def continue_run(self, id: str, rows: list[Row]) -> None:
        """Continue the run of a checkpoint, unless it is open already."""
        if self.run is None:
            self.id, self.rows, self.resumed = id, [*rows], True

    @rank_zero_only
    def log_hyperparams(self, params: Any, *_: object, **__: object) -> None:
        """Add hyperparameters to the config, which Trackio takes with the first row."""
        self.config |= _plain(params)

    @rank_zero_only
    def add(self, row: Row) -> None:
        """Add one row of plain data."""
        self.rows.append(row)
        if self.run is None and not self.silent:
            self._guarded(self._open)
        elif self.run is not None:
            self._guarded(lambda: self._write(row))

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Close a run that failed. A successful run may still be tested and is closed by `finish`."""
        if status == "failed":
            self.finish()

    @rank_zero_only
    def finish(self, exit_code: int = 0) -> None:
        """Close the run; log the command that shows it."""
        run, self.run = self.run, None
        if run is None:
            return
        with _quiet():
            run.finish()
            _trackio().context_vars.current_run.set(None)  # otherwise it is finished again when Python ends
        rank_zero_info(f"look at the Trackio run {self.title} with: trackio show --project {self.project}")

    def _open(self) -> None:
        """Start the run, and write its rows, those of a checkpoint among them."""
        trackio = _trackio()
        with _quiet():
            self._make_room(trackio)
            options = {"name": self.title, "group": self.group, "config": self.config}
            self.run = trackio.init(self.project, embed=False, auto_log_gpu=False, auto_log_cpu=False, **options)
        for row in self.rows:
            self._write(row)

    def _make_room(self, trackio: Any) -> None:
        """Remove what the resumed run has written before, and rename an earlier run of the same config."""
        try:
            runs = {run.name: run for run in trackio.Api().runs(self.project)}
        except ValueError:  # there is no such project yet
            return
        if self.title not in runs:
            return
        if self.resumed:
            runs[self.title].delete()
        else:
            number = next(n for n in range(1, len(runs) + 2) if f"{self.title} replaced {n}" not in runs)
            runs[self.title].rename(f"{self.title} replaced {number}")

    def _write(self, row: Row) -> None:
        step = row.get(AXIS, row.get(STEP))
        values = {key: shown(value) for key, value in row.items() if key not in (AXIS, STEP)}
        self.run.log({key: value for key, value in values.items() if value is not None}, step=step)

    def _guarded(self, call: Any) -> None:
        """Call Trackio; after an error the rows are in checkpoints alone, and training goes on."""
        try:
            call()
        except Exception as error:  # whatever its kind: a log must not end a run
            self.run, self.silent = None, True
            line = next(iter(str(error).splitlines()), "") or type(error).__name__
            rank_zero_warn(f"Trackio has failed ({line}); training goes on, the run is in its checkpoints alone")


def shown(value: object) -> object:
    """A value of a row for Trackio: numbers unchanged; histograms, images and tables as its media."""
    trackio = _trackio()
    if not isinstance(value, dict):
        return value
    if "histogram" in value:
        return trackio.Histogram(np_histogram=(np.array(value["histogram"]), np.array(value["edges"])))
    if "image" in value:
        return trackio.Image(value["image"]) if Path(value["image"]).is_file() else None
    return trackio.Table(columns=value["columns"], data=value["data"])


def _trackio() -> Any:
    try:
        import trackio
    except ImportError:
        raise MeasurementError("the logger trackio needs a package: pip install trackio") from None
    return trackio


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Trackio's own lines."""
    with redirect_stdout(io.StringIO()):
        yield


def _plain(values: Any) -> dict[str, Any]:
    """Hyperparameters without the keys that Trackio reserves."""
    return {str(key): value for key, value in dict(values or {}).items() if not str(key).startswith("_")}


def _text(value: object) -> str | None:
    return None if value is None else str(value)

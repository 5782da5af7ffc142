"""Lightning's CSV and TensorBoard loggers, extended so that a resumed run continues its own version folder.

Lightning's loggers begin another version when a run is resumed, and with the same version the CSV logger deletes what
is there. These cut the log back to the checkpoint, whose later rows the run repeats, and append. What is cut off is
kept beside it as `replaced-<file>`.
"""

import csv
import os
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from lit_fa.callbacks.continued_logs import Following
from lit_fa.lightning_privates import csv_options, given_version, set_version, tensorboard_options
from lit_fa.outputs import written

EVENTS = "tfevents"  # TensorBoard reads the files that have this in their names


class _InVersions:
    """What the two loggers share: the folder of a version, and the state that waits until the checkpoint is accepted.

    Lightning asks for `experiment` before it reads a checkpoint, which may still be refused. Until the first row the
    files of the version are unchanged and `experiment` is None.
    """

    keeps_rows, for_tests = True, False
    waiting: dict[str, Any] | None = None

    def state(self, following: Following) -> dict[str, Any]:
        """Folder, version, position in the files, and the rows that follow."""
        logger: Any = self
        place = {"root": os.path.abspath(logger.root_dir), "version": logger.version}
        return place | {"position": logger.position(), "following": following}

    def continue_run(self, **state: Any) -> None:
        """Continue the version of a checkpoint; where the folder is another one, begin a new version there."""
        logger: Any = self
        if self.waiting is not None or logger.opened:
            return
        if "://" in str(logger.root_dir) or os.path.abspath(logger.root_dir) != state["root"]:
            before = os.path.join(state["root"], _folder(state["version"]))
            rank_zero_info(f"the log before this checkpoint is in {before}; this run begins another one")
        elif given_version(logger) in (None, state["version"]):
            set_version(logger, state["version"])
            self.waiting = state

    @rank_zero_only
    def begin(self) -> None:
        """Cut the files back to the checkpoint, and log the rows that follow."""
        if self.waiting is None:
            return
        logger: Any = self
        state, self.waiting = self.waiting, None
        logger.cut(Path(logger.log_dir), state["position"])
        for metrics, step in state["following"]:
            logger.log_metrics(metrics, step)


class ResumableCSVLogger(_InVersions, CSVLogger):
    """`CSVLogger` that a resumed run continues: one `metrics.csv` with every row once.

    Args:
        save_dir: parent of the folder `name`.
        name: parent of the version folders.
        version: of the run; None: that of the checkpoint, else the next free number.
        prefix: of all keys.
        flush_logs_every_n_steps: as Lightning's; the trainer writes every row at once.
    """

    kind = "csv"

    def __init__(
        self,
        save_dir: str | Path,
        name: str | None = "lightning_logs",
        version: int | str | None = None,
        prefix: str = "",
        flush_logs_every_n_steps: int = 100,
    ):
        """See the class."""
        super().__init__(save_dir, name, version, prefix, flush_logs_every_n_steps)
        self.opened, self.count = False, 0

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """Lightning's writer; None as long as a checkpoint is not accepted."""
        if self.waiting is not None:
            return None
        self.opened = True
        inherited: Any = CSVLogger.experiment  # a property
        return inherited.fget(self)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Add a row."""
        self.begin()
        self.count += 1
        super().log_metrics(dict(metrics), step)

    @rank_zero_only
    def log_hyperparams(self, params: Any = None) -> None:
        """Write hyperparameters to `hparams.yaml`."""
        self.begin()
        super().log_hyperparams(params)

    @rank_zero_only
    def save(self) -> None:
        """Write the rows; the trainer calls this after it has read the checkpoint."""
        self.begin()
        super().save()

    def position(self) -> int:
        """Number of rows in the file."""
        self.save()
        return self.count

    def cut(self, folder: Path, position: int) -> None:
        """Begin the file anew with its first rows; the writer would delete it."""
        file = folder / "metrics.csv"
        rows = _rows(file) if file.is_file() else []
        if len(rows) > position:
            _set_aside(file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Lightning's, that the file is deleted
            writer = self.experiment
        writer.metrics = [{key: value for key, value in row.items() if value != ""} for row in rows[:position]]
        self.count = len(writer.metrics)
        writer.save()


class ResumableTensorBoardLogger(_InVersions, TensorBoardLogger):
    """`TensorBoardLogger` that a resumed run continues: one version, every point once, pictures included.

    Args:
        save_dir: parent of the folder `name`.
        name: parent of the version folders.
        version: of the run; None: that of the checkpoint, else the next free number.
        log_graph: as Lightning's.
        default_hp_metric: as Lightning's.
        prefix: of all keys.
        sub_dir: folder inside the version.
        kwargs: of the package's `SummaryWriter`.
    """

    kind = "tensorboard"

    def __init__(
        self,
        save_dir: str | Path,
        name: str | None = "lightning_logs",
        version: int | str | None = None,
        log_graph: bool = False,
        default_hp_metric: bool = True,
        prefix: str = "",
        sub_dir: str | Path | None = None,
        **kwargs: Any,
    ):
        """See the class."""
        super().__init__(save_dir, name, version, log_graph, default_hp_metric, prefix, sub_dir, **kwargs)
        self.opened = False

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The package's writer; None as long as a checkpoint is not accepted."""
        if self.waiting is not None:
            return None
        self.opened = True
        inherited: Any = TensorBoardLogger.experiment  # a property
        return inherited.fget(self)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add a point to the curve of each key."""
        self.begin()
        super().log_metrics(metrics, step)

    @rank_zero_only
    def log_hyperparams(self, params: Any, metrics: Any = None, step: int | None = None) -> None:
        """Add hyperparameters, once in a run."""
        resumed = self.waiting is not None
        self.begin()
        if not resumed:
            super().log_hyperparams(params, metrics, step)

    @rank_zero_only
    def save(self) -> None:
        """Write what is waiting; the trainer calls this after it has read the checkpoint."""
        self.begin()
        super().save()

    def position(self) -> dict[str, int]:
        """File to its size in bytes."""
        self.save()
        return {file.name: file.stat().st_size for file in _events(Path(self.log_dir))}

    def cut(self, folder: Path, position: dict[str, int]) -> None:
        """Shorten the files to what they were; later ones go."""
        for file in _events(folder):
            size = position.get(file.name, 0)
            if file.stat().st_size > size:
                _set_aside(file)
                with file.open("rb") as whole, written(file) as part, part.open("wb") as half:
                    half.write(whole.read(size))
            if not size:
                file.unlink()


def resumable(logger: Logger) -> Logger:
    """Lightning's own CSV or TensorBoard logger as one that continues; other loggers as they are."""
    if type(logger) is CSVLogger:
        return ResumableCSVLogger(**csv_options(logger))
    if type(logger) is TensorBoardLogger:
        return ResumableTensorBoardLogger(**tensorboard_options(logger))
    return logger


def _folder(version: int | str) -> str:
    return version if isinstance(version, str) else f"version_{version}"


def _rows(file: Path) -> list[dict[str, str]]:
    """The complete rows of a CSV file; a killed process may have written half a line."""
    with file.open(newline="", encoding="utf-8") as lines:
        return [row for row in csv.DictReader(lines) if None not in row.values()]


def _events(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob(f"*{EVENTS}*") if file.is_file())


def _set_aside(file: Path) -> None:
    """Keep a copy under a name that TensorBoard does not read."""
    with written(file.with_name(f"replaced-{file.name.replace(EVENTS, 'events')}")) as part:
        shutil.copyfile(file, part)

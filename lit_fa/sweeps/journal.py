"""Files of a sweep's study that any number of processes and machines share: Optuna's journal, and leases.

Neither needs file-system locks, which SQLite and flock do and which network file systems often do not support. Optuna's
own heartbeat and retry need a database server or SQLite, hence the leases.
"""

import warnings
from pathlib import Path
from typing import Any
from urllib.parse import quote

import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend

from lit_fa.errors import UserError
from lit_fa.escaping import plain
from lit_fa.spec.sweep import Sweep
from lit_fa.sweeps.leases import Lease, lease_at

optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)

JOURNAL, SQLITE = "study.journal", "study.db"


def open_study(sweep: Sweep, folder: Path) -> optuna.Study:
    """The sweep's study in the folder; a changed sweep is another study in the same file.

    Raises:
        UserError: the file of the study cannot be read.
    """
    name = f"{sweep.name}-{sweep.id}"
    try:
        return optuna.create_study(
            storage=storage(folder), study_name=name, direction=sweep.metric.goal, load_if_exists=True
        )
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / JOURNAL}: is no journal of Optuna ({plain(str(error))}); move it away") from error


def has_study(folder: Path) -> bool:
    """Whether the folder has a study."""
    return any((folder / name).is_file() for name in (JOURNAL, SQLITE))


def storage(folder: Path) -> BaseStorage | str:
    """The storage of the study of a folder: a journal, or the SQLite file of an earlier version."""
    path = folder.resolve() / SQLITE
    if path.is_file():
        from sqlalchemy import URL

        address = quote(str(path))  # Optuna formats the address, so it must not contain a brace
        return URL.create("sqlite", database=f"file:{address}", query={"uri": "true"}).render_as_string()
    journal = folder.resolve() / JOURNAL
    # the lock has the two methods that Optuna calls
    return JournalStorage(_Journal(str(journal), lock_obj=_journal_lock(journal)))  # type: ignore[arg-type]


class _Journal(JournalFileBackend):
    """Optuna's backend; the error of a full disk names the journal."""

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Add lines."""
        try:
            super().append_logs(logs)
        except OSError as error:
            error.filename = error.filename or self._file_path
            raise


def remove_incomplete_line(journal: Path) -> None:
    """Remove an incomplete last line (full disk, crash), after which Optuna would refuse all further lines."""
    if not journal.is_file():
        return
    with _journal_lock(journal), journal.open("rb+") as file:
        file.truncate(file.read().rfind(b"\n") + 1)


def _journal_lock(journal: Path) -> Lease:
    """Used instead of Optuna's own lock, which stays for 30 s if a process is killed while it writes."""
    return lease_at(journal.with_suffix(".journal.lock"))

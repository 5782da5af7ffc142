"""Verifications of records: when a record was run again, by which code, and whether the numbers were the same.

They are in `verified.json` beside the folders of a table's scales: of every record the last verification.
"""

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from filelock import FileLock

from lit_fa.bounded_reading import read_json, reason
from lit_fa.errors import UserError
from lit_fa.escaping import plain
from lit_fa.outputs import cannot_write, write_text
from lit_fa.results.differences import RunComparison
from lit_fa.spec.table import Table
from lit_fa.spec.validation import validated

FILE = "verified.json"


class Outcome(StrEnum):
    """What running a record again has shown."""

    EQUAL = "equal"  # all numbers, bit for bit
    WITHIN = "within tolerance"  # on another machine
    DIFFERS = "differs"
    FAILED = "failed"  # the run ended with an error

    @property
    def agrees(self) -> bool:
        """Whether the record is confirmed."""
        return self in (Outcome.EQUAL, Outcome.WITHIN)


@dataclass(frozen=True)
class Verified:
    """The last verification of one record.

    Attributes:
        record: its file below the table's folder, `cpu/FA__...json`.
        commit: of the code that ran it again.
        date: UTC, ISO 8601.
        outcome: of the comparison.
        metric: with the largest relative difference, "" if all numbers are equal.
        recorded: that metric in the record; None if it is missing or not finite.
        rerun: that metric in the rerun.
        reason: why the run failed, or what differs in machine and versions.
    """

    record: str
    commit: str
    date: str
    outcome: Outcome
    metric: str = ""
    recorded: float | None = None
    rerun: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Checked:
    """A record's verification, the comparison with its rerun, and the files whose code has changed since the record."""

    verified: Verified
    numbers: RunComparison = field(default_factory=lambda: RunComparison(0, (), ()))
    changed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verification:
    """The last verification of a table: the records that were run again by one commit.

    Attributes:
        commit: of the code.
        date: of the last rerun, UTC, ISO 8601.
        records: one entry each.
    """

    commit: str
    date: str
    records: tuple[Verified, ...]

    @property
    def agrees(self) -> bool:
        """Whether every record is confirmed."""
        return all(entry.outcome.agrees for entry in self.records)

    @property
    def text(self) -> str:
        """`2026-11-28, commit 1234567: 2 of 2 records equal`."""
        counts, total = Counter(entry.outcome for entry in self.records), len(self.records)
        numbers = ", ".join(f"{counts[o]} of {total} records {o}" for o in Outcome if counts[o])
        return f"{self.date[:10]}, commit {self.commit[:7]}: {numbers}"


def checked(record: str, rerun: dict[str, Any], compared: RunComparison, changed: tuple[str, ...]) -> Checked:
    """The verification of a record whose rerun has ended.

    Args:
        record: its file below the table's folder.
        rerun: the content of the rerun's record.
        compared: the two.
        changed: files whose code has changed since the record.
    """
    within = Outcome.WITHIN if compared.elsewhere and compared.differences else Outcome.EQUAL
    first = compared.differences[0] if compared.differences else None
    verified = Verified(
        record,
        str(rerun.get("commit", "unknown")),
        str(rerun.get("finished") or _now()),
        within if compared.agrees else Outcome.DIFFERS,
        metric=first.metric if first else "",
        recorded=first.recorded if first else None,
        rerun=first.rerun if first else None,
        reason="; ".join(compared.elsewhere),
    )
    return Checked(verified, compared, changed)


def failed(record: str, commit: str, reason: str) -> Checked:
    """The verification of a record whose rerun has ended with an error."""
    return Checked(Verified(record, commit, _now(), Outcome.FAILED, reason=plain(reason)))


def last_verified(records: Path) -> Verification | None:
    """The last verification of the records in a folder, None if there is none or its file cannot be read.

    Args:
        records: the folder of a table's records at one scale, `results/<table>/<scale>`. Records of other scales, and
            those that are no longer there, do not count.
    """
    try:
        entries = read_verified(records.parent / FILE)
    except UserError:
        return None
    entries = [e for e in entries if Path(e.record).parent.name == records.name and _is_there(records.parent, e)]
    if not entries:
        return None
    last = max(entries, key=lambda entry: entry.date)
    return Verification(last.commit, last.date, tuple(entry for entry in entries if entry.commit == last.commit))


def file_of(table: Table, out: Path | None = None) -> Path:
    """The file of a table's verifications."""
    return (out or table.path.parent / "results") / table.name / FILE


def read_verified(path: Path) -> list[Verified]:
    """The verifications in a file, by the name of the record; none if there is no file.

    Raises:
        UserError: it cannot be read.
    """
    if not os.path.lexists(path):
        return []
    if not path.is_file():
        raise UserError(f"{plain(str(path))}: is not a file; move it away and verify again")
    try:
        data = read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{plain(str(path))}: cannot be read ({reason(error)}); remove it and verify again") from None
    return validated(dict[str, list[Verified]], data, plain(str(path))).get("verified", [])


def add_verified(path: Path, entries: Sequence[Verified]) -> None:
    """Write the verifications into a file; those of other records that are still there stay in it.

    Processes that write the same file wait for each other.

    Raises:
        UserError: it cannot be read or written.
    """
    try:
        with FileLock(path.with_name(f".{path.stem}.claim")):
            by_record = {entry.record: entry for entry in (*read_verified(path), *entries)}
            kept = [by_record[name] for name in sorted(by_record) if _is_there(path.parent, by_record[name])]
            data = {"verified": [asdict(entry) for entry in kept]}
            write_text(path, json.dumps(data, indent=1, allow_nan=False) + "\n", follow=False)
    except OSError as error:
        raise UserError(cannot_write(path, error)) from None


def _is_there(folder: Path, entry: Verified) -> bool:
    return (folder / entry.record).is_file()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

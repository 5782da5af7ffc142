"""What runs cost that are in no mean: those that diverged, and earlier runs that a record replaces."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from lit_fa.results.cost import seconds_of
from lit_fa.results.records import Collected, Record


@dataclass(frozen=True)
class Spent:
    """Number of runs and their time in seconds: of the processor, or wall time of older records."""

    runs: int
    seconds: float


def preliminary(records: Iterable[Record]) -> list[dict[str, Any]]:
    """What a new record says of earlier runs with its config, of uncommitted code or of another commit."""
    entries: list[dict[str, Any]] = []
    for record in records:
        entries += record.data.get("preliminary") or []
        fields = ("commit", "dirty", "finished", "wall_time_s", "cpu_time_s")
        entries.append({name: record.data.get(name) for name in fields})
    return entries


def diverged(collected: Collected) -> Spent:
    """The runs that diverged."""
    return _spent([record for cell in collected.cells for record in collected.lost(cell)])


def replaced(collected: Collected) -> Spent | None:
    """The earlier runs that the records name; None if no record says whether there were any."""
    lists = [record.data["preliminary"] for record in collected.ended if "preliminary" in record.data]
    return _spent([Record(collected.table.path, entry) for entries in lists for entry in entries]) if lists else None


def _spent(records: Sequence[Record]) -> Spent:
    return Spent(len(records), sum(seconds_of(record) or 0.0 for record in records))

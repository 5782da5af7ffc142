"""How many published numbers are settled: agreed, refuted, undecided, not run, for one table or for all.

A number that several cells interpret differently (`reading_of`) counts once, with the best of the readings that have
run: it is refuted only if all of these are, and not run only if none has.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import get_args

from lit_fa.results.compare import Comparison, compare
from lit_fa.results.records import collect, curves_read
from lit_fa.results.verdict import Kind
from lit_fa.spec.output_paths import output_paths, tree_of
from lit_fa.spec.protocol import Protocol
from lit_fa.spec.table import Table


class State(StrEnum):
    """The state of a published number; of several readings the first in this order counts."""

    AGREED = "agreed"
    UNDECIDED = "undecided"
    UNDECIDABLE = "undecided by any number of seeds"
    NO_VERDICT = "without a verdict"  # run, but for example diverged, or by another protocol
    REFUTED = "refuted"
    NOT_RUN = "not run"


SETTLED = (State.AGREED, State.REFUTED)
LEADING = (*SETTLED, State.UNDECIDED, State.UNDECIDABLE, State.NO_VERDICT, State.NOT_RUN)  # the order for readers
_STATES = {
    Kind.AGREES: State.AGREED,
    Kind.DIFFERS: State.REFUTED,
    Kind.UNDECIDED: State.UNDECIDED,
    Kind.UNDECIDABLE: State.UNDECIDABLE,
    Kind.MISSING: State.NOT_RUN,
}


@dataclass(frozen=True)
class Settled:
    """The published numbers of a table at the paper's own scale, by state; `rows` has each with its best reading."""

    table: Table
    counts: Counter[State]
    rows: tuple[tuple[State, Comparison], ...] = ()

    @property
    def declared(self) -> int:
        """The number of published numbers."""
        return self.counts.total()


def settled(table: Table) -> Settled:
    """The states of a table's published numbers, from its committed records at scale `full`."""
    if "full" not in table.scales:
        return Settled(table, Counter())
    rows = [row for protocol in get_args(Protocol) for row in _rows(table.under(protocol), protocol)]
    families: dict[str, list[Comparison]] = {}
    for row in rows:
        families.setdefault(row.reading_of, []).append(row)
    best = tuple(_best(family) for family in families.values())
    return Settled(table, Counter(state for state, _ in best), best)


def _rows(table: Table, protocol: Protocol) -> list[Comparison]:
    """The comparisons at scale `full` with the published numbers of a protocol."""
    if not any(published.ends == protocol for cell in table.cells for published in cell.published_numbers):
        return []
    scale = table.scale("full")
    folder = output_paths(table, scale.label, tree_of(table)).results
    collected = collect(table, scale, folder, curves=curves_read(table))
    return [row for row in compare(collected) if row.published and row.published.ends == protocol]


def _best(readings: Sequence[Comparison]) -> tuple[State, Comparison]:
    """The state that counts, and the first reading that has it."""
    by_state = {_STATES.get(row.kind, State.NO_VERDICT): row for row in reversed(readings)}
    state = next(state for state in State if state in by_state)
    return state, by_state[state]

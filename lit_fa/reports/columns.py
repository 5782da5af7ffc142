"""Chosen columns of a report: their names, which are the same in every format, and what they are in CSV."""

from collections.abc import Sequence

from lit_fa.errors import UserError, nearest
from lit_fa.reports.rows import has_pairs
from lit_fa.spec.table import Table

# name of a column to its fields in CSV; after these come the table's further metrics, by name, and `pair`
MAIN: dict[str, tuple[str, ...]] = {
    "row": ("row",),
    "column": ("column",),
    "value": ("metric", "unit", "at", "mean", "sd"),
    "interval": ("interval_95",),
    "n": ("n", "expected"),
    "published": ("published", "published_unit", "published_std", "published_n"),
    "difference": ("difference", "difference_interval_95", "margin"),
    "verdict": ("kind", "verdict"),
}
PAIR = {"pair": ("paired_with", "paired_difference", "paired_interval_95", "paired_n", "paired_p", "paired_holm")}
VALUE = 2  # place of the table's own metric among the columns
INTERVAL = 3


def names(table: Table) -> list[str]:
    """The names of a table's columns, in the order of `rows.headers`."""
    return [*MAIN, *(metric.name for metric in table.also), *(PAIR if has_pairs(table) else ())]


def places(table: Table, chosen: Sequence[str]) -> list[int]:
    """The places of the chosen columns among a table's, in the order of the choice; all of them for no choice.

    A column that this table does not have is left out.
    """
    own = names(table)
    return [i for name in chosen for i, one in enumerate(own) if one == name] if chosen else [*range(len(own))]


def check_columns(chosen: Sequence[str], tables: Sequence[Table]) -> None:
    """Refuse a column that none of the tables has.

    Raises:
        UserError: which one, and the nearest.
    """
    valid = dict.fromkeys(name for table in tables for name in names(table))
    for name in chosen:
        if name not in valid:
            raise UserError(f"--columns: no table has a column {name!r}; {nearest(name, valid)}")


def fields(table: Table, chosen: Sequence[str]) -> tuple[list[str], set[str]]:
    """The fields of CSV for chosen columns, and the names of the metrics whose lines are kept.

    A further metric has lines of its own there, with the fields of `value`.
    """
    known, further = MAIN | PAIR, {metric.name for metric in table.also}
    wanted = [field for name in chosen for field in known["value" if name in further else name]]
    main = any(name in known and name not in ("row", "column") for name in chosen) or not further & {*chosen}
    return list(dict.fromkeys(wanted)), {*(further & {*chosen}), *([table.metric.name] if main else [])}

"""A cell of a table, its metric and what the paper prints for it: as written in the file, and checked."""

from collections.abc import Sequence
from dataclasses import asdict, field
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, model_validator
from pydantic.dataclasses import dataclass

from lit_fa.errors import UserError, nearest
from lit_fa.spec.accept import Accept
from lit_fa.spec.validation import (
    Count,
    Entry,
    Filled,
    Line,
    MetricName,
    Number,
    OneOf,
    Positive,
    choice,
    number,
    validated,
)


def _not_blank(label: str) -> str:
    if not label.strip():
        raise UserError("the label is empty; write what the paper prints there")
    return label


def _number_as_text(label: Any) -> Any:
    """A label is text or a number; `on` and `no` are neither in YAML."""
    return label if isinstance(label, str | None) else str(number(label))


def _with_unit(data: Any) -> Any:
    if isinstance(data, int | float):
        raise UserError(f"{data} has no unit; write {{value: {data}, unit: ...}}")
    return data


def _as_list(data: Any) -> Any:
    return data if isinstance(data, list | tuple | None) else [data]


RowText = Annotated[Line, AfterValidator(_not_blank)]
ColumnText = Annotated[Line, AfterValidator(lambda label: label and _not_blank(label))]
Overrides = dict[str, Any]  # of the base config, by dotted name
Point = Literal["last", "first", "best", "best_validation", "mean_last_10", "median", "max_abs"]  # of training


@dataclass(frozen=True)
class Metric(Entry):
    """One number of a finished run: `at` says which point of training, `better` which direction is progress.

    `best_validation` is a test metric of the weights that were best on held-out data (`callbacks.BestValidation`).
    """

    name: MetricName
    unit: Line
    better: Annotated[Literal["higher", "lower"], OneOf()] = "higher"
    at: Annotated[Point, OneOf()] = "last"

    @model_validator(mode="after")
    def _tested(self) -> Self:
        if self.at == "best_validation" and not self.name.startswith("test/"):
            raise UserError(f"{self.name} at best_validation: only test/ metrics are; of a curve the best is at: best")
        return self


@dataclass(frozen=True)
class Published(Entry):
    """What the paper prints for one cell.

    `std` over `n` runs if it says so; without `std` the paper's runs are taken to vary as ours do, without `n` it is
    one run. `exact` is a number that no run produced (a theorem's). Written only if they are not the table's, and then
    there is no verdict: `metric`, `at`, and `protocol`, which says in what the paper's differs from the full scale.
    A `protocol` of just `converged` says that the paper trains to convergence: runs under that protocol are compared.
    """

    value: Number
    unit: str
    std: Positive | None = None
    n: Count | None = None
    source: str = ""
    protocol: str = ""
    metric: str = ""
    at: Annotated[Point, OneOf()] | None = None
    exact: bool = False

    @property
    def ends(self) -> str:
        """The protocol by which the paper's runs end: `matched`, a fixed length, or `converged`."""
        return "converged" if self.protocol == "converged" else "matched"


PublishedEntry = Annotated[Published, BeforeValidator(_with_unit)]
Printed = Annotated[tuple[PublishedEntry, ...], Filled, BeforeValidator(_as_list)]  # one entry, or one per metric


@dataclass(frozen=True)
class CellEntry(Entry):
    """One entry of `cells` as it is written; `metric` has the keys that differ from the table's."""

    row: Annotated[RowText, BeforeValidator(_number_as_text)]
    column: Annotated[ColumnText, BeforeValidator(_number_as_text)] = ""
    set: Overrides = field(default_factory=dict)
    published: Printed | None = None
    published_difference: PublishedEntry | None = None
    note: Annotated[tuple[str, ...], BeforeValidator(_as_list)] | None = None
    scales: Annotated[tuple[str, ...], Filled] | None = None
    metric: dict[str, Any] = field(default_factory=dict)
    paired_with: str = ""
    accept: Accept | None = None
    reading_of: Line = ""


@dataclass(frozen=True)
class Cell:
    """One entry of the table: labels, dotted overrides of the base, and the published number.

    `paired_with`: id of the cell whose value with the same seed is subtracted, seed by seed; `published_difference`:
    what the paper prints for this cell's value less that cell's. `published_also`: what it prints for the table's
    further metrics, which `Published.metric` names.
    """

    row: str
    column: str
    set: Overrides
    metric: Metric
    scales: tuple[str, ...]
    published: Published | None = None
    notes: tuple[str, ...] = ()
    paired_with: str = ""
    published_difference: Published | None = None
    published_also: tuple[Published, ...] = ()
    accept: Accept | None = None
    reading_of: str = ""

    @property
    def id(self) -> str:
        """`row|column`, unique within a table."""
        return f"{self.row}|{self.column}"

    @property
    def published_numbers(self) -> tuple[Published, ...]:
        """The published number and the published difference, those that there are."""
        return tuple(published for published in (self.published, self.published_difference) if published)


def cell(
    entry: CellEntry,
    metric: Metric,
    also: Sequence[str],
    scales: Sequence[str],
    where: str,
    accept: Accept | None = None,
) -> Cell:
    """The cell of an entry.

    Args:
        entry: as in the file.
        metric: of the table.
        also: names of the table's further metrics.
        scales: the scales that the table declares.
        where: what to call the entry in an error.
        accept: the table's margin, for a cell without its own.

    Raises:
        UserError: an unknown scale or metric, or published numbers that cannot be told apart.
    """
    where = f"{where} ({entry.row}|{entry.column})"
    if entry.published_difference and not entry.paired_with:
        raise UserError(f"{where}.published_difference: of this cell from which? Add paired_with: ROW")
    for printed in (*(entry.published or ()), entry.published_difference):
        if printed and printed.exact and (printed.std is not None or printed.n is not None):
            raise UserError(f"{where}.published: an exact number has no spread and no runs; remove exact, or std and n")
    for scale in entry.scales or ():
        choice(scale, scales, f"{where}.scales")
    own = [published for published in entry.published or () if published.metric not in also]
    if len(own) > 1:
        raise UserError(
            f"{where}.published: {len(own)} numbers for one metric; for a further one write metric: {nearest('', also)}"
        )
    return Cell(
        row=entry.row,
        column=entry.column,
        set=entry.set,
        metric=validated(Metric, asdict(metric) | entry.metric, f"{where}.metric") if entry.metric else metric,
        scales=entry.scales or tuple(scales),
        published=own[0] if own else None,
        notes=tuple(note for note in entry.note or () if note),
        paired_with=_cell_id(entry.paired_with, entry.column),
        published_difference=entry.published_difference,
        published_also=tuple(published for published in entry.published or () if published.metric in also),
        accept=entry.accept or accept,
        reading_of=entry.reading_of,
    )


def _cell_id(label: str, column: str) -> str:
    """`paired_with` is a cell's id, or a row of the same column."""
    return f"{label}|{column}" if label and "|" not in label else label

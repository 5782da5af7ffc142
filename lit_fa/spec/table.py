"""A paper's table as data: what is run, what was published, and how the two are compared.

A table file names a base config, a metric, seeds, scales and cells. Nothing in it is computed, and there is no
inheritance beyond base + cell + scale + seed. Numbers of a metric, its published values and the margin share
one unit, which is written down.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import field, replace
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import AfterValidator, PlainValidator
from pydantic.dataclasses import dataclass

from lit_fa.errors import UserError
from lit_fa.escaping import plain, short
from lit_fa.spec.accept import Accept, Control
from lit_fa.spec.cell import Cell, CellEntry, Metric, Overrides, Published, cell
from lit_fa.spec.cost import Cost
from lit_fa.spec.figure import Figure, with_labels_of
from lit_fa.spec.grid import Grid, cross
from lit_fa.spec.protocol import Protocol, Stopping, monitored, on_test_data, with_best
from lit_fa.spec.tuning import check_tuning
from lit_fa.spec.validation import Entry, FileName, Filled, Line, OneOf, choice, printable, read_yaml, validated

SCALES = ("smoke", "cpu", "full")
__all__ = ["SCALES", "Cell", "Metric", "Paper", "Published", "Scale", "Table", "load_table"]
# A training budget of nothing, or Lightning's -1 for "no limit", makes a cell that ends at once or never.
_BUDGET = re.compile(r"(max_\w+|epochs|steps|rounds|batch_size|limit_train_batches|limit_test_batches)$")


def _seed(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**32:
        raise UserError(f"{short(value)} is not a seed; write different whole numbers from 0 to 2**32 - 1")
    return value


def _different(seeds: tuple[int, ...]) -> tuple[int, ...]:
    for seed in seeds:
        if seeds.count(seed) > 1:
            raise UserError(f"the seed {seed} is there twice; write different whole numbers")
    return seeds


def _trains(overrides: Overrides) -> Overrides:
    for key, value in overrides.items():
        if _BUDGET.match(key.rsplit(".", 1)[-1]) and isinstance(value, int | float) and value <= 0:
            raise UserError(f"{key}: {value} leaves nothing to train; write a number above zero")
    return overrides


def _different_files(figures: tuple[Figure, ...]) -> tuple[Figure, ...]:
    files = [PurePath(figure.file).name for figure in figures]  # of any folder: all are drawn into one
    if twice := next((file for file in files if files.count(file) > 1), None):
        raise UserError(f"two figures have the file {twice}; name each file once")
    return figures


Seeds = Annotated[tuple[Annotated[int, PlainValidator(_seed)], ...], Filled, AfterValidator(_different)]


@dataclass(frozen=True)
class Paper(Entry):
    """Where the table was printed; `key` is the citation key and the name of the paper's folder."""

    key: FileName
    title: str = ""
    arxiv: str = ""
    table: str = ""


@dataclass(frozen=True)
class ScaleEntry(Entry):
    """One entry of `scales` as it is written; without seeds it has the table's."""

    seeds: Seeds | None = None
    set: Annotated[Overrides, AfterValidator(_trains)] = field(default_factory=dict)
    note: str = ""
    cost: Cost | None = None


@dataclass(frozen=True)
class Scale:
    """How much of the paper's protocol is run: overrides on top of every cell; `note` says what is cut.

    With `protocol` converged, runs end when they have converged.
    """

    name: str
    seeds: tuple[int, ...]
    set: Overrides
    note: str = ""
    cost: Cost | None = None
    protocol: Protocol = "matched"

    @property
    def label(self) -> str:
        """`cpu`, or `cpu-converged`: the name of its folder of records."""
        return self.name if self.protocol == "matched" else f"{self.name}-{self.protocol}"


@dataclass(frozen=True)
class TableFile(Entry):
    """The keys of a table file."""

    paper: Paper
    base: str
    metric: Metric
    seeds: Seeds
    also: Annotated[tuple[Metric, ...], Filled] = ()
    seeded: Annotated[tuple[str, ...], Filled] = ()
    accept: Accept | None = None
    control: Control | None = None
    protocol: Stopping = field(default_factory=Stopping)
    tuning: Line = ""
    assumed: dict[str, str] = field(default_factory=dict)
    scales: Annotated[dict[Annotated[Literal["smoke", "cpu", "full"], OneOf()], ScaleEntry], Filled] = field(
        default_factory=lambda: {"full": ScaleEntry()}
    )
    cells: Annotated[tuple[CellEntry, ...], Filled] = ()
    grid: Grid | None = None
    figures: Annotated[tuple[Figure, ...], Filled, AfterValidator(_different_files)] = ()


@dataclass(frozen=True)
class Table:
    """A table file, read and checked."""

    path: Path
    paper: Paper
    base: dict[str, Any]
    base_path: Path
    metric: Metric
    scales: dict[str, Scale]
    cells: tuple[Cell, ...]
    also: tuple[Metric, ...] = ()
    seeded: tuple[str, ...] = ()
    control: Control | None = None
    stopping: Stopping = field(default_factory=Stopping)
    tuning: str = ""
    assumed: dict[str, str] = field(default_factory=dict)
    figures: tuple[Figure, ...] = ()

    @property
    def name(self) -> str:
        """The file's stem."""
        return self.path.stem

    @property
    def monitored(self) -> dict[str, str]:
        """`{monitor, mode}`: the metric of held-out data by which runs stop and the best weights are chosen."""
        return monitored(self.stopping, (self.metric, *self.also))

    @property
    def reads_best(self) -> bool:
        """Whether any number of the table is of the weights that were best on held-out data."""
        return any(metric.at == "best_validation" for metric in (*self.also, *(cell.metric for cell in self.cells)))

    def under(self, protocol: Protocol) -> Self:
        """The table under a protocol; under `converged` its numbers are read on test data."""
        if protocol == "matched":
            return self
        metric = on_test_data(self.metric)
        return replace(
            self,
            metric=metric,
            also=with_best(metric, self.also),
            scales={name: replace(scale, protocol=protocol) for name, scale in self.scales.items()},
            cells=tuple(replace(cell, metric=on_test_data(cell.metric)) for cell in self.cells),
        )

    def labelled(self, label: str) -> tuple[Self, Scale]:
        """The table and its scale of a label, `cpu` or `cpu-converged`."""
        name, _, protocol = label.partition("-")
        table = self.under(choice(protocol or "matched", get_args(Protocol), f"{self.path}: protocol"))
        return table, table.scale(name)

    def scale(self, name: str | None) -> Scale:
        """The scale of that name; without a name cpu, else full, else smoke, whichever is declared first."""
        if name is None:
            name = next(known for known in ("cpu", "full", "smoke") if known in self.scales)
        return self.scales[choice(name, list(self.scales), f"{self.path}: scale")]


def load_table(path: Path | str) -> Table:
    """Reads a table file and checks all of it.

    Raises:
        UserError: one line that names the file, the key and what to write instead.
    """
    path = Path(path)
    validated(FileName, path.stem, f"{plain(str(path))}: the file's name")
    data = printable(validated(dict[str, Any], read_yaml(path), str(path)), str(path))
    file = validated(TableFile, {key: value for key, value in data.items() if value is not None}, str(path))
    base_path = path.parent / file.base
    if not os.path.isfile(base_path):  # Path.is_file raises an error for a name that is too long
        raise UserError(f"{path}: base: there is no file {base_path}; name a config relative to the table")
    cells = _cells(file, path)
    return Table(
        path=path,
        paper=file.paper,
        base=printable(validated(dict[str, Any], read_yaml(base_path), str(base_path)), str(base_path)),
        base_path=base_path,
        metric=file.metric,
        scales={name: Scale(name, s.seeds or file.seeds, s.set, s.note, s.cost) for name, s in file.scales.items()},
        cells=cells,
        also=file.also,
        seeded=file.seeded,
        control=file.control,
        stopping=file.protocol,
        tuning=file.tuning,
        assumed=file.assumed,
        figures=tuple(with_labels_of(f, cells, f"{path}: figures[{i}]") for i, f in enumerate(file.figures)),
    )


def _cells(file: TableFile, path: Path) -> tuple[Cell, ...]:
    where, scales, also = f"{path}: cells", list(file.scales), [metric.name for metric in file.also]
    entries = [*file.cells, *(cross(file.grid, scales, f"{path}: grid") if file.grid else ())]
    cells = tuple(
        cell(entry, file.metric, also, scales, f"{where}[{i}]", file.accept) for i, entry in enumerate(entries)
    )
    ids = [cell.id for cell in cells]
    if not cells:
        raise UserError(f"{path}: no cells; write a list `cells` or a `grid`")
    if twice := next((name for name in ids if ids.count(name) > 1), None):
        raise UserError(f"{where}: the cell {twice!r} is there twice; give each cell its own row and column")
    for one in cells:
        if one.paired_with and choice(one.paired_with, ids, f"{where} ({one.id}).paired_with") == one.id:
            raise UserError(f"{where} ({one.id}).paired_with: a cell is paired with another; name its row")
        if (one.published or one.published_difference) and not one.accept:
            raise UserError(f"{path}: accept is missing, and {one.id!r} has a published number; write {{margin, why}}")
    _check_readings(cells, str(path))
    if file.tuning:
        check_tuning(cells, file.tuning, str(path))
    if file.control:
        file.control.check([(cell.row, cell.column) for cell in cells], f"{path}: control")
    return cells


def _check_readings(cells: Sequence[Cell], where: str) -> None:
    """Refuses readings of one published number that give it different values."""
    first: dict[tuple[str, str], tuple[Cell, Published]] = {}
    for one, kind in ((one, kind) for one in cells for kind in ("published", "published_difference")):
        name, number = one.reading_of or one.id, getattr(one, kind)
        if number is None:
            continue
        other, theirs = first.setdefault((kind, name), (one, number))
        if (number.value, number.unit) != (theirs.value, theirs.unit):
            raise UserError(
                f"{where}: {other.id!r} and {one.id!r} read one {kind} number, {name!r}, as {theirs.value:g} "
                f"{theirs.unit} and {number.value:g} {number.unit}; correct one, or name another number in reading_of"
            )

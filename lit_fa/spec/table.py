"""A paper's table as data: what is run, what was published, and how the two are compared.

A table file names a base config, a metric, seeds, scales and cells. Nothing in it is computed, and there is no
inheritance beyond base + cell + scale + seed. Numbers of a metric, its published values and the accepted floor share
one unit, which is written down.
"""

import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lit_fa.errors import UserError, nearest
from lit_fa.escaping import plain
from lit_fa.spec.figure import Figure, read_figure
from lit_fa.spec.grid import cross
from lit_fa.spec.validation import (
    build,
    choice,
    component,
    keys,
    line,
    mapping,
    number,
    printable,
    read_yaml,
    sequence,
    text,
)

SCALES = ("smoke", "cpu", "full")
AT = ("last", "first", "best", "mean_last_10", "median", "max_abs")
# A training budget of nothing, or Lightning's -1 for "no limit", makes a cell that ends at once or never.
_BUDGET = re.compile(r"(max_\w+|epochs|steps|rounds|batch_size|limit_train_batches|limit_test_batches)$")
_REQUIRED = ["paper", "base", "metric", "seeds"]
_CELL = ["row", "column", "set", "published", "published_difference", "note", "scales", "metric", "paired_with"]
_KEYS = [*_REQUIRED, "also", "seeded", "accept", "assumed", "scales", "cells", "grid", "figures"]


@dataclass(frozen=True)
class Paper:
    """Where the table was printed; `key` is the citation key and the name of the paper's folder."""

    key: str
    title: str = ""
    arxiv: str = ""
    table: str = ""


@dataclass(frozen=True)
class Metric:
    """One number of a finished run: `at` says which point of the curve, `better` which direction is progress."""

    name: str
    unit: str
    better: str = "higher"
    at: str = "last"


@dataclass(frozen=True)
class Published:
    """What the paper prints for one cell; `std` over `n` runs if it says so, `metric` if it is not the table's."""

    value: float
    unit: str
    std: float | None = None
    n: int | None = None
    source: str = ""
    protocol: str = ""
    metric: str = ""


@dataclass(frozen=True)
class Scale:
    """How much of the paper's protocol is run: overrides on top of every cell; `note` says what is cut."""

    name: str
    seeds: tuple[int, ...]
    set: dict[str, Any]
    note: str = ""


@dataclass(frozen=True)
class Cell:
    """One entry of the table: labels, dotted overrides of the base, and the published number.

    `paired_with`: id of the cell whose value with the same seed is subtracted, seed by seed; `published_difference`:
    what the paper prints for this cell's value less that cell's. `published_also`: what it prints for the table's
    further metrics, which `Published.metric` names.
    """

    row: str
    column: str
    set: dict[str, Any]
    metric: Metric
    scales: tuple[str, ...]
    published: Published | None = None
    notes: tuple[str, ...] = ()
    paired_with: str = ""
    published_difference: Published | None = None
    published_also: tuple[Published, ...] = ()

    @property
    def id(self) -> str:
        """`row|column`, unique within a table."""
        return f"{self.row}|{self.column}"


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
    floor: float = 0.0
    assumed: dict[str, str] = field(default_factory=dict)
    figures: tuple[Figure, ...] = ()

    @property
    def name(self) -> str:
        """The file's stem: names the folder of its records and its markers in the card."""
        return self.path.stem

    def scale(self, name: str | None) -> Scale:
        """The scale of that name; without a name cpu, else full, else smoke, whichever is declared first."""
        if name is None:
            name = next(known for known in ("cpu", "full", "smoke") if known in self.scales)
        return self.scales[choice(name, f"{self.path}: scale", list(self.scales))]


def load_table(path: Path | str) -> Table:
    """Reads a table file and checks all of it.

    Raises:
        UserError: one line that names the file, the key and what to write instead.
    """
    path = Path(path)
    component(path.stem, f"{plain(str(path))}: the file's name")
    data = printable(keys(read_yaml(path), str(path), _KEYS, _REQUIRED), str(path))
    data = {key: value for key, value in data.items() if value is not None}
    seeds = _seeds(data["seeds"], f"{path}: seeds")
    scales = _scales(data.get("scales", {"full": {}}), seeds, f"{path}: scales")
    metric = _metric(data["metric"], f"{path}: metric")
    also = tuple(_metric(m, f"{path}: also[{i}]") for i, m in enumerate(_list(data, "also", path)))
    cells = _cells(data, metric, also, tuple(scales), path)
    base_path = path.parent / text(data["base"], f"{path}: base")
    if not base_path.is_file():
        raise UserError(f"{path}: base: there is no file {base_path}; name a config relative to the table")
    return Table(
        path=path,
        paper=_paper(data["paper"], f"{path}: paper"),
        base=printable(mapping(read_yaml(base_path), str(base_path)), str(base_path)),
        base_path=base_path,
        metric=metric,
        scales=scales,
        cells=cells,
        also=also,
        seeded=tuple(text(key, f"{path}: seeded") for key in _list(data, "seeded", path)),
        floor=_floor(data.get("accept", {}), f"{path}: accept"),
        assumed=_assumed(data.get("assumed", {}), f"{path}: assumed"),
        figures=tuple(
            read_figure(f, cells, f"{path}: figures[{i}]") for i, f in enumerate(_list(data, "figures", path))
        ),
    )


def _paper(data: Any, where: str) -> Paper:
    paper = build(Paper, data, where)
    component(paper.key, f"{where}.key")
    return paper


def _list(data: dict, key: str, path: Path) -> list:
    return sequence(data[key], f"{path}: {key}") if key in data else []


def _floor(data: Any, where: str) -> float:
    return number(keys(data, where, ["floor"]).get("floor", 0.0), f"{where}.floor", least=0)


def _assumed(data: Any, where: str) -> dict[str, str]:
    return {key: text(value, f"{where}.{key}") for key, value in mapping(data, where).items()}


def _metric(data: Any, where: str, base: Metric | None = None) -> Metric:
    """A metric, or with `base` the keys in which a cell's metric differs from the table's."""
    if base:
        data = {**asdict(base), **mapping(data, where)}
    metric = build(Metric, data, where)
    line(metric.name, f"{where}.name")
    line(metric.unit, f"{where}.unit")
    choice(metric.better, f"{where}.better", ("higher", "lower"))
    choice(metric.at, f"{where}.at", AT)
    return metric


def _seeds(data: Any, where: str) -> tuple[int, ...]:
    seeds = sequence(data, where)
    for seed in seeds:
        if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0 or seeds.count(seed) > 1:
            raise UserError(f"{where}: {seed!r} is not a seed; write different whole numbers, none below zero")
    return tuple(seeds)


def _scales(data: Any, seeds: tuple[int, ...], where: str) -> dict[str, Scale]:
    scales = {}
    for name, entry in keys(data, where, SCALES).items():
        at = f"{where}.{name}"
        keys(entry, at, ["seeds", "set", "note"])
        overrides = mapping(entry.get("set", {}), f"{at}.set")
        for key, value in overrides.items():
            if _BUDGET.match(key.rsplit(".", 1)[-1]) and isinstance(value, int | float) and value <= 0:
                raise UserError(f"{at}.set: {key}: {value} leaves nothing to train; write a number above zero")
        own = _seeds(entry["seeds"], f"{at}.seeds") if "seeds" in entry else seeds
        scales[name] = Scale(name, own, overrides, text(entry.get("note", ""), f"{at}.note"))
    if not scales:
        raise UserError(f"{where}: no scale; write one of {', '.join(SCALES)}")
    return scales


def _cells(
    data: dict, metric: Metric, also: tuple[Metric, ...], scales: tuple[str, ...], path: Path
) -> tuple[Cell, ...]:
    where = f"{path}: cells"
    entries = [*_list(data, "cells", path), *(cross(data["grid"], f"{path}: grid", scales) if "grid" in data else [])]
    cells = tuple(_cell(entry, metric, also, scales, f"{where}[{i}]") for i, entry in enumerate(entries))
    ids = [cell.id for cell in cells]
    if not cells:
        raise UserError(f"{path}: no cells; write a list `cells` or a `grid`")
    if len(set(ids)) < len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise UserError(f"{where}: the cell {twice!r} is there twice; give each cell its own row and column")
    for cell in cells:
        if cell.paired_with and choice(cell.paired_with, f"{where} ({cell.id}).paired_with", ids) == cell.id:
            raise UserError(f"{where} ({cell.id}).paired_with: a cell is paired with another; name its row")
    return cells


def _cell(data: Any, metric: Metric, also: tuple[Metric, ...], scales: tuple[str, ...], where: str) -> Cell:
    keys(data, where, _CELL, ["row"])
    row, column = (_label(data.get(axis, ""), f"{where}.{axis}") for axis in ("row", "column"))
    where = f"{where} ({row}|{column})"
    if data.get("published_difference") is not None and not data.get("paired_with"):
        raise UserError(f"{where}.published_difference: of this cell from which? Add paired_with: ROW")
    own = tuple(choice(s, f"{where}.scales", scales) for s in sequence(data.get("scales", list(scales)), where))
    published, beside = _printed(data.get("published"), f"{where}.published", [m.name for m in also])
    return Cell(
        row=row,
        column=column,
        set=mapping(data.get("set", {}), f"{where}.set"),
        metric=_metric(data["metric"], f"{where}.metric", metric) if "metric" in data else metric,
        scales=own,
        published=published,
        published_also=beside,
        notes=_notes(data["note"], f"{where}.note") if data.get("note") else (),
        paired_with=_pair(text(data.get("paired_with", ""), f"{where}.paired_with"), column),
        published_difference=_published(data.get("published_difference"), f"{where}.published_difference"),
    )


def _notes(data: Any, where: str) -> tuple[str, ...]:
    """One note, or a grid's: the row's and the column's."""
    return tuple(text(note, where) for note in ([data] if isinstance(data, str) else sequence(data, where)))


def _pair(label: str, column: str) -> str:
    """A cell's id from itself, or from a row of the same column."""
    return f"{label}|{column}" if label and "|" not in label else label


def _label(data: Any, where: str) -> str:
    """A label is text or a number; `on` and `no` are neither in YAML. A column may have none."""
    if isinstance(data, str) and not data.strip() and (data or where.endswith(".row")):
        raise UserError(f"{where}: the label is empty; write what the paper prints there")
    return line(data, where) if isinstance(data, str) else str(number(data, where))


def _printed(data: Any, where: str, also: list[str]) -> tuple[Published | None, tuple[Published, ...]]:
    """The number for the cell's own metric; of a list, also those whose `metric` is a further one of the table."""
    if not isinstance(data, list):
        return _published(data, where), ()
    entries = [mapping(entry, f"{where}[{i}]") for i, entry in enumerate(sequence(data, where))]
    printed = [_published(entry, f"{where}[{i}]") for i, entry in enumerate(entries)]
    own = [p for p in printed if p.metric not in also]
    if len(own) > 1:
        raise UserError(
            f"{where}: {len(own)} numbers for one metric; of a further one write metric: {nearest('', also)}"
        )
    return own[0] if own else None, tuple(p for p in printed if p.metric in also)


def _published(data: Any, where: str) -> Published | None:
    if data is None:
        return None
    if isinstance(data, int | float):
        raise UserError(f"{where}: {data} has no unit; write {{value: {data}, unit: ...}}")
    published = build(Published, data, where)
    number(published.value, f"{where}.value")
    number(0 if published.std is None else published.std, f"{where}.std", least=0)
    if published.n is not None and number(published.n, f"{where}.n", least=1) != int(published.n):
        raise UserError(f"{where}.n: {published.n} is no number of runs; write a whole number")
    return published

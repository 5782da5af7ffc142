"""Every measured and published accuracy of all papers as one list, and its nominal cells side by side.

An entry is a mean over runs of ours, a published number, or a mean over imported runs. Numbers of held-out or test
images in percent are entries; other metrics (angles, potentials) stay in their tables.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from lit_fa.results.compare import Comparison
from lit_fa.results.nominal import Nominal, Setup, setup
from lit_fa.results.records import Collected
from lit_fa.results.summary import Summary
from lit_fa.results.verdict import Kind
from lit_fa.spec.claims import Claim
from lit_fa.spec.table import Cell, Metric, Published

SELECTION = {
    "last": "final epoch",
    "best": "best epoch",
    "best_validation": "best on validation",
    "mean_last_10": "mean of last ten",
}
APART = 1.0  # points between two claims beyond their intervals, from which they contradict each other
Origin = Literal["measured", "published", "imported"]


@dataclass(frozen=True)
class Entry:
    """One number of the atlas.

    Attributes:
        origin: measured by this project, published, or measured by others and imported.
        nominal: rule, family of networks, data set, central or federated.
        layers, training, epochs, selection: the protocol, as texts.
        value, std: in percent; the sample deviation over runs.
        interval: half the width of the 95 % Student interval of the mean; None for one run or an unknown spread.
        runs: number of runs; None if it is not stated.
        source: the table, the paper with its table, or the submission.
        paper: of a published number; numbers of one paper do not contradict each other.
        label: the row and column of a table.
        scale: of a measured number; `full` and `full-converged` are the paper's length.
        read: how a published number is known.
        kind: verdict on a measured number beside its own published number, or None.
        links: files of the records, or the table.
        note: what the scale reduces, or a remark on the claim.
    """

    origin: Origin
    nominal: Nominal
    layers: str
    training: str
    epochs: str
    selection: str
    value: float
    std: float | None
    interval: float | None
    runs: int | None
    source: str
    paper: str = ""
    label: str = ""
    scale: str = ""
    read: str = ""
    kind: Kind | None = None
    links: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class NominalCell:
    """The entries with equal names of rule, network and data set."""

    nominal: Nominal
    entries: tuple[Entry, ...]

    def of(self, origin: Origin) -> list[Entry]:
        """The entries of one origin."""
        return [entry for entry in self.entries if entry.origin == origin]

    @property
    def contradictions(self) -> list[tuple[Entry, Entry]]:
        """Pairs of numbers of different papers that are further apart than `APART` beyond their intervals."""
        pairs = combinations(sorted(self.of("published"), key=lambda entry: entry.value), 2)
        return [(low, high) for low, high in pairs if low.paper != high.paper and gap(low, high) > APART]


def gap(low: Entry, high: Entry) -> float:
    """The distance of two numbers less the half widths of their intervals; an unknown interval has no width."""
    return abs(high.value - low.value) - (low.interval or 0.0) - (high.interval or 0.0)


def cells_of(entries: Iterable[Entry]) -> list[NominalCell]:
    """The nominal cells in the order of data set, network and rule."""
    by_name: dict[Nominal, list[Entry]] = {}
    for entry in entries:
        by_name.setdefault(entry.nominal, []).append(entry)
    order = sorted(by_name, key=lambda nominal: (nominal.federated, nominal.data, nominal.network, nominal.rule))
    return [NominalCell(nominal, tuple(by_name[nominal])) for nominal in order]


def distinct(entries: Iterable[Entry]) -> list[Entry]:
    """The entries without the repetitions of a published number: one value of one paper in one nominal cell."""
    unique, seen = list[Entry](), set[tuple[str, Nominal, float]]()
    for entry in entries:
        key = (entry.paper, entry.nominal, entry.value)
        if entry.origin != "published" or key not in seen:
            unique.append(entry)
        if entry.origin == "published":
            seen.add(key)
    return unique


def entries_of(collected: Collected, comparisons: Sequence[Comparison]) -> Iterator[tuple[Entry, float | None]]:
    """The measured numbers of a table at one scale, each with the number that the paper prints for it, or None."""
    configs = {run.cell.id: run.config for run in collected.runs}
    for row in comparisons:
        if row.of_difference or row.cell.id not in configs or collected.table.tuning:
            continue
        summary = next((one for one in (row.summary, *row.also) if _is_accuracy(one.metric) and one.n), None)
        if summary is not None and summary.mean is not None and math.isfinite(summary.mean):
            compared = row.published if summary is row.summary else None
            beside = compared.value if compared and compared.unit == "%" else None
            yield _measured(collected, row, summary, setup(configs[row.cell.id])), beside


def published_of(collected: Collected) -> Iterator[Entry]:
    """The published numbers of a table, once for each number that several cells read; the scale must be `full`."""
    configs = {run.cell.id: run.config for run in collected.runs}
    seen = set[str]()
    for cell in collected.cells:
        name = cell.reading_of or cell.id
        if cell.published and _is_accuracy(cell.metric) and cell.published.unit == "%" and name not in seen:
            seen.add(name)
            yield _printed(collected, cell, cell.published, setup(configs[cell.id]))


def claimed(claims: Iterable[Claim]) -> Iterator[Entry]:
    """The published numbers of `claims.yaml`."""
    for claim in claims:
        block = claim.block
        runs = int(block.runs) if block.runs else None
        source = f"{block.source}, {block.where}" + (f" (arXiv {block.arxiv})" if block.arxiv else "")
        yield Entry(
            origin="published",
            nominal=Nominal(claim.rule, block.network, claim.data),
            layers=claim.layers,
            training=block.training,
            epochs=block.epochs,
            selection=block.selection,
            value=claim.value,
            std=claim.std,
            interval=student(claim.std, runs),
            runs=runs,
            source=source,
            paper=block.arxiv or block.source,
            read=block.read,
            note=block.note,
        )


def student(std: float | None, runs: int | None) -> float | None:
    """Half the width of the 95 % interval of a mean of `runs` runs; None where one of the two is unknown."""
    if std is None or runs is None or runs < 2:
        return None
    from scipy.special import stdtrit  # slow to import

    return float(stdtrit(runs - 1, 0.975)) * std / math.sqrt(runs)


def _is_accuracy(metric: Metric) -> bool:
    return metric.unit == "%" and metric.name.startswith(("test/", "val/"))


def _measured(collected: Collected, row: Comparison, summary: Summary, run: Setup) -> Entry:
    records = collected.of(row.cell)
    assert summary.mean is not None
    return Entry(
        origin="measured",
        nominal=run.nominal,
        layers=run.layers,
        training=run.training,
        epochs=run.epochs if collected.scale.protocol == "matched" else f"to convergence, at most {run.epochs}",
        selection=_selection(summary.metric),
        value=summary.mean,
        std=summary.sd,
        interval=summary.interval,
        runs=summary.n,
        source=f"{collected.table.paper.key}/{collected.table.name}",
        label=", ".join(part for part in (row.cell.row, row.cell.column) if part),
        scale=collected.scale.label,
        kind=row.kind if summary is row.summary and row.published and collected.scale.name == "full" else None,
        links=tuple(str(record.path) for record in records),
        note=collected.scale.note,
    )


def _printed(collected: Collected, cell: Cell, published: Published, run: Setup) -> Entry:
    runs = int(published.n) if published.n else None
    paper = collected.table.paper
    return Entry(
        origin="published",
        nominal=run.nominal,
        layers=run.layers,
        training=run.training,
        epochs=run.epochs,
        selection=SELECTION.get(published.at or cell.metric.at, "not stated"),
        value=published.value,
        std=published.std,
        interval=student(published.std, runs),
        runs=runs,
        source=", ".join(part for part in (paper.title, published.source or paper.table) if part),
        paper=paper.arxiv or paper.title,
        label=", ".join(part for part in (cell.row, cell.column) if part),
        read="paper",
        links=(str(collected.table.path),),
        note=published.protocol,
    )


def _selection(metric: Metric) -> str:
    split = "" if metric.name.startswith("test/") else ", of held-out images"
    return SELECTION.get(metric.at, metric.at) + split

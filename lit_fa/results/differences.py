"""A record against a rerun of the same config: every final metric and every curve.

On the same model of processor, with the same versions and threads, all numbers have to be equal, bit for bit. (Records
of before 29 November 2026 do not have the model, and the name alone hides it on virtual machines.) Elsewhere rounding
differs and training amplifies it, so a metric may differ by `SPREADS` times its deviation over the other seeds: those
of its own cell or, if that is larger, the root mean square over the cells. The record itself is left out, because a
wrong number would widen its own tolerance. A metric without two other seeds may differ by `RELATIVE` of its value.
Curves are compared on the same machine only. Times are never compared. What today's code no longer logs is listed; it
counts as a difference only if the table reads it.
"""

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from lit_fa.results.records import Collected, Record

SPREADS = 4.0
RELATIVE = 1e-3
_TIME = re.compile(r"(?:^|[/_])(?:s|ms|seconds|time|time_ratio)$")  # how a metric of time ends
_OTHER_CODE = ("lit-fa",)  # a version that says nothing: the report names the changed files


@dataclass(frozen=True)
class Difference:
    """One number that is not the same: of a metric, or the largest of a curve.

    Attributes:
        metric: its name; of a curve `NAME (curve)`.
        recorded: as in the record, None if it is missing there or not finite.
        rerun: as in the rerun.
        tolerance: largest difference that is allowed on another machine, in the metric's unit; None for a curve.
        why: what the tolerance is.
    """

    metric: str
    recorded: float | None
    rerun: float | None
    tolerance: float | None = None
    why: str = ""

    @property
    def size(self) -> float:
        """The absolute difference; infinite if one of the numbers is missing."""
        if self.recorded is None or self.rerun is None:
            return math.inf
        return abs(self.recorded - self.rerun)

    @property
    def relative(self) -> float:
        """The absolute difference, divided by the larger of the two absolute values."""
        largest = max(abs(self.recorded or 0.0), abs(self.rerun or 0.0))
        return self.size / largest if largest else self.size

    @property
    def is_allowed(self) -> bool:
        """Whether it is within the tolerance, or of a curve."""
        return self.metric.endswith(" (curve)") or (self.tolerance is not None and self.size <= self.tolerance)


@dataclass(frozen=True)
class RunComparison:
    """A record and its rerun.

    Attributes:
        compared: number of metrics and curves.
        differences: the largest first.
        elsewhere: what differs in machine and versions.
        not_judged: metrics of time.
        absent: metrics and curves that the rerun lacks and the table does not read.
    """

    compared: int
    differences: tuple[Difference, ...]
    elsewhere: tuple[str, ...]
    not_judged: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()

    @property
    def agrees(self) -> bool:
        """Whether all numbers are equal or, on another machine, within their tolerances."""
        return not self.differences or (bool(self.elsewhere) and all(d.is_allowed for d in self.differences))


def compare_runs(record: Record, rerun: Record, spreads: dict[str, float], read: Collection[str] = ()) -> RunComparison:
    """Every metric and curve of `record` against those of `rerun`.

    Args:
        record: as it was recorded.
        rerun: of the same config. A number that only the rerun has is new and is not compared.
        spreads: as of `spreads_of`.
        read: names of the metrics and curves that the table reads.
    """
    then, now = record.data["metrics"], rerun.data["metrics"]
    logged = {*now, *rerun.data["curves"]}
    absent = [name for name in {**then, **record.data["curves"]} if name not in logged and name not in read]
    names = [name for name in then if not (_TIME.search(name) or name in absent)]
    curves = [name for name in record.data["curves"] if not (_TIME.search(name) or name in absent)]
    differences = [
        Difference(name, _finite(then[name]), _finite(now.get(name)), *_tolerance(then[name], spreads.get(name)))
        for name in names
        if name not in now or not _same(then[name], now[name])
    ]
    differences += [difference for name in curves if (difference := _of_curve(name, record, rerun))]
    if record.diverged != rerun.diverged:
        differences.append(Difference(_ends(record, rerun), None, None))
    return RunComparison(
        len(names) + len(curves),
        tuple(sorted(differences, key=lambda d: (d.is_allowed, -d.relative))),
        environment_changes(record.data, rerun.data),
        tuple(name for name in then if _TIME.search(name)),
        tuple(absent),
    )


def environment_changes(recorded: dict[str, Any], rerun: dict[str, Any]) -> tuple[str, ...]:
    """What differs in processor, graphics card, threads, versions and executor: `torch 2.9.0, now 2.11.0`."""
    named = ("cpu", "processor", "gpu")
    pairs = [(name, *(_field(data, "hardware", name) for data in (recorded, rerun))) for name in named]
    pairs += [("threads", *(_field(data, "hardware", "threads") for data in (recorded, rerun)))]
    names = dict.fromkeys([*(recorded.get("versions") or {}), *(rerun.get("versions") or {})])
    versions = [name for name in names if name not in _OTHER_CODE]
    pairs += [(name, *(_field(data, "versions", name) for data in (recorded, rerun))) for name in versions]
    pairs += [("executor", recorded.get("executed_by"), rerun.get("executed_by"))]
    unknown = () if _field(recorded, "hardware", "processor") else ("the record does not say which model of processor",)
    changes = (pair for pair in pairs if pair[1] != pair[2] and not (unknown and pair[0] == "processor"))
    return (*unknown, *(f"{name} {_text(then)}, now {_text(now)}" for name, then, now in changes))


def spreads_of(collected: Collected, cell_id: str, without: Record) -> dict[str, float]:
    """The deviation of each metric over seeds: of the cell or, if larger, the root mean square over the cells.

    Args:
        collected: the records of the table.
        cell_id: the cell of the record that is judged.
        without: this record, which is left out.
    """
    others = {cell.id: [r for r in collected.of(cell) if r.path.name != without.path.name] for cell in collected.cells}
    by_cell = {name: _deviations(records) for name, records in others.items()}
    names = sorted({name for deviations in by_cell.values() for name in deviations})
    pooled = {
        name: math.sqrt(fmean(deviations[name] ** 2 for deviations in by_cell.values() if name in deviations))
        for name in names
    }
    return {name: max(value, by_cell.get(cell_id, {}).get(name, 0.0)) for name, value in pooled.items()}


def _deviations(records: Sequence[Record]) -> dict[str, float]:
    """Metric to its sample deviation, where at least two seeds have a finite value."""
    values: dict[str, list[float]] = {}
    for record in records:
        for name, value in record.data["metrics"].items():
            if math.isfinite(value):
                values.setdefault(name, []).append(value)
    return {name: stdev(numbers) for name, numbers in values.items() if len(numbers) > 1}


def _tolerance(value: float, spread: float | None) -> tuple[float, str]:
    size = abs(value) if math.isfinite(value) else 0.0
    if spread is None:
        return RELATIVE * size, f"{RELATIVE:.1%} of the value: no cell has two other seeds"
    if SPREADS * spread <= RELATIVE * size:
        return RELATIVE * size, f"{RELATIVE:.1%} of the value: the seeds hardly differ"
    return SPREADS * spread, f"{SPREADS:g} x the deviation over seeds, {spread:.3g}"


def _of_curve(name: str, record: Record, rerun: Record) -> Difference | None:
    """The point at which a curve differs most, by the six digits that records keep; None if all points are equal."""
    then, now = ({(step, epoch): v for step, epoch, v in run.curve(name)} for run in (record, rerun))
    pairs = [(_six(value), _six(now[point])) for point, value in then.items() if point in now]
    pairs += [(_six(value), math.nan) for point, value in then.items() if point not in now]
    different = [Difference(f"{name} (curve)", _finite(a), _finite(b)) for a, b in pairs if not _same(a, b)]
    return max(different, key=lambda d: d.relative, default=None)


def _ends(record: Record, rerun: Record) -> str:
    then, now = (f"diverged {run.diverged}" if run.diverged else "finished" for run in (record, rerun))
    return f"status ({then}, now {now})"


def _same(then: float, now: float) -> bool:
    return then == now or (math.isnan(then) and math.isnan(now))


def _six(value: float) -> float:
    return float(f"{value:.6g}")


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _field(data: dict[str, Any], part: str, name: str) -> Any:
    return (data.get(part) or {}).get(name)


def _text(value: Any) -> str:
    return "none" if value is None else str(value)

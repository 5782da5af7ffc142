"""What runs cost: measured by the records of a table, or else declared by it."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from lit_fa.results.records import Collected, Record
from lit_fa.spec.cost import Cost
from lit_fa.spec.expand import Run


@dataclass(frozen=True)
class Estimate:
    """The cost of some runs of a table.

    Attributes:
        cpu_hours: processor time of all of them; None if it is not known.
        gpu_hours: time on one graphics card.
        memory_gib: of the run that needs most.
        download_gib: as declared.
        device: cpu or gpu; "" if it is not known.
        source: `24 records`, or `declared`.
    """

    cpu_hours: float | None = None
    gpu_hours: float | None = None
    memory_gib: float | None = None
    download_gib: float | None = None
    device: str = ""
    source: str = ""

    @property
    def text(self) -> str:
        """`1.2 CPU hours, 1.5 GiB (24 records)`."""
        hours = (("CPU", self.cpu_hours), ("GPU", self.gpu_hours))
        parts = [f"{_hours(value)} {name}" for name, value in hours if value is not None]
        parts += [f"{self.memory_gib:.1f} GiB of memory"] if self.memory_gib is not None else []
        parts += [f"{self.download_gib:.2g} GiB to download"] if self.download_gib else []
        parts += ["needs a GPU"] if self.device == "gpu" else []
        return f"{', '.join(parts)} ({self.source})" if parts else "unknown cost"


def estimate(collected: Collected, runs: Sequence[Run]) -> Estimate:
    """The cost of `runs` of the scale that was collected.

    A run takes the median time of its cell's records, or of all records for a cell without one. Records from before
    CPU time was measured give wall time. Without records the declared cost is shared out by the number of runs.
    """
    declared, records = collected.scale.cost, collected.ended
    download = declared.download_gib if declared else None
    if records:
        hours, on_gpu = _total_seconds(collected, runs) / 3600, bool(_gpu(records[0]))
        memory = max(_memory(record) for record in records)
        cpu, gpu = (None, hours) if on_gpu else (hours, None)
        return Estimate(cpu, gpu, memory or None, download, "gpu" if on_gpu else "cpu", f"{len(records)} records")
    return as_declared(declared, len(runs) / max(len(collected.runs), 1))


def as_declared(cost: Cost | None, share: float = 1.0) -> Estimate:
    """The declared cost of a share of a scale's runs."""
    if cost is None:
        return Estimate()
    cpu, gpu = (None if hours is None else hours * share for hours in (cost.cpu_hours, cost.gpu_hours))
    return Estimate(cpu, gpu, cost.memory_gib, cost.download_gib, cost.device, "declared")


def seconds_of(record: Record) -> float | None:
    """Processor seconds of a run on a processor, wall seconds of one on a card; wall seconds where that is all."""
    data = record.data
    if not _gpu(record) and data.get("cpu_time_s") is not None:
        return float(data["cpu_time_s"])
    return float(data["wall_time_s"]) if data.get("wall_time_s") is not None else None


def cost_of_rows(collected: Collected) -> list[tuple[str, float, float | None]]:
    """For each row the median CPU seconds and, where measured, the median joules of its runs."""
    medians, by_row = [], dict[str, list[Record]]()
    for cell in collected.cells:
        by_row.setdefault(cell.row, []).extend(collected.of(cell))
    for row, records in by_row.items():
        seconds = [r.data["cpu_time_s"] for r in records if r.data.get("cpu_time_s") is not None]
        joules = [sum(e.values()) for r in records if (e := _energy(r))]
        if seconds:
            medians.append((row, median(seconds), median(joules) if joules else None))
    return medians


def _energy(record: Record) -> dict[str, float]:
    return {name: joules for name, joules in (record.data.get("energy_j") or {}).items() if joules is not None}


def _total_seconds(collected: Collected, runs: Sequence[Run]) -> float:
    cells = {run.cell.id: run.cell for run in runs}
    by_cell = {name: _median((*collected.of(cell), *collected.lost(cell))) for name, cell in cells.items()}
    of_all = _median(collected.ended) or 0.0
    return sum(by_cell[run.cell.id] or of_all for run in runs)


def _median(records: Sequence[Record]) -> float | None:
    """The median of the records' seconds, None without one."""
    seconds = [s for record in records if (s := seconds_of(record))]
    return median(seconds) if seconds else None


def _gpu(record: Record) -> str | None:
    return (record.data.get("hardware") or {}).get("gpu")


def _memory(record: Record) -> float:
    return (record.data.get("peak_memory_mib") or 0.0) / 1024


def _hours(value: float) -> str:
    for unit, size in (("second", 3600), ("minute", 60)):
        if (number := round(value * size)) < 60:
            return f"{number} {unit}{'' if number == 1 else 's'} of"
    return f"{value:.1f} hours of"

"""What a report says beside its numbers: runs, time, machines and commits, notes, and sources of published numbers."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from lit_fa.results import tuning
from lit_fa.results.compare import Comparison
from lit_fa.results.cost import as_declared, cost_of_rows, estimate
from lit_fa.results.preliminary import diverged, replaced
from lit_fa.results.records import Collected
from lit_fa.results.verification import last_verified
from lit_fa.spec.table import Cell, Scale, Table

_ROWS = 10  # of which each has its cost
_WITHOUT_NAME = ("paper", "code")  # facts whose value is a line of its own


def facts(collected: Collected) -> list[tuple[str, str]]:
    """(name, value) of paper, scale, seeds, diverged runs, time, hardware and commits."""
    table, scale, data = collected.table, collected.scale, [record.data for record in collected.ended]
    paper, dirty = table.paper, sum(bool(entry.get("dirty")) for entry in data)
    reference = (paper.title or paper.key, paper.arxiv and f"arXiv:{paper.arxiv}", paper.table)
    finished = f"{len(collected.all)} of {len(collected.runs)} runs finished"
    pairs = [
        ("paper", ", ".join(filter(None, reference))),
        ("scale", scale.name + (f" ({scale.note})" if scale.note else "")),
        *(("cost", text) for text in [costs(collected)] if text),
        *_protocol(table, scale),
        ("seeds", f"{', '.join(map(str, scale.seeds))}; {_further(collected)}{finished}"),
        *(("diverged", line) for line in _divergences(collected)),
        *(("tuning", line) for line in tuning.lines(collected)),
    ]
    if data:
        pairs += [("wall time, all runs", wall_time(data)), *cpu_time(data), *_cost(collected)]
        pairs += [("hardware", "; ".join(machines(data))), ("commits", ", ".join(commits(data)))]
    if data:
        pairs += [*_validation(data), ("failed and preliminary runs", _not_counted(collected)), ("data", _origin(data))]
        verified = last_verified(collected.ended[0].path.parent)
        pairs.append(("last verified", verified.text if verified else "never"))
    if dirty:
        pairs.append(("code", f"{dirty} of {len(data)} runs are from a tree with uncommitted changes"))
    return pairs


def costs(collected: Collected) -> str:
    """What each scale but `smoke` costs, if it is known: this one by its records, the others as they are declared."""
    texts = {
        name: estimate(collected, collected.runs) if name == collected.scale.name else as_declared(scale.cost)
        for name, scale in collected.table.scales.items()
        if name != "smoke" or name == collected.scale.name
    }
    return "; ".join(f"{name}: {cost.text}" for name, cost in texts.items() if cost.source)


def line(name: str, value: str) -> str:
    """A fact as a line."""
    return value if name in _WITHOUT_NAME else f"{name}: {value}"


def notes(comparisons: Sequence[Comparison]) -> Iterator[tuple[str, str]]:
    """(labels, note) of each note, once."""
    cells = [c.cell for c in comparisons]
    for note in dict.fromkeys(note for cell in cells for note in cell.notes):
        yield _labels([cell for cell in cells if note in cell.notes], cells), note


def sources(comparisons: Sequence[Comparison]) -> list[str]:
    """Where the published numbers come from, each source and protocol once."""
    cells = [c.cell for c in comparisons]
    published = [p for cell in cells for p in (cell.published, cell.published_difference, *cell.published_also) if p]
    return [text for text in dict.fromkeys("; ".join(filter(None, (p.source, p.protocol))) for p in published) if text]


def wall_time(data: Iterable[dict[str, Any]]) -> str:
    """The wall time of all these records."""
    return duration(sum(entry.get("wall_time_s") or 0 for entry in data))


def machines(data: Iterable[dict[str, Any]]) -> list[str]:
    """The different machines of records."""
    return sorted({hardware(entry.get("hardware")) for entry in data})


def commits(data: Iterable[dict[str, Any]]) -> list[str]:
    """The different commits of records, shortened."""
    return sorted({str(entry.get("commit", "unknown"))[:7] for entry in data})


def duration(seconds: float) -> str:
    """`42 s`, `12 min` or `3.5 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def hardware(entry: dict[str, Any] | None) -> str:
    """One line about a machine from a record's `hardware`."""
    entry = entry or {}
    cores = f"{entry['cores']} cores" if entry.get("cores") else ""
    threads = f"{entry['threads']} thread{'s' * (entry['threads'] != 1)} a run" if entry.get("threads") else ""
    memory = f"{entry['memory_gib']:.0f} GiB" if entry.get("memory_gib") else ""
    parts = (entry.get("gpu"), entry.get("cpu"), cores, threads, memory)
    return ", ".join(str(part) for part in parts if part) or "unknown"


def _protocol(table: Table, scale: Scale) -> list[tuple[str, str]]:
    """How runs end, if not after a fixed length."""
    if scale.protocol == "matched":
        return []
    stopping, by = table.stopping, table.monitored["monitor"]
    share = " of the" if stopping.held_out < 1 else ""
    held_out = f"{stopping.held_out:g}{share} training samples held out, unless a config holds out its own number"
    held_out = held_out if stopping.held_out else "the data set's own validation samples"
    text = f"early stopping after {stopping.patience:g} validations without a better {by}"
    return [("protocol", f"{scale.protocol}: {text}; {held_out}")]


def _further(collected: Collected) -> str:
    """The seeds beyond the table's list, which some cells have."""
    further = [run for run in collected.runs if run.seed not in collected.scale.seeds]
    cells, seeds = {run.cell.id for run in further}, sorted({run.seed for run in further})
    return f"of {len(cells)} cells also {', '.join(map(str, seeds))}; " if further else ""


def _validation(data: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    on_test = sum(bool(entry.get("validation_is_test")) for entry in data)
    return [("validation", f"on the test set in {on_test} of {len(data)} runs")] if on_test else []


def _not_counted(collected: Collected) -> str:
    """`2 diverged, 3 min; 4 preliminary, 12 min`: runs that are in no mean, with their processor time."""
    lost, earlier = diverged(collected), replaced(collected)
    text = f"{lost.runs} diverged" + (f", {duration(lost.seconds)}" if lost.runs else "")
    if earlier is None:
        return f"{text}; preliminary not recorded"
    silent = sum("preliminary" not in record.data for record in collected.ended)
    text += f"; {earlier.runs} preliminary" + (f", {duration(earlier.seconds)}" if earlier.runs else "")
    return text + (f", not recorded for {silent} runs" if silent else "")


def _origin(data: Sequence[dict[str, Any]]) -> str:
    """`MNIST (licence CC BY-SA 3.0, SHA-256 0123456789ab)` for every data set of the records."""
    sets = [entry.get("dataset") or {} for entry in data]
    known = dict.fromkeys((s.get("name"), s.get("licence"), str(s.get("sha256"))[:12]) for s in sets if s)
    parts = [f"{name} (licence {licence}, SHA-256 {checksum})" for name, licence, checksum in known]
    silent = sum(not s for s in sets)
    unknown = f"licence and checksum not recorded for {silent} of {len(data)} runs"
    return "; ".join([*parts, *([unknown] if silent else [])])


def _divergences(collected: Collected) -> list[str]:
    """`FA, width 32, seed 0 at step 40 (the output of head)`, for every run that diverged."""
    labels = {(run.cell.id, run.seed): run.label for run in collected.runs}
    diverged = [(cell, record) for cell in collected.cells for record in collected.lost(cell)]
    return [f"{labels[cell.id, record.seed]} {record.diverged}" for cell, record in diverged]


def cpu_time(data: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """The processor time of the records that have it: older ones do not."""
    spent = [entry["cpu_time_s"] for entry in data if entry.get("cpu_time_s") is not None]
    runs = "all runs" if len(spent) == len(data) else f"the {len(spent)} runs that recorded it"
    return [(f"CPU time, {runs}", duration(sum(spent)))] if spent else []


def _cost(collected: Collected) -> list[tuple[str, str]]:
    """The median cost of a run in each row whose records have it; of many rows, the cheapest and the dearest."""
    rows = cost_of_rows(collected)
    if len(rows) > _ROWS:
        rows.sort(key=lambda row: row[1])
        rows = [rows[0], rows[-1]]
    texts = [f"{row} {duration(s)}" + (f" ({joules / 1000:.3g} kJ)" if joules else "") for row, s, joules in rows]
    return [("CPU time of a run, median", "; ".join(texts))] if texts else []


def _labels(noted: Sequence[Cell], cells: Sequence[Cell]) -> str:
    """The columns or rows whose cells all have a note; else the label of every cell that has it."""
    for axis in ("column", "row") if len(noted) > 1 else ("row",):
        labels = dict.fromkeys(getattr(cell, axis) for cell in noted)
        if all(labels) and len(noted) == sum(getattr(cell, axis) in labels for cell in cells):
            return ", ".join(labels)
    return "; ".join(", ".join(filter(None, (cell.row, cell.column))) for cell in noted)

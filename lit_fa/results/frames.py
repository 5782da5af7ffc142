"""Records as pandas frames: `frame` has a row for every number of every run, `wide` a row for every run.

pandas is imported when a frame is made: a report does not need it, and it takes more than half a second.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lit_fa.bounded_reading import read_json, reason
from lit_fa.errors import UserError
from lit_fa.escaping import plain
from lit_fa.results.record_schema import numeric
from lit_fa.results.records import Collected, Record, collect
from lit_fa.spec.output_paths import output_paths, tree_of
from lit_fa.spec.table import Metric, Table, load_table

if TYPE_CHECKING:
    import pandas as pd

_RUN = ("table", "row", "column", "seed", "scale", "status", "commit")


def frame(source: "Table | Collected | Path | str | Iterable[Record]") -> "pd.DataFrame":
    """Every number of every run: `table, cell, row, column, seed, scale, status, commit, metric, at, value, path`.

    `cell` is `row|column`. `at` names the point of the curve: "last" for final metrics; a table adds its own metrics at
    the points that it asks for. `value` is in the metric's unit, nan where it was not finite. Runs that diverged are
    there with `status` "diverged". A table has the records of all its scales that count, of its protocol:
    `load_table(file).under("converged")` has those of the other one. A folder has all records in it.

    Args:
        source: a table or its YAML file; a folder of records or one record; records that have been read.

    Raises:
        UserError: the table cannot be read, or there is no such file or folder.
    """
    import pandas as pd

    entries = [
        {key: record.data.get(key, "") for key in _RUN}
        | {"cell": f"{record.data.get('row', '')}|{record.data.get('column', '')}", "path": str(record.path)}
        | {"metric": metric.name, "at": metric.at, "value": value}
        for record, metrics in _sources(source)
        for metric, value in _values(record, metrics)
    ]
    return pd.DataFrame(entries, columns=["table", "cell", *_RUN[1:], "metric", "at", "value", "path"])


def wide(records: Sequence[Record]) -> "pd.DataFrame":
    """A row for every record: its fields by dotted name and its final metrics by their own; None where it has none."""
    import pandas as pd

    table = pd.DataFrame([final_metrics(record) | fields(record) for record in records], dtype=object)
    return table.where(table.notna(), None)


def read(paths: Sequence[Path], *, curves: bool = True) -> tuple[list[Record], list[str]]:
    """Every record below the paths, and a line for every file that should be one and cannot be read.

    Without `curves` they are checked and dropped: they take most of the memory.

    Raises:
        UserError: a path that does not exist.
    """
    records, problems = [], []
    for path in paths:
        if not os.path.exists(path):
            raise UserError(f"{path}: no such file or folder; give a folder or a record")
        for file in _files(path) if path.is_dir() else [path]:
            try:
                data = read_json(file, flat="curves")  # `numeric` accepts no deep ones
            except (OSError, ValueError) as error:
                problems.append(plain(f"{file}: {reason(error)}"))
                continue
            if not isinstance(data, dict) or not {"status", "metrics"} <= data.keys():
                continue  # some other JSON
            if numeric(data["metrics"], data.get("curves") or {}):
                records.append(Record(file, data if curves else {**data, "curves": {}}))
            else:
                problems.append(plain(f"{file}: metrics or curves are not numbers"))
    return records, problems


def _files(folder: Path) -> list[Path]:
    """The JSON files below a folder, in the order of their parts; comparing paths would take as long as reading."""
    return sorted(folder.rglob("*.json"), key=lambda file: file.parts)


def fields(record: Record) -> dict[str, Any]:
    """What a record says beside metrics and curves, by dotted name."""
    return dict(_flat({key: value for key, value in record.data.items() if key not in ("metrics", "curves")}))


def final_metrics(record: Record) -> dict[str, float]:
    """The final metrics that are numbers."""
    return {key: value for key, value in record.data["metrics"].items() if isinstance(value, int | float)}


def _sources(source: Any) -> Iterator[tuple[Record, Sequence[Metric]]]:
    """Records, and the metrics that their table asks for."""
    if isinstance(source, str | Path):
        path = Path(source)
        source = load_table(path) if path.suffix in (".yaml", ".yml") else read([path])[0]
    if isinstance(source, Table):
        for scale in source.scales.values():
            yield from _sources(collect(source, scale, output_paths(source, scale.label, tree_of(source)).results))
    elif isinstance(source, Collected):
        for cell in source.cells:
            for record in (*source.of(cell), *source.lost(cell)):
                yield record, (cell.metric, *source.table.also)
    else:
        yield from ((record, ()) for record in source)


def _values(record: Record, metrics: Sequence[Metric]) -> Iterator[tuple[Metric, float]]:
    final = [Metric(name, "") for name in record.data["metrics"]]
    asked = [metric for metric in metrics if metric.at != "last" or metric.name not in record.data["metrics"]]
    for metric in (*final, *asked):
        value = float("nan") if record.data["metrics"].get(metric.name, 0) is None else record.value(metric)
        if value is not None:
            yield metric, value


def _flat(data: dict[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value

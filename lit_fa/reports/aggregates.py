"""`lit-fa table aggregate`: rows of a table compared over all of its columns."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table as ConsoleTable

from lit_fa.escaping import shown
from lit_fa.outputs import write_text
from lit_fa.results.aggregates import Aggregate, Estimate, aggregate
from lit_fa.results.records import Collected
from lit_fa.results.summary import headline, number


def print_aggregates(
    collected: Collected, output: Console, reference: str, rows: Sequence[str] = (), json_file: Path | None = None
) -> None:
    """Prints interquartile mean and probability of improvement of every row; JSON has the performance profiles too.

    Args:
        collected: the records of a table at one scale.
        output: to print on.
        reference: the row that the others are compared with.
        rows: to compare; all if empty.
        json_file: also written there.

    Raises:
        UserError: an unknown row, or no column that all rows have run.
    """
    aggregates = aggregate(collected, reference, rows)
    view = ConsoleTable(
        "row",
        f"interquartile mean, {headline(collected.table.metric)}",
        f"P(better than {reference})",
        "columns",
        "runs",
        title=shown(f"{collected.table.paper.key} · {collected.table.name} · {collected.scale.label} scale"),
        caption="brackets: 95 %, stratified bootstrap over runs",
    )
    for one in aggregates:
        view.add_row(shown(one.row), _text(one.iqm), _text(one.better), str(len(one.runs)), str(sum(one.runs.values())))
    output.print(view)
    if json_file:
        write_text(json_file, json.dumps([_entry(collected, one) for one in aggregates], indent=1) + "\n", "--json")


def _text(estimate: Estimate | None) -> str:
    if estimate is None:
        return ""
    low, high = (number(value, estimate.value) for value in (estimate.low, estimate.high))
    return f"{number(estimate.value)} [{low}, {high}]"


def _entry(collected: Collected, one: Aggregate) -> dict[str, object]:
    table = collected.table
    return {"paper": table.paper.key, "table": table.name, "scale": collected.scale.label, **asdict(one)}

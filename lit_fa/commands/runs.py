"""`lit-fa runs`: lists, filters and compares run records of any table or folder."""

import argparse
import json
import operator
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table as ConsoleTable

from lit_fa.config.arguments import Arguments, file_path
from lit_fa.errors import UserError, nearest
from lit_fa.escaping import plain, shown
from lit_fa.importing import collector_rare
from lit_fa.outputs import writable_file, write_text
from lit_fa.results.frames import fields, final_metrics, read, wide
from lit_fa.results.records import Record

if TYPE_CHECKING:
    import pandas as pd

FOLDERS = ("paper_configs", "scratch", "lightning_logs")  # default folders of records
FIELDS = ("id", "name", "table", "row", "column", "scale", "seed", "status", "commit", "cpu_time_s", "wall_time_s")
METRICS = ("test/accuracy", "val/accuracy", "test/loss", "val/loss")  # the first of these that any run has is listed
COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
MOST = 8  # runs side by side
LONG = 500  # runs; a longer list is printed without rules
_WIDTH = 160
_UNCOMPARED = ("id", "config", "started", "finished", "not_finite")


def main(argv: Sequence[str]) -> int:
    """Runs `lit-fa runs <argv>` and returns the exit code."""
    with collector_rare():
        return _main(_parser().parse_args(argv))


def _main(arguments: argparse.Namespace) -> int:
    if arguments.json:
        writable_file(arguments.json, "--json")
    output = Console(emoji=False) if sys.stdout.isatty() else Console(width=_WIDTH, emoji=False)
    paths = arguments.paths or [Path(name) for name in FOLDERS if Path(name).is_dir()]
    if not paths:
        raise UserError(f"no records here: none of {', '.join(FOLDERS)}; give a folder or a record")
    records, problems = read(paths, curves=False)
    for problem in problems:
        output.print(f"skipped {problem}", markup=False, highlight=False, soft_wrap=True)
    runs = select(wide(records), arguments.where, arguments.sort, arguments.metric)
    selected = [records[i] for i in runs.index]
    known = {name for record in selected for name in final_metrics(record)}
    if arguments.compare:
        output.print(_side_by_side(runs, selected, arguments.metric or sorted(known)))
    else:
        _print_list(runs, arguments.metric or [name for name in METRICS if name in known][:1], output)
    output.print(f"{len(runs)} runs", highlight=False)
    if arguments.json:
        entries = [{"path": str(r.path), **fields(r), "metrics": final_metrics(r)} for r in selected]
        lines = ",\n".join(map(json.dumps, entries))  # with an indent, json.dumps encodes in Python
        write_text(arguments.json, f"[\n{lines}\n]\n", "--json")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Arguments(prog="lit-fa runs", description="Records of runs: listed, filtered, compared.")
    parser.add_argument("paths", nargs="*", type=file_path, metavar="PATH", help="records or folders of them")
    parser.add_argument("--where", action="append", default=[], metavar="row=FA", help="also !=, <, <=, >, >=")
    parser.add_argument("--metric", action="append", default=[], metavar="test/accuracy", help="show it")
    parser.add_argument("--sort", metavar="KEY", help="by a field or metric")
    parser.add_argument("--compare", action="store_true", help="one column a run: what differs, and the metrics")
    parser.add_argument("--json", type=file_path, metavar="FILE", help="write the runs as JSON as well")
    return parser


def select(
    runs: "pd.DataFrame", conditions: Sequence[str], sort: str | None = None, metrics: Sequence[str] = ()
) -> "pd.DataFrame":
    """The runs that fulfil every condition, in order of `sort`: numbers first, then text, then runs without it.

    Raises:
        UserError: a condition that cannot be read, or a field or metric that no run has.
    """
    for condition in conditions:
        runs = runs[_fulfil(runs, condition)]
    for key in (*metrics, *([sort] if sort else [])):
        _check(runs, key)
    return runs.sort_values(sort, key=lambda column: column.map(_order), kind="stable") if sort and len(runs) else runs


def _fulfil(runs: "pd.DataFrame", condition: str) -> list[bool]:
    """Which runs fulfil `key=value`; numbers compare as numbers, and a commit by its beginning."""
    parts = re.match(r"(.+?)(!=|>=|<=|=|>|<)(.*)", condition)
    if not parts:
        raise UserError(f"--where {condition!r}: write key=value, or with !=, <, <=, > or >=")
    key, sign, wanted = (part.strip() for part in parts.groups())
    _check(runs, key)
    values = runs[key] if len(runs) else []
    if sign in ("=", "!="):
        return [_equal(value, wanted, key) == (sign == "=") for value in values]
    if (bound := _number(wanted)) is None:
        raise UserError(f"--where {condition!r}: {wanted!r} is no number; only numbers have an order")
    return [(number := _number(value)) is not None and COMPARISONS[sign](number, bound) for value in values]


def _check(runs: "pd.DataFrame", key: str) -> None:
    """Refuse a field or metric that no run has."""
    known = runs.columns[runs.notna().any()]
    if len(runs) and key not in known:
        raise UserError(f"no run has a field or metric {key!r}; {nearest(key, list(known))}")


def _print_list(runs: "pd.DataFrame", metrics: Sequence[str], output: Console) -> None:
    """A row for each run; a long list in plain columns, because rich takes 2 ms for a row."""
    used = [name for name in FIELDS if name in runs and any(value not in (None, "") for value in runs[name])]
    texts = _texts(runs, [*used, *metrics])
    if len(texts) > LONG:
        print("\n".join(_columns([[*texts], *texts.itertuples(index=False)])), file=output.file)
        return
    view = ConsoleTable(*map(shown, texts))
    for row in texts.itertuples(index=False):
        view.add_row(*map(shown, row))
    output.print(view)


def _columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lines of columns that are as wide as their widest text, with two spaces between them."""
    texts = [[plain(text) for text in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    for row in texts:
        yield "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()


def _side_by_side(runs: "pd.DataFrame", records: Sequence[Record], metrics: Sequence[str]) -> ConsoleTable:
    """One column a run: the fields that differ, then the metrics."""
    if not 2 <= len(runs) <= MOST:
        raise UserError(f"--compare lays 2 to {MOST} runs side by side, not {len(runs)}; choose with --where or PATH")
    names = dict.fromkeys(name for record in records for name in fields(record))
    compared = [name for name in names if name.split(".")[0] not in _UNCOMPARED]
    texts = _texts(runs, [*compared, *metrics])
    titles = (_text("id", record.data.get("id")) or record.path.stem for record in records)
    view = ConsoleTable("", *map(shown, titles))
    for key in (name for name in compared if texts[name].nunique() > 1):
        view.add_row(shown(key), *map(shown, texts[key]))
    view.add_section()
    for key in metrics:
        view.add_row(shown(key), *map(shown, texts[key]))
    return view


def _texts(runs: "pd.DataFrame", keys: Sequence[str]) -> "pd.DataFrame":
    return runs.reindex(columns=keys).apply(lambda column: column.map(lambda value: _text(column.name, value)))


def _equal(value: Any, wanted: str, key: str) -> bool:
    if key == "commit":
        return str(value).startswith(wanted)
    numbers = _number(value), _number(wanted)
    return numbers[0] == numbers[1] if None not in numbers else str(value) == wanted


def _number(value: Any) -> float | None:
    try:
        return None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _order(value: Any) -> tuple[bool, bool, float, str]:
    number = _number(value)
    return (value is None, number is None, number or 0.0, "" if number is not None else str(value))


def _text(key: str, value: Any) -> str:
    if value is None or value != value:
        return ""
    if key == "commit":
        return str(value)[:8]
    return f"{value:.4g}" if isinstance(value, float) else str(value)

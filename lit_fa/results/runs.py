"""`lit-fa runs`: run records of any table or folder, listed, filtered, and laid side by side."""

import argparse
import json
import operator
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as ConsoleTable

from lit_fa.bounded_reading import read_json, reason
from lit_fa.config.arguments import Arguments
from lit_fa.errors import UserError, nearest
from lit_fa.escaping import plain, shown
from lit_fa.outputs import writable_file, write_text
from lit_fa.results.record_schema import numeric

PLACES = ("paper_configs", "scratch", "lightning_logs")  # where records lie by default
SHOWN = ("id", "table", "row", "column", "scale", "seed", "status", "commit", "wall_time_s")
METRICS = ("test/accuracy", "val/accuracy", "test/loss", "val/loss")  # the first that any run has is shown
COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "!=": operator.ne,
    ">=": operator.ge,
    "<=": operator.le,
    "=": operator.eq,
    ">": operator.gt,
    "<": operator.lt,
}
MOST = 8  # runs side by side
_WIDTH = 160
_UNCOMPARED = ("curves", "config", "started", "finished", "not_finite")


@dataclass(frozen=True)
class Listed:
    """A record, flat: fields by dotted name, metrics by their own."""

    path: Path
    fields: dict[str, Any]
    metrics: dict[str, float]

    def get(self, key: str) -> Any:
        """A field or metric, None where the run has neither."""
        return self.fields.get(key, self.metrics.get(key))


def main(argv: Sequence[str]) -> int:
    """Runs `lit-fa runs <argv>` and returns the exit code."""
    arguments = _parser().parse_args(argv)
    if arguments.json:
        writable_file(arguments.json, "--json")
    output = Console() if sys.stdout.isatty() else Console(width=_WIDTH)
    runs, problems = read(arguments.paths or [Path(name) for name in PLACES if Path(name).is_dir()])
    for problem in problems:
        output.print(f"skipped {problem}", markup=False, highlight=False, soft_wrap=True)
    for condition in arguments.where:
        runs = [run for run in runs if chosen(condition, runs)(run)]
    metrics = arguments.metric or [name for name in METRICS if any(name in run.metrics for run in runs)][:1]
    for name in [*arguments.metric, *([arguments.sort] if arguments.sort else [])]:
        _known(name, runs)
    if arguments.sort:
        runs.sort(key=lambda run: (run.get(arguments.sort) is None, _sortable(run.get(arguments.sort))))
    output.print(_side_by_side(runs, arguments.metric) if arguments.compare else _listed(runs, metrics))
    output.print(f"{len(runs)} runs", highlight=False)
    if arguments.json:
        entries = [{"path": str(run.path), **run.fields, "metrics": run.metrics} for run in runs]
        write_text(arguments.json, json.dumps(entries, indent=1) + "\n", "--json")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Arguments(prog="lit-fa runs", description="Records of runs: listed, filtered, compared.")
    parser.add_argument("paths", nargs="*", type=Path, metavar="PATH", help="records or folders of them")
    parser.add_argument("--where", action="append", default=[], metavar="row=FA", help="also !=, <, <=, >, >=")
    parser.add_argument("--metric", action="append", default=[], metavar="test/accuracy", help="show it")
    parser.add_argument("--sort", metavar="KEY", help="by a field or metric")
    parser.add_argument("--compare", action="store_true", help="one column a run: what differs, and the metrics")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the runs as JSON as well")
    return parser


def read(paths: Sequence[Path]) -> tuple[list[Listed], list[str]]:
    """Every record below the paths, and a line for every file that is none although it should be.

    Raises:
        UserError: a path that is not there, or none at all.
    """
    if not paths:
        raise UserError(f"no records here: none of {', '.join(PLACES)}; give a folder or a record")
    runs, problems = [], []
    for path in paths:
        if not path.exists():
            raise UserError(f"{path}: no such file or folder; give a folder or a record")
        for file in sorted(path.rglob("*.json")) if path.is_dir() else [path]:
            try:
                data = read_json(file)
            except (OSError, ValueError) as error:
                problems.append(plain(f"{file}: {reason(error)}"))
                continue
            if not isinstance(data, dict) or not {"status", "metrics"} <= data.keys():
                continue  # some other JSON
            if numeric(data["metrics"], data.get("curves") or {}):
                runs.append(_listed_from(file, data))
            else:
                problems.append(plain(f"{file}: metrics or curves are not numbers"))
    return runs, problems


def chosen(condition: str, runs: Sequence[Listed]) -> Callable[[Listed], bool]:
    """Whether a run fulfils `key=value`; numbers compare as numbers, and a commit by its beginning.

    Raises:
        UserError: no comparison, a key that no run has, or an order among words.
    """
    parts = re.match(r"(.+?)(!=|>=|<=|=|>|<)(.*)", condition)
    if not parts:
        raise UserError(f"--where {condition!r}: write key=value, or with !=, <, <=, > or >=")
    key, sign, wanted = (part.strip() for part in parts.groups())
    _known(key, runs)
    if sign in ("=", "!="):
        return lambda run: (_same(run.get(key), wanted, key)) is (sign == "=")
    if (bound := _number(wanted)) is None:
        raise UserError(f"--where {condition!r}: {wanted!r} is no number; only numbers have an order")
    return lambda run: (value := _number(run.get(key))) is not None and COMPARISONS[sign](value, bound)


def _listed_from(path: Path, data: dict) -> Listed:
    numbers = {key: value for key, value in data["metrics"].items() if isinstance(value, int | float)}
    return Listed(path, dict(_flat({k: v for k, v in data.items() if k not in ("metrics", "curves")})), numbers)


def _flat(data: dict, before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def _listed(runs: Sequence[Listed], metrics: Sequence[str]) -> ConsoleTable:
    used = [name for name in SHOWN if any(run.get(name) not in (None, "") for run in runs)]
    view = ConsoleTable(*map(shown, (*used, *metrics)))
    for run in runs:
        view.add_row(*(shown(_text(name, run.get(name))) for name in (*used, *metrics)))
    return view


def _side_by_side(runs: Sequence[Listed], metrics: Sequence[str]) -> ConsoleTable:
    if not 2 <= len(runs) <= MOST:
        raise UserError(f"--compare lays 2 to {MOST} runs side by side, not {len(runs)}; choose with --where or PATH")
    fields = dict.fromkeys(key for run in runs for key in run.fields if key.split(".")[0] not in _UNCOMPARED)
    differ = [key for key in fields if len({_text(key, run.get(key)) for run in runs}) > 1]
    names = metrics or sorted({key for run in runs for key in run.metrics})
    view = ConsoleTable("", *(shown(_text("id", run.get("id")) or run.path.stem) for run in runs))
    for key in [key for key in differ if key != "id"]:
        view.add_row(shown(key), *(shown(_text(key, run.get(key))) for run in runs))
    view.add_section()
    for key in names:
        view.add_row(shown(key), *(shown(_text(key, run.metrics.get(key))) for run in runs))
    return view


def _known(key: str, runs: Sequence[Listed]) -> None:
    have = list(dict.fromkeys(name for run in runs for name in (*run.fields, *run.metrics)))
    if runs and key not in have:
        raise UserError(f"no run has a field or metric {key!r}; {nearest(key, have)}")


def _same(value: Any, wanted: str, key: str) -> bool:
    if key == "commit":
        return str(value).startswith(wanted)
    numbers = _number(value), _number(wanted)
    return numbers[0] == numbers[1] if None not in numbers else str(value) == wanted


def _number(value: Any) -> float | None:
    try:
        return None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _sortable(value: Any) -> tuple:
    number = _number(value)
    return (1, 0.0, str(value)) if number is None else (0, number, "")


def _text(key: str, value: Any) -> str:
    if value is None:
        return ""
    if key == "commit":
        return str(value)[:8]
    return f"{value:.4g}" if isinstance(value, float) else str(value)

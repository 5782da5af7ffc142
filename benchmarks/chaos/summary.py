"""Summary of attacks: a table on the terminal, and the Markdown table of the documentation."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.chaos.attack import WEIGHTS
from benchmarks.chaos.work import KINDS

Counts = dict[tuple[str, ...], Counter[str]]
WRONG = ("lost", "doubled", "differing", "remarks")
COUNTED = ("tried", "survived", *WRONG)


def outcomes_in(path: Path) -> list[dict[str, Any]]:
    """The outcomes in a file with one JSON object per line; an incomplete line is ignored."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def counted(outcomes: Sequence[dict[str, Any]], by: Sequence[str]) -> Counts:
    """Numbers of attacks that were tried, survived, or left a problem, by fields of the attack and in total.

    Attacks after the end of the command are not counted.
    """
    totals: Counts = {}
    for outcome in outcomes:
        if outcome.get("late"):
            continue
        attack = outcome["attack"]
        counts = Counter(["tried", attack["means"], *(name for name in ("survived", *WRONG) if outcome[name])])
        for key in (tuple(attack[name] for name in by), ("all",) + ("",) * (len(by) - 1)):
            totals.setdefault(key, Counter()).update(counts)
    return totals


def show(outcomes: Sequence[dict[str, Any]]) -> None:
    """Print the numbers by kind, means and target."""
    by = ("kind", "means", "target")
    table = Table(*by, *COUNTED)
    totals = counted(outcomes, by)
    for key in sorted(totals, key=lambda key: (key[0] == "all", key)):
        table.add_row(*key, *(str(totals[key][name]) for name in COUNTED))
    Console(width=120).print(table)
    late = sum(bool(outcome.get("late")) for outcome in outcomes)
    if late:
        print(f"{late} attacks came too late and are not counted")


def markdown(outcomes: Sequence[dict[str, Any]]) -> str:
    """The table of the documentation: one row per kind."""
    columns = [*WEIGHTS, *COUNTED]
    lines = ["| kind | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    totals = counted(outcomes, ("kind",))
    for name in (*KINDS, "all"):
        counts = totals.get((name,), Counter())
        lines.append(f"| {name} | " + " | ".join(str(counts[column]) for column in columns) + " |")
    return "\n".join(lines)


def origin(outcomes: Sequence[dict[str, Any]]) -> str:
    """Dates and commits of the attacks, and how commands were started."""
    days = sorted({outcome["date"][:10] for outcome in outcomes})
    commits = dict.fromkeys(outcome["commit"][:7] for outcome in outcomes)
    starts = Counter(outcome["start"] for outcome in outcomes)
    counts = ", ".join(f"{count} with --start {start}" for start, count in starts.items())
    return f"{' to '.join(dict.fromkeys((days[0], days[-1])))}; commits {', '.join(commits)}; {counts}"

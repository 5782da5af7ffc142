"""The report of `table verify`: console, Markdown and JSON."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table as ConsoleTable

from lit_fa.escaping import code_span, literal, plain, shown
from lit_fa.results.differences import RELATIVE, SPREADS, Difference
from lit_fa.results.verification import Checked

_TITLES = ("record", "outcome", "numbers", "largest difference", "recorded", "rerun", "tolerance")
_SHOWN = 8  # differences of one record
RULE = (
    "On the recorded processor, graphics card, thread count and versions, all final metrics and curves have to be "
    f"equal, bit for bit. Elsewhere a metric may differ by {SPREADS:g} times its deviation over the other seeds (of "
    f"its cell or, if larger, the root mean square over the table's cells) or by {RELATIVE:.1%} of its value, and "
    "curves are not judged. Times are never compared. What today's code no longer logs is listed, and differs only if "
    "the table reads it."
)


def console(results: Sequence[Checked]) -> ConsoleTable:
    """One row for each record."""
    view = ConsoleTable(*_TITLES, caption=RULE, caption_justify="left")
    for result in results:
        style = "green" if result.verified.outcome.agrees else "red"
        view.add_row(*map(shown, _row(result)), style=style)
    return view


def entry(table: Path, origin: str, result: Checked) -> dict[str, Any]:
    """A record's verification as JSON: the outcome, what differs in machine and code, and every difference."""
    verified = result.verified
    return {
        "table": str(table),
        "record": verified.record,
        "outcome": str(verified.outcome),
        "commit": verified.commit,
        "date": verified.date,
        "config_from": origin,
        "judged": "within tolerances" if result.numbers.elsewhere else "bit for bit",
        "elsewhere": list(result.numbers.elsewhere),
        "changed_since": list(result.changed),
        "numbers": result.numbers.compared,
        "not_judged": list(result.numbers.not_judged),
        "no_longer_logged": list(result.numbers.absent),
        "beyond_tolerance": sum(not difference.is_allowed for difference in result.numbers.differences),
        "reason": verified.reason,
        "differences": [_as_json(difference) for difference in result.numbers.differences],
    }


def markdown(entries: Sequence[dict[str, Any]], left_out: Sequence[str], command: str, date: str) -> str:
    """The report of entries as Markdown; `left_out` are lines about records that were not run."""
    agree = sum(one["outcome"] in ("equal", "within tolerance") for one in entries)
    commits = sorted({one["commit"][:7] for one in entries})
    lines = ["# Verification of records", "", f"{date}, commit {', '.join(commits) or 'unknown'}: {agree} of "]
    lines[-1] += f"{len(entries)} records agree with their reruns. Command: {code_span(command)}"
    lines += ["", RULE, "", "| table | record | judged | outcome | numbers | different | largest difference |"]
    lines += ["| --- | --- | --- | --- | --- | --- | --- |", *map(_line, entries)]
    for one in entries:
        if one["differences"] or one["reason"]:
            lines += ["", f"## {literal(one['record'])}", "", *_details(one)]
    lines += ["", "## Left out", "", *(f"* {literal(text)}" for text in left_out)] if left_out else []
    return "\n".join(lines) + "\n"


def _line(one: dict[str, Any]) -> str:
    largest = one["differences"][0] if one["differences"] else None
    cells = (one["table"], one["record"], one["judged"], one["outcome"], str(one["numbers"]))
    return _pipe([*cells, str(len(one["differences"])), _in_words(largest) if largest else ""])


def _details(one: dict[str, Any]) -> list[str]:
    lines = [f"* config from: {literal(one['config_from'])}"]
    lines += [f"* {literal(one['reason'])}"] if one["reason"] else []
    lines += [f"* machine and versions: {literal('; '.join(one['elsewhere']))}"] if one["elsewhere"] else []
    since = _some(one["changed_since"]) or "none of the files that the run reaches"
    lines += [f"* code changed since the record: {literal(since)}"]
    if one["no_longer_logged"]:
        lines += [f"* no longer logged: {literal(_some(one['no_longer_logged']))}"]
    if one["differences"]:
        lines += [f"* beyond the tolerance of another machine: {one['beyond_tolerance'] or 'none'}"]
    lines += [f"* {literal(_in_words(difference))}" for difference in one["differences"][:_SHOWN]]
    more = len(one["differences"]) - _SHOWN
    return lines + ([f"* and {more} more"] if more > 0 else [])


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _in_words(difference: dict[str, Any]) -> str:
    numbers = f"{difference['metric']}: {_number(difference['recorded'])}, now {_number(difference['rerun'])}"
    tolerance = difference["tolerance"]
    return numbers + (f" (tolerance elsewhere {tolerance:.3g}, {difference['why']})" if tolerance is not None else "")


def _row(result: Checked) -> list[str]:
    verified = result.verified
    record, numbers = (
        Path(verified.record).stem,
        f"{result.numbers.compared - len(result.numbers.differences)} of {result.numbers.compared}",
    )
    if not result.numbers.differences:
        return [record, str(verified.outcome), numbers, verified.reason, "", "", ""]
    first = result.numbers.differences[0]
    tolerance = "" if first.tolerance is None else f"{first.tolerance:.3g}"
    return [
        record,
        str(verified.outcome),
        numbers,
        first.metric,
        _number(first.recorded),
        _number(first.rerun),
        tolerance,
    ]


def _as_json(difference: Difference) -> dict[str, Any]:
    return {
        "metric": difference.metric,
        "recorded": difference.recorded,
        "rerun": difference.rerun,
        "tolerance": difference.tolerance,
        "why": difference.why,
    }


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.8g}"


def _pipe(cells: Sequence[str]) -> str:
    return f"| {' | '.join(literal(plain(cell)) for cell in cells)} |"

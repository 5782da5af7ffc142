"""`lit-fa list rules | networks | data | callbacks | algorithms [NAME]`: what a config can name, and its options."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from lit_fa.config.arguments import Arguments
from lit_fa.escaping import shown
from lit_fa.importing import collector_off
from lit_fa.jobs.progress import say
from lit_fa.outputs import writable_file, write_text

if TYPE_CHECKING:
    from lit_fa.config.catalogue import Entry

KINDS = ("rules", "networks", "data", "callbacks", "algorithms")
_WIDTH = 160


def main(argv: Sequence[str]) -> int:
    """Runs `lit-fa list <argv>` and returns the exit code."""
    arguments = _parser().parse_args(argv)
    if arguments.json not in (None, "-"):
        writable_file(arguments.json, "--json")
    with collector_off():
        from lit_fa.config import catalogue  # imports torch
    output = (
        Console(highlight=False, emoji=False)
        if sys.stdout.isatty()
        else Console(highlight=False, width=_WIDTH, emoji=False)
    )
    named = catalogue.entry(arguments.kind, arguments.name) if arguments.name else None
    entries = [named] if named else catalogue.entries(arguments.kind)
    if arguments.json:
        _write([asdict(entry) for entry in entries], arguments)
    elif named:
        _print_entry(named, output)
    else:
        _print_list(entries, output)
        say(output, f"\nalso: {catalogue.KINDS[arguments.kind].besides}")
        say(output, f"options of one: lit-fa list {arguments.kind} {entries[0].name}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Arguments(prog="lit-fa list", description="What a config can name, one line each; with NAME its options.")
    parser.add_argument("kind", choices=KINDS, help="what to list")
    parser.add_argument("name", nargs="?", metavar="NAME", help="show the options of this one; also mylab.MyRule")
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE", help="as JSON, printed or into FILE")
    return parser


def _write(entries: list[dict[str, object]], arguments: argparse.Namespace) -> None:
    text = json.dumps(entries[0] if arguments.name else entries, indent=1, ensure_ascii=False) + "\n"
    if arguments.json == "-":
        sys.stdout.write(text)
    else:
        write_text(Path(arguments.json), text, "--json")


def _print_list(entries: Sequence["Entry"], output: Console) -> None:
    groups = [(group, [*members]) for group, members in groupby(entries, key=lambda entry: entry.group)]
    for group, members in groups:
        if len(groups) > 1:
            say(output, f"{group}:")
        table = Table.grid(padding=(0, 2), pad_edge=False)
        for entry in members:
            table.add_row(shown(entry.name), shown(entry.sentence))
        output.print(table)


def _print_entry(entry: "Entry", output: Console) -> None:
    say(output, f"{entry.name}: {entry.sentence}")
    if entry.about:
        output.print(f"\n{entry.about}", markup=False)
    if entry.options:
        table = Table("option", "type", "default", "meaning", box=None, padding=(0, 2, 0, 0))
        for option in entry.options:
            table.add_row(*map(shown, (option.name, option.type, option.default or "(needed)", option.text)))
        output.print("")
        output.print(table)
    if entry.source:
        output.print(f"\n{entry.source}", markup=False)

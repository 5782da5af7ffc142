"""`lit-fa atlas`: every measured and published accuracy of all papers on one page, as CSV and as Parquet."""

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from lit_fa.config.arguments import Arguments, table_path
from lit_fa.errors import UserError
from lit_fa.escaping import plain
from lit_fa.importing import collector_rare
from lit_fa.outputs import check_folder
from lit_fa.reports.atlas import FORMATS, Atlas, check_formats, write_atlas
from lit_fa.reports.listing import find_tables
from lit_fa.results.atlas import Entry, cells_of, claimed, distinct, entries_of, published_of
from lit_fa.results.compare import compare
from lit_fa.results.imported import FOLDER, imported_entries, load_submission
from lit_fa.results.records import collect, curves_read
from lit_fa.results.settled import State, settled
from lit_fa.spec.claims import NAME, load_claims
from lit_fa.spec.output_paths import output_paths, tree_of
from lit_fa.spec.protocol import Protocol
from lit_fa.spec.table import Table, load_table


def main(argv: Sequence[str]) -> int:
    """Runs `lit-fa atlas <argv>` and returns the exit code: 2 if a table or submission was left out."""
    with collector_rare():
        return _main(_parser().parse_args(argv))


def _main(arguments: argparse.Namespace) -> int:
    check_folder(arguments.write, "--write")
    check_formats(arguments.format)
    atlas, problems = build(arguments.path)
    for path in write_atlas(atlas, arguments.write, arguments.format):
        print(path)
    for problem in problems:
        print(f"left out: {problem}")
    return 2 if problems else 0


def build(folder: Path) -> tuple[Atlas, list[str]]:
    """The atlas of all tables, claims and submissions below a folder, and a line for each file that was left out.

    Raises:
        UserError: there is no table in the folder, or its claims cannot be read.
    """
    claims = load_claims((folder if folder.is_dir() else folder.parent) / NAME)
    entries, problems = list[Entry](), list[str]()
    counts, pairs = Counter[State](), list[tuple[Entry, float]]()
    for file in find_tables(folder):
        try:
            table = load_table(file)
            own = [*_of_table(table)]
        except UserError as error:
            problems.append(plain(str(error)))
            continue
        counts += settled(table).counts
        entries += [entry for entry, _ in own]
        pairs += [(entry, published) for entry, published in own if published is not None]
    for file in sorted((folder / FOLDER).glob("*.json")):
        try:
            entries += imported_entries(load_submission(file))
        except UserError as error:
            problems.append(plain(str(error)))
    return Atlas(tuple(cells_of(distinct([*entries, *claimed(claims)]))), counts, tuple(pairs)), problems


def _of_table(table: Table) -> list[tuple[Entry, float | None]]:
    """The entries of a table over its scales but smoke; beside a measured one the number that it is compared with."""
    entries: list[tuple[Entry, float | None]] = []
    for view in map(table.under, get_args(Protocol)):
        for scale in (scale for name, scale in view.scales.items() if name != "smoke"):
            folder = output_paths(view, scale.label, tree_of(view)).results
            if scale.protocol == "converged" and not any(folder.glob("*.json")):
                continue  # many tables have no run of this protocol
            collected = collect(view, scale, folder, curves=curves_read(view))
            entries += entries_of(collected, compare(collected))
            if scale.label == "full":
                entries += [(entry, None) for entry in published_of(collected)]
    return entries


def _parser() -> Arguments:
    parser = Arguments(prog="lit-fa atlas", description="Measured beside all published accuracies, over all papers.")
    parser.add_argument("path", nargs="?", type=table_path, default="paper_configs", help="a folder of tables")
    parser.add_argument("--write", type=Path, default=Path("scratch/atlas"), metavar="DIR", help="where to write")
    parser.add_argument("--format", nargs="+", choices=FORMATS, default=list(FORMATS), help="what to write")
    return parser

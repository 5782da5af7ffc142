"""`lit-fa table list | published | aggregate | run | watch | report | emit | verify`: the tables' command line.

Errors that a user can correct are raised as exceptions with `user_error = True`; the outer command line prints them
and exits with 2. Other exit codes: 0 success; 1 a run failed or is not finished; 2 the error of a run can be corrected
by the user; 128 + number of a signal (130: Ctrl-C, 143: SIGTERM).
"""

import argparse
import os
import shlex
import stat
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import get_args

from rich.console import Console

from lit_fa.commands.table_decide import run_until_decided
from lit_fa.commands.table_jobs import missing
from lit_fa.commands.table_run import run_missing
from lit_fa.commands.table_verify import verify
from lit_fa.commands.table_view import look
from lit_fa.config.arguments import Arguments, file_path, in_range, table_path
from lit_fa.errors import UserError
from lit_fa.importing import collector_rare
from lit_fa.jobs.emit import add_emit_options, check_emit_options, emit, sweep_of
from lit_fa.jobs.packing import add_pack_option
from lit_fa.jobs.pool import DEFAULT_RUNNER
from lit_fa.jobs.progress import say
from lit_fa.jobs.slurm import needs_of
from lit_fa.jobs.watch import watch
from lit_fa.named_loggers import NAMES, checked
from lit_fa.outputs import check_folder, writable_file
from lit_fa.plot_style import ENDINGS
from lit_fa.reports.columns import MAIN
from lit_fa.reports.listing import find_tables, print_list
from lit_fa.reports.published import print_published
from lit_fa.reports.report import BESIDE, report
from lit_fa.results.records import collect
from lit_fa.spec.command import protocol_option
from lit_fa.spec.output_paths import output_paths, tree_of
from lit_fa.spec.protocol import Protocol
from lit_fa.spec.table import Table, load_table

_TRUST = (
    "A table is code: the classes that its configs name are imported and called. "
    "Run only tables of people whose programs you would run (SECURITY.md)."
)
_COMMANDS = {
    "run": "train what is missing",
    "watch": "follow runs",
    "report": "compare what is there with the paper",
    "emit": "the missing runs for a cluster",
    "aggregate": "compare rows over all columns of a table",
    "verify": "run random records again and compare",
}
_TRAINING = ("run", "verify", "watch")  # the other commands read records, and end
_LOG_WIDTH = 160  # characters of a table in a log or a pipe, which have no width of their own


def main(argv: Sequence[str], *, runner: str = DEFAULT_RUNNER) -> int:
    """Runs `lit-fa table <argv>` and returns the exit code; `runner` is the import path of what trains one config."""
    arguments = _parser().parse_args(argv)
    with nullcontext() if arguments.command in _TRAINING else collector_rare():
        return _main(arguments, runner, shlex.join(["lit-fa", "table", *argv]))


def _main(arguments: argparse.Namespace, runner: str, command: str) -> int:
    output = Console(emoji=False) if sys.stdout.isatty() else Console(width=_LOG_WIDTH, emoji=False)
    _check_outputs(arguments)
    if arguments.command == "list":
        return print_list(arguments.path, output, arguments.json)
    quiet = Console(stderr=True, emoji=False) if getattr(arguments, "format", "console") != "console" else output
    tables, broken = _load(arguments.paths, quiet)
    tables = [table.under(getattr(arguments, "protocol", "matched")) for table in tables]
    code = _carry_out(tables, arguments, output, runner, command)
    return code or (2 if broken else 0)


def _carry_out(
    tables: Sequence[Table], arguments: argparse.Namespace, output: Console, runner: str, command: str
) -> int:
    if arguments.command == "published":
        print_published(tables, output, arguments.json, arguments.card)
        return 0
    if arguments.command == "aggregate":
        return _aggregate(tables, arguments, output)
    if arguments.command == "emit":
        return _emit(tables, arguments, Console(stderr=True, emoji=False))
    if arguments.command == "watch":
        return watch(lambda: look(tables, arguments.scale, arguments.out), output, arguments.every)
    if arguments.command == "run":
        execute = run_until_decided if arguments.until_decided else run_missing
        return execute(tables, arguments, output, runner, command)
    if arguments.command == "verify":
        return verify(tables, arguments, output, runner, command)
    problems = report(
        tables,
        output,
        scale=arguments.scale,
        out=arguments.out,
        card=arguments.card,
        form=arguments.format,
        as_json=arguments.json,
        write=arguments.write,
        columns=arguments.columns,
        by_row_to=arguments.figure,
        draws=arguments.draw,
    )
    return 2 if problems else 0


def _load(paths: Sequence[Path], output: Console) -> tuple[list[Table], int]:
    """The tables, and the number of files that cannot be read; these are printed and left out.

    Raises:
        UserError: none of them can be read.
    """
    tables: list[Table] = []
    broken: list[UserError] = []
    files: dict[str, Path] = {}
    for file in (file for path in paths for file in find_tables(path)):
        files.setdefault(os.path.realpath(file), file)  # a table that is named twice is read once
    for file in files.values():
        try:
            tables.append(load_table(file))
        except UserError as error:
            broken.append(error)
    if broken and not tables:
        raise broken[0]
    for problem in broken:
        say(output, f"left out: {problem}")
    return tables, len(broken)


def _check_outputs(arguments: argparse.Namespace) -> None:
    """Refuse what cannot be written before anything is read."""
    if getattr(arguments, "logger", None):
        checked(arguments.logger)
    if arguments.command == "emit":
        check_emit_options(arguments)
    if getattr(arguments, "dry_run", False) and arguments.json:
        raise UserError("--dry-run trains nothing, so there is no outcome for --json; leave one of the two out")
    outputs: dict[str, str] = {}
    for name, option in {"json": "--json", "card": "--card", "markdown": "--write", "figure": "--figure"}.items():
        if (path := getattr(arguments, name, None)) and path is not BESIDE:
            other = outputs.setdefault(os.path.realpath(writable_file(path, option)), option)
            if other != option and not stat.S_ISCHR(_mode(path)):
                raise UserError(f"{option} {path}: {other} writes to the same file; name another one")
    if folder := getattr(arguments, "write", None):
        check_folder(folder, "--write")
    if folder := getattr(arguments, "out", None):
        if arguments.command in ("emit", "run"):
            check_folder(folder, "--out")
        try:
            there = stat.S_ISDIR(folder.stat().st_mode)
        except FileNotFoundError:
            there = True  # or will be made
        except OSError as error:
            raise UserError(f"--out: cannot write in {folder} ({error.strerror}); name another folder") from None
        if not there:
            raise UserError(f"--out {folder}: is no folder; name the folder of the records")


def _mode(path: Path) -> int:
    """The mode of a file; 0 if there is none."""
    return path.stat().st_mode if path.exists() else 0


def _parser() -> argparse.ArgumentParser:
    parser = Arguments(prog="lit-fa table", description="Papers' tables: declared, run, compared.")
    commands = parser.add_subparsers(dest="command", required=True)
    _add_commands(commands)
    of = commands.choices
    _add_emit_options(of["emit"])
    _add_aggregate_options(of["aggregate"])
    _add_verify_options(of["verify"])
    _add_watch_options(of["watch"])
    for name in ("list", "published", "aggregate", "run", "report", "verify"):
        of[name].add_argument("--json", type=file_path, metavar="FILE", help="write the outcome as JSON as well")
    for name in ("run", "verify"):
        _add_jobs_option(of[name])
    for name in ("run", "emit"):
        _add_selection(of[name])
    _add_run_options(of["run"])
    of["published"].add_argument(
        "--card", type=file_path, metavar="README.md", help="write the counts between the card's markers"
    )
    _add_report_options(of["report"])
    return parser


def _add_commands(commands: "argparse._SubParsersAction[Arguments]") -> None:
    """One parser a command, with its tables, scale and folder of records."""
    listed = commands.add_parser("list", help="all tables, and how many of their runs are done")
    listed.add_argument("path", nargs="?", type=table_path, default="paper_configs", help="a table or a folder of them")
    counted = commands.add_parser("published", help="how many published numbers agree, are refuted or are undecided")
    counted.add_argument(
        "paths", nargs="*", type=table_path, default=[table_path("paper_configs")], help="tables or folders of them"
    )
    for name, text in _COMMANDS.items():
        sentence = f"{text[0].upper()}{text[1:]}."
        described = f"{sentence} {_TRUST}" if name in ("run", "verify") else sentence
        command = commands.add_parser(name, help=text, description=described)
        command.add_argument("paths", nargs="+", type=table_path, metavar="PATH", help="tables or folders of them")
        command.add_argument("--scale", help="default: cpu where the table has it, else full")
        command.add_argument(
            "--protocol", choices=get_args(Protocol), default="matched", help="converged: train until held-out data say"
        )
        command.add_argument("--out", type=file_path, help="folder of the records; default: results beside the table")


def _add_emit_options(command: argparse.ArgumentParser) -> None:
    add_emit_options(command)
    command.set_defaults(logger=None, stale=False)


def _add_aggregate_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--against", required=True, metavar="ROW", help="the row that the others are compared with")
    command.add_argument("--row", action="append", default=[], help="compare this row; default: all")


def _add_watch_options(command: argparse.ArgumentParser) -> None:
    seconds = in_range(least=0.1, whole=False, most=86_400)
    command.add_argument("--every", type=seconds, default=2.0, metavar="SECONDS", help="how often to look")


def _add_jobs_option(command: argparse.ArgumentParser) -> None:
    number = in_range(least=1, most=4096)
    command.add_argument("--jobs", type=number, default=1, metavar="N", help="worker processes, one thread each")


def _add_selection(command: argparse.ArgumentParser) -> None:
    """Options that choose runs of a table."""
    command.add_argument("--only", action="append", default=[], metavar="row=FA,column=32", help="keep these cells")
    command.add_argument("--seeds", metavar="0,1", help="keep these seeds")
    command.add_argument("--id", action="append", default=[], help="keep this run, by the digits in its file's name")
    command.add_argument("--allow-dirty", action="store_true", help="count runs of uncommitted code")


def _add_report_options(command: argparse.ArgumentParser) -> None:
    formats = ("md", "csv", "latex", "console")
    command.add_argument("--format", choices=formats, default="console", help="what to print")
    command.add_argument(
        "--card",
        type=file_path,
        nargs="?",
        const=BESIDE,
        metavar="README.md",
        help="write the table between the markers of the README beside it, or of this one, and draw its figures",
    )
    command.add_argument("--draw", action="store_true", help="draw its figures beside the records")
    command.add_argument(
        "--write", type=file_path, metavar="DIR", help="write HTML pages, Markdown, CSV and LaTeX there"
    )
    command.add_argument(
        "--figure", type=_image, metavar="FILE", help="draw the metric, and an angle, of every row: .png, .pdf or .svg"
    )
    command.add_argument(
        "--columns",
        type=_names,
        default=(),
        metavar="row,value,verdict",
        help=f"show these: {', '.join(MAIN)}, pair, or a further metric's name; a card has all",
    )


def _image(text: str) -> Path:
    """A file that a figure can be written to."""
    path = file_path(text)
    if path.suffix not in ENDINGS:
        raise argparse.ArgumentTypeError(f"{path.name} ends in none of {', '.join(ENDINGS)}")
    return path


def _names(text: str) -> tuple[str, ...]:
    """`row, value` as its names, each once."""
    names = tuple(dict.fromkeys(name for part in text.split(",") if (name := part.strip())))
    if not names:
        raise argparse.ArgumentTypeError("names no column")
    return names


def _add_run_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--logger", choices=NAMES, help="of every run; it changes no number")
    command.add_argument("--stale", action="store_true", help="run again what is from code that has changed since")
    command.add_argument("--dry-run", action="store_true", help="say what would run")
    add_pack_option(command)
    command.add_argument("--until-decided", action="store_true", help="add seeds while a verdict is undecided")
    command.add_argument(
        "--budget",
        type=in_range(least=0, whole=False, most=10**5),
        metavar="HOURS",
        help="start no run after HOURS of this command",
    )


def _add_verify_options(command: argparse.ArgumentParser) -> None:
    whole = in_range(least=1, most=10**6)
    command.add_argument("--sample", type=whole, default=2, metavar="N", help="records of each table")
    chosen = command.add_mutually_exclusive_group()
    chosen.add_argument("--seed", type=in_range(least=0), metavar="S", help="of the draw; default: 0")
    chosen.add_argument("--cheapest", action="store_true", help="the records that took least time, not random ones")
    command.add_argument(
        "--write", dest="markdown", type=file_path, metavar="FILE", help="write the report as Markdown"
    )
    command.add_argument("--allow-dirty", action="store_true", help="note reruns of uncommitted code in verified.json")


def _aggregate(tables: Sequence[Table], arguments: argparse.Namespace, output: Console) -> int:
    if len(tables) > 1:
        raise UserError(f"aggregate takes one table, not {len(tables)}; give its file")
    from lit_fa.reports.aggregates import print_aggregates  # numpy; no other command needs it

    table, scale = tables[0], tables[0].scale(arguments.scale)
    collected = collect(table, scale, output_paths(table, scale.label, tree_of(table), out=arguments.out).results)
    print_aggregates(collected, output, arguments.against, arguments.row, arguments.json)
    return 0


def _emit(tables: Sequence[Table], arguments: argparse.Namespace, output: Console) -> int:
    """A line of `table run` for every missing run of one table."""
    if len(tables) > 1:
        raise UserError(f"emit takes one table, not {len(tables)}; give its file")
    table, jobs = tables[0], missing(tables[0], arguments, output)
    if not jobs:
        return 0
    scale = table.scale(arguments.scale)
    line = ["lit-fa", "table", "run", str(table.path), "--scale", scale.name, *protocol_option(scale)]
    line += ["--out", str(arguments.out.resolve())] if arguments.out else []
    line += ["--allow-dirty"] if arguments.allow_dirty else []
    ids = [job.record["id"] for job in jobs]
    lines, grid = [[*line, "--id", i] for i in ids], sweep_of(line, "id", ids)
    gpus, nodes = needs_of([job.config for job in jobs], scale.name)
    return emit(lines, arguments, table.name, sweep_file=grid, gpus=gpus, nodes=nodes)

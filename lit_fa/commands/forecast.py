"""`lit-fa forecast`: how fast layer-parallel training would be on many devices, by the model of `parallel.schedule`."""

import json
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from lit_fa.config.arguments import Arguments, file_path, in_range
from lit_fa.errors import UserError
from lit_fa.outputs import writable_file, write_text
from lit_fa.parallel.schedule import METHODS, Setting, speedup
from lit_fa.plot_style import ENDINGS
from lit_fa.reports.forecast import draw, table

MOST = 1024  # stages
NOTE = (
    "A forecast: f, b, w and l are assumed, stages are equal, and nothing waits for memory or data. DFA, full applies "
    "updates late, which can cost accuracy."
)


def main(argv: Sequence[str]) -> int:
    """Runs `lit-fa forecast <argv>` and returns the exit code."""
    arguments = _parser().parse_args(argv)
    for path, option in ((arguments.json, "--json"), (arguments.figure, "--figure")):
        if path is not None:
            writable_file(path, option)
    if arguments.figure and arguments.figure.suffix not in ENDINGS:
        raise UserError(f"--figure {arguments.figure.name} ends in none of {', '.join(ENDINGS)}")
    given = {name: getattr(arguments, name) for name in ("microbatches", "forward", "inputs", "weights", "latency")}
    rows = forecast(arguments.stages or doubling(), **given, batches=arguments.batches)
    output = Console(emoji=False) if sys.stdout.isatty() else Console(width=120, emoji=False)
    output.print(table(rows))
    output.print(NOTE, highlight=False)
    if arguments.json:
        whole = {"forecast": True, "note": NOTE, "setting": given | {"batches": arguments.batches}, "rows": rows}
        write_text(arguments.json, json.dumps(whole, indent=1) + "\n", "--json")
    if arguments.figure:
        output.print(str(draw(rows, arguments.figure)), highlight=False, soft_wrap=True)
    return 0


def doubling() -> list[int]:
    """2, 4, ... 1,024 stages."""
    return [2**i for i in range(1, MOST.bit_length())]


def forecast(stages: Sequence[int], **setting: Any) -> list[dict[str, Any]]:
    """One row per number of stages: samples a second of every method, over one device of backpropagation.

    >>> row = forecast([8], microbatches=32, batches=10_000)[0]
    >>> row["stages"], round(row["1f1b"], 1), round(row["dfa_full"], 1)
    (8, 6.6, 12.0)
    """
    settings = [Setting(number, **setting) for number in stages]
    return [{"stages": at.stages} | {name: round(speedup(name, at), 4) for name in METHODS} for at in settings]


def _parser() -> Arguments:
    parser = Arguments(
        prog="lit-fa forecast",
        description="Samples a second of a network whose stages are on devices of their own: a model, no measurement.",
    )
    seconds, count = in_range(least=0, whole=False), in_range(least=1)
    parser.add_argument(
        "--stages", nargs="+", type=in_range(least=1, most=10**6), help="numbers of stages (2 ... 1024)"
    )
    parser.add_argument("--microbatches", type=count, default=32, metavar="M", help="per batch (32)")
    parser.add_argument("--forward", type=seconds, default=1.0, metavar="F", help="of a microbatch and stage (1)")
    parser.add_argument("--inputs", type=seconds, default=1.0, metavar="B", help="input gradient (1)")
    parser.add_argument("--weights", type=seconds, default=1.0, metavar="W", help="weight gradient (1)")
    parser.add_argument("--latency", type=seconds, default=0.0, metavar="L", help="of a message (0)")
    parser.add_argument("--batches", type=count, default=10_000, metavar="N", help="of the run (10000)")
    parser.add_argument("--json", type=file_path, metavar="FILE", help="write the rows there")
    parser.add_argument("--figure", type=file_path, metavar="FILE", help="draw them: .png, .pdf or .svg")
    return parser

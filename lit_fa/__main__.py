"""The command `lit-fa`, also `python -m lit_fa`.

An error that the user can correct is one line and exit code 2, any other error a traceback. A signal that ends a
command (SIGINT, SIGTERM, SIGHUP) is one line and exit code 128 + its number.
"""

import io
import os
import sys
from importlib import import_module

from lit_fa.foreign_errors import known_message
from lit_fa.stopping import exit_code, handled, stop

USAGE = """usage: lit-fa COMMAND ...

  fit | validate | test | predict   one run, configured in YAML (lit-fa fit --help; --config FILE, --logger wandb)
  predict                           also --split train|val|test or --images FOLDER, and --output FILE.csv
  flower                            a federated run over Flower: --config FILE [--nodes N|all] (lit-fa flower --help)
  export                            a trained network as ONNX or torch.export, simplified (lit-fa export --help)
  table list | published | run | watch | report | emit | verify
                                    a paper's table: its cells, missing runs, measured and published numbers
  sweep run | report | emit         a W&B sweep file without W&B's server: its trials and the best of them
  atlas                             all measured beside all published accuracies: page, CSV, Parquet
  forecast                          layer-parallel training on 2 to 1,024 devices, by a model (lit-fa forecast --help)
  results import | export           records of other people, kept apart from ours
  runs                              records of runs: listed, filtered, compared (lit-fa runs --help)

Configs, tables and sweeps are code: the classes that they name are imported and called (SECURITY.md).

  --debug                           with any command: show the traceback of an error"""


_COMMANDS = (
    "atlas",
    "export",
    "flower",
    "forecast",
    "results",
    "runs",
    "sweep",
    "table",
)  # each a module of lit_fa.commands
_LIGHTNING = ("fit", "validate", "test", "predict")


def main(argv: list[str] | None = None) -> int:
    """Run a command line; returns the exit code."""
    if argv is None and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # for own classes, as under `python -m`; last, so that it hides nothing
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in argv
    argv = [word for word in argv if word != "--debug"]
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(USAGE)
        return 0
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # the terminal may not have all characters
    try:
        with handled(stop):
            return _dispatch(argv)
    except KeyboardInterrupt as stopped:
        message = getattr(stopped, "message", "") or f"{str(stopped) or 'stopped'}; the same command begins again"
        print(f"lit-fa: {message}", file=sys.stderr)
        return exit_code(stopped)
    except Exception as error:
        line = str(error) if getattr(error, "user_error", False) else known_message(error)
        if debug or line is None:
            raise
        print(f"lit-fa: {' '.join(line.split()) or type(error).__name__}", file=sys.stderr)
        return 2


def _dispatch(argv: list[str]) -> int:
    from lit_fa.errors import UserError, nearest
    from lit_fa.importing import collector_off

    if argv[0] in _COMMANDS:
        with collector_off():
            command = import_module(f"lit_fa.commands.{argv[0]}")
        return command.main(argv[1:]) or 0
    if argv[0] not in _LIGHTNING:
        raise UserError(f"unknown command '{argv[0]}'; {nearest(argv[0], [*_LIGHTNING, *_COMMANDS])}")
    with collector_off():
        from lit_fa.commands.fit import main as run

    run(argv)
    return 0


if __name__ == "__main__":
    sys.exit(main())

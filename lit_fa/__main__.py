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

One run, configured in YAML
  fit | validate | test             --config FILE --name NAME --logger NAME (lit-fa fit --help)
  predict                           also --split train|val|test or --images FOLDER, and --output FILE.csv
  export                            a trained network as ONNX or torch.export, simplified
  push RECORD_OR_CHECKPOINT --repo OWNER/NAME
                                    a trained network to a model hub: safetensors, and a card of its record
  flower                            a federated run over Flower: --config FILE [--nodes N|all]

A paper's table
  table list | published            all tables: cells, missing runs; how many published numbers are settled
  table run | watch | emit          train what is missing, here or on a cluster
  table report | aggregate | verify measured beside published numbers; runs repeated and compared
  sweep run | report | emit         a W&B sweep file without W&B's server: its trials and the best of them
  atlas                             all measured beside all published accuracies: page, CSV, Parquet

Records of runs
  runs                              listed, filtered, compared
  results import | export           records of other people, kept apart from ours

To begin and to look up
  list rules | networks | data | callbacks | algorithms [NAME]
                                    what a config can name; with NAME its options
  new rule | paper | dataset NAME   files to begin with, which run at once
  doctor                            what this machine has, and what is missing
  forecast                          layer-parallel training on 2 to 1,024 devices, by a model

Configs, tables and sweeps are code: the classes that they name are imported and called (SECURITY.md).

  COMMAND --help                    its options
  --debug                           with any command: show the traceback of an error, and all messages"""


_COMMANDS = (
    "atlas",
    "doctor",
    "export",
    "flower",
    "forecast",
    "list",
    "new",
    "push",
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
            return _dispatch(argv, debug)
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


def _dispatch(argv: list[str], debug: bool) -> int:
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

    run(argv, debug=debug)
    return 0


if __name__ == "__main__":
    sys.exit(main())

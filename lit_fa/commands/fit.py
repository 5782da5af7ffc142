"""The command line of `lit-fa fit|validate|test|predict`."""

import json
import logging
import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from lit_fa import callbacks, loggers
from lit_fa.callbacks.run_record import write_json
from lit_fa.config.arguments import take_option
from lit_fa.config.cli import LitFACLI
from lit_fa.config.fit_help import help_of
from lit_fa.config.parser_errors import guarded
from lit_fa.config.run_folder import check_name
from lit_fa.errors import UserError
from lit_fa.named_loggers import NAMES, logger_config
from lit_fa.outputs import writable_file
from lit_fa.quiet import quiet
from lit_fa.stopping import exit_code_of_rank, interruptions_as_stopped


def main(argv: list[str], *, debug: bool = False) -> None:
    """`lit-fa fit|validate|test|predict ... [--json FILE] [--name NAME] [--logger NAME]`.

    The file receives the last value of every metric. NAME is that of a fit and of its folder. `predict` also takes
    `--split train|val|test` or `--images FOLDER`, and `--output FILE` (predictions.csv).
    """
    if {"-h", "--help"} & {*argv}:
        print(help_of(argv[0]))
        return
    words = argv
    argv, json_file = take_option(argv, "--json", "a file to write to")
    argv, logger = take_option(argv, "--logger", f"a name: {', '.join(NAMES)}")
    argv, name = take_option(argv, "--name", "a name for the run")
    if name is not None and argv[0] != "fit":
        raise UserError(f"--name is for a fit: {argv[0]} trains nothing that could have a name")
    argv, predicting = _predicting(argv)
    if json_file:
        writable_file(json_file, "--json")
    if logger:
        loggers.only_by_name(argv)
        argv = [*argv, "--trainer.logger", json.dumps(logger_config(logger))]
    logging.basicConfig(format="%(message)s")
    logging.getLogger("lit_fa").setLevel(logging.INFO)  # e.g. what a rule changed in the network, in one line

    def run() -> None:
        cli = LitFACLI(argv, words=words, predicting=predicting, name=None if name is None else check_name(name))
        loggers.finish(cli.trainer)
        if json_file and cli.trainer.is_global_zero:
            write_json(Path(json_file), {key: float(v) for key, v in cli.trainer.callback_metrics.items()})

    try:
        with interruptions_as_stopped(), nullcontext() if debug else quiet():
            guarded(run)
    except KeyboardInterrupt as stopped:
        _end(stopped, argv[0])


def _end(stopped: KeyboardInterrupt, command: str) -> None:
    """Print once how the run can continue, and exit."""
    if int(os.environ.get("LOCAL_RANK", 0)) == 0:
        here = "where there is a checkpoint, go on with --ckpt_path FILE" if command == "fit" else "start it again"
        print(getattr(stopped, "message", "") or f"{str(stopped) or 'stopped'} at once; {here}", flush=True)
    raise SystemExit(exit_code_of_rank(stopped)) from None


def _predicting(argv: list[str]) -> tuple[list[str], dict[str, Any]]:
    """The words without the own options of `lit-fa predict`, and these options; checks the output file."""
    if argv[0] != "predict":
        return argv, {}
    options: dict[str, Any] = {}
    for name, what in {"split": "train, val or test", "images": "a folder", "output": "a file to write"}.items():
        argv, value = take_option(argv, f"--{name}", what)
        options |= {} if value is None else {name: value}
    if options.get("split", "test") not in ("train", "val", "test"):
        raise UserError(f"--split is train, val or test, not '{options['split']}'")
    if "split" in options and "images" in options:
        raise UserError("--split and --images exclude each other: predict a split of the data, or a folder of images")
    if not os.path.isdir(options.get("images", ".")):
        raise UserError(f"--images {options['images']} is no folder")
    options["table"] = callbacks.PredictionTable(options.get("output", "predictions.csv"))
    return argv, options

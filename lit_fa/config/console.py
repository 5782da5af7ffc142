"""The lines of `lit-fa fit | validate | test | predict`: one before a run, its progress, and one after it."""

import logging
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelSummary, ProgressBar
from rich import get_console
from rich.table import Table
from torch import nn

from lit_fa.callbacks.line_progress import LineProgress, metrics_in_words
from lit_fa.callbacks.round_progress import RoundProgress
from lit_fa.escaping import plain, shown
from lit_fa.jobs.progress import duration, short_path
from lit_fa.lightning_privates import callbacks_of, setting
from lit_fa.modules import EvaluatedClassifier, FederatedClassifier
from lit_fa.quiet import FOLDER_IN_USE, LOG_INTERVAL, OF_TRAINING, SYNC, ignore

_LINES_ABOUT_RULES = "lit_fa.rules"  # the logger to which a rule says, in one line, what it changed
_METRICS = {"fit": ("val/", "train/loss"), "validate": ("val/",), "test": ("test/",), "predict": ()}


@contextmanager
def lines_about_rules() -> Iterator[list[str]]:
    """What rules log within the context, which is part of the header instead."""
    lines: list[str] = []
    logger, handler = logging.getLogger(_LINES_ABOUT_RULES), logging.Handler(logging.INFO)
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]  # of this object
    propagates, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagates


class ConsoleLines(L.Callback):
    """Prints the header when a run starts; `closing` is the line after it.

    Args:
        command: fit, validate, test or predict.
        rule: lines of the rule about what it changed.
        seed: of the run, None without one.
        resumed: the checkpoint, if one was given.
    """

    def __init__(self, command: str, rule: Sequence[str] = (), seed: int | None = None, resumed: str | None = None):
        """See the class."""
        self.command, self.rule, self.seed, self.resumed = command, "; ".join(rule), seed, resumed
        self.begun = time.monotonic()
        self.shown = False

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the header."""
        self._header(trainer, pl_module)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the header, unless this is the validation of a fit."""
        self._header(trainer, pl_module)

    on_test_start = on_predict_start = on_validation_start

    def _header(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if self.shown or not trainer.is_global_zero:
            return
        self.shown = True
        rule = f"{name_of_rule(module)}{f' ({self.rule})' if self.rule else ''}"
        parts = [f"{rule}, {network_of(module)}", name_of_data(setting(trainer, "datamodule")), device_of(trainer)]
        parts += [] if self.seed is None else [f"seed {self.seed}"]
        parts += [f"from {self.resumed}"] if self.resumed else []
        _say(f"{self.command}: {'; '.join(part for part in parts if part)}")

    def closing(self, trainer: L.Trainer, folder: str | None, report: str = "") -> None:
        """Print final metrics, time, folder and the command that reports.

        Args:
            trainer: of the run that has ended.
            folder: of the run, None if it has none.
            report: a command that shows its numbers again, given the folder; "" without a record.
        """
        if not trainer.is_global_zero:
            return
        parts: list[str | None] = [metrics_in_words(trainer.callback_metrics, _METRICS[self.command])]
        length = f"{_length(trainer)} in " if self.command == "fit" else ""
        parts += [f"{length}{duration(time.monotonic() - self.begun)}"]
        parts += [folder and short_path(folder), report and f"{report} {shlex.quote(short_path(folder or '.'))}"]
        _say(f"done: {'; '.join(part for part in parts if part)}")


def calm(trainer: L.Trainer, model: L.LightningModule, named: set[str], asked: Any) -> None:
    """Replace what Lightning shows by default: no table of layers, and lines where no bar can be drawn.

    Args:
        trainer: not yet running.
        model: that it will train.
        named: class names of the callbacks that the user has configured; these stay.
        asked: the trainer's options in the config.
    """
    kept: list[L.Callback] = []
    for callback in callbacks_of(trainer):
        default = type(callback).__name__ not in named
        if isinstance(callback, ModelSummary):
            if default and not asked.get("enable_model_summary"):
                continue
            _leave_zero_flops_out(callback)
        kept.append(progress_for(callback, model) if isinstance(callback, ProgressBar) and default else callback)
    callbacks_of(trainer)[:] = kept


def leave_out(model: L.LightningModule, command: str, asked: Any) -> None:
    """Leave out the warnings that concern no choice of the user in this run."""
    idle = {
        LOG_INTERVAL: asked.trainer.get("log_every_n_steps") in (None, 50),
        SYNC: isinstance(model, EvaluatedClassifier),
        FOLDER_IN_USE: bool(asked.get("ckpt_path")),
        **dict.fromkeys(OF_TRAINING, command != "fit"),
    }
    for message in (message for message, concerns_nobody in idle.items() if concerns_nobody):
        ignore(message)


def progress_for(bar: ProgressBar, model: L.LightningModule) -> ProgressBar:
    """Lightning's bar; one that counts rounds for a federation; lines where the console is no terminal."""
    rounds = isinstance(model, FederatedClassifier)
    if not get_console().is_interactive:
        return LineProgress("round" if rounds else "epoch")
    return RoundProgress() if rounds else bar


def name_of_rule(module: L.LightningModule) -> str:
    """`FLFA under FedAvg`; the class of a module without a rule."""
    rule, algorithm = getattr(module, "rule", module), getattr(getattr(module, "local", None), "algorithm", None)
    under = f" under {type(algorithm).__name__}" if algorithm is not None else ""
    return f"{type(rule).__name__}{under}"


def network_of(module: L.LightningModule) -> str:
    """`mlp with 9,600 parameters`; feedback that is trained does not count."""
    network = getattr(module, "network", module)
    named = (getattr(module, "constructor", None) or {}).get("init_args", {}).get("network")
    name = named if isinstance(named, str) else type(network).__name__
    sizes = [p.numel() for p in network.parameters() if not isinstance(p, nn.parameter.UninitializedParameter)]
    return f"{plain(name)} with {sum(sizes):,} parameters"


def name_of_data(data: Any) -> str:
    """`Digits`, or `Digits among 20 clients`; "" without a datamodule."""
    if data is None:
        return ""
    inner, clients = getattr(data, "data", None), getattr(data, "clients", None)
    if isinstance(inner, L.LightningDataModule):
        return f"{type(inner).__name__} among {clients} clients"
    return type(data).__name__


def device_of(trainer: L.Trainer) -> str:
    """`cpu`, `NVIDIA H200` or `2 x cpu (ddp)`, with a precision that is not 32 bits."""
    device = trainer.strategy.root_device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    if trainer.world_size > 1:
        name = f"{trainer.world_size} x {name}"
    return name if trainer.precision == "32-true" else f"{name}, {trainer.precision}"


def _length(trainer: L.Trainer) -> str:
    """How long the run was, in epochs or rounds."""
    rounds = isinstance(setting(trainer, "lightning_module"), FederatedClassifier)
    number, unit = (trainer.global_step, "round") if rounds else (trainer.current_epoch, "epoch")
    return f"{number} {unit}{'' if number == 1 else 's'}"


def _say(line: str) -> None:
    print(plain(line), flush=True)


def _leave_zero_flops_out(callback: ModelSummary) -> None:
    """Let the table of layers have no FLOPs where none were counted, as without an example input."""
    original = callback.summarize

    def summarize(columns: list[tuple[str, list[str]]], total: int, trainable: int, *rest: Any, **options: Any) -> None:
        if options.get("total_flops"):
            original(columns, total, trainable, *rest, **options)
        else:
            _print_layers([column for column in columns if column[0] != "FLOPs"], total, trainable)

    callback.summarize = summarize  # type: ignore[method-assign,assignment]  # of this callback; it calls it so


def _print_layers(columns: list[tuple[str, list[str]]], total: int, trainable: int) -> None:
    table = Table(*(name.strip() for name, _ in columns))
    for row in zip(*(cells for _, cells in columns), strict=True):
        table.add_row(*map(shown, row))
    get_console().print(table)
    _say(f"{total:,} parameters, {trainable:,} of them trained")

"""From a config to a trained network: `build` it, `run` it with a record, `load` it again.

The command line, tables, sweeps, pretraining, export and Flower call these functions, as a notebook does.
"""

import gc
import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from lit_fa import callbacks, loggers, packs
from lit_fa.callbacks.energy import EnergyMeter
from lit_fa.callbacks.interruption import check_process, forward_signals_to_ranks
from lit_fa.callbacks.named_fault import named_faults
from lit_fa.checkpoints import resume
from lit_fa.checkpoints.loading import load
from lit_fa.config.cli import LitFACLI
from lit_fa.config.parser_errors import check_names, guarded
from lit_fa.config.values import check_trains
from lit_fa.errors import UserError
from lit_fa.jobs.lock import checkpoints_of
from lit_fa.lightning_privates import callbacks_of, is_restoring
from lit_fa.modules import NonFiniteLossError, started_ranks
from lit_fa.stopping import interruptions_as_stopped

__all__ = ["Experiment", "build", "load", "run"]
log = logging.getLogger(__name__)
Config = dict[str, Any] | Sequence[str] | str | Path


@dataclass(frozen=True)
class Experiment:
    """The objects of a config: `trainer, model, data = build(config)`.

    Attributes:
        trainer: Lightning's, not yet running.
        model: `Classifier`, `FederatedClassifier` or another LightningModule.
        data: LightningDataModule, not yet set up.
        cli: what has parsed the config, with the whole of it: `cli.written()` is plain data, defaults included.
    """

    trainer: L.Trainer
    model: L.LightningModule
    data: L.LightningDataModule
    cli: LitFACLI = field(repr=False)

    def __iter__(self) -> Iterator[Any]:
        """Trainer, model and data."""
        return iter((self.trainer, self.model, self.data))


def build(config: Config) -> Experiment:
    """Trainer, model and data of a config; nothing is run, except a pretraining that the config asks for.

    Args:
        config: a dictionary with trainer, model, data and maybe seed_everything and pretrain; the path of a YAML file;
            or the words of a command line after `lit-fa fit`, as ["--config", "run.yaml", "--trainer.max_epochs=1"].

    Raises:
        UserError: in one line, what is wrong with the config.

    >>> mlp = {"class_path": "Classifier", "init_args": {"network": "mlp"}}
    >>> trainer, model, data = build({"model": mlp, "data": "Digits", "trainer": {"logger": False}})
    >>> type(model.rule).__name__, data.num_classes
    ('Backprop', 10)
    """
    if isinstance(config, (str, Path)):
        config = ["--config", str(config)]
    if isinstance(config, dict):
        check_names(config)
        config = loggers.written_out(config, "")
    cli = guarded(lambda: LitFACLI(config, run=False))
    return Experiment(cli.trainer, cli.model, cli.datamodule, cli)


def run(
    config: Config, record: dict[str, Any], observers: Sequence[L.Callback] = (), *, test: bool = True
) -> nn.Module:
    """Train and test one config; `callbacks.RunRecord` writes its JSON to ``record["path"]``.

    A checkpoint is written beside the record after every epoch, and when a signal ends the run; the same call resumes
    from it. It is removed once the record is written. A checkpoint that cannot be read, or that belongs to another run,
    is renamed, and the run starts again. A run that diverges is a result: its record has the status `diverged`.

    Args:
        config: see `build`.
        record: `path`, and fields that the record repeats: id, table, row, column, scale, seed, ...
        observers: further callbacks.
        test: after training; if False, the record is finished when training is.

    Returns:
        The trained network, as it was when the run ended or diverged.

    Raises:
        Stopped: a signal has ended the run; the same call resumes it.
        RanksNeeded: this is a worker of a table, and the run needs a process of its own.
        UserError: in one line, what is wrong with the config.
    """
    if isinstance(config, dict):
        config = loggers.written_out(config, record.get("id", ""))
    try:
        with interruptions_as_stopped():
            network = guarded(lambda: _recorded(config, record, observers, test))
    finally:
        gc.collect()  # trainer and module refer to each other; without it a worker keeps the data of all its runs
    shutil.rmtree(checkpoints_of(Path(record["path"])), ignore_errors=True)
    return network


def _recorded(config: Config, record: dict[str, Any], observers: Sequence[L.Callback], test: bool) -> nn.Module:
    """Resume from the run's own checkpoint, if there is one that can be used; else start."""
    experiment = build(config)
    trainer, model, data = experiment
    cli, checkpoint = experiment.cli, checkpoints_of(Path(record["path"])) / "last.ckpt"
    check_trains(cli.asked)
    cli.leave_out_default_checkpoint()
    check_process(trainer)
    last = resume.own(checkpoint)
    logs = resume.checked(last) if last else {}
    loggers.attach(trainer, config if isinstance(config, dict) else cli.written(), record, logs)
    interruption = callbacks.Interruption(lambda _: "the same command goes on", checkpoint)
    keep = ModelCheckpoint(checkpoint.parent, filename=checkpoint.stem, save_top_k=1, enable_version_counter=False)
    kept_best, recorded = _best_validation(trainer), _run_record(cli, record, test)
    callbacks_of(trainer).extend([*named_faults(), *observers, *_in_pack(data, recorded), recorded, keep, interruption])
    forward_signals_to_ranks(trainer)
    started_ranks.observe(trainer)
    try:
        trainer.fit(model, data, ckpt_path=last, weights_only=True)
        interruption.request.check()  # a signal after the last epoch
        if test:  # the final weights come last: their test finishes the record
            recorded.metrics |= kept_best.tested(trainer, data) if kept_best else {}
            trainer.test(model, data, verbose=False)
    except NonFiniteLossError as error:  # its record says so
        if trainer.world_size > 1:  # the other ranks wait for this one, until it ends with an error
            raise
        log.warning("diverged: %s", error)
    except Exception as error:
        if last is None or not is_restoring(trainer) or trainer.world_size > 1:
            raise
        resume.give_up(last, " ".join(str(error).split())[:200])
        return _recorded(config, record, observers, test)
    loggers.finish(trainer)
    return model.network


def _best_validation(trainer: L.Trainer) -> callbacks.BestValidation | None:
    """The trainer's `BestValidation`, if it has one.

    Raises:
        UserError: it has several, whose metrics would have the same names.
    """
    chosen = [callback for callback in callbacks_of(trainer) if isinstance(callback, callbacks.BestValidation)]
    if len(chosen) > 1:
        raise UserError("trainer.callbacks has several BestValidation: keep one")
    return chosen[0] if chosen else None


def _in_pack(data: Any, recorded: callbacks.RunRecord) -> list[L.Callback]:
    """The callback of a run that is one of a pack, whose images are shared; the record has the times of this run."""
    lane = packs.current()
    if lane is None:
        return []
    from lit_fa.packs.observer import JoinPack

    data.shares, recorded.clocks = True, (lane.wall, lane.cpu)
    recorded.energy = EnergyMeter(measures=False)  # counters of a machine are of all runs
    return [JoinPack(lane)]


def _run_record(cli: LitFACLI, record: dict[str, Any], test: bool) -> callbacks.RunRecord:
    """The callback that writes the record: the caller's fields, the config, and the run that pretrained the weights."""
    fields = {key: value for key, value in record.items() if key != "path"} | {"config": cli.recorded()}
    fields |= {"pretrained": cli.pretrained} if cli.pretrained else {}
    return callbacks.RunRecord(path=str(record["path"]), record=fields, finish_after="test" if test else "fit")

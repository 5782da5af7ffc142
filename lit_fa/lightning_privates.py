"""Every private attribute of Lightning that this project reads or sets, one function each.

Each docstring says why the public API is not enough. `tests/test_lightning_privates.py` has a test of the same name for
every function, so that an upgrade of Lightning that breaks one names it. `pyproject.toml` bounds the version.
"""

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint, StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.loops.fetchers import _DataFetcher
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.loop import _Loop
from lightning.pytorch.loops.progress import _Progress
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.plugins.io import CheckpointIO
from lightning.pytorch.plugins.io.wrapper import _WrappingCheckpointIO
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher, _SubprocessScriptLauncher
from lightning.pytorch.strategies.strategy import Strategy

# The classes that `lit_fa.modules.restart` extends or names; Lightning has made its loops private.
PlainFitLoop = _FitLoop
PlainEpochLoop = _TrainingEpochLoop
DataFetcher = _DataFetcher
Progress = _Progress
LOOPS = (PlainFitLoop, PlainEpochLoop, DataFetcher, Progress)

# ---- the trainer of a module, and its data


def trainer_of(module: L.LightningModule) -> L.Trainer | None:
    """The module's trainer; `module.trainer` raises an error where there is none."""
    return module._trainer


def training_loader(trainer: L.Trainer) -> Any:
    """What `train_dataloader()` returns, or the loader given to `fit`, anew.

    `trainer.train_dataloader` is the one that training has an iterator of, already at its first batch.
    """
    return trainer.fit_loop._data_source.dataloader()


def callbacks_of(trainer: L.Trainer) -> list[L.Callback]:
    """The trainer's own list of callbacks. It is public, but Lightning does not declare its type."""
    return trainer.callbacks  # type: ignore[attr-defined]  # set by Lightning's callback connector


def setting(trainer: L.Trainer, name: str) -> Any:
    """A public attribute of the trainer. Its connectors set many (`datamodule`, ...) whose types are not declared."""
    return getattr(trainer, name)


# ---- progress within an epoch


def batches_processed(trainer: L.Trainer) -> int:
    """Training batches of this epoch whose optimiser step is done; hooks get `batch_idx`, but not all hooks do."""
    return trainer.fit_loop.epoch_loop.batch_progress.current.processed  # type: ignore[attr-defined]  # a tracker that counts them


def in_epoch(trainer: L.Trainer) -> bool:
    """Whether a training epoch has begun and not ended; `current_epoch` counts ended epochs only."""
    return trainer.fit_loop.epoch_progress.current.ready > trainer.current_epoch


def epoch_is_ending(trainer: L.Trainer) -> bool:
    """Whether the hooks of a training epoch's end are being called; the public state is `training` before and after."""
    return trainer.training and trainer.fit_loop.epoch_progress.current.processed > trainer.current_epoch  # type: ignore[attr-defined]  # a tracker that counts them


def batch_is_ending(trainer: L.Trainer) -> bool:
    """Whether the hooks of a training batch's end are being called; there is no public state for it."""
    batch = trainer.fit_loop.epoch_loop.batch_progress.current
    return batch.processed != batch.completed  # type: ignore[attr-defined]  # a tracker that counts them


# ---- what is logged


def values_to_log(trainer: L.Trainer) -> dict[str, Any]:
    """What loggers receive next; `logged_metrics` keeps the values of earlier batches and epochs too."""
    return trainer._logger_connector.metrics["log"]


def logs_this_batch(trainer: L.Trainer) -> bool:
    """Whether `log_every_n_steps` is due; the trainer counts batches for it that no public attribute shows."""
    return trainer._logger_connector.should_update_logs


def log_values(trainer: L.Trainer, values: dict[str, Any]) -> None:
    """Hand values to the loggers as the end of an epoch does; public logging is tied to a hook of the epoch."""
    loop = trainer.fit_loop.epoch_loop
    loop._batches_that_stepped -= 1
    trainer._logger_connector.log_metrics(values)
    loop._batches_that_stepped += 1


# ---- resuming: the loops


def was_loaded(loop: PlainFitLoop) -> bool:
    """Whether the loop's counters come from a checkpoint; nothing public says so during a run."""
    return loop._loaded_from_state_dict


def mark_restarting(loop: PlainFitLoop, value: bool) -> None:
    """Set `restarting` of a fit loop and of the loops in it; its own setter ignores the value under `max_steps`."""
    _Loop.restarting.fset(loop, value)  # type: ignore[attr-defined]  # mypy takes a property for a function


def end_resuming(loop: PlainFitLoop) -> None:
    """Let the next epoch ask its loader for a new iterator; Lightning does so only one epoch later."""
    loop._resuming_from_checkpoint = False


def iteration_ends_epoch_or_validates(loop: PlainEpochLoop) -> bool:
    """Whether validation or the epoch's end follows the last batch; Lightning's rule for it is not public."""
    return loop._num_ready_batches_reached() or loop._should_check_val_fx(loop.trainer.fit_loop._data_fetcher)


def skip_validation(loop: PlainEpochLoop, skip: bool) -> None:
    """Whether the next `on_advance_end` leaves validation out; there is no public switch for one iteration."""
    loop._skip_next_val = skip


def uncount_logged_batch(loop: PlainEpochLoop) -> None:
    """Take one from the batches that loggers count as steps; a resumed epoch's end would count its last batch twice."""
    loop._batches_that_stepped -= 1


def begin_batch(loop: PlainEpochLoop, last: bool) -> None:
    """Count a batch as begun outside `advance`, as the joint steps of a pack do; its counters are not public."""
    progress: Any = loop.batch_progress
    progress.is_last_batch = last
    for counts in (progress.total, progress.current):
        counts.ready += 1
        counts.started += 1


def step_taken(loop: PlainEpochLoop) -> None:
    """Count the optimiser step of a batch that has begun, before what follows it; see `begin_batch`."""
    progress: Any = loop.manual_optimization.optim_step_progress
    for counts in (progress.total, progress.current):
        counts.ready += 1
        counts.completed += 1


def end_batch(loop: PlainEpochLoop) -> None:
    """Count the batch as completed, and as one step of the loggers; see `begin_batch`."""
    progress: Any = loop.batch_progress
    for counts in (progress.total, progress.current):
        counts.processed += 1
        counts.completed += 1
    loop._batches_that_stepped += 1


def counts_of(loop: PlainEpochLoop) -> tuple[int, int, int, int]:
    """Batches of this epoch and of the run, optimiser steps, and steps of the loggers, so far."""
    progress: Any = loop.batch_progress
    return progress.current.ready, progress.total.ready, loop.global_step, loop._batches_that_stepped


# ---- checkpoints


def is_restoring(trainer: L.Trainer) -> bool:
    """Whether a checkpoint has been read and not yet restored in full; no hook comes after the last part of it."""
    return bool(trainer._checkpoint_connector._loaded_checkpoint)


def slurm_checkpoint(trainer: L.Trainer) -> str | None:
    """The checkpoint that `ckpt_path: hpc` means; Lightning tells only once it has started to load."""
    return trainer._checkpoint_connector._hpc_resume_path


def last_checkpoints(keeper: ModelCheckpoint, trainer: L.Trainer) -> set[str]:
    """The files that `ckpt_path: last` chooses from; `last_model_path` is empty in a new process."""
    return keeper._find_last_checkpoints(trainer)


def replace_innermost_io(trainer: L.Trainer, old: type[CheckpointIO], new: type[CheckpointIO]) -> None:
    """Replace the plugin that writes files, if it is exactly an `old`, inside wrappers such as `AsyncCheckpointIO`.

    The base class of wrappers is private, and a wrapper's setter takes only its first plugin.
    """
    wrapper, inner = None, trainer.strategy.checkpoint_io
    while isinstance(inner, _WrappingCheckpointIO) and inner.checkpoint_io is not None:
        wrapper, inner = inner, inner.checkpoint_io
    if type(inner) is not old:
        return
    if wrapper is None:
        trainer.strategy.checkpoint_io = new()
    else:
        wrapper._checkpoint_io = new()


def save_interval(keeper: ModelCheckpoint) -> timedelta | None:
    """`train_time_interval`, which has no public attribute."""
    return keeper._train_time_interval


def save_every(callback: L.Callback) -> int:
    """`every_n_train_steps` of a `ModelCheckpoint`, which has no public attribute; 0 for other callbacks."""
    return callback._every_n_train_steps if isinstance(callback, ModelCheckpoint) else 0


def save_is_due(keeper: ModelCheckpoint) -> bool:
    """Whether `train_time_interval` is over; when the callback has last saved is not public."""
    since, interval = keeper._last_time_checked, save_interval(keeper)
    return since is not None and interval is not None and time.monotonic() - since >= interval.total_seconds()


def save_by_time(keeper: ModelCheckpoint, trainer: L.Trainer) -> None:
    """Save as `ModelCheckpoint.on_train_batch_end` does; under manual optimisation that returns before it saves."""
    if keeper._should_skip_saving_checkpoint(trainer):
        return
    keeper._last_time_checked = time.monotonic()
    candidates = keeper._monitor_candidates(trainer)
    if keeper.monitor is not None and keeper.monitor not in candidates:
        keeper._defer_save_until_validation = True
        return
    keeper._save_topk_checkpoint(trainer, candidates)
    keeper._save_last_checkpoint(trainer, candidates)


# ---- options of the trainer and of its callbacks, which their constructors keep to themselves


def renews_batch_norm(callback: StochasticWeightAveraging) -> bool | None:
    """Whether the callback will renew BatchNorm's statistics; None before its `setup`."""
    return callback._model_contains_batch_norm


def epochs_before_averaging(callback: StochasticWeightAveraging) -> int | None:
    """The trainer's `max_epochs` without the epoch that the callback adds; None before it has added one."""
    return getattr(callback, "_max_epochs", None)


def skips_backward(trainer: L.Trainer) -> bool:
    """Whether this epoch only renews BatchNorm's statistics for `StochasticWeightAveraging`."""
    return trainer.fit_loop._skip_backward


def average_options(callback: WeightAveraging) -> tuple[bool, frozenset[str]]:
    """`use_buffers` of a weight average, and the names of its further options."""
    return callback._use_buffers, frozenset(callback._kwargs)


def syncs_batch_norm(strategy: Strategy) -> bool:
    """Whether `sync_batchnorm` is on."""
    return getattr(strategy, "_layer_sync", None) is not None


def start_method(strategy: Strategy) -> str:
    """spawn, fork, forkserver or popen; "" for a strategy that starts no process."""
    return getattr(strategy, "_start_method", "")


def ddp_options(strategy: DDPStrategy) -> dict[str, Any]:
    """The options of DDP, of communication hooks and of model averaging that differ from None."""
    named = ("ddp_comm_state", "ddp_comm_hook", "ddp_comm_wrapper", "model_averaging_period")
    values = {name: getattr(strategy, f"_{name}") for name in named}
    return {**strategy._ddp_kwargs, **{name: value for name, value in values.items() if value is not None}}


def mesh_of_ranks(strategy: ModelParallelStrategy) -> None:
    """Give the data-parallel dimension all ranks, before the mesh is made; the constructor does not know their number.

    Lightning's "auto" would make the GPUs of a node tensor-parallel.
    """
    strategy._data_parallel_size, strategy._tensor_parallel_size = strategy.num_nodes * strategy.num_processes, 1


def model_registry(trainer: L.Trainer) -> str | None:
    """`model_registry` of the trainer."""
    return trainer._model_registry


def keep_sampler(trainer: L.Trainer) -> None:
    """Let loaders keep their sampler, as `use_distributed_sampler: false` does; a strategy cannot say so itself."""
    trainer._accelerator_connector.use_distributed_sampler = False


def forking_launcher(trainer: L.Trainer) -> Any | None:
    """The launcher that forks ranks, whose `procs` are its children; None for another one. Its class is private."""
    launcher = trainer.strategy.launcher
    return launcher if isinstance(launcher, _MultiProcessingLauncher) else None


def ranks_by_command_line(trainer: L.Trainer) -> int:
    """How many ranks this machine gets by `sys.argv`, the first among them; 1 otherwise. The launcher is private."""
    launcher = trainer.strategy.launcher
    return launcher.num_processes if isinstance(launcher, _SubprocessScriptLauncher) else 1


def stop_observing_ranks(trainer: L.Trainer) -> None:
    """End the thread that kills rank 0 when a rank that it has started is killed; the launcher is private.

    After a KeyboardInterrupt Lightning itself kills these ranks, and the thread would kill rank 0 before it has ended.
    """
    launcher = trainer.strategy.launcher
    if isinstance(launcher, _SubprocessScriptLauncher):
        observed, launcher.procs = launcher.procs, [*launcher.procs]
        observed.clear()


def on_ranks_started(trainer: L.Trainer, observe: Callable[[list[Any]], None]) -> None:
    """Call `observe` with the processes of the ranks when this process has started them; the launcher is private."""
    launcher = trainer.strategy.launcher
    if isinstance(launcher, _SubprocessScriptLauncher):
        start = launcher._call_children_scripts

        def started() -> None:
            start()
            observe(launcher.procs)

        launcher._call_children_scripts = started  # type: ignore[method-assign]  # of this launcher only


# ---- the command line and loggers


def command_parser(cli: LightningCLI) -> LightningArgumentParser:
    """The parser of the subcommand that runs, or the only one; `cli.parser` is that of all subcommands."""
    return cli._parser(cli.subcommand)


def add_instantiators(cli: LightningCLI) -> None:
    """Let the parser build model and data as Lightning does, with the hyperparameters that checkpoints save.

    It does so once, when the arguments are parsed; a parser of several configs needs it once for each.
    """
    cli._add_instantiators()


def wandb_options(logger: WandbLogger) -> dict[str, Any]:
    """Arguments of `wandb.init`, to be changed before the run opens; the constructor takes no `None` for "not yet"."""
    return logger._wandb_init


def name_wandb_run(logger: WandbLogger, id: str | None = None, name: str | None = None) -> None:
    """Set id or name of a run that has not opened; `version` and `name` are read-only."""
    logger._id, logger._name = id or logger._id, name or logger._name


def forget_wandb_run(logger: WandbLogger) -> None:
    """Let the logger open a new run when it is next asked; `experiment` has no setter."""
    logger._experiment = None


def set_wandb_run(logger: WandbLogger, run: Any) -> None:
    """Let the logger use a run that is open already; only its constructor takes one."""
    logger._experiment = run


def given_version(logger: CSVLogger | TensorBoardLogger) -> int | str | None:
    """The version that was given, None if none was; `version` would choose the next free one."""
    return logger._version


def set_version(logger: CSVLogger | TensorBoardLogger, version: int | str) -> None:
    """Set the version of a logger that has not written yet; `version` is read-only."""
    logger._version = version


def csv_options(logger: CSVLogger) -> dict[str, Any]:
    """Arguments that make an equal logger, which has written nothing; most of them are not public."""
    options = {"save_dir": logger.save_dir, "name": logger.name, "version": logger._version, "prefix": logger._prefix}
    return options | {"flush_logs_every_n_steps": logger._flush_logs_every_n_steps}


def tensorboard_options(logger: TensorBoardLogger) -> dict[str, Any]:
    """Arguments that make an equal logger, which has written nothing; most of them are not public."""
    names = {"save_dir": logger.save_dir, "name": logger.name, "version": logger._version, "prefix": logger._prefix}
    options = {**names, "log_graph": bool(logger._log_graph), "default_hp_metric": logger._default_hp_metric}
    return {**options, "sub_dir": logger.sub_dir, **logger._kwargs}

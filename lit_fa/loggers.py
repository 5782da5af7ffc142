"""Loggers of a run: its id, group and tags at W&B and Trackio, and the logs that a resumed run continues."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint

from lit_fa.callbacks import ContinuedLogs, ResumableTrackioLogger, ResumableWandbLogger, WandbRun
from lit_fa.callbacks.continued_logs import continue_logs, continued
from lit_fa.callbacks.file_loggers import resumable
from lit_fa.errors import UserError
from lit_fa.lightning_privates import callbacks_of
from lit_fa.named_loggers import logger_config
from lit_fa.provenance import our_code
from lit_fa.spec.overrides import run_id

HOSTED = (ResumableWandbLogger, ResumableTrackioLogger)
NOT_RESULTS = ("config", "ckpt_path", "weights_only", "verbose", "return_predictions")  # a command's own options


def only_by_name(words: Sequence[str]) -> None:
    """Refuse options of a logger together with `--logger NAME`, which would replace them.

    Raises:
        UserError: there is such an option.
    """
    given = next((word for word in words if re.match(r"--trainer\.logger(?:[.=+]|$)", word)), None)
    if given:
        name = given.partition("=")[0]
        raise UserError(
            f"{name} beside --logger: give the logger's class with --trainer.logger and its options after it"
        )


def written_out(config: dict[str, Any], run: str) -> dict[str, Any]:
    """The config with `trainer.logger` as class and options, if it was given by name, as in a table."""
    trainer = config.get("trainer") or {}
    if not isinstance(name := trainer.get("logger"), str):
        return config
    return config | {"trainer": trainer | {"logger": logger_config(name, run)}}


def use_resumable(trainer: L.Trainer) -> None:
    """Replace Lightning's CSV and TensorBoard loggers, the default one too, by those that a resumed run continues."""
    kinds = [type(logger) for logger in trainer.loggers]
    first = [kinds.index(kind) == number for number, kind in enumerate(kinds)]  # one of each kind is continued
    trainer.loggers = [resumable(log) if one else log for log, one in zip(trainer.loggers, first, strict=True)]


def attach(
    trainer: L.Trainer, config: dict[str, Any], record: dict[str, Any], checkpoint: Mapping[str, Any] | None = None
) -> None:
    """Set id, config, group, job type and tags of the trainer's loggers, and add the callback that keeps their rows.

    Args:
        trainer: not yet running.
        config: of the run, plain data.
        record: the run's entries from its table (id, table, row, column, scale, seed); empty outside a table.
        checkpoint: that a fit resumes from, whose logs go on.
    """
    loggers = [logger for logger in trainer.loggers if isinstance(logger, HOSTED)]
    callbacks = callbacks_of(trainer)
    config = {key: value for key, value in config.items() if key not in NOT_RESULTS}
    for logger in loggers:
        logger.identify(record.get("id") or run_id(config), config, **names(config, record))
    continue_logs(trainer, checkpoint or {})
    needed = WandbRun if loggers else ContinuedLogs
    if continued(trainer) and not any(isinstance(callback, needed) for callback in callbacks):
        callbacks.append(needed())
    callbacks.sort(key=lambda callback: isinstance(callback, Checkpoint))  # last: they save the others' state


def names(config: dict[str, Any], record: dict[str, Any]) -> dict[str, Any]:
    """Group (table), job type (cell), name (cell and seed) and tags (rule, data set, scale, commit) of a run."""
    cell = ", ".join(record[axis] for axis in ("row", "column") if record.get(axis))
    model, data = config.get("model") or {}, config.get("data") or {}
    rule = (model.get("init_args") or {}).get("rule") or {"class_path": "Backprop"}
    inner = (data.get("init_args") or {}).get("data") or data
    parts = [_short(rule), _short(inner), record.get("scale", ""), our_code().commit[:8]]
    return {
        "group": record.get("table") or record.get("sweep"),
        "job_type": cell or None,
        "name": f"{cell}, seed {record['seed']}" if cell else None,
        "tags": [part for part in parts if part],
    }


def finish(trainer: L.Trainer) -> None:
    """Close the runs of loggers at the end of a command; the end of a fit does not, because a test may follow."""
    for logger in trainer.loggers:
        if isinstance(logger, HOSTED):
            logger.finish()


def log_table(kind: str, table: str, run: str, columns: list[str], data: list[list[str]]) -> None:
    """Log a paper's table, with measured and published numbers, as a run in the group of its cells.

    Args:
        kind: wandb or trackio.
        table: its name, the group of its runs.
        run: id; a table has one run for each scale, which shows the latest state.
        columns: titles.
        data: cells as text, one list per row.
    """
    logger: Any = ResumableWandbLogger() if kind == "wandb" else ResumableTrackioLogger()
    logger.identify(run, {}, group=table, job_type="table", name=table)
    logger.add({"table": {"columns": columns, "data": data}})
    logger.finish()


def _short(chosen: dict[str, Any] | str) -> str:
    return (chosen.get("class_path", "") if isinstance(chosen, dict) else chosen).rpartition(".")[2]

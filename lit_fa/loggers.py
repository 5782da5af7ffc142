"""Loggers by name, and what a W&B run is called: one run for one config, grouped by table and cell."""

import re
from collections.abc import Sequence
from importlib.util import find_spec

import lightning as L
from lightning.pytorch.callbacks import Checkpoint

from callbacks import ResumableWandbLogger, WandbRun
from lit_fa.errors import UserError, nearest
from lit_fa.provenance import our_code
from lit_fa.spec.expand import run_id

LOGGERS = {
    "wandb": "callbacks.ResumableWandbLogger",
    "csv": "lightning.pytorch.loggers.CSVLogger",
    "tensorboard": "lightning.pytorch.loggers.TensorBoardLogger",
}
NOT_RESULTS = ("config", "ckpt_path", "weights_only", "verbose", "return_predictions")  # a command's own options


def logger_config(name: str, run: str = "") -> dict:
    """The logger called `name` in a config, as `trainer.logger` is written out.

    Args:
        name: wandb, csv or tensorboard.
        run: id of a table's run, which has files of its own.

    Raises:
        UserError: another name, or a package that is not installed.
    """
    if name not in LOGGERS:
        raise UserError(f"unknown logger '{name}'; {nearest(name, [*LOGGERS])}")
    if name == "tensorboard" and not (find_spec("tensorboard") or find_spec("tensorboardX")):
        raise UserError("the logger tensorboard needs a package: pip install tensorboard")
    folder = "/".join(part for part in ("lightning_logs", run) if part)
    return {"class_path": LOGGERS[name], "init_args": {} if name == "wandb" else {"save_dir": ".", "name": folder}}


def only_by_name(words: Sequence[str]) -> None:
    """Refuse options of a logger beside `--logger NAME`, which would replace them.

    Raises:
        UserError: such an option is there.
    """
    given = next((word for word in words if re.match(r"--trainer\.logger(?:[.=+]|$)", word)), None)
    if given:
        name = given.partition("=")[0]
        raise UserError(
            f"{name} beside --logger: give the logger's class with --trainer.logger and its options after it"
        )


def written_out(config: dict, run: str) -> dict:
    """The config with a logger that was given by name, as a table does, written out."""
    trainer = config.get("trainer") or {}
    if not isinstance(name := trainer.get("logger"), str):
        return config
    return config | {"trainer": trainer | {"logger": logger_config(name, run)}}


def attach(trainer: L.Trainer, config: dict, record: dict) -> None:
    """Give the trainer's W&B runs, if it has any, id, config, group, job type and tags, and what they show besides.

    Args:
        trainer: not yet running.
        config: of the run, plain data.
        record: what its table knows of it: id, table, row, column, scale, seed; empty outside a table.
    """
    loggers = [logger for logger in trainer.loggers if isinstance(logger, ResumableWandbLogger)]
    config = {key: value for key, value in config.items() if key not in NOT_RESULTS}
    for logger in loggers:
        logger.identify(record.get("id") or run_id(config), config, **names(config, record))
    if loggers and not any(isinstance(callback, WandbRun) for callback in trainer.callbacks):
        trainer.callbacks.append(WandbRun())
    trainer.callbacks.sort(key=lambda callback: isinstance(callback, Checkpoint))  # they save what the others know


def names(config: dict, record: dict) -> dict:
    """Group, job type, name and tags of a run: table, cell, cell and seed; rule, dataset, scale and commit."""
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
    """Close what loggers have open once a command is over: a fit may have had its test still before it."""
    for logger in trainer.loggers:
        if isinstance(logger, ResumableWandbLogger):
            logger.finish()


def log_table(table: str, run: str, columns: list[str], data: list[list[str]]) -> None:
    """A paper's table, ours beside the published, as a run of its own in the group of its cells.

    Args:
        table: its name, the group of its runs.
        run: id; the same table at the same scale is the same run, which shows the newest.
        columns: titles.
        data: cells as text, one list a row.
    """
    logger = ResumableWandbLogger(id=run, group=table, job_type="table", name=table)
    logger.add({"table": {"columns": columns, "data": data}})
    logger.finish()


def _short(chosen: dict | str) -> str:
    return (chosen.get("class_path", "") if isinstance(chosen, dict) else chosen).rpartition(".")[2]

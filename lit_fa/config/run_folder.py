"""The folder of a `lit-fa fit` run, by the name that the user gives it."""

import os
import re
from importlib.util import find_spec
from pathlib import Path

from jsonargparse import Namespace, dict_to_namespace

from lit_fa.errors import UserError
from lit_fa.named_loggers import CLASSES, HOSTED
from lit_fa.quiet import is_first_rank

LOGS = "lightning_logs"
_NAME = re.compile(r"[A-Za-z0-9][\w.+-]{0,99}")
_FOLDERS = (CLASSES["csv"], CLASSES["tensorboard"])  # loggers with a folder of their own for every version
_HOSTED = [CLASSES[name] for name in HOSTED]


def check_name(name: str) -> str:
    """The name of a run, which is the name of its folder.

    Raises:
        UserError: a name that is no name of a folder, or one that Lightning gives itself.

    >>> check_name("lr-0.05")
    'lr-0.05'
    """
    if not _NAME.fullmatch(name):
        raise UserError(
            f"--name {name!r}: take at most 100 letters, digits and . _ + -, beginning with a letter or digit"
        )
    if re.fullmatch(r"version_\d+", name):
        raise UserError(f"--name {name}: runs without a name are called so; choose another one")
    return name


def give_name(trainer: Namespace, name: str) -> Path | None:
    """Let the loggers of a config write into the folder `name`; returns the folder.

    The loggers of W&B and Trackio keep their folder, whose name is the run's id, and show the name; for them None is
    returned.

    Args:
        trainer: the trainer's options, parsed; they are changed.
        name: of the run.

    Raises:
        UserError: a logger that has a version or a name already, or one of another kind.
    """
    root = Path(trainer.get("default_root_dir") or ".")
    logger = trainer.get("logger")
    if logger is False:
        return root / LOGS / name
    if logger is None or logger is True:
        board = find_spec("tensorboard") or find_spec("tensorboardX")
        options = dict_to_namespace({"save_dir": str(root), "name": LOGS, "version": None})
        logger = trainer.logger = dict_to_namespace({"class_path": _FOLDERS[1 if board else 0], "init_args": options})
    loggers = logger if isinstance(logger, list) else [logger]
    folders = [_named(each, name) for each in loggers]
    return next((folder for folder in folders if folder), None)


def _named(logger: Namespace, name: str) -> Path | None:
    kind, options = logger.class_path, logger.init_args
    key = "version" if kind in _FOLDERS else "name" if kind in _HOSTED else ""
    if not key:
        raise UserError(f"--name: {kind} is named by its own options; set them under trainer.logger")
    if options.get(key) not in (None, name):
        raise UserError(f"--name beside trainer.logger.init_args.{key}: keep one of them")
    options[key] = name
    return Path(options.save_dir) / (options.get("name") or "") / name if kind in _FOLDERS else None


def check_unused(folder: Path, name: str, checkpoint: str | None) -> None:
    """Refuse a name that another run has, unless that run goes on.

    A job that Slurm has requeued goes on by itself.

    Raises:
        UserError: the folder has files; how to go on, or to take another name.
    """
    requeued = int(os.environ.get("SLURM_RESTART_COUNT") or 0) > 0
    if checkpoint or requeued or not is_first_rank() or not folder.is_dir() or not any(folder.iterdir()):
        return
    kept = sorted(folder.rglob("*.ckpt"), key=lambda path: path.stat().st_mtime)
    on = f"go on with it by --ckpt_path {kept[-1]}" if kept else "remove that folder"
    raise UserError(f"--name {name}: the run in {folder} has it; choose another name, or {on}")

"""The loggers of `--logger NAME`, as configs; imports neither torch nor a logger's package."""

from importlib.util import find_spec
from typing import Any

from lit_fa.errors import UserError, nearest

CLASSES = {
    "csv": "lightning.pytorch.loggers.CSVLogger",
    "tensorboard": "lightning.pytorch.loggers.TensorBoardLogger",
    "wandb": "callbacks.ResumableWandbLogger",
    "trackio": "callbacks.ResumableTrackioLogger",
}
NAMES = (*CLASSES, "none")
HOSTED = ("wandb", "trackio")  # with a run for each config, and a place of their own; the others have a folder a run
_PACKAGES = {"tensorboard": ("tensorboard", "tensorboardX"), "trackio": ("trackio",)}  # any of them suffices


def checked(name: str) -> str:
    """The name of a logger that can be used here.

    Raises:
        UserError: another name, or a package that is not installed.
    """
    if name not in NAMES:
        raise UserError(f"unknown logger '{name}'; {nearest(name, NAMES)}")
    packages = _PACKAGES.get(name, ())
    if packages and not any(find_spec(package) for package in packages):
        raise UserError(f"the logger {name} needs a package: pip install {packages[0]}")
    return name


def logger_config(name: str, run: str = "") -> dict[str, Any] | bool:
    """The value of `trainer.logger` in a config for the logger called `name`; False for none.

    Args:
        name: one of `NAMES`.
        run: id of a table's run, which has its own folder.

    Raises:
        UserError: another name, or a package that is not installed.

    >>> logger_config("csv")["init_args"]
    {'save_dir': '.', 'name': 'lightning_logs'}
    """
    if checked(name) == "none":
        return False
    folder = "/".join(part for part in ("lightning_logs", run) if part)
    return {"class_path": CLASSES[name], "init_args": {} if name in HOSTED else {"save_dir": ".", "name": folder}}


def words_of_a_trial(name: str, project: str) -> tuple[str, ...]:
    """The words of a command line that configure the logger of a sweep's trial; `{folder}` stands for its folder.

    Raises:
        UserError: another name, or a package that is not installed.
    """
    if checked(name) == "none":
        return ("--trainer.logger=false",)
    logger = f"--trainer.logger={CLASSES[name]}"
    if name not in HOSTED:
        return (logger, "--trainer.logger.save_dir={folder}")
    offline = ("--trainer.logger.offline=true", "--trainer.logger.dir={folder}") if name == "wandb" else ()
    return (logger, *offline, "--trainer.logger.folder={folder}", f"--trainer.logger.project={project}")

"""What the console of a command leaves out of the messages of Lightning and torch: advertisements, tips, deprecations.

A message is left out only if it is listed here. A new message, and one about a choice of the user, is shown.
"""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# beginnings of what Lightning logs; the command's own header and last line say what the user needs of it
LOGGED = (
    "GPU available: ",
    "TPU available: ",
    "💡 Tip: ",
    "Seed set to ",
    "`Trainer.fit` stopped: `max_",
    "Loading `train_dataloader` to estimate number of stepping batches",
    "LOCAL_RANK: ",
    "Initializing distributed: GLOBAL_RANK: ",
    "-" * 100,  # the box around "All distributed processes registered"
    "Restoring states from the checkpoint path at ",
    "Restored all states",
    "Loaded model weights",
)
# beginnings of warnings, as regular expressions
WARNED = (
    r"The '\w+' does not have many workers",  # our loaders need none
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # torch's, in a call of Lightning
    r"No seed found, seed set to \d+",  # the header names the seed
    r"Starting from v1\.9\.0, `tensorboardX` has been removed",  # the last line names the folder of the log
)
# also left out where the value is Lightning's default and not the user's
LOG_INTERVAL = r"The number of training batches \(\d+\) is smaller than the logging interval"
SYNC = r"It is recommended to use `self\.log\(.*, sync_dist=True\)`"  # our modules average over ranks themselves
# of a checkpoint that is only evaluated
OF_TRAINING = (
    r"Be aware that when using `ckpt_path`, callbacks used to create the checkpoint",
    r"The dirpath has changed from ",
)
FOLDER_IN_USE = r"Checkpoint directory .* exists and is not empty"  # as where a run goes on
_LOGGERS = ("", "lightning", "lightning.pytorch", "lightning.fabric")  # those whose handlers write to the console


@contextmanager
def quiet() -> Iterator[None]:
    """Within the context the messages of this module are left out, and ranks other than the first are silent.

    Errors are always shown. A warning is one line, without the place in the code.
    """
    handlers = [handler for name in _LOGGERS for handler in logging.getLogger(name or None).handlers]
    before = warnings.formatwarning
    with warnings.catch_warnings():
        for category in (DeprecationWarning, PendingDeprecationWarning):
            warnings.simplefilter("ignore", category)
        for message in WARNED:
            warnings.filterwarnings("ignore", message)
        for handler in handlers:
            handler.addFilter(_is_shown)
        warnings.formatwarning = _one_line
        try:
            yield
        finally:
            warnings.formatwarning = before
            for handler in handlers:
                handler.removeFilter(_is_shown)


def _is_shown(record: logging.LogRecord) -> bool:
    if record.levelno >= logging.ERROR:
        return True
    ours = record.name.partition(".")[0]
    return is_first_rank() and not (ours == "lightning" and record.getMessage().startswith(LOGGED))


def _one_line(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = ""
) -> str:
    return f"warning: {' '.join(str(message).split())}\n" if is_first_rank() else ""


def ignore(message: str) -> None:
    """Leave out a warning, by a regular expression of its beginning, until `quiet` ends; no effect outside it."""
    if warnings.formatwarning is _one_line:
        warnings.filterwarnings("ignore", message)


def is_first_rank() -> bool:
    """Whether this process is the first of a distributed run, or the only one; known once Lightning is imported."""
    ranks = sys.modules.get("lightning.fabric.utilities.rank_zero")
    return ranks is None or ranks.rank_zero_only.rank == 0

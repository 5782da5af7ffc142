"""How Lightning writes and reads checkpoints here: whole files with a digest, of which nothing is run."""

from typing import Any

import lightning as L
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.plugins.io.wrapper import _WrappingCheckpointIO

from lit_fa.checkpoints import files as checkpoint_files
from lit_fa.errors import UserError


class WholeCheckpointIO(TorchCheckpointIO):
    """Lightning's own checkpoints of one file, written by `checkpoint_files.save` and read by its `read`.

    Files at an address (`s3://`, `https://`) are Lightning's business, except that they are read as plain data too.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write the file beside its target and rename it."""
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
        else:
            checkpoint_files.save(checkpoint, path)

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None) -> dict[str, Any]:
        """What the file holds; plain data alone, unless `weights_only` is False.

        Raises:
            UserError: it cannot be read, or holds more than plain data.
        """
        weights_only = weights_only is not False
        if "://" not in str(path):
            return checkpoint_files.read(path, map_location, weights_only=weights_only)
        try:
            return super().load_checkpoint(path, map_location, weights_only)
        except Exception as error:  # every kind of address has errors of its own
            said = " ".join(str(error).split())[:200]
            raise UserError(f"{path} cannot be fetched or read ({type(error).__name__}: {said})") from error


def use_whole_files(trainer: L.Trainer) -> None:
    """Let a trainer write and read checkpoints so, unless its strategy or the user has chosen another way.

    What Lightning wraps around its own way, such as `AsyncCheckpointIO`, is kept around ours.
    """
    wrapper, inner = None, trainer.strategy.checkpoint_io
    while isinstance(inner, _WrappingCheckpointIO) and inner.checkpoint_io is not None:
        wrapper, inner = inner, inner.checkpoint_io
    if type(inner) is not TorchCheckpointIO:
        return
    if wrapper is None:
        trainer.strategy.checkpoint_io = WholeCheckpointIO()
    else:
        wrapper._checkpoint_io = WholeCheckpointIO()  # its setter takes a first one alone

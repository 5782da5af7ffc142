"""Lightning's reading and writing of checkpoints through `lit_fa.checkpoints.files`."""

from typing import Any

import lightning as L
from lightning.pytorch.plugins.io import TorchCheckpointIO

from lit_fa.checkpoints import files as checkpoint_files
from lit_fa.checkpoints import store_files
from lit_fa.errors import UserError
from lit_fa.lightning_privates import replace_innermost_io


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints by `checkpoint_files.save` and reads them by `checkpoint_files.read`.

    Files at a remote address (`s3://`, `https://`) are written and read by Lightning, but as plain data too.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write the file atomically."""
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
        else:
            checkpoint_files.save(checkpoint, path)
            if store := (checkpoint.get("federated") or {}).get("store"):
                store_files.pin(store, path)

    def remove_checkpoint(self, path: Any) -> None:
        """Delete the file; a store of clients' states need not keep what only this checkpoint needs."""
        if "://" not in str(path):
            store_files.unpin(path)
        super().remove_checkpoint(path)

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None) -> dict[str, Any]:
        """The content of the file; plain data only, unless `weights_only` is False.

        Raises:
            UserError: it cannot be read, or contains more than plain data.
        """
        weights_only = weights_only is not False
        if "://" not in str(path):
            return checkpoint_files.read(path, map_location, weights_only=weights_only)
        try:
            return super().load_checkpoint(path, map_location, weights_only)
        except Exception as error:  # the kinds of addresses have different exceptions
            message = " ".join(str(error).split())[:200]
            raise UserError(f"{path} cannot be fetched or read ({type(error).__name__}: {message})") from error


def use_whole_files(trainer: L.Trainer) -> None:
    """Let a trainer write and read checkpoints so, unless its strategy or the user has chosen another way.

    What Lightning wraps around its own way, such as `AsyncCheckpointIO`, is kept around ours.
    """
    replace_innermost_io(trainer, TorchCheckpointIO, WholeCheckpointIO)

"""One run at the paper's schedule, by Lightning's trainer; it stops at the time limit and can be resumed."""

import copy
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint

from benchmarks.gpu_settled.configs import BEST, Item, built
from lit_fa.callbacks.best_validation import BestValidation
from lit_fa.callbacks.run_record import RunRecord
from lit_fa.modules import NonFiniteLossError
from lit_fa.spec.overrides import run_id

SAVE_EVERY = 10  # epochs between two checkpoints


class OutOfTime(Exception):
    """The time limit is reached; the checkpoint is of the last complete epoch."""


class InTime(Checkpoint):
    """Saves a checkpoint and stops the run at the end of the epoch in which the time limit is reached.

    Args:
        path: of the checkpoint.
        end: time limit, on the monotonic clock in seconds.
    """

    def __init__(self, path: Path, end: float) -> None:
        """See the class."""
        self.path, self.end = path, end

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save a checkpoint every few epochs and at the time limit."""
        last = trainer.current_epoch + 1 == trainer.max_epochs
        late = time.monotonic() > self.end and not last
        if late or (trainer.current_epoch + 1) % SAVE_EVERY == 0:
            trainer.save_checkpoint(self.path)
        if late:
            raise OutOfTime


class SecondsTo(L.Callback):
    """Stops when validation reaches an accuracy; `seconds` is the training time until then, without validation.

    Args:
        accuracy: in percent.
    """

    def __init__(self, accuracy: float) -> None:
        """See the class."""
        self.accuracy, self.seconds, self.best, self.reached = accuracy, 0.0, 0.0, False
        self.since = 0.0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        _finish(pl_module.device)
        self.since = time.monotonic()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the clock."""
        _finish(pl_module.device)
        self.seconds += time.monotonic() - self.since

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the run once the accuracy is reached."""
        accuracy = float(trainer.callback_metrics["val/accuracy"])
        self.best, self.reached = max(self.best, accuracy), self.reached or accuracy >= self.accuracy
        trainer.should_stop = self.reached


def train(item: Item, config: Mapping[str, Any], out: Path, end: float, *, compiled: bool) -> dict[str, Any]:
    """Train and test one item; its record is in `out/records`.

    Returns:
        The content of the record.

    Raises:
        OutOfTime: the same call continues from the checkpoint.
    """
    record, checkpoint = out / "records" / f"{item.key}.json", out / "checkpoints" / f"{item.key}.ckpt"
    head: dict[str, Any] = {"id": run_id(dict(config)), "paper": item.paper, "table": Path(item.table).stem}
    head |= {
        "row": item.row,
        "column": item.column,
        "scale": "gpu",
        "seed": item.seed,
        "compiled": compiled,
        "config": dict(config),
    }
    best, recorded = _best(config), RunRecord(str(record), head)
    callbacks = [*([best] if best else []), recorded, InTime(checkpoint, end)]
    trainer, model, data = _ready(config, callbacks, compiled=compiled, every=1 if best else None)
    try:
        trainer.fit(model, data, ckpt_path=checkpoint if checkpoint.is_file() else None, weights_only=True)
        recorded.metrics |= best.tested(trainer, data) if best else {}
        trainer.test(model, data, verbose=False)
    except NonFiniteLossError:
        pass  # it is in the record
    checkpoint.unlink(missing_ok=True)
    return json.loads(record.read_text(encoding="utf-8"))


def race(config: Mapping[str, Any], accuracy: float, epochs: int, *, compiled: bool) -> dict[str, Any]:
    """Seconds of training to an accuracy, with a cosine schedule of `epochs`; None if it is not reached."""
    clock = SecondsTo(accuracy)
    trainer, model, data = _ready(with_epochs(dict(config), epochs), [clock], compiled=compiled, every=1)
    try:
        trainer.fit(model, data)
    except NonFiniteLossError:
        return {"seconds": None, "best": clock.best, "epochs": trainer.current_epoch, "diverged": True}
    reached = round(clock.seconds, 2) if clock.reached else None
    return {
        "seconds": reached,
        "best": clock.best,
        "epochs": trainer.current_epoch,
        "trained_s": round(clock.seconds, 2),
    }


def with_epochs(config: dict[str, Any], epochs: int) -> dict[str, Any]:
    """The config with another number of epochs, and a cosine or linear schedule of that length."""
    config = copy.deepcopy(config)
    config["trainer"]["max_epochs"] = epochs
    options = (config["model"]["init_args"].get("scheduler") or {}).get("init_args", {})
    options |= {name: epochs for name in ("T_max", "total_iters") if name in options}
    return config


def _best(config: Mapping[str, Any]) -> BestValidation | None:
    """The callback of a config that keeps the weights that were best on held-out data."""
    own = [entry for entry in config["trainer"].get("callbacks", ()) if entry["class_path"] == BEST]
    return BestValidation(**own[0]["init_args"]) if own else None


def _ready(
    config: Mapping[str, Any], callbacks: list[L.Callback], *, compiled: bool, every: int | None = None
) -> tuple[L.Trainer, L.LightningModule, L.LightningDataModule]:
    """Trainer, module and data; bf16 and channels_last on a graphics card."""
    fast = torch.cuda.is_available()
    L.seed_everything(config["seed_everything"], verbose=False)
    model, data = built(dict(config), fast=fast, compiled=compiled)
    epochs = config["trainer"]["max_epochs"]
    options = {
        key: value for key, value in config["trainer"].items() if key not in ("callbacks", "enable_checkpointing")
    }
    trainer = L.Trainer(
        **options | {"accelerator": "gpu" if fast else "cpu"},
        precision="bf16-mixed" if fast else "32-true",
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
        check_val_every_n_epoch=every or min(SAVE_EVERY, epochs),
        callbacks=callbacks,
    )
    return trainer, model, data


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

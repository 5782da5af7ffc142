"""Small runs under a real Trainer, each in a process of its own: for the tests of resuming and of two ranks.

`train` is the body of such a process and leaves weights, feedback and losses in a file. The processes come from a
fork server, a fresh interpreter that has imported torch and Lightning once and has done nothing else.
"""

import multiprocessing
import os
import signal
import socket
from functools import partial
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy
from torch import nn

from datamodules import Synthetic
from lit_fa.modules import Classifier
from tests.cases import CLASSES, RULES

IMAGE = (2, 8, 8)


def network(dropout: float) -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.Tanh()),
        nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Dropout(dropout), nn.Flatten()),
        nn.Sequential(nn.Linear(64, 12), nn.Tanh(), nn.Dropout(dropout)),
        nn.Linear(12, CLASSES),
    )


def mlp(dropout: float) -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(128, 20), nn.ReLU(), nn.Dropout(dropout), nn.Linear(20, 16), nn.Tanh(),
        nn.Linear(16, 12), nn.ReLU(), nn.Dropout(dropout), nn.Linear(12, CLASSES),
    )  # fmt: skip


NETWORKS = {"conv": network, "mlp": mlp}


class Losses(L.Callback):
    """Keeps the loss of every batch, and kills the process where it is told to."""

    def __init__(self, kill_at: int | None):
        self.losses, self.kill_at = [], kill_at

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.losses.append(float(outputs["loss"]))
        if trainer.global_step == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)


def train(options: dict) -> None:
    torch.set_num_threads(1)
    os.environ |= options.get("environment", {})
    L.seed_everything(options.get("seed", 0), verbose=False)
    double = options.get("double", True)
    data = Synthetic(
        n_train=40, n_test=10, image_shape=IMAGE, num_classes=CLASSES, batch_size=8, seed=1, device="cpu",
        augment=options.get("augment", "none"), dtype="float64" if double else "float32",
    )  # fmt: skip
    # decay lets Kolen-Pollack's feedback move in its own way; momentum is state that a checkpoint must carry
    sgd = partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=1e-2)
    module = Classifier(
        NETWORKS[options.get("network", "conv")](options.get("dropout", 0.0)).to(
            torch.float64 if double else torch.float32
        ),
        RULES[options["rule"]][0](**options.get("rule_options", {})),
        num_classes=CLASSES,
        image_shape=IMAGE,
        optimizer=sgd,
        scheduler=partial(torch.optim.lr_scheduler.StepLR, step_size=3, gamma=0.5),
        scheduler_interval="step",
        accumulate=options.get("accumulate", 1),
        clip=options.get("clip"),
        probe=options.get("probe"),
    )
    losses = Losses(options.get("kill_at"))
    checkpoints = ModelCheckpoint(options["folder"], "{step}", every_n_train_steps=1, save_top_k=-1)
    devices = options.get("devices", 1)
    trainer = L.Trainer(
        accelerator="cpu", devices=devices, max_epochs=options.get("epochs", 3), logger=False,
        strategy=DDPStrategy(process_group_backend="gloo") if devices > 1 else "auto",
        callbacks=[checkpoints, losses], enable_progress_bar=False, enable_model_summary=False,
        precision="64-true" if double else "32-true", num_sanity_val_steps=1,
    )  # fmt: skip
    trainer.fit(module, data, ckpt_path=options.get("resume"), weights_only=False)
    record = {"state": module.learner.state_dict(), "losses": losses.losses, "metrics": dict(trainer.callback_metrics)}
    record["world_size"] = trainer.world_size
    record["optimizer"] = module.optimizers().optimizer.state_dict()
    torch.save(record, f"{options['out']}.{trainer.global_rank}")


def in_processes(*runs: dict) -> list[int]:
    """Train side by side, one process for each of the options; returns the exit codes."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.contract.training"])
    processes = [context.Process(target=train, args=(options,)) for options in runs]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def record(folder: Path, **options: object) -> dict:
    """Train in one process, or on so many ranks as `devices` says; what rank 0 has left, and all in `ranks`."""
    folder.mkdir(parents=True, exist_ok=True)
    devices = options.get("devices", 1)
    runs = [{**options, "folder": str(folder), "out": str(folder / "record")} for _ in range(devices)]
    if devices > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        for rank, run in enumerate(runs):
            run["environment"] = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "LOCAL_RANK": str(rank)}
    codes = in_processes(*runs)
    if options.get("kill_at"):
        assert codes == [-signal.SIGKILL]
        return {}
    assert codes == [0] * devices
    ranks = [torch.load(folder / f"record.{rank}", weights_only=False) for rank in range(devices)]
    return {**ranks[0], "ranks": ranks}

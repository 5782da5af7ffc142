"""Federated runs under a real Trainer, each in a process of its own: for the tests of ranks, kills and resuming."""

import multiprocessing
import os
import signal
import socket
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy
from torch import nn

from lit_fa import federated
from lit_fa.callbacks import RoundCost
from lit_fa.callbacks.curves import Recorder
from lit_fa.config.parser_errors import guarded
from lit_fa.datamodules import Digits, Federated
from lit_fa.modules import FederatedClassifier
from lit_fa.rules import FLFA, Backprop, ForwardForward
from tests.contract.training import Keep, Rows, Stopped

SCHEDULERS = {None: None, "plateau": partial(torch.optim.lr_scheduler.ReduceLROnPlateau, patience=0, threshold=0.9)}


class Kill(L.Callback):
    """Keeps who was sampled and what it cost, and kills this process after a round."""

    def __init__(self, after: int | None):
        self.after, self.clients, self.losses = after, [], []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.clients.append(batch.clients)
        self.losses.append(float(outputs["loss"]))
        if trainer.global_step == self.after:
            os.kill(os.getpid(), signal.SIGKILL)


def network(dropout: float = 0.2) -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(64, 20), nn.ReLU(), nn.Dropout(dropout), nn.Linear(20, 10)).double()


def train(options: dict) -> None:
    torch.set_num_threads(1)
    os.environ |= options.get("environment", {})
    rules = {"backprop": Backprop, "ff": partial(ForwardForward, loss="symba", head="none")}
    rules |= {"flfa": partial(FLFA, "lowest:1", reselect_every=4)}
    rule = rules[options["rule"]]()
    callbacks = [RoundCost()] if options.get("measured") else []
    images = Digits(
        flatten=True, dtype="float64", limit_train=400, limit_test=50, normalize="unit", validation_is_test="allow"
    )
    data = Federated(
        images, clients=9, clients_per_round=options.get("sampled", 5), partition="dirichlet", batch_size=16,
        partition_args={"beta": 0.4}, local_epochs=2, rounds_per_epoch=2, seed=4,
    )  # fmt: skip
    module = FederatedClassifier(
        network(options.get("dropout", 0.2)), rule, getattr(federated, options["algorithm"])(), federated.LocalSGD(0.2),
        federated.LocalSchedule("exponential", 0.9), executor=options.get("executor", "sequential"), image_shape=(64,),
        optimizer=partial(torch.optim.SGD, lr=1.0, momentum=0.3), scheduler=SCHEDULERS[options.get("scheduler")],
    )  # fmt: skip
    devices, kill, rows, curves = options.get("devices", 1), Kill(options.get("kill_at")), Rows(), Recorder()
    kept = Keep(Path(options["folder"]), options.get("keep_after"), stop=True)
    checkpoints = ModelCheckpoint(options["folder"], "{step}", every_n_train_steps=1, save_top_k=-1)
    trainer = L.Trainer(
        accelerator="cpu", devices=devices, max_epochs=3, logger=rows,
        callbacks=[checkpoints, kill, curves, kept, *callbacks],
        strategy=DDPStrategy(process_group_backend="gloo") if devices > 1 else "auto",
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    try:
        with suppress(Stopped):
            guarded(lambda: trainer.fit(module, data, ckpt_path=options.get("resume"), weights_only=False))
    except ValueError as error:
        Path(f"{options['out']}.error.{trainer.global_rank}").write_text(
            f"{type(error).__name__}: {error}", encoding="utf-8"
        )
        sys.stdout.flush()
        os._exit(2)  # the process group of a lost rank would wait for it
    record = {"state": module.learner.state_dict(), "clients": kill.clients, "losses": kill.losses}
    record |= {"metrics": dict(trainer.callback_metrics), "server": module.server, "states": dict(module.states)}
    record |= {
        "rows": rows.rows,
        "curves": curves.curves.points,
        "optimizer": module.optimizers().optimizer.state_dict(),
    }
    record |= {"selections": module.selections, "executed_by": module.executed_by}
    torch.save(record, f"{options['out']}.{trainer.global_rank}")


def record(folder: Path, **options: object) -> dict:
    """Run on so many ranks as `devices` says; what rank 0 has left, all in `ranks`, exit codes in `codes`."""
    folder.mkdir(parents=True, exist_ok=True)
    devices = options.get("devices", 1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.federated.running"])
    processes = []
    for rank in range(devices):
        run = {**options, "folder": str(folder), "out": str(folder / "record")}
        if rank != options.get("kill_rank", 0):
            run.pop("kill_at", None)
        if devices > 1:
            run["environment"] = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "LOCAL_RANK": str(rank)}
        processes.append(context.Process(target=train, args=(run,)))
    for process in processes:
        process.start()
    for process in processes:
        process.join(180)  # seconds
    hanging = [process.pid for process in processes if process.is_alive()]
    for process in processes:
        process.kill()
    assert not hanging, f"ranks {hanging} wait for each other for ever"
    codes = [process.exitcode for process in processes]
    if options.get("kill_at"):
        return {"codes": codes}
    assert codes == [0] * devices
    ranks = [torch.load(folder / f"record.{rank}", weights_only=False) for rank in range(devices)]
    return {**ranks[0], "ranks": ranks, "codes": codes}

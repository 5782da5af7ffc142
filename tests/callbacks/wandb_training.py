"""A W&B run of a small network in a process of its own, which may be killed.

The processes come from a fork server, a fresh interpreter that has imported torch and Lightning once.
"""

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy

from lit_fa import Classifier, FeedbackAlignment, callbacks
from lit_fa.datamodules import Digits

STEPS_PER_EPOCH = 12
WANDB = Path(sys.executable).with_name("wandb")


class Kill(L.Callback):
    """Ends the process, as the system does."""

    def __init__(self, at: int):
        self.at = at

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


def train(kill_at: int = 0, resume: str | None = None, every_n_train_steps: int = 0, devices: int = 1) -> None:
    """Three epochs of digits in the present folder, tested; checkpoints after so many steps, or after every epoch."""
    L.seed_everything(0, verbose=False)
    data = Digits(batch_size=128, flatten=True)
    shapes = {"image_shape": data.image_shape, "input_shape": data.sample_shape}
    module = Classifier("mlp", FeedbackAlignment(), network_args={"hidden": [16]}, **shapes)
    when = {"every_n_train_steps": every_n_train_steps} if every_n_train_steps else {}
    checkpoints = ModelCheckpoint("checkpoints", "{step}", save_top_k=-1, **when)
    logger = callbacks.ResumableWandbLogger(id="run", group="table", job_type="cell", tags=["rule"])
    logger.identify("run", {"rate": 0.1})
    shown = [callbacks.WeightAlignment(), callbacks.Figures(), callbacks.WandbRun(), checkpoints, Kill(kill_at)]
    trainer = L.Trainer(
        max_epochs=3,
        accelerator="cpu",
        devices=devices,
        strategy=DDPStrategy(process_group_backend="gloo") if devices > 1 else "auto",
        logger=logger,
        log_every_n_steps=2,
        callbacks=shown,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, data, ckpt_path=resume, weights_only=False)
    trainer.test(module, data, verbose=False)
    logger.finish()


@dataclass
class Ended:
    """How a process ended: its exit code, and what it and W&B printed."""

    code: int
    said: str


def started(folder: Path, *, environment: dict | None = None, **options: object) -> Ended:
    """`train(**options)` in `folder`, without key and network unless the environment has them; of rank 0."""
    folder.mkdir(exist_ok=True)
    here = {"HOME": str(folder), "WANDB_BASE_URL": "http://127.0.0.1:9", **(environment or {})}  # nobody listens there
    ranks = [here | {"LOCAL_RANK": str(rank)} for rank in range(options.get("devices", 1))]
    if len(ranks) > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            ranks = [rank | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])} for rank in ranks]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.callbacks.wandb_training"])
    processes = [context.Process(target=_in, args=(folder, rank, options)) for rank in ranks]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return Ended(processes[0].exitcode, (folder / "printed.0").read_text())


def _in(folder: Path, environment: dict, options: dict) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        del os.environ[name]
    os.environ |= environment
    os.chdir(folder)
    with open(f"printed.{environment['LOCAL_RANK']}", "w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if options.get("devices", 1) == 1:
        del os.environ["LOCAL_RANK"]
    torch.set_num_threads(1)
    train(**options)


def read_back(folder: Path) -> dict[str, list[dict]]:
    """Kind to records of the one offline run in `folder`, as W&B's own tool reads them."""
    (run,) = (folder / "wandb").glob("offline-run-*")
    printed = subprocess.run([WANDB, "leet", "inspect", "--json", run], capture_output=True, text=True, check=True)
    records: dict[str, list[dict]] = {}
    for line in printed.stdout.splitlines():
        record = json.loads(line)
        records.setdefault(record["type"], []).append(record.get(record["type"]))
    return records


def history(folder: Path) -> list[dict]:
    """The rows, without the times at which they were written and the names of files."""
    rows = [record["item"] for record in read_back(folder)["history"]]
    return [
        {
            k: v
            for k, v in row.items()
            if k not in ("_runtime", "_timestamp") and "figures/" not in k and "final" not in k
        }
        for row in rows
    ]

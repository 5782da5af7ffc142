"""A W&B run of a small network in a process of its own, which may be killed: its words are those of `started`."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import lightning as L

ROOT = Path(__file__).parents[2]
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
    from lightning.pytorch.callbacks import ModelCheckpoint

    import callbacks
    from datamodules import Digits
    from lit_fa import Classifier, FeedbackAlignment

    L.seed_everything(0, verbose=False)
    data = Digits(batch_size=128, flatten=True)
    module = Classifier("mlp", FeedbackAlignment(), network_args={"hidden": [16]}, image_shape=data.image_shape)
    when = {"every_n_train_steps": every_n_train_steps} if every_n_train_steps else {}
    checkpoints = ModelCheckpoint("checkpoints", "{step}", save_top_k=-1, **when)
    logger = callbacks.ResumableWandbLogger(id="run", group="table", job_type="cell", tags=["rule"])
    logger.identify("run", {"rate": 0.1})
    shown = [callbacks.WeightAlignment(), callbacks.Figures(), callbacks.WandbRun(), checkpoints, Kill(kill_at)]
    trainer = L.Trainer(
        max_epochs=3, accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto", logger=logger,
        log_every_n_steps=2, callbacks=shown, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, data, ckpt_path=resume, weights_only=False)
    trainer.test(module, data, verbose=False)
    logger.finish()


def started(folder: Path, *, environment: dict | None = None, **options: object) -> subprocess.CompletedProcess:
    """`train(**options)` in `folder`, without key and network unless the environment has them."""
    folder.mkdir(exist_ok=True)
    here = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
    here |= {"HOME": str(folder), "PYTHONPATH": str(ROOT), "WANDB_BASE_URL": "http://127.0.0.1:9"}  # nobody listens
    command = [sys.executable, "-m", "tests.callbacks.wandb_training", json.dumps(options)]
    return subprocess.run(command, cwd=folder, env=here | (environment or {}), capture_output=True, text=True)


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
        {k: v for k, v in row.items() if k not in ("_runtime", "_timestamp") and "figures/" not in k and "final" not in k}
        for row in rows
    ]


if __name__ == "__main__":
    train(**json.loads(sys.argv[1]))

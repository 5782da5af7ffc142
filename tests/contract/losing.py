"""Runs on several ranks of which one, or all, get a signal at a step, for `test_lost_rank.py`."""

import multiprocessing
import os
import socket
import sys
from pathlib import Path
from typing import Any

import lightning as L
import yaml

from lit_fa.__main__ import main

STEP = 4  # at whose beginning the signal comes; checkpoints are kept at steps 3, 6, ...
TIMEOUT = 150  # seconds that a run may take


class Signal(L.Callback):
    """A signal to the ranks that the environment names; at the end, `end.ckpt`."""

    def on_train_batch_start(self, trainer: L.Trainer, *_: object) -> None:
        if trainer.global_step == STEP and str(trainer.global_rank) in os.environ["SIGNALLED"].split(","):
            os.kill(os.getpid(), int(os.environ["SIGNUM"]))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        trainer.save_checkpoint(Path(trainer.default_root_dir) / "end.ckpt")


def declared(folder: Path, strategy: str, devices: int, model: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
    """The config of a run of two epochs."""
    keeper = {"dirpath": str(folder), "filename": "kept", "every_n_train_steps": 3}
    callbacks = [
        {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": keeper},
        f"{__name__}.Signal",
    ]
    trainer = {
        "accelerator": "cpu", "devices": devices, "strategy": strategy, "max_epochs": 2, "logger": False,
        "enable_progress_bar": False, "default_root_dir": str(folder), "callbacks": callbacks,
    }  # fmt: skip
    return {"seed_everything": 0, "trainer": trainer, "model": model, "data": data}


def classifier(rule: str, momentum: float = 0.9) -> tuple[dict[str, Any], dict[str, Any]]:
    """Model and data; 240 samples in batches of 20 over the ranks."""
    network = {"network": "mlp", "network_args": {"hidden": [24, 24, 24]}, "image_shape": [1, 8, 8]}
    optimizer = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.05, "momentum": momentum}}
    arguments = {**network, "rule": f"lit_fa.rules.{rule}", "optimizer": optimizer}
    return {"class_path": "lit_fa.modules.Classifier", "init_args": arguments}, synthetic(240)


def federation() -> tuple[dict[str, Any], dict[str, Any]]:
    """Model and data; four rounds an epoch."""
    network = {"network": "mlp", "network_args": {"hidden": [24]}, "image_shape": [1, 8, 8]}
    arguments = {**network, "rule": "lit_fa.rules.Backprop", "algorithm": "lit_fa.federated.Scaffold"}
    federated = {"data": synthetic(240), "clients": 8, "clients_per_round": 4, "rounds_per_epoch": 4}
    data = {"class_path": "datamodules.Federated", "init_args": federated | {"batch_size": 10}}
    return {"class_path": "lit_fa.modules.FederatedClassifier", "init_args": arguments}, data


def synthetic(samples: int) -> dict[str, Any]:
    """The data set."""
    shapes = {"n_train": samples, "n_test": 30, "image_shape": [1, 8, 8], "batch_size": 10}
    return {"class_path": "datamodules.Synthetic", "init_args": shapes | {"validation_is_test": "allow"}}


def run(folder: Path, config: dict[str, Any], signalled: str = "", signum: int = 0, *more: str) -> list[int | None]:
    """Exit codes of the ranks of a config; `said.K` in the folder is what rank K has printed."""
    folder.mkdir(exist_ok=True)
    (folder / "run.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    place |= {"SIGNALLED": signalled, "SIGNUM": str(int(signum))}
    words = ["fit", "--config", "run.yaml", *more]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.contract.training"])
    devices = config["trainer"]["devices"]
    ranks = [
        context.Process(target=_rank, args=(words, place | {"LOCAL_RANK": str(k)}, str(folder))) for k in range(devices)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(TIMEOUT)
    hanging = [k for k, process in enumerate(ranks) if process.is_alive()]
    for process in ranks:
        process.kill()
    assert not hanging, f"ranks {hanging} wait for ever"
    return [process.exitcode for process in ranks]


def _rank(words: list[str], environment: dict[str, str], folder: str) -> None:
    os.environ |= environment
    os.chdir(folder)
    with open(f"said.{environment['LOCAL_RANK']}", "w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.exit(main(words))

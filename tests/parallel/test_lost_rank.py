"""A stage that is gone ends the other one with one line, and the last checkpoint stays usable."""

import multiprocessing
import os
import signal
import socket
import sys
from pathlib import Path

import lightning as L
import pytest
import torch
import yaml

from lit_fa.__main__ import main


class Kill(L.Callback):
    """A signal to one rank at a step."""

    def on_train_batch_start(self, trainer: L.Trainer, *_: object) -> None:
        if trainer.global_step == 7 and trainer.global_rank == int(os.environ["KILLED"]):
            os.kill(os.getpid(), int(os.environ["SIGNUM"]))


def rank(words: list[str], environment: dict[str, str], folder: str) -> None:
    os.environ |= environment
    os.chdir(folder)
    with open(f"said.{environment['LOCAL_RANK']}", "w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 2)
    sys.exit(main(words))


def end(folder: Path, rule: str, killed: int, signum: int) -> list[int | None]:
    """Exit codes of two ranks, one of which gets a signal in its eighth step."""
    keeper = {"dirpath": str(folder), "filename": "kept", "every_n_train_steps": 5}
    run = {
        "trainer": {
            "accelerator": "cpu", "devices": 2, "max_epochs": 2, "enable_progress_bar": False, "logger": False,
            "strategy": "layer_parallel", "default_root_dir": str(folder),
            "callbacks": [
                {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": keeper},
                f"{__name__}.Kill",
            ],
        },
        "model": {
            "class_path": "lit_fa.modules.Classifier",
            "init_args": {
                "network": "mlp", "network_args": {"hidden": [32, 32]}, "image_shape": [1, 8, 8],
                "rule": f"lit_fa.rules.{rule}",
            },
        },
        "data": {
            "class_path": "datamodules.Synthetic",
            "init_args": {
                "n_train": 400, "n_test": 40, "image_shape": [1, 8, 8], "batch_size": 20, "validation_is_test": "allow",
            },
        },
    }  # fmt: skip
    (folder / "run.yaml").write_text(yaml.safe_dump(run), encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    place |= {"KILLED": str(killed), "SIGNUM": str(int(signum))}
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.contract.training"])
    words = ["fit", "--config", "run.yaml"]
    ranks = [context.Process(target=rank, args=(words, place | {"LOCAL_RANK": k}, str(folder))) for k in "01"]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
    return [process.exitcode for process in ranks]


@pytest.mark.slow  # two processes that build everything anew
@pytest.mark.parametrize("killed", [0, 1])
@pytest.mark.parametrize("rule", ["DirectFeedbackAlignment", "ForwardForward"])
def test_the_other_rank_ends_with_one_line_and_the_checkpoint_loads(
    rule: str, killed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    codes = end(tmp_path, rule, killed, signal.SIGKILL)
    assert (codes[killed], codes[1 - killed]) == (-signal.SIGKILL, 2)
    said = (tmp_path / f"said.{1 - killed}").read_text(encoding="utf-8")
    lines = [line for line in said.splitlines() if line.startswith("lit-fa: ")]
    assert len(lines) == 1
    assert "another rank of this run is gone; the last checkpoint stays usable" in lines[0]
    assert "Traceback" not in said
    monkeypatch.chdir(tmp_path)
    kept = torch.load(tmp_path / "kept.ckpt", weights_only=True)
    assert kept["global_step"] == 5
    assert main(["test", "--config", "run.yaml", "--ckpt_path", str(tmp_path / "kept.ckpt"), "--trainer.devices", "1",
                 "--trainer.strategy", "auto", "--trainer.callbacks", "[]"]) == 0  # fmt: skip


@pytest.mark.slow
def test_stages_stop_at_one_step_though_only_the_second_was_asked(tmp_path: Path):
    assert end(tmp_path, "DirectFeedbackAlignment", 1, signal.SIGTERM) == [143, 0]
    # every rank learns of it two batches later, so that no stage waits for another at every step
    assert torch.load(tmp_path / "interrupted.ckpt", weights_only=True)["global_step"] == 10

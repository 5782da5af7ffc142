"""`lit-fa export` from a checkpoint of `lit-fa fit`."""

import json
from pathlib import Path

import pytest
import torch

from lit_fa.__main__ import main
from lit_fa.deployment.files import run

CONFIG = """
seed_everything: 0
trainer: {max_epochs: 1, limit_train_batches: 4, limit_val_batches: 1, logger: false, accelerator: cpu}
model:
  class_path: Classifier
  init_args:
    network: mlp
    network_args: {hidden: [24]}
    rule: {class_path: %s}
data: {class_path: Digits, init_args: {batch_size: 32}}
"""


@pytest.fixture
def trained(tmp_path: Path, monkeypatch):
    """A config, and the checkpoint that its training leaves."""
    monkeypatch.chdir(tmp_path)

    def train(rule: str) -> tuple[Path, Path]:
        (tmp_path / "run.yaml").write_text(CONFIG % rule)
        folder = "--trainer.default_root_dir=" + str(tmp_path)
        assert main(["fit", "--config", "run.yaml", folder]) == 0
        return tmp_path / "run.yaml", next(tmp_path.rglob("*.ckpt"))

    return train


def test_a_trained_run_becomes_a_file_with_its_figures(trained, tmp_path: Path, capsys):
    config, checkpoint = trained("SVDSpaceAlignment")
    words = ["export", "--config", str(config), "--ckpt_path", str(checkpoint), "--json", "figures.json"]
    assert main([*words, "--output", "made.pt2"]) == 0
    assert "exported" in capsys.readouterr().out
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["largest_difference"] < 1e-5
    assert figures["dense"]["parameters"] == 64 * 24 + 24 + 24 * 10 + 10
    assert run(tmp_path / "made.pt2", torch.zeros(5, 1, 8, 8)).shape == (5, 10)


@pytest.mark.parametrize(
    ("rule", "change", "what"),
    [
        ("Backprop", {"--output": "made.h5"}, "made.h5: the file ends with .onnx or .pt2"),
        ("Backprop", {"--ckpt_path": "none.ckpt"}, "none.ckpt: there is no such file"),
        ("ForwardForward", {}, "ForwardForward predicts by more than the network's forward pass"),
    ],
)
def test_what_cannot_be_exported_is_one_line_and_exit_code_2(trained, capsys, rule, change, what):
    config, checkpoint = trained(rule)
    words = {"--config": str(config), "--ckpt_path": str(checkpoint), "--output": "made.pt2"} | change
    capsys.readouterr()
    assert main(["export", *(word for pair in words.items() for word in pair)]) == 2
    said = capsys.readouterr().err
    assert what in said
    assert said.count("\n") == 1

"""The committed config for GLUE runs from the command line, with an encoder and a tokenizer of a few words."""

import csv
import json
import os
from pathlib import Path

import pytest
import torch
import yaml

import lit_fa
from lit_fa.__main__ import main
from lit_fa.datamodules import GLUE
from lit_fa.deployment.files import run
from tests.texts import BERT, WORDS, write_task, write_tokenizer

BASE = Path(__file__).parents[2] / "paper_configs/fwm/glue_base.yaml"


@pytest.fixture
def arguments(tmp_path):
    """`lit-fa fit` arguments for the committed config: a tiny encoder, `changes` of its options by their last name."""

    def make(task: str = "CoLA", root: Path | None = None, **changes: object) -> list[str]:
        if root is None:
            write_task(root := tmp_path, task)
        data = {"task": task, "root": str(root), "cache": str(tmp_path / "cache"), "download": False, "max_length": 32}
        data |= {"tokenizer": write_tokenizer(tmp_path / "tokenizer"), "limit_train": 64, "limit_test": 40}
        network = {"network": "transformers/bert", "pretrained": False}
        network["network_args"] = BERT | {"vocab_size": len(WORDS), "max_positions": 32}
        config = yaml.safe_load(BASE.read_text())
        config["data"]["init_args"] |= data
        config["model"]["init_args"] |= network
        config["trainer"] |= {"max_epochs": 2, "accelerator": "cpu"}
        for name, value in changes.items():
            part = "data" if name in config["data"]["init_args"] else "model"
            config[part]["init_args"][name] = value
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump(config))
        return ["fit", "--config", str(path), "--json", str(tmp_path / "metrics.json")]

    return make


def metrics(tmp_path: Path) -> dict[str, float]:
    return json.loads((tmp_path / "metrics.json").read_text())


def refusal(capsys) -> str:
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_cola_is_fine_tuned_by_direct_feedback(arguments, tmp_path, capsys):
    real = Path(os.environ.get("LIT_FA_DATA") or "data")
    root = real if (real / "GLUE/CoLA/train.tsv").is_file() else None
    assert main(arguments(root=root)) == 0
    found = metrics(tmp_path)
    assert {"val/matthews", "val/accuracy", "val/loss", "train/loss_epoch", "train/accuracy"} <= found.keys()
    assert 0 <= found["val/accuracy"] <= 100
    assert -100 <= found["val/matthews"] <= 100


@pytest.mark.parametrize("stream", [False, True])
def test_a_score_is_learned_with_the_squared_error(arguments, tmp_path, stream):
    changes = {"criterion": "mse", "metrics": ["pearson", "spearman"], "stream": stream}
    assert main(arguments("STS-B", **changes)) == 0
    found = metrics(tmp_path)
    assert {"val/pearson", "val/spearman", "val/loss"} <= found.keys()
    assert "train/accuracy" not in found


@pytest.mark.parametrize(
    ("task", "changes", "columns"),
    [
        ("CoLA", {}, ["index", "target", "predicted", "logit_0", "logit_1"]),
        ("STS-B", {"criterion": "mse", "metrics": ["pearson"]}, ["index", "target", "predicted"]),
    ],
)
def test_texts_are_predicted_class_by_class_or_as_a_score(arguments, tmp_path, task, changes, columns):
    words = arguments(task, **changes)
    assert main([*words, "--trainer.enable_checkpointing=true", f"--trainer.default_root_dir={tmp_path}"]) == 0
    output, data = tmp_path / "out.csv", yaml.safe_load((tmp_path / "run.yaml").read_text())["data"]["init_args"]
    [checkpoint] = tmp_path.rglob("*.ckpt")
    assert main(["predict", *words[1:3], "--ckpt_path", str(checkpoint), "--output", str(output)]) == 0
    with output.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    texts = GLUE(**data)
    texts.setup()
    with torch.no_grad():
        expected = torch.cat([lit_fa.load(checkpoint)(inputs) for inputs, _ in texts.test_dataloader()])
    assert list(rows[0]) == columns
    assert torch.allclose(torch.tensor([float(row["target"]) for row in rows]), texts.test_set.labels.float())
    scores = torch.tensor([[float(row[name]) for name in columns[3:] or ["predicted"]] for row in rows])
    assert torch.allclose(scores, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"task": "COLA"}, "task='COLA' is not known; nearest: CoLA"),
        ({"metrics": ["pearson"]}, "metric pearson does not fit: the target is one of 2 classes"),
        ({"network_args": BERT | {"vocab_size": 9}}, "has 19 tokens and the network knows 9: take the tokenizer that"),
        ({"max_length": 64}, "transformers/bert takes texts of 32 tokens, and the data have 64: lower max_length"),
        ({"network": "resnet18", "network_args": {}}, "resnet18 reads images, and the data are (3, 32)"),
        (
            {"rule": {"class_path": "DirectFeedbackAlignment", "init_args": {"blocks": "macro"}}},
            "texts differ in length",
        ),
    ],
)
def test_a_mistake_is_one_line(arguments, capsys, changes, line):
    assert main(arguments(**changes)) == 2
    assert line in refusal(capsys)


def test_accuracy_of_a_score_is_refused(arguments, capsys):
    assert main(arguments("STS-B", criterion="mse", metrics=["accuracy"])) == 2
    assert "metric accuracy does not fit: the target is a number" in refusal(capsys)
    assert main(arguments("STS-B", metrics=["pearson"])) == 2
    assert "set criterion: mse" in refusal(capsys)


@pytest.mark.parametrize("ending", [pytest.param(kind, marks=pytest.mark.slow) for kind in ("onnx", "pt2")])
def test_a_fine_tuned_encoder_with_adapters_becomes_a_file_for_texts_of_any_length(arguments, tmp_path, ending):
    pytest.importorskip("onnxruntime" if ending == "onnx" else "torch")
    fit = arguments(adapter={"peft_type": "LORA", "r": 2, "target_modules": ["query", "dense"]})
    assert main([*fit, f"--trainer.default_root_dir={tmp_path}", "--trainer.enable_checkpointing=true"]) == 0
    checkpoint = next(tmp_path.rglob("*.ckpt"))
    words = ["export", "--config", str(tmp_path / "run.yaml"), "--ckpt_path", str(checkpoint)]
    written, figures = tmp_path / f"made.{ending}", tmp_path / "figures.json"
    assert main([*words, "--output", str(written), "--json", str(figures)]) == 0
    assert json.loads(figures.read_text())["largest_difference"] < 1e-5
    text = torch.ones(3, 3, 7, dtype=torch.int64)
    assert run(written, text).shape == (3, 2)
    assert torch.allclose(run(written, text)[:1], run(written, text[:1]), atol=1e-6)

"""`lit-fa predict` writes a row for every sample, in the order of the set, by the rule's own prediction."""

import csv
import sys
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

import lit_fa
from lit_fa.__main__ import main
from lit_fa.datamodules import Digits, Federated
from tests.cli.test_federated_command_line import RUN as FEDERATED
from tests.contract.training import ranks

DATA = {"flatten": True, "limit_train": 300, "limit_test": 45, "eval_batch_size": 20}
QUIET = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
RULE = {"class_path": "ForwardForward", "init_args": {"head": "none"}}
ARGS = {"network": "mlp", "network_args": {"hidden": [16, 16]}, "rule": RULE}


def fitted(folder: Path, model: dict, data: dict) -> list[str]:
    trainer = {"max_epochs": 1, "accelerator": "cpu", "default_root_dir": str(folder), **QUIET}
    config = folder / "run.yaml"
    config.write_text(yaml.safe_dump({"seed_everything": 0, "trainer": trainer, "model": model, "data": data}))
    assert main(["fit", "--config", str(config)]) == 0
    return ["--config", str(config), "--ckpt_path", str(next(folder.rglob("*.ckpt"))), "--weights_only", "false"]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> list[str]:
    model = {"class_path": "Classifier", "init_args": ARGS}
    return fitted(tmp_path_factory.mktemp("run"), model, {"class_path": "Digits", "init_args": DATA})


def read(path: Path) -> list[dict]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def expected(words: list[str], inputs: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return lit_fa.load(words[3])(inputs)


def logits(rows: list[dict]) -> torch.Tensor:
    return torch.tensor([[float(row[f"logit_{k}"]) for k in range(10)] for row in rows])


@pytest.mark.parametrize("split", ["test", "val", "train"])
def test_every_sample_of_a_split_has_its_row(split, run, tmp_path):
    output = tmp_path / "out.csv"
    assert main(["predict", *run, "--split", split, "--output", str(output), "--data.init_args.augment", "jitter"]) == 0
    data = Digits(**DATA)
    data.setup()
    samples = getattr(data, f"{split}_set")
    rows = read(output)
    assert [int(row["index"]) for row in rows] == list(range(len(samples)))
    assert [int(row["target"]) for row in rows] == samples.labels.tolist()
    assert torch.allclose(logits(rows), expected(run, samples.images), atol=1e-5)
    assert [int(row["predicted"]) for row in rows] == logits(rows).argmax(1).tolist()


def test_limits_and_ranks_write_one_file_in_order(run, tmp_path):
    output = tmp_path / "few.csv"
    assert main(["predict", *run, "--output", str(output), "--trainer.limit_predict_batches", "1"]) == 0
    assert len(read(output)) == 20
    two = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--output", str(tmp_path / "two.csv")]
    ranks(2).train({"words": ["predict", *run, *two]})
    rows = read(tmp_path / "two.csv")
    assert [int(row["index"]) for row in rows] == list(range(45))
    assert torch.allclose(logits(rows[:20]), logits(read(output)), atol=1e-5)


def test_ranks_are_started_with_all_words_of_the_command(run, tmp_path, monkeypatch):
    """Lightning starts a rank with `sys.argv`, so `--split` and `--output` have to be in it."""
    words = ["predict", *run, "--split", "val", "--output", str(tmp_path / "val.csv")]
    monkeypatch.setattr(sys, "argv", ["lit-fa", *words])
    assert main(words) == 0
    assert sys.argv == ["lit-fa", *words]


def test_a_folder_of_images_is_predicted_as_the_data_are_read(run, tmp_path):
    data = Digits()
    for number, image in enumerate(data.read("test").images[:3]):
        Image.fromarray(image[0].numpy()).save(tmp_path / f"{number}.png")
    output = tmp_path / "out.csv"
    assert main(["predict", *run, "--images", str(tmp_path), "--output", str(output)]) == 0
    data.setup()
    rows = read(output)
    assert [Path(row["file"]).name for row in rows] == ["0.png", "1.png", "2.png"]
    assert {row["target"] for row in rows} == {""}
    assert torch.allclose(logits(rows), expected(run, data.test_set.images[:3].flatten(1)), atol=1e-5)


def test_a_federation_predicts(tmp_path):
    words = fitted(tmp_path, FEDERATED["model"], FEDERATED["data"])
    output = tmp_path / "out.csv"
    assert main(["predict", *words, "--output", str(output)]) == 0
    data = Federated(Digits(flatten=True, limit_train=400), 10, 3)
    data.setup()
    assert torch.allclose(logits(read(output)), expected(words, data.data.test_set.images), atol=1e-5)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--output", "nowhere/out.csv"], "--output nowhere/out.csv: there is no folder nowhere"),
        (["--split", "all"], "--split is train, val or test, not 'all'"),
        (["--images", "nowhere"], "--images nowhere is no folder"),
        (["--images", ".", "--split", "val"], "--split and --images exclude each other"),
    ],
)
def test_what_cannot_be_written_or_read_is_said_before_the_work(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["predict", "--config", "not-even-read.yaml", *words]) == 2
    assert said in capsys.readouterr().err

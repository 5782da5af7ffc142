"""A federation in YAML: a mistake is one line and exit code 2; a run leaves its numbers."""

import json
import re
from pathlib import Path

import pytest
import yaml

from lit_fa.__main__ import main

RUN = {
    "seed_everything": 0,
    "trainer": {
        "max_epochs": 2,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    },
    "model": {
        "class_path": "FederatedClassifier",
        "init_args": {
            "network": "mlp",
            "network_args": {"hidden": [8]},
            "rule": {"class_path": "ForwardForward", "init_args": {"head": "none"}},
            "algorithm": {"class_path": "FedAvg"},
            "local_optimizer": {"class_path": "LocalSGD", "init_args": {"lr": 1.0}},
            "executor": "stacked",
        },
    },
    "data": {
        "class_path": "Federated",
        "init_args": {
            "data": {"class_path": "Digits", "init_args": {"flatten": True, "limit_train": 400}},
            "clients": 10,
            "clients_per_round": 3,
            "local_epochs": 1,
        },
    },
}


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(RUN))
    return str(path)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["model.algorithm=FedAvrage"], "no algorithm is called 'FedAvrage'; nearest: FedAvg"),
        (["model.algorithm=FedProx", "model.algorithm.init_args.mu=-1"], "FedProx: mu is at least 0, not -1"),
        (["model.local_optimizer.init_args.lr=-1"], "local learning rate is positive"),
        (["model.algorithm=Scaffold", "model.local_optimizer.init_args.momentum=0.9"], "use LocalSGD without momentum"),
        (["model.executor=ray"], "executor is one of sequential, vmap, stacked, auto, not 'ray'"),
        (["model.rule.init_args.peer=0.1"], "executor stacked: .*set executor: sequential or auto"),
        (["model.validate_every=0"], "validate_every is at least 1"),
        (["model.rule.init_args.position=60"], "10 labels from entry 60 on do not fit 64 inputs"),
        (["data.clients_per_round=11"], "there are 10 clients; sample 1 to 10"),
        (["data.clients=500"], "500 clients for 400 samples"),
        (["data.partition=shards", "data.clients=7"], "400 samples do not divide into 7 x 2"),
        (["data.partition=file"], "partition: file and partition_file go together"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_to_do(flags: list[str], said: str, config: str, capsys):
    words = [word for flag in flags for word in _option(*flag.split("="))]
    assert main(["fit", "--config", config, *words]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("lit-fa: ")
    assert re.search(said, line), line


def _option(key: str, value: str) -> list[str]:
    room, _, rest = key.partition(".")
    return [f"--{room}.init_args.{rest}", value]


def test_a_run_leaves_its_numbers_and_goes_on_from_its_checkpoint(config: str, tmp_path: Path):
    numbers = tmp_path / "numbers.json"
    keep = ["--trainer.enable_checkpointing", "true", "--trainer.default_root_dir", str(tmp_path)]
    assert main(["fit", "--config", config, *keep, "--json", str(numbers)]) == 0
    first = json.loads(numbers.read_text())
    assert {"val/accuracy", "val/loss", "train/loss", "train/accuracy", "train/local_lr"} <= first.keys()
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    more = ["--trainer.max_epochs", "3", "--ckpt_path", str(checkpoint), "--weights_only", "false"]
    assert main(["fit", "--config", config, *keep, *more, "--json", str(numbers)]) == 0
    assert json.loads(numbers.read_text()) != first

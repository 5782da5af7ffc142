"""A user's mistake is one line and exit code 2; a fault of ours, or --debug, is a traceback."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lit_fa.__main__ import main

RUN = {
    "seed_everything": 0,
    "trainer": {
        "max_epochs": 1,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    },
    "model": {
        "class_path": "Classifier",
        "init_args": {
            "network": "mlp",
            "network_args": {"hidden": [8]},
            "rule": {"class_path": "FeedbackAlignment", "init_args": {"source": {"class_path": "SignFeedback"}}},
            "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}},
        },
    },
    "data": {"class_path": "Digits", "init_args": {"batch_size": 128}},
}
RULE = "model.init_args.rule"


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(RUN))
    return str(path)


def last_line(capsys) -> str:
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("lit-fa: ")
    return line


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([f"--{RULE}", "FeedbackAlignmnt"], "no rule is called 'FeedbackAlignmnt'; nearest: FeedbackAlignment"),
        ([f"--{RULE}.init_args.source", "sing"], "not 'sing'; nearest: sign"),
        ([f"--{RULE}.init_args.source.init_args.variant", "xsf"], "variant is one of usf, brsf, frsf, not 'xsf'"),
        ([f"--{RULE}.init_args.source.init_args.scale", "0"], "scale is xavier, fan_in or a positive number"),
        ([f"--{RULE}", "DirectFeedbackAlignment", f"--{RULE}.scale", "-1"], "scale of feedback is a positive number"),
        ([f"--{RULE}.init_args.layers", "[head2]"], "no module matches 'head2'; nearest: head"),
        (["--model.init_args.network", "lenett"], "network 'lenett' is unknown to timm and to lit-fa; nearest: lenet"),
        (["--model.init_args.criterion", "mes"], "nearest: mse"),
        (["--model.init_args.stream", "true"], "has no block boundaries to stream; use stream: false"),
        (["--model.init_args.clip", "-1"], "clip is a positive bound or null, not -1"),
        (["--model.init_args.layer_lr", "{blocks.7.*: 0.1}"], "layer_lr: no module matches 'blocks.7.*'"),
        (["--data", "MNISTT"], "no data is called 'MNISTT'; nearest: MNIST"),
        (["--data.init_args.bach_size", "3"], "has no option 'bach_size'; nearest: batch_size"),
        (["--data.init_args.label_noise", "1.5"], "label_noise"),
        (["--trainer.max_epochs", "many"], "trainer.max_epochs"),
        (["--modl.x", "3"], "unrecognized arguments: --modl.x 3"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_to_do(config, capsys, flags, said):
    assert main(["fit", "--config", config, *flags]) == 2
    assert said in last_line(capsys)


def test_an_unknown_command_names_the_nearest(capsys):
    assert main(["fitt"]) == 2
    assert last_line(capsys) == "lit-fa: unknown command 'fitt'; nearest: fit, test, list"


def test_a_table_that_is_not_there_is_named(capsys, tmp_path):
    assert main(["table", "run", str(tmp_path / "none.yaml")]) == 2
    assert "none.yaml" in last_line(capsys)


def test_a_missing_data_root_says_how_to_set_one(config, capsys, tmp_path):
    flags = ["--data", "MNIST", "--data.init_args.root", str(tmp_path), "--data.init_args.download", "false"]
    assert main(["fit", "--config", config, *flags]) == 2
    assert "LIT_FA_DATA" in last_line(capsys)


def test_a_loss_that_is_not_finite_stops_with_step_and_layer(config, capsys):
    optimizer = ["--model.init_args.optimizer.init_args.lr", "1e30"]
    assert main(["fit", "--config", config, *optimizer]) == 2
    line = last_line(capsys)
    assert "at step" in line
    assert "blocks.0.linear" in line or "head" in line


@pytest.mark.slow  # a process that imports everything takes 13 s
def test_nothing_but_the_line_is_said_by_a_fresh_process(config):
    command = [sys.executable, "-m", "lit_fa", "fit", "--config", config, "--model.init_args.network", "lenett"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("lit-fa: network 'lenett' is unknown")


def test_debug_shows_the_traceback(config):
    with pytest.raises(ValueError, match="criterion is one of"):
        main(["fit", "--config", config, "--model.init_args.criterion", "mes", "--debug"])


def test_a_run_from_yaml_trains_and_leaves_its_metrics(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "--config", config, "--json", str(tmp_path / "metrics.json")]) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert 0 < metrics["val/accuracy"] <= 100
    assert {path.name for path in tmp_path.iterdir()} == {"run.yaml", "metrics.json"}


def test_json_without_a_file_says_so(config, capsys):
    assert main(["fit", "--config", config, "--json"]) == 2
    assert last_line(capsys) == "lit-fa: --json needs a file to write to"

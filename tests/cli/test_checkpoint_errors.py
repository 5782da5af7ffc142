"""Everything that can be wrong with a checkpoint is one line and exit code 2, in every command that takes one."""

import copy
from pathlib import Path

import pytest
import torch
import yaml

from lit_fa.__main__ import main
from tests.cli.test_command_line import RUN

KEEPER = {
    "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
    "init_args": {"dirpath": "kept", "filename": "a"},
}
FLOWER = ["flower", "--config", "federated.yaml", "--app", "app"]
EXPORT = ["export", "--config", "run.yaml", "--output", "x.pt2"]
COMMANDS = {name: [name, "--config", "run.yaml"] for name in ("fit", "test", "validate", "predict")} | {
    "export": EXPORT
}
MODEL = "--model.init_args"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a checkpoint of a run and things that are none."""
    place = tmp_path_factory.mktemp("checkpoints")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        Path("run.yaml").write_text(yaml.safe_dump(RUN), encoding="utf-8")
        kept = copy.deepcopy(RUN)
        kept["trainer"] |= {"enable_checkpointing": True, "callbacks": [KEEPER], "limit_train_batches": 1}
        Path("kept.yaml").write_text(yaml.safe_dump(kept), encoding="utf-8")
        federated = copy.deepcopy(RUN) | {
            "model": {"class_path": "FederatedClassifier", "init_args": {"network": "mlp"}}
        }
        federated["data"] = {"class_path": "Federated", "init_args": {"data": {"class_path": "Digits"}, "clients": 2}}
        federated["data"]["init_args"]["clients_per_round"] = 2
        Path("federated.yaml").write_text(yaml.safe_dump(federated), encoding="utf-8")
        assert main(["fit", "--config", "kept.yaml"]) == 0
        whole = Path("kept/a.ckpt").read_bytes()
    (place / "torn.ckpt").write_bytes(whole[: len(whole) // 2])
    (place / "empty.ckpt").write_bytes(b"")
    (place / "text.ckpt").write_text("hello", encoding="utf-8")
    (place / "folder.ckpt").mkdir()
    torch.save({"a": 1}, place / "another.ckpt")
    torch.save([1], place / "list.ckpt")
    return place


@pytest.fixture(autouse=True)
def there(folder, monkeypatch):
    monkeypatch.chdir(folder)


def said(capsys) -> str:
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("lit-fa: ")
    return line


@pytest.mark.parametrize(
    ("file", "wrong"),
    [
        ("missing.ckpt", "there is no such file"),
        ("folder.ckpt", "is a folder"),
        ("torn.ckpt", "empty, torn or no checkpoint"),
        ("empty.ckpt", "empty, torn or no checkpoint"),
        ("text.ckpt", "empty, torn or no checkpoint"),
        ("another.ckpt", "no checkpoint of lit-fa fit"),
        ("list.ckpt", "no checkpoint of lit-fa fit"),
    ],
)
@pytest.mark.parametrize("command", ["fit", "test", "export", "flower"])
def test_a_file_that_is_no_checkpoint_is_refused(command, file, wrong, capsys):
    words = FLOWER if command == "flower" else COMMANDS[command]
    assert main([*words, "--ckpt_path", file]) == 2
    assert f"--ckpt_path {file}: {wrong}" in said(capsys)


@pytest.mark.parametrize("word", ["best", "last", "hpc"])
@pytest.mark.parametrize("command", ["fit", "test", "validate"])
def test_a_word_for_a_checkpoint_is_refused_where_there_is_none(command, word, capsys):
    assert main([*COMMANDS[command], "--ckpt_path", word]) == 2
    assert f"--ckpt_path {word}: " in said(capsys)


@pytest.mark.parametrize("command", ["fit", "test", "export"])
@pytest.mark.parametrize(
    ("option", "value", "whose"),
    [("network_args.hidden", "[9]", "another network"), ("rule", "DirectFeedbackAlignment", "another rule")],
)
def test_weights_of_another_run_are_refused_with_what_differs(command, option, value, whose, capsys):
    assert main([*COMMANDS[command], "--ckpt_path", "kept/a.ckpt", f"{MODEL}.{option}", value]) == 2
    assert f"the weights are of {whose}" in said(capsys)


@pytest.mark.parametrize("optimizer", ["torch.optim.Adam", "torch.optim.RMSprop"])
def test_a_run_does_not_go_on_with_another_optimizer(optimizer, capsys):
    assert main([*COMMANDS["fit"], "--ckpt_path", "kept/a.ckpt", f"{MODEL}.optimizer", optimizer]) == 2
    assert "of another optimizer" in said(capsys)


def test_a_run_goes_on_from_its_own_checkpoint(capsys):
    assert main([*COMMANDS["fit"], "--ckpt_path", "kept/a.ckpt", "--trainer.max_epochs", "2"]) == 0

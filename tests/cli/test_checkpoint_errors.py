"""Everything that can be wrong with a checkpoint is one line and exit code 2, in every command that takes one."""

import copy
from pathlib import Path

import pytest
import torch
import yaml

from lit_fa.__main__ import main
from tests.checkpoint_attacks import BROKEN, malicious
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
    for kind in ("cut", "empty", "flipped"):
        (place / f"{kind}.ckpt").write_bytes(whole)
        BROKEN[kind](place / f"{kind}.ckpt")
    malicious(place / "evil.ckpt", place / "proof")
    (place / "link.ckpt").symlink_to("missing.ckpt")
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
        ("link.ckpt", "there is no such file"),
        ("cut.ckpt", "empty, torn or no checkpoint"),
        ("flipped.ckpt", "damaged, its bytes are not those that were written"),
        ("evil.ckpt", "it holds more than plain data (posix.mkdir), and reading that runs code"),
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
    assert not Path("proof").exists()


@pytest.mark.parametrize("address", ["file://{}/evil.ckpt", "http://127.0.0.1:9/a.ckpt", "nosuch://a.ckpt"])
def test_a_file_at_an_address_is_read_as_plain_data_or_refused(address, folder, capsys):
    assert main([*COMMANDS["fit"], "--ckpt_path", address.format(folder)]) == 2
    assert "cannot be fetched or read" in said(capsys)
    assert not Path("proof").exists()


def test_last_is_refused_where_the_trainer_keeps_checkpoints_but_has_none_yet(capsys):
    words = ["fit", "--config", "kept.yaml", "--trainer.callbacks.dirpath", "none"]
    assert main([*words, "--ckpt_path", "last"]) == 2
    assert "--ckpt_path last: there is none yet" in said(capsys)


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
    assert f"of {whose}" in said(capsys)


@pytest.mark.parametrize("optimizer", ["torch.optim.Adam", "torch.optim.RMSprop"])
def test_a_run_does_not_go_on_with_another_optimizer(optimizer, capsys):
    assert main([*COMMANDS["fit"], "--ckpt_path", "kept/a.ckpt", f"{MODEL}.optimizer", optimizer]) == 2
    assert "of another optimizer" in said(capsys)


@pytest.mark.parametrize(
    ("option", "value", "differs"),
    [
        ("model.init_args.rule.init_args.source.init_args.variant", "frsf", "another rule: rule.source.variant is usf"),
        ("model.init_args.optimizer.init_args.lr", "0.2", "another optimizer: optimizer.lr is 0.1 in it and 0.2 here"),
        ("model.init_args.optimizer.init_args.momentum", "0.9", "another optimizer: optimizer.momentum is 0.0"),
        ("model.init_args.clip", "1", "another run: clip is None in it and 1.0 here"),
        ("data.init_args.limit_train", "200", "other data: data samples is 1437 in it and 200 here"),
        ("data.init_args.label_noise", "0.5", "other data: data labels is "),
        ("data.init_args.normalize", "unit", "other data: data normalize is standard in it and unit here"),
    ],
)
def test_a_run_does_not_go_on_from_another_one(option, value, differs, capsys):
    """Their state dictionaries have the same names and shapes, so nothing else would tell them apart."""
    assert main([*COMMANDS["fit"], "--ckpt_path", "kept/a.ckpt", f"--{option}", value]) == 2
    assert f"the checkpoint is of {differs}" in said(capsys)


def test_direct_feedback_of_the_error_does_not_go_on_with_that_of_the_target(tmp_path, capsys):
    words = ["fit", "--config", "kept.yaml", f"{MODEL}.rule", "DirectFeedbackAlignment"]
    assert main([*words, "--trainer.callbacks.dirpath", str(tmp_path)]) == 0
    words = [*COMMANDS["fit"], f"{MODEL}.rule", "DirectFeedbackAlignment", f"{MODEL}.rule.teacher", "target"]
    assert main([*words, "--ckpt_path", str(tmp_path / "a.ckpt")]) == 2
    assert "the checkpoint is of another rule: rule.teacher is error in it and target here" in said(capsys)


@pytest.mark.parametrize(
    "words",
    [
        ["--model.init_args.metrics", "[f1]"],
        ["--data.init_args.batch_size", "64"],
        ["--trainer.log_every_n_steps", "1"],
        ["--model.init_args.rule.init_args.backend", "detour"],
    ],
)
def test_what_decides_no_update_may_change(words, capsys):
    assert main([*COMMANDS["fit"], "--ckpt_path", "kept/a.ckpt", "--trainer.max_epochs", "2", *words]) == 0


def test_a_run_goes_on_from_its_own_checkpoint(capsys):
    assert main([*COMMANDS["fit"], "--ckpt_path", "kept/a.ckpt", "--trainer.max_epochs", "2"]) == 0

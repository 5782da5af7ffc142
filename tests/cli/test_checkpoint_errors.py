"""Everything that can be wrong with a checkpoint is one line and exit code 2, in every command that takes one."""

import copy
from pathlib import Path

import pytest
import torch
import yaml

from lit_fa import load
from lit_fa.__main__ import main
from lit_fa.checkpoints.resume import checked
from lit_fa.errors import UserError
from lit_fa.networks.weights import read_weights
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


MAPPING = {"a": 1}
ENTRIES = {
    "state_dict": ([1], None, {1: torch.ones(2)}, {"a": "text"}),
    "pytorch-lightning_version": (3, "abc", None),
    "optimizer_states": ("abc", [3], [MAPPING], [{"state": {}, "param_groups": []}]),
    "lr_schedulers": ("abc", [3]),
    "loops": ("abc", [3], {"fit_loop": 3}),
    "callbacks": ("abc", [3]),
    "constructor": ("abc", [3], {"class_path": 3, "init_args": {}}, {"class_path": "a.B", "init_args": [3]}),
    "epoch": ("abc",),
    "global_step": (None,),
    "plateau": (3,),
    "lit_fa": (3, [3]),
}


def edited(**entries: object) -> dict:
    """The content of the run's checkpoint with other entries; those that are `...` are left out."""
    content = torch.load("kept/a.ckpt", weights_only=True) | entries
    return {name: value for name, value in content.items() if value is not ...}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in ENTRIES.items() for value in values])
def test_an_entry_of_another_kind_is_named(name, value):
    torch.save(edited(**{name: value}), "edited.ckpt")
    with pytest.raises(UserError, match=rf"edited.ckpt: no checkpoint of lit-fa fit \({name} is of another kind\)"):
        checked("edited.ckpt")
    with pytest.raises(UserError, match=f"{name} is of another kind"):
        load("edited.ckpt")


@pytest.mark.parametrize("command", ["fit", "test", "export", "flower"])
def test_every_command_refuses_an_entry_of_another_kind(command, capsys):
    torch.save(edited(state_dict=[1]), "edited.ckpt")
    words = FLOWER if command == "flower" else COMMANDS[command]
    assert main([*words, "--ckpt_path", "edited.ckpt"]) == 2
    assert "no checkpoint of lit-fa fit (state_dict is of another kind)" in said(capsys)


@pytest.mark.parametrize("value", ENTRIES["state_dict"])
def test_weights_of_another_kind_are_refused(value):
    torch.save({"state_dict": value}, "edited.ckpt")
    with pytest.raises(UserError, match=r"weights edited\.ckpt contain no tensors"):
        read_weights("edited.ckpt")


@pytest.mark.parametrize(
    ("entries", "wrong"),
    [
        ({"optimizer_states": ..., "lr_schedulers": ..., "callbacks": ...}, "no optimizer_states, lr_schedulers, as"),
        ({"optimizer_states": ...}, "no optimizer_states, as with save_weights_only"),
        ({"loops": ...}, "no loops, as with save_weights_only"),
        ({"loops": {}}, "no loops, as with save_weights_only"),
        ({"optimizer_states": []}, "of 0 optimizers, and this run has one"),
        ({"pytorch-lightning_version": "0.1.0"}, "of another version of Lightning and cannot be migrated"),
    ],
)
def test_a_fit_does_not_go_on_from_weights_alone(entries, wrong, capsys):
    torch.save(edited(**entries), "edited.ckpt")
    assert main([*COMMANDS["fit"], "--ckpt_path", "edited.ckpt", "--trainer.max_epochs", "2"]) == 2
    assert wrong in said(capsys)


def test_a_checkpoint_with_weights_alone_is_tested_and_exported(capsys):
    torch.save(edited(optimizer_states=..., lr_schedulers=..., callbacks=...), "edited.ckpt")
    assert main([*COMMANDS["test"], "--ckpt_path", "edited.ckpt"]) == 0
    assert "test/accuracy" in capsys.readouterr().out


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

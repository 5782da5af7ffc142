"""A trained network at a model hub, which stands on this machine, and the same network back from there."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
import yaml

import lit_fa
from lit_fa.__main__ import main
from lit_fa.hub.card import card, result
from lit_fa.results.records import odd_fields
from lit_fa.spec.overrides import run_id
from tests.cli.test_command_line import RUN
from tests.hub.hub_server import TOKEN, serving

FILES = {"README.md", "config.json", "model.safetensors", "record.json"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """The folder of a run: its record and its checkpoints."""
    folder, before = tmp_path_factory.mktemp("trained"), Path.cwd()
    trainer = RUN["trainer"] | {"logger": True, "enable_checkpointing": True}
    (folder / "run.yaml").write_text(yaml.safe_dump(RUN | {"trainer": trainer}), encoding="utf-8")
    os.chdir(folder)
    try:
        assert main(["fit", "--config", "run.yaml", "--logger", "csv"]) == 0
    finally:
        os.chdir(before)
    return folder / "lightning_logs/version_0"


@pytest.fixture
def run(trained, tmp_path, monkeypatch) -> Path:
    """A copy of it, and no token."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "no_token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained, tmp_path / "run")
    return Path("run")


@pytest.fixture
def hub(monkeypatch):
    with serving() as hub:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


def pushed(*words: object) -> int:
    return main(["push", *map(str, words)])


def refusal(capsys, *words: object) -> str:
    assert pushed(*words) == 2
    said = capsys.readouterr()
    assert TOKEN not in said.out + said.err
    lines = said.err.strip().splitlines()
    assert len(lines) == 1
    return lines[0].removeprefix("lit-fa: ")


def test_the_folder_is_read_back_with_the_same_predictions(run):
    assert pushed(run, "--repo", "me/digits", "--dry-run") == 0
    assert {file.name for file in Path("digits-pushed").iterdir()} == FILES
    before, after = lit_fa.load(run), lit_fa.load("digits-pushed")
    images = torch.rand(5, 1, 8, 8)
    assert torch.equal(before(images), after(images))
    assert not after.training
    assert after.state_dict().keys() == before.state_dict().keys()
    assert repr(after.rule) == repr(before.rule)


def test_the_hub_gets_the_files_and_the_record_the_digest(run, hub, capsys):
    before = json.loads((run / "record.json").read_text())
    assert pushed(run / "record.json", "--repo", "me/digits", "--endpoint", hub.url) == 0
    files = hub.files["me/digits"]
    digest = hashlib.sha256(files["model.safetensors"]).hexdigest()
    after = json.loads((run / "record.json").read_text())
    assert files.keys() == FILES
    assert after == before | {"pushed": [{"repo": "me/digits", "file": "model.safetensors", "sha256": digest}]}
    assert json.loads(files["record.json"]) == after
    said = capsys.readouterr().out
    assert f"{hub.url}/me/digits: model.safetensors sha256 {digest}" in said
    assert TOKEN not in said


def test_the_note_changes_neither_the_id_nor_what_reads_records(run, hub, capsys):
    pushed(run, "--repo", "me/digits", "--endpoint", hub.url)
    record = json.loads((run / "record.json").read_text())
    assert run_id(record["config"]) == run_id(json.loads(hub.files["me/digits"]["record.json"])["config"])
    assert odd_fields(record) == []
    capsys.readouterr()
    assert main(["runs", str(run)]) == 0
    assert "FeedbackAlignment" in capsys.readouterr().out or record["id"]


def test_weights_that_are_there_are_replaced_only_when_asked(run, hub, capsys):
    assert pushed(run, "--repo", "me/digits", "--endpoint", hub.url) == 0
    capsys.readouterr()
    said = refusal(capsys, run, "--repo", "me/digits", "--endpoint", hub.url)
    assert said == "me/digits has model.safetensors already: give --overwrite, or another --repo"
    assert pushed(run, "--repo", "me/digits", "--endpoint", hub.url, "--overwrite") == 0
    assert len(json.loads((run / "record.json").read_text())["pushed"]) == 1


def test_a_checkpoint_finds_its_record(run, hub):
    (file,) = run.rglob("*.ckpt")
    assert pushed(file, "--repo", "me/digits", "--endpoint", hub.url, "--private") == 0
    assert hub.files["me/digits"].keys() == FILES
    assert hub.private["me/digits"]


def test_without_a_token_it_is_one_line(run, capsys):
    assert "there is no token; set HF_TOKEN or run hf auth login" in refusal(capsys, run, "--repo", "me/digits")


@pytest.mark.parametrize(("status", "said"), [(403, "refuses me/digits (403)"), (500, "has answered 500")])
def test_a_hub_that_refuses_is_one_line_and_the_record_stays(run, hub, capsys, status, said):
    before, hub.refuses = (run / "record.json").read_bytes(), status
    assert said in refusal(capsys, run, "--repo", "me/digits", "--endpoint", hub.url)
    assert (run / "record.json").read_bytes() == before


def test_a_wrong_token_is_one_line(run, hub, capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "refuses me/digits (401)" in refusal(capsys, run, "--repo", "me/digits", "--endpoint", hub.url)


def test_a_network_that_is_away_is_one_line(run, hub, capsys):
    away = "http://127.0.0.1:9"
    assert f"{away} cannot be reached" in refusal(capsys, run, "--repo", "me/digits", "--endpoint", away)


def test_offline_mode_is_one_line(run, hub, capsys, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in refusal(capsys, run, "--repo", "me/digits", "--endpoint", hub.url)


@pytest.mark.parametrize("repo", ["digits", "me/dig its", "a/b/c"])
def test_a_name_that_no_repository_has_is_one_line(run, hub, capsys, repo):
    assert refusal(capsys, run, "--repo", repo).startswith(f"--repo {repo}: ")


def test_what_is_missing_is_one_line(run, capsys):
    words = ("--repo", "me/digits", "--dry-run")
    Path("alone").mkdir()
    shutil.copy(run / "record.json", "alone/record.json")
    assert "alone holds no checkpoint" in refusal(capsys, "alone/record.json", *words)
    (file,) = run.rglob("*.ckpt")
    shutil.copy(file, "bare.ckpt")
    assert "there is no record (record.json) there" in refusal(capsys, "bare.ckpt", *words)
    assert pushed("alone/record.json", "--ckpt_path", "bare.ckpt", *words) == 0
    assert "digits-pushed is not empty" in refusal(capsys, "alone/record.json", "--ckpt_path", "bare.ckpt", *words)


def test_the_checkpoint_of_another_rule_is_refused(run, capsys):
    record = json.loads((run / "record.json").read_text())
    record["config"]["model"]["init_args"]["rule"] = {"class_path": "Backprop", "init_args": {}}
    (run / "record.json").write_text(json.dumps(record))
    said = refusal(capsys, run, "--repo", "me/digits", "--dry-run")
    assert "is of FeedbackAlignment, and the record is of Backprop" in said


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_folder_that_is_damaged_is_one_line(run, name):
    pushed(run, "--repo", "me/digits", "--dry-run")
    Path("digits-pushed", name).write_text("{}")
    with pytest.raises(lit_fa.UserError) as told:
        lit_fa.load("digits-pushed")
    assert len(str(told.value).splitlines()) == 1


RECORD = {
    "config": {
        "model": {"init_args": {"rule": {"class_path": "lit_fa.FeedbackAlignment"}, "network": "mlp"}},
        "data": "Digits",
    },
    "metrics": {"test/accuracy": 90.0, "val/accuracy": 80.0},
    "dataset": {"name": "Digits", "licence": "CC BY 4.0", "sha256": "ab"},
    "scale": "full",
    "seed": 3,
    "commit": "c" * 40,
    "hardware": {"cpu": "AMD", "gpu": None},
}


def test_the_card_says_what_was_trained_and_how_it_is_loaded():
    text = card(RECORD, [], "me/digits", "d" * 64, "mit")
    front = yaml.safe_load(text.split("---")[1])
    assert (front["library_name"], front["license"], "FeedbackAlignment" in front["tags"]) == ("lit-fa", "mit", True)
    for said in ("FeedbackAlignment()", "CC BY 4.0", "full", "c" * 12, "cpu AMD", "d" * 64, "n = 1"):
        assert said in text
    assert 'lit_fa.load(snapshot_download("me/digits"))' in text


def test_backpropagation_is_not_tagged_as_learning_without_it():
    plain = {"model": {"init_args": {"network": "mlp"}}, "data": "Digits"}
    front = [yaml.safe_load(card({"config": c}, [], "a/b", "d").split("---")[1]) for c in (plain, RECORD["config"])]
    assert ["learning-without-backpropagation" in each["tags"] for each in front] == [False, True]


def test_the_metric_has_its_number_of_seeds():
    assert result(RECORD, []).startswith("test/accuracy 90 %; one seed (n = 1)")
    others = [{"metrics": {"test/accuracy": value}} for value in (92.0, 88.0)]
    assert result(RECORD, others) == "test/accuracy 90 %; over n = 3 seeds mean 90 %, from 88 to 92"


def test_a_text_of_a_record_is_no_markup():
    text = card(RECORD | {"hardware": {"cpu": "a | <script>\n## b"}}, [], "me/digits", "d")
    assert "<script>" not in text
    assert "\n## b" not in text

"""A run that starts from another: trained once, found by all who ask for the same."""

import copy
import json

import pytest
import torch
import yaml

from lit_fa import pretraining
from lit_fa.__main__ import main
from lit_fa.errors import UserError
from lit_fa.experiment import build, run
from tests.checkpoint_attacks import BROKEN, malicious
from tests.cli.test_command_line import RUN

SOURCE = copy.deepcopy(RUN)
SOURCE["data"]["init_args"]["classes"] = 6
SOURCE["model"]["init_args"] |= {"rule": {"class_path": "Backprop"}}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LIT_FA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "pretrained"


def weights(config: dict) -> dict[str, torch.Tensor]:
    return build(copy.deepcopy(config)).model.network.state_dict()


def test_a_run_starts_from_the_weights_that_its_pretraining_ends_with(cache):
    network = run(copy.deepcopy(SOURCE), {"path": str(cache / "literal.json"), "id": "literal"})
    started = weights(RUN | {"pretrain": SOURCE})
    ended = network.state_dict()
    hidden = [name for name in started if started[name].shape == ended[name].shape]
    assert len(hidden) == 2
    assert all(torch.equal(started[name], ended[name]) for name in hidden)
    assert not any(torch.equal(weights(RUN)[name], ended[name]) for name in hidden)


def test_a_second_run_trains_nothing_and_is_the_same(cache, monkeypatch):
    config = RUN | {"pretrain": SOURCE}
    first = weights(config)
    monkeypatch.setattr("lit_fa.experiment.run", lambda *_: pytest.fail("trained again"))
    second = weights(config | {"pretrain": SOURCE | {"trainer": SOURCE["trainer"] | {"enable_progress_bar": True}}})
    assert all(torch.equal(first[name], second[name]) for name in first)  # the fresh read-out too
    (record,) = cache.glob("*.json")
    assert json.loads(record.read_text())["status"] == "finished"


def test_another_pretraining_is_another_file(cache):
    weights(RUN | {"pretrain": SOURCE})
    weights(RUN | {"pretrain": SOURCE | {"seed_everything": 1}})
    assert len([*cache.glob("*.pt")]) == 2


def test_what_was_cut_off_is_not_taken_for_weights(cache, monkeypatch):
    def cut_off(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("lit_fa.experiment.run", cut_off)
    with pytest.raises(KeyboardInterrupt):
        weights(RUN | {"pretrain": SOURCE})
    assert not [*cache.glob("*.pt")]


@pytest.mark.parametrize("kind", ["cut", "flipped", "text", "malicious"])
def test_weights_that_cannot_be_read_are_renamed_and_trained_again(cache, tmp_path, kind, caplog):
    whole = weights(RUN | {"pretrain": SOURCE})
    (file,) = cache.glob("*.pt")
    malicious(file, tmp_path / "proof") if kind == "malicious" else BROKEN[kind](file)
    again = weights(RUN | {"pretrain": SOURCE})
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert file.with_name(f"{file.name}.unreadable").is_file()
    assert "the run begins afresh" in caplog.text
    assert not (tmp_path / "proof").exists()


def test_weights_of_other_code_are_trained_again(cache, monkeypatch):
    weights(RUN | {"pretrain": SOURCE})
    monkeypatch.setattr("lit_fa.pretraining.sources", lambda: "changed")
    weights(RUN | {"pretrain": SOURCE})
    assert len([*cache.glob("*.pt")]) == 2


def test_a_run_that_skips_it_starts_from_scratch(cache):
    skipped = weights(RUN | {"pretrain": SOURCE | {"skip": True}})
    assert all(torch.equal(t, skipped[name]) for name, t in weights(RUN).items())
    assert not cache.exists()


def test_the_command_line_takes_it_from_a_file(tmp_path, cache, capsys):
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(RUN | {"pretrain": SOURCE}))
    assert main(["fit", "--config", str(path)]) == 0
    assert len([*cache.glob("*.pt")]) == 1


def test_half_a_config_is_refused(cache):
    with pytest.raises(UserError, match="pretrain: data missing"):
        pretraining.pretrained({"trainer": {}, "model": {}})


def test_pretraining_that_diverges_is_refused_and_leaves_no_weights(cache):
    wild = copy.deepcopy(SOURCE)
    wild["model"]["init_args"]["optimizer"] = {"class_path": "torch.optim.SGD", "init_args": {"lr": 1e30}}
    with pytest.raises(
        UserError, match=r"pretraining diverged at step \d+ \(the output of .*lower the rate of pretrain"
    ):
        weights(RUN | {"pretrain": wild})
    assert not [*cache.glob("*.pt")]


def test_a_record_names_the_code_that_its_weights_come_from(cache, tmp_path):
    path = tmp_path / "r.json"
    run(copy.deepcopy(RUN | {"pretrain": SOURCE}), {"path": str(path), "id": "a"})
    record = json.loads(path.read_text(encoding="utf-8"))
    (source,) = cache.glob("*.json")
    assert source.stem.startswith(f"{record['pretrained']['id']}-")
    assert record["pretrained"]["commit"] == record["commit"]
    assert record["pretrained"]["digest"] == pretraining.digest_of(source.with_suffix(".pt"))
    assert "weights" not in record["config"]["model"]["init_args"]  # a file of this machine
    assert record["config"]["pretrain"]["data"] == SOURCE["data"]


def test_a_diverged_run_of_a_table_ends_with_its_record_and_without_a_checkpoint(tmp_path):
    wild = copy.deepcopy(RUN)
    wild["model"]["init_args"]["optimizer"] = {"class_path": "torch.optim.SGD", "init_args": {"lr": 1e30}}
    path = tmp_path / "r.json"
    run(wild, {"path": str(path), "id": "a", "seed": 0})
    record = json.loads(path.read_text(encoding="utf-8"))
    assert record["status"] == "diverged"
    assert record["config"]["model"]["init_args"]["optimizer"]["init_args"]["lr"] == 1e30
    assert record["config"]["trainer"]["max_epochs"] == RUN["trainer"]["max_epochs"]
    assert [file.name for file in tmp_path.iterdir()] == ["r.json"]

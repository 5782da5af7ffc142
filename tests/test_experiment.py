"""`build`, `run` and `load`: what every command, and a notebook, calls."""

import copy
import json
import sys

import pytest
import torch
import yaml

import lit_fa
from lit_fa import experiment
from lit_fa.errors import UserError
from lit_fa.experiment import build, run
from lit_fa.jobs.pool import DEFAULT_RUNNER
from lit_fa.jobs.worker import load_runner

CONFIG = {
    "seed_everything": 3,
    "trainer": {
        "accelerator": "cpu",
        "max_epochs": 1,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    },
    "model": {
        "class_path": "lit_fa.modules.Classifier",
        "init_args": {"network": "mlp", "network_args": {"hidden": [8]}, "rule": "FeedbackAlignment"},
    },
    "data": {"class_path": "datamodules.Digits", "init_args": {"limit_train": 200}},
}


def test_a_dictionary_a_file_and_words_build_the_same(tmp_path, monkeypatch, recwarn):
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(CONFIG), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["notebook", "-f", "kernel.json"])
    given = copy.deepcopy(CONFIG)
    configs = [given, file, str(file), ["--config", str(file)]]
    built = [build(config) for config in configs]
    assert given == CONFIG
    assert sys.argv == ["notebook", "-f", "kernel.json"]
    assert not [w for w in recwarn if "args parameter" in str(w.message)]
    states = [model.state_dict() for _, model, _ in built]
    for state in states[1:]:
        assert all(torch.equal(state[name], value) for name, value in states[0].items())
    assert len({json.dumps(made.cli.written(), sort_keys=True) for made in built}) == 1


def test_what_is_built_can_be_fitted_and_loaded(tmp_path):
    trainer, model, data = build(CONFIG)
    trainer.fit(model, data)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    loaded = lit_fa.load(tmp_path / "a.ckpt")
    images = data.test_set.images[:8]
    assert torch.equal(loaded(images), model.eval()(images))
    assert experiment.load is lit_fa.load


def test_a_run_leaves_its_record_and_calls_observers(tmp_path):
    class Counted(torch.nn.Module, experiment.L.Callback):
        steps = 0

        def on_train_batch_end(self, *_):
            self.steps += 1

    path, seen = tmp_path / "r.json", Counted()
    network = run(CONFIG, {"path": str(path), "id": "a", "seed": 3}, [seen])
    record = json.loads(path.read_text())
    assert (record["id"], record["seed"], record["status"]) == ("a", 3, "finished")
    assert seen.steps == 2
    assert all(torch.isfinite(p).all() for p in network.parameters())


def test_what_is_wrong_with_a_config_is_one_line():
    wrong = copy.deepcopy(CONFIG)
    wrong["model"]["init_args"]["rule"] = "FeedbackAlignmnt"
    with pytest.raises(UserError, match=r"^unknown rule 'FeedbackAlignmnt'; nearest: FeedbackAlignment"):
        build(wrong)
    with pytest.raises(UserError, match=r"there is no file .*nowhere\.yaml"):
        build("nowhere.yaml")


def test_the_pool_runs_it():
    assert load_runner(DEFAULT_RUNNER) is run


def test_a_record_names_every_class_by_its_package():
    config = copy.deepcopy(CONFIG)
    config["model"] = {
        "class_path": "FederatedClassifier",
        "init_args": {
            "network": "mlp",
            "optimizer": {"class_path": "lit_fa.FedAdam", "init_args": {"lr": 0.01}},
            "local_optimizer": "LocalSGD",
            "rule": "SVDBackprop",
        },
    }
    config["data"] = {"class_path": "datamodules.Federated", "init_args": {"data": "Digits", "clients": 10}}
    options = build(config).cli.recorded()["model"]["init_args"]
    assert options["optimizer"]["class_path"] == "lit_fa.federated.FedAdam"
    assert options["local_optimizer"]["class_path"] == "lit_fa.federated.LocalSGD"
    assert options["rule"]["class_path"] == "lit_fa.rules.SVDBackprop"

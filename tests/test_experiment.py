"""`build`, `run` and `load`: what every command, and a notebook, calls."""

import copy
import gc
import json
import sys
import weakref

import pytest
import torch
import yaml

import lit_fa
from lit_fa import experiment
from lit_fa.config import cli as command_line
from lit_fa.errors import UserError
from lit_fa.experiment import build, run
from lit_fa.jobs.pool import DEFAULT_RUNNER
from lit_fa.jobs.worker import load_runner
from lit_fa.spec.protocol import Stopping, converge

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
RICH = {
    "seed_everything": 7,
    "trainer": {
        "logger": {"class_path": "CSVLogger", "init_args": {"save_dir": "logs", "name": "a"}},
        "callbacks": [
            {"class_path": "Timer", "init_args": {"duration": {"hours": 1}}},  # whose interval is an enumeration
            {"class_path": "EarlyStopping", "init_args": {"monitor": "train/loss"}},
        ],
        "precision": "64-true",
        "limit_train_batches": 1,
        "max_steps": 5,
    },
    "model": {
        "class_path": "lit_fa.modules.Classifier",
        "init_args": {
            "network": "mlp",
            "network_args": {"hidden": [8, 4], "activation": "tanh"},
            "rule": {"class_path": "FeedbackAlignment", "init_args": {"source": "sign"}},
            "optimizer": {"class_path": "torch.optim.Adam", "init_args": {"betas": [0.5, 0.9]}},
        },
    },
    "data": {"class_path": "datamodules.Synthetic", "init_args": {"image_shape": [1, 4, 4], "num_classes": 3}},
}


class Widened(experiment.L.LightningModule):
    """A module of a user, which keeps its options as Lightning offers."""

    def __init__(self, width: int, scales: dict | None = None):
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Linear(width, 1)


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


def test_a_config_is_read_as_if_it_were_the_first_of_its_process():
    def read(config):
        cli = build(copy.deepcopy(config)).cli
        return json.dumps([cli.written(), cli.config_dump, cli.parser.dump(cli.config)], sort_keys=True)

    def alone(config):
        vars(command_line._built).clear()
        return read(config)

    first, second = alone(CONFIG), alone(RICH)
    assert first != second
    wrong = {**RICH, "data": {"class_path": "datamodules.Digits", "init_args": {"val_size": "many"}}}
    for config, expected in ((CONFIG, first), (RICH, second), (wrong, None), (CONFIG, first), (RICH, second)):
        if expected is None:
            with pytest.raises(UserError):
                build(wrong)
        else:
            assert read(config) == expected


def test_the_plain_config_is_what_a_loader_reads_from_its_text():
    cli = build(RICH).cli
    options = {"skip_link_targets": False, "skip_unset": False}
    assert cli.config_dump == cli.parser.plain(cli.config, **options)
    assert cli.config_dump == yaml.safe_load(cli.parser.dump(cli.config, format="yaml", **options))
    assert cli.config_dump["trainer"]["callbacks"][0]["init_args"]["interval"] == "step"


def test_a_module_keeps_its_own_options_and_nothing_keeps_the_module():
    built = [
        build({**CONFIG, "model": {"class_path": f"{__name__}.Widened", "init_args": {"width": width, **more}}}).model
        for width, more in ((3, {"scales": {0: 0.5}}), (4, {}))
    ]
    assert [dict(model.hparams)["width"] for model in built] == [3, 4]
    assert [model.hparams["scales"] for model in built] == [{0: 0.5}, None]
    kept = weakref.ref(built.pop())
    gc.collect()
    assert kept() is None


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
    assert (record["dataset"]["name"], record["dataset"]["licence"]) == ("Digits", "CC BY 4.0")
    assert len(record["dataset"]["sha256"]) == 64
    assert all(torch.isfinite(p).all() for p in network.parameters())


def test_a_run_leaves_no_checkpoint_in_the_current_folder_unless_its_config_names_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = copy.deepcopy(CONFIG)
    del config["trainer"]["enable_checkpointing"]
    run(config, {"path": "a/r.json", "id": "a"}, test=False)
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "r.json"]
    config["trainer"]["callbacks"] = [{"class_path": "ModelCheckpoint", "init_args": {"filename": "mine"}}]
    run(config, {"path": "b/r.json", "id": "b"}, test=False)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["mine.ckpt"]


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


def test_a_converged_run_ends_when_held_out_data_no_longer_improve(tmp_path):
    config, by = copy.deepcopy(CONFIG), {"monitor": "val/loss", "mode": "min"}
    config["trainer"]["max_epochs"] = 40
    config["model"]["init_args"]["optimizer"] = {"class_path": "torch.optim.SGD", "init_args": {"lr": 1.5}}
    converge(config, Stopping(patience=3, held_out=100), by, "table")
    run(config, {"path": str(tmp_path / "r.json"), "id": "a", "seed": 3})
    record = json.loads((tmp_path / "r.json").read_text())
    losses = [value for *_, value in record["curves"]["val/loss"]]
    assert len(losses) == losses.index(min(losses)) + 1 + 3 < 40
    assert record["validation_is_test"] is False
    assert record["metrics"]["best_validation/test/loss"] != record["metrics"]["test/loss"]

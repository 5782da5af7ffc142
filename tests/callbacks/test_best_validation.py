"""The weights that were best on held-out data are tested beside the final ones."""

import copy
import json

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint

import lit_fa
from lit_fa.callbacks import BestValidation, MeasurementError
from lit_fa.datamodules import DataError
from lit_fa.errors import UserError
from lit_fa.experiment import build, run

EPOCHS = 4
BEST = {"class_path": "callbacks.BestValidation", "init_args": {"monitor": "val/accuracy"}}
PRUNED = {"class_path": "SVDBackprop", "init_args": {"pruning": {"every": 1, "after": 0.3, "floor": 2, "energy": 0.6}}}
QUIET = {
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
    "num_sanity_val_steps": 0,
}


def config(rule="FeedbackAlignment", *, federated=False, **changes) -> dict:
    """A run whose rate rises, so that its best validation is not its last."""
    digits = {"class_path": "datamodules.Digits", "init_args": {"limit_train": 300, "val_size": 200}}
    model = {"network": "mlp", "network_args": {"hidden": [16]}, "rule": rule}
    if federated:
        data = {"class_path": "datamodules.Federated", "init_args": {"data": digits, "clients": 4, "batch_size": 10}}
        data["init_args"] |= {"clients_per_round": 2, "local_epochs": 1}
        model |= {"local_optimizer": {"class_path": "lit_fa.federated.LocalSGD", "init_args": {"lr": 3.0}}}
        model |= {"executor": "sequential", "validate_every": 2}
    else:
        data = digits
        model |= {"optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.02}}}
        model |= {"scheduler": {"class_path": "torch.optim.lr_scheduler.ExponentialLR", "init_args": {"gamma": 4.0}}}
    return {
        "seed_everything": 0,
        "trainer": {"accelerator": "cpu", "max_epochs": EPOCHS, "callbacks": [BEST], **QUIET, **changes},
        "model": {
            "class_path": "lit_fa.modules." + ("FederatedClassifier" if federated else "Classifier"),
            "init_args": model,
        },
        "data": data,
    }


def recorded(made: dict, folder, observers=()) -> dict:
    path = folder / "r.json"
    run(copy.deepcopy(made), {"path": str(path), "id": "a", "seed": 0}, observers)
    return json.loads(path.read_text())["metrics"]


@pytest.mark.parametrize(
    "made", [config(), config(PRUNED), config(federated=True)], ids=["centralised", "pruned", "federated"]
)
def test_the_record_has_the_test_of_lightnings_best_checkpoint(made, tmp_path):
    best = ModelCheckpoint(tmp_path, "best", monitor="val/accuracy", mode="max", save_on_train_epoch_end=False)
    metrics = recorded(made, tmp_path, [best])
    trainer, _, data = build({**made, "trainer": made["trainer"] | {"callbacks": []}})
    trainer.test(lit_fa.load(best.best_model_path), data, verbose=False)
    tested = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert {f"best_validation/{name}": value for name, value in tested.items()}.items() <= metrics.items()
    assert tested["test/accuracy"] != metrics["test/accuracy"]


class Stop(L.Callback):
    """Ends the run before its last epoch."""

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == EPOCHS - 1:
            raise KeyboardInterrupt


@pytest.mark.parametrize("made", [config(PRUNED), pytest.param(config(federated=True), marks=pytest.mark.slow)])
def test_a_resumed_run_tests_the_same_weights(made, tmp_path):
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    whole = recorded(made, tmp_path / "whole")
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        recorded(made, tmp_path / "parts", [Stop()])
    assert recorded(made, tmp_path / "parts") == whole


def test_validation_on_the_test_set_is_refused(tmp_path):
    made = config()
    made["data"]["init_args"]["val_size"] = 0
    with pytest.raises((UserError, DataError), match=r"^BestValidation chooses by val/accuracy, and validation is on"):
        recorded(made, tmp_path)


def test_what_it_cannot_do_is_refused(tmp_path):
    unknown = {"class_path": "callbacks.BestValidation", "init_args": {"monitor": "val/loss2"}}
    with pytest.raises(UserError, match="'val/loss2' is not logged; validation logs val/loss, val/accuracy"):
        recorded(config(callbacks=[unknown]), tmp_path)
    with pytest.raises(UserError, match="several BestValidation: keep one"):
        recorded(config(callbacks=[BEST, BEST | {"init_args": {"monitor": "val/loss"}}]), tmp_path)
    with pytest.raises(MeasurementError, match="leave WeightAveraging out"):
        recorded(config(), tmp_path, [EMAWeightAveraging()])
    with pytest.raises(MeasurementError, match="max or min"):
        BestValidation(mode="higher")


def test_a_value_that_is_not_finite_and_an_equal_one_are_not_better():
    best = BestValidation("val/loss")
    trainer = L.Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu")
    trainer.state.fn = "fit"
    module = lit_fa.Classifier("mlp", image_shape=(1, 2, 2))
    module.trainer = trainer
    found = []
    for value in (float("nan"), 2.0, 2.0, 1.0, float("inf")):
        trainer.callback_metrics["val/loss"] = torch.tensor(value)
        before = best.best
        best.on_validation_end(trainer, module)
        found.append((best.value, best.best is before))
    assert found == [(None, True), (2.0, False), (2.0, True), (1.0, False), (1.0, True)]

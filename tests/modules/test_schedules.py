"""Learning-rate schedules: when they move, what a plateau is fed, what a resumed run goes on with."""

from functools import partial
from pathlib import Path
from unittest import mock

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import ReduceLROnPlateau
from torch import nn
from torch.optim import lr_scheduler

from lit_fa.datamodules import Synthetic
from lit_fa.errors import UserError
from lit_fa.modules import Classifier, FederatedClassifier
from tests.federated.federation import loader
from tests.federated.federation import network as small

IMAGE, CLASSES, PLATEAU = (1, 4, 4), 3, lr_scheduler.ReduceLROnPlateau
QUIET = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)


class Told(L.Callback):
    """Replaces the values of a metric of the module, in their order, and keeps what the plateau is fed."""

    def __init__(self, name: str, values: list[float]):
        self.name, self.values, self.fed, self.rates = name, [*values], [], []

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        log, step, fed = pl_module.log, PLATEAU.step, self.fed

        def told(name: str, value: object, *args: object, **options: object) -> None:
            if name == self.name and not trainer.sanity_checking:
                value = self.values.pop(0)
            log(name, value, *args, **options)

        def watched(plateau: PLATEAU, value: float) -> None:
            fed.append(round(float(value), 4))
            step(plateau, value)

        self.patch = mock.patch.object(PLATEAU, "step", watched)
        self.patch.start()
        pl_module.log = told

    def teardown(self, *_: object, **__: object) -> None:
        self.patch.stop()

    def on_train_batch_start(self, trainer: L.Trainer, *_: object) -> None:
        self.rates.append(round(trainer.optimizers[0].param_groups[0]["lr"], 6))


def classifier(scheduler: object, **options: object) -> Classifier:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, CLASSES))
    return Classifier(network, None, CLASSES, IMAGE, scheduler=scheduler, **options)


def fit(module: Classifier, *callbacks: L.Callback, resume: Path | None = None, **options: object) -> L.Trainer:
    data = Synthetic(
        n_train=32,
        n_test=6,
        image_shape=IMAGE,
        num_classes=CLASSES,
        batch_size=8,
        device="cpu",
        seed=1,
        validation_is_test="allow",
    )
    trainer = L.Trainer(accelerator="cpu", callbacks=[*callbacks], **{**QUIET, "max_epochs": 4, **options})
    trainer.fit(module, data, ckpt_path=resume, weights_only=False)
    return trainer


def rate(trainer: L.Trainer) -> float:
    return trainer.optimizers[0].param_groups[0]["lr"]


def on_accuracy(**options: object) -> partial:
    return partial(ReduceLROnPlateau, monitor="val/accuracy", mode="max", factor=0.1, patience=0, **options)


def test_a_plateau_is_fed_the_metric_that_it_monitors():
    told = Told("val/accuracy", [10, 20, 30, 30])  # rises while the rate stays; the last is no improvement
    assert rate(fit(classifier(on_accuracy()), told)) == pytest.approx(0.01)
    assert told.fed == [10, 20, 30, 30]
    assert told.rates == [0.1] * 16


def test_a_value_counts_once_however_many_epochs_pass_before_the_next():
    told = Told("val/accuracy", [10, 20])
    assert rate(fit(classifier(on_accuracy()), told, max_epochs=6, check_val_every_n_epoch=3)) == pytest.approx(0.1)
    assert told.fed == [10, 20]


def test_of_several_values_in_an_epoch_the_newest_counts_and_with_interval_step_all():
    values = [10, 20, 30, 40]
    epoch, step = Told("val/accuracy", values), Told("val/accuracy", values)
    fit(classifier(on_accuracy()), epoch, max_epochs=2, val_check_interval=2)
    fit(classifier(on_accuracy(), scheduler_interval="step"), step, max_epochs=2, val_check_interval=2)
    assert epoch.fed == [20, 40]
    assert step.fed == [10, 20, 30, 40]


def test_with_interval_step_the_rate_falls_in_the_middle_of_an_epoch():
    told = Told("val/accuracy", [30, 20, 40, 50])
    fit(classifier(on_accuracy(), scheduler_interval="step"), told, max_epochs=2, val_check_interval=2)
    assert told.rates == [0.1] * 4 + [0.01] * 4


def test_with_interval_step_a_training_metric_counts_when_it_is_logged():
    told = Told("train/loss", [4, 3, 2, 5])
    plateau = partial(ReduceLROnPlateau, monitor="train/loss", factor=0.1, patience=0)
    trainer = fit(classifier(plateau, scheduler_interval="step"), told, log_every_n_steps=2, max_epochs=2)
    assert told.fed == [4, 3, 2, 5]
    assert rate(trainer) == pytest.approx(0.01)


def test_torchs_own_plateau_sees_the_validation_loss_or_without_validation_the_training_loss():
    plateau = partial(PLATEAU, factor=0.1, patience=0)
    validated, trained = Told("val/loss", [3, 2, 1, 5]), Told("train/loss_epoch", [3, 2, 1, 5])
    assert rate(fit(classifier(plateau), validated)) == rate(fit(classifier(plateau), trained, limit_val_batches=0))
    assert validated.fed == trained.fed == [3, 2, 1, 5]


def test_before_the_first_validation_nothing_else_goes_in():
    told = Told("val/loss", [7.0])
    fit(classifier(partial(PLATEAU, patience=0)), told, max_epochs=3, check_val_every_n_epoch=2)
    assert told.fed == [7.0]


def test_a_validation_counts_in_epochs_of_a_run_that_accumulates():
    told = Told("val/accuracy", [10])  # six steps, two an epoch
    fit(classifier(on_accuracy(), accumulate=2), told, max_epochs=-1, max_steps=6, check_val_every_n_epoch=3)
    assert told.fed == [10]


def test_a_training_loss_that_is_logged_after_the_first_epoch_is_known():
    told = Told("train/loss", [3.0, 2.0])
    fit(classifier(partial(ReduceLROnPlateau, monitor="train/loss")), told, log_every_n_steps=6)
    assert told.fed == [3.0, 2.0]


@pytest.mark.parametrize("interval", ["epoch", "step"])
def test_the_sanity_check_is_no_validation(interval: str):
    told = Told("val/accuracy", [10, 20])
    fit(classifier(on_accuracy(), scheduler_interval=interval), told, max_epochs=2, num_sanity_val_steps=2)
    assert told.fed == [10, 20]


REFUSED = {
    "torch's, mode max": (partial(PLATEAU, mode="max"), {}, r"lightning\.pytorch\.cli\.ReduceLROnPlateau with monitor"),
    "unknown": (partial(ReduceLROnPlateau, monitor="nosuch"), {}, "nothing logs 'nosuch'; .*val/"),
    "unknown in validation": (partial(ReduceLROnPlateau, monitor="val/acc"), {}, "nearest: val/accuracy"),
    "unknown, no validation": (
        partial(ReduceLROnPlateau, monitor="train/los"), {"limit_val_batches": 0}, "nearest: train/loss",
    ),
    "never validated": (on_accuracy(), {"limit_val_batches": 0}, "measured in validation, which this run has none of"),
    "validated too late": (on_accuracy(), {"check_val_every_n_epoch": 9}, "which this run has none of"),
    "no schedule": (lambda optimizer: {"scheduler": PLATEAU(optimizer), "monitor": "x"}, {}, "a dict instead of one"),
}  # fmt: skip


@pytest.mark.parametrize("interval", ["epoch", "step"])
@pytest.mark.parametrize("name", REFUSED)
def test_a_plateau_that_cannot_be_fed_is_refused_in_one_line(name: str, interval: str):
    scheduler, options, words = REFUSED[name]
    steps = []

    class Count(L.Callback):
        def on_train_batch_end(self, *_):
            steps.append(1)

    with pytest.raises(UserError, match=words) as error:
        fit(classifier(scheduler, scheduler_interval=interval), Count(), **options)
    assert "\n" not in str(error.value)
    assert len(steps) <= 4  # the first epoch, at the latest


@pytest.mark.parametrize("interval", ["epoch", "step"])
@pytest.mark.parametrize("validated", [{"val_check_interval": 3}, {"check_val_every_n_epoch": 2}, {}], ids=str)
def test_a_plateau_resumes_where_it_was_with_the_value_that_it_had_not_seen(
    interval: str, validated: dict, tmp_path: Path
):
    # three of four batches, so that with interval epoch a value waits for the epoch's end
    values = [30.0, 20, 10, 40, 5, 4]
    keep = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1, save_on_train_epoch_end=False, every_n_epochs=1)
    whole = Told("val/accuracy", values)
    options = {"max_epochs": 4, **validated}
    trainer = fit(
        classifier(on_accuracy(), scheduler_interval=interval), whole, keep, enable_checkpointing=True, **options
    )
    first = min(tmp_path.iterdir())
    again = Told("val/accuracy", values[1:])
    keep = ModelCheckpoint(tmp_path / "again", save_on_train_epoch_end=False)
    resumed = fit(
        classifier(on_accuracy(), scheduler_interval=interval), again, keep, enable_checkpointing=True, resume=first,
        **options,
    )  # fmt: skip
    assert again.fed == whole.fed[-len(again.fed) :]
    assert again.rates == whole.rates[-len(again.rates) :]
    assert rate(resumed) == rate(trainer)
    state, other = (t.lr_scheduler_configs[0].scheduler.state_dict() for t in (resumed, trainer))
    assert {k: v for k, v in state.items() if k != "step"} == {k: v for k, v in other.items() if k != "step"}


@pytest.mark.parametrize(
    "scheduler",
    [
        partial(lr_scheduler.LambdaLR, lr_lambda=lambda n: 1 / (n + 1)),
        partial(lr_scheduler.CosineAnnealingWarmRestarts, T_0=3),
        partial(lr_scheduler.OneCycleLR, max_lr=1.0, total_steps=9),
        lambda o: lr_scheduler.SequentialLR(
            o, [lr_scheduler.LinearLR(o, 0.1, total_iters=2), lr_scheduler.ExponentialLR(o, 0.5)], [2]
        ),
        lambda o: lr_scheduler.ChainedScheduler([lr_scheduler.LinearLR(o, 0.1), lr_scheduler.ExponentialLR(o, 0.5)]),
    ],
    ids=["lambda", "restarts", "one_cycle", "sequential", "chained"],
)
@pytest.mark.parametrize(("interval", "moves"), [("step", 8), ("epoch", 4)])
def test_a_schedule_moves_once_an_optimiser_step_or_once_an_epoch(scheduler: object, interval: str, moves: int):
    trainer = fit(classifier(scheduler, scheduler_interval=interval, accumulate=3), limit_val_batches=0)
    assert trainer.global_step == 8  # four batches: three, and one
    (expected,) = [torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)]
    by_hand = scheduler(expected)
    for _ in range(moves):
        expected.step()
        by_hand.step()
    assert rate(trainer) == pytest.approx(expected.param_groups[0]["lr"], rel=1e-12)


def federated(scheduler: object, *callbacks: L.Callback, **options: object) -> L.Trainer:
    module = FederatedClassifier(
        small(), num_classes=4, image_shape=(5,), executor="sequential", scheduler=scheduler,
        validate_every=options.pop("validate_every", 1),
    )  # fmt: skip
    held_out = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(torch.randn(6, 5, dtype=torch.float64), torch.arange(6) % 4), 6
    )
    trainer = L.Trainer(accelerator="cpu", callbacks=[*callbacks], **{**QUIET, "max_epochs": 4, **options})
    trainer.fit(module, loader(rounds=1), held_out)
    return trainer


def test_a_plateau_of_the_server_is_fed_what_it_monitors():
    told = Told("val/accuracy", [10, 20, 20, 30])
    assert rate(federated(on_accuracy(), told)) == pytest.approx(0.1)
    assert told.fed == [10, 20, 20, 30]


def test_a_plateau_of_the_server_without_validation_sees_the_clients_loss():
    trainer = federated(partial(PLATEAU, threshold=1e9, factor=0.1, patience=0), limit_val_batches=0)
    assert rate(trainer) == pytest.approx(1e-4)  # none of four values is that much lower


@pytest.mark.parametrize("name", ["torch's, mode max", "unknown in validation", "never validated", "no schedule"])
def test_a_plateau_of_the_server_that_cannot_be_fed_is_refused_in_one_line(name: str):
    scheduler, options, words = REFUSED[name]
    with pytest.raises(UserError, match=words):
        federated(scheduler, **options)


def test_a_schedule_of_the_server_moves_once_a_round():
    halve = partial(lr_scheduler.StepLR, step_size=1, gamma=0.5)
    assert rate(federated(halve)) == pytest.approx(1 / 2**4)

"""Lightning's averages of weights: what they do under a rule is what they do to any network, or they are refused."""

from functools import partial
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint, StochasticWeightAveraging, WeightAveraging
from torch import nn
from torch.optim import lr_scheduler

from lit_fa.datamodules import Synthetic
from lit_fa.errors import UserError
from lit_fa.layers import feedback_layers
from lit_fa.modules import Classifier, FederatedClassifier
from lit_fa.rules import (
    FLFA,
    FeedbackAlignment,
    ForwardForward,
    KolenPollackFeedback,
    LearningRule,
    Pruning,
    SVDBackprop,
)
from tests.federated.federation import loader

IMAGE, CLASSES = (1, 4, 4), 3
QUIET = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
QUIET |= {"accelerator": "cpu", "limit_val_batches": 0}


def network(normalised: bool = True) -> nn.Module:
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(8) if normalised else nn.Identity()
    return nn.Sequential(
        nn.Flatten(), nn.Linear(16, 8), norm, nn.Tanh(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, CLASSES)
    )


def data() -> Synthetic:
    return Synthetic(n_train=32, n_test=6, image_shape=IMAGE, num_classes=CLASSES, batch_size=8, device="cpu", seed=1)


class Automatic(L.LightningModule):
    """The same network as Lightning itself trains it."""

    def __init__(self, net: nn.Module, scheduler: object):
        super().__init__()
        self.net, self.scheduler = net, scheduler

    def training_step(self, batch: tuple, batch_idx: int) -> torch.Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> object:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        return optimizer if self.scheduler is None else ([optimizer], [self.scheduler(optimizer)])


class Rates(L.Callback):
    def __init__(self):
        self.seen = []

    def on_train_batch_start(self, trainer: L.Trainer, *_: object) -> None:
        self.seen.append(round(trainer.optimizers[0].param_groups[0]["lr"], 8))


def fit(module: L.LightningModule, *callbacks: L.Callback, epochs: int = 5, resume: Path | None = None, **options):
    trainer = L.Trainer(max_epochs=epochs, callbacks=[*callbacks], **{**QUIET, **options})
    trainer.fit(module, data(), ckpt_path=resume, weights_only=False)
    return trainer


def averaging() -> StochasticWeightAveraging:
    return StochasticWeightAveraging(swa_lrs=0.02, swa_epoch_start=2, annealing_epochs=2, annealing_strategy="linear")


SCHEDULES = {None: None, "epoch": partial(lr_scheduler.ExponentialLR, gamma=0.9)}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_stochastic_averaging_is_what_lightning_makes_of_the_same_network(schedule: str | None):
    scheduler, rates, expected_rates = SCHEDULES[schedule], Rates(), Rates()
    expected = Automatic(network(normalised=False), scheduler)
    fit(expected, averaging(), expected_rates)
    module = Classifier(network(normalised=False), None, CLASSES, IMAGE, scheduler=scheduler)
    fit(module, averaging(), rates)
    assert rates.seen == expected_rates.seen
    assert len({*rates.seen}) > 2
    for (name, p), q in zip(module.network.named_parameters(), expected.net.parameters(), strict=True):
        assert torch.allclose(p, q, rtol=0, atol=1e-6), name


def test_the_pass_that_renews_statistics_takes_no_step():
    """Lightning's own takes one, by the last gradient, at the end of that pass."""
    starts, inputs = [], []

    class Look(L.Callback):
        def on_train_epoch_start(self, trainer, module):
            starts.append(module.network[1].weight.detach().clone())

        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            if trainer.current_epoch == 5:
                inputs.append(batch[0].flatten(1).clone())

    module = Classifier(network(), None, CLASSES, IMAGE)
    trainer = fit(module, Look(), averaging())
    assert trainer.global_step == 20
    layer, norm = module.network[1], module.network[2]
    assert torch.allclose(layer.weight, torch.stack(starts[1:5]).mean(0), rtol=0, atol=1e-6)
    means = torch.stack([layer(x).mean(0) for x in inputs])
    assert torch.allclose(norm.running_mean, means.mean(0), rtol=0, atol=1e-5)
    assert int(norm.num_batches_tracked) == 4


def test_a_schedule_that_moves_every_step_makes_room_for_that_of_the_average():
    schedule = partial(lr_scheduler.ExponentialLR, gamma=0.99)
    rates = Rates()
    module = Classifier(network(), None, CLASSES, IMAGE, scheduler=schedule, scheduler_interval="step")
    fit(module, averaging(), rates)
    assert len({*rates.seen[:4]}) == 4
    assert all(len({*rates.seen[4 * e : 4 * e + 4]}) == 1 for e in (1, 2, 3, 4))
    assert rates.seen[-1] == pytest.approx(0.02)


def test_the_renewing_pass_does_not_count_in_the_length_of_the_run():
    turns = []

    class Look(L.Callback):
        def on_before_optimizer_step(self, trainer, module, *_):
            turns.append(int(module.rule.active))

    rule = ForwardForward(schedule="greedy", head="none")
    fit(Classifier(network(), rule, CLASSES, IMAGE), averaging(), Look(), epochs=4)
    assert turns == [0] * 8 + [1] * 8


AVERAGES = {
    "EMAWeightAveraging": partial(EMAWeightAveraging, decay=0.9),
    "WeightAveraging": WeightAveraging,
    "StochasticWeightAveraging": averaging,
}


@pytest.mark.parametrize("name", AVERAGES)
def test_an_average_beside_pruning_that_changes_shapes_is_refused(name: str):
    rule = SVDBackprop(pruning=Pruning(0.5, every=1, floor=1))
    with pytest.raises(UserError, match=rf"{name} keeps a copy of the weights.*: set physical: false") as error:
        fit(Classifier(network(), rule, CLASSES, IMAGE), AVERAGES[name]())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("make", [*AVERAGES.values(), partial(WeightAveraging, use_buffers=False)][1:])
def test_an_average_goes_with_pruning_that_leaves_zeros(make):
    rule = SVDBackprop(pruning=Pruning(0.5, every=1, floor=1, keep=["6"], physical=False))
    module = Classifier(network(), rule, CLASSES, IMAGE)
    if make is WeightAveraging:
        with pytest.raises(UserError, match="WeightAveraging cannot average masks: set use_buffers: false"):
            fit(module, make())
        return
    fit(module, make())
    assert all(p.isfinite().all() for p in module.parameters())


def test_an_average_over_chosen_layers_is_refused():
    module = FederatedClassifier(plain(), FLFA("lowest:1"), num_classes=4, image_shape=(5,), executor="sequential")
    with pytest.raises(UserError, match=r"EMAWeightAveraging keeps a copy of the feedback.*name layers"):
        L.Trainer(max_epochs=1, callbacks=[EMAWeightAveraging()], **QUIET).fit(module, loader())


def plain(normalised: bool = False) -> nn.Module:
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(7) if normalised else nn.Identity()
    return nn.Sequential(nn.Linear(5, 7), norm, nn.Tanh(), nn.Linear(7, 6), nn.Tanh(), nn.Linear(6, 4)).double()


def test_a_server_has_no_data_to_renew_statistics_on_and_averages_without_them():
    def federated(normalised: bool) -> Rates:
        module = FederatedClassifier(plain(normalised), num_classes=4, image_shape=(5,), executor="sequential")
        rates = Rates()
        trainer = L.Trainer(max_epochs=5, callbacks=[averaging(), rates], **QUIET)
        trainer.fit(module, loader(rounds=1))
        return rates

    with pytest.raises(UserError, match=r"a server does not have: take .*EMAWeightAveraging"):
        federated(True)
    assert federated(False).seen[-1] == pytest.approx(0.02)


class Tied(nn.Module):
    """Two layers that share a weight."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.head = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, CLASSES)
        self.second.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.second(self.first(x.flatten(1)).tanh()).tanh())


RULES: dict[str, tuple[object, type[LearningRule] | partial | None]] = {
    "tied": (Tied, None),
    "factored": (network, partial(SVDBackprop, retraction="newton_schulz")),
    "kolen_pollack": (network, partial(FeedbackAlignment, KolenPollackFeedback())),
}


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("accumulate", [1, 3])
def test_an_exponential_average_is_over_optimiser_steps_trained_feedback_included(name: str, accumulate: int):
    build, rule = RULES[name]
    averaged: dict[str, torch.Tensor] = {}
    seen = [0]

    class ByHand(L.Callback):
        def on_train_batch_end(self, trainer, module, *_):
            if trainer.global_step > seen[0]:
                seen[0] = trainer.global_step
                for key, p in module.named_parameters():
                    old = averaged.get(key, p.detach())
                    averaged[key] = 0.9 * old + 0.1 * p.detach() if key in averaged else p.detach().clone()

    module = Classifier(build(), None if rule is None else rule(), CLASSES, IMAGE, accumulate=accumulate)
    fit(module, ByHand(), EMAWeightAveraging(decay=0.9), epochs=2)
    assert seen[0] == 2 * -(-4 // accumulate)
    for key, p in module.named_parameters():
        assert torch.allclose(p, averaged[key], rtol=0, atol=1e-6), key
    if name == "tied":
        assert module.network.second.weight is module.network.first.weight
    if name == "kolen_pollack":
        assert all(f"learner.network.{n}.feedback.weight" in averaged for n in feedback_layers(module.network))


@pytest.mark.parametrize("name", AVERAGES)
def test_a_run_with_an_average_resumes_bit_for_bit(name: str, tmp_path: Path):
    def run(folder: str, resume: Path | None = None) -> Classifier:
        keep = ModelCheckpoint(tmp_path / folder, "{epoch}", save_top_k=-1)
        module = Classifier(network(normalised=False), None, CLASSES, IMAGE, optimizer=partial(torch.optim.SGD, lr=0.1))
        fit(module, AVERAGES[name](), keep, resume=resume, enable_checkpointing=True)
        return module

    whole = run("whole")
    again = run("again", tmp_path / "whole" / "epoch=2.ckpt")
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))

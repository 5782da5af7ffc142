"""The one training step: optimisers, schedules, clipping, accumulation, metrics, and what stops it."""

from functools import partial
from pathlib import Path
from unittest import mock

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from lit_fa.datamodules import Synthetic
from lit_fa.errors import UserError
from lit_fa.modules import Classifier
from lit_fa.modules.finite import NonFiniteLossError, first_non_finite
from lit_fa.rules import (
    AdaptiveFeedback,
    Backprop,
    DirectFeedbackAlignment,
    FeedbackAlignment,
    Halves,
    KolenPollackFeedback,
    LearningRule,
    Progress,
    SignFeedback,
    WeightMirrorFeedback,
)
from lit_fa.rules.base import Surrogate

IMAGE, CLASSES, SIZE = (1, 4, 4), 3, 12


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, CLASSES))


def classifier(rule: object = None, **options: object) -> Classifier:
    return Classifier(options.pop("network", None) or network(), rule, CLASSES, IMAGE, **options)


def data(**options: object) -> Synthetic:
    shape = {"n_train": 4 * SIZE, "n_test": 20, "image_shape": IMAGE, "num_classes": CLASSES, "batch_size": SIZE}
    return Synthetic(**{**shape, "device": "cpu", **options})


def fit(module: Classifier, epochs: int = 1, callbacks: tuple = (), source: object = None, **options) -> L.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    checkpoints = {"enable_checkpointing": any(isinstance(c, ModelCheckpoint) for c in callbacks)}
    options = {"max_epochs": epochs, "limit_val_batches": 0, **quiet, **checkpoints, **options}
    trainer = L.Trainer(accelerator="cpu", devices=1, callbacks=[*callbacks], **options)
    trainer.fit(module, source or data())
    return trainer


def batches() -> list[tuple]:
    """The training batches of the first epoch, as a run sees them."""
    source = data()
    source.setup()
    return [(x.clone(), y.clone()) for x, y in source.train_dataloader()]


def by_hand(update, rule: object = None, **sgd: float) -> dict[str, torch.Tensor]:
    """State after plain torch: `update(learner, optimizer, number, batch)` for every batch."""
    learner = classifier(rule).learner
    optimizer = torch.optim.SGD(learner.parameters(), **sgd)
    for number, batch in enumerate(batches()):
        update(learner, optimizer, number, batch)
    return learner.state_dict()


def equal(a: dict, b: dict, tolerance: float = 0.0) -> bool:
    return a.keys() == b.keys() and all((a[k] - b[k]).abs().max() <= tolerance for k in a)


def one_update(learner, optimizer, number, batch) -> None:
    optimizer.zero_grad()
    learner(batch).value.backward()
    optimizer.step()


@pytest.mark.parametrize("rule", [Backprop, FeedbackAlignment, DirectFeedbackAlignment])
def test_an_epoch_equals_plain_torch(rule: type):
    module = classifier(rule(), optimizer=partial(torch.optim.SGD, lr=0.2, momentum=0.9))
    fit(module)
    assert equal(module.learner.state_dict(), by_hand(one_update, rule(), lr=0.2, momentum=0.9))


def test_without_a_rule_it_is_backprop_with_plain_sgd():
    module = classifier()
    fit(module)
    assert isinstance(module.rule, Backprop)
    assert equal(module.learner.state_dict(), by_hand(one_update, lr=0.1))


@pytest.mark.parametrize("source", [SignFeedback("brsf"), WeightMirrorFeedback(), AdaptiveFeedback()])
def test_what_evolves_is_renewed_after_every_step(source: object):
    def update(learner, optimizer, number, batch):
        one_update(learner, optimizer, number, batch)
        learner.after_step(Progress(number + 1))

    module = classifier(FeedbackAlignment(source))
    before = module.network[3].feedback.weight.clone()
    fit(module)
    assert not torch.equal(module.network[3].feedback.weight, before)
    assert equal(module.learner.state_dict(), by_hand(update, FeedbackAlignment(source), lr=0.1))


class Halving(LearningRule):
    """Edits what backward left, and what the optimiser made of it."""

    def edit_gradients(self, params, grads, progress):
        return Halves({name: g / 2 for name, g in grads.network.items()}, {})

    def after_step(self, params, buffers, progress):
        return Halves({"3.bias": torch.full_like(params.network["3.bias"], progress.step)}, {}), Halves({}, {})


@pytest.mark.parametrize("clip", [None, 0.01])
def test_gradients_are_edited_before_they_are_clipped_and_parameters_after_the_step(clip: float | None):
    def update(learner, optimizer, number, batch):
        optimizer.zero_grad()
        learner(batch).value.backward()
        for p in learner.parameters():
            p.grad /= 2
        if clip:
            torch.nn.utils.clip_grad_norm_(learner.parameters(), clip)
        optimizer.step()
        learner.network[3].bias.data.fill_(number + 1)

    module = classifier(Halving(), clip=clip)
    fit(module)
    assert equal(module.learner.state_dict(), by_hand(update, lr=0.1))


@pytest.mark.parametrize("rule", [FeedbackAlignment, partial(FeedbackAlignment, KolenPollackFeedback())])
def test_accumulation_equals_the_mean_over_its_batches(rule):
    def update(learner, optimizer, number, batch):
        (learner(batch).value / 2).backward()
        if number % 2:
            optimizer.step()
            optimizer.zero_grad()

    module = classifier(rule(), accumulate=2)
    trainer = fit(module)
    assert trainer.global_step == 2
    assert equal(module.learner.state_dict(), by_hand(update, rule(), lr=0.1))


def test_an_incomplete_accumulation_steps_at_the_end_of_the_epoch():
    trainer = fit(classifier(accumulate=3))
    assert trainer.global_step == 2


@pytest.mark.parametrize("clip_by", ["norm", "value"])
@pytest.mark.parametrize("stream", [False, True])
def test_clipping_equals_clipping_by_hand(clip_by: str, stream: bool):
    rule, bound, clipped = DirectFeedbackAlignment, 0.02, []

    def update(learner, optimizer, number, batch):
        optimizer.zero_grad()
        learner(batch).value.backward()
        if clip_by == "norm":
            clipped.append(torch.nn.utils.clip_grad_norm_(learner.parameters(), bound) > bound)
        else:
            clipped.append(max(p.grad.abs().max() for p in learner.parameters()) > bound)
            torch.nn.utils.clip_grad_value_(learner.parameters(), bound)
        optimizer.step()

    module = classifier(rule(), clip=bound, clip_by=clip_by, stream=stream)
    fit(module)
    expected = by_hand(update, rule(), lr=0.1)
    assert all(clipped)
    # streamed, the same numbers are added in another order, float32
    assert equal(module.learner.state_dict(), expected, 1e-7 if stream else 0)


def test_streaming_with_accumulation_equals_the_sum_over_its_batches():
    one = classifier(DirectFeedbackAlignment(), accumulate=2)
    two = classifier(DirectFeedbackAlignment(), accumulate=2, stream=True)
    fit(one)
    fit(two)
    assert equal(one.learner.state_dict(), two.learner.state_dict(), 1e-7)


def test_every_entry_of_layer_lr_is_a_group_and_the_rest_is_first():
    module = classifier(FeedbackAlignment(), layer_lr={"1.*": 0.5, "3.bias": 0.25})
    optimizer = module.configure_optimizers()
    by_lr = {g["lr"]: g["params"] for g in optimizer.param_groups}
    net = module.network
    assert [*by_lr] == [0.1, 0.5, 0.25]
    assert {id(p) for p in by_lr[0.1]} == {id(net[3].weight)}
    assert {id(p) for p in by_lr[0.5]} == {id(net[1].weight), id(net[1].bias)}
    assert {id(p) for p in by_lr[0.25]} == {id(net[3].bias)}


def test_a_rate_of_zero_leaves_its_layer_alone():
    module = classifier(layer_lr={"1.*": 0.0})
    before = {k: v.clone() for k, v in module.network.state_dict().items()}
    fit(module)
    moved = [k for k, v in module.network.state_dict().items() if not torch.equal(v, before[k])]
    assert moved == ["3.weight", "3.bias"]


@pytest.mark.parametrize(("interval", "epochs", "expected"), [("step", 1, 0.1 / 2**4), ("epoch", 2, 0.1 / 2**2)])
def test_the_schedule_moves_at_its_interval(interval: str, epochs: int, expected: float):
    halve = partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5)
    module = classifier(scheduler=halve, scheduler_interval=interval)
    trainer = fit(module, epochs)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(expected, rel=1e-12)


def test_max_steps_counts_optimiser_steps():
    class Count(L.Callback):
        seen = 0

        def on_train_batch_end(self, *args):
            self.seen += 1

    count = Count()
    trainer = fit(classifier(DirectFeedbackAlignment()), -1, (count,), max_steps=6)
    assert (trainer.global_step, count.seen) == (6, 6)


def test_progress_is_the_share_of_the_steps_done():
    seen = []

    class Look(L.Callback):
        def on_train_batch_end(self, trainer, module, *args):
            seen.append(module.progress())

    fit(classifier(), 2, (Look(),))
    assert [p.step for p in seen] == [*range(1, 9)]
    assert [p.epoch for p in seen] == [0] * 4 + [1] * 4
    assert seen[3].fraction == pytest.approx(0.5)
    assert seen[-1].fraction == pytest.approx(1.0)


def test_metrics_are_percent_and_means_over_what_was_seen():
    module = classifier()
    trainer = fit(module, limit_val_batches=None)
    source = data()
    source.setup()
    x, y = next(iter(source.val_dataloader()))
    logits = module.eval()(x)
    expected = 100 * (logits.argmax(-1) == y).double().mean().item()
    assert trainer.callback_metrics["val/accuracy"].item() == pytest.approx(expected, rel=1e-5)
    loss = torch.nn.functional.cross_entropy(logits, y).item()
    assert trainer.callback_metrics["val/loss"].item() == pytest.approx(loss, rel=1e-5)
    (tested,) = trainer.test(module, data(eval_batch_size=7), verbose=False)  # batches of 7, 7 and 6
    assert tested["test/accuracy"] == pytest.approx(expected, rel=1e-5)
    assert tested["test/loss"] == pytest.approx(loss, rel=1e-5)


def test_the_training_loss_of_an_epoch_is_the_mean_over_its_images():
    module = classifier(optimizer=partial(torch.optim.SGD, lr=0.0))
    trainer = fit(module, source=data(n_train=30))  # a last batch of 6
    source = data(n_train=30)
    source.setup()
    x, y = source.train_set.images, source.train_set.labels
    logits = module.eval()(x)
    assert trainer.callback_metrics["train/loss_epoch"].item() == pytest.approx(
        torch.nn.functional.cross_entropy(logits, y).item(), rel=1e-5
    )
    expected = 100 * (logits.argmax(-1) == y).double().mean().item()
    assert trainer.callback_metrics["train/accuracy"].item() == pytest.approx(expected, rel=1e-5)


def test_a_loss_that_is_no_number_stops_with_step_and_layer_and_keeps_the_last_checkpoint(tmp_path: Path):
    class Poison(L.Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            if trainer.global_step == 2:
                module.network[1].bias.data[0] = float("nan")

    saved = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    with pytest.raises(NonFiniteLossError, match=r"step 2; first not finite: parameter 1\.bias") as error:
        fit(classifier(), callbacks=(saved, Poison()))
    assert error.value.user_error
    assert "\n" not in str(error.value)
    last = torch.load(tmp_path / "step=2.ckpt", weights_only=False)
    assert all(t.isfinite().all() for t in last["state_dict"].values())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step=1.ckpt", "step=2.ckpt"]


def test_where_a_loss_ceased_to_be_a_number_is_named():
    class Overflow(nn.Module):
        def forward(self, x):
            return x * torch.inf

    net = nn.Sequential(nn.Linear(4, 4), Overflow(), nn.Linear(4, 2))
    x = torch.randn(2, 4)
    assert first_non_finite(net, x) == "the output of 1"
    assert first_non_finite(net, x * torch.nan) == "the inputs"
    assert first_non_finite(nn.Sequential(nn.Linear(4, 2)), x) == "the loss itself"
    net[2].weight.data[0, 0] = torch.inf
    assert first_non_finite(net, x) == "parameter 2.weight"


def test_a_checkpoint_of_a_named_network_loads_into_a_new_classifier(tmp_path: Path):
    def build(seed: int) -> Classifier:
        torch.manual_seed(seed)
        return Classifier(
            "mlp",
            FeedbackAlignment(),
            CLASSES,
            IMAGE,
            network_args={"hidden": [8]},
            optimizer=partial(torch.optim.Adam),
        )

    module = build(1)
    trainer = fit(module, callbacks=(ModelCheckpoint(tmp_path),))
    path = trainer.checkpoint_callback.best_model_path
    options = {"network": "mlp", "rule": FeedbackAlignment(), "num_classes": CLASSES, "image_shape": IMAGE}
    loaded = Classifier.load_from_checkpoint(path, network_args={"hidden": [8]}, weights_only=False, **options)
    assert equal(loaded.learner.state_dict(), module.learner.state_dict())
    x = torch.randn(5, *IMAGE)
    assert torch.equal(loaded.eval()(x), module.eval()(x))


def test_a_64_bit_run_goes_on_with_all_its_bits(tmp_path: Path):
    def trained(epochs: int, folder: str, start: Path | None = None) -> Classifier:
        module = classifier(FeedbackAlignment())
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "limit_val_batches": 0}
        keep = ModelCheckpoint(tmp_path / folder, "last")
        trainer = L.Trainer(accelerator="cpu", max_epochs=epochs, precision="64-true", callbacks=[keep], **quiet)
        trainer.fit(module, data(), ckpt_path=start, weights_only=False)
        return module

    trained(1, "half")
    whole, again = trained(2, "whole"), trained(2, "again", tmp_path / "half" / "last.ckpt")
    assert equal(whole.learner.state_dict(), again.learner.state_dict())
    assert next(again.parameters()).dtype == torch.float64


def test_it_trains_compiled():
    plain, compiled = classifier(FeedbackAlignment()), classifier(FeedbackAlignment(), compile=True)
    assert compiled.learner._compiled_call_impl is not None
    torch._dynamo.reset()
    compiled.learner.compile(backend="aot_eager", fullgraph=True)  # the default backend needs a C++ compiler
    fit(plain)
    fit(compiled)
    assert equal(plain.learner.state_dict(), compiled.learner.state_dict(), 1e-6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"stream": True}, "no block boundaries to stream; use stream: false"),
        ({"accumulate": 0}, "accumulate is from 1 to"),
        ({"clip": 0.0}, "clip is a positive bound or null"),
        ({"clip_by": "max"}, "clip_by is one of norm, value"),
        ({"scheduler_interval": "batch"}, "scheduler_interval is one of epoch, step"),
        ({"criterion": "crossentropy"}, "nearest: cross_entropy"),
        ({"network": "lenett"}, "nearest: lenet"),
    ],
)
def test_a_mistake_is_answered_in_one_line(options: dict, words: str):
    with pytest.raises(UserError, match=words) as error:
        classifier(**options)
    assert "\n" not in str(error.value)


def test_a_pattern_of_layer_lr_without_a_match_names_the_nearest():
    with pytest.raises(UserError, match=r"layer_lr: no module matches '2\.\*'"):
        classifier(layer_lr={"2.*": 0.1}).configure_optimizers()


def test_streaming_on_two_devices_is_refused():
    module = classifier(DirectFeedbackAlignment(), stream=True)

    class Two:
        world_size = 2

    module._trainer = Two()
    with pytest.raises(UserError, match=r"stream: false or trainer\.devices: 1"):
        module.gradients(module, (torch.zeros(2, *IMAGE), torch.zeros(2, dtype=torch.long)))


def test_the_totals_of_an_epoch_are_sums_in_64_bits_and_may_be_changed():
    module = Classifier("mlp", network_args={"hidden": [4]}, num_classes=3)
    expected = torch.zeros(3, dtype=torch.float64)
    for step in range(5):
        logits, targets = torch.randn(7, 3), torch.randint(0, 3, (7,))
        surrogate = Surrogate(torch.zeros(()), torch.rand(()), logits)
        with mock.patch.object(Classifier, "trainer", mock.Mock(log_every_n_steps=0)):
            module._count(surrogate, targets, 7 - step)
        correct = (logits.argmax(-1) == targets)[: 7 - step].sum()
        expected += torch.stack([surrogate.loss.double() * (7 - step), correct.double(), torch.tensor(7.0 - step)])
        if step == 2:
            assert torch.equal(module.totals, expected)
            module.totals[0] += 100  # as layer-parallel training does
            expected[0] += 100
    assert torch.equal(module.totals, expected)
    module.totals = torch.ones(3, dtype=torch.float64)
    assert module.totals.tolist() == [1, 1, 1]

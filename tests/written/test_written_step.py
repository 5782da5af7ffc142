"""`step: written` takes the steps of the rule's scalar, bit for bit, and refuses what it has no products for."""

from collections.abc import Callable
from functools import partial
from itertools import product

import lightning as L
import pytest
import torch
from torch import nn

from lit_fa.datamodules import Synthetic
from lit_fa.errors import UserError
from lit_fa.modules import Classifier, Learner
from lit_fa.rules import (
    AdaptiveFeedback,
    Backprop,
    DirectFeedbackAlignment,
    FeedbackAlignment,
    ForwardForward,
    KolenPollackFeedback,
    LearningRule,
    PredSim,
    RandomFeedback,
    SignFeedback,
    SVDBackprop,
    WeightMirrorFeedback,
)
from lit_fa.rules.base import Progress
from lit_fa.written import WrittenGradient
from tests.grids import slow_unless

pytestmark = pytest.mark.usefixtures("one_thread")
FA = FeedbackAlignment
RULES: dict[str, Callable[[], LearningRule]] = {
    "bp": Backprop,
    "fa": FA,
    "fa scaled": partial(FA, RandomFeedback("uniform", scale=2.0)),
    "usf": partial(FA, SignFeedback()),
    "usf by detour": partial(FA, SignFeedback(), backend="detour"),
    "brsf": partial(FA, SignFeedback("brsf", scale=2.0)),
    "kolen-pollack": partial(FA, KolenPollackFeedback()),
    "weight mirror": partial(FA, WeightMirrorFeedback()),
    "adaptive increment": partial(FA, AdaptiveFeedback(reading="increment")),
    "adaptive norm": partial(FA, AdaptiveFeedback(reading="norm")),
    "adaptive mixture": partial(FA, AdaptiveFeedback(reading="mixture")),
    "some layers": partial(FA, layers=["3"], uncovered="allow"),
    "dfa": DirectFeedbackAlignment,
    "dfa shared": partial(DirectFeedbackAlignment, shape="shared"),
    "dfa by detour": partial(DirectFeedbackAlignment, backend="detour"),
    "drtp": partial(DirectFeedbackAlignment, "target"),
    "ff": partial(ForwardForward, "symba"),
    "ff hinton": partial(ForwardForward, goodness="sum", normalise="l2", negatives="hard", strength=2.0, position=3),
    "ff without head": partial(ForwardForward, "margin", head="none", negatives="permutation", normalise="none"),
    "drtp sum": partial(DirectFeedbackAlignment, "target", target_reduction="sum", scale=0.1),
}
SGD = torch.optim.SGD
OPTIMIZERS = {
    "sgd": partial(SGD, lr=0.05),
    "nesterov": partial(SGD, lr=0.02, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "adamw": partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.1),
}
CRITERIA = ("cross_entropy", "mse", "bce")
ACTIVATIONS = (nn.ReLU, nn.Tanh, nn.LeakyReLU, nn.Sigmoid)


def learner(rule: Callable[[], LearningRule], number: int = 0, dtype: torch.dtype = torch.float32) -> Learner:
    torch.manual_seed(0)
    layer = partial(nn.Linear, bias=number % 2 == 0, dtype=dtype)
    activation = ACTIVATIONS[number % 4]
    network = nn.Sequential(nn.Flatten(), layer(36, 33), activation(), layer(33, 20), activation(), layer(20, 10))
    return Learner(network, rule(), torch.zeros(2, 36, dtype=dtype), CRITERIA[number % 3])


def trained(own: Learner, optimizer: Callable, *, written: bool, steps: int = 100) -> list[torch.Tensor]:
    """Losses, parameters, buffers and the optimiser's state after some steps of batch size 32."""
    own.train()
    stepper = optimizer([p for p in own.parameters() if p.requires_grad])
    explicit, losses = WrittenGradient([own]) if written else None, []
    g = torch.Generator().manual_seed(3)
    dtype = next(own.parameters()).dtype
    for step in range(steps):
        batch = torch.randn(32, 1, 6, 6, generator=g).to(dtype), torch.randint(10, (32,), generator=g)
        if explicit is None:
            surrogate = own(batch)
            surrogate.value.backward()
            losses.append(surrogate.loss)
        else:
            losses.append(explicit(batch).losses[0])
        stepper.step()
        stepper.zero_grad()
        own.after_step(Progress(step + 1))
    state = [t for own_state in stepper.state_dict()["state"].values() for t in own_state.values()]
    return [*losses, *own.state_dict().values(), *(t for t in state if torch.is_tensor(t))]


def one_optimizer_each(rule: str, optimizer: str) -> bool:
    return ([*RULES].index(rule) + [*OPTIMIZERS].index(optimizer)) % 3 == 0


@pytest.mark.parametrize(("rule", "optimizer"), slow_unless(one_optimizer_each, product(RULES, OPTIMIZERS)))
def test_a_hundred_written_steps_equal_those_of_autograd(rule: str, optimizer: str):
    number = [*RULES].index(rule) + [*OPTIMIZERS].index(optimizer)
    dtype = torch.float64 if number % 5 == 4 else torch.float32
    both = [trained(learner(RULES[rule], number, dtype), OPTIMIZERS[optimizer], written=way) for way in (True, False)]
    assert len(both[0]) == len(both[1]) > 100
    assert all(torch.equal(a, b) for a, b in zip(*both, strict=True))


def fitted(rule: LearningRule, step: str, *, epochs: int = 2, path: object = None, **options: object) -> Classifier:
    torch.manual_seed(0)
    trainer = options.pop("trainer", {})
    module = Classifier("mlp", rule, image_shape=(1, 6, 6), network_args={"hidden": [24, 16]}, step=step, **options)
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    L.Trainer(accelerator="cpu", max_epochs=epochs, **quiet, **trainer).fit(
        module, Synthetic(n_train=96, n_test=8, image_shape=(1, 6, 6), batch_size=32), ckpt_path=path, weights_only=True
    )
    return module


def same(a: Classifier, b: Classifier) -> bool:
    """Whether weights, buffers and the optimiser's state are equal bit for bit."""
    pairs = [(a.learner.state_dict(), b.learner.state_dict())]
    states = [own.optimizers().optimizer.state_dict()["state"] for own in (a, b)]
    pairs += [(states[0][key], states[1][key]) for key in states[0]]
    return all(torch.equal(x[n], y[n]) for x, y in pairs for n in x if torch.is_tensor(x[n]))


CLIPPED = {"clip": 0.5, "layer_lr": {"blocks.0.*": 0.02}, "optimizer": OPTIMIZERS["nesterov"]}


@pytest.mark.parametrize("step", ["written", "auto"])
def test_a_fit_with_clipping_and_rates_by_layer_is_equal(step: str):
    rule = partial(FA, KolenPollackFeedback())
    own, plain = fitted(rule(), step, **CLIPPED), fitted(rule(), "autograd", **CLIPPED)
    assert own.gradients.written is not None
    assert plain.gradients.written is None
    assert same(own, plain)
    assert own.trainer.callback_metrics["train/loss_epoch"] == plain.trainer.callback_metrics["train/loss_epoch"]


@pytest.mark.parametrize("steps", [("written", "autograd"), ("autograd", "written")])
def test_a_checkpoint_continues_with_the_other_step(tmp_path, steps: tuple[str, str]):
    begun = fitted(FA(), steps[0], epochs=1, **CLIPPED)
    begun.trainer.save_checkpoint(tmp_path / "one.ckpt")
    resumed = fitted(FA(), steps[1], path=tmp_path / "one.ckpt", **CLIPPED)
    assert same(resumed, fitted(FA(), steps[1], **CLIPPED))


class LooksBack(L.Callback):
    def on_after_backward(self, *_: object) -> None:
        pass


REFUSED = {
    "greedy": (partial(ForwardForward, schedule="greedy"), {}, "have no explicit gradient"),
    "label channels": (partial(ForwardForward, label="channels"), {}, "label"),
    "predsim": (PredSim, {}, "PredSim has no explicit gradient"),
    "svd": (partial(SVDBackprop, rank=4), {}, "SVDBackprop has no explicit gradient"),
    "dropout": (FA, {"network_args": {"hidden": [16], "dropout": 0.1}}, "draws random numbers"),
    "gelu": (FA, {"network_args": {"hidden": [16], "activation": "gelu"}}, "no explicit derivative"),
    "conv": (FA, {"network": "lenet", "network_args": None, "image_shape": (1, 28, 28)}, "changes its input"),
    "stream": (DirectFeedbackAlignment, {"stream": True}, "stream: True"),
    "compile": (FA, {"compile": True}, "compile: true"),
    "accumulate": (FA, {"accumulate": 2}, "accumulate: 2"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_products_is_refused_in_one_line(case: str):
    rule, options, reason = REFUSED[case]
    options = {"network": "mlp", "image_shape": (1, 6, 6), "network_args": {"hidden": [16]}} | options
    with pytest.raises(UserError, match=f"step: written .*{reason}.*; set step: auto, or leave it out"):
        Classifier(rule=rule(), step="written", **options)
    assert Classifier(rule=rule(), step="auto", **options).gradients.written is None


TRAINERS = {
    "precision bf16-mixed": {"precision": "bf16-mixed"},
    "LooksBack looks at the backward pass": {"callbacks": [LooksBack()]},
    "detect_anomaly": {"detect_anomaly": True},
}


@pytest.mark.parametrize("reason", TRAINERS)
def test_a_trainer_that_needs_autograd_is_refused_and_auto_gives_way(reason: str):
    with pytest.raises(UserError, match=reason):
        fitted(FA(), "written", epochs=1, trainer=TRAINERS[reason])
    assert fitted(FA(), "auto", epochs=1, trainer=TRAINERS[reason]).gradients.written is None


def test_a_hook_of_the_user_on_a_layer_still_fires_under_auto():
    seen: list[int] = []
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 10))
    network[1].register_forward_hook(lambda *_: seen.append(1))
    module = Classifier(network, FA(), image_shape=(1, 6, 6), step="auto")
    before = len(seen)
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = L.Trainer(accelerator="cpu", max_steps=3, limit_val_batches=0, **quiet)
    trainer.fit(module, Synthetic(n_train=96, n_test=8, image_shape=(1, 6, 6), batch_size=32))
    assert len(seen) - before >= 3


def test_auto_with_several_threads_keeps_autograd():
    torch.set_num_threads(2)
    assert fitted(FA(), "auto", epochs=1).gradients.written is None

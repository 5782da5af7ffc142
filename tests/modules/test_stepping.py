"""`stream: step` updates each block within the backward pass: the same bits, memory that depth does not touch."""

from functools import partial

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import OnExceptionCheckpoint
from torch import nn

from lit_fa.datamodules import Synthetic
from lit_fa.errors import UserError
from lit_fa.modules import Classifier
from lit_fa.modules.stepping import BlockSteps
from lit_fa.rules import (
    AugLocal,
    DirectFeedbackAlignment,
    ForwardForward,
    LearningRule,
    MonoForward,
    PredSim,
    SVDSpaceAlignment,
)
from tests.cases import Case
from tests.contract.costs import peak_bytes
from tests.small_networks import CLASSES

RULES = {
    "dfa": DirectFeedbackAlignment,
    "drtp": partial(DirectFeedbackAlignment, "target"),
    "ff": ForwardForward,
    "predsim": PredSim,
    "auglocal": AugLocal,
    "mono_forward": MonoForward,
}
ADAM = partial(torch.optim.AdamW, lr=1e-2, weight_decay=0.1)
MOMENTUM = partial(torch.optim.SGD, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3)
LOCAL = {"ff", "predsim", "auglocal"}


def module(rule: LearningRule, stream: bool | str, **options) -> Classifier:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Flatten(), nn.Linear(36, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2),
        nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 10),
    )  # fmt: skip
    return Classifier(network, rule, image_shape=(1, 6, 6), stream=stream, **options)


def fit(rule: LearningRule, stream: bool | str, trainer: dict | None = None, **options) -> Classifier:
    trained = module(rule, stream, **options)
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    data = Synthetic(n_train=96, n_test=8, image_shape=(1, 6, 6), batch_size=16)
    options = {"accelerator": "cpu", "max_epochs": 1, "limit_val_batches": 0, **quiet, **(trainer or {})}
    torch.manual_seed(1)
    L.Trainer(**options).fit(trained, data)
    return trained


def same(a: Classifier, b: Classifier) -> bool:
    """Whether weights, buffers and the optimiser's state are equal bit for bit."""
    pairs = [(a.learner.state_dict(), b.learner.state_dict())]
    states = [own.optimizers().optimizer.state_dict()["state"] for own in (a, b)]
    assert states[0].keys() == states[1].keys()
    pairs += [(states[0][key], states[1][key]) for key in states[0]]
    return all(torch.equal(x[n], y[n]) for x, y in pairs for n in x if torch.is_tensor(x[n]))


@pytest.mark.parametrize("optimizer", [ADAM, MOMENTUM], ids=["adamw", "momentum"])
@pytest.mark.parametrize("rule", RULES)
def test_steps_within_the_backward_pass_are_those_of_one_step_after_it(rule: str, optimizer):
    scheduler = partial(torch.optim.lr_scheduler.StepLR, step_size=2, gamma=0.5)
    options = {"optimizer": optimizer, "scheduler": scheduler, "scheduler_interval": "step", "layer_lr": {"1.*": 0.02}}
    options |= {"clip": 0.01} if rule in LOCAL else {"clip": 1e-3, "clip_by": "value"}
    after, within = (fit(RULES[rule](), stream, **options) for stream in (True, "step"))
    assert same(after, within)
    assert within.global_step == after.global_step == 6
    assert not same(within, fit(RULES[rule](), True, **{**options, "clip": None}))  # so clipping is tested


def test_steps_within_the_backward_pass_in_bfloat16():
    options = {"optimizer": ADAM, "trainer": {"precision": "bf16-mixed"}}
    assert same(*(fit(DirectFeedbackAlignment(), stream, **options) for stream in (True, "step")))


class Looks(L.Callback):
    def on_before_optimizer_step(self, *_: object) -> None:
        """Would read gradients."""


KEEPS = {"callbacks": [OnExceptionCheckpoint(".")], "enable_checkpointing": True}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: module(DirectFeedbackAlignment(), "step", accumulate=2), "accumulate: 2 sums"),
        (lambda: module(DirectFeedbackAlignment(), "step", clip=1.0), "norm of all gradients"),
        (lambda: module(ForwardForward(schedule="greedy"), "step"), "edits the gradients"),
        (lambda: module(SVDSpaceAlignment(), "step"), "edits the gradients"),
        (lambda: fit(DirectFeedbackAlignment(), "step", {"callbacks": [Looks()]}), "Looks observes"),
        (
            lambda: fit(
                DirectFeedbackAlignment(),
                "step",
                {"callbacks": [OnExceptionCheckpoint(".")], "enable_checkpointing": True},
            ),
            "half done",
        ),
    ],
    ids=["accumulate", "clip", "greedy", "ssa", "callback", "exception"],
)
def test_what_needs_all_gradients_at_once_is_one_line(make, message: str, tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)  # the callback writes there
    with pytest.raises(UserError, match=message) as error:
        make()
    assert str(error.value).endswith("set stream: true")


def test_a_parameter_of_two_blocks_is_refused_before_its_second_step():
    shared = nn.Linear(3, 3)
    steps = BlockSteps(shared, torch.optim.SGD(shared.parameters(), lr=0.1), None)
    with steps.after(torch.Tensor.backward) as learn:
        learn(shared(torch.ones(2, 3)).sum())
        with pytest.raises(UserError, match="weight has several: set stream: true"):
            learn(shared(torch.ones(2, 3)).sum())


def test_a_step_gives_the_optimiser_only_what_it_reaches_and_then_everything_back():
    first, second, third = (nn.Linear(2, 2) for _ in range(3))
    groups = [{"params": [*first.parameters(), *second.parameters()], "lr": 0.1}, {"params": [*third.parameters()]}]
    optimizer, seen = torch.optim.SGD(groups, lr=0.2), []
    optimizer.register_step_pre_hook(
        lambda o, *_: seen.append([[p.shape for p in g["params"]] for g in o.param_groups])
    )
    before = [(id(g), [id(p) for p in g["params"]]) for g in optimizer.param_groups]
    with BlockSteps(nn.ModuleList([first, second, third]), optimizer, None).after(torch.Tensor.backward) as learn:
        learn(second(torch.ones(1, 2)).sum())
    assert seen == [[[second.weight.shape, second.bias.shape]]]
    assert [(id(g), [id(p) for p in g["params"]]) for g in optimizer.param_groups] == before


def deep(depth: int) -> nn.Module:
    blocks = [nn.Sequential(nn.Linear(64, 64), nn.Tanh()) for _ in range(depth)]
    return nn.Sequential(*blocks, nn.Linear(64, CLASSES))


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_peak_bytes_of_a_step_do_not_grow_with_depth(rule):
    def peak(depth: int) -> int:
        case = Case("deep", rule, partial(deep, depth), (64,), None)
        learner, batch = case.learner(), case.batch(256)
        optimizer = torch.optim.SGD(learner.parameters(), lr=0.01)
        with BlockSteps(learner, optimizer, None).after(torch.Tensor.backward) as learn:
            return peak_bytes(lambda: learner.stream(batch, learn))

    assert abs(peak(64) - peak(16)) <= 0.05 * peak(16)


def test_links_of_direct_feedback_allocate_nothing():
    def peak(depth: int) -> int:
        case = Case("deep", DirectFeedbackAlignment, partial(deep, depth), (64,), None)
        learner, batch = case.learner().float(), case.batch(256)
        batch = (batch[0].float(), batch[1])
        activations = peak_bytes(lambda: learner.network(batch[0]))
        return peak_bytes(lambda: learner(batch)) - activations

    assert abs(peak(64) - peak(16)) < 48 * 512  # less than 512 bytes a block; (n, c) zeros are 14 KiB

"""`stream` learns the same as one backward pass, and holds one block's activations at a time."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn

from lit_fa.errors import UserError
from lit_fa.modules import Learner
from lit_fa.rules import (
    AugLocal,
    Backprop,
    DirectFeedbackAlignment,
    Does,
    FeedbackAlignment,
    ForwardForward,
    LearningRule,
    MonoForward,
    PredSim,
)
from tests.cases import Case, cases
from tests.contract.costs import peak_bytes
from tests.gradients import gradients, largest_difference, taken
from tests.small_networks import CLASSES


def streamed(learner: Learner, batch: tuple) -> dict[str, torch.Tensor]:
    learner.stream(batch, lambda value: value.backward())
    return taken(learner)


@pytest.mark.parametrize("case", cases(where=lambda case: Does.STREAMS in case.rule().does))
def test_streamed_gradients_equal_those_of_one_backward_pass(case: Case):
    learner, batch = case.learner(), case.batch()
    fused, loss = gradients(learner, batch), learner(batch).loss
    # the error is the same numbers, but reaches a block by another sum
    assert largest_difference(streamed(learner, batch), fused) < 1e-15
    surrogate = learner.stream(batch, lambda value: value.backward())
    assert torch.equal(surrogate.loss, loss)
    assert not any(tensor.requires_grad for tensor in surrogate)  # a block's graph is freed with its own backward


@pytest.mark.parametrize("teacher", ["error", "target"])
def test_streaming_sees_the_same_dropout_and_moves_batch_norm_once(teacher: str):
    def build() -> nn.Module:
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Linear(12, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5),
            nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, CLASSES),
        )  # fmt: skip

    case = Case("batch norm", lambda: DirectFeedbackAlignment(teacher), build, (12,), None)
    batch, one, two = case.batch(16), case.learner(), case.learner()
    torch.manual_seed(4)
    fused = gradients(one, batch)
    torch.manual_seed(4)
    assert largest_difference(streamed(two, batch), fused) < 1e-15
    assert largest_difference(two.state_dict(), one.state_dict()) == 0
    assert one.state_dict()["network.1.num_batches_tracked"] == 1


@pytest.mark.parametrize("rule", [Backprop, FeedbackAlignment])
def test_a_rule_without_cuts_says_that_it_cannot_stream(rule: Callable):
    case = Case("no cuts", rule, cases("mlp")[0].values[0].network, (12,), None)
    with pytest.raises(UserError, match="stream: false"):
        streamed(case.learner(), case.batch())


def deep(depth: int) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        width, blocks = 64, []
        for _ in range(depth):
            blocks.append(nn.Sequential(nn.Linear(width, width), nn.Tanh()))
        return nn.Sequential(*blocks, nn.Linear(width, CLASSES))

    return build


def peak_of_streaming(depth: int, rule: Callable[[], LearningRule]) -> int:
    """Bytes above what stood before the step, gradients of the weights apart (they grow with depth by nature)."""
    case = Case("deep", rule, deep(depth), (64,), None)
    learner, batch = case.learner(), case.batch(512)

    def step_and_free(value: torch.Tensor) -> None:
        value.backward()
        learner.zero_grad(set_to_none=True)

    return peak_bytes(lambda: learner.stream(batch, step_and_free))


CUT = {
    "error": partial(DirectFeedbackAlignment, "error"),
    "target": partial(DirectFeedbackAlignment, "target"),
    "ff": ForwardForward,
    "ff_channels": partial(ForwardForward, "symba", label="channels", head="none"),
    "ff_autograd": partial(ForwardForward, backend="autograd"),
    "predsim": PredSim,
    "auglocal": AugLocal,
    "mono_forward": MonoForward,
}


@pytest.mark.parametrize("rule", CUT.values(), ids=CUT)
def test_peak_activation_bytes_of_streaming_do_not_grow_with_depth(rule: Callable[[], LearningRule]):
    shallow, profound = peak_of_streaming(4, rule), peak_of_streaming(32, rule)
    assert abs(profound - shallow) <= 0.1 * shallow


def test_peak_activation_bytes_of_one_backward_pass_do_grow_with_depth():
    """So the measure sees activations."""

    def peak(depth: int) -> int:
        case = Case("deep", DirectFeedbackAlignment, deep(depth), (64,), None)
        learner, batch = case.learner(), case.batch(512)
        return peak_bytes(lambda: learner(batch))

    assert peak(32) > 4 * peak(4)

"""The check that names every weight a rule does not reach."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from lit_fa.errors import UserError
from lit_fa.functional import fused
from lit_fa.layers import coverage, observing
from lit_fa.modules import Learner
from lit_fa.rules import Backprop, DirectFeedbackAlignment, FeedbackAlignment
from tests.adversarial import CARRYING, HARMLESS

X = torch.zeros(2, 4)


class Functional(nn.Module):
    """Multiplies by a weight that no module's forward sees; `how` says by which operation."""

    def __init__(self, how: str):
        super().__init__()
        self.first, self.hidden, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 5)
        self.how = how

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h, w = self.first(x), self.hidden.weight
        h = {
            "linear": lambda: nn.functional.linear(h, w),
            "with_bias": lambda: nn.functional.linear(h, w, self.hidden.bias),
            "matmul": lambda: h @ w,
            "einsum": lambda: torch.einsum("ni,oi->no", h, w),
            "normalised": lambda: h @ nn.functional.normalize(w).t(),
            "scaled": lambda: h @ (2 * w).t(),
            "batched": lambda: torch.bmm(h[:, None], w.t().expand(len(h), 4, 4))[:, 0],
        }[self.how]()
        return self.head(torch.tanh(h))


@pytest.mark.parametrize("how", ["linear", "with_bias", "matmul", "einsum", "normalised", "scaled", "batched"])
def test_a_weight_used_outside_its_module_is_refused_by_name(how: str):
    with pytest.raises(UserError, match=r"hidden\.weight"):
        Learner(Functional(how), FeedbackAlignment(), X)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", CARRYING)
def test_a_weight_that_mixes_units_by_any_operation_is_refused_by_name(name: str, training: bool):
    build, shape, names = CARRYING[name]
    with pytest.raises(UserError) as refusal:
        Learner(build().train(training), FeedbackAlignment(), torch.zeros(2, *shape))
    assert all(f".{expected}" in str(refusal.value) for expected in names)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("backend", ["fused", "detour"])
@pytest.mark.parametrize("name", HARMLESS)
def test_a_scaling_an_addition_and_a_normalisation_are_accepted(name: str, backend: str):
    build, shape = HARMLESS[name]
    learner = Learner(build(), FeedbackAlignment(backend=backend), torch.zeros(2, *shape))
    assert learner.coverage.transported == learner.coverage.unreached == []


def test_a_recurrent_layer_is_refused_with_its_kind_and_a_remedy():
    build, shape, _ = CARRYING["lstm"]
    with pytest.raises(UserError, match=r"Recurrent layers get no feedback \(1\.rnn \(nn\.LSTM\)\): write them with"):
        Learner(build(), FeedbackAlignment(), torch.zeros(2, *shape))


def test_a_frozen_recurrent_layer_in_front_of_all_that_trains_is_accepted():
    build, shape, _ = CARRYING["first_lstm"]
    network = build()
    network[0].requires_grad_(False)
    assert Learner(network, FeedbackAlignment(), torch.zeros(2, *shape)).coverage.transported == []


@contextmanager
def renamed(kind: type, name: str) -> Iterator[None]:
    before, kind.__name__ = kind.__name__, name
    try:
        yield
    finally:
        kind.__name__ = before


def test_our_own_functions_are_known_whatever_they_are_called():
    network = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 5))
    with renamed(fused.LinearFeedback._backward_cls, "Renamed"):
        assert Learner(network, FeedbackAlignment(), X).coverage.transported == []
        assert network(X).grad_fn.name() == "Renamed"


class Stranger(nn.Module):
    """Has a child that is called as our layers' feedback is."""

    def __init__(self):
        super().__init__()
        self.first, self.feedback, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 5)
        self.feedback.register_buffer("scale", torch.ones(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(nn.functional.linear(self.first(x), self.feedback.weight).tanh())


def test_a_weight_in_a_child_that_is_called_feedback_is_covered_all_the_same():
    with pytest.raises(UserError, match=r"feedback\.weight"):
        Learner(Stranger(), FeedbackAlignment(), X)


def test_a_weight_behind_a_detached_activation_is_told_from_a_product_of_weights():
    class Detached(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 5)

        def forward(self, x):
            h = (self.first(x).detach()[:, None] * self.first.weight).sum(-1)  # its gradient reaches first.weight
            return self.head(nn.functional.linear(h, self.second.weight))

    with pytest.raises(UserError, match=r"weights: second\.weight"):
        Learner(Detached(), FeedbackAlignment(uncovered="raise"), X)


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.spare = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 5)), nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)


@pytest.mark.parametrize("rule", [FeedbackAlignment, DirectFeedbackAlignment])
def test_a_tensor_without_gradient_is_refused_by_name_with_a_remedy(rule: type):
    with pytest.raises(UserError, match=r"spare\.bias.*spare\.weight.*uncovered: allow"):
        Learner(Unused(), rule(), X)


def test_a_tensor_without_gradient_is_warned_of_or_allowed_on_request():
    with pytest.warns(UserWarning, match=r"spare\.weight"):
        Learner(Unused(), FeedbackAlignment(uncovered="warn"), X)
    learner = Learner(Unused(), FeedbackAlignment(uncovered="allow"), X)
    assert learner.coverage.unreached == ["spare.bias", "spare.weight"]
    assert Learner(Unused(), Backprop(), X).coverage.unreached == ["spare.bias", "spare.weight"]


def test_a_frozen_tensor_without_gradient_is_nobodys_concern():
    network = Unused()
    network.spare.requires_grad_(False)
    assert Learner(network, FeedbackAlignment(), X).coverage.unreached == []
    assert not network.spare.weight.requires_grad


def test_a_frozen_weight_that_carries_error_is_refused_all_the_same():
    network = Functional("linear")
    network.hidden.requires_grad_(False)
    with pytest.raises(UserError, match=r"hidden\.weight"):
        Learner(network, FeedbackAlignment(), X)


def test_under_backprop_every_weight_behind_the_first_carries_error():
    network = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 5))
    x = torch.randn(2, 4)
    found = coverage(network, lambda: network(x).sum(), [x])
    assert found.transported == ["2.weight"]
    assert found.unreached == []


def test_observing_restores_what_a_forward_pass_in_training_mode_moves():
    network = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    network(torch.randn(3, 4)).sum().backward()
    state, random = {k: v.clone() for k, v in network.state_dict().items()}, torch.get_rng_state()
    grads = [p.grad for p in network.parameters()]
    with observing(network):
        network(torch.randn(3, 4)).sum().backward()
        network.eval()
    assert all(torch.equal(v, state[k]) for k, v in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(p.grad is g for p, g in zip(network.parameters(), grads, strict=True))
    assert network.training
    assert network[1].training

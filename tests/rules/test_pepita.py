"""PEPITA: what follows from the formula of its update, and which networks it refuses."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

from lit_fa.errors import UserError
from lit_fa.modules import Learner
from lit_fa.networks import create_network
from lit_fa.rules import PEPITA, FeedbackAlignment, LearningRule
from tests.gradients import gradients, largest_difference
from tests.reference.network import conv_windows

D = torch.float64
CLASSES = 3


def mlp(activation: type[nn.Module] = nn.Tanh, dropout: float = 0.0) -> nn.Sequential:
    torch.manual_seed(0)
    hidden = [nn.Linear(6, 8), activation(), nn.Dropout(dropout), nn.Linear(8, 7), activation(), nn.Dropout(dropout)]
    return nn.Sequential(*hidden, nn.Linear(7, CLASSES)).to(D)


def learner(network: nn.Module, rule: LearningRule, *shape: int, criterion: str = "cross_entropy") -> Learner:
    return Learner(network, rule, torch.zeros(2, *shape, dtype=D), criterion)


def batch(*shape: int, n: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    return torch.rand(n, *shape, generator=g, dtype=D), torch.randint(CLASSES, (n,), generator=g)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_without_feedback_no_hidden_layer_moves_and_the_output_layer_is_softmax_regression(dropout: float):
    pepita, other = (learner(mlp(nn.ReLU, dropout), PEPITA(error, scale=0.0), 6) for error in ("second", "first"))
    x, y = batch(6, n=64)
    torch.manual_seed(4)
    grads = gradients(pepita, (x, y))
    torch.manual_seed(4)
    first = gradients(other, (x, y))
    assert largest_difference(grads, first) == 0
    head = {name: grads.pop(f"network.6.{name}") for name in ("weight", "bias")}
    assert all((g == 0).all() for g in grads.values())  # the masks of both passes are the same
    if not dropout:
        features = pepita.network[:-1](x).detach()
        regression = copy.deepcopy(pepita.network[-1])
        nn.functional.cross_entropy(regression(features), y).backward()
        torch.testing.assert_close(head["weight"], regression.weight.grad, rtol=0, atol=1e-15)


@pytest.mark.parametrize("error", ["first", "second"])
def test_where_the_error_is_zero_nothing_is_updated(error: str):
    pepita, (x, _) = learner(mlp(), PEPITA(error), 6, criterion="mse"), batch(6)
    with torch.no_grad():
        wanted = pepita.network(x)
    assert all((g == 0).all() for g in gradients(pepita, (x, wanted)).values())


def test_an_update_of_a_convolution_is_the_mean_over_its_positions():
    network = nn.Sequential(
        nn.Conv2d(2, 4, 3, bias=False), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, CLASSES)
    ).to(D)
    pepita, (x, y) = learner(network, PEPITA(scale=1.0), 2, 6, 6), batch(2, 6, 6)
    grads = gradients(pepita, (x, y))
    error = torch.softmax(network(x), 1) - torch.eye(CLASSES, dtype=D)[y]
    other = x + torch.einsum("nc,cihw->nihw", error, pepita.rule.feedback)
    difference = (network[:2](x) - network[:2](other)).detach().numpy()
    expected = torch.zeros_like(network[0].weight)
    for (o, p, q), window in conv_windows(("conv", network[0].weight, None, 1, 0, 1, 1), x.shape):
        expected[o] += (torch.tensor(difference[:, o, p, q])[:, None, None, None] * other[window]).sum(0) / (5 * 16)
    torch.testing.assert_close(grads["network.0.weight"], expected.detach(), rtol=0, atol=1e-13)


def test_a_small_projection_gives_feedback_alignment_with_the_matrix_minus_w1_f():
    """To first order, Dellaferrera & Kreiman's rule is FA with B^T = -W_1 F (2302.05440)."""
    x, y = batch(6)
    differences = []
    for scale in (1e-3, 1e-4):
        network = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, CLASSES)).to(D)
        fa = learner(copy.deepcopy(network), FeedbackAlignment(), 6)
        pepita = learner(network, PEPITA(scale=scale), 6)
        fa.network[2].feedback.weight.copy_(-(network[0].weight.detach() @ pepita.rule.feedback.t()).t())
        mine, theirs = (gradients(made, (x, y))["network.0.weight"] / scale for made in (pepita, fa))
        differences.append((mine - theirs).abs().max() / theirs.abs().max())
    assert differences[0] < 0.01
    assert differences[1] < differences[0] / 9  # the error is of the order of F


def test_in_a_linear_network_the_hidden_update_changes_its_sign_with_the_projection():
    pepita, (x, y) = learner(mlp(nn.Identity), PEPITA(scale=1e-4), 6), batch(6)
    before = gradients(pepita, (x, y))
    pepita.rule.feedback.neg_()
    after = gradients(pepita, (x, y))
    for name in ("network.0.weight", "network.3.weight"):
        assert (before[name] + after[name]).abs().max() < 1e-3 * before[name].abs().max()


def test_a_network_of_one_layer_is_softmax_regression_on_the_modulated_input():
    network, (x, y) = nn.Sequential(nn.Linear(6, CLASSES)).to(D), batch(6)
    pepita = learner(network, PEPITA(scale=1.0), 6)
    grads = gradients(pepita, (x, y))
    error = torch.softmax(network(x), 1) - torch.eye(CLASSES, dtype=D)[y]
    twin = copy.deepcopy(network)
    nn.functional.cross_entropy(twin((x + error @ pepita.rule.feedback).detach()), y).backward()
    torch.testing.assert_close(grads["network.0.weight"], twin[0].weight.grad, rtol=0, atol=1e-14)


def test_both_passes_have_one_dropout_mask_which_is_drawn_anew_for_every_batch():
    pepita, pair = learner(mlp(nn.ReLU, 0.5), PEPITA(), 6).train(), batch(6, n=64)
    one, other = (gradients(pepita, pair)["network.0.weight"] for _ in range(2))
    assert not torch.equal(one, other)
    pepita.eval()
    one, other = (gradients(pepita, pair)["network.0.weight"] for _ in range(2))
    assert torch.equal(one, other)


def test_under_autocast_the_passes_have_the_precision_of_the_weights():
    pepita, (x, y) = Learner(mlp().float(), PEPITA(), torch.zeros(2, 6)), batch(6)
    expected = gradients(pepita, (x.float(), y))
    with torch.autocast("cpu", torch.bfloat16):
        value = pepita((x.float(), y)).value
    value.backward()
    assert all(torch.equal(p.grad, expected[name]) for name, p in pepita.named_parameters())


def test_the_projection_is_drawn_as_in_the_authors_code():
    made = learner(create_network("mlp", 10, (1, 28, 28)).to(D), PEPITA(seed=1), 1, 28, 28)
    bound = 0.05 * (6 / 784) ** 0.5
    assert made.rule.feedback.shape == (10, 1, 28, 28)
    assert 0.99 * bound < made.rule.feedback.abs().max() <= bound


def shortcut() -> nn.Module:
    class Shortcut(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.head = nn.Linear(6, 6), nn.Linear(6, CLASSES)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(x + self.first(x))

    return Shortcut()


def twice() -> nn.Module:
    tanh = nn.Tanh()
    return nn.Sequential(nn.Linear(6, 6), tanh, nn.Linear(6, 6), tanh, nn.Linear(6, CLASSES))


def conv(*after: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 2, 1), *after, nn.Flatten(), nn.LazyLinear(CLASSES))


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (shortcut, "head does not read the module before: write the operations between its layers as modules"),
        (twice, "1 runs more than once in a forward pass: give each place a module of its own"),
        (lambda: nn.Sequential(nn.Linear(6, CLASSES), nn.Softmax(1)), "but with 1: remove what follows it"),
        (lambda: nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, CLASSES)), "set affine: false"),
        (lambda: nn.Sequential(nn.Linear(6, 4), nn.AlphaDropout(), nn.Linear(4, CLASSES)), "use nn.Dropout"),
        (partial(conv, nn.MaxPool2d(2), nn.ReLU()), "3 follows a pool or flatten: put it before, after 1"),
    ],
)
def test_a_network_that_does_not_fit_is_refused_in_one_line(build, said: str):
    network = build().to(D)
    network(torch.zeros(2, 6, dtype=D))
    with pytest.raises(UserError, match=said) as refusal:
        learner(network, PEPITA(), 6)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "options", [{"scale": -1.0}, {"scale": float("nan")}, {"output_error": "third"}, {"init": "x"}]
)
def test_an_invalid_option_is_refused(options: dict):
    with pytest.raises(UserError):
        PEPITA(**options)


def test_an_input_of_token_ids_is_refused():
    with pytest.raises(UserError, match="use images or vectors"):
        Learner(nn.Sequential(nn.Embedding(5, 4), nn.Flatten(), nn.Linear(8, 2)), PEPITA(), torch.ones(2, 2).long())

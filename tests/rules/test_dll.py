"""Dendritic localized learning: what its equations imply, and where paper and code differ."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from lit_fa.layers import feedback_layers
from lit_fa.modules import Classifier, Learner
from lit_fa.rules import DLL, Backprop, FeedbackAlignment, LearningRule, RandomFeedback
from tests.gradients import gradients, largest_difference

CLASSES = 3


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4, bias=False), nn.ReLU(), nn.Linear(4, CLASSES)]
    return nn.Sequential(*layers).double()


def learner(rule: LearningRule, net: nn.Module | None = None) -> Learner:
    return Learner(net or network(), rule, torch.zeros(2, 6, dtype=torch.float64))


def batch(n: int = 7) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(3)
    return torch.randn(n, 6, generator=g, dtype=torch.float64), torch.randint(CLASSES, (n,), generator=g)


def thetas(made: Learner) -> dict[str, nn.Parameter]:
    return {name: layer.feedback.weight for name, layer in feedback_layers(made.network).items()}


def split(grads: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Gradients of the network's own parameters, and of Theta."""
    of_theta = {name: g for name, g in grads.items() if name.endswith("feedback.weight")}
    return {name: g for name, g in grads.items() if name not in of_theta}, of_theta


def errors(made: Learner) -> dict[str, Tensor]:
    """Theta^T d of the last layer, whose d depends on no Theta, for each sample of the batch."""
    logits = made.network(batch()[0])
    d = torch.nn.functional.one_hot(batch()[1], CLASSES) - logits.softmax(1)
    return (d @ made.network[4].feedback.weight).detach()


def test_with_theta_equal_to_the_weights_the_update_of_the_weights_is_backprops():
    made = learner(DLL())
    for name, theta in thetas(made).items():
        theta.data.copy_(made.network.get_parameter(f"{name}.weight"))
    assert largest_difference(split(gradients(made, batch()))[0], gradients(learner(Backprop()), batch())) < 1e-14


@pytest.mark.parametrize("theta", ["descent", "ascent", "fixed"])
def test_the_update_of_the_weights_is_feedback_alignments(theta: str):
    made = learner(DLL(theta, "xavier_normal", scale=2.0, seed=4))
    alignment = learner(FeedbackAlignment(RandomFeedback("xavier_normal", 2.0, 4)))
    weights, of_theta = split(gradients(made, batch()))
    assert largest_difference(weights, gradients(alignment, batch())) == 0
    assert len(of_theta) == (0 if theta == "fixed" else 2)
    assert made.state_dict().keys() == alignment.state_dict().keys()


@pytest.mark.parametrize(("theta", "sign"), [("descent", 1), ("ascent", -1)])
def test_the_papers_sign_shrinks_theta_along_the_errors_and_the_codes_sign_extends_it(theta: str, sign: int):
    made = learner(DLL(theta))
    before = errors(made).square().sum()
    for _ in range(3):
        grads = split(gradients(made, batch()))[1]
        with torch.no_grad():
            for name, p in thetas(made).items():
                p -= 0.1 * grads[f"network.{name}.feedback.weight"]
        after = errors(made).square().sum()
        assert sign * (before - after) > 0
        before = after


def test_the_two_signs_are_opposite():
    one, other = (split(gradients(learner(DLL(theta)), batch()))[1] for theta in ("descent", "ascent"))
    assert largest_difference(one, {name: -g for name, g in other.items()}) == 0


@pytest.mark.parametrize("n", [1, 2])
def test_the_gradient_of_theta_has_at_most_the_rank_of_the_batch(n: int):
    for g in split(gradients(learner(DLL()), batch(n)))[1].values():
        assert torch.linalg.matrix_rank(g, rtol=1e-10) <= n


def test_the_gradient_of_theta_is_linear_in_theta():
    made = learner(DLL())
    before = gradients(made, batch())["network.4.feedback.weight"]
    thetas(made)["4"].data.mul_(2)  # d of the last layer depends on no Theta
    assert torch.equal(gradients(made, batch())["network.4.feedback.weight"], 2 * before)


def test_the_first_layer_has_no_theta_and_a_network_of_one_layer_is_softmax_regression():
    assert [*thetas(learner(DLL()))] == ["2", "4"]
    single = partial(nn.Sequential, nn.Flatten())
    grads = []
    for rule in (DLL(), Backprop()):
        torch.manual_seed(0)
        grads.append(gradients(learner(rule, single(nn.Linear(6, CLASSES).double())), batch()))
    assert largest_difference(*grads) == 0


def test_a_factor_on_theta_multiplies_each_hidden_update_by_its_power():
    one, four = learner(DLL()), learner(DLL(scale=4.0))
    small, large = (split(gradients(made, batch()))[0] for made in (one, four))
    powers = {"network.4": 1, "network.2": 4, "network.0": 16}
    assert largest_difference(large, {name: powers[name[:9]] * g for name, g in small.items()}) == 0


def test_under_adam_a_factor_on_theta_does_not_change_the_weights():
    """The clamp of the code, which there is none of here, is what would make the scale of Theta matter."""
    weights = []
    for scale in (1.0, 64.0):
        made = learner(DLL("fixed", scale=scale))
        adam = torch.optim.Adam(made.parameters(), lr=1e-2, eps=1e-30)
        for _ in range(5):
            adam.zero_grad()
            made(batch()).value.backward()
            adam.step()
        weights.append({name: p.detach() for name, p in made.named_parameters()})
    assert largest_difference(*weights) < 1e-12


def test_layer_lr_sets_the_rate_of_theta_and_clip_bounds_it_by_itself():
    module = Classifier(network(), DLL(), CLASSES, (6,), layer_lr={"*.feedback.weight": 1e-4}, clip=1.0)
    rest, of_theta = module.parameter_groups()
    assert {id(p) for p in of_theta["params"]} == {id(p) for p in thetas(module.learner).values()}
    assert of_theta["lr"] == 1e-4
    assert len(rest["params"]) == 5


def test_theta_of_a_frozen_weight_is_frozen():
    net = network()
    net[2].weight.requires_grad_(False)
    assert {name for name in split(gradients(learner(DLL(), net), batch()))[1]} == {"network.4.feedback.weight"}

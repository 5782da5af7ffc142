"""Error broadcast and decorrelation: what its equations imply."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from lit_fa.errors import UserError
from lit_fa.functional.criteria import mse
from lit_fa.modules import Classifier, Learner
from lit_fa.rules import EBD, Backprop, DirectFeedbackAlignment, LearningRule
from tests.federated.federation import trained
from tests.gradients import gradients, largest_difference

CLASSES = 3


def network(activation: Callable[[], nn.Module] = nn.Tanh) -> nn.Module:
    torch.manual_seed(0)
    hidden = [nn.Linear(6, 5), activation(), nn.Linear(5, 4, bias=False), activation()]
    return nn.Sequential(*hidden, nn.Linear(4, CLASSES, bias=False)).double()


def half_square(logits: Tensor, targets: Tensor) -> Tensor:
    """1/2 |H_L - Y|^2, the mean over the batch: the paper's criterion, whose score is the error."""
    return (logits - nn.functional.one_hot(targets, CLASSES)).square().sum(1).mean() / 2


def learner(rule: LearningRule, criterion: object = "mse", activation: Callable[[], nn.Module] = nn.Tanh) -> Learner:
    return Learner(network(activation), rule, torch.zeros(2, 6, dtype=torch.float64), criterion)


def batch(seed: int = 3) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(7, 6, generator=g, dtype=torch.float64), torch.randint(CLASSES, (7,), generator=g)


def of_network(grads: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: g for name, g in grads.items() if name.startswith("network.")}


def with_estimates(made: Learner, *matrices: Tensor) -> Learner:
    """The learner with these R, each (units, c)."""
    for estimate, matrix in zip(made.rule.estimates.values(), matrices, strict=True):
        estimate.data.copy_(matrix.detach().t())
    return made


@pytest.mark.parametrize("criterion", ["cross_entropy", "mse"])
@pytest.mark.parametrize("order", ["estimate_first", "broadcast_first"])
def test_with_lambda_one_it_is_direct_feedback_alignment_bit_for_bit(criterion: str, order: str):
    options = {"init": "normal", "scale": 2.0, "seed": 5}
    made = learner(EBD(1.0, "score", order=order, **options), criterion)
    direct = learner(DirectFeedbackAlignment(**options), criterion)
    assert largest_difference(gradients(made, batch()), gradients(direct, batch())) == 0
    made.edit_gradients()
    assert largest_difference(made.rule.links, direct.rule.links) == 0


def test_with_lambda_zero_hidden_layers_descend_on_half_the_squared_correlation():
    made = learner(EBD(0.0, "score"), half_square)
    grads = gradients(made, batch())
    x, y = batch()
    error = (made.network(x) - nn.functional.one_hot(y, CLASSES)).detach()
    inputs, weights = x, [made.network[0].weight, made.network[2].weight]
    for end, weight in zip((2, 4), weights, strict=True):
        h = made.network[end - 2 : end](inputs)
        objective = (h.t() @ error / len(x)).square().sum() / 2
        assert torch.allclose(torch.autograd.grad(objective, weight)[0], grads[f"network.{end - 2}.weight"], atol=1e-16)
        inputs = h.detach()


@pytest.mark.parametrize("criterion", ["cross_entropy", "mse"])
def test_with_the_transposed_output_weights_the_last_hidden_layer_learns_as_by_backprop(criterion: str):
    made = learner(EBD(1.0, "score"), criterion)
    head = made.network[4].weight
    with_estimates(made, made.network[2].weight.t() @ head.t(), head.t())
    found, expected = gradients(made, batch()), gradients(learner(Backprop(), criterion), batch())
    assert torch.allclose(found["network.2.weight"], expected["network.2.weight"], atol=1e-16)
    assert not torch.allclose(found["network.0.weight"], expected["network.0.weight"])


def test_in_a_linear_network_the_products_of_the_weights_give_backprop_in_every_layer():
    made = learner(EBD(1.0, "score"), half_square, nn.Identity)
    head = made.network[4].weight
    with_estimates(made, made.network[2].weight.t() @ head.t(), head.t())
    expected = gradients(learner(Backprop(), half_square, nn.Identity), batch())
    assert largest_difference(gradients(made, batch()), expected) < 1e-15


def test_minus_the_estimate_of_the_last_hidden_layer_mirrors_the_output_weights():
    rate = 0.05  # 1 - lambda; the same share of the weights decays
    made = learner(EBD(1 - rate, "score"), half_square)
    head = made.network[4].weight
    with_estimates(made, torch.zeros(5, CLASSES), -head.t())
    sgd = torch.optim.SGD(made.network.parameters(), lr=rate, weight_decay=1.0)
    for seed in range(5):
        made(batch(seed)).value.backward()
        made.edit_gradients()
        sgd.step()
        sgd.zero_grad()
        assert torch.allclose(-made.rule.estimates["3"], head, atol=1e-15)


def test_without_error_the_weights_stay_and_the_estimate_decays():
    torch.manual_seed(0)
    made = learner(EBD(0.75, scale=1.0))
    x, _ = batch()
    before = {name: link.clone() for name, link in made.rule.links.items()}
    made((x, made.network(x).detach())).value.backward()
    assert all(not p.grad.any() for p in made.network.parameters())
    made.edit_gradients()
    assert largest_difference(made.rule.links, {name: 0.75 * link for name, link in before.items()}) == 0


def test_the_error_under_the_mean_squared_error_is_the_score_of_half_the_squared_distance():
    one, other = learner(EBD(0.5)), learner(EBD(0.5, "score"), half_square)
    found, expected = gradients(one, batch()), gradients(other, batch())
    found.pop("network.4.weight"), expected.pop("network.4.weight")  # the output layer follows the criterion
    assert largest_difference(found, expected) < 1e-16


def test_the_two_signs_are_opposite_in_hidden_layers():
    plus, minus = (of_network(gradients(learner(EBD(0.5, sign=sign)), batch())) for sign in ("plus", "minus"))
    assert torch.equal(plus.pop("network.4.weight"), minus.pop("network.4.weight"))
    assert largest_difference(plus, {name: -g for name, g in minus.items()}) == 0


def test_no_optimiser_has_the_estimates():
    module = Classifier(network(), EBD(), CLASSES, (6,), criterion="mse")
    (group,) = module.parameter_groups()
    assert {id(p) for p in group["params"]} == {id(p) for p in module.network.parameters()}


@pytest.mark.parametrize("server", [partial(torch.optim.SGD, lr=1.0), partial(torch.optim.Adam, lr=0.5)])
def test_a_federated_server_averages_the_estimates_whatever_its_optimiser(server: Callable):
    def after_a_round(**options: object) -> dict[str, Tensor]:
        module = trained(rule=EBD(0.5, "score", scale=1.0), rounds=1, **options)
        return {name: link.clone() for name, link in module.rule.links.items()}

    found, plain = after_a_round(optimizer=server), after_a_round()
    assert largest_difference(found, plain) == 0
    assert all(0 < link.norm() < 1 for link in found.values())


def test_an_error_of_an_unknown_criterion_is_refused_with_the_remedy():
    with pytest.raises(UserError, match=r"broadcast: error is for criterion mse.*set broadcast: score"):
        learner(EBD(), half_square)
    assert mse is learner(EBD()).criterion


@pytest.mark.parametrize("lam", [-0.1, 1.1])
def test_lambda_is_a_share(lam: float):
    with pytest.raises(UserError, match="lam is a number from 0 to 1"):
        EBD(lam)


def test_a_network_without_a_hidden_block_is_refused():
    with pytest.raises(UserError, match="needs a hidden block"):
        Learner(nn.Sequential(nn.Linear(6, CLASSES)), EBD(), torch.zeros(2, 6))

"""Counter-current learning: who learns from what, invariances of its losses, and which networks it refuses."""

import copy
from functools import partial

import lightning as L
import pytest
import torch
from torch import nn

from lit_fa.datamodules import Synthetic
from lit_fa.errors import UserError
from lit_fa.modules import Classifier, Learner
from lit_fa.rules import CCL, LearningRule
from tests.gradients import gradients, largest_difference

D = torch.float64
CLASSES = 3


def mlp(activation: type[nn.Module] = nn.ELU, bias: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    hidden = [nn.Linear(6, 8, bias), activation(), nn.Linear(8, 7, bias), activation()]
    return nn.Sequential(*hidden, nn.Linear(7, CLASSES, bias)).to(D)


def learner(network: nn.Module, rule: LearningRule, *shape: int) -> Learner:
    return Learner(network, rule, torch.zeros(2, *shape or (6,), dtype=D))


def batch(n: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    return torch.randn(n, 6, generator=g, dtype=D), torch.randint(CLASSES, (n,), generator=g)


def half(grads: dict, name: str) -> dict:
    return {key: grad for key, grad in grads.items() if key.startswith(name)}


LOSSES = pytest.mark.parametrize("loss", ["product", "normalised", "paper"])


@LOSSES
def test_the_last_layer_is_a_softmax_classifier_on_its_input(loss: str):
    ccl, (x, y) = learner(mlp(), CCL(loss)), batch()
    grads = gradients(ccl, (x, y))
    head = copy.deepcopy(ccl.network[4])
    nn.functional.cross_entropy(head(ccl.network[:4](x).detach()), y).backward()
    assert torch.equal(grads["network.4.weight"], head.weight.grad)


@LOSSES
@pytest.mark.parametrize("frozen", ["network", "rule"])
def test_a_frozen_network_still_teaches_the_other(loss: str, frozen: str):
    """As if a_l, or b_l, stood behind a stop-gradient in the losses."""
    ccl, pair = learner(mlp(), CCL(loss)), batch()
    before = gradients(ccl, pair)
    getattr(ccl, frozen).requires_grad_(False)
    after = gradients(ccl, pair)
    other = "rule" if frozen == "network" else "network"
    assert after.keys() == half(before, other).keys()
    assert largest_difference(after, half(before, other)) == 0


@LOSSES
def test_no_gradient_passes_a_layer(loss: str):
    """What changes above a layer, or below a layer of the feedback network, does not change its update."""
    ccl, pair = learner(mlp(), CCL(loss)), batch()
    before = gradients(ccl, pair)
    with torch.no_grad():
        ccl.network[4].weight.mul_(2)
        ccl.network[2].weight.mul_(3)
    after = gradients(ccl, pair)
    assert torch.equal(after["network.0.weight"], before["network.0.weight"])
    assert not torch.equal(after["network.2.weight"], before["network.2.weight"])
    with torch.no_grad():
        ccl.rule.reverse["0"].layer.weight.mul_(2)
        ccl.rule.reverse["2"].layer.weight.mul_(2)
    last = gradients(ccl, pair)
    assert torch.equal(last["rule.reverse.4.layer.weight"], after["rule.reverse.4.layer.weight"])
    assert not torch.equal(last["rule.reverse.2.layer.weight"], after["rule.reverse.2.layer.weight"])


def test_with_fixed_feedback_a_linear_layer_is_a_regression_onto_the_prototypes_of_the_classes():
    ccl, (x, y) = learner(mlp(nn.Identity), CCL()), batch()
    grads = gradients(ccl, (x, y))
    prototypes = ccl.rule.signals(torch.zeros(1, dtype=D))[1].detach()
    weight = ccl.network[0].weight.detach()
    residual = (x @ weight.t()) @ prototypes.t() - torch.eye(CLASSES, dtype=D)[y]
    expected = 2 * 128 / (8 * 5 * CLASSES) * (residual @ prototypes).t() @ x
    torch.testing.assert_close(grads["network.0.weight"], expected, rtol=0, atol=1e-12)


@LOSSES
def test_permuting_the_classes_with_the_columns_that_read_them_leaves_the_scalar_unchanged(loss: str):
    ccl, (x, y) = learner(mlp(), CCL(loss)), batch()
    before, order = ccl((x, y)).value, torch.tensor([2, 0, 1])
    with torch.no_grad():
        top = ccl.rule.reverse["4"].layer.weight
        top.copy_(top[:, order].clone())
        ccl.network[4].weight.copy_(ccl.network[4].weight[order].clone())
    torch.testing.assert_close(ccl((x, order.argsort()[y])).value, before, rtol=0, atol=1e-12)


@LOSSES
def test_only_the_unnormalised_loss_depends_on_the_size_of_the_activations(loss: str):
    ccl, pair = learner(mlp(nn.ReLU), CCL(loss)), batch()
    before = ccl(pair).value
    with torch.no_grad():
        ccl.network[0].weight.mul_(4)
        ccl.network[2].weight.div_(4)
    change = (ccl(pair).value - before).abs()
    assert change > 1e-3 if loss == "product" else change < 1e-6


def trained(rate: float | None) -> tuple[dict, dict]:
    """The learner before and after one epoch; `rate` of the feedback network."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ELU(), nn.Linear(8, 4))
    data = Synthetic(n_train=32, n_test=8, image_shape=(1, 4, 4), num_classes=4, batch_size=8, device="cpu", seed=1)
    rates = {} if rate is None else {"rule.reverse.*": rate}
    module = Classifier(network, CCL(), 4, (1, 4, 4), optimizer=partial(torch.optim.SGD, lr=0.1), layer_lr=rates)
    before = copy.deepcopy(module.learner.state_dict())
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    L.Trainer(max_epochs=1, accelerator="cpu", limit_val_batches=0, **quiet).fit(module, data)
    return before, module.learner.state_dict()


def test_a_rate_of_zero_fixes_the_feedback_network_alone():
    before, after = trained(0.0)
    assert all(torch.equal(after[name], before[name]) for name in before if name.startswith("rule.reverse"))
    assert not torch.equal(after["network.1.weight"], before["network.1.weight"])
    before, after = trained(None)
    assert not any(torch.equal(after[name], before[name]) for name in before)


def test_the_norms_of_the_two_networks_are_bounded_separately():
    parts = learner(mlp(), CCL()).parts(torch.zeros(2, 6, dtype=D))
    assert {name: part for name, part in parts.items() if part} == {
        f"rule.reverse.{layer}.layer.weight": 1 for layer in (0, 2, 4)
    }


def test_the_feedback_network_mirrors_pools_flattens_and_nonlinearities():
    conv = [
        nn.Conv2d(2, 4, 3, padding=1),
        nn.ELU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3, stride=2, padding=1),
        nn.Tanh(),
    ]
    ccl = learner(nn.Sequential(*conv, nn.Flatten(), nn.Linear(24, CLASSES)).to(D), CCL(), 2, 8, 8)
    assert [tuple(b.shape) for b in ccl.rule.signals(torch.zeros(1, dtype=D))] == [(3, 2, 8, 8), (3, 4, 4, 4), (3, 24)]
    kinds = [[type(m) for m in stage] for stage in ccl.rule.reverse.values()]
    assert [kind[-1] for kind in kinds] == [nn.Conv2d, nn.ELU, nn.Tanh]


@pytest.mark.parametrize(
    ("attempt", "said"),
    [
        (lambda: CCL("frobenius"), "loss is one of product, normalised, paper"),
        (lambda: CCL(weight=0.0), "weight is a positive number"),
        (lambda: learner(nn.Sequential(nn.Linear(6, 1)).to(D), CCL()), "has one output: set num_classes"),
        (lambda: learner(nn.Sequential(nn.Conv1d(2, 3, 1), nn.Flatten(), nn.Linear(12, 3)).to(D), CCL(), 2, 4),
         r"0 is a Conv1d on \(2, 4\): use other layers, or nn.Flatten before it"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_in_one_line(attempt, said: str):
    with pytest.raises(UserError, match=said) as refusal:
        attempt()
    assert "\n" not in str(refusal.value)

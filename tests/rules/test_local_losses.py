"""PredSim and AugLocal: what a block learns from, how deep its auxiliary network is, and what never crosses a cut."""

from collections.abc import Callable

import pytest
import timm
import torch
from torch import nn

from lit_fa.errors import UserError
from lit_fa.functional.criteria import cross_entropy, one_hot
from lit_fa.functional.similarity import similarity_matching
from lit_fa.modules import Learner
from lit_fa.networks import create_network
from lit_fa.rules import AugLocal, LearningRule, PredSim
from tests.gradients import gradients, largest_difference, taken

BOTH = pytest.mark.parametrize("rule", [PredSim, AugLocal])


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 6), nn.Tanh(), nn.Linear(6, 5)
    ).double()  # fmt: skip


def conv() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.Tanh(),
        nn.Flatten(), nn.Linear(54, 5),
    ).double()  # fmt: skip


def learner(network: nn.Module, rule: LearningRule, *shape: int) -> Learner:
    return Learner(network, rule, torch.zeros(2, *shape, dtype=torch.float64))


def batch(*shape: int, n: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    return torch.randn(n, *shape, generator=g, dtype=torch.float64), torch.arange(n) % 5


def of_network(grads: dict, ends: range) -> dict:
    return {name: g for name, g in grads.items() if name.startswith("network.") and int(name.split(".")[1]) in ends}


# --- the losses ------------------------------------------------------------------------------------------------------


def test_the_value_is_the_sum_of_the_blocks_losses_and_the_true_one_which_is_reported():
    made, (x, y) = learner(mlp(), PredSim(beta=0.3), 6), batch(6)
    surrogate, h, total = made((x, y)), x, 0.0
    for end in (2, 4, 6):
        h = made.network[end - 2 : end](h)
        parts = made.rule.auxiliary[str(end - 1)]
        total += 0.7 * cross_entropy(parts["prediction"](h), y)
        total += 0.3 * similarity_matching(parts["similarity"](h), one_hot(y, surrogate.logits))
    true = cross_entropy(made.network[6](h), y)
    assert torch.allclose(surrogate.value, total + true, rtol=1e-14)
    assert torch.equal(surrogate.loss, true)


def test_the_read_out_starts_at_zero_so_the_first_update_of_pred_leaves_the_block_alone():
    grads = gradients(learner(mlp(), PredSim("pred"), 6), batch(6))
    assert all(g.abs().max() == 0 for g in of_network(grads, range(6)).values())
    assert all(grads[f"rule.auxiliary.{k}.prediction.linear.weight"].abs().max() > 0 for k in (1, 3, 5))
    assert grads["network.6.weight"].abs().max() > 0


def test_sim_moves_the_block_from_the_first_step_on():
    grads = gradients(learner(mlp(), PredSim("sim"), 6), batch(6))
    assert all(g.abs().max() > 0 for name, g in of_network(grads, range(6)).items() if name.endswith("weight"))


@pytest.mark.parametrize(("loss", "parts"), [("pred", ["prediction"]), ("sim", ["similarity"])])
def test_a_part_of_predsim_has_no_layer_of_the_other(loss: str, parts: list[str]):
    assert [*learner(mlp(), PredSim(loss), 6).rule.auxiliary["1"]] == parts


def test_predsim_is_pred_at_beta_zero_and_sim_at_beta_one():
    for beta, loss in ((0.0, "pred"), (1.0, "sim")):
        whole, part = learner(mlp(), PredSim(beta=beta), 6), learner(mlp(), PredSim(loss), 6)
        expected = gradients(part, batch(6))
        grads = gradients(whole, batch(6))
        assert largest_difference({name: grads[name] for name in expected}, expected) < 1e-16


def test_the_criterion_is_also_that_of_the_blocks():
    made = Learner(mlp(), AugLocal(), torch.zeros(2, 6, dtype=torch.float64), "mse")
    (x, y), h = batch(6), made.network[:2](batch(6)[0])
    expected = torch.autograd.grad(made.criterion(made.rule.auxiliary["1"](h), y), made.network[0].weight)[0]
    assert torch.equal(gradients(made, (x, y))["network.0.weight"], expected)


# --- what is copied --------------------------------------------------------------------------------------------------


def test_an_auxiliary_network_has_the_widths_of_the_sampled_blocks_and_a_classifier():
    made = Learner(create_network("resnet20_cifar", 5, (3, 32, 32)), AugLocal(3, 0.5), torch.zeros(2, 3, 32, 32))

    def widths(key: str) -> list[int]:
        return [len(p) for p in made.rule.auxiliary[key].parameters() if p.ndim > 1]

    # ten blocks of widths 16 (stem and three), 32, 64: the first copies blocks 3, 6 and 9
    assert widths("blocks/0/activation") == [16, 32, 64, 5]
    assert widths("blocks/4") == [32, 64, 5]
    assert widths("blocks/8") == [64, 5]


def test_the_last_block_of_auglocal_learns_with_the_head_as_in_backpropagation():
    made, (x, y) = learner(mlp(), AugLocal(), 6), batch(6)
    grads = gradients(made, (x, y))
    made.network.zero_grad()
    cross_entropy(made.network(x), y).backward()
    expected = {name: p.grad for name, p in made.named_parameters() if name.startswith(("network.4", "network.6"))}
    assert largest_difference(of_network(grads, range(4, 7)), expected) == 0
    assert [*made.rule.auxiliary] == ["1", "3"]


# --- cuts ------------------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize(("build", "shape"), [(mlp, (6,)), (conv, (2, 6, 6))])
def test_no_gradient_crosses_a_cut(rule: Callable, build: Callable, shape: tuple):
    """What stands above the first cut is drawn anew, and the first block learns the very same."""
    made = learner(build(), rule(), *shape)
    before = gradients(made, batch(*shape))
    with torch.no_grad():
        for name, p in made.named_parameters():
            if not name.startswith(("network.0", "rule.auxiliary.1.")):
                p.normal_(generator=torch.Generator().manual_seed(len(name)))
    after = gradients(made, batch(*shape))
    mine = [name for name in before if name.startswith(("network.0", "rule.auxiliary.1."))]
    assert all(torch.equal(after[name], before[name]) for name in mine)
    assert largest_difference(after, before) > 0


@BOTH
def test_streaming_equals_the_summed_loss(rule: Callable):
    one, two = learner(conv(), rule(), 2, 6, 6), learner(conv(), rule(), 2, 6, 6)
    expected = gradients(one, batch(2, 6, 6))
    values: list[torch.Tensor] = []

    def backward(value: torch.Tensor) -> None:
        value.backward()
        values.append(value.detach())

    surrogate = two.stream(batch(2, 6, 6), backward)
    assert largest_difference(taken(two), expected) == 0
    assert len(values) == len(two.rule.auxiliary) + 1
    assert torch.allclose(sum(values), one(batch(2, 6, 6)).value, rtol=1e-15)
    assert torch.equal(surrogate.loss, values[-1])


# --- where auxiliary networks come from ------------------------------------------------------------------------------


@BOTH
def test_auxiliary_weights_depend_on_seed_and_block_name_alone(rule: Callable):
    def drawn(build_seed: int = 0, **options: object) -> dict[str, torch.Tensor]:
        network = mlp()
        torch.manual_seed(build_seed)
        made = learner(network, rule(**options), 6)
        return {name: p.detach() for name, p in made.rule.named_parameters() if ".3." in name}

    weights = drawn()
    assert largest_difference(drawn(build_seed=7), weights) == 0
    assert largest_difference(drawn(blocks=["3", "5"]), weights) == 0
    assert largest_difference(drawn(seed=1), weights) > 0


def test_a_part_of_predsim_draws_what_the_whole_does():
    whole, part = (learner(mlp(), PredSim(loss), 6).rule.auxiliary["3"] for loss in ("predsim", "sim"))
    assert torch.equal(whole["similarity"].weight, part["similarity"].weight)


@BOTH
def test_installing_leaves_random_state_and_the_networks_values_alone(rule: Callable):
    network, state = create_network("resnet20_cifar", 5, (3, 16, 16)), torch.get_rng_state()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    Learner(network, rule(), torch.zeros(2, 3, 16, 16))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(network.state_dict()[name], tensor) for name, tensor in before.items())
    assert all(p.grad is None for p in network.parameters())


@BOTH
def test_the_optimiser_trains_auxiliary_weights_and_a_checkpoint_holds_them(rule: Callable):
    made = learner(conv(), rule(), 2, 6, 6)
    names = {name for name, _ in made.named_parameters() if name.startswith("rule.")}
    assert names
    assert names <= gradients(made, batch(2, 6, 6)).keys()
    assert names <= made.state_dict().keys()


@BOTH
def test_the_rules_scalar_does_not_depend_on_an_earlier_batch(rule: Callable):
    """Auxiliary batch normalisation keeps no running statistics, so training and evaluation read a batch alike."""
    made = learner(conv(), rule(), 2, 6, 6)
    expected = gradients(made, batch(2, 6, 6))
    made(batch(2, 6, 6, n=3))
    assert largest_difference(gradients(made.eval(), batch(2, 6, 6)), expected) == 0


# --- foreign networks ------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize(("name", "side"), [("resnet10t", 64), ("vit_tiny_patch16_224", 32), ("convnext_atto", 64)])
def test_every_block_of_a_timm_network_learns(rule: Callable, name: str, side: int):
    options = {"img_size": side, "depth": 3} if name.startswith("vit") else {}
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=5, **options)
    made = Learner(network, rule(uncovered="warn"), torch.zeros(2, 3, side, side))
    grads = gradients(made, (torch.randn(4, 3, side, side), torch.tensor([0, 1, 2, 0])))
    assert made.coverage.unreached == []
    assert {name for name, p in made.named_parameters() if p.requires_grad} == grads.keys()
    assert all(g.isfinite().all() for g in grads.values())


# --- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: PredSim("both"), "loss is one of predsim, pred, sim, not 'both'"),
        (lambda: PredSim(beta=1.5), "beta is a number from 0 to 1, not 1.5"),
        (lambda: PredSim(decoder_units=0), "decoder_units is a positive number of units, not 0"),
        (lambda: PredSim(channels="middle"), "channels is one of first, last"),
        (lambda: AugLocal(0), "depth is a positive number of layers, not 0"),
        (lambda: AugLocal(pyramid=-0.1), "pyramid is a number from 0 to 1, not -0.1"),
        (lambda: AugLocal(uncovered="no"), "uncovered is one of raise, warn, allow"),
        (lambda: learner(mlp(), PredSim(blocks=["9"]), 6), "blocks: no module matches '9'"),
        (lambda: learner(mlp(), AugLocal(blocks="stage"), 6), "blocks is one of block, layer"),
        (lambda: learner(nn.Sequential(nn.Linear(6, 5)).double(), PredSim(), 6), "need a hidden block"),
        (lambda: learner(mlp(), AugLocal(blocks=["1"]), 6), "two or more hidden blocks"),
    ],
)
def test_a_mistake_is_answered_in_one_line(make: Callable, words: str):
    with pytest.raises(UserError, match=words) as error:
        make()
    assert "\n" not in str(error.value)

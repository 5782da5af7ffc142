"""Mono-Forward: what a layer learns from, which other rules it equals, and its two schedules."""

import copy
import math
from functools import partial

import lightning as L
import pytest
import torch
from torch import nn

from lit_fa.datamodules import Synthetic
from lit_fa.errors import UserError
from lit_fa.modules import Classifier, Learner
from lit_fa.networks import create_network
from lit_fa.rules import Backprop, Does, LearningRule, MonoForward, PredSim, Progress
from tests.gradients import gradients, largest_difference

D = torch.float64
CLASSES = 3


def mlp(*widths: int) -> nn.Sequential:
    torch.manual_seed(0)
    hidden, units = [], 6
    for width in widths:
        hidden += [nn.Linear(units, width), nn.ReLU()]
        units = width
    return nn.Sequential(*hidden, nn.Linear(units, CLASSES, bias=False)).to(D)


def learner(network: nn.Module, rule: LearningRule) -> Learner:
    return Learner(network, rule, torch.zeros(2, 6, dtype=D))


def batch(n: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    return torch.randn(n, 6, generator=g, dtype=D), torch.randint(CLASSES, (n,), generator=g)


def test_every_layer_learns_as_a_classifier_of_one_hidden_layer_of_its_own():
    mono, (x, y) = learner(mlp(8, 7, 5), MonoForward()), batch()
    grads, readouts = gradients(mono, (x, y)), mono.rule.auxiliary
    for first, key in ((0, "1"), (2, "3")):
        alone = copy.deepcopy(nn.Sequential(mono.network[first], nn.ReLU(), readouts[key].linear))
        alone.zero_grad()
        nn.functional.cross_entropy(alone(mono.network[:first](x).detach()), y).backward()
        assert torch.equal(grads[f"network.{first}.weight"], alone[0].weight.grad)
        assert torch.equal(grads[f"rule.auxiliary.{key}.linear.weight"], alone[2].weight.grad)
    assert [*readouts] == ["1", "3"]  # the last hidden layer's matrix is the head


def test_it_is_predsim_without_similarity_if_the_readouts_are_equal():
    mono, predsim, pair = learner(mlp(8, 7), MonoForward()), learner(mlp(8, 7), PredSim("pred")), batch()
    with torch.no_grad():
        for key, matrix in (("1", mono.rule.auxiliary["1"].linear), ("3", mono.network[4])):
            theirs = predsim.rule.auxiliary[key]["prediction"].linear
            theirs.weight.copy_(matrix.weight)
            theirs.bias.zero_()
    mine, other = gradients(mono, pair), gradients(predsim, pair)
    for name in ("network.0.weight", "network.0.bias", "network.2.weight", "network.2.bias"):
        torch.testing.assert_close(mine[name], other[name], rtol=0, atol=1e-15)


@pytest.mark.parametrize("gradient", ["local", "global"])
def test_with_one_hidden_layer_it_is_backpropagation(gradient: str):
    mono, plain, pair = learner(mlp(8), MonoForward(gradient=gradient)), learner(mlp(8), Backprop()), batch()
    assert largest_difference(gradients(mono, pair), gradients(plain, pair)) == 0


def test_without_matrices_and_stop_gradients_it_is_backpropagation():
    joint, plain, pair = learner(mlp(8, 7), MonoForward(gradient="global")), learner(mlp(8, 7), Backprop()), batch()
    nn.init.zeros_(joint.rule.auxiliary["1"].linear.weight)
    grads = gradients(joint, pair)
    del grads["rule.auxiliary.1.linear.weight"]
    assert largest_difference(grads, gradients(plain, pair)) == 0


def test_global_gradients_are_those_of_the_sum_of_all_losses():
    joint, (x, y) = learner(mlp(8, 7), MonoForward(gradient="global")), batch()
    grads = gradients(joint, (x, y))
    early = joint.rule.auxiliary["1"](joint.network[:2](x))
    total = nn.functional.cross_entropy(early, y) + nn.functional.cross_entropy(joint.network(x), y)
    expected = torch.autograd.grad(total, [*joint.parameters()])
    named = dict(zip((name for name, _ in joint.named_parameters()), expected, strict=True))
    assert largest_difference(grads, named) < 1e-15


def test_a_block_whose_matrix_is_zero_does_not_move():
    mono, pair = learner(mlp(8, 7), MonoForward()), batch()
    nn.init.zeros_(mono.rule.auxiliary["1"].linear.weight)
    assert (gradients(mono, pair)["network.0.weight"] == 0).all()


def test_permuting_hidden_units_permutes_the_columns_of_their_matrix():
    mono, (x, y) = learner(mlp(8, 7), MonoForward()), batch()
    before, value = gradients(mono, (x, y)), mono((x, y)).value
    order = torch.randperm(8, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        for rows in (mono.network[0].weight, mono.network[0].bias):
            rows.copy_(rows[order].clone())
        for columns in (mono.network[2].weight, mono.rule.auxiliary["1"].linear.weight):
            columns.copy_(columns[:, order].clone())
    torch.testing.assert_close(mono((x, y)).value, value)
    after = gradients(mono, (x, y))["rule.auxiliary.1.linear.weight"]
    torch.testing.assert_close(after, before["rule.auxiliary.1.linear.weight"][:, order])


def trained(rule: MonoForward, epochs: int, **rates: float) -> dict[str, torch.Tensor]:
    """What training leaves in the learner, without momentum; `rates` of layers by their number."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 4))
    data = Synthetic(n_train=32, n_test=8, image_shape=(1, 4, 4), num_classes=4, batch_size=8, device="cpu", seed=1)
    optimizer = partial(torch.optim.SGD, lr=0.1)
    module = Classifier(
        network, rule, 4, (1, 4, 4), optimizer=optimizer, layer_lr={f"*{key[1:]}*": lr for key, lr in rates.items()}
    )
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    L.Trainer(max_epochs=epochs, accelerator="cpu", limit_val_batches=0, **quiet).fit(module, data)
    return module.learner.state_dict()


def test_the_greedy_schedule_trains_the_first_block_for_half_of_the_run_and_then_the_second():
    greedy, start = trained(MonoForward("greedy"), 4), trained(MonoForward("greedy"), 0)
    alone = trained(MonoForward(), 2, _3=0.0, _5=0.0)  # the first half: the second block has rate 0
    for name in ("network.1.weight", "network.1.bias", "rule.auxiliary.2.linear.weight"):
        assert torch.equal(greedy[name], alone[name])
    moved = [name for name in start if not torch.equal(greedy[name], start[name])]
    assert {"network.3.weight", "network.5.weight"} <= {*moved}


def test_the_blocks_turns_are_equal_shares_of_the_run():
    turns = [Progress(step, total_steps=6).turn(3) for step in range(7)]
    assert turns == [0, 0, 1, 1, 2, 2, 2]


def test_matrices_start_like_layers_of_torch_and_depend_on_seed_and_name():
    build = partial(create_network, "mlp", 10, (1, 28, 28), hidden=[100, 50])
    one, two, other = (Learner(build(), MonoForward(seed=s), torch.zeros(2, 1, 28, 28)) for s in (0, 0, 1))
    matrices = [next(iter(made.rule.auxiliary.values())).linear.weight for made in (one, two, other)]
    assert torch.equal(matrices[0], matrices[1])
    assert not torch.equal(matrices[0], matrices[2])
    assert matrices[0].shape == (10, 100)
    assert 0.9 / math.sqrt(100) < matrices[0].abs().max() <= 1 / math.sqrt(100)


def test_a_map_is_flattened_before_its_matrix():
    made = Learner(create_network("lenet", 10, (1, 28, 28)), MonoForward(), torch.zeros(2, 1, 28, 28))
    assert [m.linear.in_features for m in made.rule.auxiliary.values()] == [6 * 14 * 14, 16 * 5 * 5, 120]


def test_global_gradients_cannot_be_streamed_and_have_one_norm():
    joint = MonoForward(gradient="global")
    assert Does.STREAMS not in joint.does
    assert learner(mlp(8, 7), joint).parts(torch.zeros(2, 6, dtype=D)) == {}


def shared() -> nn.Module:
    network = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, CLASSES)).to(D)
    network[2].weight = network[0].weight
    return network


@pytest.mark.parametrize(
    ("attempt", "said"),
    [
        (lambda: MonoForward("layerwise"), "schedule is one of simultaneous, greedy"),
        (lambda: MonoForward(gradient="none"), "gradient is one of local, global"),
        (lambda: MonoForward("greedy", "global"), "set gradient: local"),
        (lambda: learner(mlp(), MonoForward()), "local losses need a hidden block"),
        (lambda: learner(shared(), MonoForward("greedy")), "0.weight belongs to several blocks: set schedule"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(attempt, said: str):
    with pytest.raises(UserError, match=said) as refusal:
        attempt()
    assert "\n" not in str(refusal.value)

"""Direct feedback: its shapes, its scales, BioTorch's variant, and the target in place of the error."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from lit_fa.errors import UserError
from lit_fa.functional.feedback import INITS, draw, named_generator
from lit_fa.modules import Learner
from lit_fa.networks import create_network
from lit_fa.rules import DirectFeedbackAlignment
from tests.gradients import gradients, largest_difference
from tests.reference import direct_feedback_alignment as reference


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 5)
    ).double()  # fmt: skip


def conv(stride: int = 1, padding: int | str = 1, kernel: int = 3, dilation: int = 1) -> nn.Module:
    torch.manual_seed(0)
    reader = nn.Conv2d(4, 3, kernel, stride=stride, padding=padding, dilation=dilation)
    network = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.Tanh(), reader, nn.Tanh(), nn.Flatten(), nn.LazyLinear(5))
    network(torch.zeros(2, 2, 6, 6))
    return network.double()


def learner(network: nn.Module, *shape: int, criterion: str = "cross_entropy", **options: object) -> Learner:
    return Learner(network, DirectFeedbackAlignment(**options), torch.zeros(2, *shape, dtype=torch.float64), criterion)


def batch(*shape: int, n: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    return torch.randn(n, *shape, generator=g, dtype=torch.float64), torch.randint(5, (n,), generator=g)


def plain_blocks(network: nn.Module) -> list[list[tuple]]:
    weights = [(m.weight.detach().numpy(), m.bias.detach().numpy()) for m in network if isinstance(m, nn.Linear)]
    return [[("linear", *weights[0]), ("tanh",)], [("linear", *weights[1]), ("relu",)], [("linear", *weights[2])]]


def named_as_ours(grads: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Block b, layer 0 is child 2 b of the network."""
    names = {name: f"network.{2 * int(name.split('.')[0])}.{name.split('.')[2]}" for name in grads}
    return {names[name]: torch.from_numpy(g) for name, g in grads.items()}


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("criterion", ["cross_entropy", "mse"])
def test_the_target_takes_the_place_of_the_error_with_the_stated_scale(reduction: str, criterion: str):
    made = learner(mlp(), 6, teacher="target", target_reduction=reduction, criterion=criterion)
    x, y = batch(6)
    feedback = [("dense", direct.weight.numpy()) for direct in made.rule.feedback.values()]
    expected = reference.drtp_grads(
        plain_blocks(made.network), x.numpy(), y.numpy(), feedback, batch=reduction, loss=criterion
    )
    assert largest_difference(gradients(made, (x, y)), named_as_ours(expected)) < 1e-13


@pytest.mark.parametrize("criterion", ["cross_entropy", "mse"])
def test_the_error_is_that_of_the_criterion(criterion: str):
    made = learner(mlp(), 6, criterion=criterion)
    x, y = batch(6)
    feedback = [("dense", direct.weight.numpy()) for direct in made.rule.feedback.values()]
    labels = np.eye(5)[y.numpy()] if criterion == "mse" else y.numpy()
    expected = reference.grads(plain_blocks(made.network), x.numpy(), labels, feedback, criterion)
    assert largest_difference(gradients(made, (x, y)), named_as_ours(expected)) < 1e-13


def test_the_shapes_of_the_feedback_of_a_map():
    def shapes(**options: object) -> list[tuple]:
        return [tuple(d.weight.shape) for d in learner(conv(), 2, 6, 6, **options).rule.feedback.values()]

    assert shapes() == [(5, 4, 6, 6), (5, 108)]  # the second block ends behind its flatten
    assert shapes(shape="per_channel") == [(5, 4, 1, 1), (5, 108)]
    assert shapes(shape="per_channel", channels="last")[0] == (5, 1, 1, 6)
    assert shapes(shape="shared") == [(5, 4, 6, 6), (5, 108)]


def wide(*widths: int) -> nn.Module:
    torch.manual_seed(0)
    layers = [m for i, o in pairwise([6, *widths]) for m in (nn.Linear(i, o), nn.Tanh())]
    return nn.Sequential(*layers, nn.Linear(widths[-1], 5)).double()


@pytest.mark.parametrize("options", [{}, {"scale": 2.0}, {"teacher": "target"}])
def test_shared_feedback_is_launays_by_default(options: dict):
    made = learner(wide(64, 1000), 6, shape="shared", seed=3, **options)
    one = torch.empty(1000, 5).uniform_(-1, 1, generator=named_generator(3, "shared")).t().numpy()
    for width, direct in zip((64, 1000), made.rule.feedback.values(), strict=True):
        expected = options.get("scale", 1.0) * reference.launay(one, width)
        np.testing.assert_allclose(direct.weight.numpy(), expected, rtol=1e-6)
        # of uniform numbers in [-1, 1): 0.0722 at width 64, 0.0183 at 1000
        assert direct.weight.std().item() == pytest.approx(options.get("scale", 1.0) / math.sqrt(3 * width), rel=0.1)


@pytest.mark.parametrize("init", INITS)
def test_shared_feedback_of_another_init_has_the_spread_of_a_matrix_of_its_own(init: str):
    shared, own = (
        learner(wide(64, 1000), 6, shape=shape, init=init).rule.feedback.values() for shape in ("shared", "dense")
    )
    (first, last), (alone, widest) = ([d.weight for d in both] for both in (shared, own))
    assert torch.nn.functional.cosine_similarity(first.flatten(), last[:, :64].flatten(), dim=0) > 1 - 1e-6
    # 320 numbers: the standard error of their deviation is 4 %
    assert first.square().mean().sqrt().item() == pytest.approx(alone.square().mean().sqrt().item(), rel=0.15)
    assert last.square().mean().sqrt().item() == pytest.approx(widest.square().mean().sqrt().item(), rel=0.05)


def test_the_feedback_of_a_block_is_that_of_its_name_whatever_else_is_cut():
    both, one = learner(mlp(), 6, seed=2), learner(mlp(), 6, seed=2, blocks=["3"])
    assert torch.equal(both.rule.feedback["3"].weight, one.rule.feedback["3"].weight)
    assert not torch.equal(both.rule.feedback["3"].weight, learner(mlp(), 6, seed=4).rule.feedback["3"].weight)


@pytest.mark.parametrize("init", INITS)
def test_a_matrix_is_the_transposed_draw_of_the_blocks_name(init: str):
    """(units, c) is drawn and (c, units) kept: an orthogonal draw has orthonormal columns, one for each class."""
    for shape, units in {"dense": 4 * 6 * 6, "per_channel": 4}.items():
        weight = learner(conv(), 2, 6, 6, shape=shape, init=init, seed=2, scale=3.0).rule.feedback["1"].weight
        assert torch.equal(weight.flatten(1), draw((units, 5), init, named_generator(2, "1"), gain=3.0).t().to(weight))


def test_scale_is_a_factor_on_the_feedback():
    plain, scaled = learner(mlp(), 6), learner(mlp(), 6, scale=2.0)
    for key in plain.rule.feedback:
        assert torch.equal(scaled.rule.feedback[key].weight, 2 * plain.rule.feedback[key].weight)


@pytest.mark.parametrize(
    "geometry", [{}, {"stride": 2}, {"padding": 0}, {"dilation": 2, "padding": 2}, {"padding": "same"}]
)
def test_biotorchs_feedback_is_the_transposed_convolution_of_the_spread_error(geometry: dict):
    network = conv(**geometry)
    made = learner(network, 2, 6, 6, shape="transposed_conv", seed=5)
    kernel = draw((5, 4, 3, 3), "xavier_uniform", named_generator(5, "1")).numpy()
    grid = network[2](torch.zeros(1, 4, 6, 6, dtype=torch.float64)).shape[2:]
    reader = network[2]
    padding = 1 if reader.padding == "same" else reader.padding
    error = np.eye(5)
    expected = reference.transposed_convolution(error, kernel, grid, reader.stride, padding, reader.dilation, (4, 6, 6))
    assert np.abs(made.rule.feedback["1"].weight.numpy() - expected).max() < 1e-5  # drawn in float32


def test_biotorchs_feedback_is_constant_in_the_interior_and_smaller_at_the_border():
    weight = learner(conv(), 2, 6, 6, shape="transposed_conv").rule.feedback["1"].weight
    interior = weight[:, :, 1:-1, 1:-1]
    assert interior.std(dim=(2, 3)).max() < 1e-6
    dense = learner(conv(), 2, 6, 6).rule.feedback["1"].weight
    assert dense.std(dim=(2, 3)).min() > 0.01
    assert not torch.allclose(weight[:, :, 0, 0], interior[:, :, 0, 0], atol=1e-3)


def test_a_grouped_convolution_learns_by_direct_feedback():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(4, 8, 3, groups=2), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(), nn.Flatten(), nn.Linear(32, 5)
    ).double()  # fmt: skip
    for shape in ("dense", "per_channel", "transposed_conv"):
        made = learner(network, 4, 6, 6, shape=shape)
        grads = gradients(made, batch(4, 6, 6))
        assert all(g.isfinite().all() and g.abs().sum() > 0 for g in grads.values())


def test_a_residual_network_is_cut_behind_whole_blocks():
    network = create_network("resnet20_cifar", 5, (3, 16, 16))
    made = Learner(network, DirectFeedbackAlignment(), torch.zeros(2, 3, 16, 16))
    blocks = [f"blocks/{k}" for k in range(1, 9)]
    # the stem ends with its activation; the last block with the pool and the flatten that follow it
    assert [*made.rule.feedback] == ["blocks/0/activation", *blocks, "head/flatten"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"teacher": "loss"}, "teacher is one of error, target"),
        ({"shape": "full"}, "shape is one of dense"),
        ({"init": "xavier"}, "init is one of xavier_uniform"),
        ({"channels": "middle"}, "channels is one of"),
        ({"target_reduction": "none"}, "target_reduction is one of mean, sum"),
        ({"backend": "fast"}, "backend is one of fused, detour"),
        ({"blocks": "stage"}, "blocks is one of block, layer"),
        ({"blocks": ["9"]}, "blocks: no module matches '9'"),
    ],
)
def test_a_mistake_is_answered_in_one_line(options: dict, words: str):
    with pytest.raises(UserError, match=words) as error:
        learner(mlp(), 6, **options)
    assert "\n" not in str(error.value)


def test_a_network_without_a_hidden_block_is_refused():
    with pytest.raises(UserError, match="needs a hidden block"):
        learner(nn.Sequential(nn.Linear(6, 5)).double(), 6)


def test_a_weight_of_several_blocks_is_told_from_a_shortcut():
    network = mlp()
    network[2] = nn.Linear(8, 8).double()
    network.insert(4, nn.Linear(8, 7).double())
    network.insert(4, nn.Tanh())
    network.insert(4, nn.Linear(8, 8).double())
    network[4].weight = network[2].weight
    with pytest.raises(UserError, match=r"2.weight belongs to several layers, .* its own weight"):
        learner(network, 6)

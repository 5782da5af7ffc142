"""Layers in factors: the values of the dense layer, ranks that go, checkpoints that come."""

import pytest
import torch
from torch import nn

from lit_fa.layers.factor_network import apply_svd
from lit_fa.layers.factored import dense_weights, factor, factored_layers
from lit_fa.layers.taps import find_blocks
from lit_fa.networks.resnet_cifar import ResidualBlock
from tests.small_networks import NETWORKS


def factored(name: str, rank: int | float | None = None) -> tuple[nn.Module, nn.Module, torch.Tensor]:
    """A network in factors, the same as it was, and a batch."""
    build, shape = NETWORKS[name]
    made, plain = (seeded(build) for _ in range(2))
    x = torch.randn(4, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    apply_svd(made, x, rank, "unfactorable")
    return made, plain, x


def seeded(build) -> nn.Module:
    torch.manual_seed(0)
    return build().double()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_in_full_factors_has_the_values_and_input_gradients_of_the_dense_one(name: str):
    made, plain, x = factored(name)
    x.requires_grad_(True)
    assert (made(x) - plain(x)).abs().max() < 1e-13
    grads = [torch.autograd.grad(network(x).square().sum(), x)[0] for network in (made, plain)]
    assert (grads[0] - grads[1]).abs().max() < 1e-12


@pytest.mark.parametrize("name", ["mlp", "small_conv"])
def test_inside_dense_weights_values_stay_and_the_weights_get_the_dense_gradient(name: str):
    made, plain, x = factored(name)
    before = made(x)
    with dense_weights(made) as weights:
        assert (made(x) - before).abs().max() < 1e-13
        made(x).square().sum().backward()
    plain(x).square().sum().backward()
    for layer, weight in weights.items():
        assert (weight.grad - plain.get_submodule(layer).weight.grad).abs().max() < 1e-12
    assert torch.equal(made(x), before)


@pytest.mark.parametrize("make", [torch.optim.Adam, lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)])
def test_compacted_outputs_are_the_masked_ones_and_every_state_is_sliced(make):
    made, _, x = factored("small_conv")
    optimizer = make(made.parameters())
    made(x).square().sum().backward()
    optimizer.step()
    layer = factored_layers(made)["0"]
    kept = torch.tensor([0, 2, 5])
    expected = {
        side: {n: t[..., kept] for n, t in optimizer.state[getattr(layer, side)].items() if t is not None and t.ndim}
        for side in "UsV"
    }
    layer.prune(kept)
    masked, parameters = made(x), [id(p) for p in made.parameters()]
    layer.shrink(optimizer)
    assert (made(x) - masked).abs().max() < 1e-14
    assert [id(p) for p in made.parameters()] == parameters
    for side, states in expected.items():
        found = optimizer.state[getattr(layer, side)]
        assert states
        assert all(torch.equal(found[name], state) for name, state in states.items())
    made(x).square().sum().backward()
    optimizer.step()  # shapes of parameters, gradients and state fit
    assert layer.rank == len(layer.s) == 3


def test_a_graph_that_is_still_alive_does_not_hinder_the_next_step():
    made, _, x = factored("mlp")
    alive = made(x).square().sum()
    layer = factored_layers(made)["0"]
    layer.prune(torch.tensor([1, 3]))
    layer.shrink()
    made(x).square().sum().backward()
    assert layer.U.grad.shape == (10, 2)
    assert alive.grad_fn is not None


def test_a_pruned_checkpoint_loads_into_a_network_of_full_rank():
    made, plain, x = factored("small_conv")
    for layer in factored_layers(made).values():
        layer.prune(torch.arange(2))
        layer.shrink()
    other, _, _ = factored("small_conv")
    other.load_state_dict(made.state_dict())
    assert torch.equal(other(x), made(x))
    assert (made(x) - plain(x)).abs().max() > 1e-3


def test_a_checkpoint_of_the_dense_network_loads_as_its_factors():
    made, plain, x = factored("small_conv")
    with torch.no_grad():
        for p in plain.parameters():
            p.add_(0.1 * torch.randn(p.shape, dtype=p.dtype, generator=torch.Generator().manual_seed(p.numel())))
    found = made.load_state_dict(plain.state_dict(), strict=False)
    assert not found.unexpected_keys
    assert {key.rpartition(".")[2] for key in found.missing_keys} == {"mask", "energy"}
    assert (made(x) - plain(x)).abs().max() < 1e-13


class OwnForward(nn.Linear):
    def forward(self, x):
        return super().forward(2 * x)


@pytest.mark.parametrize(
    ("layer", "why"),
    [
        (nn.Conv2d(4, 4, 3, groups=2), "2 groups"),
        (nn.Conv1d(4, 4, 3), "Conv1d has no factored form"),
        (OwnForward(4, 4), "OwnForward is used outside the standard forward"),
        (nn.MultiheadAttention(4, 2).out_proj, "outside the standard forward"),
    ],
)
def test_a_layer_that_cannot_be_factored_is_named_with_the_reason(layer: nn.Module, why: str):
    with pytest.raises(ValueError, match=f"^0: .*{why}"):
        factor(nn.Sequential(layer), "0")


@pytest.mark.parametrize("rank", [0, 6])
def test_a_rank_outside_of_a_layers_is_refused(rank: int):
    with pytest.raises(ValueError, match="ranks from 1 to 5"):
        factor(nn.Sequential(nn.Linear(5, 9)), "0", rank)


def test_printing_a_network_shows_shape_and_rank():
    assert "FactoredLinear(10x12, rank 6 of 10)" in repr(factored("mlp", 0.6)[0])


@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_a_unit_of_layers_ends_where_the_next_layer_reads(shortcut: str):
    """The branch's last convolution and a shortcut's have one sum, and no cut between them."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        ResidualBlock(4, 8, 2, "relu", shortcut),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 2),
    )
    ends = [block.name for block in find_blocks(network, torch.randn(2, 3, 8, 8), "layer")]
    assert ends == ["0", "1.activation1", "3"]

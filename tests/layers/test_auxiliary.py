"""What a local loss sees of a block, and the networks it reads that with."""

import pytest
import timm
import torch
from torch import nn

from lit_fa.functional.feedback import named_generator
from lit_fa.layers import find_blocks
from lit_fa.layers.auxiliary import Unit, auxiliary_network, drawn, pool_window, pooled_classifier, units
from lit_fa.networks import create_network


def seen(network: nn.Module, *shape: int, blocks: str | list[str] = "block", channels: str = "first") -> list[Unit]:
    example = torch.zeros(2, *shape)
    return units(network, example, find_blocks(network, example, blocks), channels)


def unit(*shape: int, activation: nn.Module | None = None) -> Unit:
    return Unit("block", shape, shape, activation or nn.ReLU())


def test_a_flatten_that_ends_a_block_is_undone():
    network = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(64, 5))
    (block,) = seen(network, 2, 6, 6)
    assert block.shape == block.copied == (4, 4, 4)
    x = torch.randn(3, 2, 6, 6)
    assert torch.equal(block.features(network[:3](x)), network[:2](x))


def test_a_pooled_map_is_a_vector_but_is_copied_as_its_convolution_made_it():
    network = nn.Sequential(nn.Conv2d(2, 4, 3), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    (block,) = seen(network, 2, 6, 6)
    assert (block.shape, block.copied) == ((4,), (4, 4, 4))


def test_tokens_are_averaged():
    (block,) = seen(nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5)), 3, 6)
    assert block.shape == (8,)
    tokens = torch.randn(2, 3, 8)
    assert torch.equal(block.features(tokens), tokens.mean(1))


def test_channels_that_come_last_are_brought_to_the_front():
    network = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Flatten(), nn.Linear(8 * 12, 5))
    (block,) = seen(network, 3, 4, 6, blocks=["1"], channels="last")
    assert block.shape == (8, 3, 4)
    assert block.features(torch.zeros(2, 3, 4, 8), "last").shape == (2, 8, 3, 4)


def test_the_activation_of_a_block_is_the_first_that_runs_in_it():
    network = timm.create_model("efficientnet_b0", num_classes=5)  # its gates end in a sigmoid
    assert all(isinstance(block.activation, nn.SiLU) for block in seen(network, 3, 32, 32))


def test_a_volume_is_refused():
    network = nn.Sequential(nn.Conv3d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 5))
    with pytest.raises(ValueError, match=r"after 1 a sample is 4-D"):
        seen(network, 1, 4, 4, 4, blocks=["1"])


def test_looking_at_a_network_moves_no_statistic_and_leaves_no_hook():
    network = create_network("resnet20_cifar", 5, (3, 16, 16))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    seen(network, 3, 16, 16)
    assert all(torch.equal(network.state_dict()[name], tensor) for name, tensor in before.items())
    assert not any(module._forward_hooks for module in network.modules())


@pytest.mark.parametrize(
    ("shape", "limit", "window"),
    [
        ((4, 8, 8), 256, (1, 1)),
        ((4, 8, 8), 255, (2, 1)),
        ((4, 8, 8), 127, (2, 2)),
        ((4, 5, 5), 20, (4, 4)),  # maps of 5 x 5, 3 x 5, 3 x 3, 2 x 3: 24 units are still too many, so 2 x 2
        ((4, 3, 8), 1, (3, 8)),  # no pool leaves one unit of four channels: the whole map
    ],
)
def test_the_window_doubles_its_sides_in_turn_until_the_units_fit(shape: tuple, limit: int, window: tuple):
    assert pool_window(shape, limit) == window


def test_the_classifier_of_a_block_starts_with_zero_weights_and_reads_no_more_units_than_allowed():
    layer = pooled_classifier((4, 5, 5), 3, 20)
    assert layer.linear.in_features == 16
    assert layer.linear.weight.abs().max() == 0
    assert layer.linear.bias.abs().max() > 0
    assert layer(torch.randn(2, 4, 5, 5)).shape == (2, 3)


def test_a_pool_whose_window_divides_the_map_averages_it():
    layer = pooled_classifier((1, 4, 4), 3, 4)
    x = torch.arange(16.0).view(1, 1, 4, 4)
    assert layer.pool(x).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]


def test_a_copied_map_has_the_sources_width_and_approaches_its_size_by_strides_of_two():
    network = auxiliary_network((16, 32, 32), [unit(32, 16, 16), unit(64, 4, 4), unit(64, 4, 4)], 10)
    convs = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert [(c.in_channels, c.out_channels, c.stride) for c in convs] == [
        (16, 32, (2, 2)),
        (32, 64, (2, 2)),
        (64, 64, (2, 2)),
    ]
    assert network[:3](torch.randn(2, 16, 32, 32)).shape == (2, 64, 4, 4)


def test_a_copy_takes_the_activation_of_its_source():
    network = auxiliary_network((6,), [unit(5, activation=nn.Tanh()), unit(4, activation=nn.LeakyReLU(0.3))], 3)
    assert isinstance(network[0][1], nn.Tanh)
    assert network[1][1].negative_slope == 0.3


def test_behind_a_vector_a_map_is_copied_as_a_vector():
    network = auxiliary_network((6, 4, 4), [unit(5), unit(8, 2, 2)], 3)
    assert [m.out_features for m in network.modules() if isinstance(m, nn.Linear)] == [5, 8, 3]
    x = torch.randn(2, 6, 4, 4)
    assert torch.allclose(network[0][:3](x), network[0][2](x.mean((2, 3))), atol=1e-6)


def test_a_draw_follows_its_generator_and_leaves_the_global_state_alone():
    def make(seed: int) -> nn.Module:
        return drawn(lambda: nn.Linear(3, 4), named_generator(seed, "block"))

    state = torch.get_rng_state()
    one = make(0)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    assert torch.equal(make(0).weight, one.weight)
    assert not torch.equal(make(1).weight, one.weight)

"""Where a network is cut, in words and by name."""

import pytest
import torch
from torch import nn

from lit_fa.layers import Taps, find_blocks, match
from lit_fa.networks import create_network
from tests.small_networks import ByKeyword, Residual


def names(network: nn.Module, *shape: int, blocks: str | list[str] = "block") -> list[str]:
    return [block.name for block in find_blocks(network, torch.zeros(2, *shape), blocks)]


def chain() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 5)
    )


def test_a_block_ends_behind_the_weightless_links_that_follow_its_weights():
    assert names(chain(), 12) == ["2", "5"]


def test_a_residual_block_is_one_block_and_layers_inside_are_units_of_layer():
    network = nn.Sequential(
        nn.Linear(4, 4), nn.ReLU(), Residual(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)), nn.Linear(4, 5)
    )
    assert names(network, 4) == ["1", "2"]
    assert names(network, 4, blocks="layer") == ["1", "2.inside.1", "2.inside.2"]


@pytest.mark.parametrize(
    ("name", "shape", "count"),
    [("mlp", (1, 28, 28), 1), ("lenet", (1, 28, 28), 4), ("resnet20_cifar", (3, 32, 32), 10)],
)
def test_our_networks_are_cut_behind_each_of_their_blocks(name: str, shape: tuple, count: int):
    found = names(create_network(name, 10, shape), *shape)
    assert len(found) == count
    assert all(path.startswith("blocks.") for path in found[:-1])


def test_a_network_that_passes_a_layers_input_by_keyword_is_cut_as_any_other():
    assert names(ByKeyword(*chain()), 12) == names(chain(), 12)


def test_named_blocks_and_patterns_are_cut_in_the_order_of_the_forward_pass():
    network = create_network("resnet20_cifar", 10, (3, 32, 32))
    assert names(network, 3, 32, 32, blocks=["blocks.3", "blocks.1"]) == ["blocks.1", "blocks.3"]
    assert names(network, 3, 32, 32, blocks=["blocks.?"]) == [f"blocks.{k}" for k in range(10)]


def test_a_block_knows_its_shape_and_the_layer_that_reads_it():
    network = chain()
    first, second = find_blocks(network, torch.zeros(2, 12))
    assert (first.shape, second.shape) == ((8,), (6,))
    assert first.reader is network[3]
    assert second.reader is network[6]


def test_a_pattern_without_a_match_names_the_nearest():
    with pytest.raises(ValueError, match=r"no module matches 'block\.1'; nearest: .*blocks\.1"):
        names(create_network("lenet", 10, (1, 28, 28)), 1, 28, 28, blocks=["block.1"])
    assert match(["a*"], ["a1", "b", "a2"]) == ["a1", "a2"]


def test_a_word_that_is_no_kind_of_block_is_refused():
    with pytest.raises(ValueError, match="'block', 'layer' or a list"):
        names(chain(), 12, blocks="stage")


def test_a_module_that_runs_twice_cannot_be_cut_behind():
    shared = nn.Linear(4, 4)
    network = nn.Sequential(shared, nn.ReLU(), shared, nn.Linear(4, 5))
    with pytest.raises(ValueError, match="runs more than once"):
        names(network, 4, blocks=["0"])


class Pair(nn.Module):
    def __init__(self, first: object):
        super().__init__()
        self.linear, self.first = nn.Linear(4, 4), first

    def forward(self, x):
        return (self.linear(x) if self.first is None else self.first), x


class Unpack(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 5)

    def forward(self, pair):
        return self.head(pair[1] if isinstance(pair[0], str) else pair[0])


def test_the_first_entry_of_a_tuple_is_cut_and_the_rest_stays():
    network, seen = nn.Sequential(Pair(None), Unpack()), []
    taps = Taps(network, ["0"])
    with taps.visited_by(lambda name, h: seen.append(h)):
        out = network[0](torch.randn(2, 4))
    assert seen[0].requires_grad
    assert not out[0].requires_grad
    assert torch.equal(out[0], seen[0])


def test_an_output_that_is_no_tensor_is_refused_by_name():
    with pytest.raises(ValueError, match="no block can end at 0"):
        names(nn.Sequential(Pair("words"), Unpack()), 4, blocks=["0"])


def test_outside_a_visit_nothing_is_cut():
    network = chain().eval()
    taps = Taps(network, ["2"])
    with pytest.raises(RuntimeError, match="inside"), taps.visited_by(lambda name, h: None):
        raise RuntimeError("inside")
    network(torch.randn(2, 12)).sum().backward()
    assert network[1].weight.grad is not None

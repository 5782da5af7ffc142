"""Depth of auxiliary networks along a network, and which blocks they copy."""

import pytest

from lit_fa.functional.pyramid import pyramidal_depth, sampled_blocks
from tests.reference import local_losses as reference


@pytest.mark.parametrize(
    ("blocks", "depth", "pyramid", "expected"),
    [
        (6, 1, 0.5, [1, 1, 1, 1, 1]),
        (6, 5, 0.0, [5, 5, 5, 5, 5]),
        (6, 5, 1.0, [5, 4, 3, 2, 1]),
        (6, 9, 0.5, [9, 8, 7, 6, 5]),
        (4, 3, 0.5, [3, 2, 2]),  # 3, 2.5 (a half goes to the even number), 2
        (2, 4, 0.5, [4]),  # one auxiliary network, at no fraction of the way
    ],
)
def test_the_depth_falls_linearly_along_the_network(blocks: int, depth: int, pyramid: float, expected: list[int]):
    assert [pyramidal_depth(k, blocks, depth, pyramid) for k in range(blocks - 1)] == expected
    assert reference.depths(blocks, depth, pyramid) == expected


@pytest.mark.parametrize("depth", range(1, 10))
@pytest.mark.parametrize("number", range(15))
def test_copied_blocks_are_later_ones_evenly_spaced_and_end_with_the_last(number: int, depth: int):
    chosen = sampled_blocks(number, 16, depth)
    assert chosen[-1] == 15
    assert len(chosen) == min(depth, 15 - number)
    gaps = [b - a for a, b in zip([number, *chosen], chosen, strict=False)]
    assert min(gaps) >= 1
    assert max(gaps) - min(gaps) <= 1

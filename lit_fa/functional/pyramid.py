"""Depth of the auxiliary networks of AugLocal (Ma et al. 2024), and the blocks that they copy. Blocks count from 0."""


def pyramidal_depth(number: int, blocks: int, depth: int, pyramid: float) -> int:
    r"""$d_l = \max(1, \mathrm{round}(d\,(1 - \tau\tfrac{l}{L-2}) + \tau\tfrac{l}{L-2}))$: from d to $(1-\tau)d + \tau$.

    Args:
        number: l, from 0 to L - 2; the last block has no auxiliary network.
        blocks: L, at least 2.
        depth: d, layers of the first block's auxiliary network, without its classifier.
        pyramid: tau, from 0 to 1.

    >>> [pyramidal_depth(number, 6, 5, 0.5) for number in range(5)]
    [5, 4, 4, 4, 3]
    """
    fraction = pyramid * number / (blocks - 2) if blocks > 2 else 0.0
    return max(1, round(depth * (1 - fraction) + fraction))  # halves are rounded to even, as in the authors' code


def sampled_blocks(number: int, blocks: int, depth: int) -> list[int]:
    """The `depth` later blocks that block `number` copies: evenly spaced, including the last; all if fewer follow.

    >>> sampled_blocks(0, 16, 3), sampled_blocks(13, 16, 3)
    ([5, 10, 15], [14, 15])
    """
    later = blocks - 1 - number
    if depth >= later:
        return [*range(number + 1, blocks)]
    return [round(number + later / depth * step) for step in range(1, depth + 1)]

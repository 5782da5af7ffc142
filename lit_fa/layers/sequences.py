"""Blocks with an output for every token: one feedback matrix for all tokens, and the mask of padding."""

from dataclasses import replace

from torch import Tensor, nn

from lit_fa.errors import UserError
from lit_fa.functional.tokens import SHARES
from lit_fa.layers.taps import Block


def token_mask(network: nn.Module, inputs: Tensor) -> Tensor | None:
    """(n, t): 1 for a token and 0 for padding, if the network's inputs differ in length; None for other networks."""
    mask = getattr(network, "token_mask", None)
    return None if mask is None else mask(inputs)


def shared_by_tokens(network: nn.Module, example: Tensor, blocks: list[Block], kind: str | None) -> list[Block]:
    """The blocks, with shape (1, d) in place of (t, d), the shape for which feedback is drawn.

    Args:
        network: may have a method `token_mask`.
        example: (n, ...) inputs.
        blocks: from `layers.taps.find_blocks`.
        kind: see `functional.tokens`; None leaves the blocks unchanged.

    Raises:
        UserError: the kind does not fit the network, or it is None for a network for texts.
    """
    mask = token_mask(network, example)
    if kind is None and mask is None:
        return blocks
    if kind is None:
        raise UserError(f"texts differ in length: set the rule's tokens to one of {', '.join(SHARES)}")
    sequences = {block.name for block in blocks if len(block.shape) == 2}
    if not sequences:
        raise UserError("tokens is for blocks whose output is (n, tokens, width): leave it out for this network")
    if kind == "first" and getattr(network, "num_prefix_tokens", 1) == 0:
        raise UserError("tokens: first needs a class token, and this network has none: use all or mean")
    without = [b.name for b in blocks if mask is not None and b.shape[:1] != mask.shape[1:]]
    if without:
        raise UserError(
            f"the padding is unknown after {without[0]}, whose output is not a vector per token: name other blocks"
        )
    return [replace(b, shape=(1, b.shape[1])) if b.name in sequences else b for b in blocks]

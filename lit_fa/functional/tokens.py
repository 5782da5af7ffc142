r"""What becomes of one error at the logits where a block has an output for every token.

A text or a picture has T tokens, and direct feedback one projected error. Token t gets the share $w_t$ of it,
$\delta_t = w_t\, e F$ with F of (c, d), the same for all tokens, so that it does not matter how many there are:

* `all`: $w_t = 1/\sqrt{T}$ (Launay et al. 2020), where T counts the tokens of this very text and padding gets nothing;
* `mean`: $w_t = 1/T$, likewise;
* `first`: the class token's $w_1 = 1$, nothing for the others.

Letters: n batch, t token, d width.
"""

import torch
from torch import Tensor

SHARES = ("all", "first", "mean")


def token_shares(mask: Tensor, kind: str) -> Tensor:
    """w (n, t) of the dtype of `mask` (n, t), which is 1 where a token stands and 0 for padding.

    >>> mask = torch.tensor([[1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 0.0, 0.0]])
    >>> token_shares(mask, "all").tolist()
    [[0.5, 0.5, 0.5, 0.5], [1.0, 0.0, 0.0, 0.0]]
    """
    if kind == "first":
        return torch.cat([torch.ones_like(mask[:, :1]), torch.zeros_like(mask[:, 1:])], 1)
    count = mask.sum(1, keepdim=True)
    return mask / (count.sqrt() if kind == "all" else count)


def gathered(output: Tensor, mask: Tensor | None, kind: str) -> Tensor:
    """(n, 1, d), the sum of the tokens of `output` (n, t, d) by their shares.

    An error at this sum is what its backward pass deals out to the tokens.

    Args:
        output: (n, t, d), of a block.
        mask: (n, t), 1 for a token and 0 for padding; None: no padding.
        kind: `all`, `mean` or `first`.
    """
    if kind == "first":
        return output[:, :1]
    mask = output.new_ones(output.shape[:2]) if mask is None else mask.to(output.dtype)
    return token_shares(mask, kind).unsqueeze(1) @ output

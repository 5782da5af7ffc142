r"""How the tokens of a block share the projected error of direct feedback.

A text or an image has T tokens, and direct feedback gives one projected error. Token t receives the share $w_t$ of it,
$\delta_t = w_t\, e F$. F is (c, d), the same for all tokens, so T may vary:

* `all`: $w_t = 1/\sqrt{T}$ (Launay et al. 2020); T counts the tokens of the text, and padding receives nothing;
* `mean`: $w_t = 1/T$, likewise;
* `first`: $w_1 = 1$ for the class token and 0 for the others.

Letters: n batch, t token, d width.
"""

from typing import Literal, get_args

import torch
from torch import Tensor

Share = Literal["all", "first", "mean"]
SHARES: tuple[str, ...] = get_args(Share)


def token_shares(mask: Tensor, kind: str) -> Tensor:
    """The shares w (n, t), with the dtype of `mask`.

    Args:
        mask: (n, t), 1 for tokens and 0 for padding.
        kind: `all`, `mean` or `first`.

    >>> mask = torch.tensor([[1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 0.0, 0.0]])
    >>> token_shares(mask, "all").tolist()
    [[0.5, 0.5, 0.5, 0.5], [1.0, 0.0, 0.0, 0.0]]
    """
    if kind == "first":
        return torch.cat([torch.ones_like(mask[:, :1]), torch.zeros_like(mask[:, 1:])], 1)
    count = mask.sum(1, keepdim=True)
    return mask / (count.sqrt() if kind == "all" else count)


def gathered(output: Tensor, mask: Tensor | None, kind: str) -> Tensor:
    """The weighted sum (n, 1, d) of the tokens of `output` (n, t, d), with their shares as weights.

    Its backward pass distributes an error at the sum to the tokens.

    Args:
        output: (n, t, d), of a block.
        mask: (n, t), 1 for a token and 0 for padding; None: no padding.
        kind: `all`, `mean` or `first`.
    """
    if kind == "first":
        return output[:, :1]
    mask = output.new_ones(output.shape[:2]) if mask is None else mask.to(output.dtype)
    return token_shares(mask, kind).unsqueeze(1) @ output

r"""Forward-Forward's formulas: labels written into inputs, wrong labels, goodness, and what a block minimises.

Hinton 2022, arXiv:2212.13345. A block's goodness is $G = \sum_j h_j^2$ or its mean over the units; a block learns to
give inputs that carry their true label (positive) more of it than inputs that carry a wrong one (negative). Letters:
n batch, c classes, u units of a block (all dimensions but the batch's).

Wrong labels are drawn by hashing, not by a generator: the draw of a sample is a function of a seed, a step and the
sample's own values. So it is the same on every device and rank, wherever in a batch the sample stands, and it can be
mapped and compiled.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_fa.functional.criteria import one_hot

NORMALISATIONS = ("rms", "l2", "none")
LOSSES = ("threshold", "symba", "margin")
_PRIME = 2**31 - 1
_BITS = 2**32 - 1


def normalise(x: Tensor, kind: str = "rms") -> Tensor:
    r"""Every sample's length set to one ($\sqrt{u}$ for rms), so that a block cannot read the goodness of the last.

    No mean is subtracted. `rms`: $x / (\sqrt{\mathrm{mean}\,x^2} + 10^{-8})$; `l2`: $x / (\|x\|_2 + 10^{-4})$.

    >>> normalise(torch.tensor([[3.0, 4.0]]), "l2")
    tensor([[0.6000, 0.8000]])
    """
    return divided(x, length(squares(x), math.prod(x.shape[1:]), kind))


def squares(x: Tensor) -> Tensor:
    """(n, ...) to (n,): the sum of the squares of each sample's entries; at least float32. Makes no copy."""
    return torch.linalg.vector_norm(x, dim=[*range(1, x.ndim)], dtype=_wide_type(x)).square()


def length(squares: Tensor, entries: int, kind: str) -> Tensor | None:
    """What `normalise` divides by, (n,), from the sum (n,) of so many squared entries; None where it divides not."""
    if kind == "none":
        return None
    return squares.sqrt() + 1e-4 if kind == "l2" else (squares / entries).sqrt() + 1e-8


def inverse_length(norm: Tensor, entries: int, kind: str) -> Tensor | None:
    """One over `length`, from the Euclidean norm of so many entries, in the shape of `norm`; None for `none`.

    >>> inverse_length(torch.tensor(5.0), 4, "l2"), 1 / length(torch.tensor(25.0), 4, "l2")
    (tensor(0.2000), tensor(0.2000))
    """
    if kind == "none":
        return None
    return 1 / (norm + 1e-4 if kind == "l2" else norm / math.sqrt(entries) + 1e-8)


def divided(x: Tensor, length: Tensor | None) -> Tensor:
    """Every sample of x (n, ...) over its length (n,), in the type of x."""
    return x if length is None else (x / length.view(-1, *[1] * (x.ndim - 1))).to(x.dtype)


def overlay(inputs: Tensor, label: Tensor, position: int = 0) -> Tensor:
    """Overwrite c neighbouring entries of the flattened inputs, from `position` on, by a label.

    Args:
        inputs: (n, ...).
        label: (n, c), for instance the one-hot label times a strength.
        position: first entry that is overwritten.

    Returns:
        (n, ...), a copy.
    """
    flat, end = inputs.flatten(1), position + label.shape[1]
    return torch.cat([flat[:, :position], label.to(flat.dtype), flat[:, end:]], 1).reshape(inputs.shape)


def goodness(activity: Tensor, kind: str = "mean") -> Tensor:
    """(n, ...) activations to (n,): `sum` or `mean` of their squares over everything but the batch; at least float32.

    >>> goodness(torch.tensor([[3.0, 1.0]])), goodness(torch.tensor([[3.0, 1.0]]), "sum")
    (tensor([5.]), tensor([10.]))
    """
    return of_squares(_wide(activity).flatten(1).square().sum(1), math.prod(activity.shape[1:]), kind)


def of_squares(squares: Tensor, units: int, kind: str) -> Tensor:
    """Goodness (n,) from the sum (n,) of the squares of so many units."""
    return squares if kind == "sum" else squares / units


def contrast(positive: Tensor, negative: Tensor, loss: str, threshold: float, sharpness: float) -> Tensor:
    r"""What a block minimises: the mean of `contrast_rows` over the n pairs.

    >>> contrast(torch.tensor([9.0]), torch.tensor([9.0]), "symba", 0.0, 4.0).exp().item()
    2.0
    """
    return contrast_rows(positive, negative, loss, threshold, sharpness).mean()


def contrast_rows(positive: Tensor, negative: Tensor, loss: str, threshold: float, sharpness: float) -> Tensor:
    r"""The loss (..., n) of each pair, from the goodness (..., n) of its positive and of its negative sample.

    With $\tau$ the sharpness and $\theta$ the threshold, the mean of the pair's two terms (one term for symba):

    `threshold`: $\log(1+e^{\tau(\theta-G^+)})$ and $\log(1+e^{\tau(G^--\theta)})$ (Hinton);
    `margin`: $\max(0, 1-\tau(G^+-\theta))$ and $\max(0, 1+\tau(G^--\theta))$;
    `symba`: $\log(1+e^{-\tau(G^+-G^-)})$, without threshold (Lee & Song 2023, 2303.08418).
    """
    if loss == "symba":
        return -F.logsigmoid(sharpness * (positive - negative))
    above, below = sharpness * (positive - threshold), sharpness * (negative - threshold)
    if loss == "margin":
        return ((1 - above).relu() + (1 + below).relu()) / 2
    # not softplus: torch's is linear from 20 on, which costs float64 seven digits
    return -(F.logsigmoid(above) + F.logsigmoid(-below)) / 2


def contrast_slopes(
    positive: Tensor, negative: Tensor, loss: str, threshold: float, sharpness: float, rows: int | None = None
) -> Tensor:
    r"""(..., 2n): the derivatives of `contrast` by the goodness (..., n) of positive, then of negative samples.

    `threshold`: $-\tfrac{\tau}{2n}\sigma(\tau(\theta-G^+))$ and $+\tfrac{\tau}{2n}\sigma(\tau(G^--\theta))$;
    `margin`: $\mp\tfrac{\tau}{2n}$ inside the margin; `symba`: $\mp\tfrac{\tau}{n}\sigma(-\tau(G^+-G^-))$.

    Args:
        positive, negative, loss, threshold, sharpness: as in `contrast_rows`.
        rows: the number of pairs in the mean, if it is not n; 1: the derivatives of `contrast_rows`.
    """
    share = sharpness / (positive.shape[-1] if rows is None else rows)
    if loss == "symba":
        slope = share * torch.sigmoid(sharpness * (negative - positive))
        return torch.cat([-slope, slope], -1)
    margins = sharpness * torch.cat([threshold - positive, negative - threshold], -1)
    slope = share / 2 * ((margins > -1).to(margins.dtype) if loss == "margin" else torch.sigmoid(margins))
    return torch.cat([-slope[..., : positive.shape[-1]], slope[..., positive.shape[-1] :]], -1)


class _Credit(torch.autograd.Function):
    """Forward: a value made elsewhere. Backward: slope (n,) times output (n, ...). See `local_loss`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(output, value, slope):
        return value.clone()

    @staticmethod
    def setup_context(ctx, inputs, _output):
        output, _, slope = inputs
        ctx.save_for_backward(output, slope)

    @staticmethod
    def backward(ctx, grad):
        output, slope = ctx.saved_tensors
        credit = output * (grad * slope).view(-1, *[1] * (output.ndim - 1))
        return credit.to(output.dtype), None, None


def local_loss(
    output: Tensor, squares: Tensor, loss: str, threshold: float, sharpness: float, kind: str = "mean"
) -> Tensor:
    r"""`contrast` of a block's output (2n, ...), whose gradient is written out: $\tfrac2u\,(\partial L/\partial G)\,h$.

    One elementwise product on the way back, and no copy of the output on the way forth: `squares` (2n,), the sums of
    the output's squares, are known from normalising. It cannot be differentiated twice.

    >>> h = torch.tensor([[2.0], [1.0]], requires_grad=True)
    >>> loss = local_loss(h, h.detach().square().sum(1), "margin", 4.0, 1.0)
    >>> torch.autograd.grad(loss, h)[0].tolist()  # a positive inside the margin, a negative outside
    [[-2.0], [0.0]]
    """
    units = math.prod(output.shape[1:])
    positive, negative = of_squares(squares, units, kind).chunk(2)
    slopes = contrast_slopes(positive, negative, loss, threshold, sharpness)
    value = contrast(positive, negative, loss, threshold, sharpness)
    return _Credit.apply(output, value, of_squares(2 * slopes, units, kind))


def peer_penalty(positive: Tensor) -> Tensor:
    r"""How unequally the units are active: the mean over them of $(\bar m - m_j)^2$; keeps units from dying.

    $m_j$ is the mean activity of unit j over this batch's positive samples, (n, u).
    """
    means = _wide(positive).flatten(1).mean(0)
    return (means.mean() - means).square().mean()


def sample_hash(inputs: Tensor, seed: int, step: Tensor) -> Tensor:
    """(n, ...) inputs to (n,) int64 numbers in [0, 2^32): of each sample's own values, seed and step alone.

    All arithmetic is on integers, so it does not depend on the order of a sum. Inputs count to 1/4096.

    Args:
        inputs: (n, ...).
        seed: any integer.
        step: integer scalar tensor.
    """
    values = (inputs.detach().float().flatten(1) * 4096).to(torch.int64)
    places = torch.arange(values.shape[1], device=values.device) + 1
    factors = _mixed(places) % _PRIME
    values = (values >> 31).add_(values & _PRIME)  # the same modulo the prime, and below 2^33
    # in two halves, whose sums stay short of 2^63: dividing every product would cost as much as a layer
    high, low = (values * (factors // 2**16)).sum(1), (values * (factors % 2**16)).sum(1)
    content = (high % _PRIME * 2**16 + low) % _PRIME
    return _mixed(content ^ _mixed(step + (seed % 2**16) * 0x9E3779B9 + 1))


def wrong_labels(targets: Tensor, numbers: Tensor, classes: int) -> Tensor:
    """A label that is not the target, uniformly: (n,) from targets (n,) and hash numbers (n,)."""
    return (targets + 1 + numbers % (classes - 1)) % classes


def permuted_labels(targets: Tensor, numbers: Tensor, counts: Tensor | None = None) -> Tensor:
    """Every sample gets the label of another sample of the batch, (..., n); about 1/c of them are right by accident.

    The samples form a ring in the order of their hash `numbers` (..., n); each takes the label of the next.

    Args:
        targets: (..., n).
        numbers: (..., n) hash numbers.
        counts: (..., 1) valid samples of each batch; the padding after them takes no part. None: all are valid.
    """
    places = torch.arange(targets.shape[-1], device=targets.device)
    if counts is not None:
        numbers = numbers.masked_fill(places >= counts, 2**40)  # beyond every hash number
    order = numbers.argsort(dim=-1, stable=True)
    if counts is None:
        following = order.roll(-1, -1)
    else:
        following = order.gather(-1, torch.where(places + 1 < counts, places + 1, 0))
    return targets.scatter(-1, order, targets.gather(-1, following))


def likely_labels(targets: Tensor, numbers: Tensor, logits: Tensor) -> Tensor:
    """Hard negatives: wrong labels drawn from softmax(logits) (n, c), (n,). `numbers`: (n,) hash numbers."""
    right = one_hot(targets, logits).bool()
    total = logits.float().masked_fill(right, -math.inf).softmax(1).cumsum(1)
    uniform = (numbers // 2**16).unsqueeze(1) / 2**16  # 16 bits: the product below stays short of the last sum
    return (total <= uniform * total[:, -1:]).sum(1)


def _mixed(numbers: Tensor) -> Tensor:
    """A 32-bit integer hash with constants below 2^30, so that int64 products never overflow (C. Wellons)."""
    h = numbers % (_BITS + 1)
    h = ((h ^ (h // 2**15)) * 0x2C1B3C6D) % (_BITS + 1)
    h = ((h ^ (h // 2**12)) * 0x297A2D39) % (_BITS + 1)
    return h ^ (h // 2**15)


def _wide(x: Tensor) -> Tensor:
    return x.to(_wide_type(x))


def _wide_type(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)

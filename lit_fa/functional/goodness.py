r"""The formulas of Forward-Forward: labels in the inputs, wrong labels, goodness, and the local loss of a block.

Hinton 2022, arXiv:2212.13345. The goodness of a block is $G = \sum_j h_j^2$, or its mean over the units. A block learns
a higher goodness for inputs with their true label (positive) than for inputs with a wrong one (negative). Letters: n
batch, c classes, u units of a block (all dimensions except the batch).

Wrong labels are drawn by a hash and not by a generator: the draw depends only on a seed, the step and the values of the
sample. So it is the same on every device and rank and at every position in a batch, and it works under vmap and
compile.
"""

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_fa.functional.criteria import one_hot
from lit_fa.functional.differentiable import Differentiable

Normalisation = Literal["rms", "l2", "none"]
Loss = Literal["threshold", "symba", "margin"]
_PRIME = 2**31 - 1
_BITS = 2**32 - 1


def normalise(x: Tensor, kind: str = "rms") -> Tensor:
    r"""x with every sample's norm set to one ($\sqrt{u}$ for rms), which removes the goodness of the block before.

    No mean is subtracted. `rms`: $x / (\sqrt{\mathrm{mean}\,x^2} + 10^{-8})$; `l2`: $x / (\|x\|_2 + 10^{-4})$.

    Args:
        x: (n, ...).
        kind: `rms`, `l2` or `none`, which returns x.

    Returns:
        (n, ...).

    >>> normalise(torch.tensor([[3.0, 4.0]]), "l2")
    tensor([[0.6000, 0.8000]])
    """
    return divided(x, length(squares(x), math.prod(x.shape[1:]), kind))


def squares(x: Tensor) -> Tensor:
    """The sum (n,) of the squares of each sample of x (n, ...), at least float32, without a copy of x."""
    return torch.linalg.vector_norm(x, dim=[*range(1, x.ndim)], dtype=_wide_type(x)).square()


def length(squares: Tensor, entries: int, kind: str) -> Tensor | None:
    """The divisor of `normalise`, of the shape of `squares`; None for kind none.

    Args:
        squares: (n,) sums of squares.
        entries: number of entries in each sum.
        kind: as of `normalise`.
    """
    if kind == "none":
        return None
    return squares.sqrt() + 1e-4 if kind == "l2" else (squares / entries).sqrt() + 1e-8


def inverse_length(norm: Tensor, entries: int, kind: str) -> Tensor | None:
    """1 / `length`, with the shape of `norm`; None for kind none.

    Args:
        norm: any shape, Euclidean norms.
        entries: number of entries under each norm.
        kind: as of `normalise`.

    >>> inverse_length(torch.tensor(5.0), 4, "l2"), 1 / length(torch.tensor(25.0), 4, "l2")
    (tensor(0.2000), tensor(0.2000))
    """
    if kind == "none":
        return None
    return 1 / (norm + 1e-4 if kind == "l2" else norm / math.sqrt(entries) + 1e-8)


def divided(x: Tensor, length: Tensor | None) -> Tensor:
    """Every sample of x (n, ...) divided by its `length` (n,), in the type of x; x itself if that is None."""
    return x if length is None else (x / length.view(-1, *[1] * (x.ndim - 1))).to(x.dtype)


def overlay(inputs: Tensor, label: Tensor, position: int = 0) -> Tensor:
    """The inputs with c neighbouring entries, from `position` on, replaced by a label.

    Args:
        inputs: (n, ...).
        label: (n, c), for example the one-hot label times a strength.
        position: first entry that is replaced, in the flattened inputs.

    Returns:
        (n, ...), a copy.
    """
    flat, end = inputs.flatten(1), position + label.shape[1]
    return torch.cat([flat[:, :position], label.to(flat.dtype), flat[:, end:]], 1).reshape(inputs.shape)


def goodness(activity: Tensor, kind: str = "mean") -> Tensor:
    """Goodness (n,), at least float32, of a block's activations.

    Args:
        activity: (n, ...).
        kind: `sum` or `mean` of the squares over all dimensions except the batch.

    >>> goodness(torch.tensor([[3.0, 1.0]])), goodness(torch.tensor([[3.0, 1.0]]), "sum")
    (tensor([5.]), tensor([10.]))
    """
    return of_squares(_wide(activity).flatten(1).square().sum(1), math.prod(activity.shape[1:]), kind)


def of_squares(squares: Tensor, units: int, kind: str) -> Tensor:
    """Goodness from sums of squares, of their shape.

    Args:
        squares: (n,) sums of the squares of a block's activations.
        units: u, number of terms of each sum.
        kind: `sum` or `mean`, as of `goodness`.
    """
    return squares if kind == "sum" else squares / units


def contrast(positive: Tensor, negative: Tensor, loss: str, threshold: float, sharpness: float) -> Tensor:
    r"""The local loss of a block, a scalar: the mean of `contrast_rows` over the n pairs.

    Args:
        positive, negative, loss, threshold, sharpness: as in `contrast_rows`.

    >>> contrast(torch.tensor([9.0]), torch.tensor([9.0]), "symba", 0.0, 4.0).exp().item()
    2.0
    """
    return contrast_rows(positive, negative, loss, threshold, sharpness).mean()


def contrast_rows(positive: Tensor, negative: Tensor, loss: str, threshold: float, sharpness: float) -> Tensor:
    r"""The loss (..., n) of each pair of a positive and a negative sample.

    With $\tau$ the sharpness and $\theta$ the threshold, the mean of the pair's two terms (one term for symba):

    `threshold`: $\log(1+e^{\tau(\theta-G^+)})$ and $\log(1+e^{\tau(G^--\theta)})$ (Hinton);
    `margin`: $\max(0, 1-\tau(G^+-\theta))$ and $\max(0, 1+\tau(G^--\theta))$;
    `symba`: $\log(1+e^{-\tau(G^+-G^-)})$, without threshold (Lee & Song 2023, 2303.08418).

    Args:
        positive: (..., n) goodness of the samples with their true label.
        negative: (..., n) goodness of the samples with a wrong one.
        loss: `threshold`, `margin` or `symba`.
        threshold: $\theta$, in units of goodness.
        sharpness: $\tau$, positive.
    """
    if loss == "symba":
        return -F.logsigmoid(sharpness * (positive - negative))
    above, below = sharpness * (positive - threshold), sharpness * (negative - threshold)
    if loss == "margin":
        return ((1 - above).relu() + (1 + below).relu()) / 2
    # not softplus: torch's is linear above 20, which loses seven digits in float64
    return -(F.logsigmoid(above) + F.logsigmoid(-below)) / 2


def contrast_slopes(
    positive: Tensor, negative: Tensor, loss: str, threshold: float, sharpness: float, rows: int | None = None
) -> Tensor:
    r"""The derivatives (..., 2n) of `contrast` by the goodness (..., n) of the positive, then of the negative samples.

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


class _Credit(Differentiable):
    """Forward: the given value. Backward: slope (n,) times output (n, ...). See `local_loss`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(output: Tensor, value: Tensor, slope: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], _output: Tensor) -> None:
        output, _, slope = inputs
        ctx.save_for_backward(output, slope)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        output, slope = ctx.saved_tensors
        credit = output * (grad * slope).view(-1, *[1] * (output.ndim - 1))
        return credit.to(output.dtype), None, None


def local_loss(
    output: Tensor, squares: Tensor, loss: str, threshold: float, sharpness: float, kind: str = "mean"
) -> Tensor:
    r"""`contrast` of a block's output (2n, ...) with an explicit gradient: $\tfrac2u\,(\partial L/\partial G)\,h$.

    The backward pass is one elementwise product, and the forward pass makes no copy of the output: `squares` (2n,), the
    sums of the squares of the output, are known from the normalisation. It cannot be differentiated twice.

    Args:
        output: (2n, ...), h: n positive samples, then n negative ones.
        squares: (2n,).
        loss, threshold, sharpness: as in `contrast_rows`.
        kind: `sum` or `mean`, as of `goodness`.

    Returns:
        A scalar.

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


def two_label_logits(targets: Tensor, wrong: Tensor, goodness: Tensor, classes: int) -> Tensor:
    """Logits (n, c): the goodness of the true and of the wrong label, and a lower number for all other labels.

    Args:
        targets, wrong: (n,) labels.
        goodness: (2n,), with the true labels, then with the wrong ones.
        classes: c.

    >>> two_label_logits(torch.tensor([2]), torch.tensor([0]), torch.tensor([5.0, 3.0]), 3)
    tensor([[3., 2., 5.]])
    """
    positive, negative = goodness.chunk(2)
    right, other = (one_hot(labels, goodness.new_zeros(classes)) for labels in (targets, wrong))
    floor = torch.minimum(positive, negative) - 1
    return floor[:, None] + right * (positive - floor)[:, None] + other * (1 - right) * (negative - floor)[:, None]


def peer_penalty(positive: Tensor) -> Tensor:
    r"""The variance of mean activity over the units, the mean of $(\bar m - m_j)^2$; a penalty against dead units.

    Args:
        positive: (n, ...) activations of the positive samples; $m_j$ is the mean of unit j over them.

    Returns:
        A scalar, at least float32.
    """
    means = _wide(positive).flatten(1).mean(0)
    return (means.mean() - means).square().mean()


def sample_hash(inputs: Tensor, seed: int, step: Tensor) -> Tensor:
    """(n, ...) inputs to (n,) int64 hash numbers in [0, 2^32), which depend only on the sample's values, seed and step.

    All arithmetic is on integers, so it does not depend on the order of a sum. Inputs are rounded to 1/4096.

    Args:
        inputs: (n, ...).
        seed: any integer.
        step: integer scalar tensor.
    """
    values = (inputs.detach().float().flatten(1) * 4096).to(torch.int64)
    places = torch.arange(values.shape[1], device=values.device) + 1
    factors = _mixed(places) % _PRIME
    values = (values >> 31).add_(values & _PRIME)  # equal modulo the prime, and below 2^33
    # in two halves, whose sums are below 2^63; a modulus for every product would take as long as a layer
    high, low = (values * (factors // 2**16)).sum(1), (values * (factors % 2**16)).sum(1)
    content = (high % _PRIME * 2**16 + low) % _PRIME
    return _mixed(content ^ _mixed(step + (seed % 2**16) * 0x9E3779B9 + 1))


def wrong_labels(targets: Tensor, numbers: Tensor, classes: int) -> Tensor:
    """A uniformly drawn label (n,) other than the target.

    Args:
        targets: (n,) labels.
        numbers: (n,) hash numbers, see `sample_hash`.
        classes: c, at least 2.
    """
    return (targets + 1 + numbers % (classes - 1)) % classes


def permuted_labels(targets: Tensor, numbers: Tensor, counts: Tensor | None = None) -> Tensor:
    """Labels (..., n) of other samples of the batch; about 1/c of them are right by chance.

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
    """Hard negatives: wrong labels (n,) drawn from the softmax of the logits without the true class.

    Args:
        targets: (n,) labels.
        numbers: (n,) hash numbers, see `sample_hash`.
        logits: (n, c).
    """
    right = one_hot(targets, logits).bool()
    total = logits.float().masked_fill(right, -math.inf).softmax(1).cumsum(1)
    uniform = (numbers // 2**16).unsqueeze(1) / 2**16  # 16 bits: the product below is less than the last sum
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

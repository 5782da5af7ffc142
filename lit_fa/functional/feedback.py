r"""Drawing and deriving feedback matrices: pure functions of shapes, weights and an explicit generator.

Letters: o out, i in, k kernel. A feedback matrix has the shape of its weight, (o, i) or (o, i, *k). The backward pass
is $\delta_{l-1} = \delta_l B_l$. Every draw uses a CPU generator seeded by a documented seed and a name. So devices
and ranks agree, and redrawing one layer changes no other. Fixed random feedback is that of Lillicrap et al. 2016.
"""

import hashlib
import math
from collections.abc import Callable, Iterator
from typing import Literal, get_args

import torch
from torch import Generator, Tensor

Init = Literal[
    "xavier_uniform", "xavier_normal", "kaiming_uniform", "kaiming_normal", "uniform", "normal", "orthogonal",
    "standard_normal", "signs",
]  # fmt: skip
INITS: tuple[str, ...] = get_args(Init)


def named_generator(seed: int, *names: object) -> Generator:
    """A CPU generator that depends only on `seed` and `names`, for example of a layer and a round.

    >>> a, b = named_generator(0, "fc1"), named_generator(0, "fc1")
    >>> torch.equal(torch.rand(3, generator=a), torch.rand(3, generator=b))
    True
    """
    digest = hashlib.sha256("/".join(map(str, (seed, *names))).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def fans(shape: torch.Size | tuple[int, ...]) -> tuple[int, int]:
    """(fan_in, fan_out) of a weight of `shape` (o, i, *k), as torch.nn.init counts them."""
    field = math.prod(shape[2:])
    return shape[1] * field, shape[0] * field


def draw(shape: torch.Size | tuple[int, ...], init: str, generator: Generator, *, gain: float = 1.0) -> Tensor:
    """A random float32 matrix of `shape` (o, i, *k) on the CPU.

    Args:
        shape: of the weight that the matrix replaces in the backward pass.
        init: `xavier_*` and `kaiming_*` (ReLU gain) as in torch.nn.init; `uniform`: ±1/sqrt(fan_in), torch's
            default for linear and conv layers; `normal`: standard deviation 1/sqrt(fan_in); `orthogonal`;
            `standard_normal`: standard deviation 1; `signs`: -1 or 1.
        generator: source of the random numbers.
        gain: factor on the result.

    Raises:
        ValueError: an unknown init.
    """
    if init not in INITS:
        raise ValueError(f"unknown feedback init '{init}': choose one of {', '.join(INITS)}")
    fan_in, _ = fans(shape)
    matrix = torch.empty(shape)
    if init == "uniform":
        matrix.uniform_(-1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in), generator=generator)
    elif init == "normal":
        matrix.normal_(0, 1 / math.sqrt(fan_in), generator=generator)
    elif init == "standard_normal":
        matrix.normal_(generator=generator)
    elif init == "signs":
        matrix.random_(2, generator=generator).mul_(2).sub_(1)
    elif init.startswith("kaiming"):
        getattr(torch.nn.init, init + "_")(matrix, nonlinearity="relu", generator=generator)
    else:
        getattr(torch.nn.init, init + "_")(matrix, generator=generator)
    return matrix.mul_(gain)


def draw_rows(
    shape: tuple[int, int], init: str, generator: Generator, rows: int, *, gain: float = 1.0
) -> Iterator[tuple[slice, Tensor]]:
    """The matrix of `draw`, bit for bit, in pieces of some rows; only one piece is in memory.

    Args:
        shape: (o, i) of the whole matrix.
        init: as of `draw`, without `orthogonal`, whose rows depend on one another.
        generator: source of the random numbers, as of `draw`.
        rows: of a piece; rounded up to a multiple of 16, in which torch draws normal numbers.
        gain: factor on the result.

    Yields:
        The rows of a piece in the matrix, and the piece (rows, i).

    Raises:
        ValueError: an unknown init, or `orthogonal`.

    >>> whole = draw((40, 3), "normal", named_generator(0, "F"))
    >>> pieces = [piece for _, piece in draw_rows((40, 3), "normal", named_generator(0, "F"), 16)]
    >>> [len(piece) for piece in pieces], torch.equal(torch.cat(pieces), whole)
    ([16, 24], True)
    """
    if init == "orthogonal":
        raise ValueError("orthogonal feedback cannot be drawn in pieces")
    fill = _filler(shape, init)
    step = max(16, math.ceil(rows / 16) * 16)
    starts = [*range(0, shape[0] - 15, step)] or [0]  # the last piece has at least 16 rows, if there are so many
    for start, stop in zip(starts, [*starts[1:], shape[0]], strict=True):
        yield slice(start, stop), fill(torch.empty(stop - start, shape[1]), generator).mul_(gain)


def _filler(shape: tuple[int, int], init: str) -> Callable[[Tensor, Generator], Tensor]:
    """What fills a piece of a matrix of `shape`; the constants are computed as torch.nn.init does, to the last bit."""
    fan_in, fan_out = fans(shape)
    deviation = {
        "xavier": math.sqrt(2 / (fan_in + fan_out)),
        "kaiming": math.sqrt(2) / math.sqrt(fan_in),
        "normal": 1 / math.sqrt(fan_in),
        "standard": 1.0,
    }.get(init.split("_")[0])
    if init == "signs":
        return lambda piece, generator: piece.random_(2, generator=generator).mul_(2).sub_(1)
    if init == "uniform" or init.endswith("_uniform"):
        bound = 1 / math.sqrt(fan_in) if deviation is None else math.sqrt(3) * deviation
        return lambda piece, generator: piece.uniform_(-bound, bound, generator=generator)
    if deviation is None:
        raise ValueError(f"unknown feedback init '{init}': choose one of {', '.join(INITS)}")
    return lambda piece, generator: piece.normal_(0, deviation, generator=generator)


def spread(shape: torch.Size | tuple[int, ...], init: str) -> float:
    """Standard deviation of the entries of `draw(shape, init)`; for `orthogonal` the root mean square.

    Args:
        shape: (o, i, *k).
        init: as of `draw`.
    """
    fan_in, fan_out = fans(shape)
    if init in ("standard_normal", "signs"):
        return 1.0
    if init == "orthogonal":
        return 1 / math.sqrt(max(shape[0], math.prod(shape[1:])))
    named = {"xavier": math.sqrt(2 / (fan_in + fan_out)), "kaiming": math.sqrt(2 / fan_in)}
    return (named | {"uniform": 1 / math.sqrt(3 * fan_in), "normal": 1 / math.sqrt(fan_in)})[init.split("_")[0]]


def shared_slices(widths: list[int], classes: int, init: str | None, generator: Generator) -> list[Tensor]:
    r"""Feedback (c, d) for each width d, as slices of one matrix (c, d_max).

    Args:
        widths: d of each block.
        classes: c.
        init: None: $U[-1, 1) / \sqrt{d}$ (Launay et al. 2020); otherwise as in `draw`, with every slice scaled to
            the standard deviation that `init` has at its width.
        generator: source of the random numbers.
    """
    widest = max(widths)
    if init is None:
        shared = torch.empty(widest, classes).uniform_(-1, 1, generator=generator)
        return [shared[:width].t() / math.sqrt(width) for width in widths]
    shared, deviation = draw((widest, classes), init, generator), spread((widest, classes), init)
    return [shared[:width].t() * (spread((width, classes), init) / deviation) for width in widths]


def sign_scale(shape: torch.Size | tuple[int, ...], scale: str | float) -> float:
    r"""The constant c of uniform sign feedback B = c sign(W) (Liao et al. 2016; the constant is the code's choice).

    Args:
        shape: of the weight.
        scale: `xavier`: sqrt(2 / (fan_in + fan_out)), the standard deviation of Xavier's init; `fan_in`:
            1 / sqrt(3 fan_in), that of torch's default init; or a positive number.

    Raises:
        ValueError: another scale.
    """
    fan_in, fan_out = fans(shape)
    named = {"xavier": math.sqrt(2 / (fan_in + fan_out)), "fan_in": 1 / math.sqrt(3 * fan_in)}
    constant = named.get(scale) if isinstance(scale, str) else float(scale)
    if constant is None or constant <= 0:
        raise ValueError(f"sign feedback needs a scale that is 'xavier', 'fan_in' or a positive number, not {scale!r}")
    return constant


def norm_matched_sign(weight: Tensor) -> Tensor:
    r"""$\mathrm{sign}(W)\,\|W\|_F / \|\mathrm{sign}(W)\|_F$: the sign matrix with the norm of `weight`, any shape."""
    sign = weight.sign()
    return sign * (weight.norm() / sign.norm().clamp_min(torch.finfo(weight.dtype).tiny))


def rescale_rows(matrix: Tensor, weight: Tensor) -> Tensor:
    """`matrix` with the norm of each row (one output neuron, over i and k) set to that of the row of `weight`.

    Args:
        matrix: (o, i, *k).
        weight: (o, i, *k).

    Returns:
        (o, i, *k).
    """
    return matrix * (_row_norms(weight) / _row_norms(matrix).clamp_min(torch.finfo(matrix.dtype).tiny))


def rescale_matrix(matrix: Tensor, weight: Tensor) -> Tensor:
    """`matrix` with its Frobenius norm set to that of `weight`.

    Args:
        matrix: (o, i, *k).
        weight: (o, i, *k).

    Returns:
        (o, i, *k).
    """
    return matrix * (weight.norm() / matrix.norm().clamp_min(torch.finfo(matrix.dtype).tiny))


def as_it_is(matrix: Tensor, weight: Tensor) -> Tensor:
    """`matrix` unchanged: no rescaling.

    Args:
        matrix: (o, i, *k).
        weight: (o, i, *k), not read.

    Returns:
        (o, i, *k).
    """
    return matrix


Rescale = Literal["row", "matrix", "none"]
RESCALES = {"row": rescale_rows, "matrix": rescale_matrix, "none": as_it_is}


def mix(feedback: Tensor, weight: Tensor, rate: float) -> Tensor:
    r"""$B \leftarrow (1-\rho) B + \rho W$, a copy of the same shape.

    Args:
        feedback: (o, i, *k), B.
        weight: (o, i, *k), W.
        rate: $\rho$, 0 to 1.
    """
    return feedback + rate * (weight - feedback)


def mirror(
    feedback: Tensor, weight: Tensor, noise: Tensor, *, rate: float, activation: str = "linear", decay: float = 0.0
) -> Tensor:
    r"""One weight-mirror step: $B \leftarrow (1-\lambda)B + \eta_B\,(y-\bar y)^\top(x-\bar x)$ (Akrout et al. 2019).

    The layer by itself receives noise x and responds y = phi(x W^T). The expectation of the product is
    $(n-1)\,\sigma^2 W$ times the mean slope of phi. A conv layer receives patches of its kernel size.

    Args:
        feedback: (o, i, *k).
        weight: (o, i, *k).
        noise: (n, i * prod(k)).
        rate: eta_B, on the sum over the n patterns, as in the authors' code.
        activation: `linear` or `relu`, the function phi.
        decay: lambda, which keeps B bounded without rescaling.

    Returns:
        (o, i, *k), a copy.
    """
    response = noise @ weight.flatten(1).t()
    response = response.relu() if activation == "relu" else response
    product = (response - response.mean(0)).t() @ (noise - noise.mean(0))
    return (1 - decay) * feedback + rate * product.view_as(feedback)


def _row_norms(matrix: Tensor) -> Tensor:
    return matrix.flatten(1).norm(dim=1).view(-1, *[1] * (matrix.ndim - 1))

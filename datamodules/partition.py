"""Partitions of a data set among federated clients, as pure functions of a label vector.

Every function returns one ascending index array per client, as views of one array. Each of 0..n-1 is in exactly one
array, and no client is empty. Equal arguments give equal partitions (under one version of numpy, whose generator makes
the draws). The global random state is neither read nor changed. Labels are any array (n,) in host memory, for example a
CPU tensor.

Legend: n samples, c classes, k clients. Every beta is the parameter of ONE component of a symmetric Dirichlet
distribution: small is skewed, large is even.

flwr-datasets has similar partitioners. It is not used because it depends on Hugging Face datasets, pyarrow, pandas and
seaborn, and because its Dirichlet partitioner fails after ten draws in cases that this one repairs.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lit_fa.datamodules.errors import require
from lit_fa.datamodules.generators import seed_of
from lit_fa.datamodules.pieces import Pieces

Parts = Pieces[NDArray[np.intp]]
MANY = 10**8  # gamma variates of all tries: more take minutes
HOPELESS = 50  # clients with too few samples: a further draw has none with a probability of about exp(-50)
LARGEST_BETA = 1e6  # shares are even to one part in a thousand, and gamma variates are far from overflow


def iid(labels: ArrayLike, clients: int, seed: int) -> Parts:
    """Shuffle the data set and cut it into equal parts (McMahan et al. 2017, section 3); sizes differ by at most one.

    >>> [len(part) for part in iid([0, 0, 0, 1, 1, 1, 2], clients=3, seed=0)]
    [3, 2, 2]
    """
    n = len(_classes("iid", labels, clients))
    return _parts(_stream("iid", seed).permutation(np.arange(n) % clients), clients)


def shards(labels: ArrayLike, clients: int, seed: int, *, per_client: int = 2) -> Parts:
    """Sort by label, cut into k * per_client equal shards, assign `per_client` to each client (McMahan et al. 2017).

    The sort is stable, so the shards are the same for all seeds; `seed` determines which client gets which shard.

    Raises:
        DataError: n is not a multiple of the number of shards.

    >>> parts = shards([1, 0, 1, 0], clients=2, seed=0, per_client=1)
    >>> sorted(part.tolist() for part in parts)
    [[0, 2], [1, 3]]
    """
    classes = _classes("shards", labels, clients)
    require(_counts(per_client), f"shards: per_client={per_client} must be at least 1 and whole")
    n, number = len(classes), clients * per_client
    even = f"keep {n // number * number} samples" if n >= number else "have fewer clients or shards"
    require(n % number == 0, f"shards: {n} samples do not divide into {clients} x {per_client} equal shards; {even}")
    dealt = _stream("shards", seed).permutation(np.arange(number) % clients)
    owner = np.empty(n, np.intp)
    owner[np.argsort(classes, kind="stable")] = np.repeat(dealt, n // number)
    return _parts(owner, clients)


def dirichlet(
    labels: ArrayLike, clients: int, beta: float, seed: int, *, min_size: int = 10, tries: int = 100
) -> Parts:
    """Split each class among the clients by shares from Dir(beta); redraw while a client has too few samples.

    As in Yurochkin et al. 2019 and NIID-Bench (Li et al. 2022), classes are split one after the other, and a client
    that already has n / k samples gets no more. Their loop repeats until the smallest client has `min_size` samples (10
    there, 64 in the code of FLFA). It need not end: with 10 balanced classes, 100 clients, beta 0.1 and size 64 no
    valid draw occurred in 1,500. Therefore, after `tries` draws, the draw with the fewest missing samples is REPAIRED:
    randomly chosen samples move from the (currently) largest client to the smallest, only as many as are missing, and
    one warning gives their number. A moved sample follows the class mixture of its donor, so a repaired client sees
    more classes than beta alone would give it. Where `tries` draws have more than 10^8 shares (10 classes and 100,000
    clients), a draw that leaves more than 50 clients too few samples is the last: no later one would succeed.

    Args:
        labels: (n,), any sortable values.
        clients: k.
        beta: 0.1 is strongly skewed, 0.5 moderately.
        seed: determines all draws.
        min_size: smallest number of samples of a client.
        tries: draws before the repair.

    Raises:
        DataError: more clients than samples, k * min_size > n, beta outside (0, 1e6].
    """
    skew = _Skew("dirichlet", clients=clients, beta=beta, min_size=min_size, tries=tries)
    return _skewed(_classes("dirichlet", labels, clients), skew, seed)


def quantity_skew(
    labels: ArrayLike, clients: int, beta: float, seed: int, *, min_size: int = 10, tries: int = 100
) -> Parts:
    """Sizes n * Dir(beta) with the label mixture of the whole set (NIID-Bench, quantity skew).

    `min_size` and `tries` are those of `dirichlet`.

    Raises:
        DataError: as `dirichlet`.
    """
    one_class = np.zeros_like(_classes("quantity_skew", labels, clients))
    return _skewed(one_class, _Skew("quantity_skew", clients=clients, beta=beta, min_size=min_size, tries=tries), seed)


def dirichlet_balanced(labels: ArrayLike, clients: int, beta: float, seed: int) -> Parts:
    """Each client draws a class mixture from Dir(beta) and takes an equal share of the n samples according to it.

    As in Hsu et al. 2019 (arXiv 1909.06335): an exhausted class is removed from the mixture, which is renormalised, so
    the last clients get the remaining samples. Hsu et al. write Dir(alpha p); with p uniform over c classes, beta =
    alpha / c. Sizes differ by at most one.

    Raises:
        DataError: more clients than samples, beta outside (0, 1e6].
    """
    classes = _classes("dirichlet_balanced", labels, clients)
    _check_beta("dirichlet_balanced", beta)
    rng, left = _stream("dirichlet_balanced", seed), np.bincount(classes)
    counts = np.zeros((len(left), clients), np.intp)
    for client in range(clients):
        size = len(classes) // clients + (client < len(classes) % clients)
        counts[:, client] = _fill(size, left, beta, rng)
        left = left - counts[:, client]
    return _parts(_deal(classes, counts, rng), clients)


def class_counts(labels: ArrayLike, parts: Sequence[ArrayLike]) -> NDArray[np.intp]:
    """Number of samples (k, c) of each class at each client; columns are the distinct labels in ascending order.

    >>> class_counts([7, 3, 7], [[0, 2], [1]]).tolist()
    [[0, 2], [1, 0]]
    """
    distinct, classes = np.unique(np.asarray(labels), return_inverse=True)
    parts = parts if isinstance(parts, Pieces) else Pieces(*_joined(parts))
    clients = np.repeat(np.arange(len(parts)), parts.sizes)
    cells = clients * len(distinct) + classes[parts.whole]
    return np.bincount(cells, minlength=len(parts) * len(distinct)).reshape(len(parts), len(distinct))


def _joined(parts: Sequence[ArrayLike]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    arrays = [np.asarray(part, np.intp) for part in parts]
    return np.concatenate(arrays), np.array([len(array) for array in arrays])


def _stream(scheme: str, seed: int) -> np.random.Generator:
    return np.random.default_rng(seed_of(scheme, int(seed), size=16))


def _classes(scheme: str, labels: ArrayLike, clients: int) -> NDArray[np.intp]:
    """Class indices (n,) in 0..c-1, after the checks that all schemes share."""
    values = np.asarray(labels)
    require(values.ndim == 1, f"{scheme}: labels have the shape {values.shape}; give one label per sample, (n,)")
    require(clients >= 1, f"{scheme}: clients={clients} must be at least 1")
    require(clients <= len(values), f"{scheme}: {clients} clients for {len(values)} samples; have at most one each")
    return np.unique(values, return_inverse=True)[1]


def _counts(number: object) -> bool:
    return isinstance(number, Integral) and not isinstance(number, bool) and int(number) >= 1


def _check_beta(scheme: str, beta: float) -> None:
    hint = f"must be above 0 and at most {LARGEST_BETA:g}; for an even split use iid"
    number = isinstance(beta, Real) and not isinstance(beta, bool)
    require(number and 0 < beta <= LARGEST_BETA, f"{scheme}: beta={beta} {hint}")


@dataclass(frozen=True)
class _Skew:
    """Options of a partition by Dirichlet shares; see `dirichlet`."""

    scheme: str
    clients: int
    beta: float
    min_size: int
    tries: int

    def check(self, samples: int) -> None:
        scheme, min_size, most = self.scheme, self.min_size, samples // self.clients
        _check_beta(scheme, self.beta)
        whole = "must be at least 1 and whole"
        require(_counts(min_size), f"{scheme}: min_size={min_size} {whole}: no client may be empty")
        require(_counts(self.tries), f"{scheme}: tries={self.tries} {whole}")
        impossible = f"min_size={min_size} for {self.clients} clients is impossible; at most {most}"
        require(min_size <= most, f"{scheme}: {impossible}")


def _skewed(classes: NDArray[Any], skew: _Skew, seed: int) -> Parts:
    skew.check(len(classes))
    rng = _stream(skew.scheme, seed)
    counts, drawn = _best_draw(np.bincount(classes), skew, rng)
    owner = _deal(classes, counts, rng)
    if moved := _repair(owner, skew.clients, skew.min_size, rng):
        message = (
            f"{skew.scheme}: no draw of {drawn} gave each of {skew.clients} clients {skew.min_size} samples; "
            f"moved {moved} of {len(classes)} samples from the largest clients to the smallest"
        )
        warnings.warn(message, stacklevel=3)
    return _parts(owner, skew.clients)


def _best_draw(totals: NDArray[Any], skew: _Skew, rng: np.random.Generator) -> tuple[NDArray[Any], int]:
    """The first of `tries` draws that needs no repair; if there is none, the one that needs the fewest moves.

    Returns:
        Counts (c, k), and the number of draws.
    """
    best: NDArray[Any] | None = None
    fewest, drawn = np.inf, 0
    while drawn < skew.tries:
        drawn += 1
        counts = _draw(totals, skew.clients, skew.beta, rng)
        short = np.maximum(skew.min_size - counts.sum(0), 0)
        if best is None or short.sum() < fewest:
            best, fewest = counts, short.sum()
        if fewest == 0 or (skew.tries * counts.size > MANY and (short > 0).sum() > HOPELESS):
            break
    assert best is not None  # tries is at least 1
    return best, drawn


def _draw(totals: NDArray[Any], clients: int, beta: float, rng: np.random.Generator) -> NDArray[Any]:
    """Counts (c, k). Shares are drawn only for the clients that have room.

    A renormalised part of a Dirichlet vector is again a Dirichlet vector. So this equals the published method, which
    sets the other shares to zero and renormalises, but cannot divide 0 by 0.
    """
    counts = np.zeros((len(totals), clients), np.intp)
    for label, total in enumerate(totals):
        has_room = np.flatnonzero(counts.sum(0) * clients < totals.sum())
        shares = rng.dirichlet(np.full(len(has_room), beta))
        cuts = (np.cumsum(shares)[:-1] * total).astype(np.intp)
        counts[label, has_room] = np.diff(cuts, prepend=0, append=total)
    return counts


def _fill(size: int, left: NDArray[Any], beta: float, rng: np.random.Generator) -> NDArray[Any]:
    """Counts (c,) of one client. The surplus of an exhausted class is redrawn, as if samples were drawn one by one."""
    taken, mixture = np.zeros_like(left), rng.dirichlet(np.full(len(left), beta))
    while missing := size - taken.sum():
        remain = np.flatnonzero(taken < left)
        # If the remaining shares underflow to 0, none of their samples has been drawn yet: a new draw is exact.
        shares = mixture[remain] if mixture[remain].any() else rng.dirichlet(np.full(len(remain), beta))
        taken[remain] += rng.multinomial(missing, shares / shares.sum())
        taken = np.minimum(taken, left)
    return taken


def _deal(classes: NDArray[Any], counts: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    """The client (n,) of each sample, drawn such that client j has counts[i, j] samples of class i."""
    shuffled = rng.permutation(len(classes))
    owner = np.empty(len(classes), np.intp)
    clients = np.tile(np.arange(counts.shape[1]), len(counts))
    owner[shuffled[np.argsort(classes[shuffled], kind="stable")]] = np.repeat(clients, counts.ravel())
    return owner


def _repair(owner: NDArray[Any], clients: int, min_size: int, rng: np.random.Generator) -> int:
    """Move samples in place until each client has min_size; returns the number of moves.

    Every move is from the (then) largest client to the smallest, the first one of equals. A donor never falls below
    min_size and a receiver never rises above it, so the two can be listed apart: donors by descending, receivers by
    ascending size. The list of donors is long enough, since k * min_size <= n.
    """
    sizes = np.bincount(owner, minlength=clients)
    missing = np.maximum(min_size - sizes, 0)
    moves = int(missing.sum())
    if not moves:
        return 0
    receivers, rank = _repeated(missing)
    receivers = receivers[np.lexsort((receivers, sizes[receivers] + rank))]
    donors, rank = _repeated(np.maximum(sizes - _lowest_size(sizes, moves), 0))
    first = np.lexsort((donors, rank - sizes[donors]))[:moves]
    shuffled = rng.permutation(len(owner))
    pools = shuffled[np.argsort(owner[shuffled], kind="stable")]  # samples of client 0, of client 1, ...
    owner[pools[(np.cumsum(sizes) - sizes)[donors[first]] + rank[first]]] = receivers
    return moves


def _repeated(times: NDArray[Any]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Each index so many times, and for each entry how many equal ones are before it."""
    indices = np.repeat(np.arange(len(times)), times)
    return indices, np.arange(len(indices)) - np.repeat(np.cumsum(times) - times, times)


def _lowest_size(sizes: NDArray[Any], moves: int) -> int:
    """The largest size such that cutting all clients to it frees at least `moves` samples."""
    low, high = 0, int(sizes.max())
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if np.maximum(sizes - middle, 0).sum() >= moves else (low, middle)
    return low


def _parts(owner: NDArray[Any], clients: int) -> Parts:
    return Pieces(np.argsort(owner, kind="stable"), np.bincount(owner, minlength=clients))

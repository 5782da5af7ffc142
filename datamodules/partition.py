"""Partitions of a data set among federated clients, as pure functions of a label vector.

Every function returns one ascending index array per client. Each of 0..n-1 is in exactly one array, and no client is
empty. Equal arguments give equal partitions (under one version of numpy, whose generator makes the draws). The global
random state is neither read nor changed. Labels are any array (n,) in host memory, for example a CPU tensor.

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

from datamodules.errors import require
from datamodules.generators import seed_of

Parts = list[NDArray[np.intp]]
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
    more classes than beta alone would give it.

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
    return np.stack([np.bincount(classes[np.asarray(part, np.intp)], minlength=len(distinct)) for part in parts])


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
    owner = _deal(classes, _best_draw(np.bincount(classes), skew, rng), rng)
    if moved := _repair(owner, skew.clients, skew.min_size, rng):
        message = (
            f"{skew.scheme}: no draw of {skew.tries} gave each of {skew.clients} clients {skew.min_size} samples; "
            f"moved {moved} of {len(classes)} samples from the largest clients to the smallest"
        )
        warnings.warn(message, stacklevel=3)
    return _parts(owner, skew.clients)


def _best_draw(totals: NDArray[Any], skew: _Skew, rng: np.random.Generator) -> NDArray[Any]:
    """The first of `tries` draws that needs no repair; if there is none, the one that needs the fewest moves."""
    best: NDArray[Any] | None = None
    fewest = np.inf
    for _ in range(skew.tries):
        counts = _draw(totals, skew.clients, skew.beta, rng)
        missing = np.maximum(skew.min_size - counts.sum(0), 0).sum()
        if best is None or missing < fewest:
            best, fewest = counts, missing
        if missing == 0:
            break
    assert best is not None  # tries is at least 1
    return best


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

    The loop ends: since k * min_size <= n, the largest client has more than min_size while another has fewer.
    """
    sizes, moves = np.bincount(owner, minlength=clients), []
    while sizes.min() < min_size:
        moves.append((sizes.argmax(), sizes.argmin()))
        sizes[moves[-1][0]] -= 1
        sizes[moves[-1][1]] += 1
    shuffled = rng.permutation(len(owner))
    pools = {donor: iter(shuffled[owner[shuffled] == donor]) for donor, _ in moves}
    for donor, receiver in moves:
        owner[next(pools[donor])] = receiver
    return len(moves)


def _parts(owner: NDArray[Any], clients: int) -> Parts:
    ends = np.cumsum(np.bincount(owner, minlength=clients))[:-1]
    return np.split(np.argsort(owner, kind="stable"), ends)

"""Who gets which sample: pure functions of a label vector that deal a data set out to the clients of a federation.

Every function returns one ascending index array per client. Together they hold each of 0..n-1 exactly once (nothing is
dropped), no client is empty, and the same arguments give the same partition (under one version of numpy, whose streams
decide the draws); no global random state is read or changed. Labels are any host array (n,), a CPU tensor included.

Legend: n samples, c classes, k clients. All betas are the parameter of ONE component of a symmetric Dirichlet
distribution: small is skewed, large is even.

flwr-datasets has partitioners like these; not a dependency, for it brings Hugging Face datasets, pyarrow, pandas and
seaborn along, and its Dirichlet partitioner gives up with an error after ten draws where this one repairs.
"""

import warnings
from collections.abc import Sequence
from hashlib import blake2b
from numbers import Integral, Real

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datamodules.errors import require

Parts = list[NDArray[np.intp]]
LARGEST_BETA = 1e6  # shares are even to one in a thousand there, and gamma variates still far from overflow


def iid(labels: ArrayLike, clients: int, seed: int) -> Parts:
    """A shuffled data set cut into equal parts (McMahan et al. 2017, section 3); sizes differ by at most one.

    >>> [len(part) for part in iid([0, 0, 0, 1, 1, 1, 2], clients=3, seed=0)]
    [3, 2, 2]
    """
    n = len(_classes("iid", labels, clients))
    return _parts(_stream("iid", seed).permutation(np.arange(n) % clients), clients)


def shards(labels: ArrayLike, clients: int, seed: int, *, per_client: int = 2) -> Parts:
    """Sort by label, cut into k * per_client equal shards, deal `per_client` to each client (McMahan et al. 2017).

    Ties keep their order, so the shards are the same for all seeds; `seed` decides who gets which.

    Raises:
        DataError: n does not divide into so many shards.

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
    """Each class is split among the clients by shares from Dir(beta), all again until nobody has too little.

    As in Yurochkin et al. 2019 and NIID-Bench (Li et al. 2022): class after class, a client that already holds n / k
    samples gets no more. Their loop, which repeats until the smallest client has `min_size` samples (10 there, 64 in
    the code of FLFA), need not end: 10 balanced classes, 100 clients, beta 0.1, size 64 was never met in 1,500 draws.
    So after `tries` draws the one nearest to the goal is REPAIRED: samples drawn from the (at each move) largest
    client go to the smallest, no more than are missing, and one warning says how many. They come from the mixture of
    their donor, so a repaired client sees more classes than beta alone would give it.

    Args:
        labels: (n,), any kind of value that sorts.
        clients: k.
        beta: 0.1 strongly skewed, 0.5 moderately.
        seed: decides everything.
        min_size: samples that each client gets at least.
        tries: draws before the repair.

    Raises:
        DataError: more clients than samples, k * min_size > n, beta outside (0, 1e6].
    """
    return _skewed("dirichlet", _classes("dirichlet", labels, clients), clients, beta, seed, min_size, tries)


def quantity_skew(
    labels: ArrayLike, clients: int, beta: float, seed: int, *, min_size: int = 10, tries: int = 100
) -> Parts:
    """Sizes from n * Dir(beta), labels as in the whole set (NIID-Bench, quantity skew); `min_size` as in `dirichlet`.

    Raises:
        DataError: as `dirichlet`.
    """
    one_class = np.zeros_like(_classes("quantity_skew", labels, clients))
    return _skewed("quantity_skew", one_class, clients, beta, seed, min_size, tries)


def dirichlet_balanced(labels: ArrayLike, clients: int, beta: float, seed: int) -> Parts:
    """Each client draws its own mixture of classes from Dir(beta) and fills an equal share of n by it.

    As in Hsu et al. 2019 (arXiv 1909.06335): a class that is used up leaves the mixture, which is renormalised, so
    late clients get what is left. Hsu et al. write Dir(alpha p); with p uniform over c classes, beta = alpha / c.
    Sizes differ by at most one.

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
    """(k, c): samples of each class at each client; columns are the distinct labels in ascending order.

    >>> class_counts([7, 3, 7], [[0, 2], [1]]).tolist()
    [[0, 2], [1, 0]]
    """
    distinct, classes = np.unique(np.asarray(labels), return_inverse=True)
    return np.stack([np.bincount(classes[np.asarray(part, np.intp)], minlength=len(distinct)) for part in parts])


def _stream(scheme: str, seed: int) -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(blake2b(repr((scheme, int(seed))).encode(), digest_size=16).digest()))


def _classes(scheme: str, labels: ArrayLike, clients: int) -> NDArray[np.intp]:
    """(n,) class numbers 0..c-1, after the checks that all schemes share."""
    values = np.asarray(labels)
    require(values.ndim == 1, f"{scheme}: labels have the shape {values.shape}; give one label per sample, (n,)")
    require(clients >= 1, f"{scheme}: clients={clients} must be at least 1")
    require(clients <= len(values), f"{scheme}: {clients} clients for {len(values)} samples; have at most one each")
    return np.unique(values, return_inverse=True)[1]


def _counts(number: object) -> bool:
    return isinstance(number, Integral) and not isinstance(number, bool) and number >= 1


def _check_beta(scheme: str, beta: float) -> None:
    hint = f"must be above 0 and at most {LARGEST_BETA:g}; for an even split use iid"
    number = isinstance(beta, Real) and not isinstance(beta, bool)
    require(number and 0 < beta <= LARGEST_BETA, f"{scheme}: beta={beta} {hint}")


def _skewed(scheme: str, classes: NDArray, clients: int, beta: float, seed: int, min_size: int, tries: int) -> Parts:
    _check_beta(scheme, beta)
    require(
        _counts(min_size), f"{scheme}: min_size={min_size} must be at least 1 and whole, for no client may be empty"
    )
    require(_counts(tries), f"{scheme}: tries={tries} must be at least 1 and whole")
    most = len(classes) // clients
    require(min_size <= most, f"{scheme}: min_size={min_size} for {clients} clients is impossible; at most {most}")
    rng = _stream(scheme, seed)
    owner = _deal(classes, _best_draw(np.bincount(classes), clients, beta, rng, min_size, tries), rng)
    if moved := _repair(owner, clients, min_size, rng):
        message = (
            f"{scheme}: no draw of {tries} gave each of {clients} clients {min_size} samples; "
            f"moved {moved} of {len(classes)} samples from the largest clients to the smallest"
        )
        warnings.warn(message, stacklevel=3)
    return _parts(owner, clients)


def _best_draw(
    totals: NDArray, clients: int, beta: float, rng: np.random.Generator, min_size: int, tries: int
) -> NDArray:
    """The first of `tries` draws that needs no repair, else the one that needs the fewest moves."""
    best, fewest = None, np.inf
    for _ in range(tries):
        counts = _draw(totals, clients, beta, rng)
        missing = np.maximum(min_size - counts.sum(0), 0).sum()
        if missing < fewest:
            best, fewest = counts, missing
        if missing == 0:
            break
    return best


def _draw(totals: NDArray, clients: int, beta: float, rng: np.random.Generator) -> NDArray:
    """(c, k) counts. Some of a Dirichlet vector, renormalised, is a Dirichlet vector itself: so only clients that
    have room are drawn, which is the published zero-and-renormalise without its 0 / 0."""
    counts = np.zeros((len(totals), clients), np.intp)
    for label, total in enumerate(totals):
        has_room = np.flatnonzero(counts.sum(0) * clients < totals.sum())
        shares = rng.dirichlet(np.full(len(has_room), beta))
        cuts = (np.cumsum(shares)[:-1] * total).astype(np.intp)
        counts[label, has_room] = np.diff(cuts, prepend=0, append=total)
    return counts


def _fill(size: int, left: NDArray, beta: float, rng: np.random.Generator) -> NDArray:
    """(c,) counts of one client. Surplus of a used-up class is drawn again, as sample by sample it would be."""
    taken, mixture = np.zeros_like(left), rng.dirichlet(np.full(len(left), beta))
    while missing := size - taken.sum():
        remain = np.flatnonzero(taken < left)
        # Where the remaining shares underflow to 0, nothing of theirs has been drawn yet: a fresh draw is exact.
        shares = mixture[remain] if mixture[remain].any() else rng.dirichlet(np.full(len(remain), beta))
        taken[remain] += rng.multinomial(missing, shares / shares.sum())
        taken = np.minimum(taken, left)
    return taken


def _deal(classes: NDArray, counts: NDArray, rng: np.random.Generator) -> NDArray:
    """(n,) owner of each sample, drawn so that client j owns counts[i, j] samples of class i."""
    shuffled = rng.permutation(len(classes))
    owner = np.empty(len(classes), np.intp)
    clients = np.tile(np.arange(counts.shape[1]), len(counts))
    owner[shuffled[np.argsort(classes[shuffled], kind="stable")]] = np.repeat(clients, counts.ravel())
    return owner


def _repair(owner: NDArray, clients: int, min_size: int, rng: np.random.Generator) -> int:
    """Change owners until each client has min_size samples; the number of moves, which is what was missing.

    It ends: k * min_size <= n, so while someone has too little the largest has more than min_size and stays a donor.
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


def _parts(owner: NDArray, clients: int) -> Parts:
    ends = np.cumsum(np.bincount(owner, minlength=clients))[:-1]
    return np.split(np.argsort(owner, kind="stable"), ends)

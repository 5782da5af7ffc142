"""Partitions: nothing lost, nobody empty, seeded, never hanging, and distributed as the published loops are."""

import doctest
import gzip
import warnings

import numpy as np
import pytest
import torch

from lit_fa.datamodules import DataError, partition
from lit_fa.datamodules.partition import class_counts, dirichlet, dirichlet_balanced, iid, quantity_skew, shards
from lit_fa.datamodules.partition_picture import partition_picture

UNEVEN = np.repeat([4, 0, 9, -1], [150, 60, 20, 10])  # 240 samples; labels need not be 0..c-1
CIFAR10 = np.repeat(np.arange(10), 5_000)
BLOOD = np.repeat(np.arange(8), [852, 2181, 1085, 2026, 849, 993, 2330, 1643])  # training set of BloodMNIST
SCHEMES = {
    "iid": iid,
    "shards": shards,
    "dirichlet": lambda labels, clients, seed: dirichlet(labels, clients, 0.3, seed, min_size=3),
    "dirichlet_balanced": lambda labels, clients, seed: dirichlet_balanced(labels, clients, 0.3, seed),
    "quantity_skew": lambda labels, clients, seed: quantity_skew(labels, clients, 0.3, seed, min_size=3),
}
every_scheme = pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
quiet = pytest.mark.filterwarnings("ignore:.*moved .* samples")


def same(first, second) -> bool:
    return len(first) == len(second) and all(map(np.array_equal, first, second))


@quiet
@every_scheme
@pytest.mark.parametrize("clients", [1, 2, 10, 40])
def test_every_sample_has_one_owner_and_nobody_is_empty(scheme, clients):
    for seed in range(30):
        parts = scheme(UNEVEN, clients, seed)
        assert len(parts) == clients
        assert min(map(len, parts)) > 0
        assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(UNEVEN)))
        assert all((np.diff(part) > 0).all() for part in parts)


@quiet
@every_scheme
def test_counts_sum_to_the_data_set(scheme):
    counts = class_counts(UNEVEN, scheme(UNEVEN, 10, 3))
    assert counts.shape == (10, 4)
    assert counts.sum(0).tolist() == [10, 60, 150, 20]
    assert counts.sum(1).tolist() == [len(part) for part in scheme(UNEVEN, 10, 3)]


@quiet
@every_scheme
def test_the_seed_alone_decides(scheme):
    np.random.seed(1)
    torch.manual_seed(1)
    first = scheme(UNEVEN, 10, 7)
    np.random.seed(2)
    torch.manual_seed(2)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()
    assert same(first, scheme(torch.from_numpy(UNEVEN), 10, 7))
    assert np.array_equal(before[0], np.random.get_state()[1])
    assert torch.equal(before[1], torch.get_rng_state())
    assert not any(same(first, scheme(UNEVEN, 10, seed)) for seed in range(7))


@quiet
@every_scheme
def test_names_of_the_classes_do_not_matter(scheme):
    assert same(scheme(UNEVEN, 8, 0), scheme(UNEVEN * 3 + 5, 8, 0))


@pytest.mark.parametrize("scheme", [iid, SCHEMES["dirichlet_balanced"]])
def test_equal_parts_differ_by_at_most_one_sample(scheme):
    sizes = [len(part) for part in scheme(UNEVEN, 7, 0)]
    assert sorted(sizes) == [34] * 5 + [35] * 2


def test_iid_parts_have_the_classes_of_the_whole_set():
    counts = class_counts(CIFAR10, iid(CIFAR10, 10, 0))
    # 500 expected; the hypergeometric standard deviation is 20
    assert abs(counts - 500).max() < 5 * 20


def test_two_shards_of_balanced_data_are_at_most_two_classes():
    counts = class_counts(CIFAR10, shards(CIFAR10, 100, 0))  # 200 shards of 250, 20 to a class
    assert set((counts > 0).sum(1)) == {1, 2}
    assert set(counts[counts > 0]) == {250, 500}


def test_shards_of_mnist_are_those_of_the_paper(real_file):
    packed = real_file("MNIST/raw/train-labels-idx1-ubyte.gz").read_bytes()
    labels = np.frombuffer(gzip.decompress(packed)[8:], np.uint8)
    counts = class_counts(labels, shards(labels, 100, 0))
    assert set(counts.sum(1)) == {600}
    # classes are not multiples of 300, so nine of 200 shards lie across a border
    assert ((counts > 0).sum(1) > 2).sum() <= 9


@pytest.mark.parametrize("scheme", [dirichlet, dirichlet_balanced])
def test_a_large_beta_is_even_and_a_small_one_is_not(scheme):
    def largest_share(beta: float) -> float:
        counts = class_counts(CIFAR10, scheme(CIFAR10, 10, beta, 0))
        return (counts.max(1) / counts.sum(1)).mean()

    assert largest_share(1e6) == pytest.approx(0.1, abs=0.01)
    assert largest_share(0.1) > 0.4


def test_quantity_skew_is_of_sizes_and_not_of_classes():
    counts = class_counts(CIFAR10, quantity_skew(CIFAR10, 10, 0.5, 0))
    sizes = counts.sum(1, keepdims=True)
    assert sizes.max() > 3 * sizes.min()
    deviation = np.sqrt(sizes * 0.1 * 0.9)  # binomial, an upper bound of the hypergeometric one
    assert (abs(counts - sizes / 10) < 5 * deviation).all()


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("labels", "clients", "beta", "min_size"),
    [
        (CIFAR10, 100, 0.1, 64),
        *((BLOOD, clients, 0.1, 64) for clients in (50, 100)),
        (BLOOD, 100, 0.3, 64),
        (BLOOD, 100, 0.5, 64),
        (UNEVEN, 40, 1e-6, 6),  # 40 * 6 = 240: all sizes must be equal
        (UNEVEN, 240, 5e-324, 1),
    ],
)
def test_where_the_published_loop_hangs_a_repair_reaches_the_smallest_size(labels, clients, beta, min_size):
    with pytest.warns(UserWarning, match="moved") as caught:
        parts = dirichlet(labels, clients, beta, 0, min_size=min_size, tries=50)
    assert min(map(len, parts)) == min_size
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(labels)))
    (message,) = [str(warning.message) for warning in caught]
    assert "\n" not in message
    with pytest.warns(UserWarning, match="moved"):
        assert same(parts, dirichlet(labels, clients, beta, 0, min_size=min_size, tries=50))


def test_no_more_draws_than_tries(monkeypatch):
    drawn, draw = [], partition._draw
    monkeypatch.setattr(partition, "_draw", lambda *args: drawn.append(args) or draw(*args))
    with pytest.warns(UserWarning, match="no draw of 5 gave"):
        dirichlet(BLOOD, 100, 0.1, 0, min_size=64, tries=5)
    assert len(drawn) == 5


def test_a_repair_moves_what_was_missing_and_nothing_else():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        free = dirichlet(BLOOD, 20, 0.1, 7, min_size=1, tries=1)
    missing = sum(max(64 - len(part), 0) for part in free)
    with pytest.warns(UserWarning, match=f"moved {missing} of 11959 samples") as caught:
        mended = dirichlet(BLOOD, 20, 0.1, 7, min_size=64, tries=1)
    assert missing > 0
    assert caught[0].filename == __file__  # it points at the caller
    owner = [
        np.concatenate([np.full(len(p), k) for k, p in enumerate(x)])[np.concatenate(x).argsort()]
        for x in (free, mended)
    ]
    assert (owner[0] != owner[1]).sum() == missing
    assert all(len(free[k]) > 64 for k in set(owner[0][owner[0] != owner[1]]))


def moved_one_by_one(owner, clients, min_size, rng) -> int:
    """The repair, one move after another."""
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


@pytest.mark.parametrize(("clients", "min_size", "skew"), [(9, 5, 0.3), (40, 10, 0.2), (40, 25, 3.0), (300, 3, 0.05)])
def test_all_moves_of_a_repair_at_once_are_those_of_one_after_another(clients, min_size, skew):
    for seed in range(5):
        rng = np.random.default_rng(seed)
        owner = rng.choice(clients, 1000, p=rng.dirichlet(np.full(clients, skew)))
        expected, moves = owner.copy(), None
        moves = moved_one_by_one(expected, clients, min_size, np.random.default_rng(1))
        assert partition._repair(owner, clients, min_size, np.random.default_rng(1)) == moves
        assert np.array_equal(owner, expected)


def test_where_no_draw_can_succeed_a_large_federation_is_drawn_once(monkeypatch):
    drawn, draw = [], partition._draw
    monkeypatch.setattr(partition, "_draw", lambda *args: drawn.append(args) or draw(*args))
    monkeypatch.setattr(partition, "HOPELESS", 10)
    monkeypatch.setattr(partition, "MANY", 100 * 100 * len(np.unique(BLOOD)) - 1)
    with pytest.warns(UserWarning, match="no draw of 1 gave"):
        assert min(map(len, dirichlet(BLOOD, 100, 0.1, 0, min_size=64))) == 64
    assert len(drawn) == 1
    monkeypatch.setattr(partition, "HOPELESS", 100)
    with pytest.warns(UserWarning, match="no draw of 100 gave"):
        dirichlet(BLOOD, 100, 0.1, 0, min_size=64)


def test_an_easy_split_needs_no_repair():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert min(map(len, dirichlet(CIFAR10, 20, 0.5, 0, min_size=64))) >= 64


def published_sizes(labels, clients, beta, rng) -> np.ndarray:
    """Sizes from one pass of NIID-Bench's loop, typed from its description: zero the full, renormalise, cut."""
    held = [[] for _ in range(clients)]
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        shares = rng.dirichlet(np.repeat(beta, clients))
        shares = np.array([p * (len(own) < len(labels) / clients) for p, own in zip(shares, held, strict=True)])
        cuts = (np.cumsum(shares / shares.sum()) * len(members)).astype(int)[:-1]
        for own, more in zip(held, np.split(members, cuts), strict=True):
            own.extend(more)
    return np.array([len(own) for own in held])


def agree(ours, theirs) -> bool:
    """Whether means over draws (the first axis) differ by less than four standard errors, everywhere."""
    ours, theirs = np.asarray(ours, float), np.asarray(theirs, float)
    error = np.sqrt((ours.var(0) + theirs.var(0)) / len(ours))
    return bool((abs(ours.mean(0) - theirs.mean(0)) <= 4 * error + 1e-9).all())


def test_sizes_are_distributed_as_in_the_published_loop():
    rng = np.random.default_rng(0)
    theirs = [np.sort(published_sizes(BLOOD, 20, 0.3, rng)) for _ in range(300)]
    ours = [np.sort([len(p) for p in dirichlet(BLOOD, 20, 0.3, s, min_size=1, tries=100)]) for s in range(300)]
    assert agree(ours, theirs)
    assert agree([x[0] >= 64 for x in ours], [x[0] >= 64 for x in theirs])
    other = [np.sort(published_sizes(BLOOD, 20, 0.5, rng)) for _ in range(300)]
    assert not agree(ours, other)  # so the comparison can fail


def counts_sample_by_sample(totals, sizes, beta, rng) -> np.ndarray:
    """Hsu et al. 2019 literally: one sample at a time, a used-up class leaves the mixture."""
    left, counts = np.array(totals), np.zeros((len(sizes), len(totals)), int)
    for client, size in enumerate(sizes):
        mixture = rng.dirichlet(np.repeat(beta, len(totals)))
        for _ in range(size):
            mixture = mixture * (left > 0)
            label = rng.choice(len(left), p=mixture / mixture.sum())
            left[label] -= 1
            counts[client, label] += 1
    return counts


def test_balanced_counts_are_distributed_as_sample_by_sample():
    labels, rng = np.repeat(np.arange(3), [12, 24, 4]), np.random.default_rng(0)
    theirs = np.stack([counts_sample_by_sample([12, 24, 4], [10] * 4, 0.5, rng) for _ in range(400)])
    ours = np.stack([class_counts(labels, dirichlet_balanced(labels, 4, 0.5, seed)) for seed in range(400)])
    assert agree(ours, theirs)
    assert agree(ours**2, theirs**2)
    assert not agree(ours, ours[:, ::-1])  # late clients get what is left


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: iid(UNEVEN, 241, 0), "241 clients for 240 samples"),
        (lambda: iid(UNEVEN, 0, 0), "clients=0 must be at least 1"),
        (lambda: iid(UNEVEN[:, None], 2, 0), r"labels have the shape \(240, 1\)"),
        (lambda: iid([], 1, 0), "1 clients for 0 samples"),
        (lambda: shards(UNEVEN, 7, 0), "240 samples do not divide into 7 x 2 equal shards; keep 238 samples"),
        (lambda: shards(UNEVEN, 240, 0), "do not divide into 240 x 2 equal shards; have fewer"),
        (lambda: shards(UNEVEN, 7, 0, per_client=0), "per_client=0"),
        (lambda: dirichlet(UNEVEN, 7, 0.0, 0), r"beta=0\.0 must be above 0"),
        (lambda: dirichlet(UNEVEN, 7, float("nan"), 0), "beta=nan"),
        (lambda: dirichlet_balanced(UNEVEN, 7, -1, 0), "beta=-1"),
        (lambda: quantity_skew(UNEVEN, 7, float("inf"), 0), "beta=inf .* use iid"),
        (lambda: dirichlet(UNEVEN, 7, 0.5, 0, min_size=35), "min_size=35 for 7 clients is impossible; at most 34"),
        (lambda: quantity_skew(UNEVEN, 7, 0.5, 0, min_size=0), "min_size=0 must be at least 1"),
        (lambda: dirichlet(UNEVEN, 7, 0.5, 0, tries=0), "tries=0"),
        (lambda: partition_picture(UNEVEN, [[0]], "picture.jpg"), r"'\.jpg' is not known"),
    ],
)
def test_what_cannot_be_dealt_is_one_line(make, message):
    with pytest.raises(DataError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


def test_examples_in_docstrings_hold():
    result = doctest.testmod(partition)
    assert result.attempted >= 4
    assert result.failed == 0


@pytest.mark.parametrize(
    ("clients", "ending", "begin"), [(5, "png", b"\x89PNG"), (100, "png", b"\x89PNG"), (5, "pdf", b"%PDF")]
)
def test_a_picture_is_written_and_the_same_each_time(tmp_path, clients, ending, begin):
    parts = iid(CIFAR10, clients, 0)
    path = partition_picture(CIFAR10, parts, tmp_path / "new" / f"parts.{ending}")
    assert path.read_bytes().startswith(begin)
    again = partition_picture(CIFAR10, parts, str(tmp_path / f"again.{ending}"))
    assert again.read_bytes() == path.read_bytes()


def test_the_picture_shows_the_counts(tmp_path):
    whole = partition_picture(UNEVEN, [np.arange(240)], tmp_path / "whole.png").read_bytes()
    less = partition_picture(UNEVEN, [np.arange(239)], tmp_path / "less.png").read_bytes()
    assert whole != less

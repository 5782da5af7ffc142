from itertools import chain

import pytest
import torch

from lit_fa.datamodules import DataError, Digits, Synthetic
from lit_fa.datamodules.batches import BatchLoader
from lit_fa.datamodules.image_set import InMemory


def numbered(n: int) -> InMemory:
    return InMemory(torch.arange(n).view(n, 1, 1, 1), torch.arange(n))


def seen(loader: BatchLoader) -> list[list[int]]:
    return [labels.tolist() for _, labels in loader]


def test_an_epoch_shows_every_image_once_in_a_new_order():
    loader = BatchLoader(numbered(23), 5, shuffle=True)
    first = list(chain(*seen(loader)))
    loader.set_epoch(1)
    second = list(chain(*seen(loader)))
    assert sorted(first) == sorted(second) == list(range(23))
    assert first != second != list(range(23))


def test_order_depends_on_seed_and_epoch_alone():
    loader = BatchLoader(numbered(50), 8, shuffle=True, seed=3)
    loader.set_epoch(7)
    torch.manual_seed(1)
    expected = seen(loader)
    torch.manual_seed(2)
    again = BatchLoader(numbered(50), 8, shuffle=True, seed=3)
    again.set_epoch(7)
    other = BatchLoader(numbered(50), 8, shuffle=True, seed=4)
    other.set_epoch(7)
    assert seen(again) == expected != seen(other)


@pytest.mark.parametrize("n", [16, 17, 19, 20])
def test_two_ranks_see_together_what_one_sees(n):
    alone = seen(BatchLoader(numbered(n), 8, shuffle=True))
    ranks = [seen(BatchLoader(numbered(n), 8, shuffle=True, rank=rank, world_size=2)) for rank in (0, 1)]
    together = [sorted({*a, *b}) for a, b in zip(*ranks, strict=True)]
    assert together == [sorted(batch) for batch in alone]
    assert all(abs(len(a) - len(b)) <= 1 for a, b in zip(*ranks, strict=True))


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("n", [7, 8, 9, 10, 11])
def test_evaluation_sees_every_image_once_over_all_ranks(n, world_size):
    ranks = [seen(BatchLoader(numbered(n), 4, rank=rank, world_size=world_size)) for rank in range(world_size)]
    assert sorted(chain(*chain(*ranks))) == list(range(n))
    assert len({len(batches) for batches in ranks}) == 1
    assert all(batches and all(batch for batch in batches) for batches in ranks)


def test_evaluation_keeps_the_order_of_the_set_in_every_epoch():
    loader = BatchLoader(numbered(10), 4)
    loader.set_epoch(5)
    assert seen(loader) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_drop_last_leaves_out_the_ragged_batch():
    loader = BatchLoader(numbered(10), 4, shuffle=True, drop_last=True)
    assert len(loader) == 2 == len(seen(loader))


def test_length_is_the_number_of_batches():
    for n in (1, 4, 5, 8, 9):
        loader = BatchLoader(numbered(n), 4, shuffle=True)
        assert len(loader) == len(seen(loader))


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"n": 9, "batch_size": 2, "world_size": 4}, "batch_size"),
        ({"n": 3, "batch_size": 8, "world_size": 4}, "fewer devices"),
        ({"n": 3, "batch_size": 8, "drop_last": True}, "drop_last"),
    ],
)
def test_batches_that_cannot_be_made_are_refused(arguments, what):
    with pytest.raises(DataError, match=what):
        BatchLoader(numbered(arguments.pop("n")), shuffle=True, **arguments)


def test_iterating_leaves_the_global_random_state_alone():
    data = Synthetic(n_train=20, n_test=10, batch_size=5, augment="crop_flip")
    before = torch.get_rng_state()
    data.setup()
    list(data.train_dataloader())
    assert torch.equal(torch.get_rng_state(), before)


def test_two_ranks_augment_as_one(monkeypatch):
    data = Synthetic(n_train=24, n_test=10, batch_size=8, augment="crop_flip")
    data.setup()
    (whole, _), *_ = data.train_dataloader()

    def rank(number):
        prepare = data.augmented
        loader = BatchLoader(data.train_set, 8, prepare=prepare, shuffle=True, rank=number, world_size=2)
        return next(iter(loader))[0]

    assert torch.equal(torch.stack([rank(0), rank(1)], 1).flatten(0, 1), whole)


def test_batches_have_the_promised_shape_and_type():
    data = Digits(batch_size=32, dtype="float64", flatten=True)
    data.setup()
    images, labels = next(iter(data.train_dataloader()))
    assert images.shape == (32, 64)
    assert images.dtype == data.example().dtype == torch.float64
    assert labels.dtype == torch.int64

"""Rounds: who is sampled, what each client sees, and what cannot be made."""

import json
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch

from lit_fa.datamodules import DataError, Digits, Federated, Synthetic
from lit_fa.datamodules.generators import first_permuted, generator
from lit_fa.datamodules.image_set import InMemory
from lit_fa.datamodules.rounds import LocalWork, Round, RoundLoader, checked_parts

SIZES = [3, 29, 8, 17, 12, 21]


def loader(sampled: int = 4, work: LocalWork | None = None, seed: int = 0, **options) -> RoundLoader:
    """Every image is its own number, so that a batch tells whose it is."""
    n = sum(SIZES)
    images = InMemory(torch.arange(n, dtype=torch.float32).view(n, 1), torch.arange(n) % 4)
    return RoundLoader(
        images, list(torch.arange(n).split(SIZES)), sampled, work or LocalWork(8, 2), seed=seed, **options
    )


def seen(round: Round, lane: int) -> list[int]:
    return [int(i) for step in range(round.steps[lane]) for i in round.batch(lane, step)[0].flatten()]


def equal(a: Round, b: Round) -> bool:
    return a.clients == b.clients and torch.equal(a.places, b.places) and torch.equal(a.rows, b.rows)


def test_a_round_depends_on_seed_and_number_alone():
    fresh, used = loader(), loader()
    [used.round(number) for number in (5, 0, 9)]
    assert equal(fresh.round(3), used.round(3))
    assert not equal(fresh.round(3), fresh.round(4))
    assert not equal(fresh.round(3), loader(seed=1).round(3))


def test_what_a_client_sees_does_not_depend_on_who_else_is_sampled():
    alone, together = loader().round_of(7, [2]), loader().round_of(7, [0, 2, 5])
    assert seen(alone, 0) == seen(together, 1)


def test_every_pass_of_a_client_sees_each_of_its_images_once():
    round = loader().round_of(0, [1])
    first, second = seen(round, 0)[:29], seen(round, 0)[29:]
    assert sorted(first) == sorted(second) == [*range(3, 32)]
    assert first != second


@pytest.mark.parametrize(
    ("work", "steps", "last"),
    [
        (LocalWork(8, 1), 4, 5),
        (LocalWork(8, 1, drop_last=True), 3, 8),
        (LocalWork(8, steps=6), 6, 8),
        (LocalWork(None, 3), 3, 29),
        (LocalWork(100, 1, drop_last=True), 1, 29),
    ],
)
def test_steps_are_what_was_asked_for(work: LocalWork, steps: int, last: int):
    round = loader(work=work).round_of(0, [1])
    assert round.steps == (steps,)
    assert len(round.batch(0, steps - 1)[1]) == last


def test_stacked_batches_are_the_clients_own_with_their_first_row_repeated():
    round = loader().round_of(2, [0, 1, 3])
    x, y = round.stacked(3, 0)
    assert x.shape == (3, 8, 1)
    for lane in range(3):
        own, labels = round.batch(lane, 0)
        assert torch.equal(x[lane, : len(own)], own)
        assert torch.equal(y[lane, : len(own)], labels)
        assert (x[lane, len(own) :] == own[0]).all()


def test_taking_lanes_keeps_exactly_their_clients():
    round = loader().round_of(2, [0, 1, 3])
    part = round.take([2, 0])
    assert (part.clients, part.sizes, part.steps) == ((3, 0), (17, 3), (round.steps[2], round.steps[0]))
    assert seen(part, 0) == seen(round, 2)


def test_a_loader_taken_up_in_mid_epoch_delivers_the_very_next_round():
    first = loader(rounds_per_epoch=3)
    first.set_epoch(2)
    rounds = iter(first)
    next(rounds)
    state, expected = first.state_dict(), next(rounds)
    second = loader(rounds_per_epoch=3)
    second.load_state_dict(state)
    second.set_epoch(2)
    found = next(iter(second))
    assert found.number == expected.number == 7
    assert equal(found, expected)


def test_another_federations_checkpoint_is_refused():
    with pytest.raises(DataError, match="clients_per_round=4: resume it with the same"):
        loader(sampled=2).load_state_dict(loader().state_dict())


def test_augmentation_is_the_same_side_by_side_and_depends_on_the_client():
    data = Federated(
        Synthetic(n_train=60, n_test=10, augment="crop_flip"), clients=5, clients_per_round=3, batch_size=8
    )
    data.setup()
    round = data.train_dataloader().round(0)
    x, _ = round.stacked(3, 1)
    for lane in range(3):
        own = round.batch(lane, 1)[0]
        assert torch.equal(x[lane, : len(own)], own)
    assert torch.equal(round.take([1]).batch(0, 0)[0], round.batch(1, 0)[0])


def digits(**options) -> Federated:
    images = Digits(flatten=True, limit_train=400)
    return Federated(images, **{"clients": 10, "clients_per_round": 3, **options})


def test_a_federation_passes_on_what_the_image_set_says():
    data = digits(partition="shards")
    assert (data.num_classes, data.image_shape, data.validation_is_test) == (10, (1, 8, 8), True)
    data.setup()
    assert data.class_counts.sum() == 400
    assert (data.class_counts > 0).sum(1).max() <= 4  # two shards, each of which may straddle two classes
    assert sum(len(y) for _, y in data.val_dataloader()) == 360


def test_a_share_of_the_clients_is_rounded_and_at_least_one():
    assert [len(_cohort(digits(clients_per_round=share))) for share in (0.01, 0.25, 1.0)] == [1, 2, 10]


def _cohort(data: Federated) -> tuple[int, ...]:
    data.setup()
    return data.train_dataloader().round(0).clients


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clients_per_round": 11}, "there are 10 clients; sample 1 to 10"),
        ({"clients_per_round": 1.5}, "a share of the clients lies in"),
        ({"clients_per_round": 0}, "sample 1 to 10"),
        ({"batch_size": 0}, "batch_size=0: must be at least 1"),
        ({"local_steps": 0}, "local_steps=0"),
        ({"partition": "dirichle"}, "nearest: dirichlet"),
        ({"partition": "file"}, "go together"),
    ],
)
def test_options_out_of_range_are_refused_at_once(options: dict, message: str):
    with pytest.raises(DataError, match=message):
        digits(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clients": 401, "clients_per_round": 1}, "401 clients for 400 samples"),
        ({"partition": "shards", "clients": 7}, "400 samples do not divide into 7 x 2"),
        ({"partition": "dirichlet"}, "partition_args of dirichlet: .*beta"),
        ({"partition": "dirichlet", "partition_args": {"beta": 0.1, "min_size": 60}}, "is impossible; at most 40"),
    ],
)
def test_a_partition_that_cannot_be_made_says_why(options: dict, message: str):
    with pytest.raises(DataError, match=message):
        digits(**options).setup()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[0, 1], []]", "client 1 has no image"),
        ("[[0, 1], [1, 2]]", "gives an image to two clients"),
        ("[[0, 400], [1]]", "indices 0 to 400; there are 400 images"),
        ("[[0, 0.5]]", "indices are whole numbers"),
        ('{"a": 1}', "one list of indices per client"),
        ("[[0, 1", "cannot be read"),
    ],
)
def test_a_partition_file_is_checked(text: str, message: str, tmp_path: Path):
    path = tmp_path / "parts.json"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        digits(clients=None, partition="file", partition_file=str(path), clients_per_round=1).setup()


def test_a_partition_file_says_who_has_what(tmp_path: Path):
    path = tmp_path / "parts.json"
    path.write_text(json.dumps([[5, 3], [9]]))
    data = digits(clients=None, partition="file", partition_file=str(path), clients_per_round=2)
    data.setup()
    assert [part.tolist() for part in data.parts] == [[5, 3], [9]]


def test_the_partition_is_drawn_beside_the_runs_files_and_handed_to_the_logger(tmp_path: Path):
    from lightning.pytorch.loggers import CSVLogger

    class Gallery(CSVLogger):
        images: list = []

        def log_image(self, key: str, images: list) -> None:
            self.images.append((key, images))

    data, logger = digits(), Gallery(tmp_path)
    data.trainer = L.Trainer(logger=logger, accelerator="cpu", enable_progress_bar=False)
    data.setup()
    picture = Path(logger.log_dir) / "partition.png"
    assert picture.stat().st_size > 1000
    assert logger.images == [("data/partition", [str(picture)])]


@pytest.mark.parametrize(("n", "k"), [(9_999, 7), (10_000, 10_000), (10_001, 9), (10**6, 100)])
def test_the_clients_of_a_large_federation_are_those_of_a_permutation(n, k):
    for number in range(3):
        whole = torch.randperm(n, generator=generator("cohort", 0, number))
        assert first_permuted(n, k, generator("cohort", 0, number)) == whole[:k].tolist()


def test_parts_are_views_of_one_tensor_and_each_client_has_its_own():
    parts = checked_parts([[3, 5], np.array([1]), torch.tensor([0, 2, 4])], 6)
    assert [part.tolist() for part in parts] == [[3, 5], [1], [0, 2, 4]]
    assert len({part.untyped_storage().data_ptr() for part in parts}) == 1
    assert [part.tolist() for part in parts[1:]] == [[1], [0, 2, 4]]

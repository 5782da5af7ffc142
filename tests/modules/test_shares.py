"""What a rank's samples count, and what is said or refused where a batch is shared by devices."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from lit_fa.datamodules.batches import BatchLoader
from lit_fa.datamodules.image_set import InMemory
from lit_fa.errors import UserError
from lit_fa.modules import shares
from lit_fa.modules.shares import check_shares, own_samples
from lit_fa.rules import Backprop, DirectFeedbackAlignment, ForwardForward, PredSim

TWO = SimpleNamespace(world_size=2)


@pytest.mark.parametrize("samples", [7, 8, 9, 12, 13])
@pytest.mark.parametrize("ranks", [2, 3])
def test_samples_that_a_distributed_sampler_repeats_do_not_count(samples: int, ranks: int):
    data, seen = TensorDataset(torch.arange(samples)), []
    for rank in range(ranks):
        loader = DataLoader(data, batch_size=2, sampler=DistributedSampler(data, ranks, rank, shuffle=False))
        for number, (batch,) in enumerate(loader):
            seen += batch[: own_samples(loader, number, len(batch))].tolist()
    assert sorted(seen) == [*range(samples)]


@pytest.mark.parametrize("samples", [16, 17, 18, 19])
@pytest.mark.parametrize("ranks", [2, 3])
def test_every_sample_of_a_training_epoch_counts_once_over_all_ranks(samples: int, ranks: int):
    images, seen = InMemory(torch.zeros(samples, 1), torch.arange(samples)), []
    for rank in range(ranks):
        loader = BatchLoader(images, 8, shuffle=True, rank=rank, world_size=ranks)
        for number, (_, labels) in enumerate(loader):
            assert len(labels) > 0
            seen += labels[: own_samples(loader, number, len(labels))].tolist()
    assert sorted(seen) == [*range(samples)]


def test_a_whole_loader_gives_what_one_process_would_see():
    images = InMemory(torch.zeros(19, 1), torch.arange(19))
    alone = BatchLoader(images, 8, shuffle=True, seed=3)
    shared = BatchLoader(images, 8, shuffle=True, seed=3, rank=1, world_size=2)
    assert [y.tolist() for _, y in shared.whole()] == [y.tolist() for _, y in alone]
    assert shared.world_size == 2


def test_a_sum_over_samples_is_refused_on_several_devices():
    rule = DirectFeedbackAlignment(teacher="target", target_reduction="sum")
    with pytest.raises(UserError, match="devices average over samples, which target_reduction: sum does not"):
        check_shares(TWO, rule, nn.Linear(2, 2))
    check_shares(SimpleNamespace(world_size=1), rule, nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("rule", "network", "said"),
    [
        (PredSim(), nn.Linear(2, 2), "loss: predsim"),
        (ForwardForward(negatives="permutation", peer=0.03), nn.Linear(2, 2), "negatives: permutation, peer: 0.03"),
        (Backprop(), nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)), "BatchNorm"),
        (PredSim("pred"), nn.Linear(2, 2), None),
        (Backprop(), nn.SyncBatchNorm(2), None),
    ],
)
def test_what_compares_the_samples_of_a_devices_own_share_is_said(rule, network, said, monkeypatch):
    lines: list[str] = []
    monkeypatch.setattr(shares, "rank_zero_info", lines.append)
    check_shares(TWO, rule, network)
    assert [line.split(": each of the 2 devices")[0] for line in lines] == (
        [] if said is None else [f"samples of a batch are compared with one another ({said})"]
    )

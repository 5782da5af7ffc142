"""Direct feedback that is drawn again at every use has the numbers of feedback that is stored, and needs no memory."""

import math
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import lit_fa
from lit_fa.errors import UserError
from lit_fa.federated import FedAvg, LocalSGD
from lit_fa.federated._dense_chain.executor import StackedExecutor
from lit_fa.federated.round_task import LocalTraining
from lit_fa.federated.vmapped import VmapExecutor
from lit_fa.functional.feedback import INITS, draw, draw_rows, named_generator
from lit_fa.layers import direct
from lit_fa.modules import Learner
from lit_fa.rules import DirectFeedbackAlignment
from tests.contract.costs import peak_bytes
from tests.small_networks import NETWORKS

MIB = 2**20
DRAWN = [init for init in INITS if init != "orthogonal"]


def gradients(storage, network, stream=False, **options):
    """Of one batch, by parameter name, and the learner."""
    build, shape = NETWORKS[network]
    torch.manual_seed(0)
    rule = DirectFeedbackAlignment(seed=3, storage=storage, **options)
    learner = Learner(build().double(), rule, torch.zeros(2, *shape, dtype=torch.float64))
    g = torch.Generator().manual_seed(1)
    batch = torch.randn(6, *shape, generator=g, dtype=torch.float64), torch.randint(3, (6,), generator=g)
    if stream:
        rule.stream(learner.network, batch, cross_entropy, lambda value: value.backward())
    else:
        rule.surrogate(learner.network, batch, cross_entropy).value.backward()
    return {name: p.grad for name, p in learner.network.named_parameters()}, learner


@pytest.mark.parametrize("init", DRAWN)
@pytest.mark.parametrize("shape", [(40, 3), (37, 10), (5, 2), (1000, 7), (16, 1), (129, 100)])
@pytest.mark.parametrize("rows", [1, 32, 5000])
def test_pieces_are_the_whole_draw_bit_for_bit(init, shape, rows):
    whole = draw(shape, init, named_generator(1, "block"), gain=1.5)
    pieces = [*draw_rows(shape, init, named_generator(1, "block"), rows, gain=1.5)]
    assert torch.equal(torch.cat([piece for _, piece in pieces]), whole)
    assert [units.stop - units.start for units, _ in pieces] == [len(piece) for _, piece in pieces]


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("options", [{}, {"shape": "per_channel"}, {"teacher": "target"}, {"init": "normal"}], ids=str)
@pytest.mark.parametrize("stream", [False, True])
def test_gradients_are_those_of_stored_feedback(network, options, stream, monkeypatch):
    monkeypatch.setattr(direct, "PIECE", 48)  # several pieces a block
    kept, redrawn = (gradients(storage, network, stream, **options) for storage in ("kept", "redrawn"))
    for name, gradient in kept[0].items():
        torch.testing.assert_close(redrawn[0][name], gradient, rtol=1e-12, atol=1e-14)
    for block, matrix in kept[1].rule.links.items():
        assert torch.equal(redrawn[1].rule.links[block], matrix.double())


def test_no_feedback_is_stored_nor_saved():
    learner = gradients("redrawn", "small_conv")[1]
    assert not [name for name in learner.state_dict() if "feedback" in name]
    assert sum(buffer.numel() for buffer in learner.rule.buffers()) == 0


def test_at_most_one_piece_is_in_memory(monkeypatch):
    units, classes = 64 * 56 * 56, 100
    drawn = direct.RedrawnFeedback((classes, 64, 56, 56), "xavier_uniform", 1.0, 0, "block")
    sizes = [piece.numel() for _, piece in drawn.pieces()]
    assert sum(sizes) == units * classes
    assert max(sizes) <= direct.PIECE + 32 * classes


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("stream", [False, True])
def test_a_step_of_a_convolutional_network_needs_a_small_part_of_the_bytes_of_its_feedback(layout, stream):
    classes, batch = 200, (torch.randn(2, 3, 64, 64).to(memory_format=layout), torch.arange(2))
    convs = [nn.Sequential(nn.Conv2d(i, 16, 3, padding=1), nn.ReLU()) for i in (3, 16, 16)]
    network = nn.Sequential(*convs, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, classes))
    rule = DirectFeedbackAlignment(storage="redrawn", blocks=["0", "1", "2"])

    def learn():
        learner = Learner(network.to(memory_format=layout), rule, batch[0])
        if stream:
            learner.stream(batch, torch.Tensor.backward)
        else:
            learner(batch).value.backward()

    peak = peak_bytes(learn)
    assert [rule.shapes[name] for name in "012"] == [(classes, 16, 64, 64)] * 3
    stored = 4 * sum(math.prod(shape) for shape in rule.shapes.values())
    assert stored == 150 * MIB
    assert peak < 12 * MIB  # two pieces of 4 MiB, as the next one is drawn, and maps of 0.5 MiB


def test_a_written_step_is_refused_and_auto_trains():
    config = {
        "trainer": {"max_epochs": 1, "logger": False, "enable_checkpointing": False, "enable_progress_bar": False},
        "data": "Digits",
    }
    for step, message in (("written", "redrawn feedback is not stored"), ("auto", "")):
        rule = {"class_path": "DirectFeedbackAlignment", "init_args": {"storage": "redrawn"}}
        model = {"class_path": "Classifier", "init_args": {"network": "mlp", "rule": rule, "step": step}}
        with pytest.raises(UserError, match=message) if message else nullcontext():
            trainer, module, data = lit_fa.build(config | {"model": model})
            trainer.fit(module, data)


@pytest.mark.parametrize("executor", [StackedExecutor, VmapExecutor])
def test_executors_that_map_over_clients_refuse_it(executor):
    learner = gradients("redrawn", "mlp")[1]
    assert "redrawn feedback" in executor().refusal(learner, LocalTraining(FedAvg(), LocalSGD(0.1)))


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        ({"shape": "shared"}, "storage: kept"),
        ({"shape": "transposed_conv"}, "storage: kept"),
        ({"init": "orthogonal"}, "another init"),
        ({"backend": "detour"}, "set fused"),
    ],
)
def test_what_cannot_be_drawn_in_pieces_is_refused(options, remedy):
    with pytest.raises(UserError, match=remedy):
        DirectFeedbackAlignment(storage="redrawn", **options)


def test_a_network_of_redrawn_feedback_trains():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
    x = torch.randn(64, 8)
    y = x[:, :4].argmax(1)
    learner = Learner(network, DirectFeedbackAlignment(storage="redrawn"), torch.zeros(2, 8))
    optimizer = torch.optim.SGD(learner.network.parameters(), lr=0.5)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        surrogate = learner.rule.surrogate(learner.network, (x, y), cross_entropy)
        surrogate.value.backward()
        optimizer.step()
        losses.append(float(surrogate.loss))
    assert losses[-1] < losses[0] / 2

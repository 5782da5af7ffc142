"""Drift between clients: against the literal pairs, zero where it must be, and observed without a trace."""

import pytest
import torch
from torch import nn

from lit_fa.callbacks import ClientDrift, Figures, MeasurementError, Recorder
from lit_fa.callbacks.client_drift import summed_distance
from lit_fa.datamodules.rounds import LocalWork
from lit_fa.federated import FedProx, LocalSGD, Scaffold
from lit_fa.modules import Classifier, FederatedClassifier
from lit_fa.rules import FLFA, Backprop
from tests.federated.federation import CLASSES, loader, network, quiet, weights
from tests.reference import drift as literal

LR = 0.3


def run(
    rule, *callbacks, rounds: int = 3, algorithm=None, net: nn.Module | None = None, **options
) -> FederatedClassifier:
    module = FederatedClassifier(
        net or network(), rule, algorithm, LocalSGD(LR), num_classes=CLASSES, image_shape=(5,), executor="vmap"
    )
    quiet(max_epochs=1, callbacks=[*callbacks]).fit(module, loader(rounds, **options))
    return module


def measured(rule, steps: int = 99, **options) -> dict[str, float]:
    recorder = Recorder()
    run(rule, ClientDrift(every_n_rounds=1, transport_steps=steps), recorder, rounds=1, **options)
    return {key: points[0][2] for key, points in recorder.curves.points.items()}


def literally() -> dict[str, float]:
    """The first round of backprop, client by client, with every step's read-out and the error behind it."""
    round = loader().round(0)
    moved, matrices, errors = [], [], []
    for lane in range(len(round.clients)):
        net = network()
        start = net[0].weight.detach().clone()
        ms, ds = [], []
        for step in range(round.steps[lane]):
            x, y = round.batch(lane, step)
            logits = net(x)
            ms.append(net[2].weight.detach().numpy().copy())
            ds.append(((logits.softmax(1) - nn.functional.one_hot(y, CLASSES)) / len(y)).detach().numpy())
            net.zero_grad()
            nn.functional.cross_entropy(logits, y).backward()
            with torch.no_grad():
                for p in net.parameters():
                    p.sub_(LR * p.grad)
        moved.append((net[0].weight.detach() - start).numpy())
        matrices.append(ms)
        errors.append(ds)
    assert len(set(round.steps)) > 1  # the clients take different numbers of steps
    return {"drift/update/0": literal.distance(moved), "drift/transport/2": literal.transport(matrices, errors)}


def test_drift_is_that_of_all_pairs_of_clients():
    found = measured(Backprop())
    for key, value in literally().items():
        assert found[key] == pytest.approx(value, rel=1e-6), key
    assert "drift/transport/0" not in found  # nobody is below the first layer
    assert -1 <= found["drift/cosine/overall"] <= 1


def kept(matrices: dict[int, float]) -> dict[int, dict[str, torch.Tensor]]:
    return {step: {"matrix": torch.tensor([[m]]), "error": torch.ones(1, 1)} for step, m in matrices.items()}


def test_steps_between_those_looked_at_are_interpolated_from_zero_at_the_first():
    one, other = kept({2: 2.0, 5: 5.0}), kept({2: 0.0, 5: 0.0})
    assert summed_distance(nn.Linear(1, 1), one, other, 6) == pytest.approx(1 + 2 + 3 + 4 + 5)


def test_a_client_that_has_finished_keeps_the_matrix_of_its_last_step():
    one, other = kept({1: 1.0, 2: 2.0, 3: 7.0}), kept({1: 0.0, 2: 1.5})
    assert summed_distance(nn.Linear(1, 1), one, other, 4) == pytest.approx(1 + 0.5 + 5.5)
    assert summed_distance(nn.Linear(1, 1), other, one, 3) == pytest.approx(1 + 0.5)
    assert summed_distance(nn.Linear(1, 1), one, kept({0: 0.5}), 4) == pytest.approx(0.5 + 1.5 + 6.5)


def test_shared_feedback_takes_the_ways_back_apart_to_nothing_and_rescaling_gives_a_little_back():
    plain, rows, bare = (measured(r) for r in (Backprop(), FLFA(["2"]), FLFA(["2"], rescale="none")))
    assert bare["drift/transport/2"] == 0
    assert 0 < rows["drift/transport/2"] < plain["drift/transport/2"]


def test_a_convolution_sends_apart_what_its_input_gradient_says():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Unflatten(1, (1, 5)), nn.Linear(5, 16), nn.Unflatten(2, (4, 4)), nn.Conv2d(1, 2, 3, stride=2, padding=1),
        nn.Flatten(), nn.Linear(8, CLASSES),
    ).double()  # fmt: skip
    assert measured(Backprop(), net=net)["drift/transport/3"] > 0


@pytest.mark.parametrize("algorithm", [FedProx(0.3), Scaffold()])
@pytest.mark.parametrize("rule", [Backprop, lambda: FLFA("lowest:1")])
def test_measuring_changes_no_bit(rule, algorithm):
    watched, alone = (weights(run(rule(), *c, algorithm=algorithm)) for c in ([ClientDrift(1)], []))
    assert all(torch.equal(watched[name], alone[name]) for name in alone)


def test_one_local_step_leaves_no_transport_to_diverge():
    found = measured(Backprop(), work=LocalWork(8, steps=1))
    assert not [key for key in found if "transport" in key]


def test_rounds_between_measurements_are_left_out_and_a_figure_is_drawn(tmp_path):
    recorder = Recorder()
    run(Backprop(), ClientDrift(2), recorder, Figures(str(tmp_path)), rounds=5)
    assert [step for step, *_ in recorder.curves.points["drift/update/0"]] == [0, 2, 4]
    assert (tmp_path / "drift.png").is_file()


def test_what_cannot_be_measured_is_one_clear_line():
    with pytest.raises(MeasurementError, match=r"layers: .*77"):
        run(Backprop(), ClientDrift(layers=["77"]))
    with pytest.raises(MeasurementError, match="at least 1"):
        ClientDrift(every_n_rounds=0)
    with pytest.raises(MeasurementError, match="this round has one"):
        run(Backprop(), ClientDrift(), sampled=1)
    plain = Classifier(network(), num_classes=CLASSES, image_shape=(5,))
    with pytest.raises(MeasurementError, match="use FederatedClassifier"):
        quiet(max_epochs=1, callbacks=[ClientDrift()]).fit(plain, loader())

"""The bound on drift: against the literal one, valid where its assumptions hold, exceeded where they do not."""

import numpy as np
import pytest
import torch
from torch import nn

from lit_fa.callbacks import ClientDriftBound, MeasurementError, Recorder
from lit_fa.federated import FedProx, LocalSGD
from lit_fa.functional.drift import drift_bounds
from lit_fa.modules import FederatedClassifier
from lit_fa.rules import FLFA, Backprop
from tests.federated.federation import CLASSES, loader, network, quiet, weights
from tests.reference import drift as literal

LR = 0.3


def measured(rule, net=None, lr=LR, **options) -> dict[str, float]:
    recorder = Recorder()
    net = net or network()
    module = FederatedClassifier(
        net, rule, options.pop("algorithm", None), options.pop("optimizer", LocalSGD(lr)),
        num_classes=CLASSES, image_shape=(5,), **options,
    )  # fmt: skip
    quiet(max_epochs=1, callbacks=[ClientDriftBound(every_n_rounds=1), recorder]).fit(module, loader(1))
    return {key: points[0][2] for key, points in recorder.curves.points.items()}


def literally() -> dict[str, float]:
    """The first round of backprop, client by client."""
    round, start = loader().round(0), network()
    assumed = literal.bounds([start[i].weight.detach().numpy() for i in (0, 2)])
    moved, inputs, errors = {0: [], 2: []}, [], []
    for lane in range(len(round.clients)):
        net = network()
        for step in range(round.steps[lane]):
            x, y = round.batch(lane, step)
            hidden = net[1](net[0](x))
            logits = net[2](hidden)
            error = (logits.softmax(1) - nn.functional.one_hot(y, CLASSES)).detach()
            below = error @ net[2].weight.detach() * (1 - hidden.detach() ** 2)
            for rows, (limit, _) in zip((x, hidden.detach()), assumed, strict=True):
                inputs.append(rows.norm(dim=1).max().item() / limit)
            for rows, (_, limit) in zip((below, error), assumed, strict=True):
                errors.append(rows.norm(dim=1).max().item() / limit)
            net.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            with torch.no_grad():
                for p in net.parameters():
                    p.sub_(LR * p.grad)
        for i in moved:
            moved[i].append((net[i].weight - start[i].weight).detach().numpy())
    found = {"drift_bound/inputs": max(inputs), "drift_bound/errors": max(errors)}
    for i, limits in zip(moved, assumed, strict=True):
        found[f"drift_bound/ratio/{i}"] = literal.largest_ratio(moved[i], list(round.steps), LR, *limits)
    return found | {"drift_bound/ratio": max(found[f"drift_bound/ratio/{i}"] for i in moved)}


def test_ratios_are_those_of_all_pairs_samples_and_steps():
    found = measured(Backprop())
    for key, value in literally().items():
        assert found[key] == pytest.approx(value, rel=1e-6), key


def test_the_formula_equals_the_literal_one():
    weights = [np.random.default_rng(i).normal(size=shape) for i, shape in enumerate([(4, 3), (5, 4), (2, 5)])]
    found = drift_bounds([torch.from_numpy(w) for w in weights])
    assert [(b.inputs, b.errors) for b in found] == [pytest.approx(limits) for limits in literal.bounds(weights)]
    assert all(b.step == b.inputs * b.errors for b in found)


class Times(nn.Module):
    def __init__(self, gain: float):
        super().__init__()
        self.gain = gain

    def forward(self, x):
        return self.gain * x


def test_with_bounded_inputs_the_bound_holds_under_shared_feedback():
    found = measured(FLFA(layers=None, rescale="none"), nn.Sequential(nn.Tanh(), *network()))
    assert found["drift_bound/inputs"] <= 1
    assert found["drift_bound/errors"] <= 1
    assert found["drift_bound/ratio"] <= 1


def test_with_large_inputs_the_bound_is_exceeded():
    first, _, second = network()
    net = nn.Sequential(Times(1000), first, nn.ReLU(), second)
    found = measured(FLFA(layers=None, rescale="none"), net, lr=1e-6)
    assert found["drift_bound/inputs"] > 100
    assert found["drift_bound/ratio"] > 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"algorithm": FedProx()}, "FedAvg with LocalSGD"),
        ({"optimizer": LocalSGD(LR, momentum=0.9)}, "FedAvg with LocalSGD"),
        ({"optimizer": LocalSGD(LR, weight_decay=0.1)}, "FedAvg with LocalSGD"),
        ({"criterion": "mse"}, "criterion: cross_entropy"),
        ({"net": nn.Sequential(nn.Bilinear(5, 5, 4)).double()}, "all in linear layers"),
    ],
)
def test_a_run_that_the_bound_is_not_of_is_refused(options, message):
    if "net" in options:
        with pytest.raises(MeasurementError, match=message):
            ClientDriftBound().on_fit_start(None, fake(options["net"]))
    else:
        with pytest.raises(MeasurementError, match=message):
            measured(Backprop(), **options)


def fake(net: nn.Module) -> FederatedClassifier:
    module = FederatedClassifier(network(), Backprop(), None, LocalSGD(LR), num_classes=CLASSES, image_shape=(5,))
    module.learner.network = net
    return module


def test_measuring_changes_no_weight():
    def trained(*callbacks):
        module = FederatedClassifier(
            network(),
            FLFA(layers=None),
            None,
            LocalSGD(LR),
            num_classes=CLASSES,
            image_shape=(5,),
            executor="sequential",
        )
        quiet(max_epochs=1, callbacks=[*callbacks]).fit(module, loader(3))
        return weights(module)

    plain, observed = trained(), trained(ClientDriftBound(every_n_rounds=1))
    assert all(torch.equal(observed[name], weight) for name, weight in plain.items())


def test_rounds_between_measurements_are_positive():
    with pytest.raises(MeasurementError, match="at least 1, not 0"):
        ClientDriftBound(every_n_rounds=0)

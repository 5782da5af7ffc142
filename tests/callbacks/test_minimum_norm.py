"""The distance of a linear network from the minimum-norm solution."""

import numpy as np
import pytest
import torch
from torch import nn

from lit_fa.callbacks import MeasurementError, MinimumNorm, Recorder
from lit_fa.functional.minimum_norm import from_minimum_norm
from lit_fa.networks.mlp import mlp
from lit_fa.rules import Backprop, FeedbackAlignment
from tests.callbacks import training
from tests.reference import minimum_norm as literal

RNG = np.random.default_rng(0)
X, T = RNG.normal(size=(5, 12)), RNG.normal(size=(5, 3))
W1, W2, B = RNG.normal(size=(8, 12)) / 4, RNG.normal(size=(3, 8)) / 3, RNG.normal(size=(3, 8)) / 3


def test_distances_equal_the_literal_ones():
    P = RNG.normal(size=(3, 12))
    found = from_minimum_norm(torch.from_numpy(P), torch.from_numpy(X), torch.from_numpy(T))
    assert tuple(found) == pytest.approx(literal.distances(P, X, T), rel=1e-10)


@pytest.mark.parametrize("feedback", [None, B], ids=["backprop", "feedback alignment"])
def test_the_part_that_no_sample_sees_keeps_its_initial_first_layer(feedback):
    first, second = literal.trained(X, T, W1, W2, feedback, lr=0.05, steps=20_000)
    outside = np.eye(12) - literal.projection(X)
    assert np.allclose(first @ outside, W1 @ outside, atol=1e-12)
    distance, unseen, _ = literal.distances(second @ first, X, T)
    assert distance == pytest.approx(unseen, rel=1e-4)  # what the samples see is fitted
    assert unseen > 0.1


@pytest.mark.parametrize("feedback", [None, B], ids=["backprop", "feedback alignment"])
def test_a_small_first_layer_ends_near_the_minimum_norm_solution(feedback):
    first, second = literal.trained(X, T, W1 / 1000, W2, feedback, lr=0.05, steps=20_000)
    assert literal.distances(second @ first, X, T)[0] < 0.005


@pytest.mark.parametrize("rule", [Backprop, FeedbackAlignment])
def test_a_run_logs_what_its_weights_give(rule):
    recorder, batch = Recorder(), training.task(10)
    network = training.mlp([6], nn.Identity, bias=False)
    _, module = training.fit(network, rule(), [MinimumNorm(), recorder], batches=[batch], criterion="mse")
    one, two = (layer.weight.detach().numpy() for layer in (module.network[1], module.network[3]))
    x, y = batch[0].flatten(1).numpy(), np.eye(3)[batch[1].numpy()]
    last = recorder.curves.last()
    found = [last[f"minimum_norm/{key}"] for key in ("distance", "outside", "norm")]
    assert found == pytest.approx(literal.distances(two @ one, x, y), rel=1e-8)


@pytest.mark.parametrize("network", [training.mlp([6]), training.mlp([6], nn.Identity)], ids=["relu", "bias"])
def test_a_network_that_is_no_product_of_matrices_is_refused(network):
    with pytest.raises(MeasurementError, match="activation: identity, bias: false"):
        training.fit(network, Backprop(), [MinimumNorm()], criterion="mse", epochs=1)


def test_another_criterion_is_refused():
    network = training.mlp([6], nn.Identity, bias=False)
    with pytest.raises(MeasurementError, match="criterion: mse"):
        training.fit(network, Backprop(), [MinimumNorm()], epochs=1)


def test_gain_scales_the_initial_hidden_layers_and_not_the_head():
    def made(gain):
        torch.manual_seed(0)
        return dict(mlp(img_size=4, hidden=[5, 6], gain=gain).named_parameters())

    usual, small = made(1.0), made(0.1)
    for name, weight in usual.items():
        factor = 0.1 if name in ("blocks.0.linear.weight", "blocks.1.linear.weight") else 1.0
        assert torch.equal(small[name], weight * factor)


@pytest.mark.parametrize("gain", [0.0, -1.0, float("inf")])
def test_a_gain_that_is_no_positive_number_is_refused(gain):
    with pytest.raises(ValueError, match="gain is a positive number"):
        mlp(gain=gain)

"""The written-out Forward-Forward gradient against finite differences of each block's own loss."""

import numpy as np
import pytest

from tests.reference import forward_forward as ff
from tests.reference.network import error_to_input, forward, loss_value, parameter_gradients
from tests.reference.samples import draw, finite_differences, perceptron

CLASSES, Y, WRONG = 3, np.array([0, 2, 1, 2]), np.array([1, 0, 0, 1])


def run(block, x):
    values = forward(block[1], x)
    return values[-1], values


def back(block, values, delta):
    name, layers = block
    gradients = {}
    for i in reversed(range(len(layers))):
        gradients |= parameter_gradients(f"{name}.{i}", layers[i], values[i], delta)
        delta = error_to_input(layers[i], values[i], delta)
    return gradients


def blocks():
    layers = perceptron()
    return [("a", layers[:2]), ("b", layers[2:4]), ("c", layers[4:])]


@pytest.mark.parametrize("normalise", ["rms", "l2", "none"])
@pytest.mark.parametrize("kind", ["sum", "mean"])
@pytest.mark.parametrize("loss", ["threshold", "symba", "margin"])
def test_gradients_are_the_finite_differences_of_local_losses(loss: str, kind: str, normalise: str):
    network, x, theta, tau = blocks(), draw(7, 4, 5), 0.7, 1.5

    def values() -> list[float]:
        """Loss of each block and of the read-out."""
        hot = np.eye(CLASSES)
        inputs = [ff.of_unit_length(ff.with_label(x, label), normalise)
                  for label in (hot[Y], hot[WRONG], np.full((4, CLASSES), 1 / 3))]  # fmt: skip
        found = []
        for block in network[:-1]:
            outputs = [run(block, each)[0] for each in inputs]
            found.append(ff.losses(*(ff.goodness(h, kind) for h in outputs[:2]), loss, theta, tau))
            inputs = [ff.of_unit_length(h, normalise) for h in outputs]
        return [*found, loss_value(run(network[-1], inputs[2])[0], Y)]

    ours = ff.grads(
        network, x, Y, WRONG, CLASSES, run, back, loss=loss, goodness_is=kind, theta=theta, tau=tau, normalise=normalise
    )
    for k, (name, layers) in enumerate(network):
        # only the block's own loss: what it does to later blocks is none of its business
        for end, array in (("weight", layers[0][1]), ("bias", layers[0][2])):
            numeric = finite_differences(lambda k=k: values()[k], array)
            # central differences with step 1e-6 are good to about 1e-9
            np.testing.assert_allclose(ours[f"{name}.0.{end}"], numeric, rtol=0, atol=1e-8)


def test_one_unit_by_hand():
    # h = relu(2 * 3) = 6 and relu(2 * 1) = 2; symba, tau 0: sigmoid(0) = 1/2 but for the factor tau
    up, down = ff.slopes(np.array([36.0]), np.array([36.0]), "symba", 0.0, 4.0)
    assert (up[0], down[0]) == (-2.0, 2.0)
    assert ff.delta(np.array([[6.0]]), up, "sum")[0, 0] == -24.0
    # threshold, far above theta: a positive is left alone, a negative is pushed down with slope tau / 2
    up, down = ff.slopes(np.array([99.0]), np.array([99.0]), "threshold", 2.0, 1.0)
    assert up[0] == pytest.approx(0.0, abs=1e-40)
    assert down[0] == 0.5


def test_the_label_takes_the_first_entries_of_the_flattened_input():
    written = ff.with_label(np.ones((1, 2, 2)), np.array([[5.0, 6.0, 7.0]]))
    assert written.tolist() == [[[5.0, 6.0], [7.0, 1.0]]]

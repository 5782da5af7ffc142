"""Direct feedback: every block descends <delta, its output>, delta by hand; BioTorch's form against torch."""

import numpy as np
import pytest
import torch

from tests.reference import backprop
from tests.reference import direct_feedback_alignment as dfa
from tests.reference.network import forward, one_hot, output_error
from tests.reference.samples import assert_equal_gradients, convolutions, draw, finite_differences, images, perceptron

LAYERS = convolutions(padding=1)
BLOCKS = [LAYERS[:3], LAYERS[3:6], LAYERS[6:]]
FIRST, SECOND = (4, 5, 5), (4, 3, 2)  # shapes of what the two hidden blocks put out
X, Y = images(), np.array([2, 0])
DENSE = [("dense", draw(20, 3, *FIRST)), ("dense", draw(21, 3, 24))]
FEEDBACK = {
    "dense": DENSE,
    "per_channel": [("per_channel", draw(22, 3, 4), 1 / 25), ("per_channel", draw(23, 3, 4), 1.0)],
    "shared": [("shared", draw(24, 3, 100), 0.5), ("shared", draw(24, 3, 100), 2.0)],
    "transposed_convolution": [("transposed_convolution", draw(25, 3, 4, 2, 3), (6, 5), 1, 1, 1), DENSE[1]],
}


def error():
    return output_error(forward(LAYERS, X)[-1], Y)


def hand_deltas(kind):
    """The errors at the outputs of the two hidden blocks, by einsum or torch."""
    e, first, second = error(), FEEDBACK[kind][0][1], FEEDBACK[kind][1][1]
    if kind == "dense":
        return np.einsum("nc,cahw->nahw", e, first), (e @ second).reshape(2, *SECOND)
    if kind == "per_channel":
        pixels = [np.ones((5, 5)) / 25, np.ones((3, 2))]
        return [np.einsum("nc,ca,hw->nahw", e, F, p) for F, p in zip((first, second), pixels, strict=True)]
    if kind == "shared":
        return 0.5 * (e @ first).reshape(2, *FIRST), 2 * (e @ first[:, :24]).reshape(2, *SECOND)
    copies = torch.from_numpy(np.tile(e[:, :, None, None], (1, 1, 6, 5)))
    delta = torch.nn.functional.conv_transpose2d(copies, torch.from_numpy(first), padding=1)
    return delta.numpy(), (e @ second).reshape(2, *SECOND)


@pytest.mark.parametrize("kind", FEEDBACK)
def test_each_hidden_block_descends_its_error_times_its_output(kind):
    gradients = dfa.grads(BLOCKS, X, Y, FEEDBACK[kind])
    values = [X, *[forward(LAYERS, X)[i] for i in (3, 6)]]
    for block, delta in enumerate(hand_deltas(kind)):

        def read_out(block=block, delta=delta):
            return (delta * forward(BLOCKS[block], values[block])[-1]).sum()

        numeric = finite_differences(read_out, BLOCKS[block][0][1])
        # differences of a sum of order 1e3 with step 1e-6 are good to about 1e-7
        np.testing.assert_allclose(gradients[f"{block}.0.weight"], numeric, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", FEEDBACK)
def test_the_head_learns_by_backprop(kind):
    assert np.array_equal(
        dfa.grads(BLOCKS, X, Y, FEEDBACK[kind])["2.1.weight"], backprop.grads(LAYERS, X, Y)["7.weight"]
    )


def test_a_block_ignores_the_feedback_of_the_others():
    one = dfa.grads(BLOCKS, X, Y, DENSE)
    other = dfa.grads(BLOCKS, X, Y, [DENSE[0], ("dense", draw(30, 3, 24))])
    changed = {name for name in one if not np.array_equal(one[name], other[name])}
    assert changed == {"1.0.weight", "1.0.bias"}


def test_one_hidden_layer_with_the_heads_weights_as_feedback_is_backprop():
    layers, x, y = perceptron(("tanh",), (5, 4, 3)), draw(1, 4, 5), np.array([0, 2, 1, 1])
    direct = dfa.grads([layers[:2], layers[2:]], x, y, [("dense", layers[2][1])])
    bp = backprop.grads(layers, x, y)
    renamed = {"0.0.weight": "0.weight", "0.0.bias": "0.bias", "1.0.weight": "2.weight", "1.0.bias": "2.bias"}
    assert_equal_gradients(direct, {name: bp[renamed[name]] for name in direct})


def test_the_transposed_convolution_is_torchs_with_stride_and_dilation_and_constant_inside():
    e, F = draw(1, 2, 3), draw(2, 3, 4, 3, 3)
    delta = dfa.transposed_convolution(e, F, (6, 6), 1, 1, 1, (4, 6, 6))
    np.testing.assert_allclose(delta[:, :, 1:-1, 1:-1], np.tile(delta[:, :, 2:3, 2:3], (1, 1, 4, 4)), atol=1e-14)
    assert not np.allclose(delta[:, :, 0], delta[:, :, 1])
    for stride, padding, dilation in [(1, 1, 1), (2, 1, 1), (1, 2, 2), (2, 0, 1)]:
        grid = tuple((8 + 2 * padding - 2 * dilation - 1) // stride + 1 for _ in range(2))
        copies = torch.from_numpy(np.tile(e[:, :, None, None], (1, 1, *grid)))
        expected = torch.nn.grad.conv2d_input(
            (2, 4, 8, 8), torch.from_numpy(F), copies, stride=stride, padding=padding, dilation=dilation
        )
        delta = dfa.transposed_convolution(e, F, grid, stride, padding, dilation, (4, 8, 8))
        np.testing.assert_allclose(delta, expected.numpy(), rtol=0, atol=1e-13)


def test_direct_random_target_projection_by_hand():
    W1, F = np.array([[1.0, 0.0], [0.0, -1.0]]), np.array([[3.0, 5.0], [7.0, 11.0]])
    blocks = [[("linear", W1, None), ("relu",)], [("linear", np.eye(2), None)]]
    # sample 1: z = (1, -2), relu' = (1, 0), label 1: delta = (7, 11) * (1, 0); sample 2: z = (-1, 3), label 0: (0, 5)
    x, y = np.array([[1.0, 2.0], [-1.0, -3.0]]), np.array([1, 0])
    hidden = dfa.drtp_grads(blocks, x, y, [("dense", F)])["0.0.weight"]
    assert np.array_equal(hidden, [[7, 14], [-5, -15]])
    halved = dfa.drtp_grads(blocks, x, y, [("dense", F)], batch="mean")["0.0.weight"]
    assert np.array_equal(halved, hidden / 2)
    assert np.array_equal(dfa.drtp_grads(blocks, x, y, [("dense", F)], scale=3.0)["0.0.weight"], 3 * hidden)


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_the_head_of_direct_random_target_projection_gets_the_true_error(loss):
    heads = dfa.drtp_grads(BLOCKS, X, Y, DENSE, loss=loss)["2.1.weight"]
    targets = one_hot(Y, 3) if loss == "mse" else Y
    assert np.array_equal(heads, backprop.grads(LAYERS, X, targets, loss)["7.weight"])

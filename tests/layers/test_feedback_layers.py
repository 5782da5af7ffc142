"""What `extend` does to a layer, and what it leaves as it was."""

import copy
import pickle

import pytest
import torch
from torch import nn

from lit_fa.layers import (
    FeedbackConv2d,
    FeedbackLayer,
    FeedbackLinear,
    RandomFeedback,
    SnapshotFeedback,
    extend,
    feedback_layers,
    true_gradient,
)

# layer, shape of an input
LAYERS = {
    "linear": (lambda: nn.Linear(4, 3), (2, 4)),
    "linear_of_rank_4": (lambda: nn.Linear(4, 3, bias=False), (2, 3, 2, 4)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, padding=1, groups=2), (2, 4, 7)),
    "conv2d_same": (lambda: nn.Conv2d(2, 3, 2, padding="same", dilation=2), (2, 2, 6, 6)),
    "conv2d_valid": (lambda: nn.Conv2d(2, 3, 2, padding="valid"), (2, 2, 6, 6)),
    "conv2d_reflect": (lambda: nn.Conv2d(2, 3, 3, padding=2, padding_mode="reflect", stride=2), (2, 2, 6, 6)),
    "conv2d_same_circular": (lambda: nn.Conv2d(2, 3, (3, 2), padding="same", padding_mode="circular"), (2, 2, 6, 6)),
    "conv2d_depthwise": (lambda: nn.Conv2d(4, 8, 3, groups=4), (2, 4, 6, 6)),
    "conv2d_unbatched": (lambda: nn.Conv2d(2, 3, 3), (2, 6, 6)),
    "conv3d": (lambda: nn.Conv3d(2, 3, 2, stride=(1, 2, 1)), (2, 2, 4, 4, 4)),
    "transposed_conv2d": (lambda: nn.ConvTranspose2d(2, 3, 3, stride=2, output_padding=1), (2, 2, 4, 4)),
}


def grads(layer: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    x = x.clone().requires_grad_(True)
    out = layer(x)
    error = torch.randn(out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(2))
    own = [p for name, p in layer.named_parameters() if "feedback" not in name]
    return out, [*torch.autograd.grad(out, [x, *own], error)]


@pytest.mark.parametrize("backend", ["fused", "detour"])
@pytest.mark.parametrize("name", LAYERS)
def test_feedback_equal_to_the_weight_is_backprop_for_every_layer(name: str, backend: str):
    build, shape = LAYERS[name]
    plain, x = build().double(), torch.randn(*shape, dtype=torch.float64)
    layer = extend(copy.deepcopy(plain), SnapshotFeedback("none"), torch.Generator(), backend=backend)
    value, mine = grads(layer, x)
    expected, true = grads(plain, x)
    assert torch.equal(value, expected)
    assert all(torch.allclose(a, b, rtol=0, atol=1e-12) for a, b in zip(mine, true, strict=True))


@pytest.mark.parametrize("name", LAYERS)
def test_both_backends_agree_on_random_feedback_and_differ_from_backprop(name: str):
    build, shape = LAYERS[name]
    plain, x = build().double(), torch.randn(*shape, dtype=torch.float64)
    source = RandomFeedback(scale=1.5)
    both = [
        grads(extend(copy.deepcopy(plain), source, torch.Generator().manual_seed(1), backend=backend), x)[1]
        for backend in ("fused", "detour")
    ]
    assert all(torch.allclose(a, b, rtol=0, atol=1e-12) for a, b in zip(*both, strict=True))
    true = grads(plain, x)[1]
    assert not torch.allclose(both[0][0], true[0], atol=1e-3)  # the input's error
    assert all(torch.allclose(a, b, rtol=0, atol=1e-12) for a, b in zip(both[0][1:], true[1:], strict=True))


def test_an_extended_layer_is_still_what_it_was_and_says_what_it_became():
    layer = nn.Linear(4, 3)
    weight = layer.weight
    assert extend(layer, RandomFeedback(seed=3), torch.Generator()) is layer
    assert type(layer) is FeedbackLinear
    assert isinstance(layer, nn.Linear)
    assert isinstance(layer, FeedbackLayer)
    assert layer.weight is weight
    assert "FeedbackLinear(" in repr(layer)
    assert "seed=3" in repr(layer)
    assert [*layer.state_dict()] == ["weight", "bias", "feedback.weight"]
    assert type(extend(nn.Conv2d(2, 2, 1), RandomFeedback(), torch.Generator())) is FeedbackConv2d


class Standardised(nn.Conv2d):
    """A convolution with a forward of its own, as in NF-ResNets."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return self._conv_forward(x, weight, self.bias)


def standardised(source: object) -> nn.Module:
    torch.manual_seed(4)
    return extend(Standardised(2, 3, 3).double(), source, torch.Generator().manual_seed(1))


def test_a_layer_with_its_own_forward_sends_the_error_through_the_standardised_feedback():
    layer, x = standardised(RandomFeedback()), torch.randn(2, 2, 5, 5, dtype=torch.float64)
    out, (error_at_input, *_) = grads(layer, x)
    error = torch.randn(out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(2))
    matrix = layer.feedback.weight - layer.feedback.weight.mean((1, 2, 3), keepdim=True)
    expected = torch.nn.grad.conv2d_input(x.shape, matrix, error)
    assert torch.allclose(error_at_input, expected, rtol=0, atol=1e-12)


def test_a_layer_with_its_own_forward_can_be_copied_and_saved():
    layer, x = standardised(RandomFeedback()), torch.randn(2, 2, 5, 5, dtype=torch.float64)
    before = grads(layer, x)[1]
    other = copy.deepcopy(layer)
    assert all(torch.equal(a, b) for a, b in zip(grads(other, x)[1], before, strict=True))
    with torch.no_grad():
        other.weight.mul_(2), other.feedback.weight.mul_(3)
    assert all(torch.equal(a, b) for a, b in zip(grads(layer, x)[1], before, strict=True))
    fresh = standardised(SnapshotFeedback("none"))
    fresh.load_state_dict(layer.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(grads(fresh, x)[1], before, strict=True))


def test_standard_layers_pickle():
    layer, x = extend(nn.Linear(4, 3).double(), RandomFeedback(), torch.Generator()), torch.randn(2, 4).double()
    other = pickle.loads(pickle.dumps(layer))
    assert all(torch.equal(a, b) for a, b in zip(grads(layer, x)[1], grads(other, x)[1], strict=True))


def test_true_gradient_ends_even_when_its_body_fails():
    network = nn.Sequential(extend(nn.Linear(2, 2), RandomFeedback(), torch.Generator()))
    with pytest.raises(RuntimeError, match="inside"), true_gradient(network):
        raise RuntimeError("inside")
    assert [layer.transport for layer in feedback_layers(network).values()] == ["feedback"]


def test_an_eval_batch_of_another_size_uses_its_own_error():
    layer = extend(nn.Linear(4, 3).double(), RandomFeedback(), torch.Generator())
    grads(layer, torch.randn(6, 4).double())
    x = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    error = torch.randn(2, 3, dtype=torch.float64)
    assert torch.equal(torch.autograd.grad(layer.eval()(x), x, error)[0], error @ layer.feedback.weight)


def test_a_snapshot_is_a_copy_that_needs_no_gradient():
    weight, source, generator = nn.Parameter(torch.randn(3, 4)), SnapshotFeedback(), torch.Generator()
    for taken in (source.draw(weight, generator), source.on_round_start(weight, torch.zeros(3, 4), generator)):
        assert torch.equal(taken, weight)
        assert not taken.requires_grad
        assert taken.data_ptr() != weight.data_ptr()

"""The fused nodes: backprop with another matrix, and exactly the products that are asked for."""

import pytest
import torch
import torch.nn.functional as F

from lit_fa.functional.fused import conv_feedback, linear_feedback


def stored_matrix(weight: torch.Tensor, stored: torch.Tensor) -> torch.Tensor:
    return stored


def own_weight(weight: torch.Tensor, stored: torch.Tensor | None) -> torch.Tensor:
    return weight


def randn(*shape: int, grad: bool = True) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=grad)


@pytest.mark.parametrize("leading", [(4,), (2, 3), (2, 3, 4), ()])
@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_of_any_rank_with_its_own_weight_is_backprop(leading: tuple, bias: bool):
    x, weight, b = randn(*leading, 5), randn(6, 5), randn(6) if bias else None
    out = linear_feedback(x, weight, b, None, own_weight, 1.0)
    expected = F.linear(x, weight, b)
    assert torch.equal(out, expected)
    error, wanted = torch.randn_like(out), [t for t in (x, weight, b) if t is not None]
    for mine, true in zip(
        torch.autograd.grad(out, wanted, error), torch.autograd.grad(expected, wanted, error), strict=True
    ):
        assert torch.allclose(mine, true, rtol=0, atol=1e-13)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize(("stride", "padding", "dilation", "groups"), [(1, 0, 1, 1), (2, 1, 1, 2), (1, 2, 2, 4)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_convolution_with_its_own_weight_is_backprop(dims, stride, padding, dilation, groups, bias):
    x, weight = randn(2, 4, *[7] * dims), randn(8, 4 // groups, *[3] * dims)
    b, geometry = randn(8) if bias else None, ([stride] * dims, [padding] * dims, [dilation] * dims, groups)
    out = conv_feedback(x, weight, b, None, own_weight, 1.0, geometry)
    expected = (F.conv1d, F.conv2d, F.conv3d)[dims - 1](x, weight, b, stride, padding, dilation, groups)
    assert torch.equal(out, expected)
    error, wanted = torch.randn_like(out), [t for t in (x, weight, b) if t is not None]
    for mine, true in zip(
        torch.autograd.grad(out, wanted, error), torch.autograd.grad(expected, wanted, error), strict=True
    ):
        assert torch.allclose(mine, true, rtol=0, atol=1e-12)


@pytest.mark.parametrize("gain", [1.0, 0.3])
def test_the_input_error_goes_through_the_gain_and_the_matrix_and_the_weight_gradient_does_not(gain: float):
    x, weight, stored, error = randn(4, 5), randn(6, 5), randn(6, 5, grad=False), randn(4, 6, grad=False)
    grads = torch.autograd.grad(linear_feedback(x, weight, None, stored, stored_matrix, gain), [x, weight], error)
    assert torch.allclose(grads[0], gain * error @ stored, rtol=0, atol=1e-14)
    assert torch.allclose(grads[1], error.t() @ x, rtol=0, atol=1e-14)
    x, weight, stored = randn(2, 3, 5, 5), randn(4, 3, 3, 3), randn(4, 3, 3, 3, grad=False)
    error, geometry = randn(2, 4, 3, 3, grad=False), ([1, 1], [0, 0], [1, 1], 1)
    out = conv_feedback(x, weight, None, stored, stored_matrix, gain, geometry)
    grads = torch.autograd.grad(out, [x, weight], error)
    assert torch.allclose(grads[0], gain * torch.nn.grad.conv2d_input(x.shape, stored, error), rtol=0, atol=1e-13)
    assert torch.allclose(grads[1], torch.nn.grad.conv2d_weight(x, weight.shape, error), rtol=0, atol=1e-13)


def test_trained_feedback_receives_the_gradient_of_the_weight():
    x, weight, stored = randn(4, 5), randn(6, 5), randn(6, 5)
    linear_feedback(x, weight, None, stored, stored_matrix, 1.0).square().sum().backward()
    assert torch.equal(stored.grad, weight.grad)


def test_trained_feedback_of_a_frozen_weight_stands_still():
    x, weight, stored = randn(4, 5), randn(6, 5, grad=False), randn(6, 5)
    linear_feedback(x, weight, None, stored, stored_matrix, 1.0).square().sum().backward()
    assert stored.grad is None
    assert x.grad is not None


def test_no_gradient_is_made_that_nobody_asked_for():
    made = []

    def watched(weight: torch.Tensor, stored: torch.Tensor) -> torch.Tensor:
        made.append("matrix")
        return stored

    x, weight, stored = randn(4, 5, grad=False), randn(6, 5), randn(6, 5, grad=False)
    linear_feedback(x, weight, None, stored, watched, 1.0).sum().backward()
    image, kernel, twin = randn(2, 3, 5, 5, grad=False), randn(4, 3, 3, 3), randn(4, 3, 3, 3, grad=False)
    conv_feedback(image, kernel, None, twin, watched, 1.0, ([1, 1], [0, 0], [1, 1], 1)).sum().backward()
    assert made == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_under_autocast_gradients_have_the_dtype_of_what_they_belong_to(dtype: torch.dtype):
    x, weight = torch.randn(4, 5, dtype=dtype, requires_grad=True), torch.randn(6, 5, requires_grad=True)
    bias, stored = torch.randn(6, requires_grad=True), torch.randn(6, 5)
    with torch.autocast("cpu", torch.bfloat16):
        out = linear_feedback(x, weight, bias, stored, stored_matrix, 1.0)
    out.float().sum().backward()
    assert out.dtype == torch.bfloat16
    assert [t.grad.dtype for t in (x, weight, bias)] == [dtype, torch.float32, torch.float32]

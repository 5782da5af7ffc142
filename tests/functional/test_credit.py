"""Cut, gradient-only path, linear surrogate and the link from a block to the logits."""

import pytest
import torch
from torch.func import grad, vmap

from lit_fa.functional.credit import cut, error_link, gradient_only, linear_surrogate

g = torch.Generator().manual_seed(0)


def test_a_cut_keeps_the_value_and_requires_no_gradient():
    x = torch.randn(3, requires_grad=True)
    assert torch.equal(cut(2 * x), 2 * x)
    assert not cut(2 * x).requires_grad


def test_a_gradient_only_path_is_exactly_zero_and_has_the_gradient_of_its_argument():
    x = torch.tensor([0.1, 1e30, -3e-30], requires_grad=True)
    value = gradient_only(x * 7)
    assert torch.equal(value, torch.zeros(3))
    assert torch.autograd.grad(value.sum(), x)[0].tolist() == [7.0, 7.0, 7.0]


def test_the_gradient_of_a_linear_surrogate_is_the_given_update():
    params = {"a": torch.randn(2, 3, requires_grad=True), "b": torch.randn(4, requires_grad=True)}
    updates = {"a": torch.randn(2, 3, requires_grad=True), "b": torch.randn(4)}
    grads = torch.autograd.grad(linear_surrogate(params, updates), [*params.values(), updates["a"]], allow_unused=True)
    assert torch.equal(grads[0], updates["a"])
    assert torch.equal(grads[1], updates["b"])
    assert grads[2] is None


def test_parameters_without_an_update_get_no_gradient():
    params = {"a": torch.ones(2, requires_grad=True), "b": torch.ones(2, requires_grad=True)}
    linear_surrogate(params, {"b": torch.ones(2)}).backward()
    assert params["a"].grad is None


@pytest.mark.parametrize("shape", [(7,), (3, 4, 4), (5, 6)])
@pytest.mark.parametrize("backend", ["fused", "detour"])
def test_a_link_is_zero_and_sends_the_error_through_the_feedback(shape: tuple, backend: str):
    h = torch.randn(2, *shape, dtype=torch.float64, requires_grad=True)
    feedback, error = torch.randn(5, *shape, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64)
    link = error_link(h, feedback, backend=backend)
    assert torch.equal(link, torch.zeros(2, 5, dtype=torch.float64))
    delta = torch.autograd.grad(link, h, error)[0]
    assert torch.allclose(delta, torch.einsum("nc,c...->n...", error, feedback), rtol=0, atol=1e-14)


@pytest.mark.parametrize("backend", ["fused", "detour"])
def test_dimensions_of_size_one_are_shared_by_all_positions(backend: str):
    h = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    feedback, error = torch.randn(6, 3, 1, 1, dtype=torch.float64), torch.randn(2, 6, dtype=torch.float64)
    delta = torch.autograd.grad(error_link(h, feedback, backend=backend), h, error)[0]
    expected = (error @ feedback[:, :, 0, 0])[:, :, None, None].expand(2, 3, 4, 5)
    assert torch.allclose(delta, expected, rtol=0, atol=1e-14)


def test_both_backends_agree_under_vmap():
    h, feedback = torch.randn(3, 2, 4), torch.randn(3, 5, 4)
    weights = torch.randn(2, 5)

    def delta(backend: str):
        return vmap(lambda h, f: grad(lambda x: (error_link(x, f, backend=backend) * weights).sum())(h))(h, feedback)

    assert torch.allclose(delta("fused"), delta("detour"), atol=1e-6)


def test_links_are_visited_one_by_one_last_block_first():
    """So the projected errors of all blocks never live at the same time."""
    order, x = [], torch.randn(2, 4, requires_grad=True)
    links = []
    for name in ("first", "second", "third"):
        h = torch.tanh(x)
        h.register_hook(lambda _, name=name: order.append(name))
        links.append(error_link(h, torch.randn(5, 4)))
    torch.stack(links).sum().backward()
    assert order == ["third", "second", "first"]

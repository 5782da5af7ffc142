"""A rule is a function of parameters and batch, so torch's own transformations apply to it."""

import pytest
import torch
from torch.func import functional_call, grad, stack_module_state, vmap

from tests.cases import Case, cases, gradients, largest_difference, taken

# one rule of every kind of graph: a compilation takes seconds
KINDS = ("backprop", "fa_uniform", "fa_detour", "sign_usf", "sign_usf_detour", "kolen_pollack", "snapshot_row",
         "adaptive_norm", "dfa_dense", "dfa_detour", "drtp_per_channel", "predsim", "auglocal")  # fmt: skip


def one_of_a_kind(case: Case) -> bool:
    return case.name.rsplit("-", 1)[0] in KINDS


def functional_gradients(learner, params: dict, buffers: dict, batch: tuple) -> dict:
    trained = {name: params[name] for name, p in learner.named_parameters() if p.requires_grad}
    return grad(lambda p: functional_call(learner, ({**params, **p}, buffers), (batch,)).value)(trained)


@pytest.mark.parametrize("case", cases(suite="vmap"))
def test_the_functional_gradient_is_that_of_backward(case: Case):
    learner, batch = case.learner(), case.batch()
    grads = functional_gradients(learner, *state(learner), batch)
    assert largest_difference(grads, gradients(learner, batch)) < 1e-14


@pytest.mark.parametrize("case", cases(suite="vmap"))
def test_vmap_over_learners_equals_a_loop_over_them(case: Case):
    learners = [case.learner(seed=k) for k in range(3)]
    batches = [case.batch(seed=k) for k in range(3)]
    params, buffers = stack_module_state(learners)
    batch = tuple(torch.stack(parts) for parts in zip(*batches, strict=True))
    stacked = vmap(lambda p, b, x, y: functional_gradients(learners[0], p, b, (x, y)))(params, buffers, *batch)
    for k, (learner, own) in enumerate(zip(learners, batches, strict=True)):
        # a batched product sums in another order
        assert largest_difference({n: g[k] for n, g in stacked.items()}, gradients(learner, own)) < 1e-13


@pytest.mark.parametrize("case", cases("mlp", "small_conv", suite="compile", where=one_of_a_kind))
def test_it_compiles_without_a_graph_break(case: Case):
    learner, batch = case.learner(), case.batch()
    expected = gradients(learner, batch)
    torch._dynamo.reset()
    torch.compile(learner, fullgraph=True, backend="aot_eager")(batch).value.backward()
    assert largest_difference(taken(learner), expected) < 1e-14


def state(learner) -> tuple[dict, dict]:
    return {n: p.detach() for n, p in learner.named_parameters()}, dict(learner.named_buffers())

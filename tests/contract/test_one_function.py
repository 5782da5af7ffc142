"""A rule is a function of parameters and batch, so torch's own transformations apply to it."""

from functools import cache, partial

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.utils._python_dispatch import TorchDispatchMode

from tests.cases import IMPOSSIBLE, RULES, Case, cases, rules
from tests.gradients import gradients, largest_difference, taken
from tests.small_networks import CLASSES


def functional_gradients(learner, params: dict, buffers: dict, batch: tuple) -> dict:
    trained = {name: params[name] for name, p in learner.named_parameters() if p.requires_grad}
    return grad(lambda p: functional_call(learner, ({**params, **p}, buffers), (batch,)).value)(trained)


@pytest.mark.parametrize("case", cases(suite="vmap", distinct=True, thin=True))
def test_the_functional_gradient_is_that_of_backward(case: Case):
    learner, batch = case.learner(), case.batch()
    grads = functional_gradients(learner, *state(learner), batch)
    assert largest_difference(grads, gradients(learner, batch)) < 1e-14


@pytest.mark.parametrize("case", cases(suite="vmap", distinct=True, thin=True))
def test_vmap_over_learners_equals_a_loop_over_them(case: Case):
    learners = [case.learner(seed=k) for k in range(3)]
    batches = [case.batch(seed=k) for k in range(3)]
    params, buffers = stack_module_state(learners)
    batch = tuple(torch.stack(parts) for parts in zip(*batches, strict=True))
    stacked = vmap(lambda p, b, x, y: functional_gradients(learners[0], p, b, (x, y)))(params, buffers, *batch)
    for k, (learner, own) in enumerate(zip(learners, batches, strict=True)):
        # a batched product sums in another order
        assert largest_difference({n: g[k] for n, g in stacked.items()}, gradients(learner, own)) < 1e-13


@pytest.mark.parametrize("backend", ["eager", pytest.param("aot_eager", marks=pytest.mark.slow)])
@pytest.mark.parametrize("rule", rules("compile", distinct=True, thin=True))
def test_it_compiles_without_a_graph_break(rule: str, backend: str):
    same, first_of_class = alike()[rule]
    if same != rule:
        pytest.skip(f"the same code issues the same operations as for {same}")
    if backend == "aot_eager" and rule != first_of_class:
        pytest.skip(f"the backward pass is traced for one rule of a class, {first_of_class}")
    learner, batch = small(rule).learner(), small(rule).batch()
    expected = gradients(learner, batch)
    torch._dynamo.reset()
    torch.compile(learner, fullgraph=True, backend=backend)(batch).value.backward()
    assert largest_difference(taken(learner), expected) < 1e-14


def small(rule: str) -> Case:
    """The rule on a convolution and three linear layers, or on the latter alone where it refuses convolutions."""
    return Case(rule, RULES[rule][0], partial(small_network, (rule, "conv") not in IMPOSSIBLE), (2, 6, 6), None)


def small_network(convolution: bool) -> nn.Module:
    conv, units = ([nn.Conv2d(2, 3, 3, stride=2), nn.ReLU()], 12) if convolution else ([], 72)
    linear = [nn.Linear(units, 7), nn.Tanh(), nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, CLASSES)]
    return nn.Sequential(*conv, nn.Flatten(), *linear)


class Operations(TorchDispatchMode):
    """The names of all operations, in order."""

    def __init__(self):
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))


@cache
def alike() -> dict[str, tuple[str, str]]:
    """Rule to (the first rule of its class with the same operations in a step, the first rule of its class)."""
    first: dict[object, str] = {}
    found = {}
    for name, (make, _) in RULES.items():
        rule, learner, batch = make(), small(name).learner(), small(name).batch()
        with Operations() as operations:
            gradients(learner, batch)
        kind = (type(rule), type(getattr(rule, "source", None)))
        found[name] = (first.setdefault((kind, *operations.names), name), first.setdefault(type(rule), name))
    return found


def state(learner) -> tuple[dict, dict]:
    return {n: p.detach() for n, p in learner.named_parameters()}, dict(learner.named_buffers())

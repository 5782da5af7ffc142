"""Adaptive servers equal Reddi et al.'s algorithm 2; averaging with momentum is torch's SGD."""

import copy
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.optim import SGD

from lit_fa.errors import UserError
from lit_fa.federated import FedAdam, FedAvg, FedYogi, LocalSGD
from tests.federated.federation import as_reference, largest_difference, literal_rounds, network, trained
from tests.reference import federated as literal

OPTIONS = {"lr": 0.05, "betas": (0.8, 0.95), "tau": 1e-2}
adaptive = pytest.mark.parametrize("kind", [FedAdam, FedYogi])


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def stepped(optimizer: torch.optim.Optimizer, p: torch.nn.Parameter, gradients: Tensor) -> Tensor:
    for grad in gradients:
        p.grad = grad.clone()
        optimizer.step()
    return p.detach()


@adaptive
def test_adaptive_servers_equal_the_formula(kind: type):
    p, gradients = torch.nn.Parameter(draw(3, 4, 3)), draw(4, 5, 4, 3)
    start = {"p": p.detach().numpy().copy()}
    expected = literal.adaptive_server(start, [{"p": g.numpy()} for g in gradients], yogi=kind is FedYogi, **OPTIONS)
    assert largest_difference({"p": stepped(kind([p], **OPTIONS), p, gradients)}, expected) < 1e-14


def test_the_two_part_where_a_gradient_shrinks():
    # v of FedAdam forgets, that of FedYogi falls by no more than (1 - beta) g^2
    gradients = torch.stack([torch.full((1,), size, dtype=torch.float64) for size in (3.0, 0.1)])
    v = {}
    for kind in (FedAdam, FedYogi):
        p = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
        optimizer = kind([p], **OPTIONS)
        stepped(optimizer, p, gradients)
        v[kind] = optimizer.state[p]["v"].item()
    first = {FedAdam: 0.95 * 1e-4 + 0.05 * 9, FedYogi: 1e-4 + 0.05 * 9}
    assert v[FedAdam] == pytest.approx(0.95 * first[FedAdam] + 0.05 * 0.01, rel=1e-12)
    assert v[FedYogi] == pytest.approx(first[FedYogi] - 0.05 * 0.01, rel=1e-12)


@adaptive
def test_a_restored_server_goes_on_to_the_last_bit(kind: type):
    gradients = draw(4, 6, 4, 3)
    p = torch.nn.Parameter(draw(3, 4, 3))
    optimizer = kind([p], **OPTIONS)
    stepped(optimizer, p, gradients[:3])
    q, saved = torch.nn.Parameter(p.detach().clone()), copy.deepcopy(optimizer.state_dict())
    restored = kind([q], lr=9.0)
    restored.load_state_dict(saved)
    assert torch.equal(stepped(restored, q, gradients[3:]), stepped(optimizer, p, gradients[3:]))


@adaptive
def test_a_parameter_without_a_gradient_is_left_alone(kind: type):
    p, frozen = torch.nn.Parameter(draw(3, 2)), torch.nn.Parameter(draw(5, 2))
    before = frozen.detach().clone()
    stepped(kind([p, frozen], **OPTIONS), p, draw(4, 3, 2))
    assert torch.equal(frozen, before)


@adaptive
@pytest.mark.parametrize("wrong", [{"lr": 0.0}, {"lr": float("nan")}, {"tau": 0.0}, {"betas": (0.9, 1.0)}])
def test_options_that_cannot_train_are_refused_by_name(kind: type, wrong: dict):
    with pytest.raises(UserError, match=kind.__name__):
        kind([torch.nn.Parameter(torch.zeros(2))], **wrong)


def averages(server, rounds: int) -> dict:
    """The network after rounds of FedAvg at the clients, with that optimiser at the server."""
    return as_reference(trained(FedAvg(), LocalSGD(0.3), rounds=rounds, optimizer=server).network)


def fed_avg_m(rounds: int, scale: float, beta: float) -> dict:
    """v <- beta v + scale (w - average), from v = 0; w <- w - v."""
    w = as_reference(network())
    v = {k: 0 * a for k, a in w.items()}
    for clients in literal_rounds(rounds):
        average = literal.fed_avg(w, [clients], lr=0.3)
        v = {k: beta * v[k] + scale * (w[k] - average[k]) for k in w}
        w = {k: w[k] - v[k] for k in w}
    return w


def test_momentum_at_the_server_is_fed_avg_m():
    assert largest_difference(averages(partial(SGD, lr=1.0, momentum=0.5), 3), fed_avg_m(3, 1.0, 0.5)) < 1e-13


def test_flfas_form_of_fed_avg_m_is_a_smaller_rate():
    flfa = fed_avg_m(3, 1 - 0.4, 0.4)
    assert largest_difference(averages(partial(SGD, lr=1 - 0.4, momentum=0.4), 3), flfa) < 1e-13
    assert largest_difference(averages(partial(SGD, lr=1.0, momentum=0.4, dampening=0.4), 3), flfa) > 1e-3

"""Every algorithm against its own literal formula, with clients of unequal size, and against every other."""

from functools import partial
from itertools import combinations

import pytest
import torch

from lit_fa.errors import UserError
from lit_fa.federated import (
    FedAdam,
    FedAvg,
    FedDecorr,
    FedDyn,
    FedNova,
    FedProx,
    FedYogi,
    LocalAdam,
    LocalSGD,
    Moon,
    Scaffold,
)
from tests.federated.federation import (
    POPULATION,
    as_reference,
    largest_difference,
    literal_rounds,
    loader,
    network,
    trained,
    weights,
)
from tests.reference import federated as literal

LR, ROUNDS = 0.3, 4
MOMENTUM = LocalSGD(LR, momentum=0.6)
PLAIN = LocalSGD(LR)
# algorithm, local optimiser, the literal road
ALGORITHMS = {
    "fed_avg": (FedAvg(), PLAIN, partial(literal.fed_avg, lr=LR)),
    "fed_avg_momentum": (FedAvg(), MOMENTUM, partial(literal.fed_avg, lr=LR, momentum=0.6)),
    "fed_prox": (FedProx(0.7), PLAIN, partial(literal.fed_prox, lr=LR, mu=0.7)),
    "fed_nova": (FedNova(), PLAIN, partial(literal.fed_nova, lr=LR)),
    "fed_nova_momentum": (FedNova(), MOMENTUM, partial(literal.fed_nova, lr=LR, momentum=0.6)),
    "scaffold": (Scaffold(), PLAIN, partial(literal.scaffold, lr=LR, population=POPULATION)),
    "fed_dyn": (FedDyn(0.2), PLAIN, partial(literal.fed_dyn, lr=LR, alpha=0.2, population=POPULATION)),
    "moon": (Moon(2.0, 0.5), PLAIN, partial(literal.moon, lr=LR, mu=2.0, temperature=0.5)),
    "fed_decorr": (FedDecorr(0.9), PLAIN, partial(literal.fed_decorr, lr=LR, beta=0.9)),
}


def ours(name: str) -> dict:
    algorithm, optimizer, _ = ALGORITHMS[name]
    return as_reference(trained(algorithm, optimizer, rounds=ROUNDS).network)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_rounds_equal_the_formula(name: str):
    expected = ALGORITHMS[name][2](as_reference(network()), literal_rounds(ROUNDS))
    assert largest_difference(ours(name), expected) < 1e-12


def test_every_algorithm_differs_from_every_other():
    results = {name: ours(name) for name in ALGORITHMS}
    for a, b in combinations(results, 2):
        assert largest_difference(results[a], results[b]) > 1e-6, (a, b)


def test_fed_nova_is_fed_avg_where_all_take_as_many_steps():
    from datamodules.rounds import LocalWork

    same = LocalWork(2, steps=5)
    a, b = (weights(trained(algorithm, PLAIN, work=same)) for algorithm in (FedAvg(), FedNova()))
    assert largest_difference(a, b) < 1e-14


def test_fed_prox_without_strength_is_fed_avg():
    assert largest_difference(*(weights(trained(a, PLAIN)) for a in (FedProx(0.0), FedAvg()))) == 0


@pytest.mark.parametrize("algorithm", [Scaffold(), FedDyn(0.2)])
def test_the_servers_state_is_the_mean_of_all_clients_states(algorithm):
    module = trained(algorithm, PLAIN, rounds=ROUNDS)
    for name, tensor in module.server.items():
        mean = sum(state[name] for state in module.states.values()) / POPULATION
        assert (tensor - mean).abs().max() < 1e-13


@pytest.mark.parametrize(("kind", "yogi"), [(FedAdam, False), (FedYogi, True)])
def test_adaptive_servers_equal_the_formula(kind: type, yogi: bool):
    options = {"lr": 0.05, "betas": (0.8, 0.95), "tau": 1e-2}
    g = torch.Generator().manual_seed(3)
    p = torch.nn.Parameter(torch.randn(4, 3, generator=g, dtype=torch.float64))
    start, grads = p.detach().numpy().copy(), torch.randn(5, 4, 3, generator=g, dtype=torch.float64)
    optimizer = kind([p], **options)
    for grad in grads:
        p.grad = grad.clone()
        optimizer.step()
    expected = literal.adaptive_server({"p": start}, [{"p": x.numpy()} for x in grads], yogi=yogi, **options)
    assert largest_difference({"p": p.detach()}, expected) < 1e-14


def test_momentum_at_the_server_is_fed_avg_m():
    from torch.optim import SGD

    module = trained(FedAvg(), PLAIN, rounds=2, optimizer=lambda params: SGD(params, lr=1.0, momentum=0.5))
    w0, rounds = as_reference(network()), literal_rounds(2)
    w1 = literal.fed_avg(w0, rounds[:1], lr=LR)
    after = literal.fed_avg(w1, rounds[1:], lr=LR)
    # v <- 0.5 v + (w - average); w <- w - v
    expected = {k: w1[k] - (0.5 * (w0[k] - w1[k]) + (w1[k] - after[k])) for k in w0}
    assert largest_difference(as_reference(module.network), expected) < 1e-13


@pytest.mark.parametrize(
    ("algorithm", "optimizer"),
    [
        (Scaffold(), MOMENTUM),
        (Scaffold(), LocalAdam()),
        (FedNova(), LocalAdam()),
        (FedNova(), LocalSGD(0.1, 0.9, 0, True)),
    ],
)
def test_a_local_optimiser_that_breaks_the_formula_is_refused(algorithm, optimizer):
    with pytest.raises(UserError, match="LocalSGD"):
        trained(algorithm, optimizer)


@pytest.mark.parametrize(
    "make", [lambda: FedProx(-1.0), lambda: FedDyn(0.0), lambda: Moon(temperature=0.0), lambda: FedDecorr(-0.1)]
)
def test_strengths_out_of_range_are_refused(make):
    with pytest.raises(UserError, match=r"is (at least|above) 0"):
        make()


def test_a_penalty_reaches_what_the_rule_lets_it_reach():
    """MOON under direct feedback trains the last hidden block with its contrast, and no block below."""
    from torch import nn

    from lit_fa.rules import DirectFeedbackAlignment

    def after(algorithm):
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 4)
        ).double()  # fmt: skip
        return weights(trained(algorithm, PLAIN, rule=DirectFeedbackAlignment(), net=net, rounds=1, work=work))

    from datamodules.rounds import LocalWork

    work = LocalWork(8, steps=1)
    # in a client's first step local, server's and previous model are one: cosines are 1, slopes cancel
    moved = [n for n, t in after(FedDecorr(0.9)).items() if not torch.equal(t, after(FedAvg())[n])]
    assert moved == ["network.2.weight", "network.2.bias"]


def test_rounds_of_the_literal_road_are_those_of_the_loader():
    assert [c["id"] for c in literal_rounds(2)[1]] == list(loader().round(1).clients)

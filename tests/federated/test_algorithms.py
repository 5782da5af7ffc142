"""Every algorithm against its own literal formula, with clients of unequal size, and against every other."""

from functools import partial
from itertools import combinations

import pytest
import torch

from lit_fa.errors import UserError
from lit_fa.federated import (
    FedAvg,
    FedDecorr,
    FedDyn,
    FedNova,
    FedProx,
    LocalAdam,
    LocalSchedule,
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
    from lit_fa.datamodules.rounds import LocalWork

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


def first_round(edit) -> tuple[dict, dict]:
    """The first server, and the plain mean of its clients; `edit(gradient, net, server)` is what a step follows."""
    w0, (clients,) = as_reference(network()), literal_rounds(1)
    nets = [literal.local_sgd(w0, c["batches"], LR, 0.0, lambda g, w: edit(g, w, w0)) for c in clients]
    return w0, literal.average(nets, [1 / len(nets)] * len(nets))


def test_scaffold_starts_as_the_plain_mean_of_clients():
    _, mean = first_round(lambda g, w, w0: g)
    assert largest_difference(as_reference(trained(Scaffold(), PLAIN, rounds=1).network), mean) < 1e-14


def test_scaffold_remembers_finite_gradients_under_a_falling_rate():
    module = trained(Scaffold(), PLAIN, rounds=ROUNDS, local_schedule=LocalSchedule("cosine"))
    assert all(t.isfinite().all() for state in [module.server, *module.states.values()] for t in state.values())


def test_fed_dyn_starts_as_fed_prox_with_an_extrapolated_mean():
    # h = -alpha |S| / N (mean - w_0), and the server subtracts h / alpha
    w0, mean = first_round(lambda g, w, w0: {k: g[k] + 0.2 * (w[k] - w0[k]) for k in g})
    expected = {k: mean[k] + 4 / POPULATION * (mean[k] - w0[k]) for k in mean}
    assert largest_difference(as_reference(trained(FedDyn(0.2), PLAIN, rounds=1).network), expected) < 1e-14


def test_moon_is_fed_avg_for_clients_that_it_has_not_seen():
    # server's and previous model are one, so the two slopes cancel
    a, b = (weights(trained(algorithm, PLAIN, rounds=1)) for algorithm in (Moon(2.0, 0.5), FedAvg()))
    assert largest_difference(a, b) < 1e-14


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_decorrelation_is_that_of_the_authors_code():
    h = drawn(0, 9, 4)
    ours = FedDecorr(0.3).penalty(h, None, None)
    assert ours.item() == pytest.approx(literal.decorrelation(h.numpy(), 0.3), rel=1e-12)
    # (b - 1)^2 / b times the mean squared off-diagonal correlation; 1e-8 on the variance is the tolerance
    off = torch.corrcoef(h.T)[~torch.eye(4, dtype=torch.bool)]
    assert ours.item() == pytest.approx(0.3 * 8**2 / 9 * off.square().mean().item(), rel=1e-6)


@pytest.mark.parametrize("shape", [(1, 4), (9, 1)])
def test_nothing_to_correlate_is_no_penalty(shape: tuple[int, int]):
    h = drawn(0, *shape).requires_grad_()
    penalty = FedDecorr(0.3).penalty(h, None, None)
    penalty.backward()
    assert penalty.item() == 0
    assert torch.equal(h.grad, torch.zeros(shape, dtype=torch.float64))


@pytest.mark.parametrize("algorithm", [Moon(2.0, 0.5), FedDecorr(0.3)])
def test_penalties_can_be_mapped_over_lanes(algorithm):
    features = [drawn(seed, 3, 6, 4) for seed in range(3)]
    alone = [algorithm.penalty(*lane) for lane in zip(*features, strict=True)]
    torch.testing.assert_close(torch.vmap(algorithm.penalty)(*features), torch.stack(alone), rtol=1e-13, atol=0)


@pytest.mark.parametrize("algorithm", [FedAvg(), FedProx(0.7), FedDyn(0.2), Scaffold(), Moon()])
def test_lanes_are_corrected_and_remembered_as_clients_alone(algorithm):
    names, steps = ("weight", "bias"), (5, 2, 1)
    grads, params, states = ({n: drawn(10 * i + len(n), 3, 2, 4) for n in names} for i in range(3))
    anchor, server = ({n: drawn(50 + 10 * i + len(n), 2, 4) for n in names} for i in range(2))
    alone = []
    for lane, tau in enumerate(steps):
        g, w, own = ({n: t[lane].clone() for n, t in of.items()} for of in (grads, params, states))
        algorithm.correct(g, w, anchor, own, server)
        alone.append((g, algorithm.new_state(w, anchor, own, server, tau, LR)))
    algorithm.correct(grads, params, anchor, states, server)
    kept = algorithm.new_state(params, anchor, states, server, torch.tensor(steps), LR)
    for lane, (g, own) in enumerate(alone):
        assert largest_difference({n: t[lane] for n, t in grads.items()}, g) < 1e-14
        assert largest_difference({n: t[lane] for n, t in kept.items()}, own) < 1e-13 if own else kept == {}


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

    from lit_fa.datamodules.rounds import LocalWork

    work = LocalWork(8, steps=1)
    # in a client's first step local, server's and previous model are one: cosines are 1, slopes cancel
    moved = [n for n, t in after(FedDecorr(0.9)).items() if not torch.equal(t, after(FedAvg())[n])]
    assert moved == ["network.2.weight", "network.2.bias"]


def test_rounds_of_the_literal_road_are_those_of_the_loader():
    assert [c["id"] for c in literal_rounds(2)[1]] == list(loader().round(1).clients)

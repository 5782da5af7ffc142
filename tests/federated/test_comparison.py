"""The similarity of clients' gradients: the one-pass formula, all of a client's data, and what noise does to it."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from lit_fa.datamodules.rounds import LocalWork
from lit_fa.errors import UserError
from lit_fa.federated.gradient_similarity import directions
from lit_fa.functional.drift import clipped_sum, length_without_noise, mean_pairwise_cosine
from lit_fa.layers import feedback_layers
from lit_fa.modules import Learner, selection
from lit_fa.modules.selection import epsilon
from lit_fa.rules import FLFA, Backprop, PrivateComparison
from tests.federated.federation import CLASSES, loader, trained
from tests.reference import drift as literal
from tests.reference import federated


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, CLASSES)).double()


def compared(rule, network: nn.Module | None = None, private: PrivateComparison | None = None, names=("0", "2")):
    learner = Learner(network or net(), rule, torch.zeros(2, 5, dtype=torch.float64))
    return directions(learner, loader().whole(0), names, 0, private)


def test_the_one_pass_mean_of_cosines_is_that_of_all_pairs():
    rows = drawn(6, 20)
    units = rows / rows.norm(dim=1, keepdim=True)
    ours = mean_pairwise_cosine(units.sum(0), 6.0, 6).item()
    assert ours == pytest.approx(literal.similarity([*rows.numpy()]), rel=1e-12)


def test_scores_are_those_of_the_gradients_on_all_of_a_clients_data():
    data = loader()
    params = dict(zip(("W1", "b1", "W2", "b2"), (p.detach().numpy() for p in net().parameters()), strict=True))
    x, y = data.images.images.numpy(), data.images.labels.numpy()
    grads = [federated.gradient(params, x[part], y[part]) for part in data.parts]
    expected = {"0": literal.similarity([g["W1"] for g in grads]), "2": literal.similarity([g["W2"] for g in grads])}
    assert compared(Backprop()).alike() == pytest.approx(expected, rel=1e-12)  # of batches that do not divide a client


def test_a_comparison_changes_nothing_and_does_not_ask_the_feedback():
    learner = Learner(net(), FLFA(["2"], rescale="none"), torch.zeros(2, 5, dtype=torch.float64))
    with torch.no_grad():
        feedback_layers(learner.network)["2"].feedback.weight.zero_()
    before = {n: t.clone() for n, t in learner.state_dict().items()}
    random = torch.get_rng_state()
    found = directions(learner, loader().whole(0), ["0"], 0)
    assert torch.equal(found.totals["0"], compared(Backprop(), names=["0"]).totals["0"])
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(t, before[n]) for n, t in learner.state_dict().items())


def test_groups_of_clients_add_up():
    whole = loader().whole(0)
    learner = Learner(net(), Backprop(), torch.zeros(2, 5, dtype=torch.float64))
    parts = [directions(learner, whole.take(lanes), ["0", "2"], 0) for lanes in ([0, 3], [1, 2, 4], [5])]
    together = parts[0].add(parts[1]).add(parts[2])
    assert together.alike() == pytest.approx(compared(Backprop()).alike(), rel=1e-13)


def test_rows_are_clipped_one_by_one():
    rows = drawn(9, 5)
    np.testing.assert_allclose(clipped_sum(rows, 1.5).numpy(), literal.clipped_sum(rows.numpy(), 1.5), rtol=1e-13)


def test_what_every_image_gives_is_clipped_before_the_sum():
    """Without noise to speak of and with a clip below every gradient: the sum of unit gradients of single images."""
    data, learner = loader(), Learner(net(), Backprop(), torch.zeros(2, 5, dtype=torch.float64))
    found = directions(learner, data.whole(0), ["0"], 0, PrivateComparison(noise=1e-9, clip=1e-3))
    sums = []
    for part in data.parts:
        total = 0
        for i in part:
            learner.zero_grad()
            learner((data.images.images[i : i + 1], data.images.labels[i : i + 1])).value.backward()
            g = learner.network[0].weight.grad
            total = total + g / g.norm()
        sums.append(total.numpy())
    assert found.alike()["0"] == pytest.approx(literal.similarity(sums), abs=1e-6)


def test_lengths_are_told_apart_from_noise():
    signal, noise = drawn(40_000), torch.randn(40_000, generator=torch.Generator().manual_seed(1)).double()
    noised = signal + 2.0 * noise
    assert length_without_noise(noised, 2.0).item() == pytest.approx(signal.norm().item(), rel=0.03)
    assert noised.norm() > 2 * signal.norm()


def test_a_length_that_is_only_noise_is_that_of_the_noises_standard_error():
    """The square of d entries of variance s^2 has the deviation s^2 sqrt(2 d)."""
    assert length_without_noise(torch.zeros(800).double(), 3.0).item() == pytest.approx(3.0 * 1600**0.25, rel=1e-12)


def test_a_private_choice_says_its_epsilon_and_is_the_plain_one_where_noise_is_small():
    pytest.importorskip("opacus")
    quiet, plain = (
        trained(rule=FLFA("lowest:1", private=p, reselect_every=2), rounds=3)
        for p in (PrivateComparison(noise=1e-4, clip=100.0), None)
    )
    assert [s["chosen"] for s in quiet.selections] == [s["chosen"] for s in plain.selections]
    first, second = trained(
        rule=FLFA("lowest:1", private=PrivateComparison(noise=2.0), reselect_every=2), rounds=3
    ).selections
    assert 0 < first["epsilon"] < second["epsilon"]  # a second look costs again
    assert "epsilon" not in plain.selections[0]


def test_the_epsilon_of_one_gaussian_mechanism_is_near_the_exact_one():
    """Balle & Wang 2018: delta(eps) of the Gaussian mechanism in closed form; Renyi's bound lies a little above."""
    pytest.importorskip("opacus")
    from scipy.stats import norm

    def delta(eps: float, sigma: float = 2.0) -> float:
        return norm.cdf(0.5 / sigma - eps * sigma) - np.exp(eps) * norm.cdf(-0.5 / sigma - eps * sigma)

    told = epsilon(PrivateComparison(noise=2.0), 1)
    assert delta(told) < 1e-5 < delta(0.8 * told)


def test_a_private_comparison_of_some_layers_keeps_no_graph_over_the_others():
    """Such a graph would hold the gradients of all of a client's images, and weights that are not compared have one."""
    found = compared(Backprop(), private=PrivateComparison(noise=1e-9), names=["0"])
    assert not any(total.requires_grad for total in (*found.totals.values(), *found.squares.values()))


def test_batch_norm_mixes_images_so_that_none_can_be_clipped():
    mixed = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Linear(7, CLASSES)).double()
    with pytest.raises(UserError, match=r"network.1 mixes: use a network with GroupNorm"):
        compared(Backprop(), mixed, PrivateComparison())


def test_a_rank_without_a_client_refuses_what_the_others_refuse():
    mixed = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Linear(7, CLASSES)).double()
    rule = FLFA("lowest:1", private=PrivateComparison())
    learner = Learner(mixed, rule, torch.zeros(2, 5, dtype=torch.float64))
    trainer = SimpleNamespace(train_dataloader=loader(), world_size=7, strategy=None)  # of six clients
    module = SimpleNamespace(
        rule=rule, network=mixed, learner=learner, trainer=trainer, executor=None, global_rank=6,
        local=SimpleNamespace(seed=0),
    )  # fmt: skip
    with pytest.raises(UserError, match=r"network.1 mixes"):
        selection.compared(module, 0)


def test_batch_norm_is_left_as_it_was():
    mixed = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Linear(7, CLASSES)).double()
    whole = loader(work=LocalWork(8, 2, drop_last=True)).whole(0)  # one row has no deviation
    directions(Learner(mixed, Backprop(), torch.zeros(2, 5, dtype=torch.float64)), whole, ["2"], 0)
    assert torch.equal(mixed[1].running_mean, torch.zeros(7, dtype=torch.float64))

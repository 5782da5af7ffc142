"""FWM: what is matched to what, what refuses to be, and that training starts from there."""

import json
import re
from functools import partial
from typing import get_args

import lightning as L
import numpy as np
import pytest
import torch
from torch import nn

from lit_fa.callbacks import RunRecord
from lit_fa.callbacks.forward_trace import trace
from lit_fa.callbacks.weight_alignment import block_links, counterparts
from lit_fa.datamodules import Digits
from lit_fa.errors import UserError
from lit_fa.functional.alignment import cosine, sample_angle
from lit_fa.modules import Classifier, FederatedClassifier, HeadProbe, Learner
from lit_fa.networks import create_network
from lit_fa.rules import Backprop, DirectFeedbackAlignment, FeedbackWeightMatching
from lit_fa.rules.feedback_weight_matching import Solver
from tests.gradients import array, gradients, largest_difference
from tests.reference import matching as literal
from tests.small_networks import CLASSES

D = torch.float64
QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
HIDDEN = {"hidden": [12, 10, 9]}


def mlp(activation: type[nn.Module] = nn.ReLU, widths: tuple[int, ...] = (12, 10, 9)) -> nn.Module:
    torch.manual_seed(0)
    links = []
    for i, o in zip((8, *widths), widths, strict=False):
        links += [nn.Linear(i, o), activation()]
    return nn.Sequential(*links, nn.Linear(widths[-1], CLASSES)).double()


def batch(n: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    return torch.randn(n, 8, generator=g, dtype=D), torch.randint(CLASSES, (n,), generator=g)


def learner(network: nn.Module | None = None, **options: object) -> Learner:
    return Learner(network or mlp(), FeedbackWeightMatching(**options), torch.zeros(2, 8, dtype=D))


def weights(network: nn.Module) -> list[torch.Tensor]:
    """W_1 to W_L."""
    return [m.weight.detach().clone() for m in network.modules() if isinstance(m, nn.Linear)]


def feedback(made: Learner) -> list[torch.Tensor]:
    """F_1 to F_{L-1}, (units, c)."""
    return [F.t() for F in made.rule.links.values()]


def alignments(made: Learner) -> dict[str, float]:
    """Layer to the cosine that `WeightAlignment` logs."""
    chained = block_links(made.network, made.rule, trace(made.network, batch()[0]))
    pairs = {n: (made.network.get_submodule(n).weight, b) for n, b in counterparts(made.network, chained).items()}
    return {name: cosine(*pair).item() for name, pair in pairs.items()}


def deltas(made: Learner) -> list[torch.Tensor]:
    """e F_l^T of one batch at every block."""
    x, y = batch()
    logits = made.network(x).detach().requires_grad_(True)
    error = torch.autograd.grad(made.criterion(logits, y), logits)[0]
    return [error @ F.t() for F in feedback(made)]


SOLVED = {
    "seq_ls": literal.seq_ls,
    "als": lambda W: literal.als(W, 50, True),
    "bp_product": literal.bp_product,
    "svd_average": lambda W: literal.svd_average(W, False),
}
HEADS = {"svd_average": "transposed", "random": "transposed"}


@pytest.mark.parametrize("solver", SOLVED)
def test_the_first_update_is_that_of_the_literal_loops(solver: str):
    made = learner(solver=solver, head=HEADS.get(solver, "kept"))
    first, *rest = [array(W) for W in weights(made.network)]
    made.prepare([batch()])
    F = SOLVED[solver](rest)
    biases = [array(m.bias) for m in made.network if isinstance(m, nn.Linear)]
    x, y = batch()
    of_weights, of_biases = literal.grads(first, literal.matched(rest, F), biases, F, array(x), array(y))
    expected = {f"network.{2 * k}.weight": g for k, g in enumerate(of_weights)}
    expected |= {f"network.{2 * k}.bias": g for k, g in enumerate(of_biases)}
    scale = max(np.abs(g).max() for g in expected.values())
    assert largest_difference(gradients(made, (x, y)), expected) < 1e-10 * scale


@pytest.mark.parametrize("keep_norm", [True, False])
@pytest.mark.parametrize("solver", get_args(Solver))
def test_after_full_matching_every_weight_is_aligned(solver: str, keep_norm: bool):
    made = learner(solver=solver, head="transposed", keep_norm=keep_norm)
    before = weights(made.network)
    made.prepare([batch()])
    found = alignments(made)
    assert [*found] == ["2", "4", "6"]
    assert min(found.values()) > 1 - 1e-12
    assert torch.equal(weights(made.network)[0], before[0])  # no equation has W_1
    if keep_norm:
        norms = zip(before, weights(made.network), strict=True)
        assert all(torch.allclose(W.norm(), V.norm()) for W, V in norms)


@pytest.mark.parametrize("solver", [s for s in get_args(Solver) if s != "svd_average"])
def test_without_weight_matching_no_weight_moves_by_a_bit(solver: str):
    made = learner(solver=solver, weight_match=0, feedback_scale="bp")
    before = {name: p.clone() for name, p in made.network.state_dict().items()}
    made.prepare([batch()])
    assert all(torch.equal(before[name], p) for name, p in made.network.state_dict().items())


def test_part_of_weight_matching_is_part_of_the_way():
    whole, half = learner(solver="seq_ls"), learner(solver="seq_ls", weight_match=0.5)
    before = weights(half.network)
    for made in (whole, half):
        made.prepare([batch()])
    for W, V, M in zip(before, weights(half.network), weights(whole.network), strict=True):
        assert torch.allclose(V, (W + M) / 2)


def test_a_transposed_head_is_the_last_feedback_however_little_the_others_move():
    made = learner(solver="svd_average", head="transposed", weight_match=0)
    before = weights(made.network)
    made.prepare([batch()])
    *hidden, head = weights(made.network)
    assert torch.equal(head, feedback(made)[-1].t())
    assert all(torch.equal(W, V) for W, V in zip(hidden, before, strict=False))


def test_a_transposed_head_is_refused_where_no_single_layer_leads_to_the_logits():
    with pytest.raises(UserError, match="no head for equation 8: set head: kept"):
        learner(mlp(), head="transposed", blocks=["1", "3"])


def test_normalised_rows_send_every_class_alike():
    made = learner(solver="svd_average", head="transposed", normalise=True)
    made.prepare([batch()])
    assert all(torch.allclose(F.norm(dim=0), torch.ones(CLASSES, dtype=D)) for F in feedback(made))


def test_als_with_a_free_head_leaves_less_than_with_a_fixed_one_and_that_less_than_seq_ls():
    options = [{"solver": "als", "head": "transposed"}, {"solver": "als"}, {"solver": "seq_ls"}]
    left = [learner(**o).prepare([batch()])["match/residual/overall"] for o in options]
    assert left == sorted(left)
    sweepless = learner(solver="als", sweeps=0).prepare([batch()])
    assert sweepless["match/residual/overall"] == pytest.approx(left[-1], rel=1e-12)


@pytest.mark.parametrize("scale", ["bp", 0.25])
def test_the_scale_of_feedback_is_that_of_the_error_it_sends_and_turns_nothing(scale: str | float):
    plain, scaled = learner(solver="seq_ls"), learner(solver="seq_ls", feedback_scale=scale)
    for made in (plain, scaled):
        made.prepare([batch()])
    assert alignments(scaled) == pytest.approx(alignments(plain), abs=1e-14)
    for one, other in zip(deltas(plain), deltas(scaled), strict=True):
        assert sample_angle(one, other).item() < 1e-5
    x, y = batch()
    h = [x]
    for link in scaled.network:
        h.append(link(h[-1]))
    true = torch.autograd.grad(scaled.criterion(h[-1], y), [h[2], h[4], h[6]])
    for delta, sent in zip(true, deltas(scaled), strict=True):
        wanted = delta.square().mean().sqrt().item() if scale == "bp" else scale / len(x)
        assert sent.square().mean().sqrt().item() == pytest.approx(wanted, rel=1e-12)


def test_the_bp_product_gives_a_linear_network_the_gradients_of_backprop():
    made = learner(mlp(nn.Identity), solver="bp_product", weight_match=0)
    made.prepare([batch()])
    plain = Learner(mlp(nn.Identity), Backprop(), torch.zeros(2, 8, dtype=D))
    assert largest_difference(gradients(made, batch()), gradients(plain, batch())) < 1e-15


def test_feedback_matching_alone_turns_the_deltas_towards_backprop():
    def angles(rule: object) -> list[float]:
        made = Learner(mlp(), rule, torch.zeros(2, 8, dtype=D))
        made.prepare([batch()])
        plain = Learner(mlp(), Backprop(), torch.zeros(2, 8, dtype=D))
        pairs = zip(gradients(made, batch()).values(), gradients(plain, batch()).values(), strict=True)
        return [cosine(*pair).item() for pair in pairs]

    matched, random = angles(FeedbackWeightMatching("seq_ls", 0)), angles(DirectFeedbackAlignment())
    assert sum(matched[:6]) > sum(random[:6]) + 1  # weights and biases of three hidden layers


def test_numbers_tell_residual_rank_and_accuracy_of_every_matched_layer():
    made = learner(solver="svd_average", head="transposed")
    rest = [array(W) for W in weights(made.network)[1:]]
    x, y = batch(50)
    before = 100 * (made.network(x).argmax(1) == y).double().mean().item()
    found = made.prepare([(x[:20], y[:20]), (x[20:], y[20:])])
    layers = ["2", "4", "6"]
    assert {*found} == {
        *(f"match/residual/{n}" for n in [*layers, "overall"]), *(f"match/rank/{n}" for n in layers),
        "match/accuracy_before", "match/accuracy",
    }  # fmt: skip
    F = literal.svd_average(rest, False)
    assert found["match/residual/overall"] == pytest.approx(literal.relative_residual(rest, literal.matched(rest, F)))
    ranks = [np.linalg.matrix_rank(M) for M in literal.matched(rest, F)]
    assert [found[f"match/rank/{n}"] for n in layers] == ranks == [CLASSES] * 3
    assert found["match/accuracy_before"] == pytest.approx(before)
    assert found["match/accuracy"] == pytest.approx(100 * (made.network(x).argmax(1) == y).double().mean().item())


def test_where_two_layers_stand_between_two_cuts_neither_is_matched():
    made = learner(solver="seq_ls", blocks=["1", "5"])
    assert made.rule.chain == [(), ("6",)]
    before, start = weights(made.network), feedback(made)
    found = made.prepare([batch()])
    assert "match/residual/6" in found
    assert "match/residual/4" not in found
    assert all(torch.equal(W, V) for W, V in zip(before[1:3], weights(made.network)[1:3], strict=True))
    assert torch.equal(feedback(made)[0], start[0])  # nothing determines it


def test_what_comes_before_the_first_cut_may_be_anything():
    body = nn.Sequential(nn.Unflatten(1, (2, 2, 2)), nn.Conv2d(2, 6, 2), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten())
    network = nn.Sequential(body, nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, CLASSES)).double()
    made = learner(network, solver="seq_ls", blocks=["0", "2"])
    made.prepare([batch()])
    assert min(alignments(made).values()) > 1 - 1e-12


class Shortcut(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(9, 9)

    def forward(self, x):
        return x + self.linear(x).relu()


def of(*links: nn.Module) -> nn.Module:
    return nn.Sequential(*links).double()


REFUSED_OPTIONS = {
    "an unknown solver": (
        {"solver": "svd"},
        "solver is one of seq_ls, als, svd_average, bp_product, random, not 'svd'",
    ),
    "an unknown head": ({"head": "fresh"}, "head is one of kept, transposed, not 'fresh'"),
    "weight_match": ({"weight_match": 1.5}, "weight_match is between 0 and 1, not 1.5"),
    "a scale in words": ({"feedback_scale": "big"}, "feedback_scale is one of none, bp, a number, not 'big'"),
    "a negative scale": ({"feedback_scale": -1.0}, "feedback_scale is none, bp or a positive number, not -1.0"),
    "sweeps": ({"sweeps": -1}, "sweeps of als are at least 0, not -1"),
    "a head without class": ({"solver": "svd_average"}, "svd_average does not use the head: set head: transposed"),
    "rows of another solver": ({"normalise": True}, "normalise is an option of svd_average, not of als"),
    "DFA's own": ({"scale": 0.0}, "the scale of feedback is a positive number, not 0.0"),
}


@pytest.mark.parametrize("case", REFUSED_OPTIONS)
def test_an_option_is_refused_when_the_rule_is_made(case: str):
    options, message = REFUSED_OPTIONS[case]
    with pytest.raises(UserError, match=re.escape(message)):
        FeedbackWeightMatching(**options)


SVD = {"solver": "svd_average", "head": "transposed"}
NORMED = (nn.Linear(8, 9), nn.ReLU(), nn.Linear(9, 9))
REFUSED_NETWORKS = {
    "one layer": (of(nn.Linear(8, 5)), {}, "als matches the feedback of at least 2 linear layers, not 1"),
    "no hidden weight": (mlp(widths=(9,)), SVD, "svd_average matches the feedback of at least 3 linear layers, not 2"),
    "batch norm": (of(*NORMED, nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, 5)), {}, "3 (BatchNorm1d) breaks"),
    "layer norm": (of(*NORMED, nn.ReLU(), nn.LayerNorm(9), nn.Linear(9, 5)), {}, "4 (LayerNorm) breaks"),
    "a convolution": (
        of(nn.Linear(8, 8), nn.Unflatten(1, (2, 4)), nn.Conv1d(2, 2, 3), nn.Flatten(), nn.Linear(4, 5)), {},
        "feedback matching is for linear layers, and 2 is a convolution (Conv1d)",
    ),
    "maps": (of(nn.Unflatten(1, (2, 4)), nn.Linear(4, 4), nn.ReLU(), nn.Flatten(), nn.Linear(8, 5)), {"blocks": ["2"]},
             "the output of 2 is (2, 4) a sample, and feedback matching needs (units,)"),
    "a shortcut": (of(nn.Linear(8, 9), nn.ReLU(), Shortcut(), nn.Linear(9, 5)), {}, "from 1 to 2 bypasses 2.linear"),
    "few units": (mlp(widths=(9, 4, 9)), SVD, "a singular vector for each of 5 classes, and 3 has 4 units: use als"),
    "nothing to match": (mlp(), {"blocks": ["1"]}, "no block after the first has exactly one linear layer"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED_NETWORKS)
def test_a_network_is_refused_when_the_rule_is_installed(case: str):
    network, options, message = REFUSED_NETWORKS[case]
    with pytest.raises(UserError, match=re.escape(message)) as refusal:
        learner(network, **options)
    assert "\n" not in str(refusal.value)


def test_a_read_out_of_zeros_is_refused_when_the_fit_begins():
    made = learner(solver="seq_ls")
    nn.init.zeros_(made.network[-1].weight)
    with pytest.raises(UserError, match="the feedback of 1, 3, 5 to zero: probe the head first"):
        made.prepare([batch()])
    with pytest.raises(UserError, match="needs training batches, and there are none"):
        made.prepare([])


def test_a_federation_refuses_a_rule_that_prepares_itself():
    with pytest.raises(UserError, match="FeedbackWeightMatching prepares itself on training batches"):
        FederatedClassifier("mlp", FeedbackWeightMatching(), network_args=HIDDEN)


def fit(module: Classifier, epochs: int = 1, **options: object) -> L.Trainer:
    trainer = L.Trainer(accelerator="cpu", devices=1, max_epochs=epochs, **{**QUIET, **options})
    trainer.fit(module, Digits(batch_size=64))
    return trainer


def classifier(rule: object = None, network: nn.Module | None = None, **options: object) -> Classifier:
    torch.manual_seed(0)
    network = network or create_network("mlp", 10, (1, 8, 8), False, hidden=[64, 48, 48])
    adam = partial(torch.optim.Adam, lr=1e-3)
    return Classifier(network, rule, image_shape=(1, 8, 8), optimizer=adam, **options)


@pytest.mark.parametrize("options", [{"solver": "seq_ls", "weight_match": 0.0, "feedback_scale": "bp"}, {}])
def test_training_real_digits_from_a_pretrained_network_goes_on_improving(options: dict, tmp_path):
    plain = classifier()
    fit(plain, 3)
    torch.manual_seed(1)
    plain.network.head.reset_parameters()
    module = classifier(FeedbackWeightMatching(**options), plain.network, probe=HeadProbe(lr=3e-3))
    record = RunRecord(str(tmp_path / "record.json"), finish_after="fit")
    trainer = fit(module, 5, callbacks=[record])
    metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
    assert metrics["val/accuracy"] > max(metrics["match/accuracy"], 90)
    written = json.loads((tmp_path / "record.json").read_text())
    assert written["metrics"]["match/rank/blocks.1.linear"] == 10
    assert written["metrics"]["match/residual/overall"] == pytest.approx(module.prepared["match/residual/overall"])
    assert not [name for name in written["curves"] if name.startswith("match/")]  # of one moment


def test_a_second_fit_does_not_match_again():
    module = classifier(FeedbackWeightMatching(solver="seq_ls"))
    fit(module)
    before = [F.clone() for F in module.rule.links.values()]
    fit(module)
    assert all(torch.equal(F, G) for F, G in zip(before, module.rule.links.values(), strict=True))


def test_a_checkpoint_that_is_loaded_to_start_from_is_matched_and_one_that_is_resumed_is_not(tmp_path):
    module = classifier(FeedbackWeightMatching(solver="seq_ls"))
    trainer = fit(module)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    state = {name: t.clone() for name, t in module.learner.state_dict().items()}
    resumed = classifier(FeedbackWeightMatching(solver="seq_ls"))
    trainer = L.Trainer(accelerator="cpu", devices=1, max_epochs=1, **QUIET)
    trainer.fit(resumed, Digits(batch_size=64), ckpt_path=tmp_path / "one.ckpt", weights_only=False)
    assert largest_difference(resumed.learner.state_dict(), state) == 0
    assert resumed.prepared == module.prepared
    fresh = classifier(FeedbackWeightMatching(solver="seq_ls"))
    fresh.load_state_dict(torch.load(tmp_path / "one.ckpt", weights_only=False)["state_dict"])
    fit(fresh, 0)
    assert largest_difference(fresh.learner.state_dict(), state) > 0
    assert fresh.prepared["match/accuracy_before"] > 0

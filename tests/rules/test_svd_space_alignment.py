"""SSA and SVD training: what reaches a factor, what never exists, which ranks go and when."""

from functools import partial

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lit_fa.datamodules import Synthetic
from lit_fa.errors import UserError
from lit_fa.functional.feedback import draw, named_generator
from lit_fa.functional.svd_factors import Factors, compose, orthogonality
from lit_fa.layers.factored import FactoredLayer, factored_layers
from lit_fa.modules import Classifier, Learner
from lit_fa.rules import Hoyer, Progress, Pruning, SVDBackprop, SVDSpaceAlignment
from tests.cases import Case
from tests.gradients import array, gradients, largest_difference, taken
from tests.reference import factored as literal
from tests.small_networks import CLASSES, NETWORKS

ROUTES = ["direct_product", "direct_random", "sequential"]
D = torch.float64


def learner_and_batch(rule, network: str = "mlp", dtype: torch.dtype = D) -> tuple[Learner, tuple]:
    build, shape = NETWORKS[network]
    case = Case(network, rule, build, shape, None)
    return case.learner(dtype=dtype), case.batch(dtype=dtype)


def edited(learner: Learner, batch: tuple, progress: Progress) -> dict[str, torch.Tensor]:
    learner.zero_grad(set_to_none=True)
    learner(batch).value.backward()
    learner.edit_gradients(progress)
    return taken(learner)


class Shapes(TorchDispatchMode):
    """The sizes of everything that is made inside."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        self.seen |= {tuple(t.shape) for t in tree_leaves(out) if isinstance(t, torch.Tensor)}
        return out


@pytest.mark.parametrize("route", ROUTES)
def test_no_tensor_of_a_weights_size_is_ever_formed(route: str):
    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(61, 67), nn.ReLU(), nn.Linear(67, 71), nn.ReLU(), nn.Linear(71, CLASSES))

    case = Case("wide", partial(SVDSpaceAlignment, route, rank=7), build, (61,), None)
    learner, batch = case.learner(), case.batch()
    with Shapes() as shapes:
        edited(learner, batch, Progress(0))
        learner.after_step(Progress(1))
    assert (61, 7) in shapes.seen
    assert not {(67, 61), (61, 67), (71, 67), (67, 71)} & shapes.seen


@pytest.mark.parametrize("route", ["direct_product", "direct_random"])
def test_no_input_of_a_factored_layer_needs_a_gradient_under_direct_routes(route: str):
    learner, batch = learner_and_batch(partial(SVDSpaceAlignment, route, dense="unfactorable"), "small_conv")
    needed = []
    for layer in factored_layers(learner.network).values():
        layer.register_forward_pre_hook(lambda _m, args: needed.append(args[0].requires_grad))
    learner(batch)
    assert needed
    assert not any(needed)


@pytest.mark.parametrize("network", ["mlp", "tokens", "residual"])
def test_with_the_weights_for_feedback_the_sequential_route_is_backprop_on_the_factors(network: str):
    copy, batch = learner_and_batch(partial(SVDSpaceAlignment, "sequential", feedback="copy"), network)
    plain, _ = learner_and_batch(SVDBackprop, network)
    assert largest_difference(gradients(copy, batch), gradients(plain, batch)) < 1e-13


def test_with_the_weights_for_feedback_the_product_route_is_backprop_through_a_linear_network():
    def build() -> nn.Module:
        pool = (nn.AvgPool2d(2), nn.Flatten())
        return nn.Sequential(
            nn.Conv2d(2, 3, 3), nn.Conv2d(3, 4, 3, padding=1), *pool, nn.Linear(36, 8), nn.Linear(8, CLASSES)
        )

    grads = []
    for rule in (partial(SVDSpaceAlignment, "direct_product", feedback="copy"), SVDBackprop):
        case = Case("linear", rule, build, (2, 8, 8), None)
        grads.append(gradients(case.learner(), case.batch()))
    assert largest_difference(*grads) < 1e-13


def test_a_network_that_stays_nonlinear_has_no_product_of_feedback():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.out = nn.Linear(12, 8), nn.Linear(12, 8), nn.Linear(8, CLASSES)

        def forward(self, x):
            return self.out(self.one(x) * self.two(x))

    with pytest.raises(UserError, match=r"direct_product: .* not linear .*direct_random or sequential"):
        Case("gated", partial(SVDSpaceAlignment, "direct_product"), Gated, (12,), None).learner()


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("route", ROUTES)
def test_edits_are_the_projected_pull_and_the_orthogonality_gradient_beside_it(route: str, reduction: str):
    alpha, beta, gamma, sparse = 0.7, 0.3, 0.2, 0.05
    rule = partial(
        SVDSpaceAlignment, route, alpha, beta, gamma=gamma, reduction=reduction, hoyer=Hoyer(sparse), retraction="none"
    )
    learner, batch = learner_and_batch(rule)
    with torch.no_grad():
        for layer in factored_layers(learner.network).values():
            layer.U.add_(0.05 * torch.randn(layer.U.shape, dtype=D, generator=torch.Generator().manual_seed(2)))
    raw, found = gradients(learner, batch), edited(learner, batch, Progress(0))
    names = [*factored_layers(learner.network)]
    for name, layer in factored_layers(learner.network).items():
        weight = 1.0 if name == names[-1] else alpha
        now = [array(t) for t in layer.factors]
        pulls = literal.alignment_gradients(*now, *map(array, layer.feedback.factors))
        for side, factor, pull in zip("UsV", now, pulls, strict=True):
            entries = factor.size if reduction == "mean" else 1
            expected = weight * array(raw[f"network.{name}.{side}"]) + beta * pull / entries
            if side == "s":
                norms = np.abs(factor).sum(), np.sqrt((factor**2).sum())
                expected = expected + sparse * (np.sign(factor) / norms[1] - factor * norms[0] / norms[1] ** 3)
            else:
                share = factor.shape[1] ** 2 if reduction == "mean" else 1
                ortho = literal.orthogonality_gradient(factor) / share
                expected = literal.on_tangent(factor, expected) + gamma * ortho
            assert np.abs(array(found[f"network.{name}.{side}"]) - expected).max() < 1e-7  # finite differences


def test_without_ce_only_the_read_out_and_the_biases_learn_from_the_loss():
    learner, batch = learner_and_batch(partial(SVDSpaceAlignment, alpha=0.0, beta=0.0, gamma=0.0))
    found = edited(learner, batch, Progress(0))
    moved = {name for name, g in found.items() if g.abs().max() > 1e-14}
    assert moved == {"network.0.bias", "network.4.bias", "network.6.bias"} | {f"network.6.{side}" for side in "UsV"}


@pytest.mark.parametrize(
    ("schedule", "done", "left"), [("constant", 0.5, 1.0), ("linear", 0.75, 0.25), ("cosine", 0.5, 0.5)]
)
def test_the_pull_to_the_feedback_follows_its_schedule(schedule: str, done: float, left: float):
    make = partial(SVDSpaceAlignment, alpha=0.0, beta=1.0, gamma=0.0, project=False, beta_schedule=schedule)
    learner, batch = learner_and_batch(make)
    start, later = (edited(learner, batch, Progress(int(100 * f), total_steps=100))["network.0.s"] for f in (0, done))
    assert torch.allclose(later, left * start)


def test_orthogonality_is_added_every_so_many_steps_and_sparsity_in_its_epochs():
    rule = partial(SVDSpaceAlignment, alpha=0.0, beta=0.0, orthogonality_every=3, hoyer=Hoyer(1.0, every=2, until=0.5))
    learner, batch = learner_and_batch(rule)
    with torch.no_grad():
        learner.network[0].U.mul_(1.1)
    grads = {step: edited(learner, batch, Progress(step))["network.0.U"].abs().max() for step in range(4)}
    assert [step for step, g in grads.items() if g > 1e-6] == [0, 3]
    sparse = {e: edited(learner, batch, Progress(e, e, 8, 8))["network.0.s"].abs().max() for e in range(8)}
    assert [epoch for epoch, g in sparse.items() if g > 1e-6] == [0, 2]


def test_feedback_depends_on_the_seed_and_the_layers_name_alone():
    def feedback(**options) -> list[Factors]:
        learner, _ = learner_and_batch(partial(SVDSpaceAlignment, **options))
        return [layer.feedback.factors for layer in factored_layers(learner.network).values()]

    one, two, other = feedback(seed=1), feedback(seed=1, route="sequential"), feedback(seed=2)
    assert all(torch.equal(a, b) for p, q in zip(one, two, strict=True) for a, b in zip(p, q, strict=True))
    assert not any(torch.equal(a.U, b.U) for a, b in zip(one, other, strict=True))


def test_feedback_is_the_factors_of_a_draw_of_the_dense_weights_shape():
    learner, _ = learner_and_batch(
        partial(SVDSpaceAlignment, dense="unfactorable", init="normal", seed=1), "small_conv"
    )
    for name, layer in factored_layers(learner.network).items():
        drawn = draw(layer.shape, "normal", named_generator(1, name)).double()
        torch.testing.assert_close(compose(layer.feedback.factors, layer.shape), drawn, rtol=0, atol=1e-12)


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU()),
        nn.Sequential(nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()),
        nn.Sequential(nn.Linear(32, 24), nn.ReLU()),
        nn.Linear(24, 4),
    ).double()


class Watch(L.Callback):
    """Ranks, and the share of the energy that they hold, at the end of every epoch."""

    def __init__(self):
        self.ranks, self.kept = [], []

    def on_train_epoch_end(self, trainer, module):
        layers = factored_layers(module.network)
        self.ranks.append({n: layer.rank for n, layer in layers.items()})
        self.kept.append({n: (layer.s.square().sum() / layer.energy).item() for n, layer in layers.items()})


ADAM = partial(torch.optim.Adam, lr=3e-3)


def run(tmp_path, rule, epochs: int = 5, resume=None, optimizer=ADAM):
    module = Classifier(network(), rule, num_classes=4, image_shape=(2, 8, 8), optimizer=optimizer)
    data = Synthetic(
        n_train=48, n_test=8, image_shape=(2, 8, 8), num_classes=4, batch_size=12, device="cpu", dtype="float64"
    )
    watch = Watch()
    keep = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=epochs, logger=False, callbacks=[watch, keep], enable_progress_bar=False,
        enable_model_summary=False, precision="64-true",
    )  # fmt: skip
    trainer.fit(module, data, ckpt_path=resume, weights_only=False)
    return module, watch


@pytest.mark.parametrize("route", ROUTES)
def test_pruning_keeps_95_percent_of_the_energy_and_never_the_first_or_last_layer(tmp_path, route: str):
    rule = SVDSpaceAlignment(route, pruning=Pruning(0.95, every=1, after=0.3), hoyer=Hoyer(0.1, every=1, until=0.3))
    module, watch = run(tmp_path, rule)
    first, *_, last = factored_layers(module.network)
    ranks = watch.ranks[-1]
    full = watch.ranks[0]
    assert full[first] == ranks[first] == 6  # 2 channels of 3 rows
    assert full[last] == ranks[last] == 4
    inside = [name for name in ranks if name not in (first, last)]
    assert all(ranks[name] < full[name] for name in inside)
    assert all(
        layer.rank == len(layer.s) == len(layer.feedback.s) for layer in factored_layers(module.network).values()
    )
    assert all(orthogonality(layer.U) < 1e-6 for layer in factored_layers(module.network).values())
    # at the first pruning the reference is the layer's own energy
    assert all(0.95 <= watch.kept[1][name] <= 1 for name in inside)


def test_masked_and_physical_pruning_learn_the_same(tmp_path):
    states = []
    for physical in (True, False):
        rule = SVDSpaceAlignment("sequential", pruning=Pruning(0.9, every=1, after=0.2, physical=physical))
        # not Adam, which makes a step of a gradient that is zero but for rounding
        module, _ = run(tmp_path / str(physical), rule, optimizer=partial(torch.optim.SGD, lr=0.05, momentum=0.9))
        states.append({n: layer.merged() for n, layer in factored_layers(module.network).items()})
        assert all((len(layer.s) == layer.rank) == physical for layer in [module.network[2][0]])
    # sums over columns of zeros come in another order
    assert largest_difference(*states) < 1e-10


@pytest.mark.parametrize("route", ["direct_random", "sequential"])
def test_a_run_resumed_across_a_pruning_epoch_ends_bit_for_bit(tmp_path, route: str):
    def rule():
        return SVDSpaceAlignment(
            route, beta_schedule="cosine", hoyer=Hoyer(0.1, 1), pruning=Pruning(0.9, every=2, after=0.3)
        )

    whole, watch = run(tmp_path / "whole", rule(), epochs=6)
    assert watch.ranks[0] != watch.ranks[2] != watch.ranks[4]
    for epoch in (0, 1, 2):  # before, at and after the first pruning
        again, _ = run(tmp_path / f"again{epoch}", rule(), 6, resume=tmp_path / "whole" / f"epoch={epoch}.ckpt")
        assert largest_difference(again.learner.state_dict(), whole.learner.state_dict()) == 0


def test_energy_of_the_first_pruning_does_not_compound():
    pruning, progress = Pruning(0.95, every=1, after=0.1), partial(Progress, total_epochs=10, epoch_ends=True)
    rule = SVDBackprop(pruning=pruning)
    s, energy = torch.arange(10.0, 0, -1), torch.tensor(0.0)
    for epoch in range(1, 9):
        mask, energy = rule._mask(pruning, s, energy, progress(epoch + 1, epoch - 1))
        s = s * mask
    assert s.square().sum() >= 0.95 * torch.arange(10.0, 0, -1).square().sum()


def test_pruning_epochs_start_after_the_share_and_leave_the_last_epoch_alone():
    pruning = Pruning(every=2, after=0.3)
    due = [e for e in range(10) if pruning.due(Progress(0, e, total_epochs=10, epoch_ends=True))]
    assert due == [2, 4, 6, 8]
    assert pruning.times(10) == 4
    assert not pruning.due(Progress(0, 2, total_epochs=10))


def test_a_cadence_that_would_empty_the_layers_is_refused_after_the_first_epoch(tmp_path):
    rule = SVDSpaceAlignment(pruning=Pruning(0.8, every=1, after=0.0, of="current"))
    with pytest.raises(UserError, match=r"0.8 of the current energy 9 times leaves 0.13 of it: set pruning.of: first"):
        run(tmp_path, rule, epochs=10)


def test_the_floor_is_the_number_of_classes_and_at_least_four():
    s = torch.tensor([10.0, 0.1, 0.1, 0.1, 0.1, 0.1, 0.0])
    learner, _ = learner_and_batch(partial(SVDBackprop, pruning=Pruning()))
    assert learner.rule.floor == CLASSES
    mask, _ = learner.rule._mask(Pruning(), s, s.sum(), Progress(0, 2, total_epochs=10, epoch_ends=True))
    assert mask.sum() == CLASSES


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: SVDSpaceAlignment("direct"), "route is one of direct_product, direct_random, sequential"),
        (lambda: SVDSpaceAlignment(beta=-1.0), "alpha and beta are factors of at least 0"),
        (lambda: SVDSpaceAlignment(feedback="own"), "feedback is one of independent, copy"),
        (lambda: SVDSpaceAlignment(rank=0), "rank is a number of at least 1"),
        (lambda: SVDSpaceAlignment(rank=1.5), "a share of the full rank in 0 to 1"),
        (lambda: SVDBackprop(retraction="cayley"), "retraction is one of none, newton_schulz, qr"),
        (lambda: SVDBackprop(orthogonality_every=0), "at least 1"),
        (lambda: SVDBackprop(dense="all"), "dense is one of unfactorable, a list, null, not 'all'"),
        (lambda: Pruning(0.0), "pruning.energy is a share from 0 to 1"),
        (lambda: Pruning(floor=0), "pruning.floor is a rank of at least 1, not 0"),
        (lambda: Pruning(every=0), "every >= 1"),
        (lambda: Hoyer(every=0), "every >= 1"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused_in_one_line(make, what: str):
    with pytest.raises(UserError, match=what) as error:
        make()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("rule", "network", "what"),
    [
        (partial(SVDBackprop, 13), "mlp", "rank 13 is above the full rank of every layer; the largest is 10"),
        (partial(SVDBackprop, 3, pruning=Pruning(floor=4)), "mlp", "2 has rank 3, less than pruning.floor, which is 4"),
        (SVDSpaceAlignment, "small_conv", "1 layers cannot be factored .2: .* 2 groups.*: leave them dense"),
        (partial(SVDBackprop, dense=["9"]), "mlp", "dense: no module matches '9'"),
    ],
)
def test_a_network_that_does_not_fit_is_refused_with_what_to_do(rule, network: str, what: str):
    with pytest.raises(UserError, match=what):
        learner_and_batch(rule, network)


def test_streaming_gives_the_summed_gradients():
    learner, batch = learner_and_batch(partial(SVDSpaceAlignment, "direct_product", dense="unfactorable"), "residual")
    summed = gradients(learner, batch)
    learner.stream(batch, lambda value: value.backward())
    assert largest_difference(taken(learner), summed) < 1e-14


@pytest.fixture
def composed(monkeypatch) -> list[tuple[int, ...]]:
    """The shapes of the dense weights that are composed."""
    shapes, merged = [], FactoredLayer.merged
    monkeypatch.setattr(FactoredLayer, "merged", lambda layer: shapes.append(layer.shape) or merged(layer))
    return shapes


@pytest.mark.parametrize("rule", [SVDBackprop, SVDSpaceAlignment, partial(SVDSpaceAlignment, "sequential")])
@pytest.mark.parametrize("network", ["mlp", "small_conv"])
def test_the_fewest_products_give_the_same_step(rule, network: str, composed):
    learner, batch = learner_and_batch(partial(rule, dense="unfactorable"), network)
    expected = edited(learner, batch, Progress(0))
    assert composed == []
    learner, batch = learner_and_batch(partial(rule, dense="unfactorable", products="fewest"), network)
    found = edited(learner, batch, Progress(0))
    assert {*composed} == {layer.shape for layer in factored_layers(learner.network).values()}  # all, at full rank
    assert largest_difference(expected, found) < 1e-12


def test_a_layer_whose_factors_are_smaller_than_its_weight_never_forms_it(composed):
    rule = partial(SVDSpaceAlignment, rank=1, dense="unfactorable", products="fewest")
    learner, batch = learner_and_batch(rule, "small_conv")
    edited(learner, batch, Progress(0))
    assert composed == []

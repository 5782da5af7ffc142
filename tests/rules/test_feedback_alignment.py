"""Feedback alignment's sources over training: against literal trajectories and what their papers say of them."""

import numpy as np
import pytest
import torch
from torch import nn

from lit_fa.errors import UserError
from lit_fa.functional.feedback import INITS, draw, named_generator
from lit_fa.layers import feedback_layers
from lit_fa.modules import Learner
from lit_fa.rules import (
    AdaptiveFeedback,
    FeedbackAlignment,
    KolenPollackFeedback,
    LearningRule,
    Progress,
    RandomFeedback,
    SignFeedback,
    SnapshotFeedback,
    WeightMirrorFeedback,
)
from tests.reference import adaptive, kolen_pollack, weight_mirror
from tests.reference.network import Layer

WIDTHS = (6, 5, 4, 3)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4, bias=False), nn.ReLU(), nn.Linear(4, 3)
    ).double()  # fmt: skip


def learner(source: object, **options: object) -> Learner:
    return Learner(network(), FeedbackAlignment(source, **options), torch.zeros(2, 6, dtype=torch.float64))


def batches(count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    g = torch.Generator().manual_seed(3)
    return [
        (torch.randn(7, 6, generator=g, dtype=torch.float64), torch.randint(3, (7,), generator=g)) for _ in range(count)
    ]


def listed(made: Learner) -> tuple[list[Layer], dict[int, np.ndarray]]:
    """The network as plain arrays, and its feedback by index."""
    kinds = {nn.Tanh: ("tanh",), nn.ReLU: ("relu",)}
    layers = []
    for module in made.network:
        if isinstance(module, nn.Linear):
            bias = None if module.bias is None else module.bias.detach().numpy().copy()
            layers.append(("linear", module.weight.detach().numpy().copy(), bias))
        else:
            layers.append(kinds[type(module)])
    found = feedback_layers(made.network)
    return layers, {int(n): layer.feedback.weight.detach().numpy().copy() for n, layer in found.items()}


def train(made: Learner, count: int = 5, **options: float) -> None:
    optimizer = torch.optim.SGD(made.parameters(), lr=0.1, **options)
    for step, batch in enumerate(batches(count), start=1):
        optimizer.zero_grad()
        made(batch).value.backward()
        optimizer.step()
        made.after_step(Progress(step))


@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1}, {"weight_decay": 0.1, "momentum": 0.9}])
@pytest.mark.parametrize("source", [KolenPollackFeedback(), AdaptiveFeedback(reading="increment")])
@pytest.mark.parametrize("backend", ["fused", "detour"])
def test_kolen_pollack_follows_its_literal_trajectory(source: object, backend: str, options: dict):
    made = learner(source, backend=backend)
    layers, feedback = listed(made)
    plain = [(x.numpy(), y.numpy()) for x, y in batches(5)]
    expected, expected_feedback = kolen_pollack.trajectory(layers, feedback, plain, 0.1, **options)[-1]
    train(made, **options)
    found, found_feedback = listed(made)
    for mine, true in zip(found, expected, strict=True):
        for a, b in zip(mine[1:], true[1:], strict=True):
            assert (a is None and b is None) or np.abs(a - b).max() < 1e-12
    assert all(np.abs(found_feedback[i] - expected_feedback[i]).max() < 1e-12 for i in feedback)


def test_weight_decay_draws_kolen_pollacks_matrices_together_at_its_own_rate():
    made = learner(KolenPollackFeedback())
    layer = made.network[4]
    gap = (layer.weight - layer.feedback.weight).detach()
    train(made, 20, weight_decay=0.5)
    # W - B shrinks by 1 - lr * decay = 0.95 a step, whatever is learned
    assert torch.allclose(layer.weight - layer.feedback.weight, gap * 0.95**20, rtol=0, atol=1e-13)


@pytest.mark.parametrize("activation", ["linear", "relu"])
@pytest.mark.parametrize("rescale", ["norm", "none"])
def test_a_mirror_step_is_the_literal_one_and_rescales_to_the_weight(activation: str, rescale: str):
    source = WeightMirrorFeedback(rate=0.3, noise=0.7, patterns=9, activation=activation, decay=0.1, rescale=rescale)
    made = learner(source)
    layer = made.network[2]
    stored, weight = layer.feedback.weight.numpy().copy(), layer.weight.detach().numpy()
    noise = torch.rand(9, 5, generator=named_generator(0, "network.2", 4)).numpy().astype(float)
    noise = (noise - 0.5) * 1.4
    expected = weight_mirror.mirrored_with_decay(stored, weight, None, noise, 0.3, 0.1, activation)
    if rescale == "norm":
        expected *= np.sqrt((weight**2).sum() / (expected**2).sum())
    made.after_step(Progress(4))
    assert np.abs(layer.feedback.weight.numpy() - expected).max() < 1e-6  # the noise is drawn in float32


def test_a_mirror_learns_the_weights_of_a_network_that_stands_still():
    made = learner(WeightMirrorFeedback(rate=1.0, noise=0.5))
    for step in range(60):
        made.after_step(Progress(step))
    for layer in feedback_layers(made.network).values():
        flat = layer.weight.flatten(), layer.feedback.weight.flatten()
        assert torch.nn.functional.cosine_similarity(*flat, dim=0) > 0.97


def test_the_mixture_moves_the_share_of_its_rate():
    made = learner(AdaptiveFeedback(reading="mixture", rate=0.25))
    layer = made.network[2]
    expected = adaptive.mixture(layer.feedback.weight.numpy().copy(), layer.weight.detach().numpy(), 0.25)
    made.after_step(Progress(1))
    assert np.abs(layer.feedback.weight.numpy() - expected).max() < 1e-15


def test_batchwise_magnitudes_are_redrawn_at_every_step_and_fixed_ones_are_not():
    for variant, redrawn in (("brsf", True), ("frsf", False)):
        made = learner(SignFeedback(variant))
        seen = [made.network[2].feedback.weight.clone()]
        for step in (1, 2):
            made.after_step(Progress(step))
            seen.append(made.network[2].feedback.weight.clone())
        assert (not torch.equal(seen[0], seen[1]) and not torch.equal(seen[1], seen[2])) is redrawn
        assert all((magnitude >= 0).all() for magnitude in seen)


@pytest.mark.parametrize("init", INITS)
def test_a_matrix_has_the_weights_shape_and_is_the_draw_of_its_layers_name(init: str):
    stored = feedback_layers(learner(RandomFeedback(init, scale=3.0, seed=2)).network)
    expected = {
        name: draw(shape, init, named_generator(2, name), gain=3.0) for name, shape in (("2", (4, 5)), ("4", (3, 4)))
    }
    assert all(torch.equal(stored[name].feedback.weight, matrix.double()) for name, matrix in expected.items())


def test_a_redraw_depends_on_seed_layer_and_step_alone():
    one, two = learner(SignFeedback("brsf")), learner(SignFeedback("brsf"))
    for step in (1, 2, 3):
        one.after_step(Progress(step))
    torch.rand(17)  # the global state is another one now
    two.after_step(Progress(3))
    assert torch.equal(one.network[2].feedback.weight, two.network[2].feedback.weight)
    assert not torch.equal(one.network[2].feedback.weight, one.network[4].feedback.weight.new_zeros(4, 5))


@pytest.mark.parametrize("variant", ["usf", "brsf", "frsf"])
def test_sign_feedback_follows_a_sign_that_flips(variant: str):
    layer = learner(SignFeedback(variant)).network[2]
    before = layer.feedback.matrix(layer.weight)
    with torch.no_grad():
        layer.weight.neg_()
    assert torch.equal(layer.feedback.matrix(layer.weight), -before)


@pytest.mark.parametrize(("scale", "expected"), [("xavier", (2 / 9) ** 0.5), ("fan_in", 15**-0.5), (0.4, 0.4)])
def test_the_constant_of_uniform_sign_feedback(scale: object, expected: float):
    layer = learner(SignFeedback("usf", scale=scale)).network[2]
    assert torch.allclose(layer.feedback.matrix(layer.weight).abs(), torch.tensor(expected).double(), rtol=1e-6)


def test_the_feedback_of_a_layer_is_that_of_its_name_whatever_else_is_extended():
    every = learner(RandomFeedback(seed=2))
    one = learner(RandomFeedback(seed=2), layers=["4"])
    assert torch.equal(every.network[4].feedback.weight, one.network[4].feedback.weight)
    other = learner(RandomFeedback(seed=3))
    assert not torch.equal(every.network[4].feedback.weight, other.network[4].feedback.weight)


def test_only_the_chosen_layers_get_feedback_and_the_others_are_not_refused():
    made = learner("random", layers=["4"])
    assert [*feedback_layers(made.network)] == ["4"]
    assert made.coverage.transported == ["2.weight"]


def test_the_first_layer_needs_no_feedback():
    assert [*feedback_layers(learner("random").network)] == ["2", "4"]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: FeedbackAlignment("randon"), "nearest: random"),
        (lambda: FeedbackAlignment(backend="fast"), "backend is one of fused, detour, not 'fast'"),
        (lambda: learner("random", layers=["5"]), "layers: no module matches '5'"),
        (lambda: Learner(nn.Linear(3, 2), FeedbackAlignment(), torch.zeros(2, 3)), "wrap it in nn.Sequential"),
        (lambda: Learner(network(), FeedbackAlignment(), torch.zeros(2, 6), "crossentropy"), "nearest: cross_entropy"),
    ],
)
def test_a_mistake_is_answered_in_one_line(make, words: str):
    with pytest.raises(UserError, match=words) as error:
        make()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: SignFeedback("signs"), "variant is one of usf, brsf, frsf, not 'signs'"),
        (lambda: SignFeedback(scale="big"), "scale is xavier, fan_in or a positive number, not 'big'"),
        (lambda: SignFeedback(scale=-1.0), "scale is xavier, fan_in or a positive number, not -1.0"),
        (lambda: SignFeedback("frsf", init="he"), "init is one of xavier_uniform"),
        (lambda: RandomFeedback(init="xavier"), "init is one of xavier_uniform"),
        (lambda: WeightMirrorFeedback(init="xavier"), "init is one of xavier_uniform"),
        (lambda: WeightMirrorFeedback(activation="tanh"), "activation is one of linear, relu"),
        (lambda: WeightMirrorFeedback(rescale="row"), "rescale is one of norm, none"),
        (lambda: AdaptiveFeedback(reading="mean"), "reading is one of increment, norm, mixture"),
        (lambda: SnapshotFeedback(rescale="rows"), "rescale is one of row, matrix, none"),
    ],
)
def test_a_source_names_its_valid_options(make, words: str):
    with pytest.raises(UserError, match=words):
        make()


def test_a_rule_by_itself_is_backprop():
    x, y = batches(1)[0]
    plain = network()
    torch.nn.functional.cross_entropy(plain(x), y).backward()
    made = Learner(network(), LearningRule(), torch.zeros(2, 6, dtype=torch.float64))
    made((x, y)).value.backward()
    for p, q in zip(plain.parameters(), made.network.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad)


def test_the_log_counts_layers_and_stored_feedback_weights(caplog):
    caplog.set_level("INFO", "lit_fa")
    layers = [nn.Linear(5, 20), nn.ReLU(), nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 10)]
    FeedbackAlignment().install(nn.Sequential(*layers), torch.zeros(2, 5), nn.functional.cross_entropy)
    assert "on 2 layers, 0.0009 M stored feedback weights" in caplog.text  # 600 and 300

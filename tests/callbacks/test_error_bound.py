"""The bound of feedback-weight matching on the training error, and two of its propositions, numerically."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from lit_fa.callbacks import ErrorBound, MeasurementError, MinimumNorm, Recorder
from lit_fa.datamodules import Digits
from lit_fa.functional.error_bound import error_bound, smallest_eigenvalue
from lit_fa.modules import Classifier
from lit_fa.rules import Backprop, DirectFeedbackAlignment
from tests.callbacks.training import fit, mlp, task
from tests.federated.federation import quiet
from tests.reference import error_bound as literal


def problem(seed, samples=12, inputs=10, units=40, classes=4):
    """X, Y, W1, W2 and a random F; as many samples as hidden units can fit."""
    rng = np.random.default_rng(seed)
    X, Y = rng.normal(size=(samples, inputs)), np.eye(classes)[rng.integers(classes, size=samples)]
    W1, W2 = rng.normal(size=(units, inputs)) / inputs**0.5, rng.normal(size=(classes, units)) / units**0.5
    return X, Y, W1, W2, rng.normal(size=(units, classes)) / units**0.5


def test_the_bound_and_its_rate_equal_the_literal_ones():
    H = np.random.default_rng(0).normal(size=(6, 9))
    assert smallest_eigenvalue(torch.from_numpy(H)) == pytest.approx(literal.gram_gamma(H), rel=1e-10)
    assert smallest_eigenvalue(torch.from_numpy(H.T)) == 0
    arguments = (1.7, 0.9, 0.01, 3.0, 0.002)
    assert error_bound(*arguments) == pytest.approx(literal.bound(*arguments), rel=1e-14)


@pytest.mark.parametrize("decay", [0.0, 0.01])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_error_of_two_matched_layers_stays_below_the_bound_at_every_step(seed, decay):
    X, Y, W1, W2, _ = problem(seed)
    eta, gamma = 0.002, literal.gram_gamma(literal.relu(X @ W1.T))
    errors, _ = literal.dfa_two_layers(X, Y, W1, W2, W2.T, eta, eta * decay, steps=300)
    target = np.sqrt((Y**2).sum())
    assert gamma > 0
    for before, after in pairwise(errors):
        assert after <= literal.bound(before, target, eta, gamma, eta * decay) + 1e-12


@pytest.mark.parametrize("seed", range(5))
def test_matched_feedback_of_two_linear_layers_is_aligned_better_than_random_at_every_step(seed):
    """Proposition 3.8."""
    X, Y, W1, W2, F = problem(seed)
    matched = literal.dfa_two_linear_layers(X, Y, W1, W2, W2.T, eta=0.002, steps=300)
    random = literal.dfa_two_linear_layers(X, Y, W1, W2, F, eta=0.002, steps=300)
    assert matched[0] == pytest.approx(1)
    assert all(one >= other for one, other in zip(matched, random, strict=True))


def test_no_random_feedback_comes_near_strong_weight_alignment():
    """Proposition 3.3: a weight of full rank is no product of thin matrices, and random ones point elsewhere."""
    rng = np.random.default_rng(0)
    W, classes = rng.normal(size=(40, 40)), 4
    nearest = np.linalg.svd(W)[1]
    best = np.sqrt((nearest[:classes] ** 2).sum() / (nearest**2).sum())  # cosine with the best matrix of that rank
    drawn = [literal.cosine(W, rng.normal(size=(40, classes)) @ rng.normal(size=(classes, 40))) for _ in range(500)]
    assert np.linalg.matrix_rank(W) == 40
    assert max(np.abs(drawn)) < 0.2 < best < 1


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_a_run_logs_the_literal_errors_and_slack(decay):
    rule, recorder, (x, y) = DirectFeedbackAlignment(), Recorder(), task(12)
    network, initial = mlp([30], bias=False), {}

    class Start(ErrorBound):
        def prepare(self, trainer, module, batch):
            super().prepare(trainer, module, batch)
            initial.update({k: v.detach().numpy().copy() for k, v in module.learner.state_dict().items()})

    options = {"batches": [(x, y)], "criterion": "mse", "lr": 0.05, "sgd": {"weight_decay": decay}, "epochs": 6}
    fit(network, rule, [Start(), recorder], **options)
    W1, W2 = initial["network.1.weight"], initial["network.3.weight"]
    (F,) = (v for k, v in initial.items() if k.startswith("rule") and v.shape[0] == 3 and v.ndim == 2)
    X, Y, eta = x.flatten(1).numpy(), np.eye(3)[y.numpy()], 2 * 0.05 / 36
    errors, _ = literal.dfa_two_layers(X, Y, W1, W2, F.T, eta, 0.05 * decay, steps=7)
    norm, gamma = np.sqrt((Y**2).sum()), literal.gram_gamma(literal.relu(X @ W1.T))
    curves = recorder.curves.points
    assert [v for *_, v in curves["bound/error"]] == pytest.approx([e / norm for e in errors], rel=1e-9)
    limits = [literal.bound(e, norm, eta, gamma, 0.05 * decay) for e in errors[:-1]]
    slack = [(limit - after) / e for limit, e, after in zip(limits, errors, errors[1:], strict=False)]
    assert [v for *_, v in curves["bound/slack"]] == pytest.approx(slack, rel=1e-6, abs=1e-12)
    last = recorder.curves.last()
    assert last["bound/violated"] == pytest.approx(100 * np.mean(np.array(slack) < 0))
    assert last["bound/slack_min"] == pytest.approx(min(slack), rel=1e-6, abs=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"criterion": "cross_entropy", "batches": [task(12)]}, "criterion: mse"),
        ({"criterion": "mse"}, "full-batch steps"),
        ({"criterion": "mse", "batches": [task(12)], "sgd": {"momentum": 0.9}}, "without momentum"),
        ({"criterion": "mse", "batches": [task(12)], "layer_lr": {"3.*": 0.01}}, "one rate"),
        ({"criterion": "mse", "batches": [task(12)], "clip": 1.0}, "no clip"),
    ],
)
def test_a_run_that_the_bound_is_not_of_is_refused(options, message):
    with pytest.raises(MeasurementError, match=message):
        fit(mlp([6], nn.ReLU), Backprop(), [ErrorBound()], epochs=1, **options)


@pytest.mark.parametrize("observers", [[ErrorBound], [MinimumNorm], [ErrorBound, MinimumNorm]])
def test_observing_the_whole_training_set_changes_no_weight(observers):
    def weights(callbacks):
        torch.manual_seed(7)
        network = mlp([6], nn.Identity, bias=False)
        fit(network, DirectFeedbackAlignment(), callbacks, batches=[task(12)], criterion="mse", epochs=3)
        return network.state_dict() | {"random": torch.get_rng_state()}

    plain, observed = weights([]), weights([make() for make in observers])
    assert all(torch.equal(observed[name], tensor) for name, tensor in plain.items())


def test_augmented_images_are_refused():
    module = Classifier("mlp", image_shape=(1, 8, 8), criterion="mse", network_args={"hidden": [8]})
    with pytest.raises(MeasurementError, match="augment: none"):
        quiet(max_epochs=1, callbacks=[ErrorBound()]).fit(module, Digits(batch_size=1437, augment="jitter"))

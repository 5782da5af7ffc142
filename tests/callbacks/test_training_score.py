"""What a network has fitted: its own metrics on the data that it was trained on."""

import pytest
import torch

from lit_fa.callbacks import MeasurementError, Recorder, TrainingScore
from lit_fa.callbacks.training_score import first
from lit_fa.rules import FeedbackAlignment
from tests.callbacks.training import fit, norm_net, task


def test_the_score_is_the_accuracy_on_the_training_samples_in_evaluation_mode():
    recorder = Recorder()
    _, module = fit(norm_net(), FeedbackAlignment(), [TrainingScore(), recorder], epochs=2)
    x, y = task()
    with torch.no_grad():
        expected = 100 * (module.network.eval()(x).argmax(-1) == y).double().mean().item()
    *_, (_, _, last) = recorder.curves.points["fitted/accuracy"]
    assert last == pytest.approx(expected, abs=1e-5)
    assert len(recorder.curves.points["fitted/accuracy"]) == 3  # before the first step, and after both epochs


def test_the_score_is_taken_in_the_trainers_precision():
    network, kinds = norm_net(), []

    class Watched(TrainingScore):
        def observe(self, *args):
            with network[-1].register_forward_hook(lambda layer, inputs, output: kinds.append(output.dtype)):
                return super().observe(*args)

    fit(network, FeedbackAlignment(), [Watched()], epochs=1, double=False, precision="bf16-mixed")
    assert set(kinds) == {torch.bfloat16}


def test_no_more_samples_are_looked_at_than_asked_for():
    batches = [(torch.zeros(8, 2), torch.zeros(8))] * 3
    assert [len(x) for x, _ in first(batches, 11)] == [8, 3]
    assert [len(x) for x, _ in first(batches, 16)] == [8, 8]


def test_a_score_of_nothing_is_refused():
    with pytest.raises(MeasurementError, match="at least 1 sample, not 0"):
        TrainingScore(0)

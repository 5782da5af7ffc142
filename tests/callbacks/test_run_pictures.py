"""Goodness histograms and feedback images: of a run on real digits, and of measured numbers."""

import math

import lightning as L
import numpy as np
import pytest
import torch

from lit_fa import Classifier, plot_style
from lit_fa.callbacks import FeedbackImages, GoodnessHistogram, MeasurementError
from lit_fa.callbacks.feedback_images import matrices_of
from lit_fa.callbacks.feedback_images import plot as plot_matrices
from lit_fa.callbacks.goodness_histogram import goodness_of, plot, threshold_of
from lit_fa.callbacks.run_pictures import evenly
from lit_fa.datamodules import Digits
from lit_fa.layers.observing import observing
from lit_fa.rules import Backprop, DirectFeedbackAlignment, FeedbackAlignment, ForwardForward

PNG = b"\x89PNG"


def on_digits(rule, callback, epochs=1, hidden=(32, 24)):
    """A short run on real digits; returns the trained module and the data."""
    L.seed_everything(0, verbose=False)
    data = Digits(batch_size=64, val_size=0.2)
    module = Classifier(
        "mlp",
        rule,
        network_args={"hidden": list(hidden)},
        image_shape=data.image_shape,
        num_classes=data.num_classes,
        optimizer=lambda params: torch.optim.Adam(params, lr=3e-3),
    )
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, data)
    return trainer, module, data


@pytest.fixture
def saved(monkeypatch):
    kept = []

    def save(figure, part, ending):
        figure.canvas.draw()
        kept.append(figure)
        part.write_bytes(b"x")

    monkeypatch.setattr(plot_style, "save", save)
    return kept


def probe(data, samples=64):
    return next(iter(data.val_dataloader()))[0][:samples], next(iter(data.val_dataloader()))[1][:samples]


def test_a_run_of_forward_forward_on_digits_draws_its_goodness(tmp_path):
    callback = GoodnessHistogram(dirpath=str(tmp_path))
    trainer, module, data = on_digits(ForwardForward(), callback, epochs=3)
    assert callback.drawn == [tmp_path / "goodness.png"]
    assert callback.drawn[0].read_bytes()[:4] == PNG
    separated = callback.measure(module.learner, probe(data))
    assert len(separated) == 2
    assert all(key.startswith("goodness/separated/") for key in separated)
    assert next(iter(separated.values())) > 70  # chance is 50; the second block learns after the first
    assert set(separated) <= trainer.callback_metrics.keys()


def test_goodness_is_the_mean_square_that_the_loss_compares():
    _, module, data = on_digits(ForwardForward(), GoodnessHistogram(dirpath="unused"), epochs=0)
    learner, batch = module.learner, probe(data)
    pairs = goodness_of(learner, batch)
    first = learner.network.get_submodule(next(iter(pairs)))
    outputs = []
    handle = first.register_forward_hook(lambda *a: outputs.append(a[2]), prepend=True)  # before the tap
    with observing(learner.network), torch.no_grad():
        wrong = learner.rule.wrong_labels(*batch)
        hot = torch.nn.functional.one_hot(torch.stack([batch[1], wrong]), 10).float()
        learner.rule.taps.visit_all(lambda *_: None, lambda: learner.rule.labelled(learner.network, batch[0], hot))
    handle.remove()
    expected = outputs[0].square().mean(1)
    torch.testing.assert_close(torch.cat(pairs[next(iter(pairs))]), expected)


def test_histograms_have_both_labels_and_the_threshold(tmp_path, saved):
    pairs = {f"block {k}": (torch.linspace(2, 4, 50), torch.linspace(0, 2, 50)) for k in range(3)}
    plot(tmp_path / "goodness.png", pairs, "mean", 2.0, "one run")
    assert len(saved[0].axes) == 3
    (box,) = saved[0].legends
    labels = [text.get_text() for text in box.get_texts()]
    assert sorted(labels) == ["threshold", "true label (positive)", "wrong label (negative)"]
    assert saved[0].axes[0].get_xlabel() == "goodness, mean of the squared activations"
    counted = [patch.get_height() for patch in saved[0].axes[0].patches if hasattr(patch, "get_height")]
    assert sum(counted) == 100


def test_of_twenty_blocks_eight_are_drawn_and_said(tmp_path, saved):
    pairs = {f"block {k}": (torch.ones(4), torch.zeros(4)) for k in range(20)}
    plot(tmp_path / "goodness.png", pairs, "mean", None, "one run")
    assert len(saved[0].axes) == 8
    assert [saved[0].axes[k].get_title() for k in (0, -1)] == ["block 0", "block 19"]
    assert saved[0].legends[0].get_title().get_text() == "one run; 8 of 20 blocks"


@pytest.mark.parametrize(
    ("rule", "threshold"),
    [
        (ForwardForward(), 2.0),
        (ForwardForward(threshold=5.0, goodness="sum"), 5.0),
        (ForwardForward(goodness="sum"), None),
        (ForwardForward(loss="symba"), None),
    ],
)
def test_the_threshold_is_drawn_where_all_blocks_share_one(rule, threshold):
    assert threshold_of(rule) == threshold


@pytest.mark.parametrize("rule", [FeedbackAlignment(), Backprop()])
def test_a_rule_without_goodness_is_refused_before_training(rule):
    with pytest.raises(MeasurementError, match=f"{type(rule).__name__} has no goodness; remove it"):
        on_digits(rule, GoodnessHistogram())


@pytest.mark.parametrize("rule", [FeedbackAlignment(), DirectFeedbackAlignment()])
def test_a_run_on_digits_draws_feedback_beside_weights(tmp_path, saved, rule):
    callback = FeedbackImages(dirpath=str(tmp_path))
    _, module, data = on_digits(rule, callback)
    matrices = callback.measure(module.learner, probe(data))
    assert all(weight.shape == feedback.shape for weight, feedback in matrices.values())
    panels = [axes for axes in saved[0].axes if axes.get_label() != "<colorbar>"]
    titles = [axes.get_title() for axes in panels]
    assert len(titles) == 2 * len(matrices)
    assert [title.split(": ")[1][0] for title in titles] == ["W", "B"] * len(matrices)
    assert "degrees from W" in titles[1]


def test_images_show_the_matrices_themselves(tmp_path, saved):
    weight = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    plot_matrices(tmp_path / "feedback.png", {"layer": (weight, -weight)})
    images = [axes.images[0].get_array() for axes in saved[0].axes if axes.images]
    np.testing.assert_allclose(images[0], weight.double().numpy())
    np.testing.assert_allclose(images[1], -weight.double().numpy())
    low, high = saved[0].axes[0].images[0].get_clim()
    assert math.isclose(low, -high)
    assert [a.get_title() for a in saved[0].axes if a.images] == ["layer: W", "layer: B, 180 degrees from W"]


def test_of_a_large_matrix_the_first_units_are_drawn_and_said(tmp_path, saved):
    plot_matrices(tmp_path / "feedback.png", {"layer": (torch.ones(100, 784), torch.ones(100, 784))})
    axes = saved[0].axes[0]
    assert axes.images[0].get_array().shape == (64, 64)
    assert axes.get_xlabel() == "input, the first 64 of 784"
    assert axes.get_ylabel() == "output, the first 64 of 100"


def test_of_many_layers_four_are_drawn_and_said(tmp_path, saved):
    plot_matrices(tmp_path / "feedback.png", {f"{k}": (torch.ones(3, 3),) * 2 for k in range(9)}, "one run")
    assert len([axes for axes in saved[0].axes if axes.images]) == 8
    assert saved[0].get_supxlabel() == "one run; 4 of 9 layers"


def test_a_rule_without_feedback_is_refused_before_training():
    with pytest.raises(MeasurementError, match="Backprop has no backward matrix of a weight's shape here; remove it"):
        on_digits(Backprop(), FeedbackImages())


def test_layers_are_in_the_order_of_the_network():
    _, module, data = on_digits(FeedbackAlignment(), FeedbackImages(dirpath="unused"), epochs=0, hidden=(8,) * 12)
    order = [name for name, _ in module.learner.network.named_modules()]
    found = [*matrices_of(module.learner, probe(data))]
    assert found == sorted(found, key=order.index)
    assert len(found) == 12


def test_evenly_spaced_items_keep_both_ends():
    assert evenly([*range(50)], 4) == [0, 16, 33, 49]
    assert evenly([1, 2], 4) == [1, 2]


@pytest.mark.parametrize(
    ("rule", "callback"), [(FeedbackAlignment, FeedbackImages), (ForwardForward, GoodnessHistogram)]
)
def test_the_pictures_change_no_bit_of_a_run(tmp_path, rule, callback):
    def state(observer):
        _, module, _ = on_digits(rule(), observer)
        return {name: t.clone() for name, t in module.state_dict().items()} | {"random": torch.get_rng_state()}

    alone, observed = state(L.Callback()), state(callback(dirpath=str(tmp_path)))
    assert [key for key in alone if not torch.equal(alone[key], observed[key])] == []


def test_what_is_not_finite_is_counted_and_left_out(tmp_path, saved):
    odd = torch.tensor([math.nan, math.inf, 1.0, 2.0])
    plot(tmp_path / "goodness.png", {"block": (odd, torch.ones(4)), "lost": (odd[:2], odd[:2])}, "mean")
    assert [axes.get_title() for axes in saved[0].axes] == [
        *("block, 2 values not finite", "lost, 4 values not finite"),
    ]
    plot_matrices(tmp_path / "feedback.png", {"layer": (odd.view(2, 2), torch.full((2, 2), math.nan))})
    assert saved[1].axes[0].images[0].get_clim()[1] < 2.1
    assert saved[1].axes[1].images[0].get_clim() == (-1, 1)

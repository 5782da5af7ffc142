"""How a fresh run starts: the probe moves the head, nothing else, once."""

from functools import partial

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lit_fa.datamodules import Synthetic
from lit_fa.errors import UserError
from lit_fa.modules import Classifier, HeadProbe
from lit_fa.modules.warm_up import head_of
from lit_fa.rules import (
    Backprop,
    DirectFeedbackAlignment,
    FeedbackAlignment,
    FeedbackWeightMatching,
    ForwardForward,
    LearningRule,
    PredSim,
    SVDBackprop,
)

IMAGE, CLASSES = (1, 4, 4), 3
QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(16, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Dropout(0.5), nn.Linear(9, CLASSES)
    )  # fmt: skip


def classifier(rule: LearningRule | None = None, probe: HeadProbe | None = None, **options: object) -> Classifier:
    sgd = partial(torch.optim.SGD, lr=0.1)
    return Classifier(
        options.pop("network", None) or network(), rule, CLASSES, IMAGE, optimizer=sgd, probe=probe, **options
    )


def data(**options: object) -> Synthetic:
    shape = {"n_train": 48, "n_test": 20, "image_shape": IMAGE, "num_classes": CLASSES, "batch_size": 12}
    return Synthetic(**{**shape, "device": "cpu", **options})


def fit(module: Classifier, epochs: int = 0, source: object = None, **options: object) -> L.Trainer:
    options = {"max_epochs": epochs, "limit_val_batches": 0, "accelerator": "cpu", "devices": 1, **QUIET, **options}
    trainer = L.Trainer(**options)
    trainer.fit(module, source or data())
    return trainer


def moved(module: Classifier) -> set[str]:
    """Tensors of the network that are not those it was made with; of a rule that prepares nothing."""
    before = network().state_dict()
    return {
        name for name, t in module.network.state_dict().items() if name in before and not torch.equal(t, before[name])
    }


def batches(epochs: int) -> list[tuple]:
    source = data()
    source.setup()
    loader = source.train_dataloader()
    seen = []
    for epoch in range(epochs):
        loader.set_epoch(epoch)
        seen += [(x.clone(), y.clone()) for x, y in loader]
    return seen


def test_the_probe_is_logistic_regression_on_the_features_of_the_body():
    module = classifier(probe=HeadProbe(epochs=2, lr=0.03, optimizer="adamw", weight_decay=0.1))
    fit(module)
    body = network().eval()
    head = body[-1]
    optimizer = torch.optim.AdamW(head.parameters(), lr=0.03, weight_decay=0.1)
    for x, y in batches(2):
        h = body[:-1](x).detach()
        error = head(h).softmax(1).detach() - nn.functional.one_hot(y, CLASSES)
        head.weight.grad, head.bias.grad = error.t() @ h / len(y), error.mean(0)
        optimizer.step()
    for name, t in body.state_dict().items():
        assert torch.allclose(module.network.state_dict()[name], t, atol=1e-6)  # float32, another order of sums


def test_a_probe_that_keeps_features_sends_every_batch_through_the_body_once():
    fresh, kept = (classifier(probe=HeadProbe(epochs=4, lr=0.03, keep=keep)) for keep in (False, True))
    runs = []
    for module in (fresh, kept):
        module.network[1].register_forward_hook(lambda *_, seen=(count := []): seen.append(1))
        fit(module)
        runs.append(len(count))
    assert (runs[0] - runs[1]) == 3 * 4  # three more epochs of four batches
    assert moved(kept) == {"5.weight", "5.bias"}


def test_a_probe_that_keeps_features_repeats_the_first_epochs_batches_in_another_order():
    module = classifier(probe=HeadProbe(epochs=2, lr=0.03, keep=True, seed=3))
    fit(module)
    body = network().eval()
    head, first = body[-1], batches(1)
    torch.manual_seed(3)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.03)
    for x, y in first + [first[i] for i in torch.randperm(len(first))]:
        loss = nn.functional.cross_entropy(head(body[:-1](x).detach()), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for name, t in body.state_dict().items():
        assert torch.allclose(module.network.state_dict()[name], t, atol=1e-6)


RULES = {
    "backprop": Backprop,
    "fa": FeedbackAlignment,
    "kolen_pollack": partial(FeedbackAlignment, "kolen_pollack"),
    "dfa": DirectFeedbackAlignment,
    "predsim": PredSim,
}


@pytest.mark.parametrize("rule", RULES)
def test_under_any_rule_the_probe_moves_the_read_out_alone(rule: str):
    module = classifier(RULES[rule](), HeadProbe(lr=0.01))
    trainer = fit(module)
    assert moved(module) == {"5.weight", "5.bias"}
    assert trainer.global_step == 0
    assert module.network.training
    assert all(p.grad is None for p in module.parameters())


def test_the_read_out_of_factored_layers_is_probed_in_its_factors():
    module = classifier(SVDBackprop(), HeadProbe(lr=0.01))
    before = {name: t.clone() for name, t in module.network.state_dict().items()}
    fit(module)
    after = module.network.state_dict()
    assert {name for name in after if not torch.equal(after[name], before[name])} == {
        "5.U", "5.s", "5.V", "5.bias",
    }  # fmt: skip


def test_a_probe_learns_and_is_tested_without_a_step_of_the_rule():
    easy = data(noise=0.3)
    plain, probed = classifier(), classifier(probe=HeadProbe(epochs=20, lr=0.03))
    accuracies = []
    for module in (plain, probed):
        trainer = fit(module, 0, easy)
        accuracies.append(trainer.test(module, easy, verbose=False)[0]["test/accuracy"])
    assert accuracies[1] > accuracies[0] + 20


def test_a_run_goes_on_from_the_probe_as_if_nobody_had_drawn_a_number():
    def after(source: object, *, probe: HeadProbe | None) -> tuple:
        module, seen = classifier(probe=probe), []
        module.on_train_batch_start = lambda batch, index: seen.append(batch[0].clone())
        torch.manual_seed(3)
        fit(module, 2, source)
        return seen, torch.get_rng_state()

    def loader(**options: object) -> DataLoader:
        g = torch.Generator().manual_seed(5)
        images = TensorDataset(torch.randn(20, *IMAGE, generator=g), torch.arange(20) % CLASSES)
        return DataLoader(images, 5, shuffle=True, **options)

    for make in (data, loader, lambda: loader(generator=torch.Generator().manual_seed(6))):
        plain, state = after(make(), probe=None)
        probed, same = after(make(), probe=HeadProbe(epochs=2))
        assert all(torch.equal(x, z) for x, z in zip(plain, probed, strict=True))
        assert torch.equal(state, same)


def test_the_probe_depends_on_its_seed_and_not_on_the_global_one():
    def probed(seed: int, own: int) -> torch.Tensor:
        g = torch.Generator().manual_seed(5)
        images = TensorDataset(torch.randn(20, *IMAGE, generator=g), torch.arange(20) % CLASSES)
        module = classifier(probe=HeadProbe(lr=0.01, seed=own))
        torch.manual_seed(seed)
        fit(module, 0, DataLoader(images, 5, shuffle=True))
        return module.network[-1].weight

    assert torch.equal(probed(1, 0), probed(2, 0))
    assert not torch.equal(probed(1, 0), probed(1, 1))


def test_a_smoke_run_probes_on_as_few_batches_as_it_trains_on():
    few, whole = (
        classifier(probe=HeadProbe(optimizer="sgd", lr=0.1)),
        classifier(probe=HeadProbe(optimizer="sgd", lr=0.1)),
    )
    fit(few, limit_train_batches=2)
    half = data()
    fit(whole, 0, half, limit_train_batches=0.5)
    assert torch.equal(few.network[-1].weight, whole.network[-1].weight)
    fit(all_of_it := classifier(probe=HeadProbe(optimizer="sgd", lr=0.1)))
    assert not torch.equal(few.network[-1].weight, all_of_it.network[-1].weight)


def test_a_rule_prepares_after_the_probe():
    flat = nn.Sequential(nn.Flatten(), nn.Linear(16, 9), nn.ReLU(), nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, CLASSES))
    module = classifier(FeedbackWeightMatching("seq_ls"), HeadProbe(lr=0.01), network=flat)
    before = flat[-1].weight.detach().clone()
    fit(module)
    assert not torch.equal(flat[-1].weight, before)
    assert torch.equal([*module.rule.links.values()][-1], flat[-1].weight)


def test_what_cannot_be_probed_is_refused():
    with pytest.raises(UserError, match="optimizer is one of adam, adamw, sgd, not 'lion'"):
        HeadProbe(optimizer="lion")
    with pytest.raises(UserError, match="epochs >= 1, finite lr > 0"):
        HeadProbe(lr=0.0)
    squashed = nn.Sequential(nn.Flatten(), nn.Linear(16, CLASSES), nn.Tanh())
    with pytest.raises(UserError, match="no head to probe"):
        fit(classifier(probe=HeadProbe(), network=squashed))
    with pytest.raises(UserError, match="no head to probe"):
        fit(classifier(ForwardForward(head="none", predict_by="goodness"), HeadProbe()))
    frozen = network()
    frozen[-1].requires_grad_(False)
    with pytest.raises(UserError, match=r"5 is frozen"):
        fit(classifier(probe=HeadProbe(), network=frozen))


def test_the_read_out_is_found_by_what_it_puts_out():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.classify, self.embed = nn.Linear(9, CLASSES), nn.Linear(16, 9)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.classify(self.embed(x.flatten(1)).relu())

    assert head_of(classifier(network=Named()).learner, torch.zeros(2, *IMAGE)) == "network.classify"

"""Which parameters share a rate and a bound: trained feedback does what its weight does, local losses stay local."""

from functools import partial

import lightning as L
import pytest
import torch
from torch import nn

from lit_fa.datamodules import Synthetic
from lit_fa.errors import UserError
from lit_fa.layers import feedback_layers
from lit_fa.modules import Classifier
from lit_fa.modules.groups import clip_gradients
from lit_fa.rules import (
    AdaptiveFeedback,
    AugLocal,
    Backprop,
    DirectFeedbackAlignment,
    FeedbackAlignment,
    ForwardForward,
    KolenPollackFeedback,
    LearningRule,
    MonoForward,
    PredSim,
    SVDSpaceAlignment,
)

IMAGE, CLASSES, D = (1, 4, 4), 3, torch.float64
FOLLOWING = {
    "kolen_pollack": partial(FeedbackAlignment, KolenPollackFeedback()),
    "kolen_pollack_detour": partial(FeedbackAlignment, KolenPollackFeedback(), backend="detour"),
    "increment": partial(FeedbackAlignment, AdaptiveFeedback(reading="increment")),
}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(16, 10), nn.Tanh(), nn.Linear(10, 8), nn.Tanh(), nn.Linear(8, 7), nn.Tanh(),
        nn.Linear(7, CLASSES),
    ).to(D)  # fmt: skip


def classifier(rule: LearningRule, net: nn.Module | None = None, **options: object) -> Classifier:
    return Classifier(net or network(), rule, CLASSES, IMAGE, **options)


def fit(module: Classifier, epochs: int = 2) -> Classifier:
    data = Synthetic(
        n_train=40, n_test=6, image_shape=IMAGE, num_classes=CLASSES, batch_size=8, device="cpu", dtype="float64"
    )
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    L.Trainer(accelerator="cpu", max_epochs=epochs, limit_val_batches=0, precision="64-true", **quiet).fit(module, data)
    return module


def gaps(module: Classifier) -> dict[str, torch.Tensor]:
    return {n: (m.weight - m.feedback.weight).detach().clone() for n, m in feedback_layers(module.network).items()}


def clipped(rule: LearningRule, bound: float, net: nn.Module | None = None) -> tuple[Classifier, dict, dict]:
    """A classifier, and its gradients on one batch before and after clipping."""
    module = classifier(rule, net, clip=bound)
    optimizer = module.configure_optimizers()
    g = torch.Generator().manual_seed(1)
    batch = torch.randn(9, *IMAGE, generator=g, dtype=D), torch.randint(CLASSES, (9,), generator=g)
    module.learner(batch).value.backward()
    named = {n: p for n, p in module.learner.named_parameters() if p.grad is not None}
    before = {n: p.grad.clone() for n, p in named.items()}
    clip_gradients(module.learner, optimizer, bound, "norm", module.parts)
    return module, before, {n: p.grad for n, p in named.items()}


def norm(grads: list[torch.Tensor]) -> float:
    return torch.cat([g.flatten() for g in grads]).norm().item()


@pytest.mark.parametrize("name", FOLLOWING)
def test_trained_feedback_does_not_count_in_the_norm_of_the_gradient(name: str):
    _, before, after = clipped(FOLLOWING[name](), 0.01)
    own = [n for n in before if "feedback" not in n]
    assert norm([after[n] for n in own]) == pytest.approx(0.01, rel=1e-4)  # torch adds 1e-6 to the norm
    assert all(torch.equal(after[n], after[n.replace(".feedback", "")]) for n in before if "feedback" in n)


def test_feedback_equal_to_the_weight_is_clipped_as_backprop():
    bound, bp = 0.05, classifier(Backprop(), clip=0.05)
    kp = classifier(FOLLOWING["kolen_pollack"](), clip=bound)
    with torch.no_grad():
        for layer in feedback_layers(kp.network).values():
            layer.feedback.weight.copy_(layer.weight)
    fit(bp), fit(kp)
    for (name, p), (_, q) in zip(bp.network.named_parameters(), own_parameters(kp), strict=True):
        assert torch.allclose(p, q, rtol=0, atol=1e-14), name


def own_parameters(module: Classifier) -> list:
    return [(n, p) for n, p in module.network.named_parameters() if "feedback" not in n]


@pytest.mark.parametrize("name", FOLLOWING)
@pytest.mark.parametrize(
    "options",
    [
        {"layer_lr": {"3.weight": 0.9, "5.*": 0.01}},
        {"clip": 0.02},
        {"clip": 1e-3, "clip_by": "value"},
        {"accumulate": 3},
    ],
    ids=["rates", "norm", "value", "accumulate"],
)
def test_the_gap_between_weight_and_feedback_stays_whatever_is_done_to_the_weight(name: str, options: dict):
    module = classifier(FOLLOWING[name](), optimizer=partial(torch.optim.SGD, lr=0.1, momentum=0.9), **options)
    before = gaps(module)
    fit(module)
    assert all(torch.allclose(gap, before[n], rtol=0, atol=1e-13) for n, gap in gaps(module).items())


def test_with_decay_the_gap_closes_in_every_group():
    decay = partial(torch.optim.SGD, lr=0.5, weight_decay=0.5)
    module = classifier(FOLLOWING["kolen_pollack"](), optimizer=decay, layer_lr={"5.weight": 0.25})
    before = gaps(module)
    fit(module)
    for name, gap in gaps(module).items():
        rate = 0.25 if name == "5" else 0.5
        assert torch.allclose(gap, before[name] * (1 - rate * 0.5) ** 10, rtol=1e-9, atol=1e-14), name


def test_a_pattern_that_names_a_weight_takes_its_feedback_along():
    module = classifier(FOLLOWING["kolen_pollack"](), layer_lr={"5.weight": 0.5})
    rest, named = module.configure_optimizers().param_groups
    layer = module.network[5]
    assert {id(p) for p in named["params"]} == {id(layer.weight), id(layer.feedback.weight)}
    assert all(p is not layer.feedback.weight for p in rest["params"])


def test_a_pattern_that_names_feedback_alone_is_answered_with_the_weight():
    module = classifier(FOLLOWING["kolen_pollack"](), layer_lr={"5.feedback.weight": 0.5})
    with pytest.raises(UserError, match=r"layer_lr: no module matches '5\.feedback\.weight'; nearest: .*5\.weight"):
        module.configure_optimizers()


@pytest.mark.parametrize("name", FOLLOWING)
@pytest.mark.parametrize("when", ["before", "after"])
def test_the_feedback_of_a_frozen_weight_is_frozen(name: str, when: str):
    net = network()
    if when == "before":
        net[5].weight.requires_grad_(False)
    decay = partial(torch.optim.SGD, lr=0.1, weight_decay=0.1)
    module = classifier(FOLLOWING[name](uncovered="allow"), net, optimizer=decay)
    module.network[5].weight.requires_grad_(False)
    before = module.network[5].feedback.weight.detach().clone()
    moved = module.network[3].feedback.weight.detach().clone()
    fit(module, 1)
    assert torch.equal(module.network[5].feedback.weight, before)
    assert not torch.equal(module.network[3].feedback.weight, moved)


@pytest.mark.parametrize("name", FOLLOWING)
def test_a_weight_that_is_frozen_in_the_middle_hands_no_increment_to_its_feedback(name: str):
    module = classifier(FOLLOWING[name]())
    module.network[5].weight.requires_grad_(False)
    module.learner((torch.randn(4, *IMAGE, dtype=D), torch.arange(4) % CLASSES)).value.backward()
    assert module.network[5].feedback.weight.grad is None
    assert module.network[3].feedback.weight.grad is not None


LOCAL = {
    "forward_forward": (ForwardForward, [["1."], ["3."], ["5."], ["7."]]),
    "forward_forward_no_head": (partial(ForwardForward, head="none"), [["1."], ["3."], ["5."]]),
    "predsim": (PredSim, [["1.", "auxiliary.2"], ["3.", "auxiliary.4"], ["5.", "auxiliary.6"], ["7."]]),
    "auglocal": (AugLocal, [["1.", "auxiliary.2"], ["3.", "auxiliary.4"], ["5.", "7."]]),
    "mono_forward": (MonoForward, [["1.", "auxiliary.2"], ["3.", "auxiliary.4"], ["5.", "7."]]),
    "ssa": (partial(SVDSpaceAlignment, gamma=0.0, beta=0.0), [["1."], ["3."], ["5."], ["7."]]),
}


@pytest.mark.parametrize("name", LOCAL)
def test_every_block_with_a_loss_of_its_own_has_a_norm_of_its_own(name: str):
    make, blocks = LOCAL[name]
    bound = 1e-3
    _, before, after = clipped(make(), bound)
    seen = []
    for block in blocks:
        names = [
            n for n in after if n.startswith(tuple(f"network.{b}" for b in block) + tuple(f"rule.{b}" for b in block))
        ]
        factor = min(1.0, bound / (norm([before[n] for n in names]) + 1e-6))
        assert all(torch.allclose(after[n], before[n] * factor, rtol=1e-12, atol=0) for n in names)
        seen += names
    assert sorted(seen) == sorted(after)


@pytest.mark.parametrize(
    "make", [Backprop, FeedbackAlignment, DirectFeedbackAlignment, partial(SVDSpaceAlignment, "sequential")]
)
def test_elsewhere_one_norm_is_over_all_parameters(make):
    _, before, after = clipped(make(), 1e-3)
    factor = 1e-3 / (norm([*before.values()]) + 1e-6)
    assert all(torch.allclose(after[n], before[n] * factor, rtol=1e-12, atol=0) for n in before)

"""The executor of dense chains: its result is that of one client after another; what it refuses."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

from lit_fa.federated import FederatedAlgorithm, FedProx, LocalAdam, LocalOptimizer, LocalSGD, Moon
from lit_fa.federated._dense_chain import StackedExecutor
from lit_fa.federated.round_task import LocalTraining, RoundResult, RoundTask, trainable
from lit_fa.federated.sequential import SequentialExecutor
from lit_fa.rules import Backprop, DirectFeedbackAlignment, FeedbackAlignment, ForwardForward, LearningRule
from lit_fa.rules.learner import Learner
from tests.federated.federation import CLASSES, largest_difference, loader

INPUTS = 9
symba = partial(ForwardForward, loss="symba", head="none")


def deep(activation: nn.Module | None = None) -> nn.Module:
    """Three linear layers, the second without bias."""
    torch.manual_seed(0)
    first, second = (copy.deepcopy(activation or nn.ReLU()) for _ in range(2))
    layers = [nn.Linear(INPUTS, 8), first, nn.Linear(8, 7, bias=False), second, nn.Linear(7, CLASSES)]
    return nn.Sequential(nn.Flatten(), *layers).double()


def learner_of(net: nn.Module, rule: LearningRule, criterion="cross_entropy") -> Learner:
    return Learner(net, rule, torch.randn(2, INPUTS, dtype=torch.float64), criterion)


def task_of(learner: Learner, number: int = 0) -> RoundTask:
    """Four unequal clients in a shape of their own, (3, 3); last batches of a pass are not full."""
    batch = loader(inputs=INPUTS).round_of(number, [1, 2, 4, 5])
    object.__setattr__(batch, "images", batch.images.unflatten(1, (3, 3)))
    sizes = torch.tensor(batch.sizes, dtype=torch.float64)
    params = {name: p.detach().clone() for name, p in trainable(learner).items()}
    buffers = {name: b.clone() for name, b in learner.named_buffers()}
    share = sizes / sizes.sum()
    return RoundTask(batch, share, share, params, buffers, [{}] * 4, {}, lr=0.1)


def result_of(
    executor, learner: Learner, algorithm: FederatedAlgorithm | None = None, optimizer: LocalOptimizer | None = None
) -> RoundResult:
    local = LocalTraining(algorithm or FederatedAlgorithm(), optimizer or LocalSGD(0.1))
    return executor.run(learner, local, task_of(learner))


CASES = {
    "backprop": (Backprop, "cross_entropy", nn.ReLU()),
    "backprop_leaky_bce": (Backprop, "bce", nn.LeakyReLU(0.3)),
    "part_of_the_layers": (lambda: FeedbackAlignment(layers=["3"]), "cross_entropy", nn.Tanh()),
    "norm_matched_sign": (partial(FeedbackAlignment, "sign"), "mse", nn.LeakyReLU(0.1)),
    "detour": (lambda: FeedbackAlignment("snapshot", backend="detour"), "cross_entropy", nn.Identity()),
    "shared_direct": (lambda: DirectFeedbackAlignment(shape="shared"), "mse", nn.Tanh()),
    "target_mean": (lambda: DirectFeedbackAlignment("target"), "bce", nn.Tanh()),
    "target_sum": (lambda: DirectFeedbackAlignment("target", target_reduction="sum"), "bce", nn.Sigmoid()),
    "ff_two_labels": (symba, "cross_entropy", nn.ReLU()),
    "ff_head_mse": (partial(ForwardForward, negatives="hard", goodness="sum"), "mse", nn.LeakyReLU(0.2)),
    "ff_permuted_l2": (lambda: symba(negatives="permutation", normalise="l2"), "cross_entropy", nn.Tanh()),
    "ff_margin_plain": (lambda: ForwardForward(loss="margin", normalise="none", position=4), "bce", nn.Identity()),
}


@pytest.mark.parametrize("optimizer", [LocalSGD(0.1, weight_decay=0.2), LocalAdam(0.01)])
@pytest.mark.parametrize("case", CASES)
def test_every_result_is_that_of_one_client_after_another(case: str, optimizer: LocalOptimizer):
    make, criterion, activation = CASES[case]
    learner = learner_of(deep(activation), make(), criterion)
    one, side_by_side = (
        result_of(executor, learner, optimizer=optimizer) for executor in (SequentialExecutor(), StackedExecutor(3))
    )
    assert largest_difference(side_by_side.update, one.update) < 1e-13
    assert largest_difference(side_by_side.buffers | {"": 0}, one.buffers | {"": 0}) == 0
    assert (side_by_side.totals - one.totals).abs().max() < 1e-10
    assert one.totals[2] == 2 * sum(task_of(learner).round.sizes)


def test_weights_move_where_rules_say_and_the_learner_does_not():
    learner = learner_of(deep(), symba())
    before = {n: t.clone() for n, t in learner.state_dict().items()}
    task = task_of(learner)
    images = task.round.images.clone()
    StackedExecutor().run(learner, LocalTraining(FederatedAlgorithm(), LocalSGD(0.1)), task)
    assert largest_difference(learner.state_dict(), before) == 0
    assert torch.equal(task.round.images, images)  # where label entries are blanked for the step


def test_steps_straight_into_the_weights_are_those_of_gradients():
    learner = learner_of(deep(), ForwardForward())
    straight = result_of(StackedExecutor(), learner)
    by_gradients = result_of(StackedExecutor(), learner, FedProx(0.0))  # corrects by nothing, but corrects
    assert largest_difference(straight.update, by_gradients.update) < 1e-14


def test_running_twice_gives_the_same_bit_for_bit():
    learner = learner_of(deep(), ForwardForward(negatives="hard"))
    a, b = (result_of(StackedExecutor(2), learner) for _ in range(2))
    assert largest_difference(a.update, b.update) == 0


def test_client_batches_have_nearly_the_same_size():
    task = task_of(learner_of(deep(), Backprop()))
    sizes = [len(clients) for clients in StackedExecutor(3).batches(task)]
    assert sizes == [2, 2]


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(INPUTS, 8), nn.Linear(8, 8), nn.Linear(8, CLASSES)

    def forward(self, x):
        h = self.a(x)
        return self.head(h + self.b(h))


def tied() -> nn.Module:
    net = nn.Sequential(nn.Linear(INPUTS, INPUTS), nn.ReLU(), nn.Linear(INPUTS, INPUTS), nn.Linear(INPUTS, CLASSES))
    net[2].weight = net[0].weight
    return net.double()


def asleep() -> nn.Module:
    return nn.Sequential(nn.Linear(INPUTS, 8), nn.Dropout(0.5), nn.Linear(8, CLASSES)).double().eval()


def ending(module: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(INPUTS, 8), nn.Tanh(), nn.Linear(8, CLASSES), module).double()


def twice() -> nn.Module:
    same = nn.Linear(INPUTS, INPUTS)
    return nn.Sequential(same, nn.ReLU(), same, nn.Linear(INPUTS, CLASSES)).double()


REFUSED = {
    "a skip": (lambda: learner_of(Residual().double(), Backprop()), "more than a chain"),
    "tied weights": (lambda: learner_of(tied(), Backprop()), "share a weight"),
    "a layer that runs twice": (lambda: learner_of(twice(), Backprop()), "share a weight"),
    "dropout in evaluation": (lambda: learner_of(asleep(), Backprop()), "1 draws random numbers"),
    "a last activation": (lambda: learner_of(ending(nn.Tanh()), Backprop()), "follows the last linear layer"),
    "a softplus": (lambda: learner_of(deep(nn.Softplus()), Backprop()), "Softplus, which has no explicit derivative"),
    "a norm": (lambda: learner_of(ending(nn.LayerNorm(CLASSES)), Backprop()), "LayerNorm"),
    "a cut before phi": (lambda: learner_of(deep(), DirectFeedbackAlignment(blocks=["1", "3"])), "every hidden layer"),
    "one block of two": (lambda: learner_of(deep(), symba(blocks=["4"])), "not one hidden layer"),
    "peers": (lambda: learner_of(deep(), symba(peer=0.1)), "peer"),
    "one by one": (lambda: learner_of(deep(), symba(schedule="greedy")), "greedy"),
    "channels": (lambda: learner_of(deep(), symba(label="channels")), "label.weight is trained"),
    "trained feedback": (
        lambda: learner_of(deep(), FeedbackAlignment("kolen_pollack")),
        "changes while a client trains",
    ),
    "a mixture": (lambda: learner_of(deep(), FeedbackAlignment("adaptive")), "changes while a client trains"),
    "another loss": (lambda: learner_of(deep(), Backprop(), nn.functional.multi_margin_loss), "criterion"),
    "half": (lambda: learner_of(deep(), Backprop()).bfloat16(), "bfloat16"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_explicit_gradient_is_refused_by_name(case: str):
    make, reason = REFUSED[case]
    found = StackedExecutor().refusal(make(), LocalTraining(FederatedAlgorithm(), LocalSGD()))
    assert reason in (found or "nothing")


@pytest.mark.parametrize(
    ("local", "reason"),
    [
        (LocalTraining(Moon(), LocalSGD()), "Moon adds a penalty"),
        (LocalTraining(FederatedAlgorithm(), LocalSGD(), stream=True), "stream"),
    ],
)
def test_training_that_needs_autograd_is_refused(local: LocalTraining, reason: str):
    assert reason in StackedExecutor().refusal(learner_of(deep(), Backprop()), local)


def test_mixed_precision_is_refused():
    with torch.autocast("cpu", torch.bfloat16):
        found = StackedExecutor().refusal(
            learner_of(deep(), Backprop()), LocalTraining(FederatedAlgorithm(), LocalSGD())
        )
    assert "mixed precision" in found

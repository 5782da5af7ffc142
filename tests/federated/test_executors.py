"""Three executors, one contract: the same weights from all, for every rule, algorithm and local optimiser they take."""

from functools import cache, partial

import pytest
import torch
from torch import nn

from lit_fa.datamodules.rounds import LocalWork
from lit_fa.errors import UserError
from lit_fa.federated import FedDecorr, FedDyn, FedNova, FedProx, LocalAdam, LocalSGD, Moon, Scaffold
from lit_fa.federated.executors import executor_named
from lit_fa.federated.round_task import client_seed
from lit_fa.modules import FederatedClassifier, Learner
from lit_fa.rules import FLFA, FeedbackAlignment, ForwardForward, Progress
from tests import cases
from tests.federated.federation import CLASSES, largest_difference, loader, network, quiet, trained, weights

# rules and options that a federation adds to the list of all rules
MORE = {
    "flfa_highest": lambda: FLFA("highest:1"),
    "flfa_lowest": lambda: FLFA("lowest:1", reselect_every=1),
    "flfa_random": lambda: FLFA(None, feedback="random"),
    "flfa_redrawn": lambda: FLFA(None, feedback="redrawn", rescale="matrix"),
    "ff_threshold_permuted_l2": lambda: ForwardForward(negatives="permutation", normalise="l2", threshold=0.3),
    "ff_margin_hard_sum": lambda: ForwardForward(loss="margin", negatives="hard", goodness="sum", threshold=1.0),
    "ff_moved_label": lambda: ForwardForward(loss="symba", head="none", position=2, strength=2.0, normalise="none"),
}
RULES = {name: make for name, (make, _) in cases.RULES.items()} | MORE
ALGORITHMS = {
    "prox": FedProx(0.3),
    "nova": FedNova(),
    "scaffold": Scaffold(),
    "dyn": FedDyn(0.2),
    "moon": Moon(1.0),
    "decorr": FedDecorr(0.1),
}
OPTIMIZERS = {
    "sgd": LocalSGD(0.2),
    "decayed": LocalSGD(0.2, weight_decay=0.1),
    "nesterov": LocalSGD(0.1, momentum=0.9, weight_decay=0.01, nesterov=True),
    "adam": LocalAdam(0.01, weight_decay=0.01),
}


def deep(activation: type = nn.ReLU, inputs: int = 8) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Linear(inputs, 9), activation(), nn.Linear(9, 7, bias=False), activation(), nn.Linear(7, CLASSES)]
    return nn.Sequential(*layers).double()


def result(executor: str, **options) -> dict:
    """Weights, and the buffers that the rounds have changed."""
    net = deep(options.pop("activation", nn.ReLU))
    module = trained(executor=executor, net=net, inputs=8, **{"rounds": 2, **options})
    return weights(module) | {n: b.clone() for n, b in module.learner.named_buffers()}


@pytest.mark.parametrize("rule", [*cases.rules("vmapped_clients", distinct=True, thin=True), *MORE])
def test_vmap_gives_what_one_client_after_another_gives(rule: str):
    options = {"local_optimizer": LocalSGD(0.2), "rounds": 2 if rule in MORE else 1}
    expected = result("sequential", rule=RULES[rule](), **options)
    assert largest_difference(result("vmap", rule=RULES[rule](), **options), expected) < 1e-13


def test_rules_say_which_buffers_they_evolve():
    for name, make in RULES.items():
        learner = Learner(deep(), make(), torch.randn(2, 8, dtype=torch.float64))
        params, buffers = dict(learner.named_parameters()), dict(learner.named_buffers())
        with torch.no_grad():
            _, evolved = learner.evolved(params, buffers, Progress(0, total_epochs=1))
        assert evolved.keys() <= {*learner.evolving()} <= buffers.keys(), name
        assert len(evolved) == len(learner.evolving()) or "pruned" in name, name


@pytest.mark.parametrize("rule", [*cases.rules("written_out", distinct=True, thin=True), *MORE])
def test_the_explicit_rule_gives_what_autograd_gives(rule: str):
    assert_written_out(rule, nn.ReLU)


@pytest.mark.parametrize("activation", [nn.Tanh, nn.Sigmoid])
@pytest.mark.parametrize("rule", ["backprop", "fa_detour", "sign_usf", "snapshot_row", "dfa_dense", *MORE])
def test_the_explicit_rule_gives_what_autograd_gives_behind_other_activations(rule: str, activation: type):
    assert_written_out(rule, activation)


def assert_written_out(rule: str, activation: type) -> None:
    options = {"local_optimizer": LocalSGD(0.2, weight_decay=0.01), "activation": activation}
    expected = result("sequential", rule=RULES[rule](), **options)
    assert largest_difference(result("stacked", rule=RULES[rule](), **options), expected) < 1e-13


@pytest.mark.parametrize("criterion", ["mse", "bce"])
def test_the_explicit_errors_of_other_criteria_are_autograds(criterion: str):
    a, b = (result(executor, criterion=criterion) for executor in ("sequential", "stacked"))
    assert largest_difference(a, b) < 1e-13


PLAIN_ONLY = {"scaffold": ("sgd", "decayed"), "nova": ("sgd", "decayed")}
TRIPLES = [
    (algorithm, optimizer, executor)
    for algorithm in ALGORITHMS
    for optimizer in PLAIN_ONLY.get(algorithm, OPTIMIZERS)
    for executor in (("vmap",) if ALGORITHMS[algorithm].wants_features else ("vmap", "stacked"))
]


@pytest.mark.parametrize(("algorithm", "optimizer", "executor"), TRIPLES)
def test_executors_agree_under_every_algorithm_and_optimiser(algorithm: str, optimizer: str, executor: str):
    options = {"algorithm": ALGORITHMS[algorithm], "local_optimizer": OPTIMIZERS[optimizer]}
    expected = result("sequential", **options)
    found = result(executor, **options)
    assert largest_difference(found, expected) < 1e-12


@pytest.mark.parametrize("executor", ["sequential", "vmap", "stacked"])
@pytest.mark.parametrize("lanes", [1, 2, 3])
def test_the_number_of_lanes_changes_nothing(lanes: int, executor: str):
    assert largest_difference(weights_with(executor, lanes), weights_with(executor, None)) < 1e-13


@cache
def weights_with(executor: str, lanes: int | None) -> dict:
    rule = ForwardForward(head="none", loss="symba")
    return weights(trained(rule=rule, net=deep(), inputs=8, executor=executor, lanes=lanes))


@pytest.mark.parametrize("executor", ["vmap", "stacked"])
def test_loss_and_accuracy_are_those_of_one_client_after_another(executor: str):
    def measured(name: str) -> dict:
        module = FederatedClassifier(deep(), ForwardForward(), executor=name, num_classes=CLASSES, image_shape=(8,))
        trainer = quiet(max_epochs=1)
        trainer.fit(module, loader(2, inputs=8))
        return {key: float(value) for key, value in trainer.callback_metrics.items()}

    assert measured(executor) == pytest.approx(measured("sequential"), abs=1e-5)  # logged in float32


def test_batch_norm_is_averaged_by_samples_and_the_same_side_by_side():
    def net() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, CLASSES)).double()

    full = LocalWork(8, 2, drop_last=True)  # one row has no deviation
    a, b = (trained(executor=executor, net=net(), work=full) for executor in ("sequential", "vmap"))
    assert not torch.equal(a.network[1].running_mean, net()[1].running_mean)
    for name, buffer in a.learner.named_buffers():
        assert (buffer - b.learner.get_buffer(name)).abs().max() < 1e-13, name
    assert largest_difference(weights(a), weights(b)) < 1e-13


def test_dropout_depends_on_seed_round_and_client_alone():
    def net() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 20), nn.ReLU(), nn.Dropout(0.5), nn.Linear(20, CLASSES)).double()

    def result() -> dict:
        torch.rand(torch.randint(50, ()))  # the global random state stands elsewhere
        return weights(trained(net=net()))

    assert largest_difference(result(), result()) == 0
    assert client_seed(0, 3, 5) != client_seed(0, 5, 3)


@pytest.mark.parametrize(
    ("executor", "make", "reason"),
    [
        ("vmap", lambda: nn.Sequential(nn.Linear(5, 6), nn.Dropout(0.1), nn.Linear(6, 4)), "random numbers"),
        ("stacked", lambda: nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Linear(6, 4)), "BatchNorm1d"),
        ("stacked", lambda: nn.Sequential(nn.Linear(5, 6), nn.GELU(), nn.Linear(6, 4)), "GELU"),
    ],
)
def test_an_executor_that_cannot_says_why(executor: str, make, reason: str):
    with pytest.raises(UserError, match=f"executor {executor}: .*{reason}.*executor: sequential or auto"):
        trained(executor=executor, net=make().double())


def test_unknown_executors_are_refused():
    for make in (partial(executor_named, "ray"), partial(trained, executor="ray")):
        with pytest.raises(UserError, match="executor is one of"):
            make()


def test_auto_takes_one_that_can_and_says_which():
    plain = trained(executor="auto", rounds=1)
    assert plain.executed_by["executor"] in plain.executed_by["seconds"]
    assert {*plain.executed_by["seconds"]} == {"sequential", "vmap", "stacked"}
    only = trained(
        executor="auto", rounds=1, net=nn.Sequential(nn.Linear(5, 6), nn.Dropout(0.2), nn.Linear(6, 4)).double()
    )
    assert only.executed_by["executor"] == "sequential"
    assert {*only.executed_by["refused"]} == {"vmap", "stacked"}


def test_trying_executors_changes_nothing():
    auto = trained(executor="auto", rounds=2)
    named = trained(executor=auto.executed_by["executor"], rounds=2)
    assert largest_difference(weights(auto), weights(named)) == 0


def test_clients_that_stream_hand_back_the_same():
    rule = partial(ForwardForward, head="none", loss="symba")
    a, b = (trained(rule=rule(), net=deep(), inputs=8, stream=stream) for stream in (True, False))
    assert largest_difference(weights(a), weights(b)) < 1e-14


def test_snapshot_feedback_is_backprop_while_a_client_takes_one_step():
    one = LocalWork(8, steps=1)
    a, b = (trained(rule=rule, work=one) for rule in (FeedbackAlignment("snapshot"), None))
    feedback = {n: t for n, t in weights(a).items() if "feedback" not in n}
    assert largest_difference(feedback, weights(b)) < 1e-13


def test_fixed_feedback_stays_bit_for_bit_what_was_drawn():
    module = FederatedClassifier(network(), FeedbackAlignment(), num_classes=CLASSES, image_shape=(5,), executor="vmap")
    before = {n: b.clone() for n, b in module.learner.named_buffers()}
    quiet(max_epochs=1).fit(module, loader(3))
    assert before
    assert all(torch.equal(b, before[n]) for n, b in module.learner.named_buffers())


class Summed(nn.Module):
    """Adds two parameters to each other, so that autograd hands both the same gradient tensor."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.ones(CLASSES)), nn.Parameter(torch.zeros(CLASSES))
        self.layer = nn.Linear(5, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) + (self.a + self.b)


def test_parameters_that_share_a_gradient_are_corrected_once():
    def result(executor: str) -> dict:
        torch.manual_seed(0)
        return weights(trained(FedProx(0.3), LocalSGD(0.2), executor=executor, net=Summed().double()))

    assert largest_difference(result("vmap"), result("sequential")) < 1e-13

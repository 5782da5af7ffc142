"""What a round costs is measured without changing it."""

import torch
from torch import nn

from lit_fa.callbacks import RoundCost
from lit_fa.callbacks.live_bytes import step_bytes
from lit_fa.modules import FederatedClassifier
from lit_fa.rules import Backprop, ForwardForward
from lit_fa.rules.learner import Learner
from tests.federated.federation import CLASSES, largest_difference, loader, network, quiet, weights


def trained(*callbacks: RoundCost) -> tuple[FederatedClassifier, dict]:
    module = FederatedClassifier(network(), Backprop(), num_classes=CLASSES, image_shape=(5,), executor="sequential")
    trainer = quiet(max_epochs=1, callbacks=list(callbacks), log_every_n_steps=1)
    trainer.fit(module, loader(2))
    return module, {name: float(value) for name, value in trainer.callback_metrics.items()}


def test_costs_are_logged_and_change_no_weight():
    (measured, logged), (plain, _) = trained(RoundCost()), trained()
    assert largest_difference(weights(measured), weights(plain)) == 0
    assert {"cost/round_s", "cost/round_cpu_s", "cost/local_epoch_s", "cost/step_bytes"} <= logged.keys()
    # two passes a round: an epoch costs half of it
    assert abs(logged["cost/local_epoch_s"] - logged["cost/round_cpu_s"] / 2) < 0.05 * logged["cost/round_cpu_s"]


def bytes_of(rule: type, depth: int, *, stream: bool) -> int:
    torch.manual_seed(0)
    hidden = [nn.Sequential(nn.Linear(64, 64), nn.ReLU()) for _ in range(depth)]
    learner = Learner(nn.Sequential(*hidden, nn.Linear(64, 10)), rule(), torch.zeros(2, 64))
    batch = torch.randn(2048, 64), torch.randint(10, (2048,))
    return step_bytes(learner, batch, stream=stream)


def test_the_memory_of_a_backprop_step_grows_with_depth_and_that_of_a_streamed_forward_forward_step_does_not():
    ff = [bytes_of(lambda: ForwardForward(head="none"), depth, stream=True) for depth in (4, 16)]
    bp = [bytes_of(Backprop, depth, stream=False) for depth in (4, 16)]
    # twelve further layers: their gradients, and less than one layer's activations
    assert ff[1] - ff[0] < 2 * 2048 * 64 * 4
    assert bp[1] - bp[0] >= 12 * 2048 * 64 * 4

"""The start of a fresh run: train the head probe, then let the rule prepare; a resumed run repeats neither."""

import logging
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torch import distributed as dist

from lit_fa.errors import UserError, check_literals
from lit_fa.layers.observing import observing, recording
from lit_fa.layers.taps import LEARNS
from lit_fa.lightning_privates import training_loader
from lit_fa.modules.shares import mean_over_ranks, own_samples
from lit_fa.rules.base import Batch, Does
from lit_fa.rules.learner import Learner

log = logging.getLogger(__name__)
OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
Epoch = Callable[[int], Iterable[Batch]]


@dataclass(frozen=True)
class HeadProbe:
    """Train only the head, on the training batches, with all other layers frozen.

    The gradient of the head is the error at the logits times the features (the delta rule). It is exact under every
    rule of this package, and no error is propagated further back. The body is in evaluation mode: without dropout, and
    with unchanged BatchNorm statistics. Its forward pass runs once an epoch, or only once if the features are kept.

    A fit with ``trainer.max_epochs: 0`` trains the probe and takes no step of the rule; `test` then measures the probe.

    Args:
        epochs: passes over the training data.
        lr: learning rate.
        optimizer: `adam`, `adamw` or `sgd`; used only for the probe.
        weight_decay: of the optimiser.
        seed: of the global random states during the probe (the order of a plain loader or of kept batches).
        keep: keep the features of the first epoch, for all samples, and repeat its batches in a new order every epoch.
            The body then runs once instead of `epochs` times, and augmentations are drawn only once.

    Raises:
        UserError: a value out of its range.

    >>> from lit_fa.rules import Backprop
    >>> network = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
    >>> learner = Learner(network, Backprop(), torch.zeros(2, 4))
    >>> HeadProbe().train(learner, lambda epoch: [(torch.ones(2, 4), torch.tensor([0, 1]))])
    'network.1'
    """

    epochs: int = 1
    lr: float = 1e-3
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    weight_decay: float = 0.0
    seed: int = 0
    keep: bool = False

    def __post_init__(self) -> None:
        check_literals(type(self), vars(self))
        valid = self.epochs >= 1 and 0 < self.lr < math.inf and 0 <= self.weight_decay < math.inf
        if not valid or not 0 <= self.seed < 2**63:
            raise UserError(
                f"a probe needs epochs >= 1, finite lr > 0 and weight_decay >= 0, and seed >= 0, not {self}"
            )

    def train(
        self, learner: Learner, batches: Epoch, mean: Callable[[Tensor, int], Tensor] = lambda grad, samples: grad
    ) -> str:
        """Train the head; returns its name.

        Args:
            learner: on its device.
            batches: from the number of an epoch to its batches.
            mean: from a gradient and its number of samples to the mean over the samples of all ranks.

        Raises:
            UserError: the head is frozen.
        """
        name = head_of(learner, next(iter(batches(0)))[0])
        layer = learner.get_submodule(name)
        params = [p for p in layer.parameters() if p.requires_grad]
        if not params:
            raise UserError(f"the probe trains the head, and {name} is frozen")
        optimizer = OPTIMIZERS[self.optimizer](params, lr=self.lr, weight_decay=self.weight_decay)
        with observing(learner):
            learner.eval()
            featured = self._featured(learner, name, batches)
            for epoch in range(self.epochs):
                for features, targets in featured(epoch):
                    loss = learner.criterion(layer(features), targets) if len(targets) else layer(features).sum()
                    grads = torch.autograd.grad(
                        loss, params, allow_unused=True
                    )  # trained feedback of the head is unused
                    for p, grad in zip(params, grads, strict=True):
                        p.grad = None if grad is None else mean(grad, len(targets))
                    optimizer.step()
        log.info("probed %s: %d epochs of %s, last loss %.4g", name, self.epochs, self.optimizer, loss.item())
        return name

    def _featured(self, learner: Learner, name: str, batches: Epoch) -> Epoch:
        def through_the_body(epoch: int) -> Iterator[Batch]:
            return ((_features(learner, name, inputs), targets) for inputs, targets in batches(epoch))

        if not self.keep:
            return through_the_body
        stored = [
            (features.clone(), targets.clone()) for features, targets in through_the_body(0)
        ]  # the loader may reuse their memory
        return lambda epoch: (stored[i] for i in (torch.randperm(len(stored)) if epoch else range(len(stored))))


def head_of(learner: Learner, inputs: Tensor) -> str:
    """The layer whose output is the logits."""
    layers = [name for name, m in learner.named_modules() if isinstance(m, LEARNS)]
    with observing(learner), torch.no_grad(), recording(learner, layers) as recorded:
        logits = learner.eval().predict(inputs)
    heads = [call.name for call in recorded if call.output is logits]
    if not heads:
        raise UserError("there is no head to probe: the logits are not the output of a linear layer")
    return heads[-1]


def start(learner: Learner, probe: HeadProbe | None, trainer: L.Trainer) -> dict[str, float]:
    """Train the probe, let the rule prepare, and copy the result to all ranks; returns the figures of the rule.

    The global random state is not changed.
    """
    if probe is None and Does.PREPARES not in learner.rule.does:
        return {}

    def averaged(grad: Tensor, samples: int) -> Tensor:
        share = samples / mean_over_ranks(samples, trainer, grad.device)
        return trainer.strategy.reduce((grad * share).to(grad.dtype), reduce_op="mean")

    with isolate_rng(include_cuda=torch.cuda.is_available()):
        if probe is not None:
            torch.manual_seed(probe.seed)
            with training_batches(trainer) as batches:
                probe.train(learner, batches, averaged)
        with training_batches(trainer, whole=True) as batches:
            figures = learner.prepare(_FirstEpoch(batches))
    if dist.is_available() and dist.is_initialized():
        for tensor in learner.state_dict().values():
            dist.broadcast(tensor, 0)
    return trainer.strategy.broadcast(figures)


@dataclass(frozen=True)
class _FirstEpoch:
    """The batches of the first epoch, in every iteration."""

    batches: Epoch

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches(0))


@contextmanager
def training_batches(trainer: L.Trainer, *, whole: bool = False) -> Iterator[Epoch]:
    """From the number of an epoch to its batches, on the device; the state of the loader is restored afterwards.

    whole: all samples of each batch on every rank, instead of the rank's share, if the loader supports it.
    """
    loader = training_loader(trainer)
    loader = loader.whole() if whole and hasattr(loader, "whole") else loader
    state = loader.state_dict() if hasattr(loader, "state_dict") else None
    generator = getattr(loader, "generator", None)
    drawn = None if generator is None else generator.get_state()

    def epoch(number: int) -> Iterator[Batch]:
        if hasattr(getattr(loader, "sampler", None), "set_epoch"):
            loader.sampler.set_epoch(number)
        for idx, batch in enumerate(islice(loader, batches_an_epoch(trainer, loader))):
            inputs, targets = trainer.strategy.batch_to_device(trainer.precision_plugin.convert_input(batch))[:2]
            own = own_samples(loader, idx, len(targets))
            yield inputs[:own], targets[:own]

    try:
        yield epoch
    finally:
        if state is not None:
            loader.load_state_dict(state)
        if generator is not None:
            generator.set_state(drawn)


def batches_an_epoch(trainer: L.Trainer, loader: Any) -> int | None:
    """Number of batches of an epoch under `limit_train_batches`; None: all."""
    limit = trainer.limit_train_batches
    if isinstance(limit, int):
        return limit
    return None if limit == 1.0 else int(len(loader) * limit)


def _features(learner: Learner, name: str, inputs: Tensor) -> Tensor:
    with torch.no_grad(), recording(learner, [name]) as seen:
        learner.predict(inputs)
    return seen[-1].inputs[0].detach()

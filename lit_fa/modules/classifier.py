"""The only centralised training step in the project: the same for every rule."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from fnmatch import fnmatchcase

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from lit_fa.errors import UserError
from lit_fa.layers.taps import match
from lit_fa.modules.evaluated import EvaluatedClassifier
from lit_fa.modules.finite import NonFiniteLossError, first_non_finite
from lit_fa.modules.learner import Learner
from lit_fa.modules.resume import random_states, take_up
from lit_fa.modules.start import Epoch, HeadProbe, start, training_batches
from lit_fa.networks import Adapters, create_network, example_input, load_weights
from lit_fa.rules.backprop import Backprop
from lit_fa.rules.base import Batch, LearningRule, Progress, Surrogate


def plain_sgd(params: Iterable) -> torch.optim.Optimizer:
    """SGD with learning rate 0.1 and nothing else: the default, under which the conservation laws hold."""
    return torch.optim.SGD(params, lr=0.1)


class Classifier(EvaluatedClassifier):
    """A network that learns to classify by a rule, under manual optimisation with one optimiser.

    Lightning refuses clipping and accumulation in the Trainer under manual optimisation, so both are arguments here.

    Args:
        network: a timm name (ours are registered there too), ``transformers/<name or folder>``, or a module.
        rule: the learning rule; None is backprop.
        num_classes: c.
        image_shape: (channels, height, width) of the inputs; (3, length) of texts.
        criterion: `cross_entropy`, `mse` or `bce`.
        optimizer: from parameter groups to an optimiser; any torch class in YAML.
        scheduler: from an optimiser to a learning-rate schedule, or None.
        scheduler_interval: `epoch` or `step`.
        layer_lr: learning rates of their own for parameters by name or pattern (``blocks.0.*``: 0.01).
        network_args: further arguments of the network.
        pretrained: load the network's weights.
        weights: file to load weights from; see `networks.load_weights`.
        adapter: config of peft: the rule trains adapters and the read-out alone; see `networks.Adapters`.
        clip: bound on the gradient, or None.
        clip_by: `norm` or `value`.
        accumulate: batches per optimiser step.
        stream: free each block's activations before the next block runs (rules with cuts, one device).
        compile: compile the learner.
        probe: train the read-out alone before the first step of a fresh run, or None. See `HeadProbe`.
        metrics: on held-out data, by name: accuracy, f1, matthews, top5 for classes; pearson, spearman where
            num_classes is 1, which is a number to predict. The progress bar shows the first. None: accuracy, or
            pearson.

    Raises:
        UserError: unknown network, criterion or metric, a rule that does not reach a weight, numbers out of range.
    """

    def __init__(
        self,
        network: str | nn.Module,
        rule: LearningRule | None = None,
        num_classes: int = 10,
        image_shape: tuple[int, ...] = (1, 28, 28),
        criterion: str = "cross_entropy",
        optimizer: OptimizerCallable = plain_sgd,
        scheduler: LRSchedulerCallable | None = None,
        scheduler_interval: str = "epoch",
        layer_lr: dict[str, float] | None = None,
        network_args: dict | None = None,
        pretrained: bool = False,
        weights: str | None = None,
        adapter: dict | None = None,
        clip: float | None = None,
        clip_by: str = "norm",
        accumulate: int = 1,
        stream: bool = False,
        compile: bool = False,
        probe: HeadProbe | None = None,
        metrics: list[str] | None = None,
    ):
        """Build the network and install the rule."""
        super().__init__()
        _check(accumulate, clip, clip_by, scheduler_interval)
        if num_classes == 1 and criterion in ("cross_entropy", "bce"):
            raise UserError(f"one output is a number to predict, and {criterion} is for classes: set criterion: mse")
        self.num_classes = num_classes
        self.measure(num_classes, metrics)
        self.automatic_optimization = False
        if isinstance(network, str):
            network = create_network(network, num_classes, tuple(image_shape), pretrained, **(network_args or {}))
        if weights is not None:
            load_weights(network, weights)
        self.adapters = None if adapter is None else Adapters(network, adapter)
        rule = Backprop() if rule is None else rule
        if stream and not rule.streams:
            raise UserError(f"{type(rule).__name__} has no cuts to stream; use stream: false")
        if rule.compares:
            raise UserError(f"{type(rule).__name__} chooses layers by comparing clients: name them, or federate")
        self.learner = Learner(network, rule, example_input(network, tuple(image_shape)), criterion)
        if compile:
            self.learner.compile()
        self.make_optimizer, self.make_scheduler = optimizer, scheduler
        self.scheduler_interval, self.layer_lr = scheduler_interval, layer_lr or {}
        self.clip, self.clip_by, self.accumulate, self.stream = clip, clip_by, accumulate, stream
        self.probe = probe
        self.prepared: dict[str, float] | None = None  # what preparing the run has found; None before
        self.totals = torch.zeros(3, dtype=torch.float64)  # of this epoch: loss, correct, seen

    def on_fit_start(self) -> None:
        """Before a fresh run, also one of no steps: probe the read-out, then let the rule prepare."""
        if self.prepared is None:
            self.prepared = start(self.learner, self.probe, self.trainer)

    def on_train_start(self) -> None:
        """Log what preparing has found; a resumed run logs it again, for its metrics start empty."""
        self.log_dict(self.prepared)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Surrogate, backward, edits, clip, step, after_step, schedule."""
        optimizer = self.optimizers()
        last = (batch_idx + 1) % self.accumulate == 0 or self.trainer.is_last_batch
        with nullcontext() if last else self._without_sync():
            surrogate = self._backward(batch)
        self._check_finite(surrogate, batch)
        if last:
            self.learner.edit_gradients(self.progress())
            if self.clip is not None:
                self.clip_gradients(optimizer, self.clip, self.clip_by)
            optimizer.step()
            if self.adapters is not None:
                self.adapters.after_step(self.global_step)
            optimizer.zero_grad(set_to_none=True)
            if self.rule.evolves:
                self.learner.after_step(self.progress())
            self._schedule("step")
        self._count(surrogate, batch[1])
        return surrogate.loss

    def on_train_epoch_end(self) -> None:
        """Log the epoch's training loss and (of classes) accuracy, averaged over what was seen; move the schedule."""
        totals = self.trainer.strategy.reduce(self.totals.float().to(self.device), reduce_op="sum").cpu()
        loss, correct, seen = totals.tolist()
        self.log("train/loss_epoch", loss / max(seen, 1))
        if self.num_classes > 1:
            self.log("train/accuracy", 100 * correct / max(seen, 1))
        self.totals = torch.zeros(3, dtype=torch.float64)
        if self.rule.reshapes and self.trainer.world_size == 1:
            self.rule.reshape(self.network, self.optimizers().optimizer)
        self._schedule("epoch")

    def training_batches(self) -> AbstractContextManager[Epoch]:
        """Number of an epoch to its training batches, in the middle of a fit and beside it."""
        return training_batches(self.trainer)

    def configure_optimizers(self) -> dict | torch.optim.Optimizer:
        """One optimiser, one group for every learning rate."""
        optimizer = self.make_optimizer(self.parameter_groups())
        if self.make_scheduler is None:
            return optimizer
        scheduler = self.make_scheduler(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": self.scheduler_interval}}

    def parameter_groups(self) -> list[dict]:
        """The trainable parameters: the rest first, then one group for each entry of `layer_lr`."""
        named = {n.removeprefix("network."): p for n, p in self.learner.named_parameters() if p.requires_grad}
        groups = []
        for pattern, lr in self.layer_lr.items():
            try:
                match([pattern], [*named])
            except ValueError as error:
                raise UserError(f"layer_lr: {error}") from None
            chosen = [name for name in named if fnmatchcase(name, pattern)]
            groups.append({"params": [named.pop(name) for name in chosen], "lr": lr})
        return [{"params": [*named.values()]}, *groups] if named else groups

    def progress(self) -> Progress:
        """Steps taken, epoch, the fraction of the steps done, and whether this batch is the epoch's last."""
        total = self.trainer.estimated_stepping_batches if self.trainer.max_steps > 0 or self.trainer.max_epochs else 0
        fraction = self.global_step / total if total and total != float("inf") else 0.0
        return Progress(self.global_step, self.current_epoch, fraction, self.trainer.is_last_batch)

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """Keep the random state (dropout), the epoch's totals and what preparing found: resuming is bit for bit."""
        checkpoint["lit_fa"] = random_states(self.totals)
        checkpoint["adapters"] = {} if self.adapters is None else self.adapters.state()
        checkpoint["prepared"] = self.prepared

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        """Remember the random state until training starts: loading itself may draw numbers."""
        super().on_load_checkpoint(checkpoint)
        self._resumed = checkpoint.get("lit_fa")
        if self.adapters is not None:
            self.adapters.take_up(checkpoint.get("adapters", {}))
        if self._trainer is not None and self.trainer.state.fn == "fit":  # loaded otherwise, it is where a run starts
            self.prepared = checkpoint.get("prepared") or {}

    def on_train_epoch_start(self) -> None:
        """Take up a resumed run's random state and totals, before the loader of a new epoch draws."""
        self._take_up()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """The same in mid-epoch, where Lightning does not announce the epoch again."""
        self._take_up()

    def _take_up(self) -> None:
        resumed = getattr(self, "_resumed", None)
        if resumed is None:
            return
        self.totals, self._resumed = take_up(resumed, self.global_rank), None

    def _backward(self, batch: Batch) -> Surrogate:
        backward: Callable[[Tensor], None] = self.manual_backward
        if self.accumulate > 1:

            def backward(value: Tensor) -> None:
                self.manual_backward(value / self.accumulate)

        if self.stream:
            if self.trainer.world_size > 1:
                raise UserError("stream: true is for one device; set stream: false or trainer.devices: 1")
            return self.learner.stream(batch, backward)
        surrogate = self.learner(batch)
        backward(surrogate.value)
        return surrogate

    def _without_sync(self):
        block = getattr(self.trainer.strategy, "block_backward_sync", None)
        return block() if block else nullcontext()

    def _schedule(self, when: str) -> None:
        if self.make_scheduler is None or when != self.scheduler_interval:
            return
        scheduler = self.lr_schedulers()
        metric = self.trainer.callback_metrics.get("val/loss", self.trainer.callback_metrics.get("train/loss_epoch"))
        plateau = isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
        scheduler.step(*([metric] if plateau else []))

    def _check_finite(self, surrogate: Surrogate, batch: Batch) -> None:
        # a look at the value waits for the device: on a GPU only when the value is logged
        if self.device.type != "cpu" and self.global_step % self.trainer.log_every_n_steps:
            return
        if not torch.isfinite(surrogate.loss):
            where = first_non_finite(self.network, batch[0])
            raise NonFiniteLossError(
                f"loss is {surrogate.loss.item()} at step {self.global_step}; first not finite: {where}. "
                "The last checkpoint stays; lower the learning rate or set model.init_args.clip.",
                step=self.global_step,
                first=where,
            )

    def _count(self, surrogate: Surrogate, targets: Tensor) -> None:
        seen = len(targets)
        correct = (surrogate.logits.argmax(-1) == targets).sum()
        self.totals = self.totals.to(self.device) if self.device.type == "cuda" else self.totals
        self.totals += torch.stack(
            [surrogate.loss.double() * seen, correct.double(), correct.new_tensor(seen).double()]
        )
        if self.global_step % self.trainer.log_every_n_steps == 0:
            self.log("train/loss", surrogate.loss, prog_bar=True)


def _check(accumulate: int, clip: float | None, clip_by: str, interval: str) -> None:
    if accumulate < 1:
        raise UserError(f"accumulate is at least 1, not {accumulate}")
    if clip is not None and clip <= 0:
        raise UserError(f"clip is a positive bound or null, not {clip}")
    if clip_by not in ("norm", "value"):
        raise UserError(f"clip_by is norm or value, not '{clip_by}'")
    if interval not in ("epoch", "step"):
        raise UserError(f"scheduler_interval is epoch or step, not '{interval}'")

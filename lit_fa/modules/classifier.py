"""The only centralised training step in the project: the same for every rule."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from lightning.pytorch.callbacks import OnExceptionCheckpoint
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from lit_fa.errors import UserError, check_literals
from lit_fa.functional.criteria import CriterionName
from lit_fa.lightning_privates import callbacks_of, setting, trainer_of
from lit_fa.modules.accumulation import Window
from lit_fa.modules.averages import check_averages, renews_statistics
from lit_fa.modules.finite import NonFiniteLossError, first_non_finite
from lit_fa.modules.groups import clip_gradients, freeze_followers, parameter_groups
from lit_fa.modules.length import check_length, run_length
from lit_fa.modules.rates import constructed
from lit_fa.modules.resume import Begun, state_of_rank, states_of_ranks, take_up
from lit_fa.modules.schedules import ScheduledClassifier
from lit_fa.modules.shares import check_shares, mean_over_ranks, own_samples, weighted_mean
from lit_fa.modules.trainer_options import logs_at
from lit_fa.modules.warm_up import Epoch, HeadProbe, start, training_batches
from lit_fa.networks import Adapters, configured, load_weights
from lit_fa.rules.backprop import Backprop
from lit_fa.rules.base import Batch, Does, LearningRule, Progress, Surrogate
from lit_fa.rules.learner import Learner

MOST = 1_000_000  # batches an optimiser step


def plain_sgd(params: Iterable[Any]) -> torch.optim.Optimizer:
    """SGD with learning rate 0.1 and nothing else: the default, under which the conservation laws hold."""
    return torch.optim.SGD(params, lr=0.1)


class Classifier(ScheduledClassifier):
    """A network that learns to classify by a rule, under manual optimisation with one optimiser.

    Lightning refuses clipping and accumulation in the Trainer under manual optimisation, so both are arguments here.

    Args:
        network: a timm name (ours are registered there too), ``transformers/<name or folder>``, or a module.
        rule: the learning rule; None is backprop.
        num_classes: c.
        image_shape: (channels, height, width) of the inputs; (3, length) of texts.
        criterion: `cross_entropy`, `mse` or `bce`.
        optimizer: from parameter groups to an optimiser; any torch class in YAML.
        scheduler: from an optimiser to a learning-rate schedule, or None; of a plateau see `ScheduledClassifier`.
        scheduler_interval: `epoch`, or `step`: an optimiser step.
        layer_lr: learning rates of their own for parameters by name or pattern (``blocks.0.*``: 0.01). Feedback that is
            trained (`KolenPollackFeedback`) has the rate of its weight.
        network_args: further arguments of the network.
        pretrained: load the network's weights.
        weights: file to load weights from; see `networks.load_weights`.
        adapter: config of peft: the rule trains adapters and the head alone; see `networks.Adapters`.
        clip: bound on the gradient, or None. Trained feedback, whose gradient is its weight's, does not count in the
            norm and is scaled with its weight. Where blocks learn from losses of their own (`ForwardForward`,
            `PredSim`, `AugLocal`, the direct routes of `SVDSpaceAlignment`), every block with what reads it, and what
            stands behind the last cut, has its own norm; elsewhere (also under DFA) one norm is over all parameters.
        clip_by: `norm` or `value` (of every entry).
        accumulate: batches per optimiser step, weighed by their samples: an epoch's last step may have fewer or smaller
            ones. It equals one batch of them all, but for what compares the samples of a batch: batch normalisation,
            `PredSim`'s similarity, Forward-Forward's `negatives: permutation` and `peer`; dropout draws anew.
        stream: free each block's activations before the next block runs (rules with cuts, one device).
        compile: compile the learner.
        probe: train the head alone before the first step of a fresh run, or None. See `HeadProbe`.
        metrics: on held-out data, by name: accuracy, f1, matthews, top5 for classes; pearson, spearman where
            num_classes is 1, which is a number to predict. The progress bar shows the first. None: accuracy, or
            pearson.
        input_shape: of one sample as batches bring it, where it is not `image_shape` (of flat images, (c*h*w,)).

    Raises:
        UserError: unknown network, criterion or metric, a rule that does not reach a weight, numbers out of range.
    """

    training_loss = "train/loss_epoch"

    def __init__(
        self,
        network: str | nn.Module,
        rule: LearningRule | None = None,
        num_classes: int = 10,
        image_shape: tuple[int, ...] = (1, 28, 28),
        criterion: CriterionName = "cross_entropy",
        optimizer: OptimizerCallable = plain_sgd,
        scheduler: LRSchedulerCallable | None = None,
        scheduler_interval: Literal["epoch", "step"] = "epoch",
        layer_lr: dict[str, float] | None = None,
        network_args: dict[str, Any] | None = None,
        pretrained: bool = False,
        weights: str | None = None,
        adapter: dict[str, Any] | None = None,
        clip: float | None = None,
        clip_by: Literal["norm", "value"] = "norm",
        accumulate: int = 1,
        stream: bool = False,
        compile: bool = False,
        probe: HeadProbe | None = None,
        metrics: list[str] | None = None,
        input_shape: tuple[int, ...] | None = None,
    ):
        """Build the network and install the rule."""
        super().__init__()
        check_literals(Classifier, locals())
        _check(accumulate, clip)
        if num_classes == 1 and criterion in ("cross_entropy", "bce"):
            raise UserError(f"one output is a number to predict, and {criterion} is for classes: set criterion: mse")
        self.num_classes = num_classes
        self.measure(num_classes, metrics)
        self.automatic_optimization = False
        if isinstance(network, str):
            network = configured(network, num_classes, tuple(image_shape), pretrained, network_args or {})
        if weights is not None:
            load_weights(network, weights)
        self.adapters = None if adapter is None else Adapters(network, adapter)
        rule = Backprop() if rule is None else rule
        if stream and Does.STREAMS not in rule.does:
            raise UserError(f"{type(rule).__name__} has no block boundaries to stream; use stream: false")
        if Does.COMPARES in rule.does:
            raise UserError(f"{type(rule).__name__} chooses layers by comparing clients: name them, or federate")
        if accumulate > 1 and Does.SUMS in rule.does:
            raise UserError("accumulate averages over samples, which target_reduction: sum does not: set it to mean")
        example = self.example(network, input_shape or image_shape)
        self.learner = Learner(network, rule, example, criterion)
        self.parts = self.learner.parts(example) if clip is not None and clip_by == "norm" else {}
        if compile:
            self.learner.compile()
        self.make_optimizer, self.make_scheduler = optimizer, scheduler
        self.scheduler_interval, self.layer_lr = scheduler_interval, layer_lr or {}
        self.clip, self.clip_by, self.accumulate, self.stream = clip, clip_by, accumulate, stream
        self.window = Window(accumulate)
        self.probe = probe
        self.prepared: dict[str, float] | None = None  # what preparing the run has found; None before
        self.totals = torch.zeros(3, dtype=torch.float64)  # of this epoch: loss, correct, seen
        self.begun: Begun | None = None  # how a batch has begun, within it
        self._resumed: list[dict[str, Any]] | None = None  # of a checkpoint, until training starts

    def setup(self, stage: str) -> None:
        """Before DDP looks: the feedback of frozen weights is frozen."""
        super().setup(stage)
        freeze_followers(self.learner)

    def on_fit_start(self) -> None:
        """Before a fresh run, also one of no steps: probe the head, then let the rule prepare."""
        super().on_fit_start()
        check_averages(self.trainer, self.learner)
        check_shares(self.trainer, self.rule, self.network)
        if self.trainer.max_epochs == -1 and self.trainer.max_steps == -1:
            check_length(self.rule.follows_length, None, None)
        self.window, self.begun = Window(self.accumulate), None
        self.zero_grad(set_to_none=True)
        if self.prepared is None:
            self.prepared = start(self.learner, self.probe, self.trainer)

    def on_train_start(self) -> None:
        """Log what preparing has found; a resumed run logs it again, for its metrics start empty."""
        super().on_train_start()
        check_length(self.rule.follows_length, *run_length(self.trainer, self.accumulate))
        self.log_dict(self.prepared or {})

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Remember how the batch begins, for a checkpoint of an exception in it."""
        super().on_train_batch_start(batch, batch_idx)
        if any(isinstance(callback, OnExceptionCheckpoint) for callback in callbacks_of(self.trainer)):
            self.begun = Begun.of(self.network, self.totals, self.window.state(self.learner))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Surrogate, backward, edits, clip, step, after_step, schedule."""
        if renews_statistics(self.trainer):
            surrogate = self.learner(batch)
            self._count(surrogate, batch[1], len(batch[1]))
            return surrogate.loss
        last = self.window.batches + 1 >= self.accumulate or self.trainer.is_last_batch
        own = own_samples(self.trainer.train_dataloader, batch_idx, len(batch[1]))
        share = self.window.weigh(own, self._mean)
        with nullcontext() if last else self._without_sync():
            surrogate = self._backward(batch, share)
        self.window.add(own)
        self._check_finite(surrogate, batch)
        if last:
            self._step()
        self._count(surrogate, batch[1], own)
        self.begun = None
        return surrogate.loss

    def _step(self) -> None:
        """Let the optimiser move by the window's gradient."""
        optimizer = self.optimizer
        self.window.close(self.learner, self._mean)
        self.learner.edit_gradients(self.progress())
        if self.clip is not None:
            clip_gradients(self.learner, optimizer.optimizer, self.clip, self.clip_by, self.parts)
        optimizer.step()
        if self.adapters is not None:
            self.adapters.after_step(self.global_step)
        optimizer.zero_grad(set_to_none=True)
        if Does.EVOLVES in self.rule.does:
            self.learner.after_step(self.progress())
        self.schedule("step")

    def on_validation_model_zero_grad(self) -> None:
        """Validation inside a window leaves its gradients."""
        if self.window.batches == 0:
            super().on_validation_model_zero_grad()

    def on_train_epoch_end(self) -> None:
        """Log the epoch's training loss and (of classes) accuracy, averaged over what was seen; move the schedule."""
        alone = self.trainer.world_size == 1
        totals = self.totals if alone else self.trainer.strategy.reduce(self.totals.to(self.device), reduce_op="sum")
        loss, correct, seen = totals.tolist()
        self.log("train/loss_epoch", loss / max(seen, 1))
        if self.num_classes > 1:
            self.log("train/accuracy", 100 * correct / max(seen, 1))
        self.totals = torch.zeros(3, dtype=torch.float64)
        if Does.RESHAPES in self.rule.does and self.trainer.world_size == 1:
            self.rule.reshape(self.network, self.optimizer.optimizer)
        self.schedule("epoch")

    def training_batches(self, *, whole: bool = False) -> AbstractContextManager[Epoch]:
        """Number of an epoch to its training batches, in the middle of a fit and beside it; `whole`: not shared."""
        return training_batches(self.trainer, whole=whole)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """One optimiser, one group for every learning rate."""
        return self.scheduled(constructed(self.make_optimizer, self.parameter_groups(), "optimizer"))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The trainable parameters: the rest first, then one group for each entry of `layer_lr`."""
        return parameter_groups(self.learner, self.layer_lr)

    def progress(self) -> Progress:
        """Steps taken, the epoch, how many of both there will be, and whether this batch is the epoch's last."""
        length = run_length(self.trainer, self.accumulate)
        return Progress(self.global_step, self.current_epoch, *length, self.trainer.is_last_batch)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep random states (dropout), the epoch's totals, an open window's gradients and what preparing found."""
        super().on_save_checkpoint(checkpoint)
        if self.begun is None:
            own = state_of_rank(self.totals, self.window.state(self.learner))
        else:
            own, state = self.begun.state, checkpoint["state_dict"]
            state |= {key: b for n, b in self.begun.buffers.items() if (key := f"learner.network.{n}") in state}
        checkpoint["lit_fa"] = states_of_ranks(own)
        checkpoint["adapters"] = {} if self.adapters is None else self.adapters.state()
        checkpoint["prepared"] = self.prepared

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Remember the random state until training starts: loading itself may draw numbers."""
        super().on_load_checkpoint(checkpoint)
        if self.adapters is not None:
            self.adapters.take_up(checkpoint.get("adapters", {}))
        if (trainer := trainer_of(self)) and trainer.state.fn == "fit":  # loaded otherwise, it is where a run starts
            self.prepared = checkpoint.get("prepared") or {}
            self._resumed = checkpoint.get("lit_fa")

    def take_up(self) -> None:
        """Take up a resumed run's random state, totals and open window; later calls do nothing."""
        resumed = self._resumed
        if resumed is None:
            return
        self.totals, self._resumed = take_up(resumed, self.global_rank), None
        windows = [state.get("window") for state in resumed]
        self.window.take_up(windows, self.learner, self.global_rank, self.trainer.world_size)
        super().take_up()

    def _mean(self, samples: int) -> Tensor | int:
        """Over ranks."""
        return mean_over_ranks(samples, self.trainer, self.device)

    def _backward(self, batch: Batch, share: Tensor | float = 1.0) -> Surrogate:
        """The gradients of one batch, added to what stands in `.grad`; `share` is a factor on them."""
        backward: Callable[[Tensor], None] = self.manual_backward
        if isinstance(share, Tensor) or share != 1.0:

            def backward(value: Tensor) -> None:
                self.manual_backward(value * (share.to(value.dtype) if isinstance(share, Tensor) else share))

        if self.stream:
            if self.trainer.world_size > 1:
                raise UserError("stream: true is for one device; set stream: false or trainer.devices: 1")
            return self.learner.stream(batch, backward)
        surrogate = self.learner(batch)
        backward(surrogate.value)
        return surrogate

    def _without_sync(self) -> AbstractContextManager[None]:
        block = getattr(self.trainer.strategy, "block_backward_sync", None)
        return block() if block else nullcontext()

    def _check_finite(self, surrogate: Surrogate, batch: Batch) -> None:
        # a look at the value waits for the device: on a GPU only when the value is logged
        if self.device.type != "cpu" and self.global_step % (setting(self.trainer, "log_every_n_steps") or 50):
            return
        if not torch.isfinite(surrogate.loss):
            where = first_non_finite(self.network, batch[0])
            raise NonFiniteLossError(
                f"loss is {surrogate.loss.item()} at step {self.global_step}; first not finite: {where}",
                "The last checkpoint stays; lower the learning rate or set model.init_args.clip.",
                step=self.global_step,
                first=where,
            )

    def _count(self, surrogate: Surrogate, targets: Tensor, seen: int) -> None:
        """Add the first `seen` samples of a batch to the epoch's totals."""
        correct = (surrogate.logits.argmax(-1) == targets)[:seen].sum()
        self.totals = self.totals.to(self.device) if self.device.type == "cuda" else self.totals
        self.totals += torch.stack(
            [surrogate.loss.double() * seen, correct.double(), correct.new_tensor(seen).double()]
        )
        # loggers count batches
        done = self.global_step if self.accumulate == 1 else self.trainer.fit_loop.total_batch_idx + 1
        if logs_at(self.trainer, done):
            self.log("train/loss", weighted_mean(surrogate.loss, seen, self.trainer), prog_bar=True)


def _check(accumulate: int, clip: float | None) -> None:
    if not 1 <= accumulate <= MOST:
        raise UserError(f"accumulate is from 1 to {MOST:,} batches, not {accumulate}")
    if clip is not None and not clip > 0:
        raise UserError(f"clip is a positive bound or null, not {clip}")

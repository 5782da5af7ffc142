"""The training step of centralised training, the same for every rule."""

import math
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from lightning.pytorch.callbacks import OnExceptionCheckpoint
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from lit_fa.errors import check_literals
from lit_fa.functional.criteria import CriterionName
from lit_fa.layers.sharding import gathered
from lit_fa.lightning_privates import callbacks_of, setting, trainer_of
from lit_fa.modules.accumulation import Window
from lit_fa.modules.averages import check_averages, renews_statistics
from lit_fa.modules.classifier_options import check_numbers, check_rule_options
from lit_fa.modules.finite import NonFiniteLossError
from lit_fa.modules.gradients import Gradients, Step
from lit_fa.modules.groups import clip_gradients, freeze_followers, parameter_groups
from lit_fa.modules.length import check_length, run_length
from lit_fa.modules.metrics import logs_at
from lit_fa.modules.rates import constructed
from lit_fa.modules.resume import BatchStart, restore, state_of_rank, states_of_ranks
from lit_fa.modules.schedules import ScheduledClassifier
from lit_fa.modules.shares import check_shares, mean_over_ranks, own_samples, weighted_mean
from lit_fa.modules.stepping import check_rule, check_trainer
from lit_fa.modules.totals import Totals
from lit_fa.modules.warm_up import Epoch, HeadProbe, start, training_batches
from lit_fa.networks import Adapters, configured, load_weights
from lit_fa.rules.backprop import Backprop
from lit_fa.rules.base import Batch, Does, LearningRule, Progress, Surrogate
from lit_fa.rules.learner import Learner
from lit_fa.stage_strategy import stages_of


def plain_sgd(params: Iterable[Any]) -> torch.optim.Optimizer:
    """SGD with learning rate 0.1 and nothing else: the default, under which the conservation laws hold."""
    return torch.optim.SGD(params, lr=0.1)


class Classifier(ScheduledClassifier):
    """Trains a network by a learning rule, under manual optimisation with one optimiser.

    Under manual optimisation Lightning refuses clipping and accumulation in the Trainer, so both are arguments here.

    Args:
        network: a timm name (ours are registered there too), ``transformers/<name or folder>``, or a module.
        rule: the learning rule; None is backprop.
        num_classes: c.
        image_shape: (channels, height, width) of the inputs; (3, length) of texts.
        criterion: `cross_entropy`, `mse` or `bce`.
        optimizer: from parameter groups to an optimiser; any torch class in YAML.
        scheduler: from an optimiser to a learning-rate schedule, or None; for a plateau see `ScheduledClassifier`.
        scheduler_interval: `epoch`, or `step`: an optimiser step.
        layer_lr: learning rates of their own for parameters by name or pattern (``blocks.0.*``: 0.01). Feedback that is
            trained (`KolenPollackFeedback`) has the rate of its weight.
        network_args: further arguments of the network.
        pretrained: load the network's weights.
        weights: file to load weights from; see `networks.load_weights`.
        adapter: config of peft: the rule trains only the adapters and the head; see `networks.Adapters`.
        clip: bound on the gradient, or None. Trained feedback has the gradient of its weight; it does not count in the
            norm and is scaled with its weight. If blocks learn from local losses (`ForwardForward`, `PredSim`,
            `AugLocal`, `MonoForward`, the direct routes of `SVDSpaceAlignment`), every block together with its readout
            has a norm of its own, and so has everything after the last cut; `CCL` has one norm for each of its two
            networks. Otherwise (also under DFA) one norm is over all
            parameters.
        clip_by: `norm` or `value` (of every entry).
        accumulate: batches per optimiser step, weighted by their samples; the last step of an epoch may have fewer or
            smaller ones. The step equals that of one batch of all these samples, except for operations that compare
            the samples of a batch (batch normalisation, `PredSim`'s similarity, Forward-Forward's
            `negatives: permutation` and `peer`), and dropout, which draws a mask for each batch.
        stream: free each block's activations before the next block runs (rules with cuts, one device). `step`: the
            optimiser also updates the block at once and its gradients are freed, see `modules.stepping`.
        compile: compile the learner.
        probe: train only the head before the first step of a fresh run, or None. See `HeadProbe`.
        metrics: names of metrics on held-out data, in percent. Classes: accuracy, f1, matthews, top5; default accuracy.
            Regression (num_classes 1): pearson, spearman; default pearson. The progress bar shows the first.
        step: how gradients are computed. `autograd`: from the rule's scalar. `written`: by explicit products of
            matrices, equal bit for bit on a CPU with one thread, for chains of dense layers under backprop, feedback
            alignment, DFA, DRTP and Forward-Forward. `auto`: `written` where the first batch shows that it is equal.
        input_shape: of one sample as it is in a batch, if it differs from `image_shape` ((c*h*w,) for flat images).

    Raises:
        UserError: an unknown network, criterion or metric, a rule that does not reach a weight, or a number out of
            range.

    >>> from lit_fa.rules import DirectFeedbackAlignment
    >>> module = Classifier("mlp", DirectFeedbackAlignment(), network_args={"hidden": [8]})
    >>> images, labels = torch.zeros(2, 1, 28, 28), torch.tensor([3, 1])
    >>> module.learner((images, labels)).value.backward()  # the updates of the rule, without a trainer
    >>> module(images).shape, all(p.grad is not None for p in module.network.parameters())
    (torch.Size([2, 10]), True)
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
        stream: bool | Literal["step"] = False,
        compile: bool = False,
        probe: HeadProbe | None = None,
        metrics: list[str] | None = None,
        input_shape: tuple[int, ...] | None = None,
        step: Step = "autograd",
    ):
        """Build the network and install the rule."""
        super().__init__()
        check_literals(Classifier, locals())
        check_numbers(num_classes, criterion, accumulate, clip)
        self.num_classes = num_classes
        self.measure(num_classes, metrics)
        self.automatic_optimization = False
        if isinstance(network, str):
            network = configured(network, num_classes, tuple(image_shape), pretrained, network_args or {})
        if weights is not None:
            load_weights(network, weights)
        self.adapters = None if adapter is None else Adapters(network, adapter)
        rule = Backprop() if rule is None else rule
        check_rule_options(rule, stream=stream, accumulate=accumulate)
        example = self.example(network, input_shape or image_shape)
        self.learner = Learner(network, rule, example, criterion)
        # torch searches a module's tables for its submodules, so the step asks once what the rule does
        self._edits, self._evolves = self.learner.edits, Does.EVOLVES in rule.does
        self.parts = self.learner.parts(example) if clip is not None and clip_by == "norm" else {}
        if stream == "step":
            norm_of_all = clip is not None and clip_by == "norm" and not self.parts
            check_rule(self.learner, accumulate=accumulate, norm_of_all=norm_of_all)
        self.gradients = Gradients(self.learner, step, stream=stream, compile=compile, accumulate=accumulate)
        if compile:
            self.learner.compile()
        self.make_optimizer, self.make_scheduler = optimizer, scheduler
        self.scheduler_interval, self.layer_lr = scheduler_interval, layer_lr or {}
        self.clip, self.clip_by, self.accumulate, self.stream = clip, clip_by, accumulate, stream
        self.window = Window(accumulate)
        self.probe = probe
        self.prepared: dict[str, float] | None = None  # what `start` returned; None before it
        self.epoch = Totals()
        self.batch_start: BatchStart | None = None  # during a batch, the state before it
        self._resumed: list[dict[str, Any]] | None = None  # states of a loaded checkpoint, until training starts

    @property
    def totals(self) -> Tensor:
        """Of this epoch: loss, correct, seen; 64-bit. May be changed in place."""
        return self.epoch.tensor

    @totals.setter
    def totals(self, totals: Tensor) -> None:
        self.epoch = Totals(totals)

    def setup(self, stage: str) -> None:
        """Freeze the feedback of frozen weights, before DDP collects the parameters."""
        super().setup(stage)
        freeze_followers(self.learner)

    def on_fit_start(self) -> None:
        """Before a fresh run, even one without steps: train the head probe, then let the rule prepare."""
        super().on_fit_start()
        check_averages(self.trainer, self.learner)
        check_shares(self.trainer, self.rule, self.network)
        if self.stream == "step":
            check_trainer(self.trainer)
        if self.trainer.max_epochs == -1 and self.trainer.max_steps == -1:
            check_length(self.rule.follows_length, None, None)
        self.window, self.batch_start = Window(self.accumulate), None
        self.zero_grad(set_to_none=True)
        self.prepare_once()

    def prepare_once(self) -> None:
        """Train the head probe and let the rule prepare, unless a checkpoint or an earlier call has done so."""
        if self.prepared is None:
            self.prepared = start(self.learner, self.probe, self.trainer)

    def on_train_start(self) -> None:
        """Log the figures of `start`; a resumed run logs them again, because its metrics start empty."""
        super().on_train_start()
        self.gradients.start(self)
        check_length(self.rule.follows_length, *run_length(self.trainer, self.accumulate))
        self.log_dict(self.prepared or {})

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Store the state before the batch, for a checkpoint that an exception within it writes."""
        super().on_train_batch_start(batch, batch_idx)
        if any(isinstance(callback, OnExceptionCheckpoint) for callback in callbacks_of(self.trainer)):
            with gathered(self.learner):
                self.batch_start = BatchStart.of(self.network, self.totals, self.window.state(self.learner))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Surrogate, backward pass, gradient edits, clipping, optimiser step, `after_step`, schedule."""
        if renews_statistics(self.trainer):
            surrogate = self.learner(batch)
            self._count(surrogate, batch[1], len(batch[1]))
            return surrogate.loss
        last = self.window.batches + 1 >= self.accumulate or self.trainer.is_last_batch
        own = own_samples(self.trainer.train_dataloader, batch_idx, len(batch[1]))
        share = self.window.weigh(own, self._mean)
        with nullcontext() if last else self._without_sync():
            surrogate = self.gradients(self, batch, share)
        self.window.add(own)
        self.check_finite(surrogate, batch)
        if last:
            self.take_step()
        self._count(surrogate, batch[1], own)
        if self.batch_start is not None:  # torch looks through all tables of a module before it sets an attribute
            self.batch_start = None
        return surrogate.loss

    def take_step(self, *, counts: bool = True) -> None:
        """Take an optimiser step with the gradient of the window; `counts`: it is one of the run's steps."""
        optimizer = self.optimizer
        self.window.close(self.learner, self._mean)
        if self._edits:
            self.learner.edit_gradients(self.progress())
        if self.clip is not None and self.stream != "step":
            self.clip_now()
        (optimizer if counts else optimizer.optimizer).step()
        if self.adapters is not None:
            self.adapters.after_step(self.global_step)
        optimizer.zero_grad(set_to_none=True)
        if self._evolves:
            self.learner.after_step(self.progress())
        if counts:
            self.schedule("step")

    def clip_now(self) -> None:
        """Clip the gradients that exist."""
        assert self.clip is not None
        stages = stages_of(self.trainer)
        norm = stages.total_norm if stages else get_total_norm
        clip_gradients(self.learner, self.optimizer.optimizer, self.clip, self.clip_by, self.parts, norm)

    def count_step(self) -> None:
        """Count a step whose update comes later (`lit_fa.parallel`)."""
        self.optimizer.step()
        self.schedule("step")

    def on_validation_model_zero_grad(self) -> None:
        """Keep the gradients of an open window during validation."""
        if self.window.batches == 0:
            super().on_validation_model_zero_grad()

    def on_train_epoch_end(self) -> None:
        """Log the mean training loss and (for classes) accuracy of the epoch; step the schedule."""
        if stages := stages_of(self.trainer):
            stages.end_epoch()
        one_rank = self.trainer.world_size == 1
        totals = self.totals if one_rank else self.trainer.strategy.reduce(self.totals.to(self.device), reduce_op="sum")
        loss, correct, seen = totals.tolist()
        self.log("train/loss_epoch", loss / max(seen, 1))
        if self.num_classes > 1:
            self.log("train/accuracy", 100 * correct / max(seen, 1))
        self.epoch = Totals()
        if Does.RESHAPES in self.rule.does and self.trainer.world_size == 1:
            self.rule.reshape(self.network, self.optimizer.optimizer)
        self.schedule("epoch")

    def training_batches(self, *, whole: bool = False) -> AbstractContextManager[Epoch]:
        """From the number of an epoch to its training batches; `whole`: all samples instead of this rank's share."""
        return training_batches(self.trainer, whole=whole)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """One optimiser, with one parameter group for every learning rate."""
        return self.scheduled(constructed(self.make_optimizer, self.parameter_groups(), "optimizer"))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The trainable parameters: one group for each entry of `layer_lr`, after the group of all others."""
        return parameter_groups(self.learner, self.layer_lr)

    def progress(self) -> Progress:
        """Steps and epochs so far and in all, and whether this batch is the last of its epoch."""
        length = run_length(self.trainer, self.accumulate)
        return Progress(self.global_step, self.current_epoch, *length, self.trainer.is_last_batch)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store random states (dropout), the totals of the epoch, the gradients of an open window, and `prepared`."""
        super().on_save_checkpoint(checkpoint)
        if self.batch_start is None:
            with gathered(self.learner):  # of a sharded learner, the sums that are not reduced yet
                own = state_of_rank(self.totals, self.window.state(self.learner))
        else:
            own, state = self.batch_start.state, checkpoint["state_dict"]
            state |= {key: b for n, b in self.batch_start.buffers.items() if (key := f"learner.network.{n}") in state}
        checkpoint["lit_fa"] = states_of_ranks(own)
        checkpoint["adapters"] = {} if self.adapters is None else self.adapters.state()
        checkpoint["prepared"] = self.prepared

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the random state until training starts, because loading itself may draw numbers."""
        super().on_load_checkpoint(checkpoint)
        if self.adapters is not None:
            self.adapters.restore(checkpoint.get("adapters", {}))
        if (trainer := trainer_of(self)) and trainer.state.fn == "fit":  # other loads start a new run
            self.prepared = checkpoint.get("prepared") or {}
            self._resumed = checkpoint.get("lit_fa")

    def restore(self) -> None:
        """Restore the random state, totals and open window of a resumed run; later calls do nothing."""
        resumed = self._resumed
        if resumed is None:
            return
        self.totals, self._resumed = restore(resumed, self.global_rank), None
        windows = [state.get("window") for state in resumed]
        ranks = self.trainer.world_size
        with gathered(self.learner):
            self.window.restore(windows, self.learner, self.global_rank % ranks, ranks)
        super().restore()

    def _mean(self, samples: int) -> Tensor | int:
        """The mean over ranks."""
        return mean_over_ranks(samples, self.trainer, self.device)

    def _without_sync(self) -> AbstractContextManager[None]:
        block = getattr(self.trainer.strategy, "block_backward_sync", None)
        return block() if block else nullcontext()

    def check_finite(self, surrogate: Surrogate, batch: Batch) -> None:
        """Refuse a loss that is not finite; on a GPU only at the steps that are logged.

        Raises:
            NonFiniteLossError: the loss is not finite; the message names the first tensor that is not.
        """
        # reading the value waits for the device, so on a GPU it is read only when it is logged
        if self.device.type != "cpu" and self.global_step % (setting(self.trainer, "log_every_n_steps") or 50):
            return
        if not math.isfinite(surrogate.loss):
            with gathered(self.learner):
                raise NonFiniteLossError.of(self.network, batch[0], surrogate.loss, self.global_step)

    def _count(self, surrogate: Surrogate, targets: Tensor, seen: int) -> None:
        """Add the first `seen` samples of a batch to the epoch's totals."""
        self.epoch.add(surrogate.loss, surrogate.logits.argmax(-1) == targets, seen)
        # loggers count batches
        done = self.global_step if self.accumulate == 1 else self.trainer.fit_loop.total_batch_idx + 1
        if logs_at(self.trainer, done):
            self.log("train/loss", weighted_mean(surrogate.loss, seen, self.trainer), prog_bar=True)

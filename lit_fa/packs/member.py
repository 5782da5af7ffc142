"""One run in joint steps: which steps are joint, and what a step changes in its trainer and module."""

import logging
from collections.abc import Callable
from typing import Any, Literal

import lightning as L
from torch import Tensor

from lit_fa.lightning_privates import begin_batch, callbacks_of, counts_of, end_batch, save_every, setting, step_taken
from lit_fa.modules import Classifier, NonFiniteLossError
from lit_fa.packs.lanes import Compose, Lane
from lit_fa.packs.own_steps import own_steps
from lit_fa.packs.size import STEPS, per_step
from lit_fa.rules.base import Batch, Does
from lit_fa.rules.learner import Learner
from lit_fa.rules.mapping import statics
from lit_fa.written.chain import Chain
from lit_fa.written.gradient import family, read

log = logging.getLogger(__name__)
Kind = Literal["written", "mapped", "own"]
KINDS: dict[str, Callable[[Learner], tuple[object, ...]]] = {"written": family, "mapped": statics}
LONGEST = 100  # joint steps between two ordinary ones


class Member:
    """A run that takes joint steps with others.

    A step is observed, and then an ordinary one of the run itself, if it is the first or last of an epoch, of the run
    or of a part of it, if metrics are logged at it, or if a measurement, a checkpoint or validation follows it.

    Args:
        lane: of the run.
        trainer: in a fit.
        module: that it trains.
        compose: makes the program of several members.
        kind: how its steps are taken: `written` or `mapped` for all runs of a program, or `own`, by autograd alone.

    Attributes:
        wanted: joint steps still to take.
        error: raised in the run when it goes on.
        alone: whether the run takes all steps by itself (`own_steps`).
        own_seconds: of such a step, if the pack measures them.
        chain: the network, of written steps.
        program: that has trained it last, which is used again if the members are the same.
    """

    def __init__(self, lane: Lane[Any], trainer: L.Trainer, module: Classifier, compose: Compose, kind: Kind):
        """See the class."""
        self.lane, self.trainer, self.module, self.compose = lane, trainer, module, compose
        self.loop: Any = trainer.fit_loop.epoch_loop
        self.learner, self.optimizer = module.learner, module.optimizer.optimizer
        self.kind, self.alone = kind, kind == "own"
        self.own_seconds: float | None = None
        loader: Any = trainer.train_dataloader
        self.chain: Chain | None = read(module.learner) if kind == "written" else None
        self.family = (kind, loader.batch_size, *(() if self.alone else KINDS[kind](module.learner)))
        self.dtype = next(module.learner.parameters()).dtype
        self.wanted, self.begun, self.on_cpu = 0, False, module.device.type == "cpu"
        self.error: BaseException | None = None
        self.program: Any = None
        self.fetcher: Any = None
        observers = callbacks_of(trainer)
        default = L.Callback.on_before_optimizer_step
        self.before_step = [c for c in observers if type(c).on_before_optimizer_step is not default]
        self.interruptions = [c.request for c in observers if hasattr(c, "request")]
        self.scheduled = bool(trainer.lr_scheduler_configs)
        self.evolves, self.edits = Does.EVOLVES in module.rule.does, module.learner.edits
        self.periods = {p for c in observers if (p := save_every(c) or getattr(c, "every_n_steps", 0))}

    @property
    def key(self) -> Any:
        """Members with equal keys are trained by one program."""
        return self.family

    @property
    def signum(self) -> int:
        """The signal that has asked this run to end."""
        return next((request.signum for request in self.interruptions if request.signum), 0)

    @property
    def watched(self) -> bool:
        """Whether something happens between gradient and update of every step."""
        return bool(self.before_step) or self.edits or self.module.clip is not None

    def take(self, fetcher: Any) -> None:
        """Take all steps that come before the next observed one."""
        # the first step after a start is ordinary: it restores a resumed run, and measurements prepare themselves
        self.fetcher, self.wanted, self.begun = fetcher, self._unobserved() if self.begun else 0, True
        if self.lane.measured and not self.alone and self.own_seconds is None and self.wanted > STEPS:
            self._own(1)  # which allocates the memory of autograd
            start = self.lane.cpu()
            taken = self._own(STEPS)
            self.own_seconds = per_step(self.lane.cpu() - start, taken) if taken else None
        if self.alone:
            self._own(self.wanted)
        elif self.wanted:
            self.lane.joint_steps(self, self.compose)
        if self.lane.note:
            log.info("%s", self.lane.note)
            self.lane.note = ""

    def _own(self, steps: int) -> int:
        taken = own_steps(self, steps, lambda: bool(self.signum))
        self.wanted -= taken
        return taken

    def fetch(self) -> Batch:
        """The run's next batch, whose step has begun."""
        batch: Batch
        batch, _, _ = next(self.fetcher)
        begin_batch(self.loop, self.fetcher.done)
        inputs, targets = batch if self.on_cpu else self.trainer.strategy.batch_to_device(batch)
        return (inputs.to(self.dtype) if inputs.is_floating_point() else inputs), targets

    def attempt(self, part: Callable[[], object]) -> None:
        """Carry out a part of a step, unless an earlier part has failed; what it raises is raised in the run later."""
        if self.error is None:
            try:
                part()
            except Exception as error:
                self.error = error

    def diverge(self, batch: Batch, loss: Tensor) -> None:
        """Raise the error of a loss that is not finite."""
        raise NonFiniteLossError.of(self.module.network, batch[0], loss, self.module.global_step)

    def before_update(self) -> None:
        """What happens between the gradient, which is in `.grad`, and the optimiser's step."""
        if self.edits:
            self.learner.edit_gradients(self.module.progress())
        if self.module.clip is not None:
            self.module.clip_now()
        for callback in self.before_step:
            callback.on_before_optimizer_step(self.trainer, self.module, self.optimizer)

    def after_update(self) -> None:
        """What follows the optimiser's step."""
        step_taken(self.loop)
        if self.evolves:
            self.learner.after_step(self.module.progress())
        if self.scheduled:
            self.module.schedule("step")
        end_batch(self.loop)

    def _unobserved(self) -> int:
        """The number of steps before the next observed one."""
        now = counts_of(self.loop)
        if not now[0]:
            return 0
        return next((n for n in range(LONGEST) if self._observed(*(count + n + 1 for count in now))), LONGEST)

    def _observed(self, batch: int, total: int, step: int, logged: int) -> bool:
        """Whether something observes the step after which these are the numbers of batches and steps."""
        trainer, every = self.trainer, setting(self.trainer, "log_every_n_steps")
        if batch >= trainer.num_training_batches or step == trainer.max_steps:
            return True
        if every and (step % every == 0 or logged % every == 0):
            return True
        validates = setting(trainer, "val_check_batch")
        if validates is None or (validates != float("inf") and (batch % validates == 0 or total % validates == 0)):
            return True
        return any(step % period == 0 for period in self.periods)

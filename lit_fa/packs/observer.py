"""The callback by which a run takes part in the joint steps of its pack."""

import logging
from typing import Any

import lightning as L

from lit_fa.modules import Classifier
from lit_fa.packs.lanes import Lane
from lit_fa.packs.member import Kind, Member
from lit_fa.packs.program import compose
from lit_fa.packs.reasons import why_alone
from lit_fa.rules.mapping import why_not_stacked

log = logging.getLogger(__name__)
HOW = {
    "own": "by autograd, in turns with the other runs of its pack",
    "mapped": "by vmap, with the other runs of its pack",
}


class JoinPack(L.Callback):
    """Lets the run's training loop take joint steps, or logs in one line why it trains alone.

    The module's attribute `packed`, which checkpoints keep and the record repeats, says how it was trained.

    Args:
        lane: of the run.
    """

    def __init__(self, lane: Lane[Any]):
        """See the class."""
        self.lane, self.joined = lane, False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Join, or say why not."""
        loop: Any = trainer.fit_loop.epoch_loop
        if reason := why_alone(trainer, pl_module):
            log.info("trained alone: %s", reason)
            return
        assert isinstance(pl_module, Classifier)  # any other module has a reason
        kind: Kind = "written"
        if reason := pl_module.gradients.why_not_written(pl_module):
            maps = self.lane.maps or pl_module.device.type == "cuda"
            kind = "own" if not maps or why_not_stacked(pl_module.learner) else "mapped"
            log.info("trained %s: %s", HOW[kind], reason)
        member = Member(self.lane, trainer, pl_module, compose, kind)
        self.lane.joined, loop.joint, self.joined = member, member.take, True

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Note how the run was trained, for its record after a kill; that callback is saved later."""
        self._note(pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note how the run was trained."""
        self._note(pl_module)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """As `on_train_end`, for the record of a run that diverged."""
        self._note(pl_module)

    def _note(self, module: Any) -> None:
        if self.joined:
            step = "autograd" if self.lane.joined is None or self.lane.joined.alone else self.lane.joined.kind
            module.packed = {"lanes": self.lane.lanes, "step": step, "times": "own part and share of joint steps"}

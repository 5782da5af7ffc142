"""A fault at a step or an epoch of a fit, as `LIT_FA_FAULT` asks for it (see `lit_fa.faults`)."""

import lightning as L
import torch

from lit_fa.faults import Fault, asked


class NamedFault(L.Callback):
    """Sends this process a signal, or spoils a parameter, once a fit.

    Args:
        fault: what happens, and where.
    """

    def __init__(self, fault: Fault):
        """See the class."""
        self.fault = fault

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """A fault at an epoch's beginning."""
        if trainer.current_epoch == self.fault.epoch:
            self._happen(pl_module)

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        """A fault at a step."""
        if trainer.global_step == self.fault.step:
            self._happen(pl_module)

    @torch.no_grad()
    def _happen(self, module: L.LightningModule) -> None:
        if self.fault.what == "nan":
            next(p for p in module.parameters() if p.requires_grad).fill_(float("nan"))
        else:
            self.fault.send()


def named_faults() -> list[NamedFault]:
    """The callbacks of the fault that the environment asks for: at most one."""
    fault = asked()
    return [] if fault is None or fault.in_save else [NamedFault(fault)]

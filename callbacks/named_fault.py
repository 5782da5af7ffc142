"""Injects the fault of the environment variable `LIT_FA_FAULT` at a step or an epoch (see `lit_fa.faults`)."""

import lightning as L
import torch

from lit_fa.faults import Fault, asked


class NamedFault(L.Callback):
    """Sends a signal to this process, or sets a parameter to NaN, once per fit.

    Args:
        fault: its kind, and the step or epoch.
    """

    def __init__(self, fault: Fault):
        """See the class."""
        self.fault = fault

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """A fault at the beginning of an epoch."""
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
    """The callback for the fault of `LIT_FA_FAULT`, or an empty list."""
    fault = asked()
    return [] if fault is None or fault.in_save else [NamedFault(fault)]

"""The cost of a federated round: processor time, wall time, and the memory of one client's step."""

import time
from typing import Any

import lightning as L
from torch import Tensor

from lit_fa.callbacks.live_bytes import step_bytes
from lit_fa.callbacks.probe import learner_of
from lit_fa.rules.base import Does


class RoundCost(L.Callback):
    """Logs the time of every round and, once, the bytes of a step and of a round:

    * `cost/round_s`: wall time of the round, in seconds; `cost/round_cpu_s`: processor time of all threads of this
      process, in seconds;
    * `cost/local_epoch_s`: processor time of one epoch of every client of the round: the former, divided by the samples
      that were used and multiplied by the samples that the clients have;
    * `cost/step_bytes`: peak of live tensor bytes in one client's first local step (activations, gradients, tensors
      saved for the backward pass), without parameters and data; `cost/streamed_step_bytes`: the same if a rule with
      stop-gradients releases each block before the next;
    * `cost/round_bytes`: bytes that a client receives and returns in a round, without client states.
    """

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Start the clocks; before that, in the first round, count the bytes."""
        if trainer.global_step == 0:
            pl_module.choose_layers(batch.number)
            pl_module.log("cost/round_bytes", float(pl_module.client_bytes(batch)))
            self._count(pl_module, batch.batch(0, 0))
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: object, batch: Any, batch_idx: int
    ) -> None:
        """Read the clocks and log the times."""
        wall, cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu
        epochs = int(batch.rows.sum()) / sum(batch.sizes)
        pl_module.log_dict({"cost/round_s": wall, "cost/round_cpu_s": cpu, "cost/local_epoch_s": cpu / epochs})

    def _count(self, module: L.LightningModule, batch: tuple[Tensor, Tensor]) -> None:
        module.log("cost/step_bytes", float(step_bytes(learner_of(module), batch)))
        if Does.STREAMS in learner_of(module).rule.does:
            module.log("cost/streamed_step_bytes", float(step_bytes(learner_of(module), batch, stream=True)))

"""What a federated round costs: processor time, wall time, and the memory one client needs for a step."""

import time

import lightning as L
from torch import Tensor

from callbacks.live_bytes import step_bytes


class RoundCost(L.Callback):
    """Logs `cost/round_s`, `cost/round_cpu_s`, `cost/local_epoch_s` and, once, `cost/step_bytes`, `cost/round_bytes`.

    cost/round_s: seconds of wall time of the last round; cost/round_cpu_s: seconds of processor time, all threads of
    this process; cost/local_epoch_s: the latter over the samples seen, times the samples that the round's clients have:
    one epoch of every client. cost/step_bytes: most tensor bytes alive at once in one client's first local step
    (activations, gradients, what the backward pass keeps), parameters and data apart; cost/streamed_step_bytes: the
    same when a rule with cuts frees each block before the next. cost/round_bytes: what a client receives and hands back
    in a round, but for a state of its own.
    """

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch, batch_idx: int) -> None:
        """Start the clocks; in the first round count bytes before."""
        if trainer.global_step == 0:
            pl_module.choose_layers(batch.number)
            pl_module.log("cost/round_bytes", float(pl_module.client_bytes(batch)))
            self._count(pl_module, batch.batch(0, 0))
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs, batch, batch_idx: int
    ) -> None:
        """Read the clocks."""
        wall, cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu
        epochs = int(batch.rows.sum()) / sum(batch.sizes)
        pl_module.log_dict({"cost/round_s": wall, "cost/round_cpu_s": cpu, "cost/local_epoch_s": cpu / epochs})

    def _count(self, module: L.LightningModule, batch: tuple[Tensor, Tensor]) -> None:
        module.log("cost/step_bytes", float(step_bytes(module.learner, batch)))
        if module.learner.rule.streams:
            module.log("cost/streamed_step_bytes", float(step_bytes(module.learner, batch, stream=True)))

"""What a federated round costs: processor time, wall time, and the memory one client needs for a step."""

import gc
import time
import weakref

import lightning as L
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lit_fa.layers.observing import observing


class RoundCost(L.Callback):
    """Logs `cost/round_s`, `cost/round_cpu_s`, `cost/local_epoch_s` and, once, `cost/step_bytes` and the like.

    cost/round_s: seconds of wall time of the last round; cost/round_cpu_s: seconds of processor time, all threads of
    this process; cost/local_epoch_s: the latter over the samples seen, times the samples that the round's clients have:
    one epoch of every client. cost/step_bytes: most tensor bytes alive at once in one client's first local step
    (activations, gradients, what the backward pass keeps), parameters and data apart; cost/streamed_step_bytes: the
    same when a rule with cuts frees each block before the next.
    """

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch, batch_idx: int) -> None:
        """Start the clocks; in the first round count bytes before."""
        if trainer.global_step == 0:
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


class LiveBytes(TorchDispatchMode):
    """Bytes of the tensor storages made inside that are alive, and the most there were."""

    def __init__(self):
        """Nothing is alive yet."""
        super().__init__()
        self.bytes = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        """Run the operation; meet what it makes."""
        before = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._meet(tensor.untyped_storage(), before)
        return out

    def _meet(self, storage: torch.UntypedStorage, before: set[int]) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in before or key in self._known:
            return
        self._known.add(key)
        self.bytes += size
        self.peak = max(self.peak, self.bytes)
        weakref.finalize(storage, self._leave, key, size)

    def _leave(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.bytes -= size


def step_bytes(learner: torch.nn.Module, batch: tuple[Tensor, Tensor], *, stream: bool = False) -> int:
    """Most tensor bytes alive at once while `learner` computes the gradients of one batch; it is left as it was."""
    gc.collect()
    with observing(learner), LiveBytes() as live:
        if stream:
            learner.stream(batch, Tensor.backward)
        else:
            learner(batch).value.backward()
    return live.peak

"""Lightning's strategy for layer-parallel training: `--trainer.strategy layer_parallel`.

Every rank has the modules of the whole network, and runs and trains one stage of it. All ranks get the same batches.
Gradients and the optimiser's state exist where a parameter is trained; weights are gathered at the end of an epoch,
before validation and before a checkpoint, which is that of one process.
"""

from collections import deque
from typing import Any, Literal, get_args

import lightning as L
import torch
from lightning.pytorch.callbacks import OnExceptionCheckpoint, WeightAveraging
from lightning.pytorch.strategies import DDPStrategy, StrategyRegistry
from torch import Tensor
from torch import distributed as dist

from lit_fa.errors import UserError, not_one_of
from lit_fa.lightning_privates import callbacks_of, keep_sampler
from lit_fa.modules.averages import renews_statistics
from lit_fa.parallel.examine import examine
from lit_fa.parallel.link import Link
from lit_fa.parallel.pipeline import Pipeline
from lit_fa.parallel.schedule import Schedule
from lit_fa.parallel.stages import plan
from lit_fa.rules.base import Batch
from lit_fa.stage_strategy import StageStrategy

WORD = "layer_parallel"
SAMPLES = 8  # of the first batch, on which stages are examined


class LayerParallelStrategy(DDPStrategy, StageStrategy):
    """Trains the stages of one network on several ranks.

    Args:
        schedule: `sync`: every update is that of one process. `full`: a stage does not wait for the error of its own
            batch; stage s of S applies it S - 1 - s batches late. Both are the same, and exact, for rules that need no
            error (DRTP, Forward-Forward, local losses).
        splits: names of the modules that end all stages but the last; None: by the cost of blocks.
        options: further options of Lightning's `DDPStrategy` about processes: `process_group_backend`, `timeout`,
            `cluster_environment`, ...

    Raises:
        UserError: an unknown schedule; when training starts, a rule or an option that does not work in stages.
    """

    strategy_name = WORD

    def __init__(self, schedule: Literal["sync", "full"] = "sync", splits: list[str] | None = None, **options: Any):
        """See the class."""
        if schedule not in get_args(Schedule):
            raise UserError(not_one_of("schedule", get_args(Schedule), schedule))
        super().__init__(**options)
        self.schedule: Schedule = schedule
        self.splits = splits
        self.pipeline: Pipeline | None = None
        self._asked: deque[tuple[Any, Tensor]] = deque()

    @property
    def world_size(self) -> int:
        """1: the number of shares into which a batch is divided."""
        return 1

    @property
    def stages(self) -> int:
        """The number of ranks."""
        return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1

    @property
    def distributed_sampler_kwargs(self) -> dict[str, Any]:
        """One share, for every rank."""
        return {"num_replicas": 1, "rank": 0}

    def setup(self, trainer: L.Trainer) -> None:
        """As usual, with whole batches for every rank."""
        self.pipeline = None
        self._asked.clear()
        keep_sampler(trainer)
        super().setup(trainer)

    def configure_ddp(self) -> None:
        """No wrapper: all ranks start with the tensors of rank 0."""
        assert self.model is not None
        for tensor in self.model.state_dict().values():
            dist.broadcast(tensor, 0)

    def end_epoch(self) -> None:
        """Apply all updates; called at the end of an epoch also if `max_steps` ends it."""
        if self.pipeline is not None:
            self.pipeline.end_epoch()

    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        """The step of this rank's stage."""
        module: Any = self.lightning_module
        if renews_statistics(module.trainer):
            return super().training_step(batch, batch_idx)
        with self.precision_plugin.train_step_context():
            if self.pipeline is None:
                self.pipeline = self._pipeline(module, batch)
            return self.pipeline.step(batch, batch_idx)

    def on_train_end(self) -> None:
        """Give every rank the weights of all stages, also after `max_steps`."""
        if self.pipeline is not None:
            self.pipeline.drain()
            self.pipeline.gather()

    def on_validation_start(self) -> None:
        """Give every rank the weights of all stages as they are; no update is brought forward."""
        self.gather()

    def gather(self) -> None:
        """Give every rank the weights of all stages. A collective call."""
        if self.pipeline is not None:
            self.pipeline.gather()

    def reduce(self, tensor: Any, group: Any = None, reduce_op: Any = "mean") -> Any:
        """Nothing: there is one share of a batch."""
        return tensor

    def reduce_boolean_decision(self, decision: bool, all: bool = True) -> bool:
        """As its name says, over the ranks."""
        votes = torch.tensor(int(decision), device=self.root_device)
        if self.stages > 1:
            dist.all_reduce(votes)
        return int(votes) == self.stages if all else bool(votes)

    def any_rank(self, signum: int) -> int:
        """The largest number that a rank has given some batches ago, so that no stage waits for another here."""
        asked = torch.tensor(signum, device=self.root_device)
        self._asked.append((dist.all_reduce(asked, op=dist.ReduceOp.MAX, async_op=True), asked))
        if len(self._asked) <= self.stages:
            return 0
        work, asked = self._asked.popleft()
        work.wait()
        return int(asked)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The weights of all stages, after all their updates."""
        if self.pipeline is not None:
            self.pipeline.drain()
            self.pipeline.sum_totals()
            self.pipeline.gather()
        return super().lightning_module_state_dict()

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """That of one process: on rank 0 with the entries of all stages."""
        own = super().optimizer_state(optimizer)
        if self.pipeline is None:
            return own
        states = self._to_first(own["state"])
        return own | {"state": {key: value for state in states for key, value in state.items()}}

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """Merge what the ranks have of an open accumulation window, so that the file is that of one process."""
        if isinstance(states := checkpoint.get("lit_fa"), list) and len(states) > 1:
            windows = [state["window"] for state in states]
            grads = {name: grad for window in windows for name, grad in window.get("grads", {}).items()}
            checkpoint["lit_fa"] = [states[0] | {"window": windows[0] | ({"grads": grads} if windows[0] else {})}]
        super().save_checkpoint(checkpoint, filepath, storage_options)

    def total_norm(self, grads: list[Tensor]) -> Tensor:
        """The norm of the gradients of all stages."""
        assert self.pipeline is not None
        return self.pipeline.total_norm(grads)

    def teardown(self) -> None:
        """As usual."""
        self.pipeline = None
        super().teardown()

    def _to_first(self, own: Any) -> list[Any]:
        """What all ranks give, on rank 0; elsewhere the own."""
        if self.global_rank:
            dist.gather_object(own, dst=0)
            return [own]
        states: list[Any] = [None] * self.stages
        dist.gather_object(own, states, dst=0)
        return states

    def _pipeline(self, module: Any, batch: Batch) -> Pipeline:
        """Split the network, and check that the run works in stages."""
        check(module, self.stages)
        few: Batch = (batch[0][:SAMPLES], batch[1][:SAMPLES])
        split = plan(module.learner, few, self.stages, self.splits)
        found = examine(module.learner, split, few)
        if self.schedule == "full" and found.error and self.stages > 1:
            _check_late(module)
        self._check_batches(batch)
        for name, p in module.learner.named_parameters():
            if found.owners.get(name) != self.global_rank:
                p.grad = None
                for optimizer in module.trainer.optimizers:
                    optimizer.state.pop(p, None)
        if self.global_rank:
            module.totals[:2] = 0  # of a resumed epoch: those of the first rank count
        pipeline = Pipeline(module, split, found, self.global_rank, self.schedule, Link(self.root_device))
        pipeline.fed = module.window.batches
        return pipeline

    def _check_batches(self, batch: Batch) -> None:
        """Refuse ranks with different batches."""
        sums = torch.stack([batch[0].double().sum(), batch[1].double().sum()]).to(self.root_device)
        first = sums.clone()
        dist.broadcast(first, 0)
        different = self.reduce_boolean_decision(not torch.equal(first, sums), all=False)
        if different:
            raise UserError(f"strategy: {WORD}: the ranks have different batches: set seed_everything")


def check(module: Any, stages: int) -> None:
    """Refuse what does not work in stages.

    Raises:
        UserError: names the option and the remedy.
    """
    if not hasattr(module, "window"):
        raise UserError(f"strategy: {WORD} divides one network, and clients train whole ones: set strategy: ddp")
    if stages == 1:
        raise UserError(f"strategy: {WORD} with one device has nothing to divide: set strategy: auto, or devices: 2")
    learner = module.learner
    if learner._compiled_call_impl is not None:
        raise UserError(f"strategy: {WORD} replaces modules within a step: set compile: false")
    if module.stream:
        raise UserError(f"strategy: {WORD} has one stage in memory already: set stream: false")
    for callback in callbacks_of(module.trainer):
        name = type(callback).__name__
        if isinstance(callback, WeightAveraging):
            raise UserError(f"{name} averages whole weights at every step, which no rank has: set strategy: ddp")
        if type(callback).on_before_optimizer_step is not L.Callback.on_before_optimizer_step:
            raise UserError(f"{name} reads the gradients of all layers, which no rank has: leave it out, or set ddp")
        if isinstance(callback, OnExceptionCheckpoint) or getattr(callback, "save_on_exception", False):
            raise UserError(f"{name}: a rank that fails cannot collect the stages of the others: leave it out")


def _check_late(module: Any) -> None:
    if module.accumulate > 1:
        raise UserError("schedule: full with an error takes a step per batch: set accumulate: 1, or schedule: sync")
    if module.clip is not None and module.clip_by == "norm" and not module.parts:
        raise UserError(
            "clip by one norm over all stages would make them wait for one another: set clip_by: value, or "
            "schedule: sync"
        )


if WORD not in StrategyRegistry.available_strategies():
    StrategyRegistry.register(WORD, LayerParallelStrategy, description="The blocks of one network on several ranks")

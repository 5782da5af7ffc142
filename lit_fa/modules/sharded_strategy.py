"""The strategy `fsdp2`: parameters, feedback, gradients and optimiser state divided among ranks (torch's FSDP2).

Lightning's `ModelParallelStrategy` starts the processes. The module is built, restored and prepared whole on every
rank, and divided just before its optimiser is made. So a rule is installed as on one device, and a checkpoint is the
ordinary one whatever wrote it.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.constants import default_pg_timeout
from torch.optim import Optimizer

from lit_fa.checkpoints import files, sharded
from lit_fa.errors import UserError
from lit_fa.layers.sharding import assign, equal_on_ranks, is_divided, like, local, sharded_units, whole
from lit_fa.lightning_privates import mesh_of_ranks
from lit_fa.rules.learner import Learner

NAME = "fsdp2"
BATCH_NORM = nn.modules.batchnorm._BatchNorm


class FullyShardedStrategy(ModelParallelStrategy):
    """Divides the learner of a `Classifier` among all ranks, block by block.

    Args:
        save_distributed_checkpoint: True: a checkpoint is a folder with one file for each rank; False: rank 0 gathers
            and writes the ordinary file. Both are read by runs of any strategy.
        process_group_backend: of torch.distributed; None: gloo on CPUs, nccl on GPUs.
        timeout: of a collective call.
    """

    def __init__(
        self,
        save_distributed_checkpoint: bool = True,
        process_group_backend: str | None = None,
        timeout: timedelta | None = default_pg_timeout,
    ):
        """See the class."""
        super().__init__(1, 1, save_distributed_checkpoint, process_group_backend, timeout)
        self.by_rank = save_distributed_checkpoint

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        """The module is restored while it is whole."""
        return False

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Lightning calls `load_optimizer_state_dict`."""
        return True

    def setup_environment(self) -> None:
        """Start the process group, with all ranks in the data-parallel dimension."""
        mesh_of_ranks(self)
        super().setup_environment()

    def setup(self, trainer: L.Trainer) -> None:
        """Prepare the whole module, divide it, then make the optimiser."""
        assert self.model is not None
        assert self.accelerator is not None
        self.accelerator.setup(trainer)
        fitting, module = trainer.state.fn == TrainerFn.FITTING, self.lightning_module
        if not sharded_units(self.model):
            self.model = self.precision_plugin.convert_module(self.model)
            self.model_to_device()
            equal_on_ranks(self.model)
            if fitting:
                self._classifier_of(module).prepare_once()
            self._learner().shard(self.device_mesh["data_parallel"])
        self.barrier()
        if fitting:
            self.setup_optimizers(trainer)
        self.setup_precision_plugin()

    @contextmanager
    def block_backward_sync(self) -> Iterator[None]:
        """Within, gradients are summed on each rank and not reduced."""
        units = sharded_units(self._learner())
        for unit in units:
            unit.set_requires_gradient_sync(False, recurse=False)
        try:
            yield
        finally:
            for unit in units:
                unit.set_requires_gradient_sync(True, recurse=False)

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """As Lightning's, with rank 0's statistics of batch normalisation."""
        self._share_statistics()
        return super().training_step(*args, **kwargs)

    def validation_step(self, *args: Any, **kwargs: Any) -> Any:
        """As Lightning's, with rank 0's statistics of batch normalisation."""
        self._share_statistics()
        return super().validation_step(*args, **kwargs)

    def test_step(self, *args: Any, **kwargs: Any) -> Any:
        """As Lightning's, with rank 0's statistics of batch normalisation."""
        self._share_statistics()
        return super().test_step(*args, **kwargs)

    def predict_step(self, *args: Any, **kwargs: Any) -> Any:
        """As Lightning's, with rank 0's statistics of batch normalisation."""
        self._share_statistics()
        return super().predict_step(*args, **kwargs)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """This rank's tensors, or if checkpoints are ordinary files the whole ones, on rank 0 alone."""
        assert self.lightning_module is not None
        state = self.lightning_module.state_dict()
        return state if self.by_rank else self._on_rank_0(state)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The same for the state of an optimiser."""
        if isinstance(optimizer, LightningOptimizer):
            optimizer = optimizer.optimizer
        content = optimizer.state_dict()
        if self.by_rank:
            return content
        state = {index: self._on_rank_0(entries) for index, entries in content["state"].items()}
        return {**content, "state": state}

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Load whole tensors, also into a module that is already divided."""
        module = self.lightning_module
        assert module is not None
        if not sharded_units(module):
            module.load_state_dict(checkpoint["state_dict"], strict=strict)
            return
        own = module.state_dict()
        if strict and own.keys() != checkpoint["state_dict"].keys():
            raise UserError("the checkpoint is of another network or another rule: give the config of its run")
        for name, tensor in own.items():
            if name in checkpoint["state_dict"]:
                assign(tensor, checkpoint["state_dict"][name])

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Divide whole states as the parameters are."""
        for optimizer, content in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            params = [p for group in optimizer.param_groups for p in group["params"]]
            state = {
                index: {key: _as_state(params[index], value) for key, value in entries.items()}
                for index, entries in content["state"].items()
            }
            optimizer.load_state_dict({**content, "state": state})

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """Write the folder, on all ranks, or the file, on rank 0."""
        if not self.by_rank:
            if self.is_global_zero:
                self.checkpoint_io.save_checkpoint(checkpoint, filepath, storage_options=storage_options)
            return
        if "://" in str(filepath):
            raise UserError(f"{filepath}: a sharded checkpoint is a folder: set save_distributed_checkpoint: false")
        path = Path(self.broadcast(str(filepath)))
        folder = sharded.part_of(path)
        if self.is_global_zero and folder.exists():
            sharded.discard(folder)
        self.barrier()
        files.save(self._rows(checkpoint), folder / sharded.file_name(self.global_rank, self.world_size))
        self.barrier()
        if self.is_global_zero:
            sharded.publish(path)
        self.barrier()

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """The ordinary checkpoint of a file or a folder, whole on every rank."""
        torch.cuda.empty_cache()
        return self.checkpoint_io.load_checkpoint(self.broadcast(str(checkpoint_path)), weights_only=weights_only)

    def _rows(self, checkpoint: dict[str, Any]) -> dict[str, Any]:
        """What this rank writes: its rows, and on rank 0 everything else."""
        rows = sharded.rows_in(checkpoint)
        state = checkpoint["state_dict"]
        rows["state_dict"] = [name for name, tensor in state.items() if is_divided(tensor)]
        own: dict[str, Any] = {"state_dict": {name: _stored(state[name]) for name in rows["state_dict"]}}
        if "optimizer_states" in checkpoint:
            own["optimizer_states"] = []
        for number, content in enumerate(checkpoint.get("optimizer_states", [])):
            places = [(i, k) for i, entries in content["state"].items() for k, v in entries.items() if is_divided(v)]
            rows["optimizer_states"][number] = places
            entries = {i: {k: _stored(v) for k, v in e.items()} for i, e in content["state"].items()}
            own["optimizer_states"].append({**content, "state": entries})
        if self.is_global_zero:
            whole_ones = {name: tensor for name, tensor in state.items() if not is_divided(tensor)}
            own = checkpoint | own | {"state_dict": {name: {**whole_ones, **own["state_dict"]}[name] for name in state}}
        return own | {sharded.SHARDS: rows}

    def _on_rank_0(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """Whole copies on the CPU; nothing on other ranks. A collective call."""
        gathered = {}
        for name, tensor in tensors.items():
            complete = whole(tensor).cpu() if is_divided(tensor) else tensor
            if self.is_global_zero:
                gathered[name] = complete
        return gathered

    def _learner(self) -> Learner:
        return self._classifier_of(self.lightning_module).learner

    @staticmethod
    def _classifier_of(module: Any) -> Any:
        if not isinstance(getattr(module, "learner", None), Learner) or not hasattr(module, "prepare_once"):
            raise UserError(f"strategy {NAME} divides a Classifier, not a {type(module).__name__}: set ddp")
        return module

    def _share_statistics(self) -> None:
        for module in self._learner().modules():
            if isinstance(module, BATCH_NORM):
                for b in module.buffers():
                    dist.broadcast(b, 0)


def _stored(value: Any) -> Any:
    """A tensor as it is written: this rank's rows, without the memory around them."""
    return local(value).clone() if is_divided(value) else value


def _as_state(p: Tensor, value: Any) -> Any:
    """An entry of an optimiser's state, divided as its parameter is."""
    if not isinstance(value, Tensor) or value.ndim == 0:
        return value
    if value.shape != p.shape:
        raise UserError(
            f"{NAME} cannot resume an optimiser whose state has other shapes than its parameters: take SGD or Adam"
        )
    return like(p, value)


StrategyRegistry.register(NAME, FullyShardedStrategy, description="parameters and feedback divided among ranks")
StrategyRegistry.register(
    f"{NAME}_file", FullyShardedStrategy, description="with ordinary checkpoints", save_distributed_checkpoint=False
)

"""What a trainer's strategy does with ranks and weights, for the refusals of `trainer_options`."""

import os
from typing import Any

import lightning as L
from lightning.pytorch import callbacks as shipped
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy

from lit_fa import lightning_privates as privates
from lit_fa.modules.sharded_strategy import FullyShardedStrategy

DIVIDING = (DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy)  # they divide weights among ranks


def ddp_option(trainer: L.Trainer, name: str) -> Any:
    """The value of an option of `DDPStrategy`; None if it is not given, or for another strategy."""
    return privates.ddp_options(trainer.strategy).get(name) if isinstance(trainer.strategy, DDPStrategy) else None


def ignores_hooks(trainer: L.Trainer, module: L.LightningModule) -> bool:
    """Whether Lightning would ignore a communication hook, or a period of model averaging."""
    hooks = any(ddp_option(trainer, f"ddp_comm_{part}") is not None for part in ("state", "hook", "wrapper"))
    averages = ddp_option(trainer, "model_averaging_period") is not None
    on_cpu = (hooks or averages) and trainer.strategy.root_device.type != "cuda"
    return on_cpu or (averages and ddp_option(trainer, "ddp_comm_state") is None)


def starts_several(trainer: L.Trainer) -> bool:
    """Whether a launcher such as torchrun has started more processes than the trainer counts."""
    started = os.environ.get("WORLD_SIZE", "")
    ranks = max(trainer.world_size, trainer.num_nodes * trainer.num_devices)  # stages of a network share no batch
    return started.isdecimal() and int(started) > ranks


def divides(trainer: L.Trainer) -> bool:
    """Whether the strategy is `fsdp2`."""
    return isinstance(trainer.strategy, FullyShardedStrategy)


def needs_whole(trainer: L.Trainer) -> list[str]:
    """Names of the callbacks that copy or replace the module's parameters, or follow them through the optimiser."""
    kinds = (shipped.WeightAveraging, shipped.StochasticWeightAveraging, shipped.ModelPruning, shipped.BaseFinetuning)
    found = privates.callbacks_of(trainer)
    return [type(c).__name__ for c in found if isinstance(c, kinds) or getattr(c, "needs_whole_module", False)]


def syncs(trainer: L.Trainer) -> bool:
    """Whether BatchNorm has the statistics of all ranks."""
    return privates.syncs_batch_norm(trainer.strategy) and trainer.world_size > 1

"""Strategies, numbers of devices and synchronised statistics that a module refuses, each in one line."""

import lightning as L
from torch import nn

from lit_fa import lightning_privates as privates
from lit_fa.modules.refusals import Refusal, federated, rule_of
from lit_fa.modules.strategy_options import (
    DIVIDING,
    ddp_option,
    divides,
    ignores_hooks,
    needs_whole,
    starts_several,
    syncs,
)
from lit_fa.rules.base import Does

BATCH_NORM = nn.modules.batchnorm._BatchNorm


def loses_hooks(trainer: L.Trainer, module: L.LightningModule) -> bool:
    """Whether `sync_batchnorm` would replace a layer on which the rule has a hook."""
    watched = (m._forward_hooks or m._forward_pre_hooks for m in module.modules() if isinstance(m, BATCH_NORM))
    return syncs(trainer) and any(watched)


def _whole_only(trainer: L.Trainer, module: L.LightningModule) -> bool:
    """Whether the module has an option that does not work on divided parameters."""
    compiled = getattr(getattr(module, "learner", None), "_compiled_call_impl", None) is not None
    return compiled or getattr(module, "adapters", None) is not None or federated(module)


STRATEGY_REFUSALS = (
    Refusal(
        "strategy",
        lambda trainer, _: isinstance(trainer.strategy, DIVIDING) and not divides(trainer),
        "trainer.strategy: a rule reads whole weights by name, which this one divides: set fsdp2 or ddp",
    ),
    Refusal(
        "strategy",
        lambda trainer, _: divides(trainer) and trainer.world_size == 1,
        "trainer.strategy: fsdp2 divides a module among devices, and this is one: set trainer.devices, or leave it out",
    ),
    Refusal(
        "strategy",
        lambda trainer, module: divides(trainer) and _whole_only(trainer, module),
        "trainer.strategy: fsdp2 is for a Classifier without compile and without adapter: set ddp",
    ),
    Refusal(
        "strategy",
        lambda trainer, _: divides(trainer) and bool(needs_whole(trainer)),
        "trainer.strategy: fsdp2 divides the parameters that a callback copies, replaces or follows (weight averaging, "
        "ModelPruning, BaseFinetuning, ConservationPotential, DeployedCost): set ddp, or leave the callback out",
    ),
    Refusal(
        "strategy",
        lambda trainer, module: bool(ddp_option(trainer, "static_graph")) and getattr(module, "accumulate", 1) > 1,
        "trainer.strategy: static_graph expects a reduction in every backward pass: leave it out, or set "
        "model.init_args.accumulate: 1",
    ),
    Refusal(
        "strategy",
        ignores_hooks,
        "trainer.strategy: communication hooks and model averaging are for several GPUs, and averaging needs "
        "ddp_comm_state; Lightning would ignore them here: leave them out",
    ),
    Refusal(
        "devices",
        lambda trainer, module: trainer.world_size > 1 and not federated(module) and Does.SUMS in rule_of(module).does,
        "devices average over samples, which target_reduction: sum does not: set it to mean",
    ),
    Refusal(
        "devices",
        lambda trainer, _: starts_several(trainer),
        "trainer.devices: WORLD_SIZE says that more processes were started than the trainer counts, and each would "
        "train alone: set trainer.devices, and trainer.num_nodes, to the processes of torchrun",
    ),
    Refusal(
        "strategy",
        lambda trainer, _: privates.start_method(trainer.strategy) in ("spawn", "forkserver"),
        "trainer.strategy: a network with a rule cannot be pickled for a spawned process: set ddp",
    ),
    Refusal(
        "sync_batchnorm",
        lambda trainer, module: syncs(trainer) and trainer.strategy.root_device.type == "cpu",
        "trainer.sync_batchnorm is for GPUs alone: leave it out, or set accelerator: gpu",
    ),
    Refusal(
        "sync_batchnorm",
        loses_hooks,
        "trainer.sync_batchnorm replaces layers behind which the rule has a cut: leave it out, or name other blocks",
    ),
)

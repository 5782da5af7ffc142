"""Options of Lightning's trainer and callbacks that a classifier refuses, each with one line that names the remedy.

`docs/lightning.md` lists all options and callbacks, supported or not; a test compares it with this file.
"""

import inspect
from collections.abc import Iterable

import lightning as L
import torch
from lightning.pytorch import callbacks as shipped
from torch import optim

from lit_fa import lightning_privates as privates
from lit_fa.errors import UserError
from lit_fa.modules.refusals import Refusal, federated, has, rule_of
from lit_fa.modules.strategy_refusals import STRATEGY_REFUSALS
from lit_fa.rules.base import Does

FP16 = ("16", "16-mixed", "16-true")
REPLACED = ("transformer-engine", "transformer-engine-float16", "bitsandbytes")  # they replace layers by their own


def precision_of(trainer: L.Trainer) -> str:
    """The name of the precision, also if it is given as a plugin."""
    plugin = trainer.precision_plugin
    return "bitsandbytes" if type(plugin).__name__.startswith("Bitsandbytes") else str(plugin.precision)


def skips_rounds(trainer: L.Trainer, module: L.LightningModule) -> bool:
    """Whether an epoch ends before its last round and is followed by another epoch."""
    limit, one = trainer.limit_train_batches, privates.setting(trainer, "fast_dev_run") or trainer.max_epochs in (0, 1)
    rounds = getattr(privates.setting(trainer, "datamodule"), "rounds_per_epoch", None)
    if not federated(module) or one or not limit or rounds is None:
        return False
    return limit < rounds if isinstance(limit, int) else limit < 1


def watches_skipped(trainer: L.Trainer, module: L.LightningModule) -> bool:
    """Whether early stopping counts rounds that are not validated."""
    watched = [c.monitor for c in privates.callbacks_of(trainer) if isinstance(c, shipped.EarlyStopping)]
    return getattr(module, "validate_every", 1) > 1 and any(str(name).startswith("val/") for name in watched)


def unfreezes_apart(trainer: L.Trainer, module: L.LightningModule) -> bool:
    """Whether weights would be unfrozen without their trained feedback."""
    trained = any(".feedback." in name and p.requires_grad for name, p in module.named_parameters())
    return trained and has(shipped.BaseFinetuning)(trainer, module)


def renames_weights(trainer: L.Trainer, module: L.LightningModule) -> bool:
    """Whether `ModelPruning` renames parameters that the rule or the federation reads by name."""
    by_name = federated(module) or rule_of(module).overrides & {Does.EDITS, Does.EVOLVES, Does.RESHAPES}
    return bool(by_name) and has(shipped.ModelPruning)(trainer, module)


def _counts_the_pair(trainer: L.Trainer, module: L.LightningModule) -> bool:
    return any(
        c.batch_size_fn is len for c in privates.callbacks_of(trainer) if isinstance(c, shipped.ThroughputMonitor)
    )


def _registered_in_vain(trainer: L.Trainer, module: L.LightningModule) -> bool:
    saves = [type(c).__name__ for c in privates.callbacks_of(trainer)]
    return privates.model_registry(trainer) is not None and "LitModelCheckpoint" not in saves


REFUSALS = (
    Refusal(
        "precision",
        lambda trainer, _: precision_of(trainer) in FP16,
        "trainer.precision: the gradient terms of a rule overflow in fp16: set bf16-mixed",
    ),
    Refusal(
        "precision",
        lambda trainer, _: precision_of(trainer) in REPLACED,
        "trainer.precision: this one replaces the layers that carry a rule's feedback: set bf16-mixed",
    ),
    Refusal(
        "gradient_clip_val",
        lambda trainer, module: bool(trainer.gradient_clip_val) and not federated(module),
        "trainer.gradient_clip_val is for automatic optimisation: set model.init_args.clip",
    ),
    Refusal(
        "gradient_clip_val",
        lambda trainer, module: bool(trainer.gradient_clip_val) and federated(module),
        "trainer.gradient_clip_val: the server's gradient is what clients moved: lower the rate of "
        "model.init_args.local_optimizer or model.init_args.optimizer",
    ),
    Refusal(
        "gradient_clip_algorithm",
        lambda trainer, _: trainer.gradient_clip_algorithm is not None,
        "trainer.gradient_clip_algorithm is for automatic optimisation: set model.init_args.clip and clip_by of a "
        "Classifier",
    ),
    Refusal(
        "accumulate_grad_batches",
        lambda trainer, module: trainer.accumulate_grad_batches != 1 and not federated(module),
        "trainer.accumulate_grad_batches is for automatic optimisation: set model.init_args.accumulate",
    ),
    Refusal(
        "accumulate_grad_batches",
        lambda trainer, module: trainer.accumulate_grad_batches != 1 and federated(module),
        "trainer.accumulate_grad_batches: a batch is a round: set data.init_args.clients_per_round or batch_size",
    ),
    Refusal(
        "GradientAccumulationScheduler",
        has(shipped.GradientAccumulationScheduler),
        "GradientAccumulationScheduler is for automatic optimisation: set model.init_args.accumulate of a Classifier, "
        "one number for the whole run",
    ),
    Refusal(
        "val_check_interval",
        lambda trainer, _: isinstance(every := getattr(trainer, "val_check_interval", 1), (int, float)) and every <= 0,
        "trainer.val_check_interval is positive: to leave validation out set limit_val_batches: 0",
    ),
    Refusal(
        "check_val_every_n_epoch",
        lambda trainer, _: trainer.check_val_every_n_epoch is not None and trainer.check_val_every_n_epoch < 1,
        "trainer.check_val_every_n_epoch is at least 1: to leave validation out set limit_val_batches: 0",
    ),
    Refusal(
        "overfit_batches",
        lambda trainer, module: privates.setting(trainer, "overfit_batches") > 0 and federated(module),
        "trainer.overfit_batches: every round draws clients anew: set data.init_args.data.init_args.limit_train",
    ),
    Refusal(
        "limit_train_batches",
        skips_rounds,
        "trainer.limit_train_batches leaves rounds of every epoch out, and schedules count them: set "
        "data.init_args.rounds_per_epoch",
    ),
    *STRATEGY_REFUSALS,
    Refusal(
        "model_registry",
        _registered_in_vain,
        "trainer.model_registry does nothing without checkpoints and the package litmodels: leave it out",
    ),
    Refusal(
        "BatchSizeFinder",
        has(shipped.BatchSizeFinder),
        "BatchSizeFinder trains before the rule is prepared, and batches here are split over devices: set "
        "data.init_args.batch_size",
    ),
    Refusal(
        "LearningRateFinder",
        has(shipped.LearningRateFinder),
        "LearningRateFinder trains before the rule is prepared: search the rate by lit-fa sweep (docs/sweeps.md), or "
        "set it in model.init_args.optimizer",
    ),
    Refusal(
        "BackboneFinetuning",
        has(shipped.BackboneFinetuning),
        "BackboneFinetuning wants a module named backbone: train the head first by model.init_args.probe, or give "
        "rates by layer_lr",
    ),
    Refusal(
        "BaseFinetuning",
        has(shipped.BaseFinetuning, exactly=True),
        "BaseFinetuning says nothing by itself: subclass it, or train the head first by model.init_args.probe",
    ),
    Refusal(
        "BaseFinetuning",
        lambda trainer, module: federated(module) and has(shipped.BaseFinetuning)(trainer, module),
        "BaseFinetuning: what a federation trains is fixed in its first round: freeze weights for the whole run, "
        "before the module is made",
    ),
    Refusal(
        "BaseFinetuning",
        unfreezes_apart,
        "BaseFinetuning unfreezes weights without the feedback that is trained beside them: leave it out, or take "
        "feedback that is fixed",
    ),
    Refusal(
        "ModelPruning",
        renames_weights,
        "ModelPruning renames weights that this rule, or the federation, reads by name: prune ranks by the rule's "
        "pruning (SVDBackprop, SVDSpaceAlignment), or use a rule that reads none",
    ),
    Refusal(
        "EarlyStopping",
        watches_skipped,
        "EarlyStopping counts rounds that validate_every leaves out: set validate_every: 1 and "
        "data.init_args.rounds_per_epoch",
    ),
    Refusal(
        "ThroughputMonitor",
        _counts_the_pair,
        "ThroughputMonitor: a batch is a pair, so its len is no number of samples: set batch_size_fn: "
        "callbacks.samples_of",
    ),
)


def check_trainer(trainer: L.Trainer, module: L.LightningModule) -> None:
    """Refuse the first unsupported option or callback of the trainer.

    Raises:
        UserError: the message of its refusal.
    """
    for refusal in REFUSALS:
        if refusal.applies(trainer, module):
            raise UserError(refusal.message)
    if privates.setting(trainer, "datamodule") is not None:
        _check_data(trainer, module)


def _check_data(trainer: L.Trainer, module: L.LightningModule) -> None:
    """Refuse rounds for a module that is not federated, other data for one that is, and float64 data for float32."""
    data, name = privates.setting(trainer, "datamodule"), type(module).__name__
    rounds, images = hasattr(data, "rounds_per_epoch"), hasattr(data, "eval_batch_size")
    if trainer.state.fn == "fit" and (images if federated(module) else rounds):
        wanted, other = ("Federated data", "Classifier") if federated(module) else ("plain data", "FederatedClassifier")
        raise UserError(f"{name} trains on {wanted}, not on {type(data).__name__}: take {other}, or other data")
    dtype = getattr(getattr(data, "data", data), "dtype", None)
    weights = [p.dtype for p in module.parameters()]
    if dtype == torch.float64 and torch.float64 not in weights and precision_of(trainer) != "64-true":
        raise UserError("the data's dtype is float64 and the network's is not: set trainer.precision: 64-true")


def check_precision(name: object) -> None:
    """Refuse a precision by its name in a config, before the trainer replaces it or needs its package."""
    for names, refusal in ((FP16, REFUSALS[0]), (REPLACED, REFUSALS[1])):
        if str(name) in names:
            raise UserError(refusal.message)


def check_optimizers(optimizers: Iterable[optim.Optimizer]) -> None:
    """Refuse an optimiser whose step evaluates the loss again (LBFGS).

    Raises:
        UserError: names it and the remedy.
    """
    for optimizer in optimizers:
        closure = inspect.signature(type(optimizer).step).parameters.get("closure")
        if closure is not None and closure.default is inspect.Parameter.empty:
            raise UserError(
                f"{type(optimizer).__name__} evaluates the loss several times a step, and a rule's update is no "
                "gradient of it: take SGD, Adam or another optimiser of one evaluation"
            )

"""What all classifiers share outside training: prediction, and loss and metrics on held-out data."""

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import lightning as L
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn
from torchmetrics import Metric

from lit_fa.checkpoints.lightning_io import use_whole_files
from lit_fa.checkpoints.loading import arguments, fill, read_checkpoint
from lit_fa.checkpoints.origin import check_origin, data_facts
from lit_fa.described import Described, imported
from lit_fa.errors import UserError
from lit_fa.lightning_privates import epoch_is_ending, setting, trainer_of, values_to_log
from lit_fa.modules.inputs import check_inputs, check_smallest_batch
from lit_fa.modules.metrics import build_metrics, predictions
from lit_fa.modules.restart import use_resumable_loops
from lit_fa.modules.shares import own_samples
from lit_fa.modules.timed_checkpoints import TimedCheckpoints, timed
from lit_fa.modules.trainer_options import check_optimizers, check_trainer
from lit_fa.networks import example_input
from lit_fa.rules.base import Batch, LearningRule
from lit_fa.rules.learner import Learner

SPLITS = ("val", "test")


class EvaluatedClassifier(Described, L.LightningModule):
    """A module with a `learner`; subclasses define the training step."""

    learner: Learner
    shown: tuple[int, ...] | None = None  # shape of one sample at `install`; None: texts
    loaded_from: str | Path | None = None  # the checkpoint of `load_from_checkpoint`
    measured: Mapping[str, Tensor] = MappingProxyType({})  # metrics of the checkpoint that is resumed
    unlogged: Mapping[str, Tensor] = MappingProxyType({})  # metrics of its epoch that were not yet logged

    def measure(self, num_classes: int, metrics: list[str] | None = None) -> None:
        """Create the metrics; called once, in the constructor."""
        self.metrics = nn.ModuleDict({split: build_metrics(metrics, num_classes) for split in SPLITS})

    def example(self, network: nn.Module, shape: tuple[int, ...]) -> Tensor:
        """The batch (2, ...) on which a rule is installed; its shape is stored.

        Args:
            network: before the rule is installed.
            shape: of one sample.
        """
        example = example_input(network, tuple(shape))
        self.shown = tuple(example.shape[1:]) if example.is_floating_point() else None
        return example

    @property
    def network(self) -> nn.Module:
        """The installed network."""
        return self.learner.network

    @property
    def rule(self) -> LearningRule:
        """The learning rule."""
        return self.learner.rule

    @property
    def optimizer(self) -> LightningOptimizer:
        """The optimiser, as Lightning wraps it."""
        optimizer = self.optimizers()
        assert isinstance(optimizer, LightningOptimizer)
        return optimizer

    def configure_callbacks(self) -> list[L.Callback]:
        """A callback for checkpoints by time. Lightning calls this first, so unsupported options are refused here."""
        check_trainer(self.trainer, self)
        use_whole_files(self.trainer)
        return [TimedCheckpoints()] if timed(self.trainer) else []

    def on_fit_start(self) -> None:
        """Check optimisers and data, which are known only now."""
        use_resumable_loops(self.trainer)
        check_optimizers(self.trainer.optimizers)
        validate_one_batch(self.trainer)
        self._compared = False
        if self.shown is not None:
            example = example_input(self.network, self.shown, 1)
            check_smallest_batch(self.trainer, self.learner, example)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Compare the shape of the first batch with that on which the rule was installed."""
        if not self._compared:
            first: Any = batch
            inputs, _ = first.batch(0, 0) if hasattr(batch, "rows") else batch  # a round: its first client's first step
            check_inputs(inputs, self.shown)
            self._compared = True

    def forward(self, inputs: Tensor) -> Tensor:
        """(n, ...) to (n, c) logits."""
        return self.learner.predict(inputs)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss and metrics on held-out data."""
        self._evaluate("val", batch, own_samples(self.trainer.val_dataloaders, batch_idx, len(batch[1])))

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss and metrics on test data."""
        self._evaluate("test", batch, own_samples(self.trainer.test_dataloaders, batch_idx, len(batch[1])))

    def on_validation_epoch_end(self) -> None:
        """Metrics in percent."""
        self._log_metrics("val")

    def on_test_epoch_end(self) -> None:
        """Metrics in percent."""
        self._log_metrics("test")

    def score(self, batches: Iterable[Batch]) -> dict[str, float]:
        """Metrics, in percent, of the current predictions on `batches`; nothing is logged."""
        metrics = copy.deepcopy(self._metrics("test"))
        for metric in metrics.values():
            metric.reset()
        for inputs, targets in batches:
            predicted = predictions(self(inputs))
            for metric in metrics.values():
                metric.update(predicted, targets)
        return {name: 100 * metric.compute().item() for name, metric in metrics.items()}

    def predict_step(self, batch: Batch | Tensor, batch_idx: int) -> Tensor:
        """Logits (n, c)."""
        return self._measured(batch[0] if isinstance(batch, (tuple, list)) else batch)

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]  # Lightning declares its own types of files
        cls,
        checkpoint_path: str | Path,
        map_location: Any = None,
        hparams_file: None = None,
        strict: bool | None = None,
        weights_only: bool = True,
        **given: object,
    ) -> Self:
        """The trained module, rebuilt from the checkpoint alone; no pretrained weights are downloaded or read.

        Args:
            checkpoint_path: of a fit.
            map_location: as for `torch.load`; None: the device of the run.
            hparams_file: not used; the checkpoint has the constructor's arguments.
            strict: False: ignore entries that the module does not have.
            weights_only: read it by torch's safe loader.
            given: constructor arguments that replace those of the checkpoint; a network that was given as an object.

        Raises:
            UserError: a checkpoint that cannot be read or is of another class, or an argument that must be given.
        """
        checkpoint = read_checkpoint(checkpoint_path, map_location, weights_only)
        path = (checkpoint.get("constructor") or {}).get("class_path")
        kind = cls if path is None else imported(path)
        if not issubclass(kind, cls):
            raise UserError(f"{checkpoint_path} is of a {kind.__name__}: load it with {kind.__name__} or lit_fa.load")
        with isolate_rng(include_cuda=torch.cuda.is_available()):
            module = kind(**arguments(checkpoint, checkpoint_path, given))
        module.to(next((t.device for t in checkpoint["state_dict"].values()), "cpu"))
        module.loaded_from = checkpoint_path
        module.on_load_checkpoint(checkpoint)
        fill(module, checkpoint, checkpoint_path, strict is not False)
        return module

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store constructor arguments and facts of the data, as plain data, and the last value of every metric."""
        checkpoint["constructor"] = self.constructor
        checkpoint["trained_on"] = data_facts(setting(self.trainer, "datamodule")) if trainer_of(self) else {}
        checkpoint["metrics"] = _plain(self.trainer.callback_metrics)
        ending = epoch_is_ending(self.trainer)
        checkpoint["unlogged"] = _plain(values_to_log(self.trainer)) if ending else {}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to resume from a checkpoint of another run; load 64-bit weights without rounding.

        Under precision 64-true Lightning converts a module only after loading.

        Raises:
            OtherOriginError: the checkpoint is of another rule, network, optimiser, schedule or data.
        """
        trainer = trainer_of(self)
        fitting = trainer is not None and trainer.state.fn == "fit"
        if fitting:
            check_origin(checkpoint, self.constructor, data_facts(setting(self.trainer, "datamodule")))
        if trainer is not None and trainer.precision == "64-true":
            self.double()
        if fitting:
            metrics = checkpoint.get("metrics") or {}
            self.measured = {key: value.to(self.device) for key, value in metrics.items()}
            self.unlogged = checkpoint.get("unlogged") or {}

    def _evaluate(self, split: str, batch: Batch, own: int) -> None:
        inputs, targets = batch
        logits, targets = self._measured(inputs)[:own], targets[:own]
        if not own:
            self.log(f"{split}/loss", 0.0, on_epoch=True, batch_size=0, sync_dist=True)
            return
        for metric in self._metrics(split).values():
            metric.update(predictions(logits), targets)
        loss = self.learner.criterion(logits, targets)
        # Lightning divides by the mean of the ranks' sizes, rounded down; a multiple of the number of ranks is exact
        self.log(f"{split}/loss", loss, on_epoch=True, batch_size=own * self.trainer.world_size, sync_dist=True)

    def _metrics(self, split: str) -> dict[str, Metric]:
        return {
            name: metric
            for name, metric in self.metrics.get_submodule(split).named_children()
            if isinstance(metric, Metric)
        }

    def _measured(self, inputs: Tensor) -> Tensor:
        """Logits; if the network fails, a wrong shape of the inputs is reported."""
        try:
            return self(inputs)
        except RuntimeError:
            check_inputs(inputs, self.shown)
            raise

    def _log_metrics(self, split: str) -> None:
        for number, (name, metric) in enumerate(self._metrics(split).items()):
            self.log(f"{split}/{name}", 100 * metric.compute().float(), prog_bar=split == "val" and number == 0)
            metric.reset()


def _plain(metrics: Mapping[str, Any]) -> dict[str, Tensor]:
    return {key: torch.as_tensor(value).detach().cpu() for key, value in metrics.items()}


def validate_one_batch(trainer: L.Trainer) -> None:
    """Use one validation batch if the fraction `overfit_batches` is less than one batch."""
    share = setting(trainer, "overfit_batches")
    if isinstance(share, float) and 0 < share < 1 and setting(trainer, "datamodule") is not None:
        loader = setting(trainer, "datamodule").val_dataloader()
        if hasattr(loader, "__len__") and len(loader) * share < 1:
            trainer.limit_val_batches = 1

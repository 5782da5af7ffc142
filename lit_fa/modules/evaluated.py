"""What every classifier does outside training: predict, and measure loss and metrics on held-out data."""

import copy
from collections.abc import Iterable

import lightning as L
from torch import Tensor, nn

from lit_fa.modules.learner import Learner
from lit_fa.modules.metrics import made, predictions
from lit_fa.modules.trainer_options import check_optimizers, check_trainer, validate_one_batch
from lit_fa.rules.base import Batch, LearningRule

SPLITS = ("val", "test")


class EvaluatedClassifier(L.LightningModule):
    """Holds a `learner`; subclasses say how it trains."""

    learner: Learner

    def measure(self, num_classes: int, metrics: list[str] | None = None) -> None:
        """Make the metrics; once, in the constructor."""
        self.metrics = nn.ModuleDict({split: made(metrics, num_classes) for split in SPLITS})

    @property
    def network(self) -> nn.Module:
        """The installed network."""
        return self.learner.network

    @property
    def rule(self) -> LearningRule:
        """The learning rule."""
        return self.learner.rule

    def configure_callbacks(self) -> list[L.Callback]:
        """None of its own; Lightning asks before any work, so what is not honoured is refused here."""
        check_trainer(self.trainer, self)
        return []

    def on_fit_start(self) -> None:
        """Before a run, once optimisers and data are known."""
        check_optimizers(self.trainer.optimizers)
        validate_one_batch(self.trainer)

    def forward(self, inputs: Tensor) -> Tensor:
        """(n, ...) to (n, c) logits."""
        return self.learner.predict(inputs)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss and metrics on held-out data."""
        self._evaluate("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss and metrics on test data."""
        self._evaluate("test", batch)

    def on_validation_epoch_end(self) -> None:
        """Metrics in percent."""
        self._log_metrics("val")

    def on_test_epoch_end(self) -> None:
        """Metrics in percent."""
        self._log_metrics("test")

    def score(self, batches: Iterable[Batch]) -> dict[str, float]:
        """Metric to its value in percent on `batches`, by the module's prediction as it is; nothing is logged."""
        metrics = copy.deepcopy(self.metrics["test"])
        for metric in metrics.values():
            metric.reset()
        for inputs, targets in batches:
            predicted = predictions(self(inputs))
            for metric in metrics.values():
                metric.update(predicted, targets)
        return {name: 100 * metric.compute().item() for name, metric in metrics.items()}

    def predict_step(self, batch: Batch | Tensor, batch_idx: int) -> Tensor:
        """Logits (n, c)."""
        return self(batch[0] if isinstance(batch, (tuple, list)) else batch)

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        """Take 64-bit weights as they are: under precision 64-true Lightning converts a module after it has loaded."""
        if self._trainer is not None and self.trainer.precision == "64-true":
            self.double()

    def _evaluate(self, split: str, batch: Batch) -> None:
        inputs, targets = batch
        logits = self(inputs)
        for metric in self.metrics[split].values():
            metric.update(predictions(logits), targets)
        loss = self.learner.criterion(logits, targets)
        self.log(f"{split}/loss", loss, on_epoch=True, batch_size=len(targets), sync_dist=True)

    def _log_metrics(self, split: str) -> None:
        for number, (name, metric) in enumerate(self.metrics[split].items()):
            self.log(f"{split}/{name}", 100 * metric.compute().float(), prog_bar=split == "val" and number == 0)
            metric.reset()

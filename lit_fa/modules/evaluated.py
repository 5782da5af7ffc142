"""What every classifier does outside training: predict, and measure loss and accuracy on held-out data."""

import lightning as L
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from lit_fa.modules.learner import Learner
from lit_fa.rules.base import Batch, LearningRule

SPLITS = ("val", "test")


class EvaluatedClassifier(L.LightningModule):
    """Holds a `learner`; subclasses say how it trains."""

    learner: Learner

    def measure_accuracy(self, num_classes: int) -> None:
        """Make the metrics; once, in the constructor."""
        self.accuracy = nn.ModuleDict({split: MulticlassAccuracy(num_classes, average="micro") for split in SPLITS})

    @property
    def network(self) -> nn.Module:
        """The installed network."""
        return self.learner.network

    @property
    def rule(self) -> LearningRule:
        """The learning rule."""
        return self.learner.rule

    def forward(self, inputs: Tensor) -> Tensor:
        """(n, ...) to (n, c) logits."""
        return self.learner.predict(inputs)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss and accuracy on held-out data."""
        self._evaluate("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss and accuracy on test data."""
        self._evaluate("test", batch)

    def on_validation_epoch_end(self) -> None:
        """Accuracy in percent."""
        self._log_accuracy("val")

    def on_test_epoch_end(self) -> None:
        """Accuracy in percent."""
        self._log_accuracy("test")

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
        self.accuracy[split].update(logits.argmax(-1), targets)
        loss = self.learner.criterion(logits, targets)
        self.log(f"{split}/loss", loss, on_epoch=True, batch_size=len(targets), sync_dist=True)

    def _log_accuracy(self, split: str) -> None:
        self.log(f"{split}/accuracy", 100 * self.accuracy[split].compute(), prog_bar=split == "val")
        self.accuracy[split].reset()

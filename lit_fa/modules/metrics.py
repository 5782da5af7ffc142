"""Metrics by name; torchmetrics combines the values of the ranks, and all are logged in percent."""

from collections.abc import Callable

import lightning as L
from torch import Tensor, nn
from torchmetrics import Metric, PearsonCorrCoef, SpearmanCorrCoef
from torchmetrics.classification import BinaryF1Score, MulticlassAccuracy, MulticlassF1Score, MulticlassMatthewsCorrCoef

from lit_fa.errors import UserError, nearest
from lit_fa.lightning_privates import setting


class F1OfClassOne(BinaryF1Score):
    """F1 from the logits of two classes."""

    def update(self, preds: Tensor, target: Tensor) -> None:
        """(n, 2) logits and (n,) classes."""
        super().update(preds.argmax(-1), target)


# from the number of classes to a metric; with two classes F1 is that of class 1, as in GLUE, else the macro average
OF_CLASSES: dict[str, Callable[[int], Metric]] = {
    "accuracy": lambda c: MulticlassAccuracy(c, average="micro"),
    "f1": lambda c: F1OfClassOne() if c == 2 else MulticlassF1Score(c, average="macro"),
    "matthews": MulticlassMatthewsCorrCoef,
    "top5": lambda c: MulticlassAccuracy(c, average="micro", top_k=5),
}
# for regression; a correlation with constant predictions is undefined and is logged as nan
OF_NUMBERS: dict[str, Callable[[], Metric]] = {"pearson": PearsonCorrCoef, "spearman": SpearmanCorrCoef}


def build_metrics(names: list[str] | None, num_classes: int) -> nn.ModuleDict:
    """The metrics by name; None: accuracy, or pearson if the network has one output.

    Raises:
        UserError: an unknown name, a metric of classes for regression, or one of regression for classes.
    """
    if num_classes < 1:
        raise UserError(f"num_classes is at least 1, not {num_classes}")
    numeric = num_classes == 1
    fitting = [*OF_NUMBERS] if numeric else [*OF_CLASSES]
    names = fitting[:1] if names is None else names
    for name in names:
        if name not in (*OF_CLASSES, *OF_NUMBERS):
            raise UserError(f"unknown metric '{name}'; {nearest(name, [*OF_CLASSES, *OF_NUMBERS])}")
        if name not in fitting:
            targets = "a number, the network's only output" if numeric else f"one of {num_classes} classes"
            raise UserError(f"metric {name} does not fit: the target is {targets}; take {', '.join(fitting)}")
        if name == "top5" and num_classes <= 5:
            raise UserError(f"metric top5 is always right with {num_classes} classes; take accuracy")
    return nn.ModuleDict({name: OF_NUMBERS[name]() if numeric else OF_CLASSES[name](num_classes) for name in names})


def predictions(logits: Tensor) -> Tensor:
    """The input of the metrics: (n, c) logits, or (n,) numbers if c is 1."""
    return logits if logits.shape[-1] > 1 else logits.squeeze(-1).float()


def logs_at(trainer: L.Trainer, step: int) -> bool:
    """Whether metrics are logged at this step, by `log_every_n_steps` (0: never)."""
    return bool(every := setting(trainer, "log_every_n_steps")) and step % every == 0

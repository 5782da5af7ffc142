"""What `tests/cli/test_lightning_options.py` needs: the rows of the page, small runs, and a callback that looks on."""

import re
from pathlib import Path

import lightning as L
import torch
from torch import nn

from lit_fa.datamodules import Digits, Federated
from lit_fa.federated import LocalSGD
from lit_fa.modules import Classifier, FederatedClassifier

PAGE = Path(__file__).parents[2] / "docs" / "lightning.md"
QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
BATCHES = 12
TEST = {"eval_batch_size": 100, "validation_is_test": "allow"}
IMAGES = {"plain": Digits(batch_size=128, **TEST), "federated": Digits(flatten=True, **TEST)}


def rows(section: str) -> dict[str, tuple[str, str]]:
    """Option or callback to its status and its text, from the page's table of that name."""
    text = PAGE.read_text(encoding="utf-8").split(f"## {section}\n")[1].split("\n## ")[0]
    found = re.findall(r"^\| `(\w+)` \| ([\w, ]+) \| ?(.*?) ?\|$", text, re.MULTILINE)
    return {name: (status, said) for name, status, said in found}


class Seen(L.Callback):
    """Counts what happens, and asks torch how it is set meanwhile."""

    def __init__(self, stop_at: int | None = None, fail_at: int | None = None):
        self.stop_at, self.fail_at = stop_at, fail_at
        self.inputs: list[torch.Tensor] = []
        self.weights: list[torch.Tensor] = []
        self.validations = self.sanity = 0
        self.evaluated: list[str] = []
        self.flags: dict[str, object] = {}

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.inputs.append(batch[0] if isinstance(batch, (tuple, list)) else batch.places)
        self.flags |= {
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "benchmark": torch.backends.cudnn.benchmark,
            "anomaly": torch.is_anomaly_enabled(),
        }

    def on_train_batch_end(self, trainer, module, *_):
        self.weights.append(weight(module).detach().clone())
        if trainer.global_step == self.fail_at:
            raise RuntimeError("as asked")
        trainer.should_stop = trainer.should_stop or trainer.global_step == self.stop_at

    def on_validation_epoch_start(self, trainer, module):
        self.flags["inference"] = torch.is_inference_mode_enabled()
        self.validations += not trainer.sanity_checking
        self.sanity += trainer.sanity_checking

    def on_validation_batch_end(self, *_):
        self.evaluated.append("val")

    def on_test_batch_end(self, *_):
        self.evaluated.append("test")

    def on_predict_batch_end(self, *_):
        self.evaluated.append("predict")


def weight(module: L.LightningModule) -> torch.Tensor:
    """Of the read-out."""
    return [m for m in module.network.modules() if isinstance(m, nn.Linear)][-1].weight


def classifier(**options) -> Classifier:
    return Classifier("mlp", image_shape=(1, 8, 8), network_args={"hidden": [32]}, **options)


def federation(**options) -> FederatedClassifier:
    options = {"executor": "stacked", "local_optimizer": LocalSGD(lr=0.1), "input_shape": (64,)} | options
    return FederatedClassifier("mlp", image_shape=(1, 8, 8), network_args={"hidden": [32]}, **options)


def data(kind: str, rounds: int = BATCHES) -> L.LightningDataModule:
    """Of `plain` or `federated` runs, of as many batches an epoch."""
    if kind == "plain":
        return IMAGES[kind]
    return Federated(IMAGES[kind], 10, 2, local_epochs=1, rounds_per_epoch=rounds)


class Run:
    """A fit of two epochs, of a module of its own, with `Seen`."""

    def __init__(self, kind: str = "plain", *, module=None, seen: Seen | None = None, fit: bool = True, **options):
        torch.manual_seed(0)
        self.seen, self.module = seen or Seen(), module or (classifier() if kind == "plain" else federation())
        watched = [*options.pop("callbacks", []), self.seen]
        self.trainer = L.Trainer(**(QUIET | {"max_epochs": 2} | options), callbacks=watched)
        self.data = data(kind)
        if fit:
            self.trainer.fit(self.module, self.data)

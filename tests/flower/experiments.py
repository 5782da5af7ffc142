"""One small federation with unequal clients, as YAML, embedded and over Flower."""

from copy import deepcopy
from pathlib import Path

import torch
import yaml

from lit_fa.experiment import Experiment, build

BASE = """
seed_everything: 3
trainer:
  {max_epochs: 3, accelerator: cpu, enable_progress_bar: false, enable_model_summary: false, logger: false,
   num_sanity_val_steps: 0, precision: 64-true}
model:
  class_path: lit_fa.modules.FederatedClassifier
  init_args:
    network: mlp
    network_args: {hidden: [16]}
    rule: {class_path: lit_fa.rules.FeedbackAlignment}
    algorithm: {class_path: lit_fa.federated.FedAvg}
    local_optimizer: {class_path: lit_fa.federated.LocalSGD, init_args: {lr: 0.1}}
    executor: sequential
data:
  class_path: datamodules.Federated
  init_args:
    data: {class_path: datamodules.Digits, init_args: {normalize: unit, flatten: true, limit_train: 300}}
    clients: 7
    clients_per_round: 4
    partition: quantity_skew
    partition_args: {beta: 1.0}
    batch_size: 16
    local_epochs: 1
"""


def experiment(folder: Path, **changes: object) -> str:
    """YAML of the base experiment with `a.b.c`-keyed changes; dots are written as double underscores."""
    config = deepcopy(yaml.safe_load(BASE))
    config["trainer"]["default_root_dir"] = str(folder)
    for path, value in changes.items():
        *parents, last = path.split("__")
        held = config
        for name in parents:
            held = held[name]
        held[last] = value
    path = folder / "experiment.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(config))
    return path.read_text()


def embedded(text: str, *, ckpt_path: str | None = None) -> Experiment:
    """`lit-fa fit` in this process."""
    trainer, model, data = experiment = build(yaml.safe_load(text))
    trainer.fit(model, data, ckpt_path=ckpt_path, weights_only=False)
    return experiment


def checkpoint(folder: Path) -> dict[str, torch.Tensor]:
    """Weights of the only checkpoint below the folder."""
    (path,) = folder.rglob("*.ckpt")
    return torch.load(path, weights_only=False)["state_dict"]


def difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max((a[name] - b[name]).abs().max().item() for name in a if a[name].numel())

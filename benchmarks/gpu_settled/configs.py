"""The runs: cells of the tables in `paper_configs`, resolved as in `lit_fa.spec` and built without the command line.

`lit_fa.spec` needs pydantic, and the command line jsonargparse. This file needs only torch, Lightning, timm and peft.
"""

import copy
import importlib
import inspect
import typing
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml

from lit_fa.import_paths import full
from lit_fa.modules import Classifier
from lit_fa.spec.overrides import assign, with_seed

ROOT = Path(__file__).parents[2]
PAPERS = ROOT / "paper_configs"
_SHORT = {"Classifier": "lit_fa.modules.Classifier"}
BEST = "callbacks.BestValidation"


@dataclass(frozen=True)
class Item:
    """One run: a cell of a table with one seed; `rule` replaces that of the cell.

    Attributes:
        table: its file below `paper_configs`, `ccl/conv.yaml`.
    """

    table: str
    row: str
    column: str
    seed: int = 0
    rule: dict[str, Any] | None = None

    @property
    def key(self) -> str:
        """The name of its files."""
        parts = (self.table.removesuffix(".yaml"), self.row, self.column, f"seed{self.seed}")
        return "__".join("".join(c if c.isalnum() else "-" for c in part) for part in parts)

    @property
    def paper(self) -> str:
        """The key of the paper."""
        return str(table_of(self.table)["paper"]["key"])

    def config(self, scale: str = "full") -> dict[str, Any]:
        """The whole config of the run, with `BestValidation` where the table reads the best weights."""
        table = table_of(self.table)
        row = {"model.init_args.rule": self.rule} if self.rule else table["grid"]["rows"][self.row]["set"]
        changes = row | table["grid"]["columns"][self.column].get("set", {})
        config = resolved(self.table, changes, scale, self.seed)
        if not self.rule and any(metric["at"] == "best_validation" for metric in (table["metric"], *table["also"])):
            _keep_best(config, (table.get("protocol") or {}).get("monitor", "val/accuracy"))
        return config

    @property
    def published(self) -> dict[str, Any] | None:
        """The published number of the cell."""
        published = table_of(self.table)["grid"]["published"]
        return None if self.rule else published.get(f"{self.row}|{self.column}")


@lru_cache(maxsize=64)
def table_of(file: str) -> dict[str, Any]:
    """The content of a file below `paper_configs`, which is not to be changed."""
    content: dict[str, Any] = yaml.safe_load((PAPERS / file).read_text(encoding="utf-8"))
    return content


def resolved(file: str, changes: dict[str, Any], scale: str, seed: int) -> dict[str, Any]:
    """The config of a cell of a table: its base, the cell's changes, those of the scale, the seed."""
    table = table_of(file)
    config = copy.deepcopy(table_of(str(Path(file).parent / table["base"])))
    for overrides in (changes, table["scales"][scale].get("set") or {}):
        for key, value in overrides.items():
            assign(config, key, value, file)
    return with_seed(config, table["seeded"], seed, file)


def _keep_best(config: dict[str, Any], monitor: str) -> None:
    """Add `BestValidation`, as `table run` does where a table reads the weights that were best on held-out data."""
    callbacks = config["trainer"].setdefault("callbacks", [])
    if not any(callback["class_path"] == BEST for callback in callbacks):
        by = {"monitor": monitor, "mode": "min" if monitor.endswith("loss") else "max"}
        callbacks.append({"class_path": BEST, "init_args": by})


def built(config: dict[str, Any], *, fast: bool, compiled: bool) -> tuple[Classifier, L.LightningDataModule]:
    """Module and data of a config; with `fast` the convolutions are in channels_last."""
    config = copy.deepcopy(config)
    data = construct(config["data"], L.LightningDataModule)
    arguments = {
        name: construct(value, _hint(Classifier, name)) for name, value in config["model"]["init_args"].items()
    }
    shape = {"num_classes": data.num_classes, "image_shape": data.image_shape}
    model = Classifier(**arguments, **shape, compile=compiled)
    if fast:
        model.network.to(memory_format=torch.channels_last)
    return model, data


def construct(value: Any, hint: Any = None) -> Any:
    """The object of `{class_path, init_args}`; for an optimiser or schedule a partial, without its parameters.

    For a mapping without a class, the class is taken from the annotation `hint`.
    """
    if not isinstance(value, dict):
        return value
    if "class_path" not in value:
        kind = _class_in(hint)
        return kind(**value) if kind else {key: construct(entry) for key, entry in value.items()}
    path = str(value["class_path"])
    module, _, name = full(_SHORT.get(path, path)).rpartition(".")
    kind = getattr(importlib.import_module(module), name)
    arguments = {key: construct(entry, _hint(kind, key)) for key, entry in (value.get("init_args") or {}).items()}
    later = (torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler)
    return partial(kind, **arguments) if issubclass(kind, later) else kind(**arguments)


def _hint(kind: type, name: str) -> Any:
    """The annotation of an argument."""
    parameter = inspect.signature(kind).parameters.get(name)
    return parameter.annotation if parameter else None


def _class_in(hint: Any) -> type | None:
    """The only class of lit_fa in an annotation such as `Hoyer | None`."""
    options = typing.get_args(hint) or (hint,)
    ours = [option for option in options if inspect.isclass(option) and option.__module__.startswith("lit_fa.")]
    return ours[0] if len(ours) == 1 else None

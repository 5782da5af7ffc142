"""Two protocols of every table: a fixed length of training (`matched`), or training to convergence (`converged`).

Under `converged` every run holds training samples out, stops when a metric of them no longer improves, and also tests
the weights that were best on them. The length of the scale is the upper bound. These runs have configs, ids and folders
of their own.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from lit_fa.errors import UserError
from lit_fa.import_paths import is_ours, short
from lit_fa.spec.cell import Metric, Point
from lit_fa.spec.validation import Count, Entry, Line, Number, whole

Protocol = Literal["matched", "converged"]
BEST = "callbacks.BestValidation"
EARLY = "lightning.pytorch.callbacks.EarlyStopping"


def _held_out(value: float) -> float:
    return value if value < 1 else whole(value)


def _of_validation(name: str) -> str:
    if name and not name.startswith("val/"):
        raise UserError(f"{name!r} is not a metric of held-out data; write val/...")
    return name


@dataclass(frozen=True)
class Stopping(Entry):
    """When a run of the protocol `converged` ends.

    Attributes:
        patience: validations without an improvement after which a run ends.
        held_out: training samples that are held out, a number or a share; 0: the data set's own validation samples. A
            config that holds samples out already keeps its own number.
        monitor: the metric of the held-out samples; "": the validation metric that belongs to the table's own metric.
    """

    patience: Count = 10
    held_out: Annotated[Number, Field(ge=0), AfterValidator(_held_out)] = 0.1
    monitor: Annotated[Line, AfterValidator(_of_validation)] = ""


def monitored(stopping: Stopping, metrics: Iterator[Metric] | tuple[Metric, ...]) -> dict[str, str]:
    """Metric and direction by which a run is stopped: `{monitor, mode}`; without an accuracy or the like, val/loss."""
    modes = {f"val/{metric.name.partition('/')[2]}": metric.better for metric in metrics if _is_score(metric)}
    name = stopping.monitor or next(iter(modes), "val/loss")
    better = modes.get(name, "lower" if name.endswith("loss") else "higher")
    return {"monitor": name, "mode": "max" if better == "higher" else "min"}


def on_test_data(metric: Metric) -> Metric:
    """The metric as it is read after convergence: on test data, because the validation data have ended the run.

    The best point of a validation curve is then the test metric of the best weights; a mean of the last points, whose
    number depends on when the run stopped, is the final value.
    """
    if not metric.name.startswith("val/"):
        return metric
    at: Point = "best_validation" if metric.at == "best" else "last"
    return replace(metric, name=f"test/{metric.name.removeprefix('val/')}", at=at)


def with_best(metric: Metric, also: tuple[Metric, ...]) -> tuple[Metric, ...]:
    """`also`, on test data and each once, with the metric of the best weights first."""
    best = (replace(metric, at="best_validation"),) if metric.name.startswith("test/") else ()
    further = dict.fromkeys([*best, *map(on_test_data, also)])
    return tuple(other for other in further if other != metric)


def keep_best(config: dict[str, Any], by: dict[str, str]) -> None:
    """Add `callbacks.BestValidation` to a config that has none."""
    if not any(_kind(callback) == "BestValidation" for callback in _callbacks(config)):
        _add(config, {"class_path": BEST, "init_args": dict(by)})


def converge(config: dict[str, Any], stopping: Stopping, by: dict[str, str], where: str) -> None:
    """Let a config hold samples out, stop early by them and keep the best weights.

    Raises:
        UserError: it does not validate, stops early by itself, or chooses by the test set.
    """
    trainer = config.setdefault("trainer", {})
    if trainer.get("limit_val_batches") == 0:
        raise UserError(f"{where}: no protocol converged: trainer.limit_val_batches is 0; remove it to validate")
    if any(_kind(callback) == "EarlyStopping" for callback in _callbacks(config)):
        raise UserError(f"{where}: no protocol converged beside its own EarlyStopping; write the table's protocol")
    _hold_out(config, stopping.held_out, where)
    _validate_every_epoch(config)
    _add(config, {"class_path": EARLY, "init_args": by | {"patience": int(stopping.patience)}})
    keep_best(config, by)


def _hold_out(config: dict[str, Any], held_out: float, where: str) -> None:
    config["data"] = data = _named(config.get("data"))
    if _kind(data) == "Federated":
        data["init_args"]["data"] = data = _named(data["init_args"].get("data"))
    options = data.setdefault("init_args", {})
    if options.get("val_size"):
        return
    if not held_out and options.get("validation_is_test") == "allow":
        raise UserError(f"{where}: no protocol converged on test data: remove validation_is_test: allow")
    if not held_out:
        return  # the run refuses a choice by the test set, where the data have no validation samples
    name = str(data.get("class_path", ""))
    if "." in name and not (is_ours(name) and short(name).startswith("datamodules.")):
        raise UserError(f"{where}: {name} is not of datamodules; hold samples out in it, and write held_out: 0")
    options["val_size"] = held_out


def _validate_every_epoch(config: dict[str, Any]) -> None:
    """Early stopping counts validations, so rounds that are not validated are left out by the trainer."""
    options = (config.get("model") or {}).get("init_args") or {}
    every = options.get("validate_every", 1)
    if every > 1:
        options["validate_every"] = 1
        config["trainer"]["check_val_every_n_epoch"] = every * (config["trainer"].get("check_val_every_n_epoch") or 1)


def _is_score(metric: Metric) -> bool:
    return metric.name.startswith(("test/", "val/"))


def _callbacks(config: dict[str, Any]) -> list[Any]:
    callbacks = (config.get("trainer") or {}).get("callbacks")
    return list(callbacks) if isinstance(callbacks, list) else [callbacks] if callbacks else []


def _add(config: dict[str, Any], callback: dict[str, Any]) -> None:
    config.setdefault("trainer", {})["callbacks"] = [*_callbacks(config), callback]


def _kind(entry: Any) -> str:
    path = entry.get("class_path", "") if isinstance(entry, dict) else entry
    return str(path).rsplit(".", 1)[-1]


def _named(data: Any) -> dict[str, Any]:
    return data if isinstance(data, dict) else {"class_path": data, "init_args": {}}

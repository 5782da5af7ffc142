"""The record of a run: one small JSON file with its results and where they come from."""

import json
import math
import time
import weakref
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from lit_fa.callbacks.curves import Recorder
from lit_fa.callbacks.energy import EnergyMeter
from lit_fa.callbacks.environment import cpu_seconds, forget_peak_memory, hardware, peak_memory_mib, versions
from lit_fa.callbacks.errors import MeasurementError
from lit_fa.lightning_privates import callbacks_of
from lit_fa.outputs import write_text
from lit_fa.provenance import Code, note_sources, our_code, outside, sources

OF_MODULE = ("executed_by", "selections")  # fields that a module knows, if it has them
SCHEMA = 2  # 1, of records without the field: no cpu_time_s, sources, outside, config, and no record of a divergence

_RUNNING: "weakref.WeakSet[RunRecord]" = weakref.WeakSet()  # of this process


class RunRecord(Recorder):
    """Writes metrics, curves, versions, machine and commit of a run to one file, atomically.

    Fields, besides those of `record`, which include `config`:

    * `schema`: version of this list, 2; `status`: fitted, then finished (tested, without a fit before), or diverged;
      `diverged`, only of such a run: `step`, `first` (what was not finite first), `error`;
    * `metrics`: the final value of everything logged in training, validation and test; `curves`: key to
      [step, epoch, value], at most 60 points each;
    * `commit`, `dirty`: of our code; `sources`: a hash of the code that determines results; `outside`: for each class
      of the config that is not ours, its distribution and version, or a hash of its source; `resumed_from`, if any:
      commits of earlier parts of the run with other code; `versions`, `hardware`;
    * `started`, `finished`: UTC; `wall_time_s`: seconds of fit and test, over all parts; `cpu_time_s`: seconds of
      processors in this process, its threads and data workers (on several ranks, of the first); `energy_j`: joules of
      processor packages (`cpu`) and graphics card (`gpu`), of the whole machine, null if not known;
    * `peak_memory_mib`: over all parts, of the graphics card or, without one, of the process, which on systems other
      than Linux may have trained other runs before; `step_macs`: multiply-adds of a training step per sample, null
      without `callbacks.TrainingCost`;
    * `dataset`: class, licence, and the SHA-256 of all samples as read; `validation_is_test`;
    * of a federated run `executed_by`: the executor; `partition`: samples of each client in each class; `selections`,
      if any: the layers that a rule chose by comparing clients, with all scores;
    * `packed`, only of a run that was trained together with others: `lanes`, the most runs in one step, itself
      included; its `wall_time_s` and `cpu_time_s` are its own part and its share of joint steps;
    * `broken`: violated assumptions that measuring callbacks report; `not_finite`, if any: keys of numbers that are
      not finite and therefore null here.

    Args:
        path: of the file; None: record.json in the trainer's log folder.
        record: further fields (id, paper, table, row, column, scale, seed, config, ...).
        finish_after: `test`: the run is finished after fit and test, two calls of one trainer; `fit`: without a test.

    Raises:
        MeasurementError: an unknown `finish_after`, or a path that is a folder.
    """

    def __init__(self, path: str | None = None, record: dict[str, Any] | None = None, finish_after: str = "test"):
        """See the class."""
        super().__init__()
        if finish_after not in ("fit", "test"):
            raise MeasurementError(f"finish_after is fit or test, not '{finish_after}'")
        if path is not None and (not Path(path).name or Path(path).is_dir()):
            raise MeasurementError(f"path {path!r} is a folder: name a file in it")
        self.path, self.record, self.finish_after = path, dict(record or {}), finish_after
        self.metrics: dict[str, float] = {}
        self.broken: list[str] = []
        self.fitted = False
        self.spent = self.spent_cpu = 0.0  # seconds, until the last stop or checkpoint
        self.since: float | None = None
        self.since_cpu = 0.0
        self.clocks: tuple[Callable[[], float], Callable[[], float]] = (time.monotonic, cpu_seconds)  # wall, processor
        self.energy = EnergyMeter()
        self.peak: float | None = None  # MiB, of earlier parts of the run
        self.device = torch.device("cpu")
        self.started: str | None = None
        self.code: Code | None = None
        self.earlier: list[str] = []  # commits of earlier parts of the run with other code
        self.packed: dict[str, Any] = {}  # how earlier parts of the run were trained
        self.diverged: dict[str, Any] | None = None
        self.validation_is_test: bool | None = None
        self.partition: list[list[int]] | None = None
        self.dataset: dict[str, str] = {}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Store the version of the code, which may change on disk during the run; start the clock."""
        self.code = our_code()
        note_sources()  # their hash is needed only when something is written
        self.started = self.started or _now()
        self.since, self.since_cpu = (clock() for clock in self.clocks)
        self.energy.start()
        self.device = trainer.strategy.root_device
        for other in _RUNNING:  # runs of a pack share a process: none may lose its peak
            other.peak = other.peak_memory()
        _RUNNING.add(self)
        forget_peak_memory()

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the results of training; the other callbacks have logged before."""
        self.fitted = True
        self._note(trainer)
        self.diverged = _not_finite(trainer, pl_module)
        self.broken = [line for c in callbacks_of(trainer) if c is not self for line in getattr(c, "broken", [])]
        self._write(trainer, pl_module, "finished" if self.finish_after == "fit" else "fitted")

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Add the test metrics; after a fit the run is finished."""
        self._note(trainer)
        self._write(trainer, pl_module, "finished" if self.fitted else "tested")

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Write the record of a run that diverged, which is a result; no record is written for other errors."""
        super().on_exception(trainer, pl_module, exception)
        self.diverged = getattr(exception, "diverged", None) or _failed_by_weights(trainer, pl_module, exception)
        if self.diverged is None:
            return
        self.collect(trainer, validation=False)
        self._note(trainer)
        self.metrics |= {k: v for k, v in self.curves.last_finite().items() if not math.isfinite(self.metrics[k])}
        alone = trainer.world_size > 1  # the other ranks may still be training
        self._write(trainer, pl_module, "diverged", alone=alone)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Stop the clock."""
        super().teardown(trainer, pl_module, stage)
        self.spent, self.spent_cpu, self.since = self.wall_time(), self.cpu_time(), None
        self.peak = self.peak_memory()
        _RUNNING.discard(self)
        self.energy.stop()

    def wall_time(self) -> float:
        """Seconds of fit and test so far, including earlier parts of a resumed run."""
        return self.spent + (0.0 if self.since is None else self.clocks[0]() - self.since)

    def cpu_time(self) -> float:
        """Processor seconds during `wall_time`."""
        return self.spent_cpu + (0.0 if self.since is None else self.clocks[1]() - self.since_cpu)

    def peak_memory(self) -> float | None:
        """Peak memory during `wall_time`, in MiB; None if it is not known."""
        known = [peak for peak in (self.peak, peak_memory_mib(self.device)) if peak is not None]
        return round(max(known), 1) if known else None

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Store the last value of every metric, because a run that resumes after its last step does not log them.

        A run that was packed says so also if it goes on alone.
        """
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if self.state_key in checkpoint.get("callbacks", {}):
            state = checkpoint["callbacks"][self.state_key]
            state["metrics"] = self.metrics | _plain(trainer.callback_metrics)
            state["packed"] = _packed(self.packed, getattr(pl_module, "packed", {}))

    def state_dict(self) -> dict[str, Any]:
        """Curves, time, energy, and when and by which code the run was started."""
        spent = {"spent": self.wall_time(), "spent_cpu": self.cpu_time(), "energy": self.energy.total()}
        spent |= {"peak": self.peak_memory()}
        code = {"commit": self.code.commit, "sources": sources()} if self.code else {}
        return super().state_dict() | spent | {"started": self.started, "code": code, "earlier": self.earlier}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore them."""
        super().load_state_dict(state)
        self.spent, self.started = state["spent"], state["started"]
        self.energy.spent |= state.get("energy", {})
        self.peak = state.get("peak")
        self.spent_cpu, code = state.get("spent_cpu", 0.0), state.get("code") or {}
        self.earlier, self.metrics = state.get("earlier", []), dict(state.get("metrics", {}))
        self.packed = dict(state.get("packed", {}))
        if code.get("sources", sources()) != sources() and code["commit"] not in self.earlier:
            self.earlier = [*self.earlier, code["commit"]]

    def _note(self, trainer: L.Trainer) -> None:
        self.metrics |= _plain(trainer.callback_metrics) | self.curves.last()  # curves have 64 bits, metrics 32
        data = getattr(trainer, "datamodule", None)
        self.validation_is_test = getattr(data, "validation_is_test", None)
        self.dataset = _origin(data)
        counts = getattr(data, "class_counts", None)
        self.partition = None if counts is None else counts.tolist()

    def _write(self, trainer: L.Trainer, module: L.LightningModule, status: str, *, alone: bool = False) -> None:
        log_dir = None if alone else trainer.log_dir  # a collective operation: all ranks must read it
        if not (alone or trainer.is_global_zero):
            return
        fields = (
            {"schema": SCHEMA}
            | self.record
            | ({"status": "diverged", "diverged": self.diverged} if self.diverged else {"status": status})
            | {
                "metrics": self.metrics,
                "curves": self.curves.thinned(),
                "commit": self.code and self.code.commit,
                "dirty": self.code and self.code.dirty,
                "sources": sources() if self.code else "",
                "outside": outside(self.record.get("config")),
                "versions": versions(),
                "hardware": hardware(),
                "wall_time_s": round(self.wall_time(), 3),
                "cpu_time_s": round(self.cpu_time(), 3),
                "energy_j": self.energy.total(),
                "step_macs": self.metrics.get("cost/step_macs"),
                "peak_memory_mib": self.peak_memory(),
                "started": self.started,
                "finished": _now(),
                "validation_is_test": self.validation_is_test,
                "broken": self.broken,
            }
            | {name: getattr(module, name) for name in OF_MODULE if getattr(module, name, None)}
            | ({"packed": packed} if (packed := _packed(self.packed, getattr(module, "packed", {}))) else {})
            | ({"partition": self.partition} if self.partition else {})
            | ({"dataset": self.dataset} if self.dataset else {})
            | ({"resumed_from": self.earlier} if self.earlier else {})
        )
        path = Path(self.path or Path(log_dir or trainer.default_root_dir) / "record.json")
        write_json(path, fields, follow=False)


def _plain(metrics: dict[str, Tensor]) -> dict[str, float]:
    return {key: value.item() if isinstance(value, Tensor) else value for key, value in metrics.items()}


def _packed(*parts: dict[str, Any]) -> dict[str, Any]:
    """The entry `packed` of a run in several parts; {} if none was packed."""
    joined = {key: value for part in parts for key, value in part.items()}
    return joined and joined | {"lanes": max(part["lanes"] for part in parts if part)}


def _origin(data: Any) -> dict[str, str]:
    """Name, licence and checksum of the data; {} for data without a checksum."""
    data = getattr(data, "data", data)  # of a federation
    checksum = getattr(data, "checksum", "")
    return {"name": type(data).__name__, "licence": data.licence, "sha256": checksum} if checksum else {}


def _not_finite(trainer: L.Trainer, module: L.LightningModule) -> dict[str, Any] | None:
    """The entry `diverged` of a run whose last step made a weight NaN or infinite, without a loss after it."""
    network = getattr(module, "network", module)
    name = next((n for n, p in network.named_parameters() if not torch.isfinite(p).all()), None)
    if name is None:
        return None
    return {"step": trainer.global_step, "first": f"parameter {name}", "error": "the trained weights are not finite"}


def _failed_by_weights(
    trainer: L.Trainer, module: L.LightningModule, exception: BaseException
) -> dict[str, Any] | None:
    """The entry `diverged` of a run that an error ended, because of weights that are not finite; None otherwise."""
    diverged = _not_finite(trainer, module) if isinstance(exception, RuntimeError) else None
    return diverged and diverged | {"error": " ".join(str(exception).split())[:200]}


def write_json(path: Path, fields: dict[str, Any], *, follow: bool = True) -> None:
    """Write `fields` to `path` atomically.

    Numbers that are not finite become null, and `not_finite` lists their keys. With `follow` a link at `path` is
    followed, otherwise it is replaced.
    """
    not_finite: list[str] = []
    clean = _clean(fields, "", not_finite)
    if not_finite:
        clean["not_finite"] = not_finite[:100]
    write_text(path, json.dumps(clean, allow_nan=False, separators=(",", ":")), follow=follow)


def _clean(value: Any, key: str, not_finite: list[str]) -> Any:
    if isinstance(value, dict):
        return {str(k): _clean(v, f"{key}.{k}" if key else str(k), not_finite) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean(v, key, not_finite) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        not_finite += [] if key in not_finite else [key]
        return None
    if isinstance(value, float) and key.startswith("curves."):
        return float(f"{value:.6g}")  # enough for figures, and records are committed
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

"""One small JSON a run: what a table cell needs, and what makes its number traceable."""

import json
import math
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from callbacks.curves import Recorder
from callbacks.energy import EnergyMeter
from callbacks.environment import cpu_seconds, hardware, peak_memory_mib, versions
from callbacks.errors import MeasurementError
from lit_fa.lightning_privates import callbacks_of
from lit_fa.outputs import write_text
from lit_fa.provenance import Code, our_code, outside, sources

SCHEMA = 2  # 1, of records without the field: no cpu_time_s, sources, outside, config, and no record of a divergence


class RunRecord(Recorder):
    """Writes metrics, curves, versions, machine and commit of a run to one file, whole or not at all.

    Fields: those of `record`, `config` among them; `schema`: version of this list, 2; `status`: fitted, then finished
    (tested, if no fit went before), or diverged; `diverged`, of such a run only: `step`, `first` (what was not finite
    first: a layer's output, a parameter, the inputs), `error`; `metrics`: the final value of everything logged, of
    validation and of test; `curves`: key to [step, epoch, value], at most 60 points each; `commit`, `dirty`: of our
    code; `sources`: a hash of the code that decides results; `outside`: for each class of the config that is not ours,
    its distribution and version or a hash of its source; `versions`, `hardware`; `wall_time_s`: of fit and test, over
    all resumed parts; `cpu_time_s`: processor time in the same span, of this process, its threads and data workers
    (of several ranks, the first one's); `energy_j`: joules in the same span by processor packages (`cpu`) and graphics
    card (`gpu`), of the whole machine, null where it cannot tell; `step_macs`: multiply-adds of a training step per
    sample, null without `callbacks.TrainingCost`; `resumed_from`, if any: commits of earlier parts whose code was
    another; `peak_memory_mib`; `started`, `finished`: UTC; `validation_is_test`;
    `executed_by`: of a federated run, what computed its clients; `partition`: of a federated run, samples of each
    client in each class; `dataset`: class, licence and the SHA-256 of all samples as read; `selections`, if any:
    the layers that a rule chose by comparing clients, with every layer's score; `broken`: what measuring callbacks
    found to break their laws; `not_finite`, if any: keys of numbers that were no number and are null here.

    Args:
        path: of the file; None: record.json in the trainer's log folder.
        record: further fields (id, paper, table, row, column, scale, seed, config, ...).
        finish_after: `test`: finished when fit and test are done, in two calls of one trainer; `fit`: no test follows.
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
        self.spent = self.spent_cpu = 0.0  # seconds, up to the last stop or checkpoint
        self.since: float | None = None
        self.since_cpu = 0.0
        self.energy = EnergyMeter()
        self.started: str | None = None
        self.code: Code | None = None
        self.sources = ""
        self.earlier: list[str] = []  # commits of parts before this one whose code was another
        self.diverged: dict[str, Any] | None = None
        self.validation_is_test: bool | None = None
        self.partition: list[list[int]] | None = None
        self.dataset: dict[str, str] = {}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Note the code that was loaded, not what it will be when the run ends; start the clock."""
        self.code, self.sources = our_code(), sources()
        self.started = self.started or _now()
        self.since, self.since_cpu = time.monotonic(), cpu_seconds()
        self.energy.start()

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write what training has given, after the other callbacks' last words."""
        self.fitted = True
        self._note(trainer)
        self.diverged = _spoilt(trainer, pl_module)
        self.broken = [line for c in callbacks_of(trainer) if c is not self for line in getattr(c, "broken", [])]
        self._write(trainer, pl_module, "finished" if self.finish_after == "fit" else "fitted")

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Add the test metrics; after a fit the run is finished."""
        self._note(trainer)
        self._write(trainer, pl_module, "finished" if self.fitted else "tested")

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """A run that diverged is a result: write what it was when it did. Any other error leaves no new record."""
        super().on_exception(trainer, pl_module, exception)
        self.diverged = getattr(exception, "diverged", None) or _broke_down(trainer, pl_module, exception)
        if self.diverged is None:
            return
        self.collect(trainer, validation=False)
        self._note(trainer)
        self.metrics |= {k: v for k, v in self.curves.last_finite().items() if not math.isfinite(self.metrics[k])}
        alone = trainer.world_size > 1  # the other ranks may not know of it
        self._write(trainer, pl_module, "diverged", alone=alone)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Stop the clock."""
        super().teardown(trainer, pl_module, stage)
        self.spent, self.spent_cpu, self.since = self.wall_time(), self.cpu_time(), None
        self.energy.stop()

    def wall_time(self) -> float:
        """Seconds spent in fit and test so far, earlier parts of a resumed run included."""
        return self.spent + (0.0 if self.since is None else time.monotonic() - self.since)

    def cpu_time(self) -> float:
        """Processor seconds in the time of `wall_time`."""
        return self.spent_cpu + (0.0 if self.since is None else cpu_seconds() - self.since_cpu)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep the last value of every metric: a run that goes on behind its last step will not log them again."""
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if self.state_key in checkpoint.get("callbacks", {}):
            checkpoint["callbacks"][self.state_key]["metrics"] = self.metrics | _plain(trainer.callback_metrics)

    def state_dict(self) -> dict[str, Any]:
        """Curves, time spent, and when the run began."""
        spent = {"spent": self.wall_time(), "spent_cpu": self.cpu_time(), "energy": self.energy.total()}
        code = {"commit": self.code.commit, "sources": self.sources} if self.code else {}
        return super().state_dict() | spent | {"started": self.started, "code": code, "earlier": self.earlier}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from the checkpoint."""
        super().load_state_dict(state)
        self.spent, self.started = state["spent"], state["started"]
        self.energy.spent |= state.get("energy", {})
        self.spent_cpu, code = state.get("spent_cpu", 0.0), state.get("code") or {}
        self.earlier, self.metrics = state.get("earlier", []), dict(state.get("metrics", {}))
        if code.get("sources", sources()) != sources() and code["commit"] not in self.earlier:
            self.earlier = [*self.earlier, code["commit"]]

    def _note(self, trainer: L.Trainer) -> None:
        self.metrics |= _plain(trainer.callback_metrics) | self.curves.last()  # curves are not rounded to float32
        data = getattr(trainer, "datamodule", None)
        self.validation_is_test = getattr(data, "validation_is_test", None)
        self.dataset = _origin(data)
        counts = getattr(data, "class_counts", None)
        self.partition = None if counts is None else counts.tolist()

    def _write(self, trainer: L.Trainer, module: L.LightningModule, status: str, *, alone: bool = False) -> None:
        log_dir = None if alone else trainer.log_dir  # asks all ranks, so it is read on all of them
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
                "sources": self.sources,
                "outside": outside(self.record.get("config")),
                "versions": versions(),
                "hardware": hardware(),
                "wall_time_s": round(self.wall_time(), 3),
                "cpu_time_s": round(self.cpu_time(), 3),
                "energy_j": self.energy.total(),
                "step_macs": self.metrics.get("cost/step_macs"),
                "peak_memory_mib": round(peak_memory_mib(module.device), 1),
                "started": self.started,
                "finished": _now(),
                "validation_is_test": self.validation_is_test,
                "broken": self.broken,
            }
            | {name: getattr(module, name) for name in ("executed_by", "selections") if getattr(module, name, None)}
            | ({"partition": self.partition} if self.partition else {})
            | ({"dataset": self.dataset} if self.dataset else {})
            | ({"resumed_from": self.earlier} if self.earlier else {})
        )
        path = Path(self.path or Path(log_dir or trainer.default_root_dir) / "record.json")
        write_json(path, fields, follow=False)


def _plain(metrics: dict[str, Tensor]) -> dict[str, float]:
    return {key: value.item() if isinstance(value, Tensor) else value for key, value in metrics.items()}


def _origin(data: Any) -> dict[str, str]:
    """Name, licence and checksum of what was read; {} for data that declare none."""
    data = getattr(data, "data", data)  # of a federation
    checksum = getattr(data, "checksum", "")
    return {"name": type(data).__name__, "licence": data.licence, "sha256": checksum} if checksum else {}


def _spoilt(trainer: L.Trainer, module: L.LightningModule) -> dict[str, Any] | None:
    """Of a run whose last steps have spoilt the weights, with no loss after them to tell: what `diverged` says."""
    network = getattr(module, "network", module)
    name = next((n for n, p in network.named_parameters() if not torch.isfinite(p).all()), None)
    if name is None:
        return None
    return {"step": trainer.global_step, "first": f"parameter {name}", "error": "the trained weights are not finite"}


def _broke_down(trainer: L.Trainer, module: L.LightningModule, exception: BaseException) -> dict[str, Any] | None:
    """What `diverged` says of a run that an error ended, a decomposition's say, because its weights are not finite."""
    spoilt = _spoilt(trainer, module) if isinstance(exception, RuntimeError) else None
    return spoilt and spoilt | {"error": " ".join(str(exception).split())[:200]}


def write_json(path: Path, fields: dict[str, Any], *, follow: bool = True) -> None:
    """Write `fields` to `path` at once: whoever reads finds the old file or the whole new one.

    Numbers that are not finite become null, and `not_finite` lists their keys. A link at `path` stays one, unless
    `follow` is false, where it is replaced.
    """
    found: list[str] = []
    clean = _clean(fields, "", found)
    if found:
        clean["not_finite"] = found[:100]
    write_text(path, json.dumps(clean, allow_nan=False, separators=(",", ":")), follow=follow)


def _clean(value: Any, key: str, found: list[str]) -> Any:
    if isinstance(value, dict):
        return {str(k): _clean(v, f"{key}.{k}" if key else str(k), found) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean(v, key, found) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        found += [] if key in found else [key]
        return None
    if isinstance(value, float) and key.startswith("curves."):
        return float(f"{value:.6g}")  # a picture needs no more, and records are committed
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

"""The trials of a sweep in its study, which any number of processes and machines share (see `journal`).

Requesting a trial and reporting its end happen under one lock. The process that trains a trial has a lease on the
folder of the trial and renews it. If the lease of a running trial is not renewed, its process was killed, and the trial
is given to the next process. The folder is named by the config, so the trial continues from its checkpoint. Trial k is
drawn from (seed, k), and for bayes also from the trials before it; interruptions of the sweep do not change it.
"""

import json
import math
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from filelock import Timeout
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from lit_fa.jobs.pool import Job
from lit_fa.jobs.worker import Done
from lit_fa.results.records import Record
from lit_fa.spec.sweep import Sweep
from lit_fa.spec.sweep_command import flags
from lit_fa.sweeps import journal, leases
from lit_fa.sweeps.identical_trials import DIGEST, digest
from lit_fa.sweeps.journal import JOURNAL, open_study
from lit_fa.sweeps.leases import Lease, lease_at

DIVERGED = "diverged"  # attribute of a trial in its study: where it diverged; its state is pruned


@dataclass(frozen=True)
class Trial(Job):
    """A trial to train; its config has the words of its `lit-fa fit` and the folder of its study."""

    number: int
    values: dict[str, Any]


class Trials:
    """The trials that a sweep still has to train, drawn one at a time; `close` releases the unfinished ones."""

    def __init__(self, sweep: Sweep, folder: Path, *, count: int, seed: int = 0, logger: tuple[str, ...] = ()):
        """Open or create the study in `folder`.

        Args:
            sweep: what is searched.
            folder: of the study and of the trials' folders.
            count: number of trials in the study, including those of earlier and of other processes.
            seed: of the random draws.
            logger: words that give a trial its logger; `{folder}` in them is replaced.
        """
        self.sweep, self.folder, self.count, self.seed, self.logger = sweep, folder.resolve(), count, seed, logger
        folder.mkdir(parents=True, exist_ok=True)
        self.lock, self.leases = lease_at(self.folder / "study.lock"), dict[Path, Lease]()
        self.training = set[int]()  # numbers of the trials that this process trains
        self.unfinished = dict[int, str]()  # number to what stopped a trial that this process does not retry
        with self.lock:
            journal.remove_incomplete_line(self.folder / JOURNAL)
            self.study = open_study(sweep, self.folder)
            for point in sweep.grid()[len(self.study.trials) :] if sweep.method == "grid" else ():
                self.study.enqueue_trial(point)

    def __iter__(self) -> Iterator[Trial | None]:
        """The trials to train; None while all trials that are left are trained by other processes.

        The iterator ends when only trials of living processes are left. A process on another machine counts as dead
        after `LEASE_S`.
        """
        idle_since = None
        while True:
            with self.lock:
                trial = self._abandoned() or self._fresh()
                ended = trial is None and (self._reached() or not self._of(TrialState.RUNNING))
            idle_since = None if trial or self.training else idle_since or time.monotonic()
            if ended or (
                idle_since and (not self._other_machines() or time.monotonic() - idle_since > leases.LEASE_S + 5)
            ):
                return
            yield trial

    def tell(self, trial: Trial, done: Done) -> str:
        """Report the end of a trial to the study; returns it as one line.

        A trial of another process is left to it. An unfinished trial stays running in the study, and the next command
        continues it.
        """
        path = Path(trial.record["path"])
        try:
            if done.unfinished:
                self.unfinished[trial.number] = done.unfinished
                return done.summary
            if done.elsewhere and not path.is_file():
                return done.elsewhere
            record = {} if done.reason else json.loads(path.read_text(encoding="utf-8"))
            with self.lock:
                return self._tell(trial, record, done.reason)
        finally:
            self.training.discard(trial.number)
            self.leases[path.parent].release()

    def _tell(self, trial: Trial, record: dict[str, Any], reason: str) -> str:
        diverged = Record(Path(trial.record["path"]), record).diverged if record else ""
        value, reason = (None, "") if diverged else self._value(record, reason)
        pruned = bool(record.get("stopped_early") or diverged)
        state = TrialState.FAIL if reason else TrialState.PRUNED if pruned else TrialState.COMPLETE
        attributes = {
            "reason": reason,
            DIVERGED: diverged,
            "validation_is_test": self._on_test_set(record),
            DIGEST: digest(record),
        }
        frozen = self.study.trials[trial.number]
        if not frozen.state.is_finished():  # otherwise this process lost its lease
            live = optuna.trial.Trial(self.study, frozen._trial_id)
            for name, attribute in attributes.items():
                if attribute:
                    live.set_user_attr(name, attribute)
            self.study.tell(live, value if state is TrialState.COMPLETE else None, state=state)
        if diverged:
            return f"diverged {diverged}"
        return reason or f"{self.sweep.metric.name} {value:.6g}" + (", stopped early" if pruned else "")

    def close(self) -> None:
        """Release the leases, so that another process can continue the unfinished trials."""
        for lease in self.leases.values():
            lease.release(force=True)

    @property
    def started(self) -> int:
        """Number of trials that any process has started."""
        return len(self.study.trials) - len(self._of(TrialState.WAITING))

    @property
    def ended(self) -> int:
        """Number of trials that have ended."""
        return len(self._of(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL))

    @property
    def succeeded(self) -> bool:
        """Whether any trial has a value, so that the sweep file can be carried out."""
        return bool(self._valued())

    @property
    def diverged(self) -> dict[int, str]:
        """Number of each diverged trial to where it diverged; such trials count as ended but have no value."""
        pruned = self._of(TrialState.PRUNED)
        return {trial.number: trial.user_attrs[DIVERGED] for trial in pruned if DIVERGED in trial.user_attrs}

    @property
    def failed(self) -> dict[int, str]:
        """Number of each failed trial to the reason."""
        return {trial.number: trial.user_attrs.get("reason", "") for trial in self._of(TrialState.FAIL)}

    @property
    def judged_by_the_test_set(self) -> bool:
        """Whether the validation metric of any trial is of the test set."""
        return any(trial.user_attrs.get("validation_is_test") for trial in self._valued())

    def _valued(self) -> list[FrozenTrial]:
        done = self._of(TrialState.COMPLETE, TrialState.PRUNED)
        return [trial for trial in done if DIVERGED not in trial.user_attrs]

    def _of(self, *states: TrialState) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=states)

    def _reached(self) -> bool:
        target, higher = self.sweep.metric.target, self.sweep.metric.goal == "maximize"
        if target is None:
            return False
        values = [t.value for t in self._of(TrialState.COMPLETE) if t.value is not None]
        return any(value >= target if higher else value <= target for value in values)

    def _abandoned(self) -> Trial | None:
        """A running trial whose process has ended, or whose config was in use by another trial until now."""
        ours = {*self.training, *self.unfinished}
        free = (frozen for frozen in self._of(TrialState.RUNNING) if frozen.number not in ours)
        leased = (self._leased(self._completed(frozen)) for frozen in free)
        return next((trial for trial in leased if trial), None)

    def _other_machines(self) -> bool:
        """Whether any trial is leased on another machine, whose processes cannot be checked."""
        locks = [Path(lease.lock_file) for lease in self.leases.values() if not lease.is_locked]
        ours = f"host={platform.node()}\n"
        return any(ours not in lock.read_text(encoding="utf-8", errors="replace") for lock in locks if lock.is_file())

    def _completed(self, frozen: FrozenTrial) -> FrozenTrial:
        """The trial with all its values; some are missing if a process was killed while it drew them."""
        if self.sweep.searched.keys() <= frozen.params.keys():
            return frozen
        self.study.sampler = sampler = self._sampler(frozen.number)
        live = optuna.trial.Trial(self.study, frozen._trial_id)
        for name, distribution in self._searched().items():
            if name in frozen.params:  # drawn again, because later draws depend on it
                sampler.sample_independent(self.study, frozen, name, distribution)
            else:
                live._suggest(name, distribution)
        return self.study.trials[frozen.number]

    def _searched(self) -> dict[str, BaseDistribution]:
        return {name: p.search for name, p in self.sweep.searched.items() if p.search is not None}

    def _fresh(self) -> Trial | None:
        """A new trial; None if there are enough, or if all configs that are drawn are being trained."""
        while self.started < self.count and not self._reached():
            self.study.sampler = self._sampler(self.started)
            drawn = self.study.ask(self._searched())
            if trial := self._leased(self.study.trials[drawn.number]):
                return trial
        return None

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        seed = (self.seed * 1_000_003 + number) % 2**32
        if self.sweep.method == "bayes":
            return optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        return optuna.samplers.RandomSampler(seed=seed)

    def _leased(self, frozen: FrozenTrial) -> Trial | None:
        """The trial, with a lease on its folder; None if it is being trained."""
        trial = self._trial(frozen)
        folder = Path(trial.record["path"]).parent
        folder.mkdir(parents=True, exist_ok=True)
        lease = self.leases.setdefault(folder, lease_at(folder / "trial.lock"))
        if lease.is_locked:  # for another trial of this process with the same config
            return None
        try:
            lease.acquire(blocking=False)
        except Timeout:
            return None
        self.training.add(frozen.number)
        return trial

    def _trial(self, frozen: FrozenTrial) -> Trial:
        values = self.sweep.values(frozen.params)
        name = self.sweep.trial_id(values)
        folder = self.folder / "trials" / name
        before, after = self.sweep.command
        config = {
            "words": [
                *before,
                *flags(self.sweep.nested(values)),
                *after,
                *(_with_folder(word, folder) for word in self.logger),
            ],
            "folder": str(self.folder),
            "study": self.study.study_name,
            "halving": self.sweep.halving,
            "trial": frozen.number,
            "metric": self.sweep.metric.name,
        }
        record = {"id": name, "sweep": self.sweep.name, "parameters": values, "path": str(folder / "record.json")}
        label = ", ".join(f"{key.rpartition('.')[2]}={short(value)}" for key, value in values.items())
        return Trial(
            label=f"trial {frozen.number}: {label}",
            config=config,
            record=record,
            log=folder / "log.txt",
            number=frozen.number,
            values=values,
        )

    def _value(self, record: dict[str, Any], reason: str) -> tuple[float | None, str]:
        """The final value of the metric, or why there is none."""
        name = self.sweep.metric.name
        value = record.get("metrics", {}).get(name)
        if reason or (value is not None and math.isfinite(value)):
            return value, reason
        return None, f"the run ended without {name}, or it was no number"

    def _on_test_set(self, record: dict[str, Any]) -> bool:
        return bool(record.get("validation_is_test")) and self.sweep.metric.name.startswith("val/")


def _with_folder(word: str, folder: Path) -> str:
    """A logger's word with the trial's folder inserted; the name of a project is not changed."""
    option, _, value = word.partition("=")
    return f"{option}={folder}" if value == "{folder}" and not option.endswith(".project") else word


def short(value: Any) -> str:
    """A parameter as short text; a class in YAML as a call.

    >>> short({"class_path": "lit_fa.rules.DirectFeedbackAlignment", "init_args": {"scale": 0.5}})
    'DirectFeedbackAlignment(scale=0.5)'
    """
    if isinstance(value, dict) and "class_path" in value:
        inner = ", ".join(f"{key}={short(entry)}" for key, entry in (value.get("init_args") or {}).items())
        return f"{value['class_path'].rpartition('.')[2]}({inner})" if inner else value["class_path"].rpartition(".")[2]
    return f"{value:.5g}" if isinstance(value, float) else str(value)

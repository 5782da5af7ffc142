"""The trials of a sweep in its study: a journal file that any number of processes and machines share.

Asking for a trial and telling its end happen under one lock. The process that trains a trial holds a lease on the
trial's folder and renews it; a trial that is running in the study while nobody renews its lease was killed, and is
handed out next. Its folder is named by its config, so it continues from its checkpoint. What is drawn for trial k comes
from (seed, k), and for bayes from the trials before it, not from how often the sweep was interrupted.

Neither journal nor leases need locks of the file system, which SQLite and flock do and network file systems often lack.
Optuna's own heartbeat and retry need a database server or SQLite, hence the leases.
"""

import json
import math
import platform
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import optuna
from filelock import SoftFileLease, Timeout
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from lit_fa.errors import UserError
from lit_fa.escaping import plain
from lit_fa.jobs.pool import Job
from lit_fa.jobs.worker import Done
from lit_fa.results.records import Record
from lit_fa.spec.sweep import Sweep
from lit_fa.spec.sweep_command import flags
from lit_fa.sweeps.identical_trials import DIGEST, digest

optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)

DIVERGED = "diverged"  # attribute of a trial in its study: where it diverged; samplers see it as pruned
LEASE_S = 60.0  # seconds without renewal after which a process on another machine is taken for dead


@dataclass(frozen=True)
class Trial(Job):
    """A trial to train; its config has the words of its `lit-fa fit` and says where its study is."""

    number: int
    values: dict[str, Any]


class Trials:
    """The trials that a sweep still has to train, drawn one at a time; `close` gives up the unfinished ones."""

    def __init__(self, sweep: Sweep, folder: Path, *, count: int, seed: int = 0, logger: tuple[str, ...] = ()):
        """Open the study in `folder`, or begin it.

        Args:
            sweep: what is searched.
            folder: of the study and of the trials' folders.
            count: trials that the study shall have, those of earlier and of other processes included.
            seed: of what is drawn.
            logger: words that give a trial its logger; `{folder}` in them is filled in.
        """
        self.sweep, self.folder, self.count, self.seed, self.logger = sweep, folder.resolve(), count, seed, logger
        folder.mkdir(parents=True, exist_ok=True)
        self.lock, self.leases = _lease(self.folder / "study.lock"), dict[Path, SoftFileLease]()
        self.training = set[int]()  # numbers of the trials that this process has handed out
        self.unfinished = dict[int, str]()  # number to what ended a trial that this process does not retry
        with self.lock:
            _remove_torn_line(self.folder / JOURNAL)
            self.study = open_study(sweep, self.folder)
            for point in sweep.grid()[len(self.study.trials) :] if sweep.method == "grid" else ():
                self.study.enqueue_trial(point)

    def __iter__(self) -> Iterator[Trial | None]:
        """The trials to train, as they are asked for; None while all that are left are being trained elsewhere.

        It ends when only trials of living processes are left; whether one on another machine lives takes `LEASE_S`.
        """
        idle_since = None
        while True:
            with self.lock:
                trial = self._abandoned() or self._fresh()
                ended = trial is None and (self._reached() or not self._of(TrialState.RUNNING))
            idle_since = None if trial or self.training else idle_since or time.monotonic()
            if ended or (idle_since and (not self._other_machines() or time.monotonic() - idle_since > LEASE_S + 5)):
                return
            yield trial

    def tell(self, trial: Trial, done: Done) -> str:
        """Put the end of a trial into the study; returns it as a line. What another process has is left to it.

        A trial that is not finished stays running in the study: the next command continues it.
        """
        path = Path(trial.record["path"])
        try:
            if done.unfinished:
                self.unfinished[trial.number] = done.unfinished
                return done.said
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
        if not frozen.state.is_finished():  # else a process that lost its lease was taken for dead
            live = optuna.trial.Trial(self.study, frozen._trial_id)
            for name, attribute in attributes.items():
                if attribute:
                    live.set_user_attr(name, attribute)
            self.study.tell(live, value if state is TrialState.COMPLETE else None, state=state)
        if diverged:
            return f"diverged {diverged}"
        return reason or f"{self.sweep.metric.name} {value:.6g}" + (", stopped early" if pruned else "")

    def close(self) -> None:
        """Give up the leases, so that another process may take the unfinished trials."""
        for lease in self.leases.values():
            lease.release(force=True)

    @property
    def begun(self) -> int:
        """Trials that were handed out so far, by whatever process."""
        return len(self.study.trials) - len(self._of(TrialState.WAITING))

    @property
    def ended(self) -> int:
        """Trials that need no training any more."""
        return len(self._of(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL))

    @property
    def succeeded(self) -> bool:
        """A trial has come to a value: what the sweep file asks for can be done."""
        return bool(self._valued())

    @property
    def diverged(self) -> dict[int, str]:
        """Number to where: trials that are a result, and whose values count for nothing."""
        pruned = self._of(TrialState.PRUNED)
        return {trial.number: trial.user_attrs[DIVERGED] for trial in pruned if DIVERGED in trial.user_attrs}

    @property
    def failed(self) -> dict[int, str]:
        """Number to reason."""
        return {trial.number: trial.user_attrs.get("reason", "") for trial in self._of(TrialState.FAIL)}

    @property
    def judged_by_the_test_set(self) -> bool:
        """Some trial's validation metric came from the test set."""
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
        """A running trial whose process is gone, or whose config was another trial's until now."""
        ours = {*self.training, *self.unfinished}
        free = (frozen for frozen in self._of(TrialState.RUNNING) if frozen.number not in ours)
        leased = (self._leased(self._completed(frozen)) for frozen in free)
        return next((trial for trial in leased if trial), None)

    def _other_machines(self) -> bool:
        """Some trial is leased on another machine, of whose processes only time tells whether they live."""
        locks = [Path(lease.lock_file) for lease in self.leases.values() if not lease.is_locked]
        ours = f"host={platform.node()}\n"
        return any(ours not in lock.read_text(encoding="utf-8", errors="replace") for lock in locks if lock.is_file())

    def _completed(self, frozen: FrozenTrial) -> FrozenTrial:
        """The trial with all its values: a process that is killed while it asks leaves some undrawn."""
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
        """A new trial, None where there are enough, or where the configs drawn are just being trained."""
        while self.begun < self.count and not self._reached():
            self.study.sampler = self._sampler(self.begun)
            asked = self.study.ask(self._searched())
            if trial := self._leased(self.study.trials[asked.number]):
                return trial
        return None

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        seed = (self.seed * 1_000_003 + number) % 2**32
        if self.sweep.method == "bayes":
            return optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        return optuna.samplers.RandomSampler(seed=seed)

    def _leased(self, frozen: FrozenTrial) -> Trial | None:
        """The trial, if its folder could be leased; None if it is being trained."""
        trial = self._trial(frozen)
        folder = Path(trial.record["path"]).parent
        folder.mkdir(parents=True, exist_ok=True)
        lease = self.leases.setdefault(folder, _lease(folder / "trial.lock"))
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
        said = ", ".join(f"{key.rpartition('.')[2]}={short(value)}" for key, value in values.items())
        return Trial(f"trial {frozen.number}: {said}", config, record, folder / "log.txt", frozen.number, values)

    def _value(self, record: dict[str, Any], reason: str) -> tuple[float | None, str]:
        """The metric that a run ended with, or why there is none."""
        name = self.sweep.metric.name
        value = record.get("metrics", {}).get(name)
        if reason or (value is not None and math.isfinite(value)):
            return value, reason
        return None, f"the run ended without {name}, or it was no number"

    def _on_test_set(self, record: dict[str, Any]) -> bool:
        return bool(record.get("validation_is_test")) and self.sweep.metric.name.startswith("val/")


JOURNAL, SQLITE = "study.journal", "study.db"


def open_study(sweep: Sweep, folder: Path) -> optuna.Study:
    """The sweep's study in the folder; a changed sweep is another study in the same file.

    Raises:
        UserError: the file of the study cannot be read.
    """
    name = f"{sweep.name}-{sweep.id}"
    try:
        return optuna.create_study(
            storage=storage(folder), study_name=name, direction=sweep.metric.goal, load_if_exists=True
        )
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / JOURNAL}: is no journal of Optuna ({plain(str(error))}); move it away") from error


def has_study(folder: Path) -> bool:
    """A study was begun in the folder."""
    return any((folder / name).is_file() for name in (JOURNAL, SQLITE))


def storage(folder: Path) -> BaseStorage | str:
    """What Optuna is to open for the study of a folder: a journal, or the SQLite file of an earlier version."""
    path = folder.resolve() / SQLITE
    if path.is_file():
        from sqlalchemy import URL

        address = quote(str(path))  # Optuna formats the address, so that a brace must not be in it
        return URL.create("sqlite", database=f"file:{address}", query={"uri": "true"}).render_as_string()
    journal = folder.resolve() / JOURNAL
    # the lock has the two methods that Optuna calls
    return JournalStorage(_Journal(str(journal), lock_obj=_journal_lock(journal)))  # type: ignore[arg-type]


class _Journal(JournalFileBackend):
    """Optuna's, but the error of a full disk names the journal."""

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Add lines."""
        try:
            super().append_logs(logs)
        except OSError as error:
            error.filename = error.filename or self._file_path
            raise


def _remove_torn_line(journal: Path) -> None:
    """Half a line, left by a full disk or a crash of the machine, would make Optuna refuse all lines after it."""
    if not journal.is_file():
        return
    with _journal_lock(journal), journal.open("rb+") as file:
        file.truncate(file.read().rfind(b"\n") + 1)


def _journal_lock(journal: Path) -> SoftFileLease:
    """In place of Optuna's own lock, which stays for 30 s after a process that was killed while it wrote."""
    return _lease(journal.with_suffix(".journal.lock"))


def _lease(path: Path) -> SoftFileLease:
    return SoftFileLease(path, lease_duration=LEASE_S)


def _with_folder(word: str, folder: Path) -> str:
    """A logger's word with the trial's folder filled in; a project may be called anything."""
    option, _, value = word.partition("=")
    return f"{option}={folder}" if value == "{folder}" and not option.endswith(".project") else word


def short(value: Any) -> str:
    """A parameter as a person writes it down; a class in YAML as a call.

    >>> short({"class_path": "lit_fa.rules.DirectFeedbackAlignment", "init_args": {"scale": 0.5}})
    'DirectFeedbackAlignment(scale=0.5)'
    """
    if isinstance(value, dict) and "class_path" in value:
        inner = ", ".join(f"{key}={short(entry)}" for key, entry in (value.get("init_args") or {}).items())
        return f"{value['class_path'].rpartition('.')[2]}({inner})" if inner else value["class_path"].rpartition(".")[2]
    return f"{value:.5g}" if isinstance(value, float) else str(value)

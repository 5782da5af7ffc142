"""The trials of a sweep in its study: an SQLite file that any number of processes share.

Asking for a trial and telling its end happen under one lock. The process that trains a trial holds the lock of the
trial's folder; a trial that is running by the study's word while nobody holds its lock was killed, and is the next one
to be handed out. Its folder is named by its config, so it goes on from its checkpoint. What is drawn for trial k comes
from (seed, k), and for bayes from the trials before it, not from how often the sweep was interrupted.
"""

import json
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import optuna
from filelock import FileLock, Timeout
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import URL

from lit_fa.jobs.worker import Done
from lit_fa.results.records import Record
from lit_fa.spec.sweep import Sweep
from lit_fa.spec.sweep_command import flags
from lit_fa.sweeps.identical_trials import FIGURES, figures

optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


DIVERGED = "diverged"  # attribute of a trial in its study: where it diverged; samplers see it as pruned


@dataclass(frozen=True)
class Trial:
    """A trial to train: the words of its `lit-fa fit` and where it is told, the head of its record, its log."""

    number: int
    values: dict[str, Any]
    config: dict[str, Any]
    record: dict[str, Any]
    log: Path

    @property
    def label(self) -> str:
        """`trial 3: lr=0.1, alpha=2`, by the last words of the parameters' names."""
        said = (f"{name.rpartition('.')[2]}={short(value)}" for name, value in self.values.items())
        return f"trial {self.number}: {', '.join(said)}"


class Trials:
    """What a sweep still has to train, drawn one trial at a time; closed, it hands back what was not told."""

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
        self.lock, self.held = FileLock(self.folder / "study.lock"), dict[int, FileLock]()
        self.unfinished = dict[int, str]()  # what ended the trials that this process has given up
        with self.lock:
            self.study = open_study(sweep, self.folder)
            for point in sweep.grid()[len(self.study.trials) :] if sweep.method == "grid" else ():
                self.study.enqueue_trial(point)

    def __iter__(self) -> Iterator[Trial | None]:
        """The trials to train, as they are asked for; None while all that are left are being trained elsewhere."""
        while True:
            with self.lock:
                trial = self._killed() or self._fresh()
                if trial is None and (self._reached() or not self._of(TrialState.RUNNING)):
                    return
            yield trial

    def tell(self, trial: Trial, done: Done) -> str:
        """Put the end of a trial into the study; returns it as a line. What another process has is left to it.

        A trial that is not finished stays what it is to the study, running: the next command goes on with it.
        """
        if done.unfinished:
            self.unfinished[trial.number] = done.unfinished
            self.held.pop(trial.number).release()
            return done.said
        if done.elsewhere and not Path(trial.record["path"]).is_file():
            self.held.pop(trial.number).release()
            return done.elsewhere
        record = {} if done.reason else json.loads(Path(trial.record["path"]).read_text(encoding="utf-8"))
        diverged = Record(Path(trial.record["path"]), record).diverged if record else ""
        value, reason = (None, "") if diverged else self._value(record, done.reason)
        pruned = bool(record.get("stopped_early") or diverged)
        state = TrialState.FAIL if reason else TrialState.PRUNED if pruned else TrialState.COMPLETE
        with self.lock:
            live = optuna.trial.Trial(self.study, self.study.trials[trial.number]._trial_id)
            for name, said in (
                ("reason", reason),
                (DIVERGED, diverged),
                ("validation_is_test", self._on_test_set(record)),
                (FIGURES, figures(record)),
            ):
                if said:
                    live.set_user_attr(name, said)
            self.study.tell(live, value if state is TrialState.COMPLETE else None, state=state)
        self.held.pop(trial.number).release()
        if diverged:
            return f"diverged {diverged}"
        return reason or f"{self.sweep.metric.name} {value:.6g}" + (", stopped early" if pruned else "")

    def close(self) -> None:
        """Whoever comes next may take the trials that were not told."""
        for lock in self.held.values():
            lock.release()

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
        values = [t.value for t in self._of(TrialState.COMPLETE)] if target is not None else []
        return any(value >= target if higher else value <= target for value in values)

    def _killed(self) -> Trial | None:
        """A trial whose process is gone, or whose config was another trial's until now."""
        ours = {*self.held, *self.unfinished}
        free = (frozen for frozen in self._of(TrialState.RUNNING) if frozen.number not in ours)
        running = (self._owned(self._completed(frozen)) for frozen in free)
        return next((trial for trial in running if trial), None)

    def _completed(self, frozen: FrozenTrial) -> FrozenTrial:
        """The trial with all its values: a process that is killed while it asks leaves some undrawn."""
        if self.sweep.searched.keys() <= frozen.params.keys():
            return frozen
        self.study.sampler = sampler = self._sampler(frozen.number)
        live = optuna.trial.Trial(self.study, frozen._trial_id)
        for name, parameter in self.sweep.searched.items():
            if name in frozen.params:  # drawn once more, for the sake of the draws behind it
                sampler.sample_independent(self.study, frozen, name, parameter.search)
            else:
                live._suggest(name, parameter.search)
        return self.study.trials[frozen.number]

    def _fresh(self) -> Trial | None:
        """A new trial, None where there are enough, or where the configs drawn are just being trained."""
        while self.begun < self.count and not self._reached():
            self.study.sampler = self._sampler(self.begun)
            asked = self.study.ask({name: p.search for name, p in self.sweep.searched.items()})
            if trial := self._owned(self.study.trials[asked.number]):
                return trial
        return None

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        seed = (self.seed * 1_000_003 + number) % 2**32
        if self.sweep.method == "bayes":
            return optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        return optuna.samplers.RandomSampler(seed=seed)

    def _owned(self, frozen: FrozenTrial) -> Trial | None:
        """The trial, once its folder is ours; None if somebody trains there."""
        trial = self._trial(frozen)
        place = Path(trial.record["path"]).parent
        place.mkdir(parents=True, exist_ok=True)
        lock = FileLock(place / "trial.lock")
        try:
            lock.acquire(blocking=False)
        except Timeout:
            return None
        self.held[frozen.number] = lock
        return trial

    def _trial(self, frozen: FrozenTrial) -> Trial:
        values = self.sweep.values(frozen.params)
        name = self.sweep.trial_id(values)
        place = self.folder / "trials" / name
        before, after = self.sweep.command
        logger = [_placed(word, place) for word in self.logger]
        config = {
            "words": [*before, *flags(self.sweep.nested(values)), *after, *logger],
            "storage": storage(self.folder),
            "study": self.study.study_name,
            "halving": self.sweep.halving,
            "trial": frozen.number,
            "metric": self.sweep.metric.name,
        }
        record = {"id": name, "sweep": self.sweep.name, "parameters": values, "path": str(place / "record.json")}
        return Trial(frozen.number, values, config, record, place / "log.txt")

    def _value(self, record: dict[str, Any], reason: str) -> tuple[float | None, str]:
        """The metric that a run ended with, or why there is none."""
        name = self.sweep.metric.name
        value = record.get("metrics", {}).get(name)
        if reason or (value is not None and math.isfinite(value)):
            return value, reason
        return None, f"the run ended without {name}, or it was no number"

    def _on_test_set(self, record: dict[str, Any]) -> bool:
        return bool(record.get("validation_is_test")) and self.sweep.metric.name.startswith("val/")


def open_study(sweep: Sweep, folder: Path) -> optuna.Study:
    """The sweep's study in the folder's SQLite file; a changed sweep is another study in the same file."""
    name = f"{sweep.name}-{sweep.id}"
    return optuna.create_study(
        storage=storage(folder), study_name=name, direction=sweep.metric.goal, load_if_exists=True
    )


def storage(folder: Path) -> str:
    """Where Optuna finds the study of a folder."""
    path = quote(str(folder.resolve() / "study.db"))  # Optuna formats the address, so that a brace must not be in it
    return URL.create("sqlite", database=f"file:{path}", query={"uri": "true"}).render_as_string()


def _placed(word: str, place: Path) -> str:
    """A logger's word with the trial's folder filled in; a project may be called anything."""
    option, _, value = word.partition("=")
    return f"{option}={place}" if value == "{folder}" and not option.endswith(".project") else word


def short(value: Any) -> str:
    """A parameter as a person writes it down; a class in YAML as a call.

    >>> short({"class_path": "lit_fa.rules.DirectFeedbackAlignment", "init_args": {"scale": 0.5}})
    'DirectFeedbackAlignment(scale=0.5)'
    """
    if isinstance(value, dict) and "class_path" in value:
        inner = ", ".join(f"{key}={short(entry)}" for key, entry in (value.get("init_args") or {}).items())
        return f"{value['class_path'].rpartition('.')[2]}({inner})" if inner else value["class_path"].rpartition(".")[2]
    return f"{value:.5g}" if isinstance(value, float) else str(value)

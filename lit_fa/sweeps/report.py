"""The report of a sweep: the best trials at the terminal, all of them as CSV."""

import csv
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.table import Table

from lit_fa.errors import UserError, nearest
from lit_fa.escaping import csv_value, shown
from lit_fa.outputs import written
from lit_fa.spec.sweep import Sweep
from lit_fa.sweeps.identical_trials import identical_trials
from lit_fa.sweeps.journal import has_study, open_study
from lit_fa.sweeps.study import DIVERGED, short

WORDS = {TrialState.COMPLETE: "finished", TrialState.PRUNED: "stopped early", TrialState.FAIL: "failed"}
STATES = ("finished", "stopped early", "diverged", "failed", "running")


def print_report(
    sweep: Sweep, folder: Path, output: Console, *, top: int, by: str | None, csv_file: Path | None
) -> int:
    """Print the best trials and count the states of all; write every trial to `csv_file` if it is given.

    Args:
        sweep: what was searched.
        folder: of its study.
        output: where to print.
        top: how many trials.
        by: a parameter (the end of its name suffices): show only the best trial for each of its values.
        csv_file: for all trials.

    Raises:
        UserError: there are no trials, or there is no such parameter.
    """
    if not has_study(folder) or not (trials := ranked(open_study(sweep, folder))):
        raise UserError(f"no trials of {sweep.path} in {folder}; begin with: lit-fa sweep run {sweep.path}")
    rows = [row(sweep, trial, folder) for trial in trials]
    titles = (shown(name.rpartition(".")[2]) for name in rows[0] if name != "folder")
    drawn = Table(*titles, title=shown(title(sweep, trials)))
    for entry in (best_of_each(rows, sweep, by) if by else rows)[:top]:
        texts = ("–" if value is None else short(value) for name, value in entry.items() if name != "folder")
        drawn.add_row(*map(shown, texts))
    output.print(drawn)
    for line in identical_trials(trials):
        output.print(f"note: {line}", markup=False, highlight=False, soft_wrap=True)
    if csv_file:
        with written(csv_file, "--csv") as part, part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(map(csv_value, rows[0]))
            writer.writerows(map(csv_value, entry.values()) for entry in rows)
    return 0


def ranked(study: optuna.Study) -> list[FrozenTrial]:
    """Finished trials, the best first; then trials stopped early, by last value; diverged trials; all others."""
    sign = -1 if study.direction == optuna.study.StudyDirection.MAXIMIZE else 1

    def order(trial: FrozenTrial) -> tuple[int, float, int]:
        value = trial.value if trial.value is not None else 0.0
        return STATES.index(state_of(trial)), sign * value, trial.number

    return sorted((trial for trial in study.trials if trial.state is not TrialState.WAITING), key=order)


def state_of(trial: FrozenTrial) -> str:
    """How a trial ended, one of `STATES`."""
    return "diverged" if DIVERGED in trial.user_attrs else WORDS.get(trial.state, "running")


def row(sweep: Sweep, trial: FrozenTrial, folder: Path) -> dict[str, Any]:
    """One trial: number, state, final and best value of the metric, parameters by dotted name, folder."""
    values, name = sweep.values(trial.params), sweep.metric.name
    pick = max if sweep.metric.goal == "maximize" else min
    return {
        "trial": trial.number,
        "state": state_of(trial),
        name: None if state_of(trial) == "diverged" else trial.value,
        f"best {name}": pick(trial.intermediate_values.values(), default=None),
        **values,
        "folder": str(folder / "trials" / sweep.trial_id(values)),
    }


def best_of_each(rows: list[dict[str, Any]], sweep: Sweep, by: str) -> list[dict[str, Any]]:
    """The first row for every value of a parameter."""
    named = [name for name in sweep.searched if name == by or name.endswith(f".{by}")]
    if not named:
        raise UserError(f"--by {by}: no such parameter; {nearest(by, [*sweep.searched])}")
    first: dict[str, dict[str, Any]] = {}
    for entry in rows:
        first.setdefault(str(entry[named[0]]), entry)
    return [*first.values()]


def title(sweep: Sweep, trials: list[FrozenTrial]) -> str:
    """`sweep_lr: 12 trials by val/accuracy (maximize): 9 finished, 3 stopped early`."""
    states = [state_of(trial) for trial in trials]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    return f"{sweep.name}: {len(trials)} trials by {sweep.metric.name} ({sweep.metric.goal}): {counts}"

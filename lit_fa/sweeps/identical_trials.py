"""Trials with equal results but different parameters: a sign that a parameter never reaches the run."""

import hashlib
import json
import re
from collections.abc import Iterable
from typing import Any

from optuna.trial import FrozenTrial

DIGEST = "figures"  # attribute of a trial in its study
# metrics that depend on the machine or repeat an option
_MACHINE = re.compile(r"time|second|memory|bytes|energy|/s$|\blr|epoch$|step$")


def digest(record: dict[str, Any]) -> str:
    """A digest of all metrics and curves of a run, to the last digit; empty without any.

    It is equal for two runs with the same results; times and memory are left out.
    """
    measured = {
        name: {key: value for key, value in (record.get(name) or {}).items() if not _MACHINE.search(key)}
        for name in ("metrics", "curves")
    }
    if not any(measured.values()):
        return ""
    return hashlib.sha256(json.dumps(measured, sort_keys=True).encode()).hexdigest()[:16]


def identical_trials(trials: Iterable[FrozenTrial]) -> list[str]:
    """One line for each group of trials with different parameters whose figures agree to the last digit."""
    groups: dict[str, list[FrozenTrial]] = {}
    for trial in sorted(trials, key=lambda trial: trial.number):
        if value := trial.user_attrs.get(DIGEST):
            groups.setdefault(value, []).append(trial)
    return [
        f"trials {' and '.join(str(trial.number) for trial in group)} agree to the last digit in all that they "
        f"measured, with another {' and '.join(apart)}: does it reach the run?"
        for group in groups.values()
        if (apart := _apart(group))
    ]


def _apart(group: list[FrozenTrial]) -> list[str]:
    """Names of the parameters in which the trials differ."""
    names = dict.fromkeys(name for trial in group for name in trial.params)
    return [name for name in names if len({repr(trial.params.get(name)) for trial in group}) > 1]

"""Tuning tables: whether every arm had as many trials as the others, on held-out data, with its best inside the grid.

A table with `tuning: WORD` has rows `ARM, WORD NUMBER`, such as `FedAvg, rate 0.1`. An arm is such a row without its
number, in one column; its trials are the numbers.
"""

import math
from collections import Counter
from dataclasses import dataclass

from lit_fa.results.records import Collected
from lit_fa.results.summary import number, summarise
from lit_fa.spec.cell import Metric
from lit_fa.spec.tuning import arm_and_value


@dataclass(frozen=True)
class Arm:
    """The trials of one arm in one column.

    Attributes:
        name: of the arm.
        column: of the table.
        metric: by which the trials are compared.
        scores: tried value to the mean score over seeds; None: not run; nan: diverged.
        on_test: tried values whose records were validated on the test set.
    """

    name: str
    column: str
    metric: Metric
    scores: dict[float, float | None]
    on_test: tuple[float, ...] = ()

    @property
    def missing(self) -> int:
        """Trials without a record."""
        return sum(score is None for score in self.scores.values())

    @property
    def best(self) -> float | None:
        """The tried value with the best score; None without any finite score."""
        finite = {value: s for value, s in self.scores.items() if s is not None and math.isfinite(s)}
        choose = max if self.metric.better == "higher" else min
        return choose(finite, key=lambda value: finite[value], default=None)

    @property
    def is_at_edge(self) -> bool:
        """Whether the best value is the smallest or the largest that was tried."""
        return self.best in (min(self.scores), max(self.scores))


def arms(collected: Collected) -> list[Arm]:
    """The arms of a tuning table, in the order of the table; none of another table."""
    word = collected.table.tuning
    by_label: dict[tuple[str, str], Arm] = {}
    for cell in collected.cells if word else ():
        name, value = arm_and_value(cell.row, word)
        arm = by_label.setdefault((name, cell.column), Arm(name, cell.column, cell.metric, {}))
        records = collected.of(cell)
        scores = [score for record in records if (score := record.value(cell.metric)) is not None]
        arm.scores[value] = math.nan if collected.lost(cell) else summarise(scores, cell.metric).mean
        if any(record.data.get("validation_is_test") for record in records):
            by_label[name, cell.column] = Arm(name, cell.column, cell.metric, arm.scores, (*arm.on_test, value))
    return list(by_label.values())


def lines(collected: Collected) -> list[str]:
    """A line for each arm: trials, best value, and what is wrong with its tuning; none of another table."""
    all_arms = arms(collected)
    usual = Counter(len(arm.scores) for arm in all_arms).most_common(1)
    return [_line(arm, collected.table.tuning, usual[0][0]) for arm in all_arms]


def problems(collected: Collected) -> list[str]:
    """What is wrong with the tuning, one line for each such arm."""
    all_arms = arms(collected)
    usual = Counter(len(arm.scores) for arm in all_arms).most_common(1)
    named = [(arm, _problems(arm, usual[0][0])) for arm in all_arms]
    return [f"{_name(arm)}: {', '.join(wrong)}" for arm, wrong in named if wrong]


def _line(arm: Arm, word: str, usual: int) -> str:
    best, wrong = arm.best, _problems(arm, usual)
    score = arm.scores[best] if best is not None else None
    text = f"{len(arm.scores)} trials"
    if best is not None:
        text += f", best at {word} {best:g} ({number(score)} {arm.metric.unit})"
        text += "" if arm.is_at_edge else ", inside the grid"
    return f"{_name(arm)}: {', '.join([text, *wrong])}"


def _problems(arm: Arm, usual: int) -> list[str]:
    wrong = [f"{len(arm.scores)} trials where others have {usual}"] if len(arm.scores) != usual else []
    wrong += [f"{arm.missing} not run"] if arm.missing else []
    wrong += [f"{len(arm.on_test)} judged on the test set"] if arm.on_test else []
    return wrong + (["at the edge of the grid"] if arm.is_at_edge else [])


def _name(arm: Arm) -> str:
    return ", ".join(filter(None, (arm.name, arm.column)))

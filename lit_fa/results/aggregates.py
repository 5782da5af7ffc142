"""Rule against rule over the cells of a table: interquartile mean, probability of improvement, performance profile.

Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice" (2108.13264), as their
package rliable computes them. With runs x_{c,i} of a rule in the columns c of a table:

    interquartile mean           mean of the middle half of all x_{c,i}
    P(X > Y)                     mean over c of the share of pairs (i, j) with x_{c,i} > y_{c,j}; ties count one half
    profile at a threshold t     share of all x_{c,i} above t

The 95 % intervals are of the stratified percentile bootstrap: runs are drawn again within every column.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lit_fa.errors import UserError, nearest
from lit_fa.results.records import Collected

Scores = dict[str, np.ndarray]  # runs by column
_RESAMPLES = 2000
_THRESHOLDS = 101  # of a profile


@dataclass(frozen=True)
class Estimate:
    """A statistic with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Aggregate:
    """A row over the columns of its table.

    Attributes:
        row: its label.
        runs: number of runs in each column.
        iqm: interquartile mean, in the metric's unit.
        better: probability that a run is better than one of the reference row in the same column; None for that row.
        profile: (threshold, share of runs at least as good) from the worst to the best value of the table.
    """

    row: str
    runs: dict[str, int]
    iqm: Estimate
    better: Estimate | None
    profile: tuple[tuple[float, float], ...]


def aggregate(collected: Collected, reference: str, rows: Sequence[str] = ()) -> list[Aggregate]:
    """Every row of a table, over the columns in which all of them have two finished runs or more.

    Args:
        collected: the records of a table.
        reference: the row that the others are compared with.
        rows: to take; all that have a column in common with the reference if empty.

    Raises:
        UserError: an unknown row, cells of different metrics, or no column that all rows have.
    """
    scores = {row: scored for row in _rows(collected, reference, rows) if (scored := _scores(collected, row))}
    known = scores.get(reference, {})
    if not rows:
        scores = {row: scored for row, scored in scores.items() if known.keys() <= scored.keys()}
    columns = [c for c in known if all(c in scored for scored in scores.values())]
    if not columns or len(scores) < 2 or not set(rows) <= scores.keys():
        raise UserError(
            f"{collected.table.path}: no column in which {reference!r} and every other row have two finished runs; "
            "run them, or name other rows"
        )
    lowest, highest = (f(float(f(scored[c])) for scored in scores.values() for c in columns) for f in (min, max))
    sign = 1 if collected.table.metric.better == "higher" else -1
    thresholds = np.linspace(lowest, highest, _THRESHOLDS)[::sign]
    return [_aggregate(row, scored, scores[reference], columns, sign, thresholds) for row, scored in scores.items()]


def interquartile_mean(*columns: np.ndarray, axis: int = -1) -> np.ndarray:
    """The mean of the middle half of all runs; columns are (..., runs).

    >>> float(interquartile_mean(np.array([0.0, 1.0]), np.array([3.0, 100.0])))
    2.0
    """
    from scipy.stats import trim_mean

    return trim_mean(np.concatenate(columns, axis=axis), 0.25, axis=axis)


def probability_of_improvement(*columns: np.ndarray, axis: int = -1) -> np.ndarray:
    """P(X > Y), the mean over columns; the first half of `columns` are X's, the second Y's, each (..., runs).

    >>> float(probability_of_improvement(np.array([2.0, 1.0]), np.array([1.0, 0.0])))
    0.875
    """
    half = len(columns) // 2
    shares = []
    for x, y in zip(columns[:half], columns[half:], strict=True):
        x, y = np.moveaxis(x, axis, -1)[..., :, None], np.moveaxis(y, axis, -1)[..., None, :]
        shares.append(((x > y) + 0.5 * (x == y)).mean((-2, -1)))
    return np.mean(shares, axis=0)


def _rows(collected: Collected, reference: str, rows: Sequence[str]) -> list[str]:
    known = list(dict.fromkeys(cell.row for cell in collected.cells if cell.metric == collected.table.metric))
    for row in (reference, *rows):
        if row not in known:
            raise UserError(f"{collected.table.path}: unknown row {row!r}; {nearest(row, known)}")
    return list(dict.fromkeys((reference, *rows))) if rows else known


def _scores(collected: Collected, row: str) -> Scores:
    """The finite values of a row's runs by column, for columns with at least two."""
    metric, scores = collected.table.metric, {}
    for cell in collected.cells:
        if cell.row == row and cell.metric == metric:
            values = np.array([value for record in collected.of(cell) if (value := record.value(metric)) is not None])
            if len(values) > 1 and np.isfinite(values).all():
                scores[cell.column] = values
    return scores


def _aggregate(
    row: str, scores: Scores, reference: Scores, columns: Sequence[str], sign: int, thresholds: np.ndarray
) -> Aggregate:
    own, other = ([values[c] for c in columns] for values in (scores, reference))
    better = None
    if scores is not reference:
        better = _estimate(probability_of_improvement, [sign * x for x in (*own, *other)])
    runs = np.concatenate(own)
    profile = tuple((float(t), float((sign * runs >= sign * t).mean())) for t in thresholds)
    return Aggregate(row, {c: len(scores[c]) for c in columns}, _estimate(interquartile_mean, own), better, profile)


def _estimate(statistic: Callable[..., np.ndarray], columns: Sequence[np.ndarray]) -> Estimate:
    from scipy.stats import bootstrap  # slow to import

    interval = bootstrap(
        columns,
        statistic,
        n_resamples=_RESAMPLES,
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Estimate(float(statistic(*columns)), float(interval.low), float(interval.high))

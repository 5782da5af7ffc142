"""Does a mean agree with a published number? Two one-sided t-tests against a margin, and a t-test of no difference.

With `d` measured minus published and `se` its standard error,

    agrees    if the 90 % interval d ± t(0.95) se lies inside [-margin, margin],
    differs   if the 95 % interval d ± t(0.975) se excludes 0 and |d| > margin,

so that each is wrong in at most 5 % of all cases. The published number has a spread of its own:

    std over n runs          se^2 = s^2/n + std^2/n_p, degrees of freedom by Welch and Satterthwaite
    no spread printed        the paper's runs vary as ours: se^2 = s^2 (1/n + 1/n_p), n - 1 degrees of freedom,
                             with n_p = 1 if the paper does not say (a prediction interval)
    exact (a theorem's)      se^2 = s^2/n
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lit_fa.spec.table import Published

LEVEL = 0.05  # of every test
_MOST_SEEDS = 10_000  # more than this is "more than 10,000"
_FOREVER = 10**9


@dataclass(frozen=True)
class Evidence:
    """A difference from a published number with what the tests say about it.

    Attributes:
        difference: measured minus published, in the metric's unit.
        error: its standard error.
        df: degrees of freedom.
        margin: largest absolute difference that counts as agreement.
        p_agrees: of the two one-sided tests: the chance of such data if the difference were the margin.
        p_differs: two-sided: the chance of such data if there were no difference.
    """

    difference: float
    error: float
    df: float
    margin: float
    p_agrees: float
    p_differs: float

    @property
    def interval(self) -> float:
        """Half the width of the difference's 95 % interval."""
        return _quantile(self.df, 1 - LEVEL / 2) * self.error if self.error else 0.0

    @property
    def outside(self) -> bool:
        """Whether the difference is larger than the margin."""
        return abs(self.difference) > self.margin


def evidence(mean: float, sd: float, n: int, published: Published, margin: float) -> Evidence:
    """What `n` runs of this mean and sample deviation say about a published number.

    Args:
        mean: of the runs, in the metric's unit.
        sd: sample deviation of the runs.
        n: number of runs, at least 2.
        published: the number to compare with.
        margin: largest absolute difference that counts as agreement.
    """
    error, df = _standard_error(sd, n, published)
    # Rounding only: 97.8 - 97.5 is 0.3 to a person, not 0.29999999999999716.
    difference = round(mean - published.value, 12 - math.ceil(math.log10(max(abs(mean), abs(published.value), 1e-12))))
    return Evidence(difference, error, df, margin, *_p_values(difference, error, df, margin))


@dataclass(frozen=True)
class Reading:
    """One of the rows that read a published number; most numbers have one.

    Attributes:
        seen: evidence of its runs.
        sd: their sample deviation.
        published: the number.
    """

    seen: Evidence
    sd: float
    published: Published

    def p_values(self, n: int) -> tuple[float, float]:
        """Those of `n` seeds of the same mean and deviation."""
        error, df = _standard_error(self.sd, n, self.published)
        return _p_values(self.seen.difference, error, df, self.seen.margin)


def seeds_needed(readings: Sequence[Reading], at: int, n: int) -> int | None:
    """The number of seeds of every reading that would decide if means and deviations stayed as they are.

    None if no number would: `undecidable` says whether there is none, or only none up to 10,000.

    Args:
        readings: of one published number; their p-values are corrected over them.
        at: the place in them of the one that is to be decided.
        n: its present number of seeds.
    """
    if not _decided(readings, at, _MOST_SEEDS):
        return None
    low, high = n, _MOST_SEEDS  # undecided, decided
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _decided(readings, at, middle) else (middle, high)
    return high


def undecidable(readings: Sequence[Reading], at: int) -> bool:
    """Whether no number of seeds decides, because the published number's own spread is too large for the margin."""
    return not _decided(readings, at, _FOREVER)


def holm(p_values: list[float]) -> list[float]:
    """Holm's adjusted p-values, in the order of `p_values`: no more than 5 % of families have a false one below 0.05.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def p_of_mean(mean: float, sd: float, n: int) -> float:
    """Two-sided p-value of a t-test that the mean of `n` values is 0; `n` is at least 2."""
    return _p_values(mean, sd / math.sqrt(n), n - 1, 0.0)[1]


def lower_bound(mean: float, sd: float, n: int) -> float:
    """One-sided 95 % lower bound of a mean."""
    return mean - _quantile(n - 1, 1 - LEVEL) * sd / math.sqrt(n)


def _standard_error(sd: float, n: int, published: Published) -> tuple[float, float]:
    """Standard error of the difference, and its degrees of freedom."""
    runs = published.n or 1
    if published.exact:
        return sd / math.sqrt(n), n - 1
    if published.std is None:
        return sd * math.sqrt(1 / n + 1 / runs), n - 1
    ours, theirs = sd**2 / n, published.std**2 / runs
    if runs == 1 or not ours + theirs:
        return math.sqrt(ours + theirs), n - 1
    return math.sqrt(ours + theirs), (ours + theirs) ** 2 / (ours**2 / (n - 1) + theirs**2 / (runs - 1))


def _p_values(difference: float, error: float, df: float, margin: float) -> tuple[float, float]:
    if not error:
        return float(abs(difference) > margin), float(difference == 0)
    from scipy.special import stdtr  # slow to import; only a report needs it

    size = abs(difference)
    return float(stdtr(df, (size - margin) / error)), float(2 * stdtr(df, -size / error))


def _decided(readings: Sequence[Reading], at: int, n: int) -> bool:
    """Whether `n` seeds of every reading, of the same means and deviations, would give a verdict on one of them."""
    agrees, differs = (holm(list(p)) for p in zip(*(reading.p_values(n) for reading in readings), strict=True))
    return agrees[at] <= LEVEL or (differs[at] <= LEVEL and readings[at].seen.outside)


def _quantile(df: float, level: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(df, level))

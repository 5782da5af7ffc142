"""A metric over seeds: mean, deviation and interval, and how these numbers are printed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from lit_fa.spec.table import Metric


@dataclass(frozen=True)
class Summary:
    """A metric over seeds, in the metric's unit; `sd` is the sample deviation (n - 1), None for a single run.

    `interval` is half the width of the two-sided 95 % Student interval of the mean.
    """

    metric: Metric
    values: tuple[float, ...]
    mean: float | None = None
    sd: float | None = None
    interval: float | None = None

    @property
    def n(self) -> int:
        """Number of runs."""
        return len(self.values)

    @property
    def not_finite(self) -> int:
        """Number of runs whose value is nan or infinite."""
        return sum(not math.isfinite(value) for value in self.values)


def summarise(values: Sequence[float], metric: Metric) -> Summary:
    """Mean, sample deviation and 95 % Student interval of the mean; only nan for a mean if a value is not finite.

    >>> summarise([1.0, 3.0], Metric("test/accuracy", "%")).mean
    2.0
    """
    if not values:
        return Summary(metric, ())
    if not all(map(math.isfinite, values)):
        return Summary(metric, tuple(values), math.nan)
    if len(values) == 1:
        return Summary(metric, tuple(values), values[0])
    from scipy.special import stdtrit  # slow to import; only a report needs it

    sd = stdev(values)
    half = float(stdtrit(len(values) - 1, 0.975)) * sd / math.sqrt(len(values))
    return Summary(metric, tuple(values), fmean(values), sd, half)


def number(value: float | None, like: float | None = None) -> str:
    """A number with the decimals of `like`: four digits and at least two decimals, an exponent at the extremes.

    >>> number(97.846), number(0.99553), number(0.1, like=97.8), number(3e-7)
    ('97.85', '0.9955', '0.10', '3.00e-07')
    """
    if value is None:
        return ""
    size = abs(value if like is None else like)
    if value == 0 or not 1e-3 <= size < 1e5:
        return f"{value:.2e}" if value else "0"
    return f"{value:.{max(2, 3 - math.floor(math.log10(size)))}f}"


def mean_sd(summary: Summary) -> str:
    """`97.85 ± 0.10`, the mean alone for a single run, a dash for none."""
    if summary.mean is None:
        return "–"
    return number(summary.mean) + (f" ± {number(summary.sd, summary.mean)}" if summary.sd is not None else "")


def headline(metric: Metric) -> str:
    """A metric as a column's title: name, unit, and the point of the curve unless it is the last."""
    point = "" if metric.at == "last" else f", {metric.at.replace('_', ' ')}"
    return f"{metric.name} ({metric.unit}{point})"

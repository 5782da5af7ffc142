"""A verdict on a published number as data: its kind, the reason where there is none, and the evidence.

The tests are in `equivalence`. There is a verdict at the paper's own scale and protocol only.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum, StrEnum

from lit_fa.results.equivalence import LEVEL, Evidence, Reading, evidence, seeds_needed, undecidable
from lit_fa.results.summary import Summary
from lit_fa.spec.accept import Accept
from lit_fa.spec.table import Published, Scale


class Kind(StrEnum):
    """The outcome of a comparison."""

    AGREES = "agrees"
    DIFFERS = "differs"
    UNDECIDED = "undecided"  # more seeds may decide
    UNDECIDABLE = "undecidable"  # no number of seeds decides: the published number's own spread is too large
    OPEN = "open"  # nothing to compare with
    MISSING = "missing"  # no run
    FAILED = "failed"  # runs that diverged, or without a finite number


class Reason(Enum):
    """Why there is no verdict on a published number, in the order in which they are looked for."""

    NOT_RUN = "no run"
    NOT_FINITE = "a value is nan or infinite"
    UNPUBLISHED = "no published number"
    OTHER_UNIT = "published in another unit"
    OTHER_METRIC = "another metric is published"
    OTHER_POINT = "published at another point of training"
    PAIR_NOT_RUN = "no run of the paired cell"
    REDUCED = "the scale is not the paper's protocol"
    OTHER_END = "the paper's runs end by another protocol"
    OTHER_PROTOCOL = "the paper's protocol differs from the table's"
    CONTROL_NOT_RUN = "the positive control has fewer than two runs"
    NO_POWER = "the positive control does not beat a constant prediction by more than the margin"

    @property
    def kind(self) -> Kind:
        """The kind of verdict that follows."""
        return {Reason.NOT_RUN: Kind.MISSING, Reason.NOT_FINITE: Kind.FAILED}.get(self, Kind.OPEN)


@dataclass(frozen=True)
class PValue:
    """The p-value of a test, and after Holm's correction over the table's tests of the same kind."""

    p: float
    holm: float


@dataclass(frozen=True)
class Verdict:
    """The outcome of comparing a mean with a published number.

    Attributes:
        kind: of the outcome.
        reason: why there is no test; None where there is one.
        evidence: of the tests; None without a test, and for a single run.
        agrees, differs: the p-values that decide, after Holm's correction over the readings of one published number.
        seeds: with an undecided verdict the number of seeds that would decide; None if it is not known or above 10,000.
    """

    kind: Kind
    reason: Reason | None = None
    evidence: Evidence | None = None
    agrees: PValue | None = None
    differs: PValue | None = None
    seeds: int | None = None


def judge(summary: Summary, published: Published, accept: Accept) -> Verdict:
    """The verdict on a mean that can be compared with a published number, as the only test of its table."""
    if summary.sd is None or summary.mean is None:
        return Verdict(Kind.UNDECIDED)
    seen = evidence(summary.mean, summary.sd, summary.n, published, accept.margin)
    agrees, differs = (PValue(p, p) for p in (seen.p_agrees, seen.p_differs))
    return decide(
        Verdict(Kind.UNDECIDED, None, seen, agrees, differs), [Reading(seen, summary.sd, published)], 0, summary.n
    )


def why_not(summary: Summary, published: Published | None, scale: Scale) -> Reason | None:
    """Why a mean cannot be compared with the published number; None if it can."""
    metric = summary.metric
    if summary.mean is None:
        return Reason.NOT_RUN
    if summary.not_finite:
        return Reason.NOT_FINITE
    if published is None:
        return Reason.UNPUBLISHED
    checks = {
        Reason.OTHER_UNIT: published.unit != metric.unit,
        Reason.OTHER_METRIC: published.metric not in ("", metric.name),
        Reason.OTHER_POINT: published.at not in (None, metric.at),
        Reason.REDUCED: scale.name != "full",
        Reason.OTHER_END: published.ends != scale.protocol,
        Reason.OTHER_PROTOCOL: published.protocol not in ("", "matched", "converged"),
    }
    return next((reason for reason, applies in checks.items() if applies), None)


def decide(verdict: Verdict, readings: Sequence[Reading], at: int, n: int) -> Verdict:
    """The verdict with the kind that follows from its p-values.

    Args:
        verdict: with p-values that are corrected over the readings of the published number.
        readings: all of them.
        at: the place of this one in them.
        n: its number of runs.
    """
    seen, agrees, differs = verdict.evidence, verdict.agrees, verdict.differs
    if seen is None or agrees is None or differs is None:
        return verdict
    if agrees.p <= LEVEL:
        return replace(verdict, kind=Kind.AGREES)
    if differs.p <= LEVEL and seen.outside:
        return replace(verdict, kind=Kind.DIFFERS)
    if undecidable(readings, at):
        return replace(verdict, kind=Kind.UNDECIDABLE)
    return replace(verdict, seeds=seeds_needed(readings, at, n))

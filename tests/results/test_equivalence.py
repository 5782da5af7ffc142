"""The tests behind a verdict: against scipy and printed tables, and their error rates in simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from lit_fa.results.equivalence import Reading, evidence, holm, lower_bound, p_of_mean, seeds_needed, undecidable
from lit_fa.results.summary import summarise
from lit_fa.results.verdict import Kind, judge
from lit_fa.spec.accept import Accept
from lit_fa.spec.table import Metric, Published

ACCURACY = Metric("test/accuracy", "%")
WITH_SPREAD, SINGLE = Published(98.0, "%", std=0.4, n=5), Published(98.0, "%", n=1)
THEOREM = Published(98.0, "%", exact=True)
REPEATS = 400


def verdict(values, published, margin):
    return judge(summarise(list(values), ACCURACY), published, Accept(margin, "a reason"))


def test_a_printed_spread_gives_welchs_test():
    seen = evidence(98.5, 0.3, 3, WITH_SPREAD, 1.0)
    welch = stats.ttest_ind_from_stats(98.5, 0.3, 3, 98.0, 0.4, 5, equal_var=False)
    assert seen.p_differs == pytest.approx(welch.pvalue, rel=1e-12)
    upper = stats.ttest_ind_from_stats(98.5, 0.3, 3, 99.0, 0.4, 5, equal_var=False, alternative="less")
    lower = stats.ttest_ind_from_stats(98.5, 0.3, 3, 97.0, 0.4, 5, equal_var=False, alternative="greater")
    assert seen.p_agrees == pytest.approx(max(upper.pvalue, lower.pvalue), rel=1e-12)


def test_a_single_published_run_gives_a_prediction_interval():
    seen = evidence(98.5, 0.3, 3, SINGLE, 1.0)
    assert seen.error == pytest.approx(0.3 * math.sqrt(1 + 1 / 3), rel=1e-12)
    assert seen.interval == pytest.approx(4.302653 * seen.error, rel=1e-6)  # t(0.975, 2) from a printed table
    unsaid = evidence(98.5, 0.3, 3, Published(98.0, "%"), 1.0)
    assert unsaid == seen


def test_published_runs_without_a_spread_vary_as_ours_do():
    seen = evidence(98.5, 0.3, 3, Published(98.0, "%", n=5), 1.0)
    assert (seen.error, seen.df) == (pytest.approx(0.3 * math.sqrt(1 / 3 + 1 / 5), rel=1e-12), 2)


def test_a_theorem_has_no_spread():
    assert evidence(98.5, 0.3, 3, THEOREM, 1.0).error == pytest.approx(0.3 / math.sqrt(3), rel=1e-12)


@pytest.mark.parametrize(
    ("values", "published", "margin", "kind"),
    [
        ([97.9, 98.0, 98.1], THEOREM, 0.3, Kind.AGREES),
        ([98.0, 98.0, 98.0], THEOREM, 0.3, Kind.AGREES),  # without any spread
        ([98.3, 98.3], Published(98.0, "%", exact=True), 0.3, Kind.AGREES),  # exactly the margin
        ([98.4, 98.4], THEOREM, 0.3, Kind.DIFFERS),
        ([98.9, 99.0, 99.1], THEOREM, 0.3, Kind.DIFFERS),
        ([98.19, 98.2, 98.21], THEOREM, 0.3, Kind.AGREES),  # it differs from zero, by less than the margin
        ([97.0, 98.0, 99.0], THEOREM, 0.3, Kind.UNDECIDED),
        ([98.0], THEOREM, 0.3, Kind.UNDECIDED),
        ([97.5, 98.0, 98.5], SINGLE, 0.5, Kind.UNDECIDABLE),  # 0.5 < 1.65 x 0.5
        ([97.5, 98.0, 98.5], SINGLE, 1.0, Kind.UNDECIDED),
        ([97.9, 98.0, 98.1], SINGLE, 1.0, Kind.AGREES),
        ([104.9, 105.0, 105.1], SINGLE, 1.0, Kind.DIFFERS),
    ],
)
def test_a_verdict_follows_from_the_interval_and_the_margin(values, published, margin, kind):
    assert verdict(values, published, margin).kind is kind


def test_the_number_of_seeds_that_would_decide_is_the_smallest():
    summary = summarise([97.0, 98.0, 99.0], ACCURACY)
    seen = evidence(summary.mean, summary.sd, 3, THEOREM, 0.3)
    needed = seeds_needed([Reading(seen, summary.sd, THEOREM)], 0, 3)
    # the half width of the 90 % interval of the mean of n values of deviation 1
    inside = [stats.t.ppf(0.95, n - 1) / math.sqrt(n) <= 0.3 for n in (needed - 1, needed)]
    assert inside == [False, True]


def test_no_number_of_seeds_decides_below_1_65_deviations_of_a_single_published_run():
    for margin, decidable in ((1.64, False), (1.66, True)):
        seen = evidence(98.0, 1.0, 3, SINGLE, margin)
        assert undecidable([Reading(seen, 1.0, SINGLE)], 0) is not decidable


def test_seeds_that_would_decide_hold_after_correction_over_the_readings():
    seen = evidence(98.0, 0.2, 3, THEOREM, 0.3)
    alone, of_four = ([Reading(seen, 0.2, THEOREM)] * k for k in (1, 4))
    needed = seeds_needed(of_four, 0, 3)
    assert seeds_needed(alone, 0, 3) < needed
    p = [4 * evidence(98.0, 0.2, n, THEOREM, 0.3).p_agrees for n in (needed - 1, needed)]
    assert [value <= 0.05 for value in p] == [False, True]


def test_readings_that_only_their_correction_leaves_undecided_are_undecidable():
    seen = evidence(98.0, 0.53, 3, SINGLE, 1.0)  # the limit of p for many seeds is 0.03
    reading = Reading(seen, 0.53, SINGLE)
    assert not undecidable([reading], 0)
    assert undecidable([reading] * 4, 0)


def test_holm_is_statsmodels_example_worked_by_hand():
    # sorted 0.01, 0.02, 0.03, 0.2: times 4, 3, 2, 1, made monotone
    assert holm([0.03, 0.2, 0.01, 0.02]) == pytest.approx([0.06, 0.2, 0.04, 0.06])
    assert holm([]) == []


def test_a_paired_difference_is_tested_by_students_t():
    values = [0.1, 0.5, 0.2, 0.4]
    summary = summarise(values, ACCURACY)
    assert p_of_mean(summary.mean, summary.sd, 4) == pytest.approx(stats.ttest_1samp(values, 0).pvalue, rel=1e-12)
    bound = stats.ttest_1samp(values, 0, alternative="greater").confidence_interval(0.95).low
    assert lower_bound(summary.mean, summary.sd, 4) == pytest.approx(bound, rel=1e-9)


def kinds(difference, spread, n, published_runs, seed):
    """Verdicts of simulated tables: ours and the paper's runs are normal with the same spread; the margin is 1."""
    draw = np.random.default_rng(seed)
    for _ in range(REPEATS):
        theirs, ours = draw.normal(0, spread, published_runs), draw.normal(difference, spread, n)
        std = float(theirs.std(ddof=1)) if published_runs > 1 else None
        yield verdict(ours, Published(float(theirs.mean()), "%", std=std, n=published_runs), 1.0).kind


@pytest.mark.parametrize("published_runs", [1, 5])
@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize("spread", [0.1, 0.5, 1.0, 3.0])
def test_false_verdicts_are_at_most_one_in_twenty(spread, n, published_runs):
    # three binomial standard errors of 5 % of 400
    bound = 0.05 + 3 * math.sqrt(0.05 * 0.95 / REPEATS)
    for difference in (1.0, 2.0):
        agrees = sum(kind is Kind.AGREES for kind in kinds(difference, spread, n, published_runs, 0)) / REPEATS
        assert agrees <= bound
    differs = sum(kind is Kind.DIFFERS for kind in kinds(0.0, spread, n, published_runs, 1)) / REPEATS
    assert differs <= bound


def test_equal_runs_of_small_spread_agree_and_distant_ones_differ():
    assert sum(kind is Kind.AGREES for kind in kinds(0.0, 0.1, 3, 1, 2)) > 0.9 * REPEATS
    assert sum(kind is Kind.DIFFERS for kind in kinds(2.0, 0.1, 3, 1, 3)) > 0.9 * REPEATS

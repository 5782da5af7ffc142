"""Every distribution of W&B's, against its quantile function."""

import math

import pytest
from optuna.distributions import FloatDistribution, IntDistribution

from lit_fa.errors import UserError
from lit_fa.spec.distributions import parameter
from tests.reference.wandb_distributions import quantile

DECLARED = [
    {"distribution": "uniform", "min": -1.0, "max": 3.0},
    {"distribution": "q_uniform", "min": 0.3, "max": 9.0, "q": 0.5},
    {"distribution": "log_uniform", "min": -7, "max": 1.5},
    {"distribution": "log_uniform_values", "min": 0.001, "max": 4},
    {"distribution": "q_log_uniform", "min": 0, "max": 5, "q": 2},
    {"distribution": "q_log_uniform_values", "min": 1, "max": 500, "q": 16},
    {"distribution": "inv_log_uniform", "min": -2.0, "max": 3.0},
    {"distribution": "inv_log_uniform_values", "min": 0.01, "max": 10.0},
    {"distribution": "normal", "mu": 3.0, "sigma": 0.5},
    {"distribution": "normal"},
    {"distribution": "q_normal", "mu": 30, "sigma": 20, "q": 5},
    {"distribution": "log_normal", "mu": -1.0, "sigma": 2.0},
    {"distribution": "q_log_normal", "mu": 2.0, "sigma": 1.0},
    {"distribution": "beta", "a": 2, "b": 5},
    {"distribution": "q_beta", "a": 2, "b": 2, "q": 0.25},
    {"distribution": "int_uniform", "min": -2, "max": 7},
    {"distribution": "categorical_w_probabilities", "values": ["a", "b", "c"], "probabilities": [0.2, 0.5, 0.3]},
]


def at(search, u: float):
    """What Optuna draws with probability u below it."""
    if isinstance(search, IntDistribution):
        return search.low + math.ceil(u * (search.high - search.low + 1)) - 1
    if isinstance(search, FloatDistribution) and search.log:
        return search.low ** (1 - u) * search.high**u
    return search.low + u * (search.high - search.low)


@pytest.mark.parametrize("declared", DECLARED, ids=lambda d: d["distribution"])
def test_a_draw_is_the_quantile_of_w_and_bs_distribution(declared):
    ours = parameter(declared, "lr")
    for u in (0.013, 0.19, 0.333, 0.5, 0.71, 0.98):
        expected = quantile(u, **declared)
        expected = expected if isinstance(expected, str) else pytest.approx(expected, 1e-7)
        assert ours.value(at(ours.search, u)) == expected  # a quantile lies 1e-9 or more inside 0 and 1


def test_what_is_not_said_is_w_and_bs_default():
    assert parameter({"min": 1, "max": 4}, "").search == IntDistribution(1, 4)
    assert parameter({"min": 1.0, "max": 4}, "").search == FloatDistribution(1.0, 4)
    assert parameter({"values": [1, "a"]}, "").search.choices == (1, "a")
    assert parameter({"value": {"a": 1}}, "").value(None) == {"a": 1}


def test_whole_numbers_over_the_whole_range_are_drawn_without_a_grid():
    widest = parameter({"min": -(2**62), "max": 2**63 - 1}, "p")
    assert (widest.search, widest.grid) == (IntDistribution(-(2**62), 2**63 - 1), None)


def test_lists_and_mappings_come_back_as_they_were():
    values = [[32], {"class_path": "a.B"}, None]
    ours = parameter({"values": values}, "")
    assert [ours.value(choice) for choice in ours.search.choices] == values


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ({"distribution": "log_unifrom", "min": 1, "max": 2}, "unknown 'log_unifrom'; nearest: log_uniform"),
        ({"distribution": "uniform", "min": 2.0, "max": 1.0}, "min 2.0 is not less than max 1.0"),
        ({"distribution": "uniform", "min": 2.0}, "the key 'max' is missing"),
        ({"distribution": "uniform", "min": 1.0, "max": 2.0, "q": 1}, "unknown key 'q'"),
        ({"distribution": "log_uniform_values", "min": 0, "max": 1}, "limits above zero"),
        ({"distribution": "log_uniform", "min": 1, "max": 1000}, "is an exponent of e here"),
        ({"distribution": "log_uniform_values", "min": "1e-3", "max": 1}, "to W&B 1.0e-3 for 1e-3"),
        ({"distribution": "q_uniform", "min": 0, "max": 1, "q": 0}, "lr: q: 0 is too small; more than 0 is needed"),
        ({"distribution": "normal", "sigma": -1}, "at least 0 is needed"),
        ({"distribution": "int_uniform", "min": 1.5, "max": 3}, "must be whole numbers"),
        ({"values": [1, 2], "probabilities": [0.5, 0.6]}, "with the sum 1"),
        ({"values": []}, "at least one entry"),
        ({"mu": 1}, "write value, values, min and max, or a distribution"),
    ],
)
def test_a_bad_distribution_is_one_line(declared, said):
    with pytest.raises(UserError) as error:
        parameter(declared, "parameters.lr")
    assert said in str(error.value)
    assert "parameters.lr" in str(error.value)

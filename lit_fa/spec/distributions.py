"""W&B's distributions of a parameter, as what Optuna searches and what becomes of a draw.

Where Optuna has the distribution, the search is over the parameter itself, q_ being rounded afterwards. Where it has
not (normal, beta, probabilities of categories), it is over the quantile u in (0, 1) and the parameter is the inverse of
the distribution function at u, which is how W&B's own search sees every parameter.

    log_uniform        exp(U), U uniform in [min, max]: limits are exponents
    inv_log_uniform    exp(-U), likewise
    ..._values         limits are values; both are log-uniform between them
    q_...              round(X / q) q, halves to even
    int_uniform        max is one of the values
"""

import json
import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from statistics import NormalDist
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from lit_fa.errors import UserError
from lit_fa.spec.validation import choice, keys, number, sequence

LIMITS, BELL, SHAPE = ("min", "max"), ("mu", "sigma"), ("a", "b")
_KEYS = {
    "constant": ("value",),
    "categorical": ("values",),
    "categorical_w_probabilities": ("values", "probabilities"),
    "int_uniform": LIMITS,
    **dict.fromkeys(("uniform", "log_uniform", "log_uniform_values"), LIMITS),
    **dict.fromkeys(("inv_log_uniform", "inv_log_uniform_values"), LIMITS),
    **dict.fromkeys(("q_uniform", "q_log_uniform", "q_log_uniform_values"), (*LIMITS, "q")),
    **dict.fromkeys(("normal", "log_normal"), BELL),
    **dict.fromkeys(("q_normal", "q_log_normal"), (*BELL, "q")),
    "beta": SHAPE,
    "q_beta": (*SHAPE, "q"),
}
LARGEST_GRID = 1_000_000  # values
_DEFAULTS = {"mu": 0.0, "sigma": 1.0, "a": 1.0, "b": 1.0, "q": 1.0}
_QUANTILE = FloatDistribution(1e-9, 1 - 1e-9)  # a bell has no value at 0 and 1


@dataclass(frozen=True)
class Parameter:
    """What Optuna draws (None for a constant), the value that a draw stands for, and the values of a grid, if any."""

    search: BaseDistribution | None
    value: Callable[[Any], Any]
    grid: tuple | None = None

    def on_grid(self) -> "Parameter":
        """The same parameter as a choice among the values of its grid."""
        return categorical(self.grid)


def parameter(data: dict[str, Any], where: str) -> Parameter:
    """The parameter that `data`, an entry of a sweep file, declares.

    Raises:
        UserError: an unknown distribution, a key that it does not have or lacks, limits in the wrong order.
    """
    name = choice(_name(data, where), f"{where}.distribution", _KEYS)
    needed = [key for key in _KEYS[name] if key not in _DEFAULTS]
    keys(data, f"{where} ({name})", [*_KEYS[name], "distribution"], [] if name == "constant" else needed)
    if "value" in _KEYS[name]:
        return Parameter(None, lambda _: data["value"], (data["value"],))
    if "values" in _KEYS[name]:
        values = tuple(sequence(data["values"], f"{where}.values"))
        return weighted(values, data["probabilities"], where) if "probabilities" in data else categorical(values)
    for key in LIMITS if name == "int_uniform" else ():
        if isinstance(data[key], int) and abs(data[key]) >= 2**63:
            raise UserError(f"{where}.{key}: a number of {len(str(abs(data[key])))} digits; write one below 2**63")
    numbers = {key: _number(data.get(key, _DEFAULTS.get(key)), f"{where}.{key}") for key in _KEYS[name]}
    _check(name, numbers, where)
    drawn = _drawn(name.removeprefix("q_"), numbers, where)
    return _rounded(drawn, numbers, name) if "q" in numbers else drawn


def categorical(values: tuple) -> Parameter:
    """One of `values`; lists and mappings are kept in the study as text."""
    plain = (str, int, float, bool, type(None))
    coded = [value if isinstance(value, plain) else json.dumps(value) for value in values]
    return Parameter(CategoricalDistribution(coded), lambda drawn: values[coded.index(drawn)], values)


def weighted(values: tuple, probabilities: Any, where: str) -> Parameter:
    """One of `values` with the probability that stands at its place."""
    shares = [number(share, f"{where}.probabilities", least=0) for share in sequence(probabilities, where)]
    if len(shares) != len(values) or not math.isclose(sum(shares), 1.0, rel_tol=1e-5, abs_tol=1e-8):
        raise UserError(f"{where}.probabilities: write one for each of the {len(values)} values, with the sum 1")
    bounds = list(accumulate(shares))[:-1]
    return Parameter(_QUANTILE, lambda u: values[bisect_right(bounds, u)])


def _name(data: dict[str, Any], where: str) -> str:
    """The distribution of an entry; of one that names none, as W&B has it."""
    if "distribution" in data:
        return data["distribution"]
    if "value" in data:
        return "constant"
    if "values" in data:
        return "categorical_w_probabilities" if "probabilities" in data else "categorical"
    if set(LIMITS) <= set(data):
        whole = all(isinstance(data[key], int) for key in LIMITS)
        return "int_uniform" if whole else "uniform"
    raise UserError(f"{where}: write value, values, min and max, or a distribution ({', '.join(_KEYS)})")


def _number(value: Any, where: str) -> float:
    if isinstance(value, str):
        raise UserError(f"{where}: {value!r} is text to W&B, whose YAML wants a point: write 1.0e-3 for 1e-3, or 0.001")
    return number(value, where)


def _check(name: str, numbers: dict[str, float], where: str) -> None:
    low, high = numbers.get("min"), numbers.get("max")
    if low is not None and low >= high:
        raise UserError(f"{where}: min {low} is not less than max {high}")
    if name.endswith("_values") and low <= 0:
        raise UserError(f"{where}: min {low}: the logarithm needs limits above zero")
    if name == "int_uniform" and not all(isinstance(numbers[key], int) for key in LIMITS):
        raise UserError(f"{where}: min {low} and max {high} of int_uniform must be whole numbers")
    if numbers.get("q", 1) <= 0:
        raise UserError(f"{where}.q: {numbers['q']} is too small; it is the step, above zero")
    for key in ("sigma", *SHAPE):
        number(numbers.get(key, 0), f"{where}.{key}", least=0)


def _drawn(name: str, numbers: dict[str, float], where: str) -> Parameter:
    low, high = (numbers.get(key) for key in LIMITS)
    if name == "int_uniform":
        grid = range(low, high + 1)
        return Parameter(IntDistribution(low, high), int, tuple(grid) if len(grid) <= LARGEST_GRID else None)
    if name == "uniform":
        return Parameter(FloatDistribution(low, high), float)
    if name == "log_uniform":
        return Parameter(FloatDistribution(_exp(low, where), _exp(high, where), log=True), float)
    if name == "inv_log_uniform":
        return Parameter(FloatDistribution(_exp(-high, where), _exp(-low, where), log=True), float)
    if name.endswith("_values"):
        return Parameter(FloatDistribution(low, high, log=True), float)
    if name == "beta":
        return Parameter(_QUANTILE, lambda u: _beta(u, numbers["a"], numbers["b"]))
    bell = Parameter(_QUANTILE, lambda u: numbers["mu"] + numbers["sigma"] * NormalDist().inv_cdf(u))
    return bell if name == "normal" else Parameter(_QUANTILE, lambda u: math.exp(bell.value(u)))


def _rounded(drawn: Parameter, numbers: dict[str, float], name: str) -> Parameter:
    """To multiples of q; W&B's grid of q_uniform is min, min + q, ... below max, and is not rounded."""
    low, high, q = numbers.get("min"), numbers.get("max"), numbers["q"]
    steps = math.ceil((high - low) / q) if name == "q_uniform" else LARGEST_GRID + 1
    grid = tuple(low + k * q for k in range(steps)) if steps <= LARGEST_GRID else None
    return Parameter(drawn.search, lambda u: round(drawn.value(u) / q) * q, grid)


def _exp(exponent: float, where: str) -> float:
    if abs(exponent) > 700:
        raise UserError(f"{where}: {exponent} is an exponent of e here; for limits write log_uniform_values")
    return math.exp(exponent)


def _beta(u: float, a: float, b: float) -> float:
    from scipy.stats import beta

    return float(beta.ppf(u, a, b))

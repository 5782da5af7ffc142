"""W&B's distributions of a parameter, as what Optuna samples and the value that a sample stands for.

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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import NormalDist
from typing import Annotated, Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import Field, create_model

from lit_fa.errors import UserError
from lit_fa.spec.validation import Filled, Number, Positive, check_keys, choice, validated

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
_FIELDS: dict[str, tuple[Any, Any]] = {  # type and default of a key; `...`: no default
    "value": (Any, ...),
    "values": (Annotated[list[Any], Filled], ...),
    "probabilities": (Annotated[list[Positive], Filled], ...),
    **dict.fromkeys(LIMITS, (Number, ...)),
    "mu": (Number, 0.0),
    **dict.fromkeys(("sigma", *SHAPE), (Positive, 1.0)),
    "q": (Annotated[Number, Field(gt=0)], 1.0),
}
_QUANTILE = FloatDistribution(1e-9, 1 - 1e-9)  # a bell has no value at 0 and 1


@dataclass(frozen=True)
class Parameter:
    """What Optuna draws (None for a constant), the value that a draw stands for, and the values of a grid, if any."""

    search: BaseDistribution | None
    value: Callable[[Any], Any]
    grid: tuple[Any, ...] | None = None

    def on_grid(self) -> "Parameter":
        """The same parameter as a choice among the values of its grid."""
        if self.grid is None:
            raise ValueError("a parameter without a grid has no choices")
        return categorical(self.grid)

    @property
    def choices(self) -> Sequence[Any]:
        """What Optuna chooses among."""
        if not isinstance(self.search, CategoricalDistribution):
            raise TypeError(f"{self.search} has no choices")
        return self.search.choices


def parameter(data: dict[str, Any], where: str) -> Parameter:
    """The parameter that `data`, an entry of a sweep file, declares.

    Raises:
        UserError: an unknown distribution, a key that it does not have or lacks, limits in the wrong order.
    """
    name = choice(_name(data, where), _KEYS, f"{where}.distribution")
    check_keys(data, [*_KEYS[name], "distribution"], f"{where} ({name})")
    types: dict[str, Any] = {key: _FIELDS[key] for key in _KEYS[name]}
    fields = dict(validated(create_model(name, **types), data, where))
    if "value" in fields:
        return Parameter(None, lambda _: fields["value"], (fields["value"],))
    if "values" in fields:
        values = tuple(fields["values"])
        return weighted(values, fields["probabilities"], where) if "probabilities" in fields else categorical(values)
    if "min" in fields:
        _check_limits(name, fields["min"], fields["max"], where)
    drawn = _drawn(name.removeprefix("q_"), fields, where)
    return _rounded(drawn, fields, name) if "q" in fields else drawn


def categorical(values: tuple[Any, ...]) -> Parameter:
    """One of `values`; the study stores lists and mappings as JSON."""
    plain = (str, int, float, bool, type(None))
    coded = [value if isinstance(value, plain) else json.dumps(value) for value in values]
    return Parameter(CategoricalDistribution(coded), lambda drawn: values[coded.index(drawn)], values)


def weighted(values: tuple[Any, ...], probabilities: Sequence[float], where: str) -> Parameter:
    """One of `values`, each with the probability of the same index."""
    if len(probabilities) != len(values) or not math.isclose(sum(probabilities), 1.0, rel_tol=1e-5, abs_tol=1e-8):
        raise UserError(f"{where}.probabilities: write one for each of the {len(values)} values, with the sum 1")
    bounds = list(accumulate(probabilities))[:-1]
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


def _check_limits(name: str, low: float, high: float, where: str) -> None:
    if low >= high:
        raise UserError(f"{where}: min {low} is not less than max {high}")
    if name.endswith("_values") and low <= 0:
        raise UserError(f"{where}: min {low}: the logarithm needs limits above zero")
    if name == "int_uniform" and not all(isinstance(limit, int) and abs(limit) < 2**63 for limit in (low, high)):
        raise UserError(f"{where}: min {low} and max {high} of int_uniform must be whole numbers below 2**63")


def _drawn(name: str, numbers: dict[str, float], where: str) -> Parameter:
    if name == "beta":
        return Parameter(_QUANTILE, lambda u: _beta(u, numbers["a"], numbers["b"]))
    if name in ("normal", "log_normal"):
        bell = Parameter(_QUANTILE, lambda u: numbers["mu"] + numbers["sigma"] * NormalDist().inv_cdf(u))
        return bell if name == "normal" else Parameter(_QUANTILE, lambda u: math.exp(bell.value(u)))
    low, high = numbers["min"], numbers["max"]
    if name == "int_uniform":
        first, last = int(low), int(high)
        grid = tuple(range(first, last + 1)) if last - first < LARGEST_GRID else None
        return Parameter(IntDistribution(first, last), int, grid)
    if name == "uniform":
        return Parameter(FloatDistribution(low, high), float)
    if name == "log_uniform":
        return Parameter(FloatDistribution(_exp(low, where), _exp(high, where), log=True), float)
    if name == "inv_log_uniform":
        return Parameter(FloatDistribution(_exp(-high, where), _exp(-low, where), log=True), float)
    return Parameter(FloatDistribution(low, high, log=True), float)  # ..._values


def _rounded(drawn: Parameter, numbers: dict[str, float], name: str) -> Parameter:
    """To multiples of q; of these distributions only q_uniform has a grid."""
    q = numbers["q"]
    grid = _spaced(numbers["min"], numbers["max"], q) if name == "q_uniform" else None
    return Parameter(drawn.search, lambda u: round(drawn.value(u) / q) * q, grid)


def _spaced(low: float, high: float, q: float) -> tuple[float, ...] | None:
    """W&B's grid: low, low + q, ... below high, not rounded; None if it is too large."""
    steps = math.ceil((high - low) / q)
    return tuple(low + k * q for k in range(steps)) if steps <= LARGEST_GRID else None


def _exp(exponent: float, where: str) -> float:
    if abs(exponent) > 700:
        raise UserError(f"{where}: {exponent} is an exponent of e here; for limits write log_uniform_values")
    return math.exp(exponent)


def _beta(u: float, a: float, b: float) -> float:
    from scipy.stats import beta

    return float(beta.ppf(u, a, b))

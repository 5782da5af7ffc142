"""The types of a run record's fields, checked once, when the record is read.

A record comes from another process, machine or person, so every field is checked before it is used. A field may be
absent or null, because older records lack some.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from operator import itemgetter
from typing import Any

SCHEMAS = (1, 2)  # of records that this version reads; 1 is of records without the field
LARGEST = 1e150  # squares and sums of such numbers are still finite
_COUNTED = 1e12  # seconds, MiB, steps
_VALUE = itemgetter(2)  # of a point
_NUMBERS = {int, float}
_VALUES = {float, type(None)}

Check = Callable[[Any], bool]


def odd_fields(data: dict[str, Any]) -> list[str]:
    """The dotted names of fields with a wrong type or range."""
    wrong = [name for name, fits in _FIELDS.items() if data.get(name) is not None and not fits(data[name])]
    for name, fields in _INSIDE.items():
        inner = data.get(name) or {}
        if name not in wrong:
            wrong += [f"{name}.{key}" for key, fits in fields.items() if key in inner and not fits(inner[key])]
    return wrong


def numeric(metrics: Any, curves: Any) -> bool:
    """Whether metrics are numbers by name and curves lists of [step, epoch, number] by name; null is not finite."""
    if not isinstance(metrics, dict) or not isinstance(curves, dict):
        return False
    lists = all(isinstance(curve, list) for curve in curves.values())
    return lists and all(map(_value, metrics.values())) and all(map(_points, curves.values()))


def restored(data: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The record with nan for null and infinity for numbers too large to be summed, and the names of the latter."""
    huge: list[str] = []

    def number(key: str, value: float | None) -> float:
        if value is None:
            return math.nan
        if math.isfinite(value) and abs(value) > LARGEST:
            huge.append(key)
            return math.copysign(math.inf, value)
        return value

    metrics = {key: number(key, value) for key, value in data["metrics"].items()}
    curves = {
        key: curve if _all_moderate(curve) else [[step, epoch, number(key, value)] for step, epoch, value in curve]
        for key, curve in data["curves"].items()
    }
    return {**data, "metrics": metrics, "curves": curves}, list(dict.fromkeys(huge))


def _all_moderate(curve: list[list[Any]]) -> bool:
    """Whether every value is a number below `LARGEST`, as nearly always."""
    values = [*map(_VALUE, curve)]
    return None not in values and all(map(LARGEST.__ge__, map(abs, values)))


def _value(data: Any) -> bool:
    if isinstance(data, int) and abs(data) > LARGEST:
        return False  # 10^400 is no float
    return isinstance(data, int | float | None)


def _points(curve: list[Any]) -> bool:
    """Whether all are points; the usual types are checked column by column, which takes a quarter of the time."""
    if set(map(type, curve)) != {list} or set(map(len, curve)) != {3}:
        return all(map(_point, curve))
    steps, epochs, values = zip(*curve, strict=True)
    kinds = {*map(type, steps), *map(type, epochs)}
    if not (kinds <= _NUMBERS and set(map(type, values)) <= _VALUES):
        return all(map(_point, curve))
    return _places(steps, epochs)


@lru_cache(maxsize=64)
def _places(steps: tuple[float, ...], epochs: tuple[float, ...]) -> bool:
    """Whether all are in range; cached, because the curves of a record, and of a table, have the same places."""
    return all(map(_COUNTED.__ge__, map(abs, steps + epochs)))


def _point(data: Any) -> bool:
    return isinstance(data, list) and len(data) == 3 and all(map(_place, data[:2])) and _value(data[2])


def _place(data: Any) -> bool:
    return isinstance(data, int | float) and abs(data) <= _COUNTED


def _amount(data: Any) -> bool:
    return not isinstance(data, bool) and isinstance(data, int | float) and 0 <= data <= _COUNTED


def _some(fits: Check) -> Check:
    return lambda data: data is None or fits(data)


def _of(kind: type) -> Check:
    return lambda data: isinstance(data, kind)


def _lists(data: Any) -> bool:
    return isinstance(data, list) and all(isinstance(entry, str) for entry in data)


def _names(data: Any) -> bool:
    return isinstance(data, dict) and all(isinstance(entry, str | None) for entry in data.values())


def _whole(data: Any) -> bool:
    return isinstance(data, int) and not isinstance(data, bool) and 0 <= data <= _COUNTED


_FIELDS: dict[str, Check] = {
    **dict.fromkeys(("id", "commit", "sources", "started", "finished", "row", "column", "table", "paper"), _of(str)),
    **dict.fromkeys(("dirty", "validation_is_test"), _of(bool)),
    **dict.fromkeys(("wall_time_s", "cpu_time_s", "peak_memory_mib"), _amount),
    "step_macs": lambda data: not isinstance(data, bool) and isinstance(data, int | float) and 0 <= data <= LARGEST,
    **dict.fromkeys(("broken", "resumed_from", "not_finite"), _lists),
    **dict.fromkeys(("hardware", "diverged", "pretrained", "energy_j"), _of(dict)),
    "preliminary": lambda data: isinstance(data, list) and all(isinstance(entry, dict) for entry in data),
    "config": lambda data: isinstance(data, dict | str),  # the path of a file is a config too
    **dict.fromkeys(("versions", "outside", "dataset"), _names),
}
_INSIDE: dict[str, dict[str, Check]] = {
    "hardware": {
        **dict.fromkeys(("cores", "threads", "memory_gib"), _some(_amount)),
        **dict.fromkeys(("cpu", "gpu", "processor"), _some(_of(str))),
    },
    "diverged": {"step": _some(_whole), **dict.fromkeys(("first", "error"), _some(_of(str)))},
    "energy_j": dict.fromkeys(("cpu", "gpu"), _some(_amount)),
    "pretrained": dict.fromkeys(("commit", "digest"), _some(_of(str))),
}

"""Metrics of today's names for older records, computed from what these contain.

`align/gradient/inexact` and `align/delta/inexact` are the mean angle over the layers whose update is not exact by
construction. Older records contain the angle of every layer, and an `overall` that includes the exact layers. The angle
of an exact layer is zero at every measured point; the mean is over the other layers.

`drift/transport` is summed over all local steps of a client. In records without a schema number the sum ends at the
last step of the client with the fewest steps; it is read as `drift/transport_common`.
"""

import math
from typing import Any

ANGLES = ("align/gradient/", "align/delta/")
_ZERO = 1e-3  # degrees; in the committed records an exact layer has 0, any other more than 10


def with_derived(data: dict[str, Any]) -> dict[str, Any]:
    """The record with today's keys; existing values do not change."""
    old = "schema" not in data
    metrics, curves = ({_renamed(key) if old else key: v for key, v in data[k].items()} for k in ("metrics", "curves"))
    for kind in ANGLES:
        layers = [
            key for key in curves if key.startswith(kind) and key.removeprefix(kind) not in ("overall", "inexact")
        ]
        if not layers or f"{kind}inexact" in curves:
            continue
        others = [key for key in layers if any(not abs(point[2]) < _ZERO for point in curves[key])]
        curves[f"{kind}inexact"] = _mean_curve([curves[key] for key in others]) or [
            [step, epoch, 0.0] for step, epoch, _ in curves[layers[0]]
        ]
        if all(key in metrics for key in layers):
            metrics[f"{kind}inexact"] = _mean([metrics[key] for key in others]) if others else 0.0
    return {**data, "metrics": metrics, "curves": curves}


def _renamed(key: str) -> str:
    return key.replace("drift/transport/", "drift/transport_common/", 1) if key.startswith("drift/transport/") else key


def _mean_curve(curves: list[list[list[float]]]) -> list[list[float]]:
    """The mean at each point, without nan (an undefined angle); empty if the curves have different points."""
    if len({len(curve) for curve in curves}) != 1:
        return []
    return [[*points[0][:2], _mean([point[2] for point in points])] for points in zip(*curves, strict=True)]


def _mean(values: list[float]) -> float:
    if values and not math.isnan(total := sum(values)):
        return total / len(values)
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan

"""How much two directions agree."""

import math
from collections.abc import Mapping

from tests.reference.network import Array


def cosine(a: Array, b: Array) -> float:
    """<a, b> / (||a|| ||b||) over all entries."""
    inner = norm_a = norm_b = 0.0
    for u, v in zip(a.ravel(), b.ravel(), strict=True):
        inner += u * v
        norm_a += u * u
        norm_b += v * v
    return float(inner / math.sqrt(norm_a * norm_b))


def angle(a: Array, b: Array) -> float:
    """In degrees, 0 to 180."""
    return math.degrees(math.acos(max(-1.0, min(1.0, cosine(a, b)))))


def cosines(a: Mapping[str, Array], b: Mapping[str, Array]) -> dict[str, float]:
    """Cosine for each name of `a`."""
    return {name: cosine(a[name], b[name]) for name in a}


def angles(a: Mapping[str, Array], b: Mapping[str, Array]) -> dict[str, float]:
    """Angle in degrees for each name of `a`."""
    return {name: angle(a[name], b[name]) for name in a}

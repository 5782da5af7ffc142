"""Grids of test cases of which `make test` runs a part and `make test-all` the whole."""

from collections.abc import Callable, Iterable

import pytest


def slow_unless(is_quick: Callable[..., bool], cases: Iterable[tuple]) -> list:
    """The cases as pytest parameters; those for which `is_quick(*case)` is false are marked slow."""
    return [pytest.param(*case, marks=() if is_quick(*case) else pytest.mark.slow) for case in cases]

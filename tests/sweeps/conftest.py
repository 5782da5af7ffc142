"""The fixtures of a small sweep."""

from tests.sweep_fixtures import declared, save

__all__ = ["declared", "save"]

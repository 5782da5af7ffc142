"""The fixtures of a small table."""

from tests.table_fixtures import declared, fill, save

__all__ = ["declared", "fill", "save"]

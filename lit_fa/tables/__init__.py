"""A paper's table as data: declared in YAML, run, collected, compared and rendered; none of it needs torch."""

from lit_fa.tables.card import is_stale
from lit_fa.tables.collect import collect
from lit_fa.tables.compare import compare
from lit_fa.tables.expand import expand
from lit_fa.tables.schema import load_table

__all__ = ["collect", "compare", "expand", "is_stale", "load_table"]

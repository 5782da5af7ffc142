"""Measurements of cost. All timing is here; no test depends on a time."""

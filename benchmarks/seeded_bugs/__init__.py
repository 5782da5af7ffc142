"""Bugs that are inserted into the rules, and the tests that catch them."""

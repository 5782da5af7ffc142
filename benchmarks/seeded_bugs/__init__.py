"""Bugs that are seeded into the rules, and the tests that catch them."""

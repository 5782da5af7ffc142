"""Chaos tests: real runs are killed at random, resumed and compared with an uninterrupted run."""

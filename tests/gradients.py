"""Gradients of a learner, as `lit_fa.testing` takes and compares them."""

from lit_fa.testing.gradients import array, gradients, largest_difference, taken

__all__ = ["array", "gradients", "largest_difference", "taken"]

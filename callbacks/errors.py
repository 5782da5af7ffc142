"""The error class for options of a callback that the user can correct."""

from lit_fa.errors import UserError


class MeasurementError(UserError):
    """A wrong option of a callback."""

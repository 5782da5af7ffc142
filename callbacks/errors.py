"""Errors that a user can mend by changing an argument of a callback."""


class MeasurementError(ValueError):
    """A wrong option: one line that says what to do, which the command line prints without a traceback."""

    user_error = True

"""The error class for options of a callback that the user can correct."""


class MeasurementError(ValueError):
    """A wrong option; the message is one line that names the remedy and is printed without a traceback."""

    user_error = True

"""Signals that end a process: one exception for all of them, and exit code 128 + the signal number.

SIGINT (Ctrl-C), SIGTERM (a workflow manager, `kill`) and SIGHUP (a closed terminal) have the same effect. A signal that
is ignored when the process starts, as under nohup, stays ignored.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
Handler = Callable[[int, FrameType | None], None]


class Stopped(KeyboardInterrupt):
    """A signal has requested the end of this process.

    Args:
        signum: number of the signal.
        message: message for the user; by default it names the signal.
    """

    def __init__(self, signum: int, message: str = ""):
        """See the class."""
        super().__init__(signum, message)
        self.signum, self.message = signum, message

    def __str__(self) -> str:
        return self.message or f"stopped by {signal.Signals(self.signum).name}"


class Request:
    """A handler that stores the first signal, for a loop that ends at a safe point; a second Ctrl-C ends at once.

    A second SIGTERM or SIGHUP has no effect: it may be the same signal, sent to the process and to its group, or arrive
    while a checkpoint is written. SIGKILL ends the process without waiting.

    Args:
        patient: a second Ctrl-C has no effect either.
    """

    def __init__(self, *, patient: bool = False):
        """Start without a signal."""
        self.patient, self.signum, self.insisted = patient, 0, False

    def __call__(self, signum: int, frame: FrameType | None = None) -> None:
        """Receive a signal.

        Raises:
            Stopped: it is a second Ctrl-C.
        """
        if not self.signum:
            self.signum = signum
        elif signum == signal.SIGINT and not self.patient:
            self.insisted = True
            raise Stopped(signum)

    def check(self) -> None:
        """End here if a signal has arrived.

        Raises:
            Stopped: a signal has arrived.
        """
        if self.signum:
            raise Stopped(self.signum)


def stop(signum: int, frame: FrameType | None = None) -> None:
    """The handler that ends at once."""
    raise Stopped(signum)


@contextmanager
def handled(handler: Handler, signals: Sequence[int] = SIGNALS) -> Iterator[None]:
    """Within the block, `handler` handles the signals; after it, their previous handlers.

    Only the main thread can set handlers; in other threads this has no effect.
    """
    in_main = threading.current_thread() is threading.main_thread()
    before = {signum: signal.getsignal(signum) for signum in signals} if in_main else {}
    replaced = {signum: old for signum, old in before.items() if old is not signal.SIG_IGN}
    for signum in replaced:
        signal.signal(signum, handler)
    try:
        yield
    finally:
        for signum, old in replaced.items():
            signal.signal(signum, signal.SIG_DFL if old is None else old)


@contextmanager
def interruptions_as_stopped() -> Iterator[None]:
    """Raise the interruption of a fit itself; Lightning raises SystemExit(1) and torch an error with an exit code."""
    try:
        yield
    except SystemExit as end:
        if isinstance(end.__context__, KeyboardInterrupt):
            raise end.__context__ from None
        raise
    except Exception as error:
        signum = (getattr(error, "exit_code", None) or 0) - 128
        if type(error).__name__ == "ProcessExitedException" and signum in SIGNALS:
            raise Stopped(signum, "stopped, as the ranks have") from None
        raise


def exit_code(error: BaseException) -> int:
    """The exit code of a process that is ended by an interruption."""
    return 128 + getattr(error, "signum", signal.SIGINT)


def exit_code_of_rank(error: BaseException) -> int:
    """The exit code of a process that is ended by an interruption and may be a rank started by Lightning.

    Lightning kills rank 0 if such a rank ends with an error. That is right if rank 0 waits for this rank, and wrong if
    all ranks have agreed to stop; in the latter case the exit code is 0.
    """
    started = int(os.environ.get("LOCAL_RANK", 0)) and "TORCHELASTIC_RUN_ID" not in os.environ
    agreed = bool(getattr(error, "message", ""))
    return 0 if started and agreed else exit_code(error)

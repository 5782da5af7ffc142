"""Signals that ask a process to end: one exception for all of them, and the exit code 128 + the signal's number.

SIGINT (Ctrl-C), SIGTERM (a workflow manager, `kill`) and SIGHUP (a closed terminal) do the same. A signal that the
process was started to ignore, as under nohup, stays ignored.
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
    """A signal has asked this process to end.

    Args:
        signum: of the signal.
        said: what to tell the user; by default which signal it was.
    """

    def __init__(self, signum: int, said: str = ""):
        """See the class."""
        super().__init__(signum, said)
        self.signum, self.said = signum, said

    def __str__(self) -> str:
        return self.said or f"stopped by {signal.Signals(self.signum).name}"


class Request:
    """A handler that notes the first signal, for a loop that ends where nothing is lost; a second Ctrl-C ends at once.

    A second SIGTERM or SIGHUP changes nothing: it may be the first one again, to the process and to its group, or come
    while a checkpoint is written. Whoever does not want to wait can kill.

    Args:
        patient: a second Ctrl-C changes nothing either.
    """

    def __init__(self, *, patient: bool = False):
        """Nothing is asked yet."""
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
        """End here, if that was asked for.

        Raises:
            Stopped: it was.
        """
        if self.signum:
            raise Stopped(self.signum)


def stop(signum: int, frame: FrameType | None = None) -> None:
    """The handler that ends at once."""
    raise Stopped(signum)


@contextmanager
def handled(handler: Handler, signals: Sequence[int] = SIGNALS) -> Iterator[None]:
    """Signals go to `handler` inside the context, to their handlers of before outside of it.

    Only the main thread may set handlers; in another one nothing changes.
    """
    mine = threading.current_thread() is threading.main_thread()
    before = {signum: signal.getsignal(signum) for signum in signals} if mine else {}
    taken = {signum: old for signum, old in before.items() if old is not signal.SIG_IGN}
    for signum in taken:
        signal.signal(signum, handler)
    try:
        yield
    finally:
        for signum, old in taken.items():
            signal.signal(signum, signal.SIG_DFL if old is None else old)


@contextmanager
def interruptions_as_stopped() -> Iterator[None]:
    """Raises what has interrupted a fit: Lightning ends one by SystemExit(1), torch by the exit code of a rank."""
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
    """Of a process that an interruption ends."""
    return 128 + getattr(error, "signum", signal.SIGINT)


def exit_code_of_rank(error: BaseException) -> int:
    """Of a process that may be a rank which Lightning has started, and that an interruption ends.

    Lightning kills rank 0 when such a rank ends with an error. That is right where rank 0 waits for it, and wrong where
    the ranks have agreed to stop.
    """
    started = int(os.environ.get("LOCAL_RANK", 0)) and "TORCHELASTIC_RUN_ID" not in os.environ
    return 0 if started and getattr(error, "said", "") else exit_code(error)

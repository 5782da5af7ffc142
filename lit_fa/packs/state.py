"""The state of a process that a run may change, so that runs that take turns do not change each other's."""

import os
import random
import signal
import sys
from typing import Any, Self

import numpy as np
import torch

from lit_fa.stopping import SIGNALS

_SIGNALS = (*SIGNALS, *(getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name)))
_VARIABLES = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")
_STREAMS = (1, 2)  # the file descriptors of standard output and error


class ProcessState:
    """Random states, handlers of signals, the seed in the environment, and where output goes."""

    def __init__(self) -> None:
        """The present state; `restore` must be called once, because copies of file descriptors are open until then."""
        self.random: Any = random.getstate()
        self.numpy: Any = np.random.get_state()  # the global state, which libraries use
        self.torch = torch.get_rng_state()
        self.cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
        self.dtype = torch.get_default_dtype()
        self.variables = {name: os.environ.get(name) for name in _VARIABLES}
        self.handlers = {signum: signal.getsignal(signum) for signum in _SIGNALS}
        sys.stdout.flush()
        sys.stderr.flush()
        self.streams = [os.dup(stream) for stream in _STREAMS]

    def restore(self) -> None:
        """Set the state of the process to this one."""
        random.setstate(self.random)
        np.random.set_state(self.numpy)
        torch.set_rng_state(self.torch)
        if self.cuda is not None:
            torch.cuda.set_rng_state_all(self.cuda)
        torch.set_default_dtype(self.dtype)
        for name, value in self.variables.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
        for signum, handler in self.handlers.items():
            if handler is not None and signal.getsignal(signum) is not handler:
                signal.signal(signum, handler)
        sys.stdout.flush()
        sys.stderr.flush()
        for stream, copy in zip(_STREAMS, self.streams, strict=True):
            os.dup2(copy, stream)
            os.close(copy)

    @classmethod
    def swapped(cls, other: Self | None) -> Self:
        """The present state, after which `other` is restored; None changes nothing."""
        present = cls()
        if other is not None:
            other.restore()
        return present

"""One thread, and a global random state that no test inherits from the one before."""

import gc
import importlib.metadata
import logging
import os
import signal
from functools import cache

import pytest
import torch

torch.set_num_threads(1)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background job; tests of Ctrl-C and their processes
    signal.signal(signal.SIGINT, signal.default_int_handler)  # need what a terminal gives
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a network that would fetch weights is a mistake in a test
# every trainer reads the entry points of all installed packages
importlib.metadata.entry_points = cache(importlib.metadata.entry_points)


@pytest.fixture(autouse=True)
def _fresh_random_state():
    torch.default_generator.manual_seed(0)  # `torch.manual_seed` formats a stack where CUDA has not been used
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(0)


@pytest.fixture
def one_thread():
    """Sums in one order, for equality bit for bit, whatever a test before has set."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _no_handler_left_behind():
    """A command line that runs in a test logs to the stream that pytest closes when the test ends."""
    yield
    for handler in [handler for handler in logging.root.handlers if type(handler) is logging.StreamHandler]:
        logging.root.removeHandler(handler)


def pytest_configure(config: pytest.Config) -> None:
    """No garbage collector until all tests are collected: imports allocate much and free little."""
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):  # xdist's controller collects none
        gc.disable()


def pytest_collection_finish() -> None:
    """What is imported and collected stays: the garbage collector need not walk through it in every test."""
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    """Hand everything back to the collector, or extensions report what is frozen as leaked when Python ends."""
    gc.unfreeze()

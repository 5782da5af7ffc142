"""Workers are forked from a server, and nothing of the server shows in them."""

import atexit
import multiprocessing
import os
import random
import subprocess
import sys
from multiprocessing import forkserver
from pathlib import Path

import numpy as np
import pytest

from lit_fa.jobs import start
from lit_fa.jobs.pool import DEFAULT_RUNNER, _Workers
from lit_fa.jobs.start import context_of, end_server
from lit_fa.jobs.worker import prepare
from lit_fa.provenance import our_code, sources
from lit_fa.stopping import Request

OTHER = "tests.fake_runner:run"


@pytest.fixture
def server():
    """No server is left from before, nor after the test."""
    end_server()
    yield
    end_server()


def started(work, *arguments, environment=None, runner=OTHER):
    """What `work` has sent from a new worker."""
    context = context_of(runner)
    ours, theirs = context.Pipe()
    process = context.Process(target=_in_worker, args=(environment or dict(os.environ), work, theirs, arguments))
    process.start()
    theirs.close()  # so that a worker that fails is an error here, and no endless wait
    answer = ours.recv()
    process.join()
    return answer


def _in_worker(environment, work, pipe, arguments):
    prepare(environment)
    pipe.send(work(*arguments))


def _variable(name):
    return os.environ.get(name)


def _numbers():
    return random.random(), float(np.random.random())


def _hashed():
    return sources.cache_info().currsize, our_code.cache_info().currsize


def _leave(path):
    atexit.register(Path(path).write_text, "left")


@pytest.mark.skipif(not start.can_fork(), reason="workers are spawned here")
def test_workers_are_forked_from_a_server_that_has_imported_our_runner(server):
    context = context_of(DEFAULT_RUNNER)
    assert context.get_start_method() == "forkserver"
    assert forkserver._forkserver._preload_modules == ["lit_fa.jobs.server", "lit_fa.experiment", "lit_fa.jobs.known"]
    context_of(OTHER)
    assert forkserver._forkserver._preload_modules == ["lit_fa.jobs.server"]  # it may do anything when imported


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_workers_are_spawned_where_forking_is_unsafe_or_unknown(system, monkeypatch):
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(
        multiprocessing, "get_all_start_methods", lambda: ["spawn", "forkserver"] if system == "darwin" else ["spawn"]
    )
    assert context_of(DEFAULT_RUNNER).get_start_method() == "spawn"
    end_server()  # there is none


def test_a_worker_has_the_environment_of_its_parent_and_not_of_the_server(server, monkeypatch):
    monkeypatch.setenv("LIT_FA_OF_SERVER", "1")
    assert started(_variable, "LIT_FA_OF_SERVER") == "1"
    monkeypatch.delenv("LIT_FA_OF_SERVER")
    monkeypatch.setenv("LIT_FA_OF_PARENT", "2")
    assert started(_variable, "LIT_FA_OF_SERVER") is None
    assert started(_variable, "LIT_FA_OF_PARENT") == "2"
    assert started(_variable, "PYTORCH_NVML_BASED_CUDA_CHECK") == os.environ.get("PYTORCH_NVML_BASED_CUDA_CHECK")


def test_two_workers_draw_different_numbers_without_a_seed(server):
    first, second = started(_numbers), started(_numbers)
    assert first[0] != second[0]
    assert first[1] != second[1]


def test_what_is_registered_for_the_exit_of_a_worker_is_done(server, tmp_path):
    started(_leave, str(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "left"


@pytest.mark.skipif(not start.can_fork(), reason="workers are spawned here")
def test_the_server_ends_with_its_pool(server):
    workers = _Workers(1, OTHER, Request(), lambda: None)
    with workers:
        assert workers.submit([]).result(timeout=120) == []
        pid = forkserver._forkserver._forkserver_pid
        os.kill(pid, 0)
    assert forkserver._forkserver._forkserver_pid is None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.slow  # it imports torch and Lightning
def test_importing_what_trains_a_run_starts_no_thread_and_asks_for_no_gpu():
    code = """
import lit_fa.jobs.server, os, threading, torch
asked = []
torch._C._cuda_getDeviceCount = lambda: asked.append(1) or 0
torch._C._cuda_init = lambda: asked.append(2)
import lit_fa.experiment, lit_fa.trial, lit_fa.jobs.known
threads = len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else threading.active_count()
print(asked, threads, torch.cuda.is_initialized())
"""
    one = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | one, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[] 1 False"


@pytest.mark.slow  # the server imports torch and Lightning
@pytest.mark.skipif(not start.can_fork(), reason="workers are spawned here")
def test_a_worker_knows_commit_and_hash_of_the_code_from_its_server(server):
    assert started(_hashed, runner=DEFAULT_RUNNER) == (1, 1)

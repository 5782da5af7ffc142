"""Commands of `lit-fa` as tasks of a Ray cluster, whose machines share this folder."""

import os
import platform
import shlex
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from lit_fa.errors import UserError
from lit_fa.jobs.lines import Line, with_interpreter

_CONNECT_S = 10.0  # Ray itself tries an address that nobody answers for many minutes
_STOP_S = 120.0  # in which runs that are asked to stop finish their step and write their checkpoint
_POLL_S = 0.2


def on_ray(lines: Sequence[Line], address: str, gpus: int = 0) -> int:
    """Runs every line as a task and prints how each ended; returns the largest exit code.

    A task whose node is lost is tried again once, on another node, where its run continues from its checkpoint. Ctrl-C
    stops the running tasks after their step.

    Args:
        lines: words of each task, `lit-fa` first; a task has one CPU.
        address: of the cluster, `auto`, or `local` for one that ends with this command.
        gpus: of a task; none are asked for if no node of the cluster has that many.

    Raises:
        UserError: there is no Ray, or no cluster at the address.
    """
    ray = _connected(address)
    try:
        gpus = _gpus(ray, gpus)
        task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=1)(_call)
        own = {name: value for name, value in os.environ.items() if name.startswith("LIT_FA_")}
        arguments = (str(Path.cwd()), own)
        return _wait(ray, {task.remote(with_interpreter(line), *arguments): line for line in lines})
    finally:
        ray.shutdown()


def _connected(address: str) -> ModuleType:
    """Ray, connected."""
    try:
        import ray
    except ImportError as error:
        raise UserError("emit --ray needs Ray: pip install 'lit-fa[ray]'") from error
    remedy = "start one (ray start --head), or give --address"
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdecimal():
        try:
            socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()
        except (OSError, OverflowError) as error:
            raise UserError(f"no Ray cluster at {address} ({error}): {remedy}") from error
    elif address not in ("auto", "local"):
        raise UserError(f"--address {address}: give HOST:PORT, auto or local")
    try:
        ray.init(address=address, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError) as error:  # such as another version of Ray or Python
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"no Ray cluster at {address}{f' ({reason})' if reason else ''}: {remedy}") from error
    return ray


def _gpus(ray: ModuleType, wanted: int) -> int:
    """The GPUs that a task can ask for: none, if it would wait for ever."""
    most = max((node["Resources"].get("GPU", 0) for node in ray.nodes() if node["Alive"]), default=0) if wanted else 0
    if wanted > most:
        print(f"no node of the cluster has {wanted} {'GPU' if wanted == 1 else 'GPUs'}: tasks ask for none", flush=True)
    return wanted if wanted <= most else 0


def _wait(ray: ModuleType, running: dict[Any, Line]) -> int:
    """Print how each task ends; returns the largest exit code."""
    codes, count = [], len(running)
    try:
        while running:
            (ended,), _ = ray.wait([*running])
            code, how = _ended(ray, ended)
            codes.append(code)
            print(f"[{len(codes)}/{count}] {shlex.join(running.pop(ended))}: {how}", flush=True)
    except KeyboardInterrupt:
        print("the running tasks finish their step and keep a checkpoint", flush=True)
        for task in running:
            ray.cancel(task)
        ray.wait([*running], num_returns=len(running), timeout=_STOP_S)
        raise
    if failed := sum(map(bool, codes)):
        print(f"{failed} of {count} tasks have failed; the same command starts what is missing", flush=True)
    return max(codes, default=0)


def _ended(ray: ModuleType, task: Any) -> tuple[int, str]:
    """Exit code of a task, and where and with which last line it ended; 1 and the reason if Ray has lost it."""
    try:
        code, node, last_line = ray.get(task)
    except ray.exceptions.RayTaskError as error:  # the command could not be started there
        return 1, f"not started, {' '.join(str(error.cause).split())[:300]}"
    except ray.exceptions.RayError as error:
        return 1, f"lost by Ray ({type(error).__name__}); the last checkpoint of its run stays usable"
    return code, f"exit {code} on {node}, {last_line}"


def _call(words: Line, folder: str, variables: dict[str, str]) -> tuple[int, str, str]:
    """Exit code, host name and last line of output of a command; Ray's cancellation ends it by SIGTERM."""
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(words, cwd=folder, env=os.environ | variables, stdout=said, stderr=subprocess.STDOUT)
        try:
            while process.poll() is None:  # a cancellation does not interrupt a system call
                time.sleep(_POLL_S)
        except KeyboardInterrupt:
            process.terminate()
            process.wait()
        said.seek(0)
        lines = said.read().decode("utf-8", "replace").strip().splitlines()
    return process.returncode, platform.node(), (lines or [""])[-1]

"""Versions, machine, time and memory of a run. The code of a run is described by `lit_fa.provenance`."""

import multiprocessing
import os
import platform
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]  # its type is that of the module

_MODEL = ("cpu family", "model", "stepping")
PACKAGES = ("torch", "lightning", "torchvision", "timm", "numpy", "lit-fa")


def versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that determine a result; None for a package that is not installed."""
    return {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES}


@cache
def _version(name: str) -> str | None:
    """The version of an installed package; its metadata are read once."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def hardware() -> dict[str, str | int | float | None]:
    """Processor, cores, torch's threads, graphics card, memory in GiB (None on Windows).

    `processor` is what decides how a sum is rounded: the model, which the name `cpu` of a virtual machine often hides,
    and the instructions that torch uses.
    """
    posix = hasattr(os, "sysconf")
    memory = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1) if posix else None
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    threads = torch.get_num_threads()
    return {
        "cpu": _cpu(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "gpu": gpu,
        "memory_gib": memory,
    }


def forget_peak_memory() -> None:
    """Let `peak_memory_mib` start again at what is in use now: a worker process trains one run after another.

    Resident memory can be reset only on Linux; elsewhere the peak is that of the whole process.
    """
    for card in range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0):
        torch.cuda.reset_peak_memory_stats(card)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_memory_mib(device: torch.device) -> float | None:
    """Peak memory since `forget_peak_memory`, in MiB: torch's on a graphics card, otherwise resident in this process.

    None on Windows, where Python does not know it.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if resource is None:
        return None
    unit = 2**20 if platform.system() == "Darwin" else 2**10  # ru_maxrss is in bytes on macOS, in KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def cpu_seconds() -> float:
    """Processor time so far of this process and its children, in seconds: user plus system, summed over threads.

    Children that still run, such as workers of a data loader, are included if the system has /proc.
    """
    return sum(os.times()[:4]) + sum(_running_child(child.pid) for child in multiprocessing.active_children())


def _running_child(process: int | None) -> float:
    """CPU seconds of a process that has not ended; its fields 14 and 15 are user and system time in ticks."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(int(ticks) for ticks in fields[11:13]) / os.sysconf("SC_CLK_TCK")


def _cpu() -> str:
    return _of_the_first_core().get("model name") or platform.processor() or platform.machine()


def _processor() -> str:
    """`family 25, model 17, stepping 1; AVX512`."""
    core = _of_the_first_core()
    model = ", ".join(f"{name.removeprefix('cpu ')} {core[name]}" for name in _MODEL if core.get(name))
    return "; ".join(part for part in (model, torch.backends.cpu.get_cpu_capability()) if part)


def _of_the_first_core() -> dict[str, str]:
    """Name to value, of the first core that the system describes; empty without /proc."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}

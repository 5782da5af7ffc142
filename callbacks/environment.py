"""Where a run took place: code, versions, machine. What a record needs so that a number can be made again."""

import os
import platform
import resource
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

PACKAGES = ("torch", "lightning", "torchvision", "timm", "numpy", "lit-fa")
CODE = ("*.py", "*.yaml", "pyproject.toml")  # what decides a result; committed results and figures do not
_HERE = Path(__file__).resolve().parent


def git_state(folder: Path = _HERE) -> tuple[str, bool]:
    """(commit, dirty) of the code in `folder`; ("unknown", False) outside a repository or without git.

    Dirty means that tracked code or configuration differs from the commit.
    """
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None or _git(folder, "ls-files", "--error-unmatch", ".") is None:  # a stranger's repository
        return "unknown", False
    root = Path(_git(folder, "rev-parse", "--show-toplevel"))
    return commit, bool(_git(root, "status", "--porcelain", "--untracked-files=no", "--", *CODE))


def versions() -> dict[str, str | None]:
    """Python and the packages that decide a result; None for one that is not installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def hardware() -> dict[str, str | int | float | None]:
    """Processor, cores, torch's threads, graphics card, memory in GiB."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    threads = torch.get_num_threads()
    return {"cpu": _cpu(), "cores": os.cpu_count(), "threads": threads, "gpu": gpu, "memory_gib": round(memory, 1)}


def peak_memory_mib(device: torch.device) -> float:
    """Largest memory so far: allocated by torch on a graphics card, else resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    unit = 2**20 if platform.system() == "Darwin" else 2**10  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def _git(folder: Path, *args: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *args], capture_output=True, encoding="utf-8", errors="replace", check=False
        )
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None

"""A limit on memory, so that an object that is too large raises an error and the process is not killed.

Linux allocates more memory than there is, and kills the process that uses it without a message. Within `bounded` no
more than the free memory is allocated, so that torch and NumPy raise their usual errors.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]  # its type is that of the module

SHARE = 0.95  # of what is free
_STATUS, _MEMORY, _GROUP = Path("/proc/self/status"), Path("/proc/meminfo"), Path("/sys/fs/cgroup")


@contextmanager
def bounded() -> Iterator[None]:
    """Within the context, limit the memory of this process to what is free at its start (only on Linux)."""
    free = bytes_free() if sys.platform == "linux" and resource is not None else None
    used = _sizes(_STATUS).get("VmData")
    if free is None or used is None:
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_DATA)
    bound = used + int(SHARE * free)
    hard = before[1]
    resource.setrlimit(resource.RLIMIT_DATA, (bound if hard == resource.RLIM_INFINITY else min(bound, hard), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def bytes_free() -> int | None:
    """Free memory in bytes, of the machine or of this process's control group; None if it is not known."""
    sizes = _sizes(_MEMORY)
    if "MemAvailable" not in sizes:
        return None
    most, used = (_number(_GROUP / name) for name in ("memory.max", "memory.current"))
    group = [max(most - used, 0)] if most is not None and used is not None else []
    return min([sizes["MemAvailable"] + sizes.get("SwapFree", 0), *group])


def _sizes(path: Path) -> dict[str, int]:
    """Bytes by name, from the lines of a file as `MemAvailable:  18348416 kB`."""
    try:
        lines = [line.split() for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
    except OSError:
        return {}
    return {line[0].rstrip(":"): 1024 * int(line[1]) for line in lines if len(line) == 3 and line[2] == "kB"}


def _number(path: Path) -> int | None:
    """The number in a file of a control group; None for no limit."""
    try:
        return int(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None

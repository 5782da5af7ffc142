"""The energy used by a machine, in joules, if it has counters that can be read.

Processors: the RAPL counters of the packages in /sys/class/powercap, which only root can read on many systems. Graphics
cards: NVML, if the package nvidia-ml-py is installed. The counters include all processes of the machine.
"""

from importlib.util import find_spec
from pathlib import Path

import torch

POWERCAP = Path("/sys/class/powercap")
Counters = dict[str, float | None]


class EnergyMeter:
    """Joules of processor and graphics card since `start`, plus those of earlier parts of the run.

    Args:
        measures: if False, nothing is measured, as in a run that shares its process with others.
    """

    def __init__(self, *, measures: bool = True) -> None:
        """See the class."""
        self.measures = measures
        self.spent: Counters = {"cpu": None, "gpu": None}
        self.since: Counters | None = None

    def start(self) -> None:
        """Start to measure."""
        self.since = counters() if self.measures else None

    def stop(self) -> None:
        """Stop, and store the energy used so far."""
        self.spent, self.since = self.total(), None

    def total(self) -> Counters:
        """Joules so far; None for a counter that cannot be read."""
        if self.since is None:
            return dict(self.spent)
        now, since = counters(), self.since
        return {name: _sum(self.spent.get(name), since[name], now[name]) for name in now}


def counters() -> Counters:
    """The counters of processor packages and graphics card, in joules; None for one that cannot be read."""
    return {"cpu": processor_joules(), "gpu": card_joules()}


def processor_joules(folder: Path = POWERCAP) -> float | None:
    """The sum of the packages' counters; None if there is none or one cannot be read."""
    try:
        files = sorted(folder.glob("intel-rapl:*/energy_uj"))
        packages = [file for file in files if file.parent.name.count(":") == 1]  # intel-rapl:0:0 is a part of one
        return sum(int(file.read_text(encoding="ascii")) for file in packages) / 1e6 if packages else None
    except (OSError, ValueError):
        return None


def card_joules() -> float | None:
    """The counter of the current graphics card."""
    if not torch.cuda.is_available() or find_spec("pynvml") is None:
        return None
    import pynvml

    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(torch.cuda.current_device())
        return pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3
    except pynvml.NVMLError:
        return None


def _sum(spent: float | None, since: float | None, now: float | None) -> float | None:
    """The sum of a counter; an interval in which the counter was reset is ignored."""
    if since is None or now is None or now < since:
        return spent
    return round((spent or 0.0) + now - since, 1)

"""What we measure while training. Callbacks observe: removing one changes no result, bit for bit."""

from callbacks.conservation import ConservationPotential
from callbacks.curves import Curves, Recorder, publish
from callbacks.gradient_alignment import GradientAlignment
from callbacks.probe import Periodic, Probe
from callbacks.run_record import RunRecord
from callbacks.weight_alignment import WeightAlignment

__all__ = [
    "ConservationPotential",
    "Curves",
    "GradientAlignment",
    "Periodic",
    "Probe",
    "Recorder",
    "RunRecord",
    "WeightAlignment",
    "publish",
]

"""Dendritic localized learning in the contract suites."""

from functools import partial

import numpy as np

from lit_fa.layers import feedback_layers
from lit_fa.modules import Learner
from lit_fa.rules import DLL
from tests.contract import literal
from tests.gradients import array
from tests.reference import dll
from tests.reference_adapters import described


def reference(sign: int, learner: Learner, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    theta = {f"network.{n}": array(layer.feedback.weight) for n, layer in feedback_layers(learner.network).items()}
    layers = described(learner.network, "network")
    return dll.grads(layers, x, y, theta, sign, literal.forward, literal.backward)


RULES = {
    "dll": (partial(DLL, scale=0.3), partial(reference, 1)),
    "dll_ascent": (partial(DLL, "ascent", "xavier_uniform"), partial(reference, -1)),
    "dll_fixed": (partial(DLL, "fixed", "xavier_uniform"), partial(reference, 0)),
    "dll_detour": (partial(DLL, init="xavier_uniform", backend="detour"), partial(reference, 1)),
}
OPTED_OUT = {
    "written_out": dict.fromkeys(RULES, "nobody has written it out"),
}

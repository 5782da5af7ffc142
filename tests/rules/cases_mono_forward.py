"""Mono-Forward in the contract suites."""

from functools import partial

import numpy as np

from lit_fa.modules import Learner
from lit_fa.rules import MonoForward
from tests.contract import literal
from tests.gradients import array
from tests.reference import mono_forward
from tests.reference_adapters import divided, plain_backward


def reference(kind: str, learner: Learner, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    rule = learner.rule
    matrices = {f"rule.auxiliary.{key}.linear.weight": array(m.linear.weight) for key, m in rule.auxiliary.items()}
    blocks, shapes = divided(learner.network, rule.taps.names), [unit.shape for unit in rule.units.values()]
    joint = kind == "joint"
    grads = mono_forward.grads(blocks, x, y, shapes, matrices, joint, literal.forward, plain_backward)
    if kind != "greedy":
        return grads
    learns = {name for name, _, *_ in (layer[1:] for layer in blocks[0] if len(layer) > 2)}
    first = [*(f"{name}." for name in learns), next(iter(matrices), "")]
    return {name: grad if name.startswith(tuple(first)) else 0 * grad for name, grad in grads.items()}


RULES = {
    "mono_forward": (MonoForward, partial(reference, "local")),
    "mono_forward_joint": (partial(MonoForward, gradient="global"), partial(reference, "joint")),
    "mono_forward_greedy": (partial(MonoForward, "greedy"), partial(reference, "greedy")),
}
OPTED_OUT = {
    "written_out": dict.fromkeys(RULES, "nobody has written it out"),
    "vmapped_clients": {"mono_forward_greedy": "whose turn it is is the state of one client"},
    "trains": {"mono_forward_greedy": "its loss is that of the last block, whose turn needs a run of known length"},
}
OWN_STATE = {"mono_forward_greedy"}

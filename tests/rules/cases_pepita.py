"""PEPITA in the contract suites."""

from functools import partial

import numpy as np

from lit_fa.modules import Learner
from lit_fa.rules import PEPITA
from tests.contract import literal
from tests.gradients import array
from tests.reference import pepita
from tests.reference_adapters import described, plain_backward


def reference(error: str, learner: Learner, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    links, layers, ends = learner.rule.layers, [], {}
    for name, module in learner.network.named_children():
        if any(name == link.layer for link in links):
            ends[name] = [len(layers)]
        layers += described(module, f"network.{name}")
        for link in links:
            if name == link.end:
                ends[link.layer].append(len(layers))
    stops = [*[start for start, _ in ends.values()][1:], len(layers)]
    parts = [(layers[start:end], layers[end:stop]) for (start, end), stop in zip(ends.values(), stops, strict=True)]
    before = layers[: next(iter(ends.values()))[0]]
    return pepita.grads(before, parts, x, y, array(learner.rule.feedback), error, literal.forward, plain_backward)


RULES = {
    "pepita": (PEPITA, partial(reference, "second")),
    "pepita_first": (partial(PEPITA, "first", scale=0.5), partial(reference, "first")),
}
IMPOSSIBLE = {(rule, "residual"): "PEPITA refuses shortcuts" for rule in RULES}
OPTED_OUT = {"written_out": dict.fromkeys(RULES, "nobody has written it out")}

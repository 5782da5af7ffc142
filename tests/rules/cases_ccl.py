"""Counter-current learning in the contract suites."""

from functools import partial

import numpy as np

from lit_fa.modules import Learner
from lit_fa.rules import CCL
from tests.contract import literal
from tests.reference import ccl
from tests.reference_adapters import described, divided, plain_backward
from tests.small_networks import CLASSES


def reference(learner: Learner, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    rule, stages = learner.rule, []
    for link, (key, stage) in zip(rule.layers, rule.reverse.items(), strict=True):
        layers = [layer for name in ("layer", "activation") if hasattr(stage, name)
                  for layer in described(getattr(stage, name), f"rule.reverse.{key}.{name}")]  # fmt: skip
        size = stage.upsample.size if hasattr(stage, "upsample") else None
        stages.append((link.gives, size, layers))
    blocks = divided(learner.network, [link.last for link in rule.layers[:-1]])
    return ccl.grads(blocks, stages, x, y, CLASSES, rule.loss, rule.weight, literal.forward, plain_backward)


RULES = {
    "ccl": (CCL, reference),
    "ccl_normalised": (partial(CCL, "normalised", weight=1.0), reference),
    "ccl_paper": (partial(CCL, "paper"), reference),
}
IMPOSSIBLE = {(rule, name): "CCL refuses shortcuts and tokens" for rule in RULES for name in ("residual", "tokens")}
COMPARES = "it compares the samples of a batch"
OPTED_OUT = {
    "written_out": dict.fromkeys(RULES, "nobody has written it out"),
    "two_ranks": dict.fromkeys(("ccl_normalised", "ccl_paper"), f"{COMPARES}, and every rank has its own batch"),
    "accumulation": dict.fromkeys(("ccl_normalised", "ccl_paper"), COMPARES),
}

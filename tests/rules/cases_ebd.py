"""Error broadcast and decorrelation in the contract suites."""

from functools import partial

import numpy as np

from lit_fa.layers.taps import block_name
from lit_fa.modules import Learner
from lit_fa.rules import EBD
from tests.contract import literal
from tests.gradients import array
from tests.reference import ebd
from tests.reference_adapters import divided

FIRST = "its estimate is of the samples of a batch, and is used at once"


def reference(lam: float, options: dict, learner: Learner, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    estimates = learner.rule.estimates
    blocks = divided(learner.network, [block_name(key) for key in estimates])
    R = [array(estimate).reshape(len(estimate), -1).T for estimate in estimates.values()]
    sign = -1 if options["sign"] == "minus" else 1
    grads, following = ebd.grads(
        blocks, x, y, R, lam, sign, options["order"], options["g"], literal.forward, literal.backward
    )
    if lam < 1:
        named = zip(estimates.items(), following, strict=True)
        grads |= {f"rule.estimates.{key}": R.T.reshape(old.shape) for (key, old), R in named}
    return grads


def case(lam: float = 0.9, sign: str = "plus", order: str = "broadcast_first", g: str = "identity", **more: str):
    options = {"sign": sign, "order": order, "g": g}
    return partial(EBD, lam, scale=1.0, **options, **more), partial(reference, lam, options)


RULES = {
    "ebd": case(),
    "ebd_estimate_first": case(order="estimate_first", broadcast="score"),
    "ebd_minus_square": case(sign="minus", g="square"),
    "ebd_fixed": case(1.0),
}
AWAY = "an estimate that is soon learned points away from the gradient with the paper's sign"
LIMITS = {(rule, "mlp"): {"trains": AWAY} for rule in ("ebd", "ebd_estimate_first")}
OPTED_OUT = {
    "written_out": dict.fromkeys(RULES, "nobody has written it out"),
    "accumulation": {"ebd_estimate_first": FIRST},
    "two_ranks": {"ebd_estimate_first": FIRST},
}

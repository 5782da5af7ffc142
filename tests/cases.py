"""Every rule on every small network: one line in `RULES` sends a rule through all suites of `tests/contract`.

The rules of a further paper have their lines in a file of their own, `tests/rules/cases_<rule>.py`: `RULES` and, where
needed, `OPTED_OUT`, `IMPOSSIBLE`, `LIMITS` and `OWN_STATE`, which are added to those of this file.

A rule that cannot take part in a suite says so in words: in `OPTED_OUT` for a whole suite, in `IMPOSSIBLE` for a
network, in `LIMITS` for a suite on one network.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lit_fa.modules import Learner
from lit_fa.rules import (
    FLFA,
    AdaptiveFeedback,
    AugLocal,
    Backprop,
    DirectFeedbackAlignment,
    FeedbackAlignment,
    FeedbackWeightMatching,
    ForwardForward,
    KolenPollackFeedback,
    LearningRule,
    PredSim,
    RandomFeedback,
    SharedRandomFeedback,
    SignFeedback,
    SnapshotFeedback,
    SVDBackprop,
    SVDSpaceAlignment,
    WeightMirrorFeedback,
)
from lit_fa.rules.rank_schedule import Hoyer, Pruning
from tests.reference_adapters import (
    as_stored,
    auglocal_reference,
    backprop_reference,
    direct_reference,
    factored_reference,
    feedback_reference,
    forward_forward_reference,
    norm_of_weight,
    predsim_reference,
    rows_of_weight,
    signed,
    ssa_direct_reference,
    usf,
    whole_of_weight,
)
from tests.small_networks import CLASSES, NETWORKS


@dataclass(frozen=True)
class Case:
    """A rule on a network.

    Attributes:
        name: of rule and network, the test's id.
        rule: makes the rule; every call makes the same.
        network: makes the network; the global seed decides the weights.
        shape: of one input.
        reference: (learner, inputs, labels) to literal gradients, name (in the learner) to array.
        tolerance: largest difference from the reference in float64.
        limits: suite to the reason, in words, why the case does not take part.
    """

    name: str
    rule: Callable[[], LearningRule]
    network: Callable[[], nn.Module]
    shape: tuple[int, ...]
    reference: Callable[[Learner, np.ndarray, np.ndarray], dict[str, np.ndarray]]
    tolerance: float = 1e-10
    limits: Mapping[str, str] = field(default_factory=dict)

    def learner(self, seed: int = 0, dtype: torch.dtype = torch.float64) -> Learner:
        """A fresh learner; the seed decides weights, never feedback."""
        torch.default_generator.manual_seed(seed)
        return Learner(self.network().to(dtype), self.rule(), torch.zeros(2, *self.shape, dtype=dtype))

    def batch(self, n: int = 6, seed: int = 1, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
        """Inputs (n, *shape) and labels (n,)."""
        g = torch.Generator().manual_seed(seed)
        return torch.randn(n, *self.shape, generator=g, dtype=dtype), torch.randint(CLASSES, (n,), generator=g)


def fa(source: object, matrix: Callable, *, trained: bool = False, **options: object) -> tuple[Callable, Callable]:
    return partial(FeedbackAlignment, source, **options), partial(feedback_reference, matrix, trained)


def dfa(teacher: str = "error", **options: object) -> tuple[Callable, Callable]:
    return partial(DirectFeedbackAlignment, teacher, **options), partial(direct_reference, teacher)


def ff(
    loss: str, tau: float, kind: str = "mean", normalise: str = "rms", **options: object
) -> tuple[Callable, Callable]:
    literally = {"loss": loss, "tau": tau, "goodness_is": kind, "normalise": normalise, "theta": None}
    literally |= {name: options.get(name, usual) for name, usual in (("label", "pixels"), ("head", "softmax"))}
    make = partial(ForwardForward, loss, kind, normalise=normalise, **options)
    return make, partial(forward_forward_reference, literally)


def greedy(rule: tuple[Callable, Callable]) -> tuple[Callable, Callable]:
    """The same blocks, all but the first without a gradient until it is their turn."""
    make, reference = rule

    def first_block_and_head(learner: Learner, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
        owners = {name: learner.rule.owners[name.removeprefix("network.")] for name in dict(learner.named_parameters())}
        waiting = {*range(1, len(learner.rule.taps.names))}
        grads = reference(learner, x, y)
        return {name: 0 * grad if owners[name] in waiting else grad for name, grad in grads.items()}

    return make, first_block_and_head


def ssa(route: str, **options: object) -> tuple[Callable, Callable]:
    make = partial(SVDSpaceAlignment, route, dense="unfactorable", **options)
    direct = partial(ssa_direct_reference, route == "direct_product")
    return make, factored_reference if route == "sequential" else direct


def predsim(loss: str, limit: int = 4096, beta: float = 0.99) -> tuple[Callable, Callable]:
    share = {"predsim": beta, "pred": 0.0, "sim": 1.0}[loss]
    return partial(PredSim, loss, beta, limit), partial(predsim_reference, share, limit)


# name: (makes the rule, its literal reference)
RULES: dict[str, tuple[Callable[[], LearningRule], Callable]] = {
    "backprop": (Backprop, backprop_reference),
    "fa_xavier_uniform": fa(RandomFeedback("xavier_uniform"), as_stored),
    "fa_xavier_normal": fa(RandomFeedback("xavier_normal", seed=1), as_stored),
    "fa_kaiming_uniform": fa(RandomFeedback("kaiming_uniform"), as_stored),
    "fa_kaiming_normal": fa(RandomFeedback("kaiming_normal"), as_stored),
    "fa_uniform": fa(RandomFeedback("uniform", scale=2.0), as_stored),
    "fa_normal": fa(RandomFeedback("normal"), as_stored),
    "fa_orthogonal": fa(RandomFeedback("orthogonal"), as_stored),
    "fa_detour": fa(RandomFeedback(), as_stored, backend="detour"),
    "sign_usf": fa(SignFeedback("usf"), usf),
    "sign_usf_detour": fa(SignFeedback("usf"), usf, backend="detour"),
    "sign_brsf": fa(SignFeedback("brsf"), signed),
    "sign_frsf": fa(SignFeedback("frsf"), signed),
    "kolen_pollack": fa(KolenPollackFeedback(), as_stored, trained=True),
    "kolen_pollack_detour": fa(KolenPollackFeedback(), as_stored, trained=True, backend="detour"),
    "weight_mirror": fa(WeightMirrorFeedback(), as_stored),
    "adaptive_increment": fa(AdaptiveFeedback("xavier_uniform", reading="increment"), as_stored, trained=True),
    "adaptive_norm": fa(AdaptiveFeedback("xavier_uniform", reading="norm"), norm_of_weight),
    "adaptive_mixture": fa(AdaptiveFeedback("xavier_uniform", reading="mixture"), as_stored),
    "snapshot_row": fa(SnapshotFeedback("row"), rows_of_weight),
    "snapshot_matrix": fa(SnapshotFeedback("matrix"), whole_of_weight),
    "snapshot_none": fa(SnapshotFeedback("none"), as_stored),
    "snapshot_flfa": (partial(FLFA, None), partial(feedback_reference, rows_of_weight, False)),
    "fa_shared_random": fa(SharedRandomFeedback(), rows_of_weight),
    "dfa_dense": dfa(),
    "dfa_detour": dfa(backend="detour"),
    "dfa_per_channel": dfa(shape="per_channel"),
    "dfa_shared": dfa(shape="shared"),
    "dfa_transposed_conv": dfa(shape="transposed_conv"),
    "dfa_layer_taps": dfa(blocks="layer"),
    "dfa_redrawn": dfa(storage="redrawn"),
    "drtp_dense": dfa("target"),
    "drtp_per_channel": dfa("target", shape="per_channel"),
    "drtp_shared": dfa("target", shape="shared"),
    "drtp_transposed_conv": dfa("target", shape="transposed_conv"),
    "fwm": (FeedbackWeightMatching, partial(direct_reference, "error")),  # before it is prepared: as drawn
    "svd_backprop": (partial(SVDBackprop, dense="unfactorable"), factored_reference),
    "svd_low_rank": (partial(SVDBackprop, 0.5, dense="unfactorable"), factored_reference),
    "ssa_random": ssa("direct_random", blocks="block"),
    "ssa_per_channel": ssa("direct_random", blocks="block", shape="per_channel"),
    "ssa_product": ssa("direct_product", blocks="block"),
    "ssa_sequential": ssa("sequential", rank=0.5),
    "ssa_layer_taps": ssa("direct_random"),
    "ff_threshold": ff("threshold", 1.0),
    "ff_sum": ff("threshold", 1.0, "sum", "l2"),
    "ff_symba": ff("symba", 4.0, negatives="permutation"),
    "ff_margin": ff("margin", 1.0, normalise="none"),
    "ff_autograd": ff("threshold", 1.0, backend="autograd"),
    "ff_hard": ff("symba", 4.0, negatives="hard"),
    "ff_no_head": ff("threshold", 1.0, head="none"),
    "ff_channels": ff("threshold", 1.0, label="channels"),
    "ff_channels_l2": ff("symba", 4.0, "sum", "l2", label="channels", head="none"),
    "predsim": predsim("predsim"),
    "predsim_pooled": predsim("predsim", limit=20, beta=0.6),
    "pred": predsim("pred", limit=20),
    "sim": predsim("sim"),
    "auglocal": (AugLocal, auglocal_reference),
    "auglocal_deep": (partial(AugLocal, 4, 1.0), auglocal_reference),
}
# what the rules do between and after steps, which no gradient shows, is seen in the suites that train
PRUNING = partial(Pruning, every=1, after=0.3, floor=2)
RULES |= {
    "svd_pruned": (
        partial(SVDBackprop, hoyer=Hoyer(1e-2, 1, 1.0), pruning=PRUNING(), retraction="qr", dense="unfactorable"),
        factored_reference,
    ),
    "ssa_pruned": ssa(
        "direct_random", blocks="block", pruning=PRUNING(physical=False), hoyer=Hoyer(1e-2, 2, 0.9),
        beta_schedule="linear", retract_every=2, orthogonality_every=3,
    ),
    "ff_greedy": greedy(ff("threshold", 1.0, schedule="greedy")),
}  # fmt: skip
# rule to one that differs from it only in the numbers that are drawn when it is installed; `test_cases` checks that a
# step of both is the same operations, and suites about what is done, not about numbers, try one of them
ALIKE = dict.fromkeys(
    ("fa_xavier_normal", "fa_kaiming_uniform", "fa_kaiming_normal", "fa_uniform", "fa_normal", "fa_orthogonal"),
    "fa_xavier_uniform",
)
# suite: rule to the reason why it does not take part in it
BATCHES = "it compares the samples of a batch, and every rank has its own batch"
COPIES = "its feedback is copied from the weights"
FACTORS = "its layers hold factors in the place of weights"
NO_SERVER_DATA = "it prepares on training batches, which a server does not have"
NO_EPOCHS = "it prunes at the end of epochs, which clients do not have"
LOCAL = ("svd", "ssa", "pred", "sim", "auglocal")
EXACT = "its update is backprop's, at least in the first step"
DRAWS = "it draws in the backward pass, where vmap draws nothing"
OPTED_OUT: dict[str, dict[str, str]] = {
    "two_ranks": {
        **dict.fromkeys(("predsim", "predsim_pooled", "sim", "auglocal", "auglocal_deep"), BATCHES),
        "ff_symba": "its wrong labels are a permutation of the batch, and every rank has its own batch",
    },
    "accumulation": {  # k batches are not one of k times the size
        **dict.fromkeys(("predsim", "predsim_pooled", "sim"), "it compares the samples of a batch"),
        "ff_symba": "its wrong labels are a permutation of the batch",
    },
    "vmap": {"dfa_redrawn": DRAWS},
    "compile": {"dfa_redrawn": "a draw breaks the graph in two"},
    "vmapped_clients": {
        "dfa_redrawn": DRAWS,
        "fwm": NO_SERVER_DATA,
        **dict.fromkeys(("svd_pruned", "ssa_pruned"), NO_EPOCHS),
        "ff_greedy": "whose turn it is is the state of one client",
    },
    "written_out": {
        "dfa_redrawn": "its feedback is not stored",
        "fwm": NO_SERVER_DATA,
        "ff_greedy": "the block that learns changes",
        **{rule: "nobody has written it out" for rule in RULES if rule.startswith(LOCAL)},
        **dict.fromkeys(("kolen_pollack", "kolen_pollack_detour", "adaptive_increment"), "its feedback is trained"),
        **dict.fromkeys(("sign_brsf", "weight_mirror", "adaptive_mixture"), "its feedback changes in a round"),
        **dict.fromkeys(("ff_channels", "ff_channels_l2"), "the label has weights of its own"),
    },
    "activations": dict.fromkeys(
        ("auglocal", "auglocal_deep"), "it copies the activations that it sees, and takes ReLU where it sees none"
    ),
    "global_seed": dict.fromkeys(("snapshot_row", "snapshot_matrix", "snapshot_none", "snapshot_flfa"), COPIES),
    "plain_checkpoint": {rule: FACTORS for rule in RULES if rule.startswith(("svd", "ssa"))},
    "differs": {rule: EXACT for rule in RULES if rule.startswith(("backprop", "snapshot", "svd"))},
}
# (rule, network) that cannot be, and why; `conv` is a network of `tests.contract.training` and `test_one_function`
INSIDE = "the reference's blocks form a chain; a layer inside a branch is none"
NO_CONVOLUTIONS = "feedback matching refuses convolutions"
IMPOSSIBLE = {
    ("dfa_layer_taps", "residual"): INSIDE,
    ("ssa_layer_taps", "residual"): INSIDE,
    ("fwm", "small_conv"): NO_CONVOLUTIONS,
    ("fwm", "residual"): NO_CONVOLUTIONS,
    ("fwm", "conv"): NO_CONVOLUTIONS,
    ("fwm", "tokens"): "feedback matching is for flat activations",
    ("ssa_product", "small_conv"): "its grouped layer counts with its weight at the start, which nobody keeps",
}
# (rule, network): suite to the reason why they do not take part in it
RELABELLED = "its network reads a label in the input and normalised activities, so that no value is the plain network's"
UNBOUNDED = "the target's signal never shrinks, so what is behind an unbounded activation grows without end"
ROUNDED = "a product of factors is the plain network's weight to rounding only"
LIMITS: dict[tuple[str, str], Mapping[str, str]] = {
    (rule, "residual"): {"trains": UNBOUNDED} for rule in RULES if rule.startswith("drtp")
} | {
    (rule, network): {"values": RELABELLED if rule.startswith("ff") else ROUNDED}
    for rule in RULES
    if rule.startswith(("ff", "svd", "ssa"))
    for network in NETWORKS
}

# rules with a state, a schedule or blocks that the first of their class does not have
OWN_STATE = {
    "svd_pruned",
    "ssa_pruned",
    "ssa_layer_taps",
    "dfa_layer_taps",
    "ff_greedy",
    "ff_channels",
}

for file in sorted(Path(__file__).parent.glob("rules/cases_*.py")):
    own = import_module(f"tests.rules.{file.stem}")
    RULES |= own.RULES
    IMPOSSIBLE |= getattr(own, "IMPOSSIBLE", {})
    LIMITS |= getattr(own, "LIMITS", {})
    OWN_STATE |= getattr(own, "OWN_STATE", set())
    for suite, reasons in getattr(own, "OPTED_OUT", {}).items():
        OPTED_OUT[suite] = OPTED_OUT.get(suite, {}) | reasons


def opted_out(rule: str) -> dict[str, str]:
    """Suite to reason, for the suites in which the rule takes no part."""
    return {suite: reasons[rule] for suite, reasons in OPTED_OUT.items() if rule in reasons}


CASES = [
    Case(
        f"{rule}-{network}", make, build, shape, reference,
        limits={**opted_out(rule), **LIMITS.get((rule, network), {})},
    )
    for rule, (make, reference) in RULES.items()
    for network, (build, shape) in NETWORKS.items()
    if (rule, network) not in IMPOSSIBLE
]  # fmt: skip


def first_of_their_kind() -> set[str]:
    """Of each class of rule and each source of feedback, the first rule in the list."""
    kinds: dict[tuple, str] = {}
    for name, (make, _) in RULES.items():
        rule = make()
        kinds.setdefault((type(rule), type(getattr(rule, "source", None)), getattr(rule, "teacher", "")), name)
    return {*kinds.values()}


FIRST = first_of_their_kind()


def cases(
    *networks: str,
    suite: str = "",
    where: Callable[[Case], bool] = lambda case: True,
    distinct: bool = False,
    thin: bool = False,
) -> list:
    """The cases on the named networks (all by default) that take part in `suite`, as pytest parameters.

    `distinct` leaves out the rules of `ALIKE`. `thin` marks as slow what differs from a case that is not in options or
    in its network alone: of each class of rule the first is tried on every network, the others on one.
    """
    chosen = [c for c in CASES if (not networks or c.name.rsplit("-", 1)[1] in networks) and where(c)]
    tried: set[str] = set()
    parameters = []
    for case in chosen:
        rule = case.name.rsplit("-", 1)[0]
        if distinct and rule in ALIKE:
            continue
        is_slow = thin and rule in tried and rule not in FIRST
        tried.add(rule)
        parameters.append(_parameter(case, case.name, case.limits.get(suite), is_slow))
    return parameters


def rules(suite: str, distinct: bool = False, thin: bool = False, more: Collection[str] = ()) -> list:
    """The names of the rules that take part in `suite`, as pytest parameters.

    `distinct` as in `cases`; `thin` marks as slow all but the first of each class and those in `more`.
    """
    reasons = OPTED_OUT.get(suite, {})
    return [
        _parameter(rule, rule, reasons.get(rule), thin and rule not in FIRST | {*more})
        for rule in RULES
        if not (distinct and rule in ALIKE)
    ]


def _parameter(value: object, name: str, reason_to_skip: str | None, is_slow: bool) -> object:
    import pytest

    marks = [pytest.mark.skip(reason=reason_to_skip)] if reason_to_skip else []
    return pytest.param(value, id=name, marks=[*marks, pytest.mark.slow] if is_slow else marks)

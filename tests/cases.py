"""Every rule on every small network: one line in `RULES` sends a rule through all suites of `tests/contract`.

A rule that cannot take part in a suite says so in words: in `OPTED_OUT` for a whole suite, in `IMPOSSIBLE` for a
network, in `LIMITS` for a suite on one network.

A reference is literal numpy (`tests/contract/literal.py`); what it is handed are plain arrays: the network's weights,
what the rule stores, inputs and labels.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from lit_fa.layers import feedback_layers
from lit_fa.layers.factored import FactoredConv2d, FactoredLayer, factored_layers
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
from tests.contract import literal
from tests.reference import factored, forward_forward, local_losses

CLASSES = 5


class Residual(nn.Module):
    """x + inside(x)."""

    def __init__(self, *inside: nn.Module):
        super().__init__()
        self.inside = nn.Sequential(*inside)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inside(x)


class Mean(nn.Module):
    """The mean over some dimensions: tokens, or positions of a map."""

    def __init__(self, *dims: int):
        super().__init__()
        self.dims = dims

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(self.dims)


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(12, 10), nn.Tanh(), nn.Linear(10, 8, bias=False), nn.ReLU(), nn.Linear(8, 7), nn.Tanh(),
        nn.Linear(7, CLASSES),
    )  # fmt: skip


def small_conv() -> nn.Module:
    """Stride, groups, dilation, unequal kernels and every padding mode."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(4, 6, 3, padding=2, dilation=2, groups=2, bias=False, padding_mode="reflect"), nn.Tanh(),
        nn.Conv2d(6, 4, (3, 2), padding="same"), nn.ReLU(),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"), nn.Tanh(),
        nn.Conv2d(4, 3, 2, stride=2, padding=(1, 0), padding_mode="replicate"), nn.Tanh(),
        nn.Flatten(), nn.Linear(18, CLASSES),
    )  # fmt: skip


def tokens() -> nn.Module:
    """Inputs of rank three, as in a Transformer's linear layers."""
    return nn.Sequential(
        nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 7), nn.ReLU(), Mean(1), nn.Linear(7, 6), nn.Tanh(),
        nn.Linear(6, CLASSES),
    )  # fmt: skip


def residual() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.Tanh(),
        Residual(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1, bias=False)), nn.Tanh(),
        Residual(nn.Conv2d(4, 4, 1), nn.Tanh(), nn.Conv2d(4, 4, 3, padding=1)), nn.ReLU(),
        Mean(2, 3), nn.Linear(4, CLASSES),
    )  # fmt: skip


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (mlp, (12,)),
    "small_conv": (small_conv, (2, 8, 8)),
    "tokens": (tokens, (3, 6)),
    "residual": (residual, (2, 5, 5)),
}


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
        torch.manual_seed(seed)
        return Learner(self.network().to(dtype), self.rule(), torch.zeros(2, *self.shape, dtype=dtype))

    def batch(self, n: int = 6, seed: int = 1, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
        """Inputs (n, *shape) and labels (n,)."""
        g = torch.Generator().manual_seed(seed)
        return torch.randn(n, *self.shape, generator=g, dtype=dtype), torch.randint(CLASSES, (n,), generator=g)


def gradients(learner: Learner, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """Name to gradient of the learner's scalar on one batch; parameters without gradient are left out."""
    learner.zero_grad(set_to_none=True)
    learner(batch).value.backward()
    return taken(learner)


def taken(module: nn.Module) -> dict[str, Tensor]:
    """What stands in `.grad`, taken away."""
    grads = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
    module.zero_grad(set_to_none=True)
    return grads


def largest_difference(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """Over all tensors of two dictionaries, which must have the same names."""
    assert a.keys() == b.keys()
    return max((torch.as_tensor(a[k]).double() - torch.as_tensor(b[k]).double()).abs().max().item() for k in a)


def described(module: nn.Module, name: str) -> list[tuple]:
    """A layer as the literal reference reads it."""
    if isinstance(module, nn.Sequential):
        return [layer for child, m in module.named_children() for layer in described(m, f"{name}.{child}")]
    if isinstance(module, Residual):
        return [("residual", described(module.inside, f"{name}.inside"))]
    if isinstance(module, Mean | nn.AdaptiveAvgPool2d):
        return [("mean", getattr(module, "dims", (2, 3)))]
    weight, bias = array(getattr(module, "weight", None)), array(getattr(module, "bias", None))
    if isinstance(module, FactoredLayer):
        return [described_factors(module, name, (module.U, module.s, module.V), bias)]
    if isinstance(module, nn.Linear):
        return [("linear", name, weight, bias)]
    if isinstance(module, nn.Conv2d):
        geometry = (module.stride, pad(module), module.padding_mode, module.dilation, module.groups)
        return [("conv", name, weight, bias, *geometry)]
    if isinstance(module, nn.BatchNorm2d):
        return [("batch_norm", name, weight, bias, module.eps)]
    return [({nn.Tanh: "tanh", nn.ReLU: "relu", nn.Flatten: "flatten"}[type(module)],)]


def described_factors(module: FactoredLayer, name: str, factors: tuple, bias: np.ndarray | None) -> tuple:
    """A factored layer, with these factors, as the dense one that it stands for."""
    weight = factored.dense(*map(array, factors), module.shape)
    if not isinstance(module, FactoredConv2d):
        return ("linear", name, weight, bias)
    _, stride, (rows, columns), dilation = module.geometry
    left, right, top, bottom = module.sides
    sides = ((top, bottom), (left, right)) if any(module.sides) else ((rows, rows), (columns, columns))
    mode = {"constant": "zeros"}.get(module.mode, module.mode)
    return ("conv", name, weight, bias, stride, sides, mode, dilation, 1)


def pad(conv: nn.Conv2d) -> tuple[tuple[int, int], ...]:
    """(before, after) for rows and columns."""
    if conv.padding != "same":
        return tuple((p, p) for p in conv.padding)
    total = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
    return tuple((t // 2, t - t // 2) for t in total)


def array(tensor: Tensor | None) -> np.ndarray | None:
    return None if tensor is None else tensor.detach().numpy()


def backprop_reference(learner: Learner, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    return in_factors(learner, literal.feedback_alignment(described(learner.network, "network"), x, y, {})[0])


def feedback_reference(
    matrix: Callable, trained: bool, learner: Learner, x: np.ndarray, y: np.ndarray
) -> dict[str, np.ndarray]:
    """`matrix(W, stored)` is the rule's literal backward matrix; `trained` feedback has the gradient of its weight."""
    layers = {f"network.{name}": layer for name, layer in feedback_layers(learner.network).items()}
    used = {name: matrix(array(layer.weight), array(layer.feedback.weight)) for name, layer in layers.items()}
    grads, _ = literal.feedback_alignment(described(learner.network, "network"), x, y, used)
    return grads | ({f"{name}.feedback.weight": grads[f"{name}.weight"] for name in layers} if trained else {})


def direct_reference(teacher: str, learner: Learner, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    blocks = divided(learner.network, [key.replace("/", ".") for key in learner.rule.feedback])
    feedback, h = [], x
    for block, direct in zip(blocks, learner.rule.feedback.values(), strict=False):
        h, _ = literal.forward(block, h)
        feedback.append(np.broadcast_to(array(direct.weight), (CLASSES, *h.shape[1:])))
    return literal.direct_feedback_alignment(blocks, x, y, feedback, teacher)[0]


def divided(network: nn.Module, ends: list[str]) -> list[list[tuple]]:
    """The network's layers as a list of blocks, each but the last up to the child that `ends` names."""
    blocks = [[]]
    for name, module in network.named_children():
        blocks[-1] += described(module, f"network.{name}")
        if name in ends:
            blocks.append([])
    return blocks


def in_factors(learner: Learner, grads: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Gradients of dense weights as those of U, s and V, where the layer has them."""
    for name, layer in factored_layers(learner.network).items():
        factors = (array(layer.U), array(layer.s), array(layer.V))
        made = factored.factor_gradients(grads.pop(f"network.{name}.weight"), *factors)
        grads |= {f"network.{name}.{side}": g for side, g in zip("UsV", made, strict=True)}
    return grads


def dense_feedback(learner: Learner) -> dict[str, np.ndarray]:
    """Layer to B, dense, of the layers that have factored feedback."""
    layers = {name: layer for name, layer in factored_layers(learner.network).items() if layer.feedback is not None}
    return {
        f"network.{name}": factored.dense(*map(array, layer.feedback.factors), layer.shape)
        for name, layer in layers.items()
    }


def factored_reference(learner: Learner, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """Backprop, or feedback alignment through dense B, and the factors' share of each weight's gradient."""
    layers = described(learner.network, "network")
    return in_factors(learner, literal.feedback_alignment(layers, x, y, dense_feedback(learner))[0])


def ssa_direct_reference(product: bool, learner: Learner, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    direct = learner.rule.direct.feedback
    blocks = divided(learner.network, [key.replace("/", ".") for key in direct])
    inside = dense_feedback(learner)
    notes, h = [], x
    for block in blocks:
        h, note = literal.forward(block, h)
        notes.append(note)
    error, _ = literal.softmax_error(h, y)
    grads = literal.backward(blocks[-1], notes[-1], error, inside)[1]
    linear = [linear_layers(block, inside) for block in blocks]
    for number, link in enumerate(direct.values()):
        shape = blocks_output(blocks[: number + 1], x[:1])
        drawn = np.broadcast_to(array(link.weight), (CLASSES, *shape))
        matrix = chained(linear[number + 1 :], shape) if product else drawn
        delta = np.tensordot(error, matrix, axes=1)
        grads |= literal.backward(blocks[number], notes[number], delta, inside)[1]
    return in_factors(learner, grads)


def linear_layers(layers: list[tuple], feedback: dict) -> list[tuple]:
    """The layers without activations and biases, and with feedback for weights."""
    made = []
    for kind, *rest in layers:
        if kind == "residual":
            made.append((kind, linear_layers(rest[0], feedback)))
        elif kind in ("linear", "conv"):
            name, weight, _, *geometry = rest
            made.append((kind, name, feedback.get(name, weight), None, *geometry))
        elif kind not in ("relu", "tanh"):
            made.append((kind, *rest))
    return made


def chained(blocks: list[list[tuple]], shape: tuple[int, ...]) -> np.ndarray:
    """(c, *shape): what one unit of error at each logit is after the way back through linear blocks."""
    notes, h = [], np.zeros((CLASSES, *shape))
    for block in blocks:
        h, note = literal.forward(block, h)
        notes.append(note)
    delta = np.eye(CLASSES)
    for block, note in zip(reversed(blocks), reversed(notes), strict=True):
        delta, _ = literal.backward(block, note, delta, {})
    return delta


def blocks_output(blocks: list[list[tuple]], x: np.ndarray) -> tuple[int, ...]:
    """Shape of the output for one sample."""
    for block in blocks:
        x, _ = literal.forward(block, x)
    return x.shape[1:]


def forward_forward_reference(options: dict, learner: Learner, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """Which labels are wrong is the rule's draw, tested on its own; what is learned from them is not."""
    blocks = forward_forward_blocks(learner)
    shown = {name: options[name] for name in ("label", "normalise")}
    logits = forward_forward.neutral_logits(blocks, x, CLASSES, literal.forward, **shown)
    wrong = learner.rule.wrong_labels(torch.tensor(x), torch.tensor(y), torch.tensor(logits))
    grads = forward_forward.grads(
        blocks, x, y, array(wrong), CLASSES, literal.forward,
        lambda block, notes, delta: literal.backward(block, notes, delta, {})[1], **options,
    )  # fmt: skip
    if options["label"] == "channels":
        inputs = learner.network[0].weight.shape[1]
        whole = grads["network.0.weight"]
        grads |= {"network.0.weight": whole[:, :inputs], "network.0.label.weight": whole[:, inputs:]}
    return grads


def forward_forward_blocks(learner: Learner) -> list[list[tuple]]:
    """The network in blocks; a first layer that has weights for label channels is one wider layer."""
    blocks = divided(learner.network, learner.rule.taps.names)
    if hasattr(learner.network[0], "label"):
        kind, name, weight, *rest = blocks[0][0]
        wider = np.concatenate([weight, array(learner.network[0].label.weight)], axis=1)
        blocks[0][0] = (kind, name, wider, *rest)
    return blocks


def predsim_reference(beta: float, limit: int, learner: Learner, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    def delta(key: str) -> Callable:
        auxiliary, prefix = learner.rule.auxiliary[key], f"rule.auxiliary.{key}"
        prediction = described(auxiliary["prediction"].linear, f"{prefix}.prediction.linear") if beta < 1 else None
        matched = described(auxiliary["similarity"], f"{prefix}.similarity") if beta > 0 else None
        return lambda h, y: local_losses.predsim_delta(
            h, y, CLASSES, prediction, matched, beta, limit, literal.forward, plain_backward
        )

    return local_reference(delta, learner, x, y)


def auglocal_reference(learner: Learner, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    def delta(key: str) -> Callable:
        layers = described(learner.rule.auxiliary[key], f"rule.auxiliary.{key}")
        return lambda h, y: local_losses.auglocal_delta(h, y, layers, literal.forward, plain_backward)

    return local_reference(delta, learner, x, y)


def local_reference(delta: Callable, learner: Learner, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """`delta(key)` is the literal error of the block with that auxiliary network."""
    blocks = divided(learner.network, learner.rule.taps.names)
    shapes = [unit.shape for unit in learner.rule.units.values()]
    deltas = [delta(key) for key in learner.rule.auxiliary]
    return local_losses.grads(blocks, x, y, shapes, deltas, literal.forward, plain_backward)


def plain_backward(layers: list, notes: list, delta: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    return literal.backward(layers, notes, delta, {})


def usf(weight: np.ndarray, stored: None) -> np.ndarray:
    field_size = np.prod(weight.shape[2:])
    return np.sqrt(2 / ((weight.shape[0] + weight.shape[1]) * field_size)) * np.sign(weight)


def signed(weight: np.ndarray, stored: np.ndarray) -> np.ndarray:
    return np.abs(stored) * np.sign(weight)


def as_stored(weight: np.ndarray, stored: np.ndarray) -> np.ndarray:
    return stored


def norm_of_weight(weight: np.ndarray, stored: None) -> np.ndarray:
    return np.sign(weight) * np.sqrt((weight**2).sum() / (np.sign(weight) ** 2).sum())


def rows_of_weight(weight: np.ndarray, stored: np.ndarray) -> np.ndarray:
    return np.stack([b * np.sqrt((w**2).sum() / (b**2).sum()) for w, b in zip(weight, stored, strict=True)])


def whole_of_weight(weight: np.ndarray, stored: np.ndarray) -> np.ndarray:
    return stored * np.sqrt((weight**2).sum() / (stored**2).sum())


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
OPTED_OUT: dict[str, dict[str, str]] = {
    "two_ranks": {
        **dict.fromkeys(("predsim", "predsim_pooled", "sim", "auglocal", "auglocal_deep"), BATCHES),
        "ff_symba": "its wrong labels are a permutation of the batch, and every rank has its own batch",
    },
    "accumulation": {  # k batches are not one of k times the size
        **dict.fromkeys(("predsim", "predsim_pooled", "sim"), "it compares the samples of a batch"),
        "ff_symba": "its wrong labels are a permutation of the batch",
    },
    "vmapped_clients": {
        "fwm": NO_SERVER_DATA,
        **dict.fromkeys(("svd_pruned", "ssa_pruned"), NO_EPOCHS),
        "ff_greedy": "whose turn it is is the state of one client",
    },
    "written_out": {
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


def cases(
    *networks: str, suite: str = "", where: Callable[[Case], bool] = lambda case: True, distinct: bool = False
) -> list:
    """The cases on the named networks (all by default) that take part in `suite`, as pytest parameters.

    `distinct` leaves out the rules of `ALIKE`.
    """
    import pytest

    chosen = [c for c in CASES if (not networks or c.name.rsplit("-", 1)[1] in networks) and where(c)]
    if distinct:
        chosen = [c for c in chosen if c.name.rsplit("-", 1)[0] not in ALIKE]
    return [
        pytest.param(c, id=c.name, marks=[pytest.mark.skip(reason=c.limits[suite])] if suite in c.limits else [])
        for c in chosen
    ]


def rules(suite: str, distinct: bool = False) -> list:
    """The names of the rules that take part in `suite`, as pytest parameters; `distinct` as in `cases`."""
    import pytest

    reasons = OPTED_OUT.get(suite, {})
    return [
        pytest.param(rule, id=rule, marks=[pytest.mark.skip(reason=reasons[rule])] if rule in reasons else [])
        for rule in RULES
        if not (distinct and rule in ALIKE)
    ]

r"""Feedback-weight matching: direct feedback that starts where the weights of a pretrained network are.

FWM, ICLR 2026: before fine-tuning by DFA, feedback is derived from the pretrained weights, and the weights are replaced
by what that feedback implies, so that training begins in strong alignment. With F_l (units of l, c) from the logits to
hidden layer l of L linear layers,

feedback matching: $\bar F_l \bar F_{l-1}^\top \approx W_l$ for $1 < l < L$, $\bar F_{L-1}^\top \equiv W_L$, (6)

weight matching: $\bar W_l := \bar F_l \bar F_{l-1}^\top$ for $1 < l < L$, (7) and $\bar W_L := \bar F_{L-1}^\top$, (8)

then DFA. $W_1$ stands in no equation and stays; so do biases, of which the paper says nothing.

The rank problem: $\bar F_l \bar F_{l-1}^\top$ has at most as many ranks as there are classes, 10 where a layer may have
1024, and every $\bar F_l$ serves two layers. So (6) is an approximation, whose residual is logged, and (7) takes from
every hidden weight all but c directions. `weight_match` between 0 and 1 goes only a part of the way,
$W_l \leftarrow (1-\beta) W_l + \beta \bar W_l$; with 0 feedback alone is matched.

In a Transformer (`blocks: micro`) the layers that are matched are the dense ones behind attention, intermediate and
output; shortcuts, layer norms and attention itself are looked past, and queries, keys and values "cannot be aligned".
With adapters the weight that is matched is the sum, and what changes is the frozen part of it.

The paper solves (6) by SVD or by optimisation and says no more; our solvers are in `functional.matching`. F_l ends
where a block does, behind its activation, as everywhere in this package.
"""

import logging
from collections.abc import Iterable
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from lit_fa.errors import UserError, check_literals
from lit_fa.functional import matching
from lit_fa.functional.credit import Backend
from lit_fa.functional.feedback import Init
from lit_fa.functional.tokens import Share, token_shares
from lit_fa.layers.coverage import Coverage
from lit_fa.layers.linear_chain import dense_weight, linear_chain, set_dense_weight, transformer_chain
from lit_fa.layers.observing import observing, recording, unfrozen
from lit_fa.layers.sequences import token_mask
from lit_fa.layers.taps import LEARNS, Blocks
from lit_fa.layers.transformer_points import PRESETS
from lit_fa.rules.base import Batch, Criterion, Uncovered
from lit_fa.rules.direct_feedback_alignment import DirectFeedbackAlignment

log = logging.getLogger(__name__)
Solver = Literal["seq_ls", "als", "svd_average", "bp_product", "random"]
SAMPLES = 2048  # that accuracy before and after matching is measured on


class FeedbackWeightMatching(DirectFeedbackAlignment):
    """Direct feedback alignment that begins with a match of feedback and weights.

    Options are checked when the rule is made. What the network is (its linear layers, what stands between them, its
    classes) is checked when the rule is installed; nothing is matched before a fit. A head of zeros is refused when
    the fit begins.

    Args:
        solver: of equation 6, from `functional.matching`; `random`: feedback stays as drawn, equations 7 and 8 may
            follow all the same.
        weight_match: beta of equation 7: 0 leaves hidden weights, 1 is the paper's.
        keep_norm: matched weights get the Frobenius norm of those that they replace; the paper has no such thing.
        feedback_scale: of every F_l after matching. `none`: as solved; `bp`: the error that it sends has the root mean
            square of backpropagation's, at the same place and on the first training batch; a number: that root mean
            square for one sample (the batch's errors, which the criterion divides by n, times n).
        head: `kept`: W_L stays, and is fixed in equation 6, so that equation 8 holds with every solver but `random`;
            `transposed`: equation 8, whatever `weight_match` says, and als may move F_{L-1} from W_L for the other
            layers' sake. With solver `random` the paper's weight matching needs `transposed`. A head of two layers
            (pooler and classifier) is matched by their product: the lower one is changed as little as gives it.
        sweeps: of als.
        normalise: every class sends an error of norm one to every layer; of svd_average, as in Refinetti's code.
        blocks: where to cut, one linear layer between two cuts; between which there are more is left unmatched. `micro`
            in Transformers.
        tokens: in Transformers, see `DirectFeedbackAlignment`.
        init, scale, seed: of feedback as it is drawn, see `DirectFeedbackAlignment`.
        backend, uncovered: see `DirectFeedbackAlignment`.
    """

    paper: ClassVar[str] = "Feedback-weight matching, ICLR 2026; svd_average: Refinetti et al. 2021, arXiv:2011.12428"

    def __init__(
        self,
        solver: Solver = "als",
        weight_match: float = 1.0,
        keep_norm: bool = False,
        feedback_scale: Literal["none", "bp"] | float = "none",
        head: Literal["kept", "transposed"] = "kept",
        sweeps: int = 50,
        normalise: bool = False,
        blocks: Blocks = "block",
        init: Init = "xavier_uniform",
        scale: float = 1.0,
        seed: int = 0,
        backend: Backend = "fused",
        uncovered: Uncovered = "raise",
        tokens: Share | None = None,
    ):
        """See the class."""
        drawn = {"init": init, "scale": scale, "seed": seed}
        super().__init__(blocks=blocks, backend=backend, uncovered=uncovered, tokens=tokens, **drawn)
        check_literals(__class__, locals())
        _check(solver, weight_match, feedback_scale, head, sweeps, normalise)
        self.solver, self.weight_match, self.keep_norm = solver, weight_match, keep_norm
        self.feedback_scale, self.head, self.sweeps, self.normalise = feedback_scale, head, sweeps, normalise
        self.chain: list[tuple[str, ...]] = []

    def install(self, network: nn.Module, example: Tensor, criterion: Criterion) -> Coverage:
        """Cut, draw F, and refuse a network whose layers between cuts are no chain of linear layers."""
        if self.blocks == "macro":
            raise UserError("whole blocks hold many layers each, so none can be matched: take blocks: micro")
        linear = sum(isinstance(m, LEARNS) for m in network.modules())
        least = 3 if self.solver == "svd_average" else 2  # the SVD does not look at the head
        if linear < least:
            raise UserError(f"{self.solver} matches the feedback of at least {least} linear layers, not {linear}")
        found = super().install(network, example, criterion)
        self.feedback.to(next(network.parameters()).dtype)
        chain = transformer_chain if self.blocks in PRESETS else linear_chain
        self.chain = chain(network, example, self.taps.names)
        if not any(self.chain):
            raise UserError("no two cuts have a single linear layer between them, so none can be matched")
        if self.head == "transposed" and not self.chain[-1]:
            raise UserError("behind the last cut stands no head that equation 8 could set: set head: kept")
        self._check_classes()
        return found

    @torch.no_grad()
    def prepare(self, network: nn.Module, batches: Iterable[Batch], criterion: Criterion) -> dict[str, float]:
        """Equations 6 to 8 on the weights as they are now."""
        shown = _first_samples(batches)
        before = self._accuracy(network, shown)
        weights = [self._weight(network, link) for link in self.chain]
        feedback = self._solve(weights)
        matched = matching.matched_weights(feedback)
        self._match_weights(network, matched)
        if self.feedback_scale != "none":
            feedback = self._rescaled(network, feedback, shown[0], criterion)
        for direct, F in zip(self.feedback.values(), feedback, strict=True):
            direct.weight.copy_(F.t().view_as(direct.weight))  # in place: DDP knows the buffer
        figures = self._figures(weights, matched, feedback)
        if before is None:
            return figures
        after = self._accuracy(network, shown)
        log.info("accuracy %.2f %% before, %.2f %% after matching (weight_match %g)", before, after, self.weight_match)
        return figures | {"match/accuracy_before": before, "match/accuracy": after}

    @staticmethod
    def _weight(network: nn.Module, link: tuple[str, ...]) -> Tensor | None:
        """What a link multiplies by, the product of its layers; None where there is no link."""
        found = [dense_weight(network.get_submodule(name)) for name in reversed(link)]
        return torch.linalg.multi_dot(found) if len(found) > 1 else found[0].clone() if found else None

    def _solve(self, weights: matching.Weights) -> list[Tensor]:
        drawn = [direct.weight.flatten(1).t().double() for direct in self.feedback.values()]
        if self.solver == "random":
            return drawn
        options = {
            "als": {"sweeps": self.sweeps, "head_fixed": self.head == "kept"},
            "svd_average": {"normalise": self.normalise},
        }
        found = getattr(matching, self.solver)(weights, drawn, **options.get(self.solver, {}))
        if dead := [block for block, F in zip(self.taps.names, found, strict=True) if not F.any()]:
            raise UserError(f"matching makes the feedback of {', '.join(dead)} zero: probe the head first")
        return found

    def _match_weights(self, network: nn.Module, matched: list[Tensor]) -> None:
        betas = [self.weight_match] * (len(self.chain) - 1) + [1.0 if self.head == "transposed" else 0.0]
        for link, made, beta in zip(self.chain, matched, betas, strict=True):
            if link and beta:
                wanted = matching.blend(self._weight(network, link), made, beta, keep_norm=self.keep_norm)
                set_dense_weight(network.get_submodule(link[0]), self._lowest(network, link, wanted))

    def _lowest(self, network: nn.Module, link: tuple[str, ...], product: Tensor) -> Tensor:
        """What the first layer of a link has to be for the link to multiply by `product`."""
        if len(link) == 1:
            return product
        lower, above = (self._weight(network, part) for part in (link[:1], link[1:]))
        found = matching.factor_below(lower, above, product)
        if found is None:
            few = f"{' and '.join(link[1:])} has fewer ranks than there are classes"
            raise UserError(f"{few}: probe the head first, or set head: kept")
        return found

    def _rescaled(self, network: nn.Module, feedback: list[Tensor], batch: Batch, criterion: Criterion) -> list[Tensor]:
        error, deltas = _true_deltas(network, self.taps.names, batch, criterion)
        if self.feedback_scale == "bp":
            mask = token_mask(network, batch[0])
            wanted = [self._sent(delta.double(), mask) for delta in deltas]
        else:
            wanted = [self.feedback_scale / len(error)] * len(deltas)
        return [matching.rescaled(F, error, rms) for F, rms in zip(feedback, wanted, strict=True)]

    def _sent(self, delta: Tensor, mask: Tensor | None) -> Tensor:
        """Root mean square over (n, units) of the error that, dealt out to the tokens, has the norm of `delta`."""
        if delta.ndim == 2:
            return delta.square().mean().sqrt()
        mask = delta.new_ones(delta.shape[:2]) if mask is None else mask.to(delta.dtype)
        dealt = token_shares(mask, self.tokens).square().sum(1).mean()
        return (delta.square().sum(1).mean() / dealt).sqrt()

    def _figures(self, weights: matching.Weights, matched: list[Tensor], feedback: list[Tensor]) -> dict[str, float]:
        figures = {"match/residual/overall": matching.relative_residual(weights, matched)}
        eps = max(torch.finfo(W.dtype).eps for W in weights if W is not None)
        above = [*feedback[1:], torch.eye(feedback[-1].shape[1]).to(feedback[-1])]
        names = [" * ".join(reversed(link)) for link in self.chain]
        for name, weight, made, upper, lower in zip(names, weights, matched, above, feedback, strict=True):
            if weight is None:
                continue
            residual, rank = matching.relative_residual([weight], [made]), matching.product_rank(upper, lower, eps)
            figures |= {f"match/residual/{name}": residual, f"match/rank/{name}": float(rank)}
            log.info("%s: residual %.3f of its norm, rank %d of %d", name, residual, rank, min(weight.shape))
        return figures

    @staticmethod
    def _accuracy(network: nn.Module, batches: list[Batch]) -> float | None:
        """In percent; None of a regression."""
        if batches[0][1].is_floating_point():
            return None
        with observing(network), torch.no_grad():
            network.eval()
            right = sum((network(x).argmax(-1) == y).sum().item() for x, y in batches)
        return 100 * right / sum(len(y) for _, y in batches)

    def _check_classes(self) -> None:
        links = self.links
        classes, widths = len(next(iter(links.values()))), {name: F.shape[-1] for name, F in links.items()}
        narrowest = min(widths, key=widths.get)
        if self.solver == "svd_average" and classes > widths[narrowest]:
            few = f"{narrowest} has {widths[narrowest]} units"
            raise UserError(f"svd_average needs a singular vector for each of {classes} classes, and {few}: use als")


def _true_deltas(
    network: nn.Module, ends: list[str], batch: Batch, criterion: Criterion
) -> tuple[Tensor, list[Tensor]]:
    """The loss gradient at the logits (n, c), and backprop's at every block's end (n, units); in evaluation mode."""
    inputs, targets = batch
    # what is frozen would leave the first outputs without a graph
    with unfrozen(network), observing(network), torch.enable_grad(), recording(network, ends) as seen:
        network.eval()
        logits = network(inputs)
        outputs = {call.name: call.tensor for call in seen}
        error, *deltas = torch.autograd.grad(criterion(logits, targets), [logits, *(outputs[end] for end in ends)])
    return error, deltas


def _first_samples(batches: Iterable[Batch]) -> list[Batch]:
    shown, seen = [], 0
    for inputs, targets in batches:
        shown.append((inputs[: SAMPLES - seen], targets[: SAMPLES - seen]))
        seen += len(targets)
        if seen >= SAMPLES:
            break
    if not shown:
        raise UserError("feedback matching looks at training batches, and there are none")
    return shown


def _check(solver: str, beta: float, scale: str | float, head: str, sweeps: int, normalise: bool) -> None:
    if not 0 <= beta <= 1:
        raise UserError(f"weight_match is between 0 and 1, not {beta}")
    if scale not in ("none", "bp") and (isinstance(scale, str) or not scale > 0):
        raise UserError(f"feedback_scale is none, bp or a positive number, not {scale!r}")
    if sweeps < 0:
        raise UserError(f"sweeps of als are at least 0, not {sweeps}")
    if solver == "svd_average" and head == "kept":
        raise UserError("svd_average gives every class some singular vector, whatever the head: set head: transposed")
    if normalise and solver != "svd_average":
        raise UserError(f"normalise is svd_average's, and {solver} would lose its residual by it")

r"""Feedback-weight matching: direct feedback matrices computed from the weights of a pretrained network.

FWM, ICLR 2026: before fine-tuning by DFA, feedback is computed from the pretrained weights, and the weights are
replaced by the products of that feedback, so that training begins with strong alignment. With F_l (units of l, c) from
the logits to hidden layer l of L linear layers,

feedback matching: $\bar F_l \bar F_{l-1}^\top \approx W_l$ for $1 < l < L$, $\bar F_{L-1}^\top \equiv W_L$, (6)

weight matching: $\bar W_l := \bar F_l \bar F_{l-1}^\top$ for $1 < l < L$, (7) and $\bar W_L := \bar F_{L-1}^\top$, (8)

then DFA. $W_1$ is in no equation and is not changed. Biases are not changed; the paper does not mention them.

The rank of $\bar F_l \bar F_{l-1}^\top$ is at most the number of classes, for example 10 for a weight of rank 1024, and
every $\bar F_l$ is in two equations. So (6) is an approximation, whose residual is logged, and (7) leaves c directions
of every hidden weight. `weight_match` between 0 and 1 interpolates,
$W_l \leftarrow (1-\beta) W_l + \beta \bar W_l$; with 0 only feedback is matched.

In a Transformer (`blocks: micro`) the dense layers after attention, intermediate and output are matched. Shortcuts,
layer norms and attention itself are ignored, and queries, keys and values "cannot be aligned". With adapters the sum is
matched, and its frozen part is changed.

The paper solves (6) by SVD or by optimisation, without details; our solvers are in `functional.matching`. F_l belongs
to the block boundary, which is after the activation, as everywhere in this package.
"""

import logging
from collections.abc import Callable, Iterable
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
SAMPLES = 2048  # on which the accuracy before and after matching is measured


class FeedbackWeightMatching(DirectFeedbackAlignment):
    """Direct feedback alignment after matching feedback and weights.

    Feedback and weights are matched in `prepare`, when a fit begins; a head with zero weights is refused there.

    Args:
        solver: of equation 6, from `functional.matching`; `random`: feedback is not changed, and equations 7 and 8 are
            applied as with the others.
        weight_match: beta of equation 7; 0: hidden weights are not changed; 1: as in the paper.
        keep_norm: matched weights are scaled to the Frobenius norm of the weights that they replace; not in the paper.
        feedback_scale: of every F_l after matching. `none`: as solved; `bp`: the error that it sends has the root mean
            square of the error of backpropagation at the same place, on the first training batch; a number: that root
            mean square for one sample (the errors of the batch, which the criterion divides by n, times n).
        head: `kept`: W_L is not changed, and is fixed in equation 6, so that equation 8 holds for every solver except
            `random`; `transposed`: equation 8 for any `weight_match`, and als optimises F_{L-1} as well. With solver
            `random` the weight matching of the paper needs `transposed`. A head of two layers (pooler and classifier)
            is matched by their product, with the smallest change of the lower layer.
        sweeps: of als.
        normalise: every class sends an error of norm one to every layer; only for svd_average, as in Refinetti's code.
        blocks: the block boundaries. A block with more than one linear layer is not matched. `micro` in Transformers.
        tokens: in Transformers, see `DirectFeedbackAlignment`.
        init, scale, seed: of the drawn feedback, see `DirectFeedbackAlignment`.
        backend, uncovered: see `DirectFeedbackAlignment`.

    Raises:
        UserError: an invalid option; at `install`, a network whose layers cannot be matched.
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
        super().__init__(
            blocks=blocks, init=init, scale=scale, seed=seed, backend=backend, uncovered=uncovered, tokens=tokens
        )
        check_literals(FeedbackWeightMatching, locals())
        _check(
            solver=solver,
            weight_match=weight_match,
            feedback_scale=feedback_scale,
            head=head,
            sweeps=sweeps,
            normalise=normalise,
        )
        self.solver, self.weight_match, self.keep_norm = solver, weight_match, keep_norm
        self.feedback_scale, self.head, self.sweeps, self.normalise = feedback_scale, head, sweeps, normalise
        self.chain: list[tuple[str, ...]] = []

    def install(self, network: nn.Module, example: Tensor, criterion: Criterion) -> Coverage:
        """As `DirectFeedbackAlignment.install`, then find the linear layer of each block."""
        if self.blocks == "macro":
            raise UserError("a whole block has several layers, so none can be matched: set blocks: micro")
        linear = sum(isinstance(m, LEARNS) for m in network.modules())
        least = 3 if self.solver == "svd_average" else 2  # svd_average does not use the head
        if linear < least:
            raise UserError(f"{self.solver} matches the feedback of at least {least} linear layers, not {linear}")
        untreated = super().install(network, example, criterion)
        self.feedback.to(next(network.parameters()).dtype)
        chain = transformer_chain if self.blocks in PRESETS else linear_chain
        self.chain = chain(network, example, self.taps.names)
        if not any(self.chain):
            raise UserError("no block after the first has exactly one linear layer, so none can be matched")
        if self.head == "transposed" and not self.chain[-1]:
            raise UserError("after the last block there is no head for equation 8: set head: kept")
        self._check_classes()
        return untreated

    @torch.no_grad()
    def prepare(self, network: nn.Module, batches: Iterable[Batch], criterion: Criterion) -> dict[str, float]:
        """Equations 6 to 8 with the current weights."""
        samples = _first_samples(batches)
        before = self._accuracy(network, samples)
        weights = [self._weight(network, link) for link in self.chain]
        feedback = self._solve(weights)
        matched = matching.matched_weights(feedback)
        self._match_weights(network, matched)
        if self.feedback_scale != "none":
            feedback = self._rescaled(network, feedback, samples[0], criterion)
        for matrix, F in zip(self.links.values(), feedback, strict=True):
            matrix.copy_(F.t().view_as(matrix))  # in place, because DDP refers to the buffer
        figures = self._figures(weights, matched, feedback)
        if before is None or (after := self._accuracy(network, samples)) is None:
            return figures
        log.info("accuracy %.2f %% before, %.2f %% after matching (weight_match %g)", before, after, self.weight_match)
        return figures | {"match/accuracy_before": before, "match/accuracy": after}

    @staticmethod
    def _weight(network: nn.Module, link: tuple[str, ...]) -> Tensor | None:
        """The product of the weights of a link; None if the link has no layers."""
        factors = [dense_weight(network.get_submodule(name)) for name in reversed(link)]
        return torch.linalg.multi_dot(factors) if len(factors) > 1 else factors[0].clone() if factors else None

    def _solve(self, weights: matching.Weights) -> list[Tensor]:
        drawn = [matrix.flatten(1).t().double() for matrix in self.links.values()]
        if self.solver == "random":
            return drawn
        solvers: dict[str, Callable[[], list[Tensor]]] = {
            "seq_ls": lambda: matching.seq_ls(weights, drawn),
            "als": lambda: matching.als(weights, drawn, self.sweeps, head_fixed=self.head == "kept"),
            "svd_average": lambda: matching.svd_average(weights, drawn, normalise=self.normalise),
            "bp_product": lambda: matching.bp_product(weights, drawn),
        }
        solution = solvers[self.solver]()
        if zero := [block for block, F in zip(self.taps.names, solution, strict=True) if not F.any()]:
            raise UserError(f"matching sets the feedback of {', '.join(zero)} to zero: probe the head first")
        return solution

    def _match_weights(self, network: nn.Module, matched: list[Tensor]) -> None:
        betas = [self.weight_match] * (len(self.chain) - 1) + [1.0 if self.head == "transposed" else 0.0]
        for link, target, beta in zip(self.chain, matched, betas, strict=True):
            if (weight := self._weight(network, link)) is not None and beta:
                product = matching.blend(weight, target, beta, keep_norm=self.keep_norm)
                set_dense_weight(network.get_submodule(link[0]), self._lowest(network, link, product))

    def _lowest(self, network: nn.Module, link: tuple[str, ...], product: Tensor) -> Tensor:
        """The weight of the first layer of a link with which the weights of the link have this product."""
        lower, above = (self._weight(network, part) for part in (link[:1], link[1:]))
        if lower is None or above is None:  # a link of one layer
            return product
        weight = matching.factor_below(lower, above, product)
        if weight is None:
            rank = f"the rank of {' and '.join(link[1:])} is less than the number of classes"
            raise UserError(f"{rank}: probe the head first, or set head: kept")
        return weight

    def _rescaled(self, network: nn.Module, feedback: list[Tensor], batch: Batch, criterion: Criterion) -> list[Tensor]:
        error, deltas = _true_deltas(network, self.taps.names, batch, criterion)
        if isinstance(self.feedback_scale, str):
            mask = token_mask(network, batch[0])
            return [
                matching.rescaled(F, error, self._rms(d.double(), mask)) for F, d in zip(feedback, deltas, strict=True)
            ]
        return [matching.rescaled(F, error, self.feedback_scale / len(error)) for F in feedback]

    def _rms(self, delta: Tensor, mask: Tensor | None) -> Tensor:
        """Root mean square over (n, units) of the error that, divided among the tokens, has the norm of `delta`."""
        if delta.ndim == 2 or self.tokens is None:
            return delta.square().mean().sqrt()
        mask = delta.new_ones(delta.shape[:2]) if mask is None else mask.to(delta.dtype)
        shares = token_shares(mask, self.tokens).square().sum(1).mean()
        return (delta.square().sum(1).mean() / shares).sqrt()

    def _figures(self, weights: matching.Weights, matched: list[Tensor], feedback: list[Tensor]) -> dict[str, float]:
        figures = {"match/residual/overall": matching.relative_residual(weights, matched)}
        eps = max(torch.finfo(W.dtype).eps for W in weights if W is not None)
        above = [*feedback[1:], torch.eye(feedback[-1].shape[1]).to(feedback[-1])]
        names = [" * ".join(reversed(link)) for link in self.chain]
        for name, weight, target, upper, lower in zip(names, weights, matched, above, feedback, strict=True):
            if weight is None:
                continue
            residual, rank = matching.relative_residual([weight], [target]), matching.product_rank(upper, lower, eps)
            figures |= {f"match/residual/{name}": residual, f"match/rank/{name}": float(rank)}
            log.info("%s: residual %.3f of its norm, rank %d of %d", name, residual, rank, min(weight.shape))
        return figures

    @staticmethod
    def _accuracy(network: nn.Module, batches: list[Batch]) -> float | None:
        """Accuracy in percent; None for a regression."""
        if batches[0][1].is_floating_point():
            return None
        with observing(network), torch.no_grad():
            network.eval()
            correct = sum((network(x).argmax(-1) == y).sum().item() for x, y in batches)
        return 100 * correct / sum(len(y) for _, y in batches)

    def _check_classes(self) -> None:
        links = self.links
        classes, widths = len(next(iter(links.values()))), {name: F.shape[-1] for name, F in links.items()}
        narrowest = min(widths, key=widths.__getitem__)
        if self.solver == "svd_average" and classes > widths[narrowest]:
            units = f"{narrowest} has {widths[narrowest]} units"
            raise UserError(f"svd_average needs a singular vector for each of {classes} classes, and {units}: use als")


def _true_deltas(
    network: nn.Module, ends: list[str], batch: Batch, criterion: Criterion
) -> tuple[Tensor, list[Tensor]]:
    """The loss gradient at the logits (n, c), and at every block boundary (n, units); in evaluation mode."""
    inputs, targets = batch
    # with frozen parameters the first outputs would have no graph
    with unfrozen(network), observing(network), torch.enable_grad(), recording(network, ends) as recorded:
        network.eval()
        logits = network(inputs)
        outputs = {call.name: call.tensor for call in recorded}
        error, *deltas = torch.autograd.grad(criterion(logits, targets), [logits, *(outputs[end] for end in ends)])
    return error, deltas


def _first_samples(batches: Iterable[Batch]) -> list[Batch]:
    samples, number = [], 0
    for inputs, targets in batches:
        samples.append((inputs[: SAMPLES - number], targets[: SAMPLES - number]))
        number += len(targets)
        if number >= SAMPLES:
            break
    if not samples:
        raise UserError("feedback matching needs training batches, and there are none")
    return samples


def _check(
    *, solver: str, weight_match: float, feedback_scale: str | float, head: str, sweeps: int, normalise: bool
) -> None:
    if not 0 <= weight_match <= 1:
        raise UserError(f"weight_match is between 0 and 1, not {weight_match}")
    if feedback_scale not in ("none", "bp") and (isinstance(feedback_scale, str) or not feedback_scale > 0):
        raise UserError(f"feedback_scale is none, bp or a positive number, not {feedback_scale!r}")
    if sweeps < 0:
        raise UserError(f"sweeps of als are at least 0, not {sweeps}")
    if solver == "svd_average" and head == "kept":
        raise UserError("svd_average does not use the head: set head: transposed")
    if normalise and solver != "svd_average":
        raise UserError(f"normalise is an option of svd_average, not of {solver}: leave it out")

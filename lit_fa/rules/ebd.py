r"""Error broadcast and decorrelation: "the error of the optimal estimator is orthogonal to any function of the input".

M. Erdogan, Pehlevan & A. Erdogan 2025 (arXiv:2504.11558, algorithm 1; its displayed formulas could not be read and are
rebuilt from the prose). With outputs minus targets $E$ (c, n), the squared error and a fixed function g, every hidden
layer estimates the correlation of its activities $H_k$ with the errors and descends on $\tfrac12 \|R_k\|_F^2$ through
$H_k$ alone:

$R_k \leftarrow \lambda R_k + \frac{1-\lambda}{n}\, g(H_k) E^\top$,
$\quad Q_k = R_k E$,
$\quad G_k = \frac1n (Q_k \odot g'(H_k) \odot f'(U_k))\, H_{k-1}^\top$.

The output layer has the exact gradient. This is direct feedback alignment with $F_k = R_k^\top$, to the last bit if
$\lambda = 1$, where $R_k$ stays as it was drawn. The paper's factor $1 - \lambda$ of G is a part of the rate. Score
broadcast and decorrelation (SBD, Uzun et al. 2026, arXiv:2605.30638, abstract) has the gradient of the loss at the
outputs, the score, in the place of E.

Sign [derived]: the part of $R_{L-1}$ that is learned is minus the Kolen-Pollack mirror of a linear output layer, so
`sign: minus` may point where backprop does and the paper's plus away from it.

The scalar is the loss of the output layer, and for every block $\langle \mathrm{stop}(R_k E)/n, g(H_k)\rangle$. R is
measured: it is a parameter of the rule whose gradient is its next value, averaged over ranks and accumulated batches,
and that no optimiser sees.

Departures: the errors inside a block of several layers are the block's own. The further terms of the paper's tables
(power normalisation, layer entropy, L1, sparse weights, forward broadcast, a lambda that rises) are not here.
"""

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from lit_fa.errors import UserError, check_literals
from lit_fa.functional.credit import cut, gradient_only
from lit_fa.functional.criteria import bce, cross_entropy, error_of, mse
from lit_fa.functional.feedback import Init
from lit_fa.layers.coverage import Coverage
from lit_fa.layers.feedback import weight_of
from lit_fa.layers.observing import observing
from lit_fa.layers.taps import Blocks, Taps, block_key, block_name
from lit_fa.rules.base import Backward, Batch, Criterion, LearningRule, Surrogate, Tensors, Uncovered
from lit_fa.rules.direct_feedback_alignment import DirectFeedbackAlignment

# criterion to the factor, for c outputs, that makes its derivative output minus target
FACTORS: dict[Criterion, Callable[[int], float]] = {mse: lambda c: c / 2, cross_entropy: lambda c: 1.0, bce: float}


class EBD(LearningRule):
    """Direct feedback by an estimate of the correlation between activities and errors.

    Args:
        lam: lambda, the share of the estimate that a step keeps, 0 to 1.
        broadcast: `error`: output minus target (EBD), where the output is the logits, softmax or sigmoid of criterion
            mse, cross_entropy or bce; `score`: the gradient of any criterion at the logits (SBD).
        sign: of the update of hidden layers: `plus`, the paper's, or `minus`, see above.
        order: `estimate_first`: the estimate is renewed with this batch before it is used, as in algorithm 1;
            `broadcast_first`: afterwards. The first compares the samples of a batch, so accumulated batches and ranks
            each use the estimate of their own samples; the renewed estimate is that of all.
        g: function of the activities, `identity` or `square`.
        blocks: the block boundaries, see `DirectFeedbackAlignment`.
        init: of R, see `functional.feedback.draw`.
        scale: factor on the initial R.
        seed: of R; the matrix of a block depends only on the seed and the block's name.
        uncovered: what to do about tensors without gradient: `raise`, `warn` or `allow`.

    Raises:
        UserError: an invalid option; at `install`, a network without a hidden block, with a shortcut across a block
            boundary, or a criterion whose error is not known.
    """

    taps: Taps  # after `install`
    paper: ClassVar[str] = "Erdogan et al. 2025, arXiv:2504.11558; SBD: Uzun et al. 2026, arXiv:2605.30638"

    def __init__(
        self,
        lam: float = 0.99999,
        broadcast: Literal["error", "score"] = "error",
        sign: Literal["plus", "minus"] = "plus",
        order: Literal["estimate_first", "broadcast_first"] = "estimate_first",
        g: Literal["identity", "square"] = "identity",
        blocks: Blocks = "block",
        init: Init = "xavier_uniform",
        scale: float = 0.01,
        seed: int = 0,
        uncovered: Uncovered = "raise",
    ):
        """See the class."""
        super().__init__()
        check_literals(EBD, locals())
        if not 0 <= lam <= 1:
            raise UserError(f"lam is a number from 0 to 1, not {lam}")
        self.lam, self.broadcast, self.order, self.g = lam, broadcast, order, g
        self.sign = {"plus": 1.0, "minus": -1.0}[sign]
        self.direct = DirectFeedbackAlignment(blocks=blocks, init=init, scale=scale, seed=seed, uncovered=uncovered)
        self.estimates = nn.ParameterDict()

    def install(self, network: nn.Module, example: Tensor, criterion: Criterion) -> Coverage:
        """Add stop-gradients after the blocks, and draw R."""
        if self.broadcast == "error" and criterion not in FACTORS:
            raise UserError("broadcast: error is for criterion mse, cross_entropy or bce: set broadcast: score")
        untreated = self.direct.install(network, example, criterion)
        dtype = next(p.dtype for p in network.parameters() if p.is_floating_point())
        for key, link in self.direct.feedback.items():
            self.estimates[key] = nn.Parameter(weight_of(link).to(dtype), requires_grad=self.lam < 1)
        self.direct.feedback.clear()  # R is where a parameter of the rule is
        self.taps = self.direct.taps
        return untreated

    @property
    def measured(self) -> list[str]:
        """The estimates."""
        return [f"estimates.{key}" for key in self.estimates] if self.lam < 1 else []

    @property
    def compares_samples(self) -> list[str]:
        """An estimate that is renewed before it is used."""
        return ["order: estimate_first"] if self.order == "estimate_first" and self.lam < 1 else []

    @property
    def links(self) -> Tensors:
        """Block to the transposed estimate, (c, *block)."""
        return {block_name(key): self.sign * estimate.detach() for key, estimate in self.estimates.items()}

    def surrogate(self, network: nn.Module, batch: Batch, criterion: Criterion) -> Surrogate:
        """The loss, and the scalar of every block."""
        inputs, targets = batch
        outputs: dict[str, Tensor] = {}
        with self.taps.visited_by(outputs.__setitem__):
            logits = network(inputs)
        loss = criterion(logits, targets)
        error = self._error(logits, targets, criterion)
        value = loss
        for name, output in outputs.items():
            value = value + self._of_block(name, output, error)
        return Surrogate(value, loss.detach(), logits.detach())

    def stream(self, network: nn.Module, batch: Batch, criterion: Criterion, backward: Backward) -> Surrogate:
        """As `surrogate`, block by block, after a forward pass without a graph for the error."""
        inputs, targets = batch
        with observing(network), torch.no_grad():
            error = self._error(network(inputs), targets, criterion)

        def learn(name: str, output: Tensor) -> None:
            value = self._of_block(name, output, error)
            if value.requires_grad:
                backward(value)

        with self.taps.visited_by(learn):
            logits = network(inputs)
        loss = criterion(logits, targets)
        backward(loss)
        return Surrogate(loss.detach(), loss.detach(), logits.detach())

    def _error(self, logits: Tensor, targets: Tensor, criterion: Criterion) -> Tensor:
        """E^T / n (n, c), or the score's."""
        score = error_of(criterion, logits, targets)
        factor = FACTORS[criterion](logits.shape[-1]) if self.broadcast == "error" else 1.0
        return score if factor == 1.0 else factor * score

    def _of_block(self, name: str, output: Tensor, error: Tensor) -> Tensor:
        """<stop(R E) / n, g(H)>, and <R, stop(next R)> for the measurement. output: (n, *block)."""
        estimate = self.estimates[block_key(name)]
        activity = output if self.g == "identity" else output.square()
        used, measurement = cut(estimate), error.new_zeros(())
        if self.lam < 1:
            product = (error.t() @ cut(activity).flatten(1).to(error.dtype)).view_as(estimate)
            renewed = self.lam * cut(estimate) + (1 - self.lam) * product.to(estimate.dtype)
            used = renewed if self.order == "estimate_first" else used
            measurement = gradient_only((estimate * renewed).sum())
        delta = (error.to(used.dtype) @ used.flatten(1)).view_as(output)
        return (self.sign * delta.to(output.dtype) * activity).sum() + measurement

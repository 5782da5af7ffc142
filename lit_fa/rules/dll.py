r"""Dendritic localized learning: errors pass through dendrites Theta, which are learned and not the transposed weights.

Lv, Xu, Lu et al. 2025 (ICML, arXiv:2501.09976), equations 6 to 9 and algorithm 1. With layers $u_{i+1} = f(W_i u_i)$
and errors $\xi$ in the sense target minus output,

$\xi_i = \Theta_i^\top [\xi_{i+1} \odot f'(W_i u_i)]$,
$\quad \Delta W_i = \eta\, [\xi_{i+1} \odot f'(W_i u_i)]\, u_i^\top$,
$\quad \Delta\Theta_i = -\eta_\Theta\, [\xi_{i+1} \odot f'(W_i u_i)]\, \xi_i^\top$.

With $\delta = -\xi$ the first two are feedback alignment with B = Theta. With $d_i = \xi_{i+1} \odot f'$ the third is
gradient descent on $\tfrac12 |\Theta_i^\top d_i|^2$: it makes Theta smaller along the errors, and refers to neither W
nor u. The released code has a plus there (convolutional networks), or does not train Theta (its MLP).

The scalar is the loss, whose gradient through Theta is the update of W, plus for every layer
$\pm\langle \mathrm{stop}(d_i), \Theta_i\,\mathrm{stop}(\xi_i)\rangle$, averaged over the batch, whose gradient is
$\pm d_i \xi_i^\top$. The errors come from a first backward pass, through activations only.

Departures: the code sums over the batch, doubles and clamps errors and updates to [-50, 50], and lowers the rate of
Theta to a tenth; here both are means over the batch and nothing is clamped (`clip`, and `layer_lr` for the pattern
``*.feedback.weight``). Biases are exact; the paper has none. The input needs no error, so Theta_0 does not exist.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from lit_fa.errors import check_literals
from lit_fa.functional.conservation import Law
from lit_fa.functional.credit import Backend, cut
from lit_fa.functional.feedback import Init
from lit_fa.layers.coverage import Coverage
from lit_fa.layers.feedback import FeedbackLayer
from lit_fa.layers.hooks import after, before
from lit_fa.layers.sources import RandomFeedback
from lit_fa.rules.base import Batch, Criterion, Surrogate, Uncovered
from lit_fa.rules.feedback_alignment import FeedbackAlignment


class DLL(FeedbackAlignment):
    """Feedback alignment with a trained feedback matrix Theta.

    Args:
        theta: the update of Theta: `descent`, the paper's sign; `ascent`, the sign of the code; `fixed`: Theta is not
            trained, as in the code's MLP, which is feedback alignment ("DLL-FA").
        init: of Theta, see `functional.feedback.draw`; the code has `standard_normal`.
        scale: factor on the initial Theta.
        seed: of Theta.
        layers: as for `FeedbackAlignment`.
        backend: as for `FeedbackAlignment`.
        uncovered: as for `FeedbackAlignment`.

    Raises:
        UserError: as for `FeedbackAlignment`.
    """

    paper: ClassVar[str] = "Lv et al. 2025 (ICML), arXiv:2501.09976"

    def __init__(
        self,
        theta: Literal["descent", "ascent", "fixed"] = "descent",
        init: Init = "standard_normal",
        scale: float = 1.0,
        seed: int = 0,
        layers: list[str] | None = None,
        backend: Backend = "fused",
        uncovered: Uncovered = "raise",
    ):
        """See the class."""
        check_literals(DLL, locals())
        source = RandomFeedback if theta == "fixed" else LearnedFeedback
        super().__init__(source(init, scale, seed), layers, backend, uncovered)
        self.theta, self.sign = theta, {"descent": 1.0, "ascent": -1.0, "fixed": 0.0}[theta]
        self.errors = Errors()
        self.reads_all = theta != "fixed"  # a first backward pass, and then Theta of every layer

    def install(self, network: nn.Module, example: Tensor, criterion: Criterion) -> Coverage:
        """As `FeedbackAlignment.install`; then the errors at the extended layers can be read."""
        from torch._dynamo import config

        untreated = super().install(network, example, criterion)
        if self.sign:
            self.errors.hook(self.extended)
            config.trace_autograd_ops = True  # the first backward pass is a part of what is compiled
        return untreated

    def surrogate(self, network: nn.Module, batch: Batch, criterion: Criterion) -> Surrogate:
        """The loss, and for every layer the scalar of its Theta."""
        with self.errors.read() as calls:
            plain = super().surrogate(network, batch, criterion)
        trained = [call for call in calls if _theta(call[0]).requires_grad]
        if not trained:
            return plain
        ends = [tensor for _, u, z in trained for tensor in (u, z)]
        errors = iter(torch.autograd.grad(plain.value, ends, retain_graph=True, materialize_grads=True))
        value = torch.zeros_like(plain.value)
        for layer, *_ in trained:
            xi, d = cut(next(errors)), cut(next(errors))  # (n, *i), (n, *o): divided by n, as the loss is
            value = value + (d * layer.detour(xi, _theta(layer))).sum()
        return plain._replace(value=plain.value + self.sign * len(batch[1]) * value)


def _theta(layer: FeedbackLayer) -> Tensor:
    theta = layer.feedback.weight
    assert theta is not None
    return theta


@dataclass(frozen=True)
class LearnedFeedback(RandomFeedback):
    """Random feedback that the scalar of the rule trains."""

    @property
    def trained(self) -> bool:  # noqa: D102
        return True

    @property
    def follows(self) -> bool:  # noqa: D102
        return False

    @property
    def law(self) -> Law:  # noqa: D102
        return "path"


class Errors:
    """Records, within `read`, each call of the hooked layers: the layer, its input and its output."""

    def __init__(self) -> None:
        self.calls: list[tuple[FeedbackLayer, Tensor, Tensor]] | None = None

    def hook(self, layers: dict[str, FeedbackLayer]) -> None:
        """Hook the layers, once."""
        for layer in layers.values():
            before(layer, self._before)
            after(layer, self._after)

    @contextmanager
    def read(self) -> Iterator[list[tuple[FeedbackLayer, Tensor, Tensor]]]:
        """Within, the calls through which error passes are recorded."""
        calls: list[tuple[FeedbackLayer, Tensor, Tensor]] = []
        self.calls = calls
        try:
            yield calls
        finally:
            self.calls = None

    def _before(self, _layer: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        # an input of this layer alone, because others may read the tensor too
        return None if self.calls is None else (args[0].view_as(args[0]), *args[1:])

    def _after(self, layer: FeedbackLayer, args: tuple[Any, ...], output: Tensor) -> None:
        if self.calls is not None and args[0].requires_grad:
            self.calls.append((layer, args[0], output))

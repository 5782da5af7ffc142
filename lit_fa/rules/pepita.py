r"""PEPITA: a second forward pass, on an input that is changed by the error of the first, replaces the backward pass.

Dellaferrera & Kreiman 2022, arXiv:2201.11665 (*Present the Error to Perturb the Input To modulate Activity*). F is a
fixed random matrix (d, c). The passes are $h_l = \phi(W_l h_{l-1})$ on the input x and $\tilde h_l$ on
$\tilde x = x + F e$, where $e = \mathrm{softmax}(W_L h_{L-1}) - y$. The updates of the hidden layers and of the output
layer are

$\Delta W_l = -\eta\,(h_l - \tilde h_l)\,\tilde h_{l-1}^\top$, $\quad \tilde h_0 = \tilde x$, $\qquad
\Delta W_L = -\eta\, e^*\, \tilde h_{L-1}^\top$,

averaged over the batch, without the derivative of $\phi$. Formulas and constants are those of the authors' code. The
error $e^*$ of the output layer is that of the second pass in their code for fully connected networks, and that of the
first in their code for one layer after convolutions (`output_error`). With all factors except the last weight
constant, the scalar is

$S = \frac1n \sum_n \big[ \sum_{l<L} \langle h_l - \tilde h_l, W_l \tilde h_{l-1} \rangle
+ \langle e^*, W_L \tilde h_{L-1} \rangle \big]$.

The update of a convolution is averaged over the positions of its output; that of a linear layer on tokens over the
tokens. Activations are compared after nonlinearity and dropout and before a pool. Both passes have the same dropout
masks.

Departures: e is the batch size times the gradient of the criterion at the logits, which is softmax - y for
cross-entropy. A bias, which the paper does not have, receives $h_l - \tilde h_l$ and $e^*$. Under mixed precision both
passes run in the precision of the weights, because the difference of two activations has few digits in bfloat16. The
authors' code for convolutions adds their update with the opposite sign and divides it by the batch size twice; here it
is that of the formula. Batch normalisation without weights receives two batches per step.
"""

import logging
import math
from functools import reduce
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from lit_fa.errors import UserError, check_literals
from lit_fa.functional.criteria import error_of
from lit_fa.functional.feedback import Init, draw, named_generator
from lit_fa.layers.chain import Link, TwoPasses, chain_of_layers
from lit_fa.layers.coverage import Coverage
from lit_fa.layers.observing import observing
from lit_fa.rules.base import Batch, Criterion, LearningRule, Surrogate, Uncovered, refuse

log = logging.getLogger(__name__)


class PEPITA(LearningRule):
    """Every layer learns from the difference of its activations in two forward passes.

    The network is a chain of linear and conv layers; the input has floating-point numbers.

    Args:
        output_error: the error e* that trains the output layer: of the `second` pass or of the `first`.
        scale: factor on F.
        init: how F is drawn, as the weight (c, d) of a layer from the input to the classes; see
            `functional.feedback.draw`. The authors draw from ±sqrt(6/d), `kaiming_uniform`, and set the scale to 0.05.
        seed: of F.
        uncovered: what to do about tensors without update (normalisations with weights): `raise`, `warn` or `allow`.

    The loss of the surrogate is the criterion on the logits of the first pass.

    Raises:
        UserError: an invalid option; at `install`, a network that is not a chain, or an input of whole numbers.

    >>> network, x = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), torch.zeros(2, 4)
    >>> rule = PEPITA()
    >>> _ = rule.install(network, x, torch.nn.functional.cross_entropy)
    >>> [link.layer for link in rule.layers], rule.feedback.shape
    (['0', '2'], torch.Size([2, 4]))
    """

    feedback: Tensor  # F^T, (c, *input), after `install`
    layers: list[Link]
    passes: TwoPasses
    paper: ClassVar[str] = "Dellaferrera & Kreiman 2022, arXiv:2201.11665"

    def __init__(
        self,
        output_error: Literal["second", "first"] = "second",
        scale: float = 0.05,
        init: Init = "kaiming_uniform",
        seed: int = 0,
        uncovered: Uncovered = "raise",
    ):
        """See the class."""
        super().__init__()
        check_literals(PEPITA, locals())
        if not 0 <= scale < math.inf:
            raise UserError(f"the scale of F is a number of at least 0, not {scale}")
        self.output_error, self.scale, self.init = output_error, scale, init
        self.seed, self.uncovered = seed, uncovered

    def install(self, network: nn.Module, example: Tensor, criterion: Criterion) -> Coverage:
        """Draw F, and record the activations of the network's layers."""
        if not example.is_floating_point():
            raise UserError("PEPITA adds an error to the input, which must not be token ids: use images or vectors")
        self.layers = chain_of_layers(network, example)
        with observing(network), torch.no_grad():
            classes = network(example).shape[-1]
        shape, generator = example.shape[1:], named_generator(self.seed, "input")
        matrix = draw((classes, math.prod(shape)), self.init, generator, gain=self.scale)
        self.register_buffer("feedback", matrix.view(classes, *shape).to(example.device, example.dtype))
        self.passes = TwoPasses(network, self.layers)
        untreated = self.inspect(network, example, criterion)
        remedy = "PEPITA has no update for them: remove normalisations, or set affine: false"
        refuse("no update reaches", untreated.unreached, remedy + ".", uncovered=self.uncovered)
        log.info("PEPITA (%s error, seed %d) on %d layers", self.output_error, self.seed, len(self.layers))
        return untreated

    def surrogate(self, network: nn.Module, batch: Batch, criterion: Criterion) -> Surrogate:
        """S of the formula above, from two forward passes."""
        inputs, targets = batch
        with torch.autocast(inputs.device.type, enabled=False):
            with torch.no_grad(), self.passes.first() as first:
                logits = network(inputs)
            error = _error(logits, targets, criterion)
            with self.passes.second(first) as second:
                other = network(inputs + self._projected(error, inputs))
            if self.output_error == "second":
                error = _error(other, targets, criterion)
            terms = []
            for link in self.layers:
                is_head, product = link is self.layers[-1], second.products[link.layer]
                signal = error if is_head else first.outputs[link.layer] - second.outputs[link.layer]
                # the mean over samples and positions, the sum over units
                terms.append((signal.detach() * product).sum() * (link.units / product.numel()))
            loss = criterion(logits, targets).detach()
        return Surrogate(reduce(torch.add, terms), loss, logits.detach())

    def _projected(self, error: Tensor, like: Tensor) -> Tensor:
        """F e, of the shape of the input, for errors (n, c)."""
        return (error.to(self.feedback.dtype) @ self.feedback.flatten(1)).view_as(like).to(like.dtype)


def _error(logits: Tensor, targets: Tensor, criterion: Criterion) -> Tensor:
    """(n, c): n times the gradient of the criterion at the logits, detached."""
    return len(logits) * error_of(criterion, logits, targets)

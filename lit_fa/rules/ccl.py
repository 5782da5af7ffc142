r"""Counter-current learning: a second network runs on the label in the opposite direction, and the two learn to agree.

Kao & Hariharan 2024, arXiv:2409.19841. The forward network has $a_l = \phi(U_l\,\mathrm{stop}(a_{l-1}))$ with
$a_0 = x$, the feedback network $b_{l-1} = \phi(V_l\,\mathrm{stop}(b_l))$ with $b_L = \mathrm{onehot}(y)$. The logits
$a_L$ and $b_0$ have no nonlinearity. No pass uses values of the other. With $A_l$ (n, d) the activations of a batch,
$B_l$ (c, d) those of the feedback network for each of the c classes and Y (n, c) the one-hot labels, the scalar of the
authors' code for fully connected networks is (`loss: product`)

$S = \sum_{l=0}^{L-1} \frac{256\,\gamma}{d_l}\, \mathrm{mean}\,(A_l B_l^\top - Y)^2 + \mathrm{CE}(a_L, y)$,
$\qquad \gamma = \tfrac12$,

where the mean is over the n c entries. The gradient flows into both $A_l$ and $B_l$: $U_l$ and $V_{l+1}$ learn from the
term l, and $U_L$ from the cross-entropy alone. With $\hat A$ for rows of length one, the code for convolutional
networks has (`loss: normalised`)

$\gamma\,\mathrm{mean}\,(\hat A_l \hat B_l^\top - Y)^2 + \tfrac12\,\mathrm{mean}\,(\hat A_l \hat A_l^\top - I)^2
+ \tfrac12\,\mathrm{mean}\,(\hat B_l \hat B_l^\top - I)^2$,

and the paper $\|\hat A_l \hat B_l^\top - I\|_F$ with one row of B for each label of the batch, and the same two further
terms (`loss: paper`).

The feedback network has one layer without bias for each layer of the forward network: a linear layer, or upsampling
(nearest neighbour) to the size of the layer's input and a convolution with its kernel size. It has the nonlinearity of
the forward activation that it is compared with. $A_l$ is the input of layer l+1, after pool and flatten.

Departures: the cosine schedule, gradient centralisation and flooding of the code for convolutional networks are not
part of the rule. The weights of the two further terms are one half under `paper` too, which the paper does not state.
"""

import copy
import logging
import math
from collections.abc import Callable
from functools import reduce
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from lit_fa.errors import UserError, check_literals
from lit_fa.functional.criteria import one_hot
from lit_fa.functional.feedback import named_generator
from lit_fa.layers.auxiliary import drawn
from lit_fa.layers.chain import Link, chain_of_layers
from lit_fa.layers.coverage import Coverage
from lit_fa.layers.taps import Taps, block_key
from lit_fa.rules.base import UNUSED, Backward, Batch, Criterion, Halves, LearningRule, Surrogate, Uncovered, refuse

log = logging.getLogger(__name__)
SCALE = 256.0  # of the authors' code
LAYERS = (nn.Linear, nn.Conv2d)


class CCL(LearningRule):
    """Every layer of the forward and of the feedback network learns from the agreement of their activations.

    The network is a chain of linear layers on vectors and two-dimensional convolutions.

    Args:
        loss: `product` or `normalised` of the authors' code, or `paper`, see above.
        weight: gamma, the factor on the agreement of `product` and `normalised`.
        seed: of the feedback network; the weights of a layer depend only on the seed and the layer's name. They are
            initialised like torch's default.
        uncovered: what to do about tensors without gradient: `raise`, `warn` or `allow`.

    The loss of the surrogate is the criterion. `layer_lr` sets the rate of the feedback network by the name
    `rule.reverse.*`; `clip` bounds the norms of the two networks separately, as the authors' code.

    Raises:
        UserError: an invalid option; at `install`, a network that is not such a chain, or that has one output.
    """

    taps: Taps  # after `install`
    layers: list[Link]
    paper: ClassVar[str] = "Kao & Hariharan 2024, arXiv:2409.19841"

    def __init__(
        self,
        loss: Literal["product", "normalised", "paper"] = "product",
        weight: float = 0.5,
        seed: int = 0,
        uncovered: Uncovered = "raise",
    ):
        """See the class."""
        super().__init__()
        check_literals(CCL, locals())
        if not 0 < weight < math.inf:
            raise UserError(f"weight is a positive number, not {weight}")
        self.loss, self.weight, self.seed, self.uncovered = loss, weight, seed, uncovered
        self.reverse = nn.ModuleDict()
        self.classes = 0

    def install(self, network: nn.Module, example: Tensor, criterion: Criterion) -> Coverage:
        """Create the feedback network, and add stop-gradients before every layer but the first."""
        self.layers = chain_of_layers(network, example)
        self.classes = self.layers[-1].units
        if self.classes < 2:
            raise UserError("CCL runs a network on class labels, and the network has one output: set num_classes")
        like = next(p for p in network.parameters() if p.is_floating_point())
        below = [None, *self.layers]
        for link, lower in zip(self.layers, below, strict=False):
            stage = self._stage(network, link, lower)
            self.reverse[block_key(link.layer)] = stage.to(like.device, like.dtype)
        self.taps = Taps(network, [link.last for link in self.layers[:-1]])
        untreated = self.inspect(network, example, criterion)
        refuse("no gradient reaches", untreated.unreached, UNUSED, uncovered=self.uncovered)
        size = sum(p.numel() for p in self.reverse.parameters())
        log.info("CCL (%s, seed %d) on %d layers, %d feedback weights", self.loss, self.seed, len(self.layers), size)
        return untreated

    @property
    def compares_samples(self) -> list[str]:
        """The products of the activations of two samples."""
        return [] if self.loss == "product" else [f"loss: {self.loss}"]

    def parts(self, network: nn.Module, example: Tensor) -> Halves[int]:
        """The forward network is one part and the feedback network the other."""
        return Halves(
            dict.fromkeys((name for name, _ in network.named_parameters()), 0),
            dict.fromkeys((name for name, _ in self.named_parameters()), 1),
        )

    def surrogate(self, network: nn.Module, batch: Batch, criterion: Criterion) -> Surrogate:
        """The sum of the layers' losses and the criterion; no backward path leads from one layer to another."""
        losses: list[Tensor] = []
        surrogate = self._learn(network, batch, criterion, losses.append)
        return surrogate._replace(value=reduce(torch.add, losses))

    def stream(self, network: nn.Module, batch: Batch, criterion: Criterion, backward: Backward) -> Surrogate:
        """As `surrogate`, layer by layer; the feedback network's c activations of each layer exist from the start."""
        return self._learn(network, batch, criterion, backward)

    def signals(self, like: Tensor) -> list[Tensor]:
        """b_0 ... b_(L-1) for the c class labels, each (c, ...) and with the backward path of one layer."""
        signal = torch.eye(self.classes, dtype=like.dtype, device=like.device)
        signals = []
        for link in reversed(self.layers):
            signal = self.reverse[block_key(link.layer)](signal.detach())
            signals.append(signal)
        return signals[::-1]

    def _learn(self, network: nn.Module, batch: Batch, criterion: Criterion, learn: Backward) -> Surrogate:
        """Call `learn` with the loss of each pair of activations, from below, and last with the criterion."""
        inputs, targets = batch
        match = one_hot(targets, inputs.new_zeros(self.classes))
        signals = iter(self.signals(match))

        def visit(_name: str, output: Tensor) -> None:
            learn(self._agreement(output.flatten(1), next(signals).flatten(1), match))

        visit("", inputs)
        with self.taps.visited_by(visit):
            logits = network(inputs)
        loss = criterion(logits, targets)
        learn(loss)
        return Surrogate(loss.detach(), loss.detach(), logits.detach())

    def _agreement(self, a: Tensor, b: Tensor, match: Tensor) -> Tensor:
        """The loss of activations a (n, d) and signals b (c, d), with labels (n, c)."""
        if self.loss == "product":
            return SCALE * self.weight / a.shape[1] * (a @ b.t() - match).square().mean()
        a, b = _rows(a), _rows(b)
        if self.loss == "normalised":
            agreement = self.weight * (a @ b.t() - match).square().mean()
        else:
            agreement = torch.linalg.matrix_norm(_less_identity(a @ (match @ b).t()))
        return agreement + 0.5 * sum(_less_identity(x @ x.t()).square().mean() for x in (a, b))

    def _stage(self, network: nn.Module, link: Link, lower: Link | None) -> nn.Sequential:
        """The feedback layer from the activations of `link` to those of `lower`; None: to the input."""
        layer = network.get_submodule(link.layer)
        if type(layer) not in LAYERS or len(link.reads) != (1 if isinstance(layer, nn.Linear) else 3):
            kind, shape = type(layer).__name__, (*link.reads,)
            raise UserError(
                f"CCL has feedback layers for nn.Linear on vectors and nn.Conv2d on maps, and {link.layer} is a {kind} "
                f"on {shape}: use other layers, or nn.Flatten before it"
            )
        stage = nn.Sequential()
        if isinstance(layer, nn.Conv2d):
            if len(link.gives) != 3:
                raise UserError(
                    f"CCL cannot reverse what follows {link.layer}: only pools and nn.Flatten may follow it"
                )
            stage.add_module("unflatten", nn.Unflatten(1, link.gives) if link.flattened else nn.Identity())
            stage.add_module("upsample", nn.Upsample(size=tuple(link.reads[1:]), mode="nearest"))
        make = _reversed_conv(layer) if isinstance(layer, nn.Conv2d) else _reversed_linear(layer)
        stage.add_module("layer", drawn(make, named_generator(self.seed, link.layer)))
        if lower is not None and lower.activation:
            stage.add_module("activation", copy.deepcopy(network.get_submodule(lower.activation)))
        return stage


def _reversed_linear(layer: nn.Module) -> Callable[[], nn.Module]:
    assert isinstance(layer, nn.Linear)
    return lambda: nn.Linear(layer.out_features, layer.in_features, bias=False)


def _reversed_conv(layer: nn.Conv2d) -> Callable[[], nn.Module]:
    kernel, dilation = (layer.kernel_size[0], layer.kernel_size[1]), (layer.dilation[0], layer.dilation[1])
    return lambda: nn.Conv2d(
        layer.out_channels,
        layer.in_channels,
        kernel,
        padding="same",
        dilation=dilation,
        groups=layer.groups,
        bias=False,
    )


def _rows(x: Tensor) -> Tensor:
    """Rows of length one, as in the authors' code."""
    return x / (x.norm(dim=1, keepdim=True) + 1e-8)


def _less_identity(x: Tensor) -> Tensor:
    return x - torch.eye(len(x), dtype=x.dtype, device=x.device)

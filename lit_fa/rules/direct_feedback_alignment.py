r"""Direct feedback alignment: "the error is propagated through fixed random connections directly to each hidden layer".

Nøkland 2016: with the loss gradient e at the logits, and F_l fixed,

$\delta a_l = (e F_l) \odot \phi'(a_l)$, $\quad G_l = \delta a_l^\top h_{l-1}$ for hidden layers; exact at the output.

DRTP (Frenkel, Lefebvre & Bol 2021) puts the one-hot target in the place of e, so a layer can learn before the output
is known. The network is cut behind every block. The unit is the block: inside a residual or attention block the
derivative is the block's own (with ``blocks: layer`` a unit is one layer). Cuts make the saving: no input gradient is
ever computed across one.

Shapes of F_l for a block output (d) or (h, s, s), and c classes: `dense` (c, h, s, s); `per_channel` (c, h), the same
at every position; `shared`, one matrix (c, d_max) of uniform numbers in [-1, 1) whose first d columns, divided by
sqrt(d), serve a block of d units (Launay et al. 2020); `transposed_conv`, BioTorch's form: the error spread over the
map and passed through a transposed convolution of the next layer's kernel, hence constant in the interior. It is not
Nøkland's, and is here for BioTorch's tables.

In a Transformer a block's output is (n, T, d). With `tokens`, F is (c, 1, d) there and `functional.tokens` says which
share of the projected error each token gets; `blocks: macro` and `micro` are the cuts of Launay et al. Embeddings,
layer norms and the projections to queries, keys and values learn inside their segment, from the cut behind it.
"""

import logging
import math
from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from lit_fa.errors import UserError, check_literals
from lit_fa.functional.credit import Backend, error_link
from lit_fa.functional.criteria import outputs_wanted
from lit_fa.functional.feedback import INITS, Init, draw, named_generator, shared_slices
from lit_fa.functional.tokens import Share, gathered
from lit_fa.layers.coverage import Coverage
from lit_fa.layers.observing import observing
from lit_fa.layers.sequences import shared_by_tokens, token_mask
from lit_fa.layers.taps import Block, Blocks, Taps, block_key, block_name, find_blocks, leaks
from lit_fa.rules.base import Batch, Criterion, LearningRule, Surrogate, Tensors, Uncovered, refuse

log = logging.getLogger(__name__)
Shape = Literal["dense", "per_channel", "shared", "transposed_conv"]


class DirectFeedbackAlignment(LearningRule):
    """Tie every block to the logits, or to the target, by its own fixed matrix.

    Args:
        teacher: `error`: the loss gradient at the logits (DFA); `target`: the one-hot target (DRTP).
        shape: `dense`, `per_channel`, `shared` or `transposed_conv`, see above.
        blocks: where to cut: `block`, `layer`, `macro`, `micro`, or a list of module names or patterns; see
            `layers.taps.find_blocks`.
        tokens: what a token of a block (n, T, d) gets: `all` 1/sqrt(T) of the projected error, `mean` 1/T of it,
            `first` all of it for the class token alone; padding gets nothing. None: F as `shape` says, T never changes.
        init: how F is drawn, as the transposed weight (d, c) of a layer from classes to units; see
            `functional.feedback.draw`. None: Launay's draw for `shared`, and `xavier_uniform` for the other shapes.
            With another init the one matrix of `shared` is drawn by it, and a block's columns are scaled to the spread
            that the init has for its d (`orthogonal` columns are so for the widest block alone).
        scale: factor on F.
        seed: of F; every block's matrix depends on the seed and the block's name alone.
        channels: which dimension of a map holds the channels: `first`, `last`, or `auto` (first for 4-D and 5-D
            outputs, last otherwise).
        target_reduction: `mean` divides the one-hot target by the batch size, as the loss does; `sum` does not, as in
            the DRTP code, where the hidden step is larger than the output's by that factor. `sum` does not accumulate.
        backend: `fused` or `detour`, see `functional.credit.error_link`.
        uncovered: what to do about tensors without gradient: `raise`, `warn` or `allow`.
    """

    paper: ClassVar[str] = "Nøkland 2016, arXiv:1609.01596; DRTP: Frenkel et al. 2021"

    def __init__(
        self,
        teacher: Literal["error", "target"] = "error",
        shape: Shape = "dense",
        blocks: Blocks = "block",
        init: Init | None = None,
        scale: float = 1.0,
        seed: int = 0,
        channels: Literal["auto", "first", "last"] = "auto",
        target_reduction: Literal["mean", "sum"] = "mean",
        backend: Backend = "fused",
        uncovered: Uncovered = "raise",
        tokens: Share | None = None,
    ):
        """See the class."""
        super().__init__()
        check_literals(__class__, locals())
        if not scale > 0:
            raise UserError(f"the scale of feedback is a positive number, not {scale}")
        self.teacher, self.shape, self.blocks, self.scale = teacher, shape, blocks, scale
        self.init = init if init is not None or shape == "shared" else INITS[0]
        self.seed, self.channels, self.target_reduction = seed, channels, target_reduction
        self.backend, self.uncovered, self.tokens = backend, uncovered, tokens
        self.feedback = nn.ModuleDict()
        self.taps: Taps | None = None
        self.sums = teacher == "target" and target_reduction == "sum"

    def install(self, network: nn.Module, example: Tensor, criterion: Criterion) -> Coverage:
        """Cut behind the blocks and draw F; refuse a network that has nothing to cut."""
        try:
            blocks = find_blocks(network, example, self.blocks)
        except ValueError as error:
            raise UserError(f"blocks: {error}") from None
        if not blocks:
            raise UserError("direct feedback needs a hidden block to cut behind: take blocks: macro, or name some")
        blocks = shared_by_tokens(network, example, blocks, self.tokens)
        with observing(network), torch.no_grad():
            classes = network(example).shape[-1]
        for block, feedback in zip(blocks, self._drawn(blocks, classes), strict=True):
            feedback = feedback.to(example.device)
            layout = torch.channels_last if block.channels_last else torch.preserve_format
            self.feedback[block_key(block.name)] = feedback.to(memory_format=layout)
        self.taps = Taps(network, [block.name for block in blocks])
        if spared := leaks(network, self.taps, example):
            shown = ", ".join(spared[:4])
            if shared := [name for name in spared if _owners(network, name) > 1]:
                raise UserError(
                    f"{', '.join(shared[:4])} belongs to several layers, which receive errors from several cuts: give "
                    "each layer a weight of its own, or name blocks that hold all of them"
                )
            remedy = "cut behind whole blocks, with blocks: block"
            raise UserError(f"a shortcut spares a cut: errors from behind several cuts reach {shown}; {remedy}")
        found = self.inspect(network, example, criterion)
        refuse("no gradient reaches", found.unreached, "They lie in no path to the loss.", uncovered=self.uncovered)
        names, inside = ", ".join(block.name for block in blocks), len(found.transported)
        local = f"; inside the blocks {inside} weights carry error to their neighbours" if inside else ""
        log.info("direct feedback (%s, seed %d) behind %s%s", self.shape, self.seed, names, local)
        return found

    def surrogate(self, network: nn.Module, batch: Batch, criterion: Criterion) -> Surrogate:
        """DFA: criterion(logits + sum of links). DRTP: criterion(logits) + sum of <link, target>."""
        inputs, targets = batch
        links: list[Tensor] = []
        mask = token_mask(network, inputs)
        with self.taps.visited_by(lambda name, h: links.append(self._link(name, h, mask))):
            logits = network(inputs)
        tied = torch.stack(links).sum(0).to(logits.dtype)
        if self.teacher == "error":
            value = criterion(logits + tied, targets)
        else:
            value = criterion(logits, targets) + (tied * self._target(targets, logits)).sum()
        return Surrogate(value, value.detach(), logits.detach())

    def stream(self, network: nn.Module, batch: Batch, criterion: Criterion, backward: Callable) -> Surrogate:
        """One block's activations at a time. DFA pays one more forward pass, without a graph, to know the error."""
        inputs, targets = batch
        teacher = None if self.teacher == "target" else self._error(network, batch, criterion)
        mask = token_mask(network, inputs)

        def learn(name: str, output: Tensor) -> None:
            link = self._link(name, output, mask)
            if not link.requires_grad:  # all frozen before this cut
                return
            signal = self._target(targets, link) if teacher is None else teacher
            backward((link * signal.to(link.dtype)).sum())

        with self.taps.visited_by(learn):
            logits = network(inputs)
        loss = criterion(logits, targets)
        backward(loss)
        return Surrogate(loss.detach(), loss.detach(), logits.detach())

    @property
    def links(self) -> Tensors:
        """Block to F, (c, *block), with size 1 where positions share a value."""
        return {block_name(key): link.weight for key, link in self.feedback.items()}

    def _link(self, name: str, output: Tensor, mask: Tensor | None = None) -> Tensor:
        if self.tokens is not None and output.ndim == 3:
            output = gathered(output, mask, self.tokens)
        return error_link(output, self.feedback[block_key(name)].weight, backend=self.backend)

    def _target(self, targets: Tensor, like: Tensor) -> Tensor:
        hot = outputs_wanted(targets, like)
        return hot / len(targets) if self.target_reduction == "mean" else hot

    @staticmethod
    def _error(network: nn.Module, batch: Batch, criterion: Criterion) -> Tensor:
        """(n, c) loss gradient at the logits; leaves random state and BatchNorm for the pass that learns."""
        inputs, targets = batch
        with observing(network):
            with torch.no_grad():
                logits = network(inputs)
            logits.requires_grad_(True)
            return torch.autograd.grad(criterion(logits, targets), logits)[0]

    def _drawn(self, blocks: list[Block], classes: int) -> list[nn.Module]:
        if self.shape != "shared":
            return [self._draw(block, classes) for block in blocks]
        widths = [math.prod(block.shape) for block in blocks]
        slices = shared_slices(widths, classes, self.init, named_generator(self.seed, "shared"))
        return [DirectFeedback(self.scale * F, block.shape) for F, block in zip(slices, blocks, strict=True)]

    def _draw(self, block: Block, classes: int) -> nn.Module:
        generator = named_generator(self.seed, block.name)
        if self.shape == "transposed_conv" and isinstance(block.reader, nn.Conv2d) and len(block.shape) == 3:
            return SpreadFeedback(classes, block, self.init, self.scale, generator)
        shape = block.shape
        if self.shape == "per_channel" and len(shape) > 1:
            shape = _broadcast_shape(shape, self.channels)
        matrix = draw((math.prod(shape), classes), self.init, generator, gain=self.scale)
        return DirectFeedback(matrix.t(), shape)


class DirectFeedback(nn.Module):
    """F_l as a buffer of (c, *shape), where the positions that share a value have size 1."""

    def __init__(self, matrix: Tensor, shape: tuple[int, ...]):
        """matrix: (c, prod(shape))."""
        super().__init__()
        self.register_buffer("weight", matrix.reshape(-1, *shape).contiguous())


class SpreadFeedback(nn.Module):
    """BioTorch's conv feedback: the error on every position of the next conv's output, sent back through a kernel."""

    def __init__(self, classes: int, block: Block, init: str, scale: float, generator: torch.Generator):
        """Draw a kernel (c, h, k, k) and spread it once: (c, h, s, s), since the map it makes is linear in e."""
        super().__init__()
        conv, (channels, *size) = block.reader, block.shape
        kernel = draw((classes, channels, *conv.kernel_size), init, generator, gain=scale)
        padding = conv.padding if not isinstance(conv.padding, str) else [k // 2 for k in conv.kernel_size]
        options = {"stride": conv.stride, "padding": padding, "dilation": conv.dilation}
        reached = nn.functional.conv2d(torch.zeros(1, channels, *size), kernel[:1], **options).shape[2:]
        ones = torch.ones(classes, 1, *reached)
        spread = [torch.autograd.functional.vjp(
            lambda x, k=k: nn.functional.conv2d(x, kernel[k : k + 1], **options),
            torch.zeros(1, channels, *size), ones[k : k + 1])[1] for k in range(classes)]  # fmt: skip
        self.register_buffer("weight", torch.cat(spread))


def _broadcast_shape(shape: tuple[int, ...], channels: str) -> tuple[int, ...]:
    first = channels == "first" or (channels == "auto" and len(shape) >= 3)
    return (shape[0], *[1] * (len(shape) - 1)) if first else (*[1] * (len(shape) - 1), shape[-1])


def _owners(network: nn.Module, name: str) -> int:
    """Layers that hold the parameter of that name."""
    held = network.get_parameter(name)
    return sum(p is held for module in network.modules() for p in module.parameters(recurse=False))

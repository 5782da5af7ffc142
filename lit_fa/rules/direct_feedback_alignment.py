r"""Direct feedback alignment: "the error is propagated through fixed random connections directly to each hidden layer".

Nøkland 2016: with the loss gradient e at the logits, and F_l fixed,

$\delta a_l = (e F_l) \odot \phi'(a_l)$, $\quad G_l = \delta a_l^\top h_{l-1}$ for hidden layers; exact at the output.

DRTP (Frenkel, Lefebvre & Bol 2021) replaces e by the one-hot target, so a layer can be updated before the output is
known. There is a stop-gradient after every block. Inside a residual or attention block the derivative is the block's
own; with ``blocks: layer`` every layer is a block. No input gradient is computed across a block boundary, which reduces
the cost.

Shapes of F_l for a block output (d) or (h, s, s), and c classes: `dense` (c, h, s, s); `per_channel` (c, h), the same
at every position; `shared`, one matrix (c, d_max) of uniform numbers in [-1, 1), of which a block of d units uses the
first d columns, divided by sqrt(d) (Launay et al. 2020); `transposed_conv`, the form of BioTorch: the error at every
position of the next layer's output, sent through the transposed convolution with a kernel of that layer's shape, and
therefore constant in the interior. It is not Nøkland's, and serves to reproduce BioTorch's tables.

In a Transformer the output of a block is (n, T, d). With `tokens`, F is (c, 1, d), and `functional.tokens` defines the
share of the projected error for each token. `blocks: macro` and `micro` are the block boundaries of Launay et al.
Embeddings, layer norms and the projections to queries, keys and values are trained by the next block boundary.

With `storage: redrawn` no F is stored. It is drawn again from its seed in every backward pass, in pieces of some units,
with the same numbers bit for bit. A dense F of large maps then needs time in place of memory.
"""

import logging
import math
from collections.abc import Mapping
from functools import reduce
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from lit_fa.errors import UserError, check_literals
from lit_fa.functional.credit import Backend
from lit_fa.functional.criteria import outputs_wanted
from lit_fa.functional.feedback import INITS, Init, draw, named_generator, shared_slices
from lit_fa.functional.tokens import Share, gathered
from lit_fa.layers.coverage import Coverage
from lit_fa.layers.direct import DirectFeedback, Drawn, RedrawnFeedback, SpreadFeedback, StoredFeedback
from lit_fa.layers.observing import observing
from lit_fa.layers.sequences import shared_by_tokens, token_mask
from lit_fa.layers.taps import Block, Blocks, Taps, block_key, block_name, find_blocks, leaks
from lit_fa.rules.base import UNUSED, Backward, Batch, Criterion, LearningRule, Surrogate, Uncovered, refuse

log = logging.getLogger(__name__)
Shape = Literal["dense", "per_channel", "shared", "transposed_conv"]


class DirectFeedbackAlignment(LearningRule):
    """A fixed direct feedback matrix from the logits, or from the target, to every block.

    Args:
        teacher: `error`: the loss gradient at the logits (DFA); `target`: the one-hot target (DRTP).
        shape: `dense`, `per_channel`, `shared` or `transposed_conv`, see above.
        blocks: the block boundaries: `block`, `layer`, `macro`, `micro`, or a list of module names or patterns; see
            `layers.taps.find_blocks`.
        tokens: the share of the projected error for a token of a block (n, T, d): `all` 1/sqrt(T), `mean` 1/T, `first`
            1 for the class token and 0 for the others; 0 for padding. None: F has the shape `shape`, and T is fixed.
        init: how F is drawn, as the transposed weight (d, c) of a layer from classes to units; see
            `functional.feedback.draw`. None: Launay's draw for `shared`, and `xavier_uniform` for the other shapes.
            With another init the matrix of `shared` is drawn by it, and the columns of a block are scaled to the
            standard deviation of the init for its d (only the columns of the widest block are then `orthogonal`).
        scale: factor on F.
        seed: of F; the matrix of a block depends only on the seed and the block's name.
        channels: the position of the channels in a map: `first`, `last`, or `auto` (first for 4-D and 5-D outputs, last
            otherwise).
        target_reduction: `mean` divides the one-hot target by the batch size, as the loss does; `sum` does not, as in
            the DRTP code, so the update of a hidden layer is larger by that factor. `sum` cannot be accumulated.
        backend: `fused` or `detour`, see `functional.credit.error_link`.
        uncovered: what to do about tensors without gradient: `raise`, `warn` or `allow`.
        storage: `kept`: F is a buffer; `redrawn`: see above, for the shapes `dense` and `per_channel`, and for every
            init but `orthogonal`.

    Raises:
        UserError: an invalid option; at `install`, a network without a hidden block, or with a shortcut across a block
            boundary.

    >>> network, x = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), torch.zeros(2, 4)
    >>> rule = DirectFeedbackAlignment()
    >>> _ = rule.install(network, x, nn.functional.cross_entropy)
    >>> {block: matrix.shape for block, matrix in rule.links.items()}
    {'1': torch.Size([2, 3])}
    """

    taps: Taps  # after `install`
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
        storage: Literal["kept", "redrawn"] = "kept",
    ):
        """See the class."""
        super().__init__()
        check_literals(DirectFeedbackAlignment, locals())
        if storage == "redrawn":
            _check_redrawn(shape, init, backend)
        if not scale > 0:
            raise UserError(f"the scale of feedback is a positive number, not {scale}")
        self.teacher, self.shape, self.blocks, self.scale = teacher, shape, blocks, scale
        self.init = init if init is not None or shape == "shared" else INITS[0]
        self.seed, self.channels, self.target_reduction = seed, channels, target_reduction
        self.backend, self.uncovered, self.tokens, self.storage = backend, uncovered, tokens, storage
        self.feedback = nn.ModuleDict()
        self.sums = teacher == "target" and target_reduction == "sum"

    def install(self, network: nn.Module, example: Tensor, criterion: Criterion) -> Coverage:
        """Add stop-gradients after the blocks, and draw F."""
        try:
            blocks = find_blocks(network, example, self.blocks)
        except ValueError as error:
            raise UserError(f"blocks: {error}") from None
        if not blocks:
            raise UserError("direct feedback needs a hidden block: set blocks: macro, or name the ends of blocks")
        blocks = shared_by_tokens(network, example, blocks, self.tokens)
        with observing(network), torch.no_grad():
            classes = network(example).shape[-1]
        for block, feedback in zip(blocks, self._draw_all(blocks, classes), strict=True):
            layout = torch.channels_last if block.channels_last else torch.preserve_format
            self.feedback[block_key(block.name)] = feedback.placed(example.device, layout)
        self.taps = Taps(network, [block.name for block in blocks])
        if spared := leaks(network, self.taps, example):
            shown = ", ".join(spared[:4])
            if shared := [name for name in spared if _owners(network, name) > 1]:
                raise UserError(
                    f"{', '.join(shared[:4])} belongs to several layers, which receive errors from several blocks: "
                    "give each layer its own weight, or name blocks that contain all of these layers"
                )
            raise UserError(
                f"a shortcut bypasses a block boundary, so {shown} would receive errors from several blocks: "
                "use whole blocks, with blocks: block"
            )
        untreated = self.inspect(network, example, criterion)
        refuse("no gradient reaches", untreated.unreached, UNUSED, uncovered=self.uncovered)
        names, inside = ", ".join(block.name for block in blocks), len(untreated.transported)
        local = f"; inside the blocks error passes through {inside} weights" if inside else ""
        log.info("direct feedback (%s, seed %d) to %s%s", self.shape, self.seed, names, local)
        return untreated

    def surrogate(self, network: nn.Module, batch: Batch, criterion: Criterion) -> Surrogate:
        """DFA: criterion(logits + sum of links). DRTP: criterion(logits) + sum of <link, target>."""
        inputs, targets = batch
        links: list[Tensor] = []
        mask = token_mask(network, inputs)
        with self.taps.visited_by(lambda name, h: links.append(self._link(name, h, mask))):
            logits = network(inputs)
        tied = reduce(torch.add, links).to(logits.dtype) if links else torch.zeros_like(logits)
        if self.teacher == "error":
            value = criterion(logits + tied, targets)
        else:
            value = criterion(logits, targets) + (tied * self._target(targets, logits)).sum()
        return Surrogate(value, value.detach(), logits.detach())

    def stream(self, network: nn.Module, batch: Batch, criterion: Criterion, backward: Backward) -> Surrogate:
        """As `surrogate`, block by block. DFA needs one more forward pass, without a graph, for the error."""
        inputs, targets = batch
        teacher = None if self.teacher == "target" else self._error(network, batch, criterion)
        wanted: dict[torch.dtype, Tensor] = {}
        classes = self.shapes[next(iter(self.shapes))][0]
        mask = token_mask(network, inputs)

        def learn(name: str, output: Tensor) -> None:
            seen = self._seen(output, mask)
            if not seen.requires_grad:  # everything before this block boundary is frozen
                return
            if seen.dtype not in wanted:
                like = seen.new_empty(len(seen), classes)
                wanted[seen.dtype] = self._target(targets, like) if teacher is None else teacher.to(seen.dtype)
            backward(self._of(name).pull(seen, wanted[seen.dtype], self.backend))

        with self.taps.visited_by(learn):
            logits = network(inputs)
        loss = criterion(logits, targets)
        backward(loss)
        return Surrogate(loss.detach(), loss.detach(), logits.detach())

    @property
    def links(self) -> Mapping[str, Tensor]:
        """Block to F, (c, *block), with size 1 for dimensions that share a value; `redrawn` is drawn for a reader."""
        return Drawn({block_name(key): link for key, link in self.feedback.items()})

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Block to the shape of its F, without drawing it."""
        return {block_name(key): cast(DirectFeedback, link).shape for key, link in self.feedback.items()}

    def _link(self, name: str, output: Tensor, mask: Tensor | None = None) -> Tensor:
        return self._of(name).link(self._seen(output, mask), self.backend)

    def _of(self, name: str) -> DirectFeedback:
        """The feedback of a block."""
        return cast(DirectFeedback, self.feedback[block_key(name)])

    def _seen(self, output: Tensor, mask: Tensor | None) -> Tensor:
        """The output of a block as its feedback sees it."""
        return gathered(output, mask, self.tokens) if self.tokens is not None and output.ndim == 3 else output

    def _target(self, targets: Tensor, like: Tensor) -> Tensor:
        hot = outputs_wanted(targets, like)
        return hot / len(targets) if self.target_reduction == "mean" else hot

    @staticmethod
    def _error(network: nn.Module, batch: Batch, criterion: Criterion) -> Tensor:
        """(n, c) loss gradient at the logits; random state and BatchNorm statistics stay as they were."""
        inputs, targets = batch
        with observing(network):
            with torch.no_grad():
                logits = network(inputs)
            logits.requires_grad_(True)
            return torch.autograd.grad(criterion(logits, targets), logits)[0]

    def _draw_all(self, blocks: list[Block], classes: int) -> list[DirectFeedback]:
        if self.shape != "shared":
            return [self._draw(block, classes) for block in blocks]
        widths = [math.prod(block.shape) for block in blocks]
        slices = shared_slices(widths, classes, self.init, named_generator(self.seed, "shared"))
        return [StoredFeedback(self.scale * F, block.shape) for F, block in zip(slices, blocks, strict=True)]

    def _draw(self, block: Block, classes: int) -> DirectFeedback:
        generator = named_generator(self.seed, block.name)
        if self.shape == "transposed_conv" and isinstance(block.reader, nn.Conv2d) and len(block.shape) == 3:
            return SpreadFeedback(classes, block, block.reader, self.init or INITS[0], self.scale, generator)
        shape = block.shape
        if self.shape == "per_channel" and len(shape) > 1:
            shape = _broadcast_shape(shape, self.channels)
        if self.storage == "redrawn":
            return RedrawnFeedback((classes, *shape), self.init or INITS[0], self.scale, self.seed, block.name)
        matrix = draw((math.prod(shape), classes), self.init or INITS[0], generator, gain=self.scale)
        return StoredFeedback(matrix.t(), shape)


def _check_redrawn(shape: str, init: str | None, backend: str) -> None:
    """Refuse what cannot be drawn in pieces, or would store F in another way."""
    if shape not in ("dense", "per_channel"):
        raise UserError(f"storage: redrawn is for the shapes dense and per_channel, not {shape}; set storage: kept")
    if init == "orthogonal":
        raise UserError("storage: redrawn: the rows of orthogonal feedback depend on one another; set another init")
    if backend == "detour":
        raise UserError("storage: redrawn has no backend detour, which multiplies by F in the forward pass; set fused")


def _broadcast_shape(shape: tuple[int, ...], channels: str) -> tuple[int, ...]:
    first = channels == "first" or (channels == "auto" and len(shape) >= 3)
    return (shape[0], *[1] * (len(shape) - 1)) if first else (*[1] * (len(shape) - 1), shape[-1])


def _owners(network: nn.Module, name: str) -> int:
    """Number of layers that have the parameter of that name."""
    parameter = network.get_parameter(name)
    return sum(p is parameter for module in network.modules() for p in module.parameters(recurse=False))

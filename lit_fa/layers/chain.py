"""Networks that are a chain of layers, and rules that run such a network twice and compare its activations.

A chain has no shortcut, and everything between its linear and conv layers is a module: activation, pool, flatten,
dropout.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from lit_fa.errors import UserError
from lit_fa.functional.credit import cut
from lit_fa.layers.auxiliary import ACTIVATIONS
from lit_fa.layers.feedback import WEIGHT_LAYERS
from lit_fa.layers.hooks import after, before
from lit_fa.layers.observing import Call, calls

REMEDY = "write the operations between its layers as modules (nn.ReLU, nn.Flatten), without shortcuts"
RANDOM = (nn.AlphaDropout, nn.FeatureAlphaDropout, nn.RReLU)


class Link(NamedTuple):
    """A layer of a chain. Shapes are without the batch.

    Attributes:
        layer: its name.
        end: the module whose output is the layer's activation, of the shape of the layer's output.
        last: the last module before the next layer.
        units: features or channels of the layer's output.
        activation: name of the nonlinearity; empty if there is none.
        reads: shape of the layer's input.
        gives: shape of the input of the next layer, before a flatten.
        flattened: whether a flatten is among the modules after the layer.
    """

    layer: str
    end: str
    last: str
    units: int
    activation: str
    reads: tuple[int, ...]
    gives: tuple[int, ...]
    flattened: bool


def chain_of_layers(network: nn.Module, example: Tensor) -> list[Link]:
    """The layers of a chain in their order, the head last.

    The activation of a layer is the output of the last module after it that keeps the shape of the layer's output: that
    of its nonlinearity, before a pool or flatten.

    Args:
        network: any module.
        example: (n, ...) inputs, whose values have no meaning.

    Raises:
        UserError: the network is not a chain, does not end with a layer, has a module that runs twice, or an activation
            after a pool; by name.
    """
    modules = dict(network.named_modules())
    parts = [name for name, module in modules.items() if isinstance(module, WEIGHT_LAYERS) or not [*module.children()]]
    inside = [
        name for name in parts if any(name.startswith(f"{p}.") and isinstance(modules[p], WEIGHT_LAYERS) for p in parts)
    ]
    *recorded, whole = calls(network, example, [*(name for name in parts if name not in inside), ""])
    names = [call.name for call in recorded]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{twice[0]} runs more than once in a forward pass: give each place a module of its own")
    before: object = whole.inputs[0]
    for call in recorded:
        if not call.inputs or call.inputs[0] is not before:
            raise UserError(
                f"the network is not a chain, because {call.name} does not read the module before: {REMEDY}"
            )
        before = call.output
    if not recorded or before is not whole.output:
        raise UserError(f"the network is not a chain, because its output is not that of its last module: {REMEDY}")
    starts = [i for i, call in enumerate(recorded) if isinstance(modules[call.name], WEIGHT_LAYERS)]
    if not starts or starts[-1] != len(recorded) - 1:
        raise UserError(f"the network does not end with a linear layer but with {names[-1]}: remove what follows it")
    sections = [recorded[start:stop] for start, stop in pairwise([*starts, len(recorded)])]
    return [_link(section, modules) for section in sections]


@dataclass
class Activity:
    """One pass through a chain.

    Attributes:
        outputs: link to the activation, (n, ...).
        products: link to the output of the layer, (n, ...), in a pass with cuts.
        masks: dropout module to the factors of its inputs.
        cuts: whether the layers are cut from each other.
    """

    masks: dict[str, Tensor] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)
    products: dict[str, Tensor] = field(default_factory=dict)
    cuts: bool = False


class TwoPasses:
    """Records the activations of a chain; a second pass has the dropout masks of the first, and cut layers.

    Args:
        network: its modules are hooked.
        links: from `chain_of_layers`.

    Raises:
        UserError: a module whose random numbers cannot be repeated.
    """

    def __init__(self, network: nn.Module, links: Sequence[Link]):
        """See the class."""
        self.now: Activity | None = None
        self.layers, self.ends = {link.layer for link in links}, {link.end: link.layer for link in links}
        for name, module in network.named_modules():
            if name in self.layers:
                before(module, self.read)
            if isinstance(module, RANDOM) or (isinstance(module, _DropoutNd) and module.inplace):
                kind = type(module).__name__
                raise UserError(
                    f"the random numbers of {name} ({kind}) cannot be repeated: use nn.Dropout, not in place"
                )
            if name in self.layers | self.ends.keys() or isinstance(module, _DropoutNd):
                after(module, partial(self.visit, name))

    @contextmanager
    def first(self) -> Iterator[Activity]:
        """Within, one forward pass of the network is recorded."""
        with self._recording(Activity()) as activity:
            yield activity

    @contextmanager
    def second(self, first: Activity) -> Iterator[Activity]:
        """Within, one pass with the masks of `first` and stop-gradients before and after every layer is recorded."""
        with self._recording(Activity(first.masks, cuts=True)) as activity:
            yield activity

    def read(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The hook before a layer: in the second pass its input has no backward path."""
        return args if self.now is None or not self.now.cuts else (cut(args[0]), *args[1:])

    def visit(self, name: str, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        """The hook after a module."""
        if (now := self.now) is None:
            return output
        if isinstance(module, _DropoutNd) and module.training and module.p:
            if not now.cuts:
                now.masks[name] = module.forward(args[0].new_ones(()).expand_as(args[0]))
            output = args[0] * now.masks[name]
        if name in self.layers and now.cuts:
            now.products[name] = output
            output = cut(output)
        if name in self.ends:
            now.outputs[self.ends[name]] = output
        return output

    @contextmanager
    def _recording(self, activity: Activity) -> Iterator[Activity]:
        self.now = activity
        try:
            yield activity
        finally:
            self.now = None


def _link(section: list[Call], modules: dict[str, nn.Module]) -> Link:
    """The link of a layer and the modules after it."""
    shapes = [getattr(call.tensor, "shape", None) for call in section]
    length = next((i for i, shape in enumerate(shapes) if shape != shapes[0]), len(section))
    if late := [call.name for call in section[length:] if isinstance(modules[call.name], ACTIVATIONS)]:
        raise UserError(f"the activation {late[0]} follows a pool or flatten: put it before, after {section[0].name}")
    layer = modules[section[0].name]
    units = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    assert isinstance(units, int)
    nonlinear = [call.name for call in section if isinstance(modules[call.name], ACTIVATIONS)]
    flat = next((i for i, call in enumerate(section) if isinstance(modules[call.name], nn.Flatten)), len(section))
    return Link(
        layer=section[0].name,
        end=section[length - 1].name,
        last=section[-1].name,
        units=units,
        activation=nonlinear[0] if nonlinear else "",
        reads=tuple(section[0].inputs[0].shape[1:]),
        gives=tuple(section[flat - 1].tensor.shape[1:]),
        flattened=flat < len(section),
    )

"""The layers that receive the error of backpropagation by construction, because no layer above them replaces it."""

from collections.abc import Collection

import torch
from torch import Tensor, nn

from lit_fa.layers.factored import FactoredLayer
from lit_fa.layers.feedback import WEIGHT_LAYERS, FeedbackLayer
from lit_fa.layers.graph import below
from lit_fa.layers.observing import observing, recording


def exact_layers(network: nn.Module, cuts: Collection[str], inputs: Tensor) -> set[str]:
    """The linear, conv and factored layers whose error is that of backpropagation for any weights.

    The error is replaced below a layer with feedback, and at a stop-gradient of the rule. A layer is exact if no path
    leads from its output to such a place. This is read from the graph of one forward pass, so a layer is not exact if
    its feedback happens to equal the weights.

    Args:
        network: after the rule's `install`.
        cuts: names of the modules with a stop-gradient, `LearningRule.cuts`; "" is the network itself.
        inputs: (n, ...) on the network's device.

    >>> from lit_fa.layers import RandomFeedback, extend
    >>> network = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> _ = extend(network[2], RandomFeedback(), torch.Generator())
    >>> sorted(exact_layers(network, [], torch.zeros(2, 4)))
    ['2', '4']
    """
    layers = {name for name, m in network.named_modules() if isinstance(m, (*WEIGHT_LAYERS, FactoredLayer))}
    replacing = {name for name, m in network.named_modules() if _has_feedback(m)}
    with observing(network), torch.enable_grad(), recording(network, {*layers, *replacing, *cuts}) as recorded:
        network(inputs)
        starts = [call.inputs[0].grad_fn for call in recorded if call.name in replacing]
        starts += [call.tensor.grad_fn for call in recorded if call.name in cuts]
        replaced = below(starts)
        inexact = {call.name for call in recorded if call.name in layers and call.tensor.grad_fn in replaced}
    return layers - inexact


def _has_feedback(module: nn.Module) -> bool:
    if isinstance(module, FeedbackLayer):
        return module.transport == "feedback" and not module.feedback.off
    return isinstance(module, FactoredLayer) and module.transport == "feedback"

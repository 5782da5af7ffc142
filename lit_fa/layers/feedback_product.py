r"""The product of all feedback matrices above a block, as a direct feedback matrix.

For a sequence of linear layers it is $D_l = B_L B_{L-1} \cdots B_{l+1}$. For a network with convolutions, pools and
shortcuts it is the Jacobian of the linearised network: feedback in place of weights, without activations,
normalisation and biases, and with means in place of maxima.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_fa.layers.factored import FactoredLayer
from lit_fa.layers.observing import observing, recording

IDENTITIES = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus,
    nn.Tanh, nn.Hardtanh, nn.Sigmoid, nn.Hardsigmoid, nn.Hardswish, nn.modules.batchnorm._BatchNorm, nn.LayerNorm,
    nn.GroupNorm, nn.modules.instancenorm._InstanceNorm, nn.modules.dropout._DropoutNd,
)  # fmt: skip
ROUNDINGS = 1e4  # tolerance of the linearity check, in units of the type's precision


def feedback_jacobians(network: nn.Module, example: Tensor, names: list[str]) -> dict[str, Tensor]:
    """Module to D (c, *output of the module): the Jacobian of the logits in the linearised network.

    Args:
        network: of factored layers with feedback; other layers enter with their own weights.
        example: (n, ...) inputs, for shape and type.
        names: of modules, each run once in a forward pass.

    Raises:
        ValueError: the linearised network is not linear (attention, gates, functional activations).
    """
    x = torch.randn(example[:1].shape, generator=torch.Generator().manual_seed(0)).to(example)
    with observing(network), linearised(network.eval()), torch.enable_grad():
        _check_linear(network, x)
        with recording(network, names) as recorded:
            logits = network(x.requires_grad_(True))[0]
        outputs = {call.name: call.output for call in recorded}
        rows = [torch.autograd.grad(logit, [*outputs.values()], retain_graph=True) for logit in logits]
    return {name: torch.cat(parts) for name, parts in zip(outputs, zip(*rows, strict=True), strict=True)}


@contextmanager
def linearised(network: nn.Module) -> Iterator[None]:
    """Within, the network is the linear map of its feedback."""
    with ExitStack() as stack:
        for module in network.modules():
            if forward := _linear_forward(module):
                module.forward = forward
                stack.callback(module.__dict__.pop, "forward")
        yield


def _linear_forward(module: nn.Module) -> Callable[[Tensor], Tensor] | None:
    if isinstance(module, FactoredLayer):
        return module.by_feedback
    if isinstance(module, IDENTITIES) or type(module).__name__ == "DropPath":
        return lambda input: input
    if isinstance(module, nn.MaxPool2d):
        return lambda input: F.avg_pool2d(input, module.kernel_size, module.stride, module.padding, module.ceil_mode)
    if isinstance(module, nn.AdaptiveMaxPool2d):
        return lambda input: F.adaptive_avg_pool2d(input, module.output_size)
    if isinstance(module, nn.Linear):
        return lambda input: F.linear(input, module.weight)
    if isinstance(module, nn.Conv2d):
        return lambda input: module._conv_forward(input, module.weight, None)
    return None


@torch.no_grad()
def _check_linear(network: nn.Module, x: Tensor) -> None:
    y = x.flip(-1)
    together, apart = network(x + 2 * y), network(x) + 2 * network(y)
    tolerance = min(ROUNDINGS * torch.finfo(x.dtype).eps, 0.1)
    if (together - apart).norm() > tolerance * apart.norm().clamp_min(torch.finfo(x.dtype).tiny):
        raise ValueError("the network is not linear even without its activations, normalisation and biases")

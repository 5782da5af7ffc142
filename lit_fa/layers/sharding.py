"""Parameters and feedback divided among ranks by torch's `fully_shard` (FSDP2), and how to read them whole.

Every block is a unit: its parameters are gathered before its forward pass and its backward pass, and are given back
afterwards. Stored feedback becomes a frozen parameter of the same name, so it is divided with its layer. Between two
passes a parameter is a `DTensor` whose local part is a slice of its first dimension.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, Shard

from lit_fa.layers.feedback import FeedbackLayer
from lit_fa.layers.taps import Taps, chain_of


def shard(learner: nn.Module, mesh: DeviceMesh, *, by_block: bool = True) -> None:
    """Divide the parameters and the stored feedback of a learner among the ranks of `mesh`, in place.

    Args:
        learner: a `Learner`, whole, on its device and equal on all ranks.
        mesh: of one dimension.
        by_block: gather one block at a time; otherwise everything for the whole of a step.
    """
    _as_parameters(learner)
    for module in [*(units(learner) if by_block else []), learner]:
        fully_shard(module, mesh=mesh)
        # a tap at the end of a unit returns its output with a stop-gradient; FSDP needs the output before that, to
        # know when the backward pass of the unit begins
        for key, hook in [*module._forward_hooks.items()]:
            if isinstance(getattr(getattr(hook, "func", None), "__self__", None), Taps):
                module._forward_hooks[key] = module._forward_hooks.pop(key)  # now the last
    # the root, which also has what is in no block, must be the first unit to run
    learner._get_fsdp_state()._lazy_init()  # type: ignore[operator]  # nn.Module's attributes have no type


def units(learner: nn.Module) -> list[nn.Module]:
    """The blocks with parameters of their own: the children of the network, as for block boundaries.

    A block that shares a parameter with another module is left to the root, because a parameter has one unit.
    """
    network = learner.get_submodule("network")
    blocks = [m for m in chain_of(network).values() if any(True for _ in m.parameters())]
    owners: dict[int, int] = {}
    for module in learner.modules():
        for p in module.parameters(recurse=False):
            owners[id(p)] = owners.get(id(p), 0) + 1
    inside = [{id(m): m for m in block.modules()} for block in blocks]
    chosen = []
    for number, block in enumerate(blocks):
        own = [id(p) for m in block.modules() for p in m.parameters(recurse=False)]
        nested = any(id(block) in other for i, other in enumerate(inside) if i != number)
        if not nested and all(owners[p] == own.count(p) for p in own):
            chosen.append(block)
    return chosen


def sharded_units(module: nn.Module) -> list[FSDPModule]:
    """The units that `shard` has made in a module, the root first."""
    return [m for m in module.modules() if isinstance(m, FSDPModule)]


@contextmanager
def gathered(module: nn.Module) -> Iterator[None]:
    """Within, all parameters of a sharded module are whole, and stay so during forward and backward passes.

    Their `.grad` is this rank's sum that has not been reduced yet. Changes of the parameters are lost at the end. A
    collective call; a module that is whole is left as it is.
    """
    parts = sharded_units(module) if any(is_divided(p) for p in module.parameters()) else []
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.set_reshard_after_backward(False, recurse=False)
        part.set_requires_gradient_sync(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.reshard()
            is_root = part is parts[0]  # its parameters stay whole until the backward pass
            part.set_reshard_after_forward(not is_root, recurse=False)
            part.set_reshard_after_backward(True, recurse=False)
            part.set_requires_gradient_sync(True, recurse=False)


def whole(tensor: Tensor) -> Tensor:
    """The whole of a tensor of which this rank may have a part; a collective call for such a tensor."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a sharded tensor; any other tensor itself."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def like(tensor: Tensor, values: Tensor) -> Tensor:
    """`values`, which every rank has whole, divided among ranks as `tensor` is."""
    if not isinstance(tensor, DTensor):
        return values
    part = _slice(tensor, values)
    return DTensor.from_local(
        part, tensor.device_mesh, tensor.placements, run_check=False, shape=tensor.shape, stride=tensor.stride()
    )


@torch.no_grad()
def assign(tensor: Tensor, values: Tensor) -> None:
    """Set a tensor, or this rank's part of it, to `values`, which every rank has whole."""
    if isinstance(tensor, DTensor):
        tensor.to_local().copy_(_slice(tensor, values))
    else:
        tensor.copy_(values)


def is_divided(tensor: object) -> bool:
    """Whether this rank has only a part of a tensor."""
    return isinstance(tensor, DTensor)


@torch.no_grad()
def equal_on_ranks(module: nn.Module) -> None:
    """Copy the parameters and buffers of rank 0 to all ranks, as DDP does when it starts."""
    for tensor in module.state_dict().values():
        dist.broadcast(tensor, 0)


def _slice(tensor: DTensor, values: Tensor) -> Tensor:
    """This rank's rows of `values`, by torch's division into chunks."""
    assert tensor.placements == (Shard(0),)
    mesh = tensor.device_mesh
    chunks = values.chunk(mesh.size(), dim=0)
    rank = mesh.get_local_rank()
    part = chunks[rank] if rank < len(chunks) else values[:0]
    return part.to(device=tensor.device, dtype=tensor.dtype, copy=True)


def _as_parameters(learner: nn.Module) -> None:
    """Make stored feedback a frozen parameter, because FSDP divides parameters and copies buffers."""
    for p in learner.parameters():
        p.data = p.data.contiguous()  # FSDP divides no other memory format
    for name, module in learner.named_modules():
        for key, b in [*module._buffers.items()]:
            if b is not None and is_feedback(f"{name}.{key}", b):
                del module._buffers[key]
                module.register_parameter(key, nn.Parameter(b.contiguous(), requires_grad=False))
        if isinstance(module, FeedbackLayer) and (twin := getattr(module.feedback, "twin", None)) is not None:
            # every call gives the twin its tensors; it must not keep the whole ones alive
            empty = {key: None if p is None else nn.Parameter(p.new_empty(0)) for key, p in twin._parameters.items()}
            twin._parameters = empty


def is_feedback(name: str, tensor: Tensor) -> bool:
    """Whether a buffer is stored feedback that can be divided: a matrix or a kernel of floating-point numbers."""
    return "feedback" in name and tensor.is_floating_point() and tensor.ndim >= 2

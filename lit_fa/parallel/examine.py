"""What a rule's stages need and train, found by running all of them once in one process.

The gradients of the stages must be those of the whole network. So a rule that sends errors through the chain of blocks,
or reads the activations of another stage, is found without a declaration.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from lit_fa.errors import UserError
from lit_fa.layers.observing import observing
from lit_fa.parallel.staged import Pass, run_stage, value_of
from lit_fa.parallel.stages import REMEDY, Plan, needs_chain
from lit_fa.rules.base import Batch, Surrogate
from lit_fa.rules.learner import Learner

RELATIVE = 1e-3  # of the largest gradient of a parameter; the stages of an exact rule differ by rounding at most


class Found(NamedTuple):
    """What a rule does in stages.

    Attributes:
        owners: trainable parameter of the learner to the stage that trains it.
        error: whether a stage before the last one needs the logits of the last one.
        random: whether a training step draws random numbers (dropout).
    """

    owners: dict[str, int]
    error: bool
    random: bool


class InProcess:
    """The wires of stages that run one after another in one process."""

    def __init__(self, activations: list[Tensor]):
        """activations: of the stage before, in order."""
        self.arrived, self.left = iter(activations), list[Tensor]()

    def arrive(self) -> Tensor:
        """The next activations."""
        return next(self.arrived)

    def leave(self, activations: Tensor) -> None:
        """Keep activations for the next stage."""
        self.left.append(activations.detach())


def examine(learner: Learner, plan: Plan, batch: Batch) -> Found:
    """Run the whole network and every stage on a few samples, and compare their gradients.

    Raises:
        UserError: the stages' gradients are not those of the whole network, or two stages train a parameter.
    """
    params = {name: p for name, p in learner.named_parameters() if p.requires_grad}
    random = _draws(learner, batch)
    with observing(learner), torch.enable_grad():
        learner.eval()
        wanted = _gradients(learner(batch).value, params)
        owners, error = dict[str, int](), False
        for stage, (done, value) in enumerate(_stages(learner, plan, batch)):
            error = error or done.waits
            for name, grad in _gradients(value, params).items():
                if name in owners:
                    raise UserError(f"{name} is trained by two stages: {REMEDY}, or name splits that do not divide it")
                owners[name] = stage
                if name not in wanted or not _equal(grad, wanted[name]):
                    raise UserError(needs_chain(type(learner.rule).__name__))
    if missing := wanted.keys() - owners.keys():
        raise UserError(f"{needs_chain(type(learner.rule).__name__)}; without it {min(missing)} would not be trained")
    return Found(owners, error, random)


def owner_of_buffer(name: str, plan: Plan, owners: dict[str, int]) -> int | None:
    """The stage whose steps change a buffer of the learner; None: it is the same on all ranks.

    A buffer of the network belongs to the stage of its module; one of the rule to the stage of the parameters next to
    it (a normalisation in a local classifier).
    """
    half, _, own = name.partition(".")
    if half == "network":
        return plan.stage_of(own)
    parent = name.rpartition(".")[0]
    while parent.count("."):
        if (stages := {stage for n, stage in owners.items() if n.startswith(f"{parent}.")}) and len(stages) == 1:
            return stages.pop()
        parent = parent.rpartition(".")[0]
    return None


def _stages(learner: Learner, plan: Plan, batch: Batch) -> list[tuple[Pass, Tensor]]:
    """Every stage's pass, and the scalar whose gradient is its update."""
    activations, passes = list[Tensor](), list[Pass]()
    for stage in range(plan.stages):
        wire = InProcess(activations)
        try:
            passes.append(run_stage(learner, plan, stage, batch, wire))
        except (StopIteration, LookupError, RuntimeError) as error:  # the rule uses what this stage does not have
            raise UserError(needs_chain(type(learner.rule).__name__)) from error
        activations = wire.left
    logits = passes[-1].logits
    return [(done, value_of(done, batch[1], learner.criterion, logits)) for done in passes]


def _gradients(value: Tensor, params: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    if not value.requires_grad:
        return {}
    grads = torch.autograd.grad(value, [*params.values()], allow_unused=True)
    return {name: grad for name, grad in zip(params, grads, strict=True) if grad is not None}


def _equal(grad: Tensor, wanted: Tensor) -> bool:
    bound = RELATIVE * wanted.abs().max().clamp_min(torch.finfo(wanted.dtype).tiny)
    return bool((grad - wanted).abs().max() <= bound)


def _draws(learner: Learner, batch: Batch) -> bool:
    """Whether a surrogate in training mode changes the random state."""
    with observing(learner):
        learner.train()
        before = _random_state(batch[0].device)
        surrogate: Surrogate = learner(batch)
        del surrogate
        return not torch.equal(before, _random_state(batch[0].device))


def _random_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()

"""The stages of a network: contiguous blocks, split so that the costliest stage costs as little as possible.

A link is a child of the network with every Sequential replaced by its own children (`layers.taps.chain_of`). A block
ends where the rule has a stop-gradient. Modules keep their names, so the weights of all stages together are those of
the whole network.
"""

from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lit_fa.errors import UserError
from lit_fa.layers.observing import Call, calls, observing
from lit_fa.layers.taps import Taps, chain_of
from lit_fa.rules.base import Batch
from lit_fa.rules.learner import Learner

REMEDY = "set trainer.strategy: ddp"


@dataclass(frozen=True)
class Plan:
    """Which links of a network each stage runs.

    Attributes:
        links: of the network, in the order of a forward pass.
        ends: for each stage, the number of links up to its end.
        taps: names of the rule's block boundaries.
        shapes: link to the shape, without the batch, and the dtype of its output.
    """

    links: tuple[str, ...]
    ends: tuple[int, ...]
    taps: tuple[str, ...]
    shapes: dict[str, tuple[tuple[int, ...], torch.dtype]]

    @property
    def stages(self) -> int:
        """S."""
        return len(self.ends)

    def of(self, stage: int) -> tuple[str, ...]:
        """The links of a stage."""
        return self.links[self.ends[stage - 1] if stage else 0 : self.ends[stage]]

    def given(self, stage: int) -> str | None:
        """The link before a stage, whose output the stage receives; None for the first stage."""
        return self.links[self.ends[stage - 1] - 1] if stage else None

    def sends(self, stage: int) -> str | None:
        """The link whose output a stage sends on; None for the last stage."""
        return self.links[self.ends[stage] - 1] if stage < self.stages - 1 else None

    def stage_of(self, name: str) -> int | None:
        """The stage that runs the module, or the module of the parameter or buffer, of that name in the network."""
        link = next((i for i, n in enumerate(self.links) if f"{name}.".startswith(f"{n}.")), None)
        return None if link is None else next(s for s, end in enumerate(self.ends) if link < end)


def plan(learner: Learner, batch: Batch, stages: int, splits: Sequence[str] | None = None) -> Plan:
    """Split the network of a learner.

    Args:
        learner: whose rule has block boundaries.
        batch: a few samples.
        stages: number of stages.
        splits: names of the modules that end all stages but the last; None: by cost.

    Raises:
        UserError: the rule has no block boundaries, there are fewer blocks than stages, or the network is not a chain.
    """
    taps = taps_of(learner)
    if taps is None or not taps.cuts:
        raise UserError(needs_chain(type(learner.rule).__name__))
    recorded = _chain(learner.network, batch[0])
    links = [call.name for call in recorded]
    blocks = [links.index(tap) + 1 for tap in taps.names if tap in links]
    if splits is None:
        ends = _by_cost(learner, batch, [links[end - 1] for end in blocks], blocks, len(links), stages)
    else:
        ends = _by_name(splits, links, blocks, stages)
    shapes = {call.name: (tuple(call.output.shape[1:]), call.output.dtype) for call in recorded}
    return Plan(tuple(links), tuple(ends), tuple(taps.names), shapes)


def taps_of(learner: Learner) -> Taps | None:
    """The stop-gradients of a rule, or of the direct feedback within it; None if it has none."""
    own = (getattr(rule, "taps", None) for rule in (learner.rule, getattr(learner.rule, "direct", None)))
    return next((taps for taps in own if isinstance(taps, Taps)), None)


def needs_chain(rule: str) -> str:
    """The message about a rule whose stages would wait for a backward pass."""
    return (
        f"{rule} needs more back than the error at the output, so its stages would wait for one another: {REMEDY}, "
        "pipeline it by torch.distributed.pipelining, or take a rule that cuts between blocks (DirectFeedbackAlignment,"
        " ForwardForward, PredSim)"
    )


def balanced(costs: Sequence[float], stages: int) -> list[int]:
    """The ends of contiguous groups of blocks with the lowest possible cost of the costliest group.

    >>> balanced([4, 1, 1, 1, 1], 2), balanced([1, 1, 1, 5], 3)
    ([1, 5], [1, 3, 4])
    """
    least = [[float("inf")] * (len(costs) + 1) for _ in range(stages + 1)]
    cuts = [[0] * (len(costs) + 1) for _ in range(stages + 1)]
    least[0][0] = 0.0
    for stage in range(1, stages + 1):
        for end in range(stage, len(costs) + 1):
            for start in range(stage - 1, end):
                worst = max(least[stage - 1][start], sum(costs[start:end]))
                if worst < least[stage][end]:
                    least[stage][end], cuts[stage][end] = worst, start
    ends = [len(costs)]
    for stage in range(stages, 1, -1):
        ends.append(cuts[stage][ends[-1]])
    return ends[::-1]


def _chain(network: nn.Module, inputs: Tensor) -> list[Call]:
    """The calls of the links, in order."""
    recorded = calls(network, inputs, chain_of(network))
    names = [call.name for call in recorded]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"{twice[0]} runs more than once in a forward pass, so the network is no chain: {REMEDY}")
    if other := [call.name for call in recorded if not isinstance(call.output, Tensor)]:
        raise UserError(f"{other[0]} does not return one tensor, which a stage could send: {REMEDY}")
    return recorded


def _by_cost(learner: Learner, batch: Batch, names: list[str], blocks: list[int], links: int, stages: int) -> list[int]:
    if len(blocks) + 1 < stages:
        raise UserError(f"{len(blocks) + 1} blocks are too few for {stages} stages: set trainer.devices to fewer")
    costs = _costs(learner, batch, names)
    last = [*blocks, links]
    return [last[end - 1] for end in balanced(costs, stages)]


def _by_name(splits: Sequence[str], links: list[str], blocks: list[int], stages: int) -> list[int]:
    known = [links[end - 1] for end in blocks]
    if len(splits) != stages - 1:
        raise UserError(f"splits has {len(splits)} names for {stages} stages: name the ends of all stages but the last")
    if unknown := [name for name in splits if name not in known]:
        raise UserError(f"splits: no block of the rule ends at {unknown[0]}; one ends at {', '.join(known[:8])}")
    ends = [links.index(name) + 1 for name in splits]
    if ends != sorted({*ends}):
        raise UserError("splits: name the ends of stages in the order of the network")
    return [*ends, len(links)]


def _costs(learner: Learner, batch: Batch, names: list[str]) -> list[float]:
    """The cost of every block and of the head: operations of matrix products in one surrogate, with local losses."""
    counted = dict.fromkeys([*names, ""], 0.0)
    with observing(learner), FlopCounterMode(display=False) as counter:
        before = 0.0

        def count(name: str) -> None:
            nonlocal before
            total = float(counter.get_total_flops())
            counted[name] += total - before
            before = total

        with _marking(learner.network, names, count):
            learner(batch)
        count("")
    return [max(1.0, cost) for cost in counted.values()]


@contextmanager
def _marking(network: nn.Module, names: list[str], mark: Any) -> Any:
    """Within, `mark(name)` is called after the named modules and their hooks so far."""
    hooks = [
        network.get_submodule(name).register_forward_hook(lambda _m, _a, _o, n=name: mark(n), always_call=True)
        for name in names
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()

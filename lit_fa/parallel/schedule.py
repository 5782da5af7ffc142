r"""Schedules of a network whose S stages are on S devices, and the time of a run by each: a simulator.

A batch is split into M microbatches. f, b and w are the seconds that a stage needs for the forward pass, the input
gradient and the weight gradient of one microbatch; l is the latency of one message. A run has N batches. The formulas:

* GPipe, 1F1B: $N\,[(M+S-1)(f+b+w) + 2(S-1)l]$
* zero bubble H1 (Qi et al. 2024, arXiv:2401.10241): $N\,[M(f+b+w) + (S-1)(f+b-w)^+ + 2(S-1)l]$
* direct feedback, `sync`: $N\,[M(f+w) + (S-1)(f+l) + l]$; the last l is the error on its way back
* direct feedback, `full`: $NM(f+w) + (S-1)(f+l)$; stage s (from 0) applies an update S-1-s batches late
* DRTP, Forward-Forward and local losses: the same time as `full`, but exact, because nothing comes back

Their stages compute no input gradient across the boundary of a block, so b does not occur.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from lit_fa.errors import UserError

Schedule = Literal["sync", "full"]


@dataclass(frozen=True)
class Setting:
    """What a forecast depends on.

    Attributes:
        stages: S.
        microbatches: M, per batch.
        forward: f, seconds per microbatch and stage.
        inputs: b, seconds for the input gradient.
        weights: w, seconds for the weight gradient.
        latency: l, seconds per message.
        batches: N.

    Raises:
        UserError: a number below its minimum.
    """

    stages: int = 2
    microbatches: int = 1
    forward: float = 1.0
    inputs: float = 1.0
    weights: float = 1.0
    latency: float = 0.0
    batches: int = 1

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("stages", "microbatches", "batches"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is a whole number from 1 on, not {getattr(self, name)}")
        for name in ("forward", "inputs", "weights", "latency"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"{name} is a finite number of seconds from 0 on, not {getattr(self, name)}")
        if self.forward + self.weights <= 0:
            raise UserError("forward and weights are both 0: a stage that needs no time has no forecast")


def delays(stages: int, *, error: bool) -> list[int]:
    """For each stage, how many later batches it runs forward before it applies the update of a batch.

    Args:
        stages: S.
        error: whether the rule needs the error, which comes from the last stage.

    >>> delays(4, error=True), delays(4, error=False)
    ([3, 2, 1, 0], [0, 0, 0, 0])
    """
    return [stages - 1 - stage if error else 0 for stage in range(stages)]


def pipelined(at: Setting) -> float:
    """Seconds of GPipe or 1F1B, whose bubble is the same.

    >>> pipelined(Setting(stages=4, microbatches=8))
    33.0
    """
    work = (at.microbatches + at.stages - 1) * (at.forward + at.inputs + at.weights)
    return at.batches * (work + 2 * (at.stages - 1) * at.latency)


def zero_bubble(at: Setting) -> float:
    """Seconds of zero bubble H1, which fills a part of the bubble with weight gradients.

    >>> zero_bubble(Setting(stages=4, microbatches=8))
    27.0
    """
    bubble = (at.stages - 1) * max(0.0, at.forward + at.inputs - at.weights)
    work = at.microbatches * (at.forward + at.inputs + at.weights) + bubble
    return at.batches * (work + 2 * (at.stages - 1) * at.latency)


def sync_feedback(at: Setting) -> float:
    """Seconds of direct feedback whose stages wait for the error of their own batch.

    >>> sync_feedback(Setting(stages=4, microbatches=8))
    19.0
    """
    fill = (at.stages - 1) * (at.forward + at.latency) + (at.latency if at.stages > 1 else 0.0)
    return at.batches * (at.microbatches * (at.forward + at.weights) + fill)


def full_pipeline(at: Setting) -> float:
    """Seconds of a pipeline that is filled once: direct feedback that comes late, DRTP, Forward-Forward, local losses.

    >>> full_pipeline(Setting(stages=4, batches=100))
    203.0
    """
    fill = (at.stages - 1) * (at.forward + at.latency)
    return at.batches * at.microbatches * (at.forward + at.weights) + fill


class Method(NamedTuple):
    """A way to train on several devices.

    Attributes:
        seconds: of a run.
        split: whether batches are split into microbatches; otherwise M is 1, with M times the work each.
        factor: the work of a step, relative to f and w of one forward and backward pass.
        exact: whether the update equals that of one device.
    """

    seconds: Callable[[Setting], float]
    split: bool
    factor: float
    exact: bool


# Forward-Forward runs positive and negative samples, hence two forward passes and two weight gradients
METHODS = {
    "gpipe": Method(pipelined, True, 1.0, True),
    "1f1b": Method(pipelined, True, 1.0, True),
    "zero_bubble": Method(zero_bubble, True, 1.0, True),
    "dfa_sync": Method(sync_feedback, True, 1.0, True),
    "dfa_full": Method(full_pipeline, False, 1.0, False),
    "drtp": Method(full_pipeline, False, 1.0, True),
    "forward_forward": Method(full_pipeline, False, 2.0, True),
    "local_losses": Method(full_pipeline, False, 1.0, True),
}


def one_device(at: Setting) -> float:
    """Seconds of backpropagation of the same network and batches on one device, without microbatches' overhead."""
    return at.batches * at.microbatches * at.stages * (at.forward + at.inputs + at.weights)


def seconds(name: str, at: Setting) -> float:
    """Seconds of a run by the method `name` of `METHODS`."""
    method = METHODS[name]
    rows = 1 if method.split else at.microbatches
    work = rows * method.factor
    scaled = replace(
        at,
        microbatches=at.microbatches if method.split else 1,
        forward=at.forward * work,
        inputs=at.inputs * work,
        weights=at.weights * work,
    )
    return method.seconds(scaled)


def speedup(name: str, at: Setting) -> float:
    """Samples per second of a method, divided by those of backpropagation on one device.

    >>> at = Setting(stages=8, microbatches=32, batches=10_000)
    >>> {name: round(speedup(name, at), 1) for name in ("1f1b", "zero_bubble", "dfa_sync", "drtp", "forward_forward")}
    {'1f1b': 6.6, 'zero_bubble': 7.5, 'dfa_sync': 10.8, 'drtp': 12.0, 'forward_forward': 6.0}
    """
    return one_device(at) / seconds(name, at)

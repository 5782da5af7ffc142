"""Network, rule and criterion as one function of a batch.

A learner's parameters and buffers are called `network.<name>` and `rule.<name>`. A rule knows only the names behind
that: `split` and `join` are the one place where the two kinds of names meet.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import register_fsdp_forward_method

from lit_fa.errors import check_literals
from lit_fa.functional.criteria import CRITERIA, CriterionName
from lit_fa.layers.sharding import assign, gathered, is_feedback, like, shard, whole
from lit_fa.rules.base import Batch, Criterion, Does, Halves, LearningRule, Progress, Surrogate, Tensors

T = TypeVar("T")
START = Progress(0)


class Learner(nn.Module):
    """Maps a batch to a `Surrogate`; ``functional_call(learner, (params, buffers), (batch,))`` is all `vmap` needs.

    Args:
        network: installed in place by the rule.
        rule: what the update is.
        example: (n, ...) inputs, n >= 2, whose values do not matter.
        criterion: `cross_entropy`, `mse`, `bce`, or a function (logits (n, c), targets (n,)) to a scalar that
            averages over the batch.

    Raises:
        UserError: an unknown criterion, or a network that the rule does not fit.
    """

    def __init__(
        self,
        network: nn.Module,
        rule: LearningRule,
        example: Tensor,
        criterion: CriterionName | Criterion = "cross_entropy",
    ):
        """Install the rule."""
        super().__init__()
        check_literals(Learner, locals())
        self.network, self.rule = network, rule
        self.criterion = CRITERIA[criterion] if isinstance(criterion, str) else criterion
        self.coverage = rule.install(network, example, self.criterion)
        self.stored: list[str] = []  # names of feedback that `shard` has made parameters

    def forward(self, batch: Batch) -> Surrogate:
        """The rule's scalar for inputs (n, ...) and targets (n,)."""
        return self.rule.surrogate(self.network, batch, self.criterion)

    def prepare(self, batches: Iterable[Batch]) -> dict[str, float]:
        """Let the rule prepare a fresh run; key to number."""
        return self.rule.prepare(self.network, batches, self.criterion)

    def stream(self, batch: Batch, backward: Callable[[Tensor], None]) -> Surrogate:
        """The same gradients, accumulated block by block through `backward`."""
        return self.rule.stream(self.network, batch, self.criterion, backward)

    def predict(self, inputs: Tensor) -> Tensor:
        """(n, ...) to (n, c) logits."""
        return self.rule.predict(self.network, inputs)

    @staticmethod
    def split(named: Mapping[str, T]) -> Halves[T]:
        """Values by the learner's names, as the rule names them; what is the criterion's is left out.

        >>> Learner.split({"network.0.weight": 1, "rule.steps": 2})
        Halves(network={'0.weight': 1}, rule={'steps': 2})
        """
        halves: Halves[T] = Halves({}, {})
        for name, value in named.items():
            half, _, own = name.partition(".")
            if half in Halves._fields:
                getattr(halves, half)[own] = value
        return halves

    @staticmethod
    def join(halves: Halves[T]) -> dict[str, T]:
        """The reverse of `split`.

        >>> Learner.join(Halves({"0.weight": 1}, {"steps": 2}))
        {'network.0.weight': 1, 'rule.steps': 2}
        """
        return {f"{half}.{name}": value for half, own in halves._asdict().items() for name, value in own.items()}

    def parts(self, example: Tensor) -> dict[str, int]:
        """Parameter to the number of the local loss that it alone learns from; see `LearningRule.parts`."""
        return self.join(self.rule.parts(self.network, example))

    def edited(self, params: Tensors, grads: Tensors, progress: Progress) -> dict[str, Tensor | None]:
        """The gradients that the rule changes, by the learner's names; None for one that it removes. Pure."""
        if Does.EDITS not in self.rule.does:
            return {}
        return self.join(self.rule.edit_gradients(self.split(params), self.split(grads), progress))

    def evolved(self, params: Tensors, buffers: Tensors, progress: Progress) -> tuple[Tensors, Tensors]:
        """The parameters and buffers that the rule changes after a step, by the learner's names. Pure."""
        if Does.EVOLVES not in self.rule.does:
            return {}, {}
        changed, renewed = self.rule.after_step(self.split(params), self.split(buffers), progress)
        return self.join(changed), self.join(renewed)

    def evolving(self) -> list[str]:
        """Names of the buffers that `evolved` may change."""
        if Does.EVOLVES not in self.rule.does:
            return []
        buffers, kinds = self.split(dict(self.named_buffers())), type(self.rule).__mro__
        evolving, after_step = (next(k for k in kinds if name in vars(k)) for name in ("evolving", "after_step"))
        # an `after_step` that is newer than `evolving` may change other buffers
        return [*self.join(self.rule.evolving(buffers) if issubclass(evolving, after_step) else buffers)]

    def renewed(self, params: Tensors, buffers: Tensors, number: int) -> Tensors:
        """The buffers that the rule changes when round `number` starts, by the learner's names. Pure."""
        return self.join(self.rule.on_round_start(self.split(params), self.split(buffers), number))

    def measured(self) -> list[str]:
        """The parameters that become their gradients, by the learner's names."""
        return [*self.join(Halves({}, dict.fromkeys(self.rule.measured)))]

    def shard(self, mesh: DeviceMesh) -> None:
        """Divide parameters and stored feedback among ranks; see `layers.sharding`."""
        self.stored = [name for name, b in self.named_buffers() if is_feedback(name, b)]
        shard(self, mesh, by_block=not self.rule.reads_all)
        register_fsdp_forward_method(self, "predict")

    def tensors(self) -> tuple[Tensors, Tensors]:
        """Parameters and buffers by name. Feedback that `shard` has made a parameter is a buffer here too."""
        params: Tensors = dict(self.named_parameters())
        stored = {name: params.pop(name) for name in self.stored}
        return params, dict(self.named_buffers()) | stored

    @property
    def edits(self) -> bool:
        """Whether `edit_gradients` does anything."""
        return bool(self.rule.measured) or Does.EDITS in self.rule.does

    @torch.no_grad()
    def edit_gradients(self, progress: Progress = START) -> None:
        """Let the rule edit what `backward` left in `.grad`, after what it measures has been taken from there."""
        params, _ = self.tensors()
        for name in self.measured():
            if (value := params[name].grad) is not None:
                params[name].copy_(value)
                params[name].grad = None
        if Does.EDITS not in self.rule.does:
            return
        grads = {name: whole(p.grad) for name, p in params.items() if p.grad is not None}
        with gathered(self):
            all_params, _ = self.tensors()
            for name, grad in self.edited({name: all_params[name] for name in grads}, grads, progress).items():
                params[name].grad = None if grad is None else like(params[name], grad)

    @torch.no_grad()
    def after_step(self, progress: Progress) -> None:
        """Let a rule that evolves renew parameters and buffers in place after an optimiser step."""
        params, buffers = self.tensors()
        with gathered(self):
            changed, renewed = self.evolved(*self.tensors(), progress)
            for name, tensor in changed.items():
                assign(params[name], tensor)
            for name, tensor in renewed.items():
                assign(buffers[name], tensor)

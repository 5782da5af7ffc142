"""Network, rule and criterion as one function of a batch."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from lit_fa.errors import UserError, nearest
from lit_fa.functional.criteria import CRITERIA
from lit_fa.rules.base import Batch, LearningRule, Progress, Surrogate

START = Progress(0)


class Learner(nn.Module):
    """Maps a batch to a `Surrogate`; ``functional_call(learner, (params, buffers), (batch,))`` is all `vmap` needs.

    Args:
        network: installed in place by the rule.
        rule: what the update is.
        example: (n, ...) inputs, n >= 2, whose values do not matter.
        criterion: `cross_entropy`, `mse`, `bce`, or a function (logits (n, c), targets (n,)) to a scalar that
            averages over the batch.
    """

    def __init__(
        self, network: nn.Module, rule: LearningRule, example: Tensor, criterion: str | Callable = "cross_entropy"
    ):
        """Install the rule."""
        super().__init__()
        if isinstance(criterion, str) and criterion not in CRITERIA:
            raise UserError(f"unknown criterion '{criterion}'; {nearest(criterion, [*CRITERIA])}")
        self.network, self.rule = network, rule
        self.criterion = CRITERIA[criterion] if isinstance(criterion, str) else criterion
        self.coverage = rule.install(network, example, self.criterion)

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

    @torch.no_grad()
    def edit_gradients(self, progress: Progress = START) -> None:
        """Let the rule edit what `backward` left in `.grad`."""
        if type(self.rule).edit_gradients is LearningRule.edit_gradients:
            return
        params = {name: p for name, p in self.named_parameters() if p.grad is not None}
        edited = self.rule.edit_gradients(params, {name: p.grad for name, p in params.items()}, progress)
        for name, grad in edited.items():
            params[name].grad = grad

    @torch.no_grad()
    def after_step(self, progress: Progress) -> None:
        """Let a rule that evolves renew parameters and buffers after an optimiser step."""
        params, buffers = dict(self.named_parameters()), dict(self.named_buffers())
        changed_params, changed_buffers = self.rule.after_step(params, buffers, progress)
        for held, changed in ((params, changed_params), (buffers, changed_buffers)):
            for name, tensor in changed.items():
                held[name].copy_(tensor)

"""Options of a `Classifier` that do not go together, each refused in one line that names the remedy."""

from lit_fa.errors import UserError
from lit_fa.rules.base import Does, LearningRule

MOST = 1_000_000  # batches an optimiser step


def check_numbers(num_classes: int, criterion: str, accumulate: int, clip: float | None) -> None:
    """Refuse numbers out of range.

    Raises:
        UserError: names the number and the remedy.
    """
    if not 1 <= accumulate <= MOST:
        raise UserError(f"accumulate is from 1 to {MOST:,} batches, not {accumulate}")
    if clip is not None and not clip > 0:
        raise UserError(f"clip is a positive bound or null, not {clip}")
    if num_classes == 1 and criterion in ("cross_entropy", "bce"):
        raise UserError(f"one output is a number to predict, and {criterion} is for classes: set criterion: mse")


def check_rule_options(rule: LearningRule, *, stream: bool | str, accumulate: int) -> None:
    """Refuse options that the rule does not support.

    Raises:
        UserError: names the option and the remedy.
    """
    if stream and Does.STREAMS not in rule.does:
        raise UserError(f"{type(rule).__name__} has no block boundaries to stream; use stream: false")
    if Does.COMPARES in rule.does:
        raise UserError(f"{type(rule).__name__} chooses layers by comparing clients: name them, or federate")
    if accumulate > 1 and Does.SUMS in rule.does:
        raise UserError("accumulate averages over samples, which target_reduction: sum does not: set it to mean")

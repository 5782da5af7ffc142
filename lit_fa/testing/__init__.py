"""Checks for a learning rule that lives in another package: `check_rule(MyRule(), reference=...)`."""

from lit_fa.testing.check import ContractError, Outcome, check_rule

__all__ = ["ContractError", "Outcome", "check_rule"]

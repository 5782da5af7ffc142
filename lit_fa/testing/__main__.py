"""`python -m lit_fa.testing mylab.rules.MyRule`: every contract on a rule with its default options."""

import os
import sys
from importlib import import_module

from lit_fa.testing.check import ContractError, check_rule


def main(argv: list[str]) -> int:
    """Check the rule of an import path; returns 0 if all contracts hold, else 1, or 2 for a path that leads nowhere."""
    if len(argv) != 1 or "." not in argv[0]:
        print("usage: python -m lit_fa.testing package.module.Rule", file=sys.stderr)
        return 2
    sys.path.insert(0, os.getcwd())
    home, _, name = argv[0].rpartition(".")
    try:
        rule = getattr(import_module(home), name)()
    except (ImportError, AttributeError, TypeError) as error:
        print(f"lit-fa: {argv[0]}: {error}", file=sys.stderr)
        return 2
    try:
        outcomes = check_rule(rule)
    except ContractError as error:
        print(error)
        return 1
    for outcome in outcomes:
        print(f"{outcome.result:8} {outcome.network:12} {outcome.contract} {outcome.why}".rstrip())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

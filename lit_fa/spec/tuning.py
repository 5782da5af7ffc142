"""The rows of a tuning table: an arm, and the value that is tried for it."""

import math
import re
from collections.abc import Iterable

from lit_fa.errors import UserError
from lit_fa.spec.cell import Cell


def arm_and_value(row: str, word: str) -> tuple[str, float]:
    """`FedAvg, rate 0.1` as ("FedAvg", 0.1).

    Raises:
        UserError: the row is not `ARM, WORD NUMBER`.
    """
    match = re.fullmatch(rf"(.+), {re.escape(word)} (\S+)", row)
    try:
        value = float(match[2]) if match else math.nan
    except ValueError:
        value = math.nan
    if match is None or not math.isfinite(value):
        raise UserError(f"tuning: the row {row!r} is not `ARM, {word} NUMBER`; rename it")
    return match[1], value


def check_tuning(cells: Iterable[Cell], word: str, where: str) -> None:
    """Refuse a tuning table with other rows, or with a metric that is not of held-out data.

    Raises:
        UserError: one line that names the row.
    """
    for cell in cells:
        try:
            arm_and_value(cell.row, word)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        if not cell.metric.name.startswith("val/"):
            raise UserError(f"{where}: tuning: {cell.metric.name} is not of held-out data; take a metric val/...")

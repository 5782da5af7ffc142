"""What a table declares before its runs are judged: margins, and a positive control."""

from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator
from pydantic.dataclasses import dataclass

from lit_fa.errors import UserError
from lit_fa.spec.validation import Entry, Line, Number, choice


def _with_reason(text: str) -> str:
    if not text.strip():
        raise UserError("the reason is empty; write why a difference of that size does not matter")
    return text


@dataclass(frozen=True)
class Accept(Entry):
    """Agreement with a published number: the largest difference that does not matter, in the metric's unit, and why."""

    margin: Annotated[Number, Field(gt=0)]
    why: Annotated[Line, AfterValidator(_with_reason)]

    @model_validator(mode="before")
    @classmethod
    def _no_floor(cls, data: Any) -> Any:
        if isinstance(data, dict) and "floor" in data:
            raise UserError("`floor` is gone; write margin: the largest difference that counts as agreement, and why")
        return data


@dataclass(frozen=True)
class Control(Entry):
    """The positive control: in every column, `row` must beat a constant prediction, or the column has no verdicts.

    `constant` is the metric's value for a constant prediction: a number, or a number for each column.
    """

    row: Line
    constant: Number | dict[str, Number]

    def value(self, column: str) -> float | None:
        """The constant's value in a column; None where none is declared."""
        return self.constant.get(column) if isinstance(self.constant, dict) else self.constant

    def check(self, labels: list[tuple[str, str]], where: str) -> None:
        """Refuse a control whose row or columns are not in the table; `labels` are (row, column) of its cells."""
        choice(self.row, sorted({row for row, _ in labels}), f"{where}.row")
        columns = sorted({column for row, column in labels if row == self.row})
        for column in self.constant if isinstance(self.constant, dict) else ():
            choice(column, columns, f"{where}.constant")

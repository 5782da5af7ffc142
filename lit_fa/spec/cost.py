"""What the runs of a table's scale cost, as its author declares it."""

from typing import Annotated, Any, Literal

from pydantic import model_validator
from pydantic.dataclasses import dataclass

from lit_fa.errors import UserError
from lit_fa.spec.validation import Entry, OneOf, Positive


@dataclass(frozen=True)
class Cost(Entry):
    """The cost of a scale; hours are of all its runs together, memory is of one run.

    Attributes:
        cpu_hours: processor time.
        gpu_hours: time on one graphics card.
        memory_gib: largest memory of a run, on the card if the device is one.
        download_gib: data and weights that are fetched.
        device: that a run needs.
    """

    cpu_hours: Positive | None = None
    gpu_hours: Positive | None = None
    memory_gib: Positive | None = None
    download_gib: Positive | None = None
    device: Annotated[Literal["cpu", "gpu"], OneOf()] = "cpu"

    @model_validator(mode="before")
    @classmethod
    def _says_something(cls, data: Any) -> Any:
        if data == {}:
            raise UserError("is empty; write cpu_hours or gpu_hours, memory_gib, download_gib or device")
        return data

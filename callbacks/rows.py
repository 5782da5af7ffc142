"""Loggers that keep the rows of their run as plain data, which checkpoints hold and a resumed run writes again."""

from collections.abc import Iterable, Mapping
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from lit_fa.callbacks.continued_logs import Following

Row = dict[str, Any]
# Keys that are measured at optimiser steps and have them as x-axis; modules log by batches.
MEASURED = ("align/", "conserve/", "dominance/", "factors/", "rank/", "fitted/", "weights/")
AXIS = "measured/step"


class RowLogger:
    """What the loggers with a run for each config share; `callbacks.WandbRun` gives them pictures and tables.

    Attributes:
        rows: all rows of the run.
        exit_code: if the run fails.
        kind: see `callbacks.continued_logs.ContinuedLogger`.
    """

    kind = ""
    keeps_rows = for_tests = True
    rows: list[Row]
    exit_code = 1

    def axis(self) -> str:
        """The key of the step of a row that is not measured at optimiser steps."""
        raise NotImplementedError(type(self).__name__)

    def add(self, row: Row) -> None:
        """Add one row of plain data."""
        raise NotImplementedError(type(self).__name__)

    def row(self, metrics: Mapping[str, float], step: int | None) -> Row:
        """Metrics and step as plain data."""
        axis = {} if step is None else {AXIS if is_measured(metrics) else self.axis(): step}
        return {key: float(value) for key, value in metrics.items()} | axis

    def state(self, following: Following) -> dict[str, Any]:
        """Id and rows for a checkpoint, with those that follow."""
        logger: Any = self
        return {"id": logger.version, "rows": [*self.rows, *(self.row(*each) for each in following)]}

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add one row; its x-axis is the optimiser step for keys that are measured, else Lightning's step."""
        self.add(self.row(metrics, step))


def is_measured(keys: Iterable[str]) -> bool:
    """Whether any of the keys is measured at an optimiser step."""
    return any(key.startswith(MEASURED) for key in keys)

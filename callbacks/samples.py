"""The number of samples in a batch, for Lightning's `ThroughputMonitor`."""

from typing import Any


def samples_of(batch: Any) -> int:
    """Number of samples in a batch (inputs, targets), or in all local steps of a federated round.

    >>> samples_of(([0, 0, 0], [1, 0, 2]))
    3
    """
    return int(batch.rows.sum()) if hasattr(batch, "rows") else len(batch[1])

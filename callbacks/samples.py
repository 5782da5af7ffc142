"""How many samples a batch has, for whoever counts them (`ThroughputMonitor`)."""

from typing import Any


def samples_of(batch: Any) -> int:
    """Samples of a batch (inputs, targets), or of all local steps of a federated round.

    >>> samples_of(([0, 0, 0], [1, 0, 2]))
    3
    """
    return int(batch.rows.sum()) if hasattr(batch, "rows") else len(batch[1])

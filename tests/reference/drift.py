"""What clients' gradients, movements and ways back have between them, pair by pair."""

import numpy as np

Array = np.ndarray


def similarity(gradients: list[Array]) -> float:
    """The mean over pairs i < j of the cosine between their gradients."""
    found = []
    for i in range(len(gradients)):
        for j in range(i + 1, len(gradients)):
            a, b = gradients[i].ravel(), gradients[j].ravel()
            found.append(a @ b / np.sqrt((a @ a) * (b @ b)))
    return float(np.mean(found))


def distance(moved: list[Array]) -> float:
    """The mean over pairs i < j of ||Delta_i - Delta_j||."""
    pairs = [(i, j) for i in range(len(moved)) for j in range(i + 1, len(moved))]
    return float(np.mean([np.sqrt(((moved[i] - moved[j]) ** 2).sum()) for i, j in pairs]))


def transport(matrices: list[list[Array]], errors: list[list[Array]]) -> float:
    """The mean over pairs i < j of sum_k ||(M_i^k - M_j^k)^T delta_i^k||; lists over clients of lists over steps.

    k runs over the steps of client i; a client j that has taken fewer keeps the matrix of its last step.
    """
    found = []
    for i in range(len(matrices)):
        for j in range(i + 1, len(matrices)):
            total = 0.0
            for k in range(len(errors[i])):
                last = min(k, len(matrices[j]) - 1)
                total += np.sqrt(((errors[i][k] @ (matrices[i][k] - matrices[j][last])) ** 2).sum())
            found.append(total)
    return float(np.mean(found))


def clipped_sum(rows: Array, clip: float) -> Array:
    """Each row cut to the length `clip` where it is longer, summed."""
    total = np.zeros(rows.shape[1])
    for row in rows:
        length = np.sqrt(row @ row)
        total += row if length <= clip else row * clip / length
    return total

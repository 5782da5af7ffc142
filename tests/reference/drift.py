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


def bounds(weights: list[Array]) -> list[tuple[float, float]]:
    """(largest input, largest error) of each layer, the first first: entries in [-1, 1], a softmax' error, then W^T."""
    found, error = [], np.sqrt(2)
    for W in weights[::-1]:
        found.append((np.sqrt(W.shape[1]), error))
        error = error * np.linalg.svd(W)[1][0]
    return found[::-1]


def largest_ratio(moved: list[Array], steps: list[int], lr: float, inputs: float, errors: float) -> float:
    """The largest ||Delta_i - Delta_j|| over lr (s_i + s_j) inputs errors."""
    found = []
    for i in range(len(moved)):
        for j in range(i + 1, len(moved)):
            apart = np.sqrt(((moved[i] - moved[j]) ** 2).sum())
            found.append(apart / (lr * (steps[i] + steps[j]) * inputs * errors))
    return max(found)

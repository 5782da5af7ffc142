"""Feedback-weight matching (ICLR 2026) as a student would type it: numpy, float64, one loop a sentence.

A chain is a list of weights W_2 ... W_L, each (units of l, units of l - 1), the last one the read-out (classes, units).
Feedback is a list F_1 ... F_{L-1}, each (units of l, classes). Everything is given by number of layer: W[l], F[l].
"""

import numpy as np

Array = np.ndarray


def numbered(weights: list[Array]) -> tuple[dict[int, Array], int]:
    """k -> W_l for k = 2 ... L, and L."""
    W = {}
    for position, weight in enumerate(weights):
        W[position + 2] = weight
    return W, len(weights) + 1


def seq_ls(weights: list[Array]) -> list[Array]:
    """F_{L-1} = W_L^T; F_{k-1} = W_k^T F_k (F_k^T F_k)^-1."""
    W, L = numbered(weights)
    F = {L - 1: W[L].T}
    for k in range(L - 1, 1, -1):
        F[k - 1] = W[k].T @ F[k] @ np.linalg.inv(F[k].T @ F[k])
    return [F[k] for k in range(1, L)]


def bp_product(weights: list[Array]) -> list[Array]:
    """F_{L-1} = W_L^T; F_{k-1} = W_k^T F_k."""
    W, L = numbered(weights)
    F = {L - 1: W[L].T}
    for k in range(L - 1, 1, -1):
        F[k - 1] = W[k].T @ F[k]
    return [F[k] for k in range(1, L)]


def als(weights: list[Array], sweeps: int, head_fixed: bool) -> list[Array]:
    """F_k = (W_{k+1}^T F_{k+1} + W_k F_{k-1}) (F_{k+1}^T F_{k+1} + F_{k-1}^T F_{k-1})^-1, from the top down.

    Beside the read-out F_L is the identity: its equation W_L = F_{L-1}^T is one more term unless F_{L-1} is fixed.
    """
    W, L = numbered(weights)
    F = dict(enumerate(seq_ls(weights), start=1))
    classes = len(W[L])
    for _ in range(sweeps):
        for k in range(L - 1, 0, -1):
            if k == L - 1 and head_fixed:
                continue
            top, gram = np.zeros_like(F[k]), np.zeros((classes, classes))
            above = np.eye(classes) if k == L - 1 else F[k + 1]
            top += W[k + 1].T @ above
            gram += above.T @ above
            if k > 1:
                top += W[k] @ F[k - 1]
                gram += F[k - 1].T @ F[k - 1]
            F[k] = top @ np.linalg.inv(gram)
    return [F[k] for k in range(1, L)]


def svd_average(weights: list[Array], normalise: bool) -> list[Array]:
    """W_k = U S V^T: F_k gets U sqrt(S), F_{k-1} gets V sqrt(S), of the largest values, one a class; then the mean.

    A pair of singular vectors may change its sign: it does so where it points away from what F_k has got from the layer
    above, or, in the uppermost layer, where the largest entry of the vector in U is negative.
    """
    W, L = numbered(weights)
    classes = len(W[L])
    got: dict[int, list[Array]] = {k: [] for k in range(1, L)}
    for k in range(L - 1, 1, -1):
        U, S, Vt = np.linalg.svd(W[k], full_matrices=False)
        upper, lower = np.zeros((len(U), classes)), np.zeros((Vt.shape[1], classes))
        for c in range(min(classes, len(S))):
            u, v = U[:, c], Vt[c]
            agrees = u @ got[k][0][:, c] if got[k] else u[np.abs(u).argmax()]
            sign = 1 if agrees >= 0 else -1
            upper[:, c], lower[:, c] = sign * u * np.sqrt(S[c]), sign * v * np.sqrt(S[c])
        got[k].append(upper)
        got[k - 1].append(lower)
    F = [sum(got[k]) / len(got[k]) for k in range(1, L)]
    if normalise:
        for feedback in F:
            for c in range(classes):
                feedback[:, c] /= np.sqrt((feedback[:, c] ** 2).sum())
    return F


def matched(weights: list[Array], feedback: list[Array]) -> list[Array]:
    """Equations 7 and 8, entry by entry."""
    F = dict(enumerate(feedback, start=1))
    made = []
    for k in range(2, len(feedback) + 1):
        product = np.zeros((len(F[k]), len(F[k - 1])))
        for o in range(product.shape[0]):
            for i in range(product.shape[1]):
                product[o, i] = (F[k][o] * F[k - 1][i]).sum()
        made.append(product)
    return [*made, F[len(feedback)].T]


def relative_residual(weights: list[Array], made: list[Array]) -> float:
    """||W - W_bar|| / ||W|| over all layers."""
    apart = whole = 0.0
    for weight, other in zip(weights, made, strict=True):
        apart += ((weight - other) ** 2).sum()
        whole += (weight**2).sum()
    return np.sqrt(apart / whole)


def sent(feedback: Array, errors: Array) -> float:
    """Root mean square, over samples and units, of F e."""
    squares = [(feedback @ e) ** 2 for e in errors]
    return np.sqrt(np.mean(squares))


def grads(
    first: Array, weights: list[Array], biases: list[Array], feedback: list[Array], x: Array, y: Array
) -> tuple[list[Array], list[Array]]:
    """The update of a ReLU network: delta_l = (F_l e) * g'(a_l), sample by sample; mean cross-entropy.

    first: W_1; biases: b_1 ... b_L. Returns the gradients of W_1 ... W_L and of b_1 ... b_L.
    """
    W = [first, *weights]
    of_weights, of_biases = [np.zeros_like(w) for w in W], [np.zeros_like(b) for b in biases]
    for sample, label in zip(x, y, strict=True):
        h, a = [sample], []
        for w, b in zip(W, biases, strict=True):
            a.append(w @ h[-1] + b)
            h.append(np.maximum(a[-1], 0))
        e = np.exp(a[-1] - a[-1].max())
        e /= e.sum()
        e[label] -= 1
        for k in range(len(W)):
            delta = e if k == len(W) - 1 else (feedback[k] @ e) * (a[k] > 0)
            of_weights[k] += np.outer(delta, h[k]) / len(x)
            of_biases[k] += delta / len(x)
    return of_weights, of_biases

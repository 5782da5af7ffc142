"""The least-squares map of smallest norm, by the normal equations of n samples, and gradient descent towards it."""

import numpy as np

Array = np.ndarray


def solution(X: Array, T: Array) -> Array:
    """(c, i): W = T^T (X X^T)^-1 X, for more inputs than samples and independent samples."""
    return T.T @ np.linalg.solve(X @ X.T, X)


def projection(X: Array) -> Array:
    """(i, i): onto the span of the rows of X."""
    return X.T @ np.linalg.solve(X @ X.T, X)


def distances(P: Array, X: Array, T: Array) -> tuple[float, float, float]:
    """||P - W||, ||P (1 - projection)||, ||P||, each over ||W||."""
    W = solution(X, T)
    norm = np.sqrt((W**2).sum())
    outside = P - P @ projection(X)
    return tuple(np.sqrt((part**2).sum()) / norm for part in (P - W, outside, P))


def trained(X: Array, T: Array, W1: Array, W2: Array, B: Array | None, lr: float, steps: int) -> tuple[Array, Array]:
    """Gradient descent on the mean squared error of W2 W1 x; B in place of W2 on the way back, if there is one."""
    W1, W2 = W1.copy(), W2.copy()
    for _ in range(steps):
        hidden = X @ W1.T
        error = 2 * (hidden @ W2.T - T) / T.size
        back = W2 if B is None else B
        step1, step2 = (error @ back).T @ X, error.T @ hidden
        W1 -= lr * step1
        W2 -= lr * step2
    return W1, W2

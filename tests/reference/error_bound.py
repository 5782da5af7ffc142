"""Two propositions of feedback-weight matching (ICLR 2026), on networks that a page of numpy trains.

Proposition 4.2, conjecture 4.3: ||e'|| <= (1 - eta gamma / 4 - eta lam) ||e|| + eta lam ||y||, without its last term;
gamma: the smallest eigenvalue of H H^T at step 0.
"""

import numpy as np

Array = np.ndarray


def relu(z: Array) -> Array:
    """max(z, 0)."""
    return np.maximum(z, 0)


def gram_gamma(H: Array) -> float:
    """The smallest eigenvalue of H H^T."""
    return float(np.linalg.eigvalsh(H @ H.T)[0])


def bound(e: float, y: float, eta: float, gamma: float, decay: float) -> float:
    """Right-hand side; decay is eta lam."""
    return e - eta * gamma / 4 * e - decay * e + decay * y


def cosine(A: Array, B: Array) -> float:
    """Of two arrays, flattened."""
    return float((A * B).sum() / np.sqrt((A**2).sum() * (B**2).sum()))


def dfa_two_layers(X: Array, Y: Array, W1: Array, W2: Array, F: Array, eta: float, decay: float, steps: int) -> tuple:
    """(errors, alignments) before every step of full-batch DFA on 1/2 ||relu(X W1^T) W2^T - Y||^2, F (u, c).

    An alignment is the cosine between the error that DFA and backprop send to the hidden layer.
    """
    W1, W2, errors, alignments = W1.copy(), W2.copy(), [], []
    for _ in range(steps):
        Z = X @ W1.T
        H = relu(Z)
        E = H @ W2.T - Y
        errors.append(float(np.sqrt((E**2).sum())))
        alignments.append(cosine(E @ F.T * (Z > 0), E @ W2 * (Z > 0)))
        G1, G2 = (E @ F.T * (Z > 0)).T @ X, E.T @ H
        W1, W2 = W1 - eta * G1 - decay * W1, W2 - eta * G2 - decay * W2
    return errors, alignments


def dfa_two_linear_layers(X: Array, Y: Array, W1: Array, W2: Array, F: Array, eta: float, steps: int) -> list[float]:
    """The same without ReLU and decay; the alignments alone."""
    W1, W2, alignments = W1.copy(), W2.copy(), []
    for _ in range(steps):
        H = X @ W1.T
        E = H @ W2.T - Y
        alignments.append(cosine(E @ F.T, E @ W2))
        W1, W2 = W1 - eta * (E @ F.T).T @ X, W2 - eta * E.T @ H
    return alignments

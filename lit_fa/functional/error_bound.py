r"""The bound on the error of direct feedback alignment with weight decay, checked at every step of a run.

Feedback-weight matching (ICLR 2026), Proposition 4.2 for two layers and Conjecture 4.3 for L layers: with e the errors
of all training samples, y their targets, steps $\eta$ of full-batch gradient descent on $\tfrac12\|e\|^2$ and weight
decay $\lambda$,

$\|e_{t+1}\| \le (1 - \tfrac14\eta\gamma - \eta\lambda)\,\|e_t\| + \eta\lambda\,\|y\| - \sum_{l\ge2}\alpha_l r_l$,

where $r_l \ge 0$ says that re-initialised weights lie nearer to the trajectory. What $\gamma$, $\alpha_l$ and $r_l$ are
could not be read; here $\gamma$ is the smallest eigenvalue of $H H^\top$, H (n, u) the last hidden layer's output at
step 0, which is the rate at which the head alone fits the hardest direction, and the last term is left out. What
is left of the inequality, its slack, is then the largest value that the term may have. (The paper's summary prints
$\lambda\|y\|$; with the step in front the bound is the tighter one.)

Letters: n samples, u hidden units, c outputs.
"""

import torch
from torch import Tensor


def smallest_eigenvalue(hidden: Tensor) -> float:
    r"""$\gamma$: the smallest eigenvalue of $H H^\top$ for hidden (n, u); zero if n > u."""
    hidden = hidden.double()
    if len(hidden) > hidden.shape[1]:
        return 0.0
    return torch.linalg.svdvals(hidden)[-1].square().item()


def error_bound(error: float, target: float, step: float, gamma: float, decay: float) -> float:
    r"""The bound on $\|e_{t+1}\|$ without its last term.

    Args:
        error: the norm of the errors at step t.
        target: the norm of the targets.
        step: $\eta$ of the gradient of $\tfrac12\|e\|^2$; for the mean over n samples and c outputs with learning rate
            r it is 2 r / (n c).
        gamma: $\gamma$.
        decay: $\eta\lambda$, the share of every weight that one step removes.

    >>> error_bound(2.0, 1.0, step=0.1, gamma=4.0, decay=0.0)
    1.8
    """
    return (1 - step * gamma / 4 - decay) * error + decay * target

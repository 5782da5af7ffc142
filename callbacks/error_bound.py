"""The bound of feedback-weight matching on the training error, compared with the error of every step."""

from typing import Any, ClassVar

import lightning as L
import torch
from torch import Tensor, nn

from lit_fa.callbacks.curves import publish
from lit_fa.callbacks.errors import MeasurementError
from lit_fa.callbacks.probe import Batch, Periodic, learner_of
from lit_fa.callbacks.whole_training_set import check_squared_error, whole_training_set
from lit_fa.functional.criteria import outputs_wanted
from lit_fa.functional.error_bound import error_bound, smallest_eigenvalue
from lit_fa.layers.observing import calls, observing
from lit_fa.rules.learner import Learner


class ErrorBound(Periodic):
    r"""Logs after every step, on all training samples:

    * `bound/error`: the norm of the errors, divided by that of the targets;
    * `bound/slack`: the bound of `functional.error_bound` minus the norm, divided by the norm before the step. A
      negative value violates the bound.

    When training ends, also `bound/violated`, the percentage of steps that violate it, `bound/slack_min`, and
    `bound/rate`, $\eta\gamma/4$ at the last step.

    Raises:
        MeasurementError: another criterion than `mse`, more than one batch an epoch, an optimiser that is not plain
            SGD (weight decay is allowed), several learning rates, clipping, augmented images, or a federated run.
    """

    needs_every_batch: ClassVar[bool] = False  # only `on_before_optimizer_step`

    def __init__(self) -> None:
        """See the class."""
        super().__init__(every_n_steps=1)
        self.gamma = 0.0
        self.norm = 0.0  # of the errors, before the next step
        self.decrease = (0.0, 0.0)  # of the next step: eta and eta * lambda
        self.slacks: list[float] = []

    def prepare(self, trainer: L.Trainer, module: L.LightningModule, batch: Batch) -> None:
        """Check the run, and store the training set and the smallest eigenvalue at step 0.

        Raises:
            MeasurementError: the run is not full-batch gradient descent on the squared error.
        """
        check_squared_error(module, "ErrorBound")
        if trainer.num_training_batches != 1:
            raise MeasurementError("ErrorBound is of full-batch steps: set batch_size to the number of training images")
        if not is_gradient_descent(trainer.optimizers[0]) or getattr(module, "clip", None) is not None:
            raise MeasurementError(
                "ErrorBound is of gradient descent: use torch.optim.SGD without momentum, with one rate and one decay, "
                "and no clip"
            )
        self.data = whole_training_set(trainer, module)
        if not self.slacks:
            learner = learner_of(module)
            self.gamma = smallest_eigenvalue(last_hidden(learner.network, self.data[0]))
            self.norm = _norms(learner, self.data)[0]

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: Any, optimizer: torch.optim.Optimizer) -> None:
        """Store the step's size and decay."""
        group, outputs = optimizer.param_groups[0], pl_module.num_classes
        rate, samples = float(group["lr"]), 0 if self.data is None else len(self.data[0])
        self.decrease = (2 * rate / (samples * outputs), rate * float(group["weight_decay"]))

    def measure(self, learner: Learner, batch: Batch) -> dict[str, float]:
        """Error and slack, by key; the stored norm is that before the step."""
        norm, target = _norms(learner, batch)
        step, decay = self.decrease
        values = {"bound/error": norm / target}
        if step:
            slack = (error_bound(self.norm, target, step, self.gamma, decay) - norm) / self.norm
            self.slacks.append(slack)
            values["bound/slack"] = slack
        self.norm = norm
        return values

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the summary, and release the training set."""
        self.data = None
        slacks = torch.tensor(self.slacks, dtype=torch.float64)
        violated = 100 * (slacks < 0).double().mean().item()
        values = {"bound/violated": violated, "bound/slack_min": slacks.min().item()}
        publish(trainer, pl_module, values | {"bound/rate": self.decrease[0] * self.gamma / 4}, monitored=False)

    def state_dict(self) -> dict[str, Any]:
        """The state with which a resumed run continues."""
        return {"gamma": self.gamma, "norm": self.norm, "slacks": self.slacks}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state."""
        self.gamma, self.norm, self.slacks = state["gamma"], state["norm"], list(state["slacks"])


@torch.no_grad()
def _norms(learner: Learner, batch: Batch) -> tuple[float, float]:
    """Norms of errors and of targets over the training set."""
    inputs, targets = batch
    with observing(learner.network):
        outputs = learner.network(inputs).double()
    wanted = outputs_wanted(targets, outputs)
    return torch.linalg.norm(outputs - wanted).item(), torch.linalg.norm(wanted).item()


def is_gradient_descent(optimizer: torch.optim.Optimizer) -> bool:
    """Whether it is plain SGD, with the same rate and decay for all parameters."""
    groups = optimizer.param_groups
    plain = type(optimizer) is torch.optim.SGD and not any(g["momentum"] or g["maximize"] for g in groups)
    return plain and len({(g["lr"], g["weight_decay"]) for g in groups}) == 1


def last_hidden(network: nn.Module, inputs: Tensor) -> Tensor:
    """The input (n, u) of the last linear layer that a forward pass calls."""
    layers = [name for name, m in network.named_modules() if isinstance(m, nn.Linear)]
    return calls(network, inputs, layers)[-1].inputs[0].flatten(1)

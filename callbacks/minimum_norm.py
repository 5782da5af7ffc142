"""The distance of a linear network from the minimum-norm solution of its training set."""

import lightning as L
import torch
from torch import Tensor, nn

from lit_fa.callbacks.errors import MeasurementError
from lit_fa.callbacks.probe import Batch, Periodic, learner_of
from lit_fa.callbacks.whole_training_set import check_squared_error, whole_training_set
from lit_fa.functional.criteria import outputs_wanted
from lit_fa.functional.minimum_norm import from_minimum_norm
from lit_fa.rules.learner import Learner


class MinimumNorm(Periodic):
    """Logs `minimum_norm/distance`, `/outside` and `/norm`: see `functional.minimum_norm.Distances`.

    The pseudo-inverse of all training inputs is computed at every measurement, so a training set has a few thousand
    samples at most.

    Args:
        every_n_steps: optimiser steps between two measurements; 0: at the end of every epoch.

    Raises:
        MeasurementError: a network that is not linear or has a bias, another criterion than `mse`, augmented
            images, or a federated run.
    """

    def prepare(self, trainer: L.Trainer, module: L.LightningModule, batch: Batch) -> None:
        """Check the network, and store the training set."""
        check_squared_error(module, "MinimumNorm")
        self.data = whole_training_set(trainer, module)
        check_linear(learner_of(module).network, self.data[0][:64])

    @torch.no_grad()
    def measure(self, learner: Learner, batch: Batch) -> dict[str, float]:
        """The three norms, by key; `batch` is the whole training set."""
        inputs, targets = batch
        product = product_of_layers(learner.network)
        wanted = outputs_wanted(targets, product.new_zeros(len(inputs), len(product)))
        return {
            f"minimum_norm/{k}": v for k, v in from_minimum_norm(product, inputs.flatten(1), wanted)._asdict().items()
        }

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Release the training set."""
        self.data = None


def product_of_layers(network: nn.Module) -> Tensor:
    """(c, i) float64: the product of the weights of all linear layers, the last first."""
    weights = [m.weight.detach().double() for m in network.modules() if isinstance(m, nn.Linear)]
    return torch.linalg.multi_dot(weights[::-1]) if len(weights) > 1 else weights[0]


@torch.no_grad()
def check_linear(network: nn.Module, inputs: Tensor) -> None:
    """Refuse a network whose outputs are not the product of its linear layers times the inputs (n, ...).

    Raises:
        MeasurementError: the network is another map.
    """
    expected = inputs.flatten(1).double() @ product_of_layers(network).t()
    outputs = network(inputs)
    tolerance = torch.finfo(outputs.dtype).eps ** 0.5
    if not torch.allclose(outputs.double(), expected, rtol=tolerance, atol=tolerance * expected.abs().max().item()):
        raise MeasurementError(
            "MinimumNorm measures linear networks: set network_args: {activation: identity, bias: false}"
        )

"""The small networks on which every rule is tested, in float64, with one input shape each."""

from collections.abc import Callable

from torch import Tensor, nn

CLASSES = 5


class Residual(nn.Module):
    """x + inside(x)."""

    def __init__(self, *inside: nn.Module):
        super().__init__()
        self.inside = nn.Sequential(*inside)

    def forward(self, x: Tensor) -> Tensor:
        """The sum."""
        inside: Tensor = self.inside(x)
        return x + inside


class ByKeyword(nn.Sequential):
    """A chain whose layers get their input by keyword."""

    def forward(self, input: Tensor) -> Tensor:
        """The output of the last layer."""
        for layer in self:
            input = layer(input=input)
        return input


class Mean(nn.Module):
    """The mean over some dimensions: tokens, or positions of a map."""

    def __init__(self, *dims: int):
        super().__init__()
        self.dims = dims

    def forward(self, x: Tensor) -> Tensor:
        """The mean."""
        return x.mean(self.dims)


def mlp() -> nn.Module:
    """Three hidden layers, one of them without a bias."""
    return nn.Sequential(
        nn.Linear(12, 10), nn.Tanh(), nn.Linear(10, 8, bias=False), nn.ReLU(), nn.Linear(8, 7), nn.Tanh(),
        nn.Linear(7, CLASSES),
    )  # fmt: skip


def small_conv() -> nn.Module:
    """Stride, groups, dilation, unequal kernels and every padding mode."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(4, 6, 3, padding=2, dilation=2, groups=2, bias=False, padding_mode="reflect"), nn.Tanh(),
        nn.Conv2d(6, 4, (3, 2), padding="same"), nn.ReLU(),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"), nn.Tanh(),
        nn.Conv2d(4, 3, 2, stride=2, padding=(1, 0), padding_mode="replicate"), nn.Tanh(),
        nn.Flatten(), nn.Linear(18, CLASSES),
    )  # fmt: skip


def tokens() -> nn.Module:
    """Inputs of rank three, as in a Transformer's linear layers."""
    return nn.Sequential(
        nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 7), nn.ReLU(), Mean(1), nn.Linear(7, 6), nn.Tanh(),
        nn.Linear(6, CLASSES),
    )  # fmt: skip


def residual() -> nn.Module:
    """Two blocks with a shortcut, and a mean over positions."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.Tanh(),
        Residual(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1, bias=False)), nn.Tanh(),
        Residual(nn.Conv2d(4, 4, 1), nn.Tanh(), nn.Conv2d(4, 4, 3, padding=1)), nn.ReLU(),
        Mean(2, 3), nn.Linear(4, CLASSES),
    )  # fmt: skip


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (mlp, (12,)),
    "small_conv": (small_conv, (2, 8, 8)),
    "tokens": (tokens, (3, 6)),
    "residual": (residual, (2, 5, 5)),
}

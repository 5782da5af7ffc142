"""Pure functions of image batches: resize, scale, crop, flip. Legend: n images, c channels, h height, w width."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torchvision.transforms.v2 import functional as vision

from lit_fa.datamodules.generators import Draws

CHUNK = 4096  # images per resize call: bounds the float copy that interpolation makes


def resized(images: Tensor, size: int) -> Tensor:
    """Images (n, c, h, w) uint8 as (n, c, size, size) uint8: bilinear with antialiasing, aspect ratio not kept."""
    if images.shape[-2:] == (size, size):
        return images
    return torch.cat([vision.resize(part, [size, size], antialias=True) for part in images.split(CHUNK)])


def scale_and_shift(normalize: str, mean: Sequence[float], std: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Scale and shift, each (c, 1, 1) float64, that map pixels 0..255 to network inputs.

    standard: (pixel/255 - mean) / std; unit: pixel/255; none: the pixel itself.
    """
    means, stds = (torch.tensor(list(values), dtype=torch.float64).view(-1, 1, 1) for values in (mean, std))
    if normalize == "standard":
        return 1 / (255 * stds), -means / stds
    scale = 1 / 255 if normalize == "unit" else 1.0
    return torch.full_like(stds, scale), torch.zeros_like(means)


def statistics(images: Tensor) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel of (n, c, h, w) uint8, in units of [0, 1]."""
    totals, squares = torch.zeros(2, images.shape[1], dtype=torch.float64)
    for part in images.split(CHUNK):
        pixels = part.double() / 255
        totals += pixels.sum((0, 2, 3))
        squares += pixels.square().sum((0, 2, 3))
    count = images.numel() // images.shape[1]
    mean = totals / count
    return mean.tolist(), (squares / count - mean.square()).clamp(min=1e-12).sqrt().tolist()


def flip(images: Tensor, draws: Draws) -> Tensor:
    """Mirror each image left to right with probability one half, drawn per image."""
    chosen = draws.integers("flip", 2).to(images.device).bool().view(-1, 1, 1, 1)
    return torch.where(chosen, images.flip(-1), images)


def crop(images: Tensor, draws: Draws, *, padding: int = 4) -> Tensor:
    """Shift each image by up to `padding` pixels in each direction, drawn per image; the border is filled with zeros.

    This is a random crop of the zero-padded image (He et al. 2016, section 4.2), as one gather over the batch.
    """
    n, c, h, w = images.shape
    corner = draws.integers("crop", 2 * padding + 1, 2).to(images.device)
    rows = corner[:, :1] + torch.arange(h, device=images.device)
    columns = corner[:, 1:] + torch.arange(w, device=images.device)
    width = w + 2 * padding
    places = (rows[:, :, None] * width + columns[:, None, :]).view(n, 1, h * w).expand(n, c, h * w)
    padded = pad(images, [padding] * 4).flatten(2)
    return padded.gather(2, places).view(n, c, h, w)


def apply_seeded(transforms: Sequence[nn.Module], images: Tensor, seed: int) -> Tensor:
    """Apply torchvision transforms to the batch with their own random state; the global one is not changed."""
    devices = [images.device] if images.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        for transform in transforms:
            images = transform(images)
    return images

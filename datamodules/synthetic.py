"""Generated images with the interface of a real data set, for tests and smoke runs without a download."""

from typing import Any

import torch

from lit_fa.datamodules.errors import require
from lit_fa.datamodules.generators import generator
from lit_fa.datamodules.image_set import InMemory
from lit_fa.datamodules.vision import VisionDataModule


class Synthetic(VisionDataModule):
    """One random prototype for each class plus noise on every image; a linear network can learn it.

    Args:
        n_train: number of training images.
        n_test: number of test images.
        image_shape: (channels, height, width).
        num_classes: number of classes, with equal shares.
        data_seed: determines prototypes and noise.
        noise: standard deviation of the pixel noise; prototypes have deviation 1.
    """

    licence = "generated"
    mean, std = None, None

    def __init__(
        self,
        n_train: int = 1024,
        n_test: int = 256,
        image_shape: tuple[int, int, int] = (1, 28, 28),
        num_classes: int = 10,
        data_seed: int = 0,
        noise: float = 1.0,
        **options: Any,
    ) -> None:
        require(min(n_train, n_test, num_classes) >= 1, "n_train, n_test and num_classes must be at least 1")
        require(len(image_shape) == 3 and min(image_shape) >= 1, "image_shape is (channels, height, width), each >= 1")
        require(0 <= noise < float("inf"), f"noise={noise}: a standard deviation is finite and at least 0")
        self.sizes = {"train": n_train, "test": n_test}
        channels, height, width = image_shape
        self.image_shape, self.num_classes = (channels, height, width), num_classes
        self.data_seed, self.noise = data_seed, noise
        super().__init__(**options)
        self._source_shape = tuple(image_shape)

    def read(self, split: str) -> InMemory:
        """Images (n, *image_shape): 128 + 40 * (prototype + noise), and labels 0, 1, ..., 0, 1, ..."""
        labels = torch.arange(self.sizes[split]) % self.num_original_classes
        prototypes = torch.randn(
            self.num_original_classes, *self._source_shape, generator=generator("prototypes", self.data_seed)
        )
        noise = torch.randn(len(labels), *self._source_shape, generator=generator(split, self.data_seed))
        pixels = 128 + 40 * (prototypes[labels] + self.noise * noise)
        return InMemory(pixels.clamp(0, 255).to(torch.uint8), labels)

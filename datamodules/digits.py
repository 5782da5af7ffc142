"""The 1,797 handwritten digits that are part of scikit-learn: real data without a network."""

from functools import cache

import torch
from torch import Tensor

from lit_fa.datamodules.image_set import InMemory
from lit_fa.datamodules.vision import VisionDataModule

TEST_IMAGES, SPLIT_SEED = 360, 0  # our split: scikit-learn has no official one


class Digits(VisionDataModule):
    """8x8 digits (Alpaydin and Kaynak 1998, the test part), 1,437 + 360, with the same class shares in both.

    Pixels 0..16 are stored as round(255/16 * pixel).
    """

    licence = "CC BY 4.0"
    num_classes = 10
    image_shape = (1, 8, 8)
    mean, std = (0.3054,), (0.3760,)

    def read(self, split: str) -> InMemory:
        """Images (n, 1, 8, 8) and labels."""
        images, labels = _parts()[split == "train"]
        return InMemory(images.clone(), labels.clone())


@cache
def _parts() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Images and labels of test and train, which scikit-learn would otherwise parse from text for every run."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    source = load_digits()
    train, test = train_test_split(
        range(len(source.target)), test_size=TEST_IMAGES, random_state=SPLIT_SEED, stratify=source.target
    )
    images = (torch.from_numpy(source.images) * (255 / 16)).round().to(torch.uint8).unsqueeze(1)
    labels = torch.from_numpy(source.target).long()
    first, second = torch.tensor(sorted(test)), torch.tensor(sorted(train))
    return (images[first], labels[first]), (images[second], labels[second])

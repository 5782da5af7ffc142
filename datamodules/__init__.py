"""Image and text data sets as LightningDataModules.

The number of classes and the image shape are known after construction, the data after `setup`. Batches are on the
training device.
"""

from lit_fa.datamodules.cifar import CIFAR10, CIFAR100
from lit_fa.datamodules.digits import Digits
from lit_fa.datamodules.errors import DataError
from lit_fa.datamodules.federated import Federated
from lit_fa.datamodules.folder import ImageFolder, Imagenette
from lit_fa.datamodules.glue import GLUE
from lit_fa.datamodules.medical import MedMNIST
from lit_fa.datamodules.mnist import EMNIST, KMNIST, MNIST, FashionMNIST
from lit_fa.datamodules.npz import Npz
from lit_fa.datamodules.stl10 import STL10
from lit_fa.datamodules.svhn import SVHN
from lit_fa.datamodules.synthetic import Synthetic
from lit_fa.datamodules.vision import VisionDataModule

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "EMNIST",
    "GLUE",
    "KMNIST",
    "MNIST",
    "STL10",
    "SVHN",
    "DataError",
    "Digits",
    "FashionMNIST",
    "Federated",
    "ImageFolder",
    "Imagenette",
    "MedMNIST",
    "Npz",
    "Synthetic",
    "VisionDataModule",
]

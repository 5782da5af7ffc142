"""Image and text data sets as LightningDataModules.

The number of classes and the image shape are known after construction, the data after `setup`. Batches are on the
training device.
"""

from datamodules.cifar import CIFAR10, CIFAR100
from datamodules.digits import Digits
from datamodules.errors import DataError
from datamodules.federated import Federated
from datamodules.folder import ImageFolder, Imagenette
from datamodules.glue import GLUE
from datamodules.medical import MedMNIST
from datamodules.mnist import EMNIST, KMNIST, MNIST, FashionMNIST
from datamodules.npz import Npz
from datamodules.stl10 import STL10
from datamodules.svhn import SVHN
from datamodules.synthetic import Synthetic
from datamodules.vision import VisionDataModule

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

"""Pure functions of a label vector: selection of images, relabelling, label noise, hold-out."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lit_fa.datamodules.errors import DataError, require
from lit_fa.datamodules.generators import generator


def choose_classes(classes: Sequence[int] | int | None, num_classes: int, seed: int) -> list[int] | None:
    """The classes to keep: None for all, a list unchanged, a number k for k classes drawn by `seed` (ascending).

    Raises:
        DataError: a class that does not exist or occurs twice, or k outside 1..num_classes.
    """
    if classes is None:
        return None
    if isinstance(classes, int):
        require(1 <= classes <= num_classes, f"classes={classes}: give a number from 1 to {num_classes}, or a list")
        return sorted(torch.randperm(num_classes, generator=generator("classes", seed))[:classes].tolist())
    unknown = [index for index in classes if not 0 <= index < num_classes]
    require(not unknown, f"classes: {unknown} do not exist; this set has the classes 0 to {num_classes - 1}")
    require(len(set(classes)) == len(classes) > 0, "classes: give at least one class, and each one once")
    return list(classes)


def only_classes(labels: Tensor, classes: list[int] | None) -> tuple[Tensor, Tensor]:
    """Indices of the images of `classes`, and their new labels: the index of the old label in the list.

    >>> only_classes(torch.tensor([7, 3, 1, 7]), [3, 7])
    (tensor([0, 1, 3]), tensor([1, 0, 1]))
    """
    if classes is None:
        return torch.arange(len(labels)), labels
    new = torch.full((max(int(labels.max()), *classes) + 1,), -1)
    new[classes] = torch.arange(len(classes))
    relabelled = new[labels]
    chosen = (relabelled >= 0).nonzero().flatten()
    return chosen, relabelled[chosen]


def whole_numbers(labels: np.ndarray, where: str) -> Tensor:
    """Labels as int64, from integers, booleans or floats without a fraction; `where` starts the error message.

    Raises:
        DataError: text, or a number that is not whole.

    >>> whole_numbers(np.array([0.0, 2.0]), "here")
    tensor([0, 2])
    """
    require(labels.dtype.kind in "biuf", f"{where} are {labels.dtype}, not whole numbers: number the classes from 0")
    if labels.dtype.kind == "f":
        odd = labels[~(np.isfinite(labels) & (labels == np.floor(labels)))]
        require(
            odd.size == 0, f"{where} have the value {odd[:1].item() if odd.size else ''}: a class is a whole number"
        )
    return torch.from_numpy(labels.astype(np.int64))


def check_every_class(labels: Tensor, num_classes: int, where: str, offset: int = 0) -> None:
    """Check that every class from 0 to num_classes - 1 has a training label.

    Args:
        labels: training labels (n,), from 0.
        num_classes: c, the largest label of any split plus one.
        where: the file, for the message.
        offset: number that was subtracted from the labels of the file.

    Raises:
        DataError: a class has none; the message names the possible remedies.
    """
    present = labels.unique().tolist()
    missing = sorted(set(range(num_classes)) - set(present))
    if not missing:
        return
    if missing == list(range(present[0])):
        smallest = present[0] + offset
        raise DataError(f"{where}: the training labels begin at {smallest}: set label_offset: {smallest}")
    in_file = [label + offset for label in present]
    raise DataError(
        f"{where}: no training image has the label {_listed([label + offset for label in missing])}: set "
        f"num_classes: {num_classes} if there are such classes, or classes: {_listed(present, '[]')} to number "
        f"those of {_listed(in_file)} from 0 on"
    )


def _listed(numbers: Sequence[int], brackets: str = "") -> str:
    shown = ", ".join(map(str, numbers[:8])) + (", ..." if len(numbers) > 8 else "")
    return f"{brackets[:1]}{shown}{brackets[1:]}"


def check_range(labels: Tensor, num_classes: int, where: str) -> None:
    """Check that there is at least one label and that all are in 0..num_classes-1.

    Raises:
        DataError: otherwise.
    """
    require(len(labels) > 0, f"{where}: there are no images in it; check the file or folder")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise DataError(
            f"{where}: labels run from {low} to {high}, but there are {num_classes} classes, 0 to {num_classes - 1}; "
            "correct the file or set label_offset to its smallest label"
        )


def replace_labels(
    labels: Tensor, share: float, num_classes: int, seed: int, *, exclude_true_class: bool = False
) -> Tensor:
    """Symmetric label noise: exactly round(share * n) images get a class drawn uniformly from all classes.

    The images and their new classes depend only on `seed` and n; a larger share adds images to those of a smaller one.
    By default the drawn class may be the true one, so a share of 0.4 leaves 0.6 + 0.4 / num_classes of the labels
    correct.
    """
    stream = generator("label noise", seed)
    chosen = torch.randperm(len(labels), generator=stream)[: round(share * len(labels))]
    if exclude_true_class:
        drawn = (labels + torch.randint(1, max(num_classes, 2), labels.shape, generator=stream)) % num_classes
    else:
        drawn = torch.randint(num_classes, labels.shape, generator=stream)
    noisy = labels.clone()
    noisy[chosen] = drawn[chosen]
    return noisy


def hold_out(n: int, size: int | float, seed: int) -> tuple[Tensor, Tensor]:
    """Split 0..n-1 into (training, held out), both ascending; a float `size` is a share of n (at least one image).

    Raises:
        DataError: no training image is left.
    """
    number = max(round(size * n), size > 0) if isinstance(size, float) else size
    require(number < n, f"val_size={size} leaves no training image: there are {n}; choose a smaller val_size")
    order = torch.randperm(n, generator=generator("validation", seed))
    return order[number:].sort().values, order[:number].sort().values


def balanced_order(labels: Tensor, seed: int) -> Tensor:
    """An order (n,) of all images in which the first k images have classes as even as possible, for every k.

    >>> labels = torch.tensor([0, 0, 0, 0, 1, 1])
    >>> sorted(labels[balanced_order(labels, seed=0)[:4]].tolist())
    [0, 0, 1, 1]
    """
    shuffled = torch.randperm(len(labels), generator=generator("limit", seed))
    position = torch.empty_like(shuffled)  # index of each image within its class
    for label in labels.unique():
        members = (labels[shuffled] == label).nonzero().flatten()
        position[members] = torch.arange(len(members))
    return shuffled[position.argsort(stable=True)]


def proportional_order(labels: Tensor, seed: int) -> Tensor:
    """An order (n,) of all samples in which the first k have nearly the class shares of the whole set, for every k.

    >>> labels = torch.tensor([0, 0, 0, 0, 1, 1])
    >>> sorted(labels[proportional_order(labels, seed=0)[:3]].tolist())
    [0, 0, 1]
    """
    shuffled = torch.randperm(len(labels), generator=generator("validation", seed))
    position = torch.empty(len(labels), dtype=torch.float64)  # of each sample within its class, from 0 to 1
    for label in labels.unique():
        members = (labels[shuffled] == label).nonzero().flatten()
        position[members] = (torch.arange(len(members), dtype=torch.float64) + 0.5) / len(members)
    return shuffled[position.argsort(stable=True)]

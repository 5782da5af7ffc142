"""A checksum of the samples that were read, which goes into the record of a run."""

import hashlib
from typing import Any

import torch
from torch import Tensor

from lit_fa.datamodules.image_set import ImageSet, OnDisk
from lit_fa.datamodules.text_set import TextSet


def sha256_of(*parts: ImageSet | TextSet) -> str:
    """SHA-256 of the samples and labels as they were read, before any choice, noise or normalisation.

    Of images in memory and of texts the numbers count; of image files the names (of file and folder) and the sizes,
    because all pixels would have to be decoded.
    """
    digest = hashlib.sha256()
    for part in parts:
        tensors = [part.labels]
        if isinstance(part, OnDisk):
            for path in part.paths:
                digest.update(f"{path.parent.name}/{path.name} {path.stat().st_size}\n".encode())
        elif isinstance(part, TextSet):
            tensors += [part.tokens, part.lengths]
        else:
            tensors.append(part.images)
        for tensor in tensors:
            digest.update(f"{tuple(tensor.shape)} {tensor.dtype}\n".encode())
            digest.update(_bytes(tensor))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    array: Any = tensor.contiguous().cpu().view(torch.uint8).numpy().reshape(-1)
    return memoryview(array)

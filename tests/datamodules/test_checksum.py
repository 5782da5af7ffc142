"""The licence of a data set, and the checksum of what was read."""

import pytest
import torch

from lit_fa.datamodules import MNIST, Digits, Federated, MedMNIST, Synthetic
from lit_fa.datamodules.checksum import sha256_of
from lit_fa.datamodules.image_set import InMemory, OnDisk
from lit_fa.datamodules.text_set import TextSet


def checksum(data) -> str:
    data.setup()
    return data.checksum


def test_the_checksum_is_of_what_was_read_and_not_of_what_was_made_of_it():
    plain = checksum(Digits())
    assert plain == checksum(Digits(limit_train=64, val_size=10, label_noise=0.5, normalize="unit", classes=[1, 2]))
    assert len(plain) == 64
    assert checksum(Synthetic(n_train=8, n_test=8)) != checksum(Synthetic(n_train=8, n_test=8, data_seed=1))


def test_a_changed_pixel_or_label_changes_the_checksum():
    images, labels = torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.arange(3)
    other = images.clone()
    other[1, 0, 1, 1] = 1
    sums = {sha256_of(InMemory(*pair)) for pair in ((images, labels), (other, labels), (images, labels.flip(0)))}
    assert len(sums) == 3


def test_files_and_texts_have_one_too(tmp_path):
    (tmp_path / "a.png").write_bytes(b"12")
    files = OnDisk((tmp_path / "a.png",), torch.zeros(1, dtype=torch.int64), 8)
    before = sha256_of(files)
    (tmp_path / "a.png").write_bytes(b"123")
    assert sha256_of(files) != before
    texts = [TextSet(*map(torch.tensor, ([7, 8, last], [0, 0, 1], [0, 1], [1, 2], [1, 0]))) for last in (9, 10)]
    assert sha256_of(texts[0]) != sha256_of(texts[1])


@pytest.mark.parametrize(
    ("data", "licence"),
    [(Digits(), "CC BY 4.0"), (MNIST(), "CC BY-SA 3.0"), (MedMNIST("dermamnist"), "CC BY-NC 4.0")],
)
def test_data_sets_declare_their_licence(data, licence):
    assert data.licence == licence
    assert Federated(data).data.licence == licence

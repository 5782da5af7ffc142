"""The 1,797 handwritten digits that are part of scikit-learn: real data without a network."""

import gzip
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lit_fa.datamodules.errors import DataError
from lit_fa.datamodules.image_set import InMemory
from lit_fa.datamodules.vision import VisionDataModule

# Our split, as scikit-learn has no official one: bit i is set if image i is one of the 360 test images, drawn with the
# same shares of classes by scikit-learn's `train_test_split` with seed 0.
TEST = int(
    "00a8251c80484240414030058109010615108420243402654411004100c14080701601032203209414cc0084050821008070"
    "080000981003c0101c008100411080007160200403013200100108106386a1d021000a5018250542020001220068408156ec"
    "216202200100838202404012180520100210d0000000501965043c8015c100212440009023704000080c001202a000080510"
    "02080023a0120004018100001b2002000000500502429224a822041150100005088140051f04204898090050290008004834"
    "60140024008010005800a042c900826000020824ac11200000",
    base=16,
)
FILE = "datasets/data/digits.csv.gz"  # in scikit-learn's package


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
    """Images and labels of test and train, which would otherwise be parsed from text for every run.

    scikit-learn is not imported: with pandas it takes half as long as torch.
    """
    rows = torch.from_numpy(np.loadtxt(gzip.decompress(_file().read_bytes()).splitlines(), delimiter=","))
    images = (rows[:, :-1].reshape(-1, 8, 8) * (255 / 16)).round().to(torch.uint8).unsqueeze(1)
    labels = rows[:, -1].long()
    is_test = torch.tensor([bool(TEST >> i & 1) for i in range(len(rows))])
    return (images[is_test], labels[is_test]), (images[~is_test], labels[~is_test])


def _file() -> Path:
    """The file in scikit-learn's package.

    Raises:
        DataError: scikit-learn is not installed, or has no such file.
    """
    package = find_spec("sklearn")
    files = [Path(folder, FILE) for folder in (package.submodule_search_locations or () if package else ())]
    for file in files:
        if file.is_file():
            return file
    raise DataError(f"Digits reads {FILE} of scikit-learn, which is not there: pip install scikit-learn")

"""STL-10, its labelled part."""

from pathlib import Path

import torchvision.datasets as tv

from lit_fa.datamodules.svhn import SVHN


class STL10(SVHN):  # the same reader arguments and fields
    """The labelled part of STL-10, 5,000 + 8,000 images of 96x96 (Coates et al. 2011)."""

    source = tv.STL10
    licence = "not stated; images of ImageNet"
    image_shape = (3, 96, 96)
    mean, std = (0.4467, 0.4398, 0.4066), (0.2603, 0.2566, 0.2713)

    def checksums(self) -> list[tuple[Path, str]]:
        """The unpacked files, then the archive."""
        source = self.source
        files = [(self.root / source.base_folder / name, md5) for name, md5 in source.train_list + source.test_list]
        return [*files, (self.root / source.filename, source.tgz_md5)]

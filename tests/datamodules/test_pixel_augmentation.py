import pytest
import torch

from lit_fa.datamodules import Synthetic
from lit_fa.datamodules.generators import Draws
from lit_fa.datamodules.pixels import crop, flip, resized, statistics


def images(n: int = 64) -> torch.Tensor:
    return torch.randint(1, 256, (n, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def draws(n: int = 64, **place: int) -> Draws:
    return Draws(**({"seed": 0, "epoch": 0, "batch": 0, "size": n} | place))


def test_every_cropped_image_is_a_window_of_its_padded_image():
    source = images()
    padded = torch.nn.functional.pad(source, [4] * 4)
    cropped = crop(source, draws())
    for image, whole in zip(cropped, padded, strict=True):
        windows = whole.unfold(1, 8, 1).unfold(2, 8, 1)  # (c, 9, 9, 8, 8)
        assert (windows == image[:, None, None]).all(-1).all(-1).all(0).any()


def test_crops_are_drawn_for_each_image():
    same = images(1).expand(200, -1, -1, -1)
    assert len(crop(same, draws(200)).flatten(1).unique(dim=0)) > 60  # of 81 places


def test_flips_mirror_about_half_of_the_images():
    source = images(400)
    flipped = flip(source, draws(400))
    mirrored = (flipped == source.flip(-1)).flatten(1).all(1)
    assert torch.equal(flipped[~mirrored], source[~mirrored])
    assert mirrored.double().mean().item() == pytest.approx(0.5, abs=0.1)  # four standard deviations


def test_jitter_shifts_by_up_to_two_pixels_and_never_flips():
    data = Synthetic(n_train=400, n_test=10, augment="jitter", normalize="none")
    data.setup()
    source = torch.zeros(400, 1, 8, 8, dtype=torch.uint8)
    source[:, :, 3, 3], source[:, :, 3, 4] = 1, 2
    found = {tuple(image[0].flatten().topk(2).indices.tolist()) for image in data.augmented(source, draws(400))}
    assert found == {(8 * r + c + 1, 8 * r + c) for r in range(1, 6) for c in range(1, 6)}


@pytest.mark.parametrize("change", [{"seed": 1}, {"epoch": 1}, {"batch": 1}])
def test_draws_differ_between_seeds_epochs_and_batches(change):
    assert torch.equal(crop(images(), draws()), crop(images(), draws()))
    assert not torch.equal(crop(images(), draws()), crop(images(), draws(**change)))


def test_augmentation_leaves_evaluation_alone():
    plain, augmented = (Synthetic(n_train=20, n_test=10, augment=name) for name in ("none", "crop_flip"))
    plain.setup()
    augmented.setup()
    assert torch.equal(plain.test_set.images, augmented.test_set.images)
    train = [torch.cat([batch for batch, _ in data.train_dataloader()]) for data in (plain, augmented)]
    assert not torch.equal(*train)


def test_statistics_are_those_of_all_pixels():
    source = images(5000)  # more than one part
    mean, std = statistics(source)
    pixels = source.double() / 255
    assert mean == pytest.approx(pixels.mean((0, 2, 3)).tolist())
    assert std == pytest.approx(pixels.std((0, 2, 3), correction=0).tolist())


def test_resizing_keeps_a_uniform_image_uniform():
    assert (resized(torch.full((3, 1, 8, 8), 77, dtype=torch.uint8), 20) == 77).all()

import torch
from tiny import recipe

from gmsop.training.augment import augment_pixels, mix, random_flip, shift_crop


def test_flips():
    images = torch.arange(400 * 3 * 2 * 2, dtype=torch.float).reshape(400, 3, 2, 2)
    ways = {"none": {"none"}, "both": {"none"}, "random": {"none", "left to right"}}
    for flip, expected in (ways | {"all": {"none", "left to right", "upside down", "both"}}).items():
        found = set()
        for before, after in zip(images, random_flip(images, flip), strict=True):
            options = {"none": before, "left to right": before.flip(2), "upside down": before.flip(1)}
            options["both"] = before.flip(1, 2)
            found.add(next(way for way, option in options.items() if torch.equal(option, after)))
        assert found == expected, flip


def test_shift_crop_moves_each_image_and_fills_with_black():
    size, padding = 6, 2
    image = torch.arange(1, size * size * 3 + 1, dtype=torch.uint8).reshape(size, size, 3)
    padded = torch.zeros(size + 4, size + 4, 3, dtype=torch.uint8)
    padded[2:-2, 2:-2] = image
    crops = {
        (top, left): padded[top : top + size, left : left + size] for top in range(5) for left in range(5)
    }  # every place it can come from
    seen = set()
    for moved in shift_crop(image.expand(300, size, size, 3), padding):
        seen.add(next(place for place, crop in crops.items() if torch.equal(crop, moved)))
    assert seen == set(crops)


def test_nothing_is_done_unasked():
    images = torch.randint(0, 256, (4, 8, 8, 3), dtype=torch.uint8)
    labels = torch.tensor([0, 1, 2, 3])
    assert augment_pixels(images, recipe()) is images
    inputs = images.permute(0, 3, 1, 2).float()
    assert mix(inputs, labels, recipe(), 10) == (inputs, labels)


def test_randaugment_keeps_shape_and_type_and_differs_by_image():
    images = torch.randint(0, 256, (1, 16, 16, 3), dtype=torch.uint8).expand(12, 16, 16, 3)
    found = augment_pixels(images, recipe(randaugment=9))
    assert (found.shape, found.dtype) == (images.shape, torch.uint8)
    assert len({image.numpy().tobytes() for image in found}) > 3


def test_mix_blends_images_as_it_blends_labels():
    labels = torch.arange(4)
    images = labels[:, None, None, None].float().expand(4, 3, 10, 10)  # an image says its class in every pixel
    for changes in ({"mixup": 1.0}, {"cutmix": 1.0}, {"mixup": 0.2, "cutmix": 1.0}):
        mixed, shares = mix(images.clone(), labels, recipe(**changes), 4)
        assert shares.shape == (4, 4)
        assert torch.allclose(shares.sum(1), torch.ones(4))
        assert torch.allclose(mixed.mean((1, 2, 3)), shares @ labels.float(), atol=1e-5), changes


def test_both_kinds_of_mixing_take_turns():
    images, labels = torch.rand(4, 3, 10, 10), torch.arange(4)
    settings = recipe(mixup=1.0, cutmix=1.0)
    kinds = set()
    for _ in range(20):
        mixed, _ = mix(images, labels, settings, 4)
        kinds.add(bool((mixed == images).any()))  # a pasted box leaves the other pixels as they were
    assert kinds == {False, True}

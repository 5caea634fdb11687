"""Input defences against independent references, with the gradient that attacks follow."""

import json
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from medrobust.networks import (
    BitDepth,
    GaussianSmoothing,
    InputDefence,
    JPEGCompression,
    MedianSmoothing,
    RandomResizing,
)
from medrobust.networks.input_defences import content_uniform

DEFENCES: list[InputDefence] = [
    JPEGCompression(),
    BitDepth(),
    GaussianSmoothing(),
    MedianSmoothing(),
    RandomResizing(samples=3),
]
SIDE = 16


def images_of(count: int = 4, channels: int = 1) -> Tensor:
    return 0.2 + 0.6 * torch.rand(count, channels, SIDE, SIDE, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("defence", DEFENCES, ids=lambda one: type(one).__name__)
def test_every_defence_keeps_its_word(defence: InputDefence) -> None:
    for channels in (1, 3):
        images = images_of(channels=channels)
        before = images.clone()
        changed = defence(images)
        assert changed.shape == images.shape and changed.dtype == images.dtype
        assert 0 <= changed.min() and changed.max() <= 1 and not torch.equal(changed, images)
        assert torch.equal(images, before) and torch.equal(defence(images), changed)
        torch.testing.assert_close(defence(images[2:3]), changed[2:3])  # without its batch mates
        torch.testing.assert_close(defence(images.flip(0)).flip(0), changed)
        assert defence(images[:0]).shape == (0, channels, SIDE, SIDE)
    variable = images_of().requires_grad_()
    weights = torch.rand(4, 1, SIDE, SIDE)
    (gradient,) = torch.autograd.grad((defence(variable) * weights).sum(), variable)
    if defence.gradient == "straight_through":
        assert torch.equal(gradient, weights)
    assert (gradient != 0).float().mean() > 0.5
    described = defence.parameters()
    assert described["class"] == type(defence).__name__ and json.dumps(described)


def test_bit_depth_rounds_to_the_nearest_level() -> None:
    images = torch.tensor([0.0, 0.16, 0.17, 0.49, 0.51, 0.83, 0.84, 1.0]).view(1, 1, 2, 4)
    expected = torch.tensor([0.0, 0.0, 1, 1, 2, 2, 3, 3]).view(1, 1, 2, 4) / 3
    assert torch.equal(BitDepth(bits=2)(images), expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_the_file_that_opencv_writes(channels: int) -> None:
    images = (images_of(2, channels) * 255).round() / 255
    for image, changed in zip(images, JPEGCompression(quality=60)(images), strict=True):
        array = (image * 255).round().byte().permute(1, 2, 0).numpy()[:, :, ::-1]  # blue first
        _, file = cv2.imencode(".jpg", array, [cv2.IMWRITE_JPEG_QUALITY, 60])
        expected = cv2.imdecode(file, cv2.IMREAD_UNCHANGED).reshape(SIDE, SIDE, channels)[:, :, ::-1]
        assert np.abs(changed.permute(1, 2, 0).numpy() * 255 - expected).max() <= 4.01  # roundings of two libraries


def test_smoothing_is_that_of_scipy() -> None:
    image = images_of(1)
    array = image[0, 0].numpy()
    smooth = ndimage.gaussian_filter(array, 1.5, mode="mirror", truncate=5 / 1.5)  # 5 pixels, as 3 x 1.5 rounded up
    np.testing.assert_allclose(GaussianSmoothing(sigma=1.5)(image)[0, 0].numpy(), smooth, atol=1e-5)
    median = ndimage.median_filter(array, 5, mode="mirror")
    assert np.array_equal(MedianSmoothing(size=5)(image)[0, 0].numpy(), median)


def test_random_resizing_leaves_the_image_alone_at_its_full_size() -> None:
    torch.testing.assert_close(RandomResizing(smallest=1.0)(images_of()), images_of())


def test_random_resizing_shows_a_smaller_white_square_somewhere_in_black() -> None:
    whites = 1 - 1e-4 * images_of(200)  # nearly equal: an edge is bright or dark as a whole
    changed = RandomResizing(smallest=0.5)(whites)[:, 0] > 0.5
    high, wide = changed.any(2).sum(1), changed.any(1).sum(1)
    assert (high - wide).abs().max() <= 1 and high.min() >= 7 and high.max() <= 16
    missing = high * wide - changed.flatten(1).sum(1)
    assert missing.min() >= 0 and missing.max() <= 4  # a rectangle, whose corners may be dark
    sizes = high.double()
    assert abs(sizes.mean() - 12) < 0.6 and abs(sizes.std() - 8 / 12**0.5) < 0.6  # uniform from 8 to 16
    firsts = changed.any(2).int().argmax(1)
    assert {0, 3} <= set(firsts.tolist())


def test_random_numbers_follow_from_the_content_alone() -> None:
    images = images_of(400)
    numbers = content_uniform(images, 3, "a")
    assert torch.equal(content_uniform(images[7:9].contiguous(memory_format=torch.channels_last), 3, "a"), numbers[7:9])
    assert not torch.isclose(content_uniform(images, 3, "b"), numbers, atol=1e-6).any()
    assert 0 <= numbers.min() and numbers.max() < 1
    assert (numbers.mean(0) - 0.5).abs().max() < 0.06  # four standard deviations of a mean of 400
    assert (torch.corrcoef(numbers.T) - torch.eye(3)).abs().max() < 0.2
    moved = images.clone()
    moved[:, 0, 3, 3] = torch.nextafter(moved[:, 0, 3, 3], torch.ones(()))
    apart = content_uniform(moved, 3, "a")
    assert (torch.corrcoef(torch.cat([numbers, apart], 1).T)[:3, 3:]).abs().max() < 0.2


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: JPEGCompression(quality=0), "quality of a JPEG file"),
        (lambda: BitDepth(bits=9), "bits is a whole number"),
        (lambda: GaussianSmoothing(sigma=0), "sigma is a positive number"),
        (lambda: MedianSmoothing(size=4), "odd side of a neighbourhood"),
        (lambda: RandomResizing(smallest=0), "smallest is a share"),
        (lambda: RandomResizing(samples=0), "samples counts draws"),
        (lambda: GaussianSmoothing(sigma=6)(images_of()), "reaches 18 pixels beyond the border"),
        (lambda: MedianSmoothing(size=33)(images_of()), "reaches 16 pixels beyond the border, .* have only 16"),
        (lambda: MedianSmoothing()(images_of()[:, :, :1, :1]), "reaches 1 pixels beyond the border, .* have only 1"),
        (lambda: JPEGCompression()(images_of(channels=2)), "1 or 3 channels, got 2"),
    ],
)
def test_settings_that_cannot_work_are_refused(build: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words) as refused:
        build()
    assert "\n" not in str(refused.value)

"""Geometry and augmentation of images: the only file that knows albumentations."""

import os
from dataclasses import dataclass
from typing import Literal, Protocol

import cv2
import numpy as np

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # the import would ask a server for the newest version

import albumentations as A

Resize = Literal["crop", "squash", "pad"]


class Transform(Protocol):
    """Turns an ``(H, W, C)`` float32 image into an ``(image_size, image_size, C)`` one, both in [0, 1]."""

    def __call__(self, image: np.ndarray, seed: int | None = None) -> np.ndarray:
        """Transformed image; the same seed draws the same augmentation."""
        ...


@dataclass(frozen=True)
class Augmentation:
    """Random changes of training images (Ma et al., arXiv:1907.10456, section 3.3: rotation, shift, flip).

    Args:
        rotation: Largest rotation to either side, in degrees, in [0, 180].
        shift: Largest shift along each axis, as a fraction of the side, in [0, 1).
        scale: Largest relative zoom in or out, in [0, 1).
        horizontal_flip: Probability of a mirror image, in [0, 1].
        brightness: Largest change of brightness, in units of the [0, 1] image range, in [0, 1].
        contrast: Largest relative change of contrast, in [0, 1].

    Raises:
        ValueError: A value lies outside its range.
    """

    rotation: float = 10.0
    shift: float = 0.05
    scale: float = 0.05
    horizontal_flip: float = 0.5
    brightness: float = 0.0
    contrast: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.rotation <= 180:
            raise ValueError(f"rotation is in degrees, from 0 to 180, got {self.rotation}")
        for name in ("shift", "scale"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is a fraction, at least 0 and below 1, got {getattr(self, name)}")
        for name in ("horizontal_flip", "brightness", "contrast"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is between 0 and 1, got {getattr(self, name)}")


class _Pipeline:
    """A list of albumentations behind the `Transform` protocol."""

    def __init__(self, steps: list[A.BasicTransform]) -> None:
        self.compose = A.Compose(steps)

    def __call__(self, image: np.ndarray, seed: int | None = None) -> np.ndarray:
        if seed is not None:  # albumentations has a random state of its own that follows no global seed
            self.compose.set_random_seed(seed)
        return np.asarray(self.compose(image=image)["image"]).clip(0, 1)


def evaluation_transform(image_size: int, resize: Resize = "crop") -> Transform:
    """The deterministic way of an image to a square: area interpolation when shrinking, bilinear when growing.

    Args:
        image_size: Side of the result, in pixels.
        resize: ``crop`` scales the short side and cuts the centre, ``squash`` changes the aspect ratio, ``pad``
            scales the long side and fills with black.
    """
    return _Pipeline(_square(image_size, resize))


def training_transform(image_size: int, resize: Resize = "crop", augmentation: Augmentation | None = None) -> Transform:
    """The evaluation's geometry followed by random augmentation.

    Args:
        image_size: Side of the result, in pixels.
        resize: As in `evaluation_transform`.
        augmentation: Ranges of the random changes; None for the defaults.
    """
    options = augmentation or Augmentation()
    steps = _square(image_size, resize)
    if options.horizontal_flip:
        steps.append(A.HorizontalFlip(p=options.horizontal_flip))
    if options.rotation or options.shift or options.scale:
        steps.append(
            A.Affine(
                rotate=(-options.rotation, options.rotation),
                translate_percent=(-options.shift, options.shift),
                scale=(1 - options.scale, 1 + options.scale),
                keep_ratio=True,
                border_mode=cv2.BORDER_REFLECT_101,
                p=1.0,
            )
        )
    if options.brightness or options.contrast:
        steps.append(
            A.RandomBrightnessContrast(
                brightness_limit=(-options.brightness, options.brightness),
                contrast_limit=(-options.contrast, options.contrast),
                p=1.0,
            )
        )
    return _Pipeline(steps)


def _square(image_size: int, resize: Resize) -> list[A.BasicTransform]:
    """The steps that make an image square."""
    if resize == "squash":
        return [A.Resize(image_size, image_size, area_for_downscale="image")]
    if resize == "crop":
        return [
            A.SmallestMaxSize(image_size, area_for_downscale="image"),
            A.CenterCrop(image_size, image_size),
        ]
    if resize == "pad":
        return [
            A.LongestMaxSize(image_size, area_for_downscale="image"),
            A.PadIfNeeded(image_size, image_size, border_mode=cv2.BORDER_CONSTANT, fill=0),
        ]
    raise ValueError(f"resize is one of crop, squash, pad, got {resize!r}")

"""Geometry and augmentation of images and of what lies on them: the only file that knows albumentations."""

import json
import os
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import cv2
import numpy as np
import PIL

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # the import would ask a server for the newest version

import albumentations as A

Resize = Literal["crop", "squash", "pad"]

IGNORED = -1  # label of a mask's pixels that show nothing of the image
VERSIONS = [cv2.__version__, PIL.__version__, A.__version__, np.__version__]  # of what decodes and transforms images
LEAST_VISIBLE = 0.1  # share of a box's area that has to remain inside the image


@dataclass(frozen=True)
class Scene:
    """An image and what lies on it: a mask or boxes, which move along when the image is transformed.

    Args:
        image: ``(H, W, C)`` float32 in [0, 1].
        mask: Label of each pixel, ``(H, W)`` integers, negative where a pixel has none; None without a mask.
        boxes: Corners x1, y1, x2, y2 of B boxes, ``(B, 4)``, in pixels: (0, 0) is the upper left corner of the image
            and (W, H) the lower right one. None without boxes.
        labels: Class index of each box, ``(B,)`` integers; None without boxes.
    """

    image: np.ndarray
    mask: np.ndarray | None = None
    boxes: np.ndarray | None = None
    labels: np.ndarray | None = None


class Transform(Protocol):
    """Turns a scene of any size into one of ``image_size`` x ``image_size`` pixels."""

    def __call__(self, scene: Scene, seed: int | None = None) -> Scene:
        """The transformed scene; the same seed draws the same augmentation."""
        ...


@runtime_checkable
class NamedTransform(Protocol):
    """A transform that tells itself from others, so that what it has made can be kept for later."""

    @property
    def identity(self) -> str:
        """All that decides what it does, except for the seed."""
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
        vertical_flip: Probability of an image that is upside down, in [0, 1]: for images without a top.
        saturation: Largest relative change of how far colours are from grey, in [0, 1]. Grey images stay as they are.
        hue: Largest turn of all colours to either side, as a part of the whole circle of hues, in [0, 0.5].
        noise: Largest standard deviation of Gaussian noise, in units of the [0, 1] image range, in [0, 1].

    Raises:
        ValueError: A value lies outside its range.
    """

    rotation: float = 10.0
    shift: float = 0.05
    scale: float = 0.05
    horizontal_flip: float = 0.5
    brightness: float = 0.0
    contrast: float = 0.0
    vertical_flip: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.rotation <= 180:
            raise ValueError(f"rotation is in degrees, from 0 to 180, got {self.rotation}")
        for name in ("shift", "scale"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is a fraction, at least 0 and below 1, got {getattr(self, name)}")
        for name in ("horizontal_flip", "brightness", "contrast", "vertical_flip", "saturation", "noise"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is between 0 and 1, got {getattr(self, name)}")
        if not 0 <= self.hue <= 0.5:
            raise ValueError(f"hue is a part of the circle of hues, from 0 to 0.5, got {self.hue}")


class _Pipeline:
    """A list of albumentations behind the `Transform` protocol."""

    def __init__(self, steps: list[A.BasicTransform], least_visible: float) -> None:
        # clips boxes after each step: what a crop has cut off cannot be shifted back in
        boxes = A.BboxParams("pascal_voc", min_visibility=least_visible)
        self.compose = A.Compose(steps, bbox_params=boxes)

    @property
    def identity(self) -> str:
        """All steps with their settings."""
        return json.dumps(self.compose.to_dict(), sort_keys=True, default=str)

    def __call__(self, scene: Scene, seed: int | None = None) -> Scene:
        if seed is not None:  # albumentations has its own random state, which follows no global seed
            self.compose.set_random_seed(seed)
        given: dict[str, Any] = {"image": scene.image}
        if scene.mask is not None:
            given["mask"] = scene.mask.clip(IGNORED).astype(np.int16)  # which OpenCV can resize and rotate
        if scene.boxes is not None:
            height, width = scene.image.shape[:2]
            places = np.arange(len(scene.boxes))[:, None]  # a fifth column, which tells the remaining boxes apart
            given["bboxes"] = np.hstack([scene.boxes.reshape(-1, 4).clip(0, [width, height] * 2), places])
        moved = self.compose(**given)
        image, mask = np.asarray(moved["image"]).clip(0, 1), moved.get("mask")
        if scene.boxes is None or scene.labels is None:
            return Scene(image, mask)
        kept = moved["bboxes"].reshape(-1, 5) if len(moved["bboxes"]) else np.zeros((0, 5))
        return Scene(image, mask, kept[:, :4].astype(np.float32), scene.labels[kept[:, 4].astype(int)])


def evaluation_transform(image_size: int, resize: Resize = "crop", least_visible: float = LEAST_VISIBLE) -> Transform:
    """The deterministic transform that makes a scene square: by area when shrinking, bilinear when growing.

    Masks take the nearest pixel. ``squash`` and ``pad`` keep every box; ``crop`` clips boxes to the square and drops
    those of which too little remains.

    Args:
        image_size: Side of the result, in pixels.
        resize: ``crop`` scales the short side and cuts the centre, ``squash`` changes the aspect ratio, ``pad``
            scales the long side and fills with black (a mask with pixels to ignore).
        least_visible: A box is dropped if the crop leaves a smaller share of its area, above 0 and below 1.
    """
    return _Pipeline(_square(image_size, resize), least_visible)


def training_transform(
    image_size: int,
    resize: Resize = "crop",
    augmentation: Augmentation | None = None,
    border: Literal["mirror", "black"] = "mirror",
    least_visible: float = LEAST_VISIBLE,
) -> Transform:
    """The evaluation's geometry followed by random augmentation.

    Args:
        image_size: Side of the result, in pixels.
        resize: As in `evaluation_transform`.
        augmentation: Ranges of the random changes; None for the defaults.
        border: What rotation, shift and zoom bring in from beyond the border: the mirror image of image and mask, or
            black, so that no object appears twice.
        least_visible: A box is dropped if the crop, or the change of geometry after it, leaves a smaller share of its
            area, above 0 and below 1. A rotated box is the smallest upright one around its four rotated corners.
    """
    options = augmentation or Augmentation()
    steps = _square(image_size, resize)
    if options.horizontal_flip:
        steps.append(A.HorizontalFlip(p=options.horizontal_flip))
    if options.vertical_flip:
        steps.append(A.VerticalFlip(p=options.vertical_flip))
    if options.rotation or options.shift or options.scale:
        steps.append(
            A.Affine(
                rotate=(-options.rotation, options.rotation),
                translate_percent=(-options.shift, options.shift),
                scale=(1 - options.scale, 1 + options.scale),
                keep_ratio=True,
                border_mode=cv2.BORDER_REFLECT_101 if border == "mirror" else cv2.BORDER_CONSTANT,
                fill_mask=IGNORED,
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
    if options.saturation or options.hue:
        saturation, hue = (1 - options.saturation, 1 + options.saturation), (-options.hue, options.hue)
        steps.append(A.ColorJitter(brightness=(1, 1), contrast=(1, 1), saturation=saturation, hue=hue, p=1.0))
    if options.noise:
        steps.append(A.GaussNoise(std_range=(0, options.noise), p=1.0))
    return _Pipeline(steps, least_visible)


def _square(image_size: int, resize: Resize) -> list[A.BasicTransform]:
    """The steps that make an image square."""
    # the pixel whose centre is nearest; OpenCV's plain INTER_NEAREST shifts a mask by up to half a pixel
    scaling: Any = {"area_for_downscale": "image", "mask_interpolation": cv2.INTER_NEAREST_EXACT}
    if resize == "squash":
        return [A.Resize(image_size, image_size, **scaling)]
    if resize == "crop":
        return [A.SmallestMaxSize(image_size, **scaling), A.CenterCrop(image_size, image_size)]
    if resize == "pad":
        return [
            A.LongestMaxSize(image_size, **scaling),
            A.PadIfNeeded(image_size, image_size, border_mode=cv2.BORDER_CONSTANT, fill=0, fill_mask=IGNORED),
        ]
    raise ValueError(f"resize is one of crop, squash, pad, got {resize!r}")

"""Input defences: what is done to an image before a victim sees it, and the gradient that attacks follow."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from torchvision.transforms.functional import gaussian_blur

from medrobust.random_streams import image_generator

Gradient = Literal["exact", "straight_through"]
Draw = str | Sequence[str]  # name of the random numbers: that of a draw, or one for each image


@dataclass(frozen=True, kw_only=True)
class InputDefence(ABC):
    """A change of an image that is meant to destroy adversarial perturbations; its fields are its parameters.

    It holds no state, and what it makes of an image depends on that image and its draw alone. Where ``gradient`` is
    ``straight_through``, the forward pass is the real defence and the backward pass the identity: BPDA (Athalye et al.,
    ICML 2018, section 4.1.1), without which a step function looks robust because it has no slope.
    """

    is_random: ClassVar[bool] = False
    moves: ClassVar[bool] = False  # puts what an image shows at another place, where no mask or box can follow
    gradient: ClassVar[Gradient] = "straight_through"

    @abstractmethod
    def changed(self, images: Tensor, draw: Draw) -> Tensor:
        """The images ``(N, C, H, W)`` as the victim is to see them; ``draw`` names the random numbers, if there are."""

    def __call__(self, images: Tensor, draw: Draw = "judged") -> Tensor:
        """What the victim sees of images ``(N, C, H, W)`` in [0, 1], with the gradient that attacks follow.

        Args:
            images: The images; they are not modified.
            draw: Name of the random numbers. Those of an image follow from its content, the name and the seed; or, of
                one name for each image, from that name and the seed alone.
        """
        if self.gradient == "exact":
            return self.changed(images, draw)
        with torch.no_grad():
            changed = self.changed(images.detach(), draw)
        return changed + (images - images.detach())  # the very values of the defence: the difference is 0

    def parameters(self) -> dict[str, Any]:
        """Its class and its fields, as plain values: part of the records' keys."""
        return {"class": type(self).__name__, **asdict(self)}


@dataclass(frozen=True, kw_only=True)
class JPEGCompression(InputDefence):
    """Compression as a JPEG file and back (Dziugaite et al., 2016), with 8 bits, by libjpeg on the CPU.

    Args:
        quality: Quality of the file, from 1 to 100.

    Raises:
        ValueError: A field is out of its range.
    """

    quality: int = 75

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        if not isinstance(self.quality, int) or not 1 <= self.quality <= 100:
            raise ValueError(f"quality of a JPEG file is a whole number from 1 to 100, got {self.quality}")

    def changed(self, images: Tensor, draw: Draw) -> Tensor:
        """The images after a file."""
        if images.shape[1] not in (1, 3):
            raise ValueError(f"a JPEG file has 1 or 3 channels, got {images.shape[1]}")
        scaled = (images.float() * 255).round().clamp(0, 255).to("cpu", torch.uint8)
        changed = torch.empty_like(scaled)
        for image, place in zip(scaled.permute(0, 2, 3, 1).numpy(), changed.permute(0, 2, 3, 1), strict=True):
            file = BytesIO()
            Image.fromarray(np.ascontiguousarray(image).squeeze(2) if image.shape[2] == 1 else image).save(
                file, "JPEG", quality=self.quality
            )
            place.copy_(torch.from_numpy(np.array(Image.open(file))).reshape(place.shape))
        return (changed.to(images.device).float() / 255).to(images.dtype)


@dataclass(frozen=True, kw_only=True)
class BitDepth(InputDefence):
    """Rounding to few grey levels per channel, round((2^bits - 1) x) / (2^bits - 1) (Xu et al., NDSS 2018).

    Args:
        bits: Bits that are left, from 1 to 8.

    Raises:
        ValueError: A field is out of its range.
    """

    bits: int = 4

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        if not isinstance(self.bits, int) or not 1 <= self.bits <= 8:
            raise ValueError(f"bits is a whole number from 1 to 8, got {self.bits}")

    def changed(self, images: Tensor, draw: Draw) -> Tensor:
        """The images with few levels."""
        levels = 2**self.bits - 1
        return (images * levels).round() / levels


@dataclass(frozen=True, kw_only=True)
class GaussianSmoothing(InputDefence):
    """Convolution with a Gaussian kernel, reflected at the border; attacks have its exact gradient.

    Args:
        sigma: Standard deviation of the kernel, in pixels, positive; the kernel spans three of them on each side.

    Raises:
        ValueError: A field is out of its range, or (when called) the kernel is larger than the image allows.
    """

    gradient: ClassVar[Gradient] = "exact"

    sigma: float = 1.0

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        if not 0 < self.sigma < math.inf:
            raise ValueError(f"sigma is a positive number of pixels, got {self.sigma}")

    def changed(self, images: Tensor, draw: Draw) -> Tensor:
        """The smoothed images."""
        reach = math.ceil(3 * self.sigma)
        _check_reach(f"a Gaussian of sigma {self.sigma:g}", reach, images)
        return gaussian_blur(images, [2 * reach + 1] * 2, [float(self.sigma)] * 2)


@dataclass(frozen=True, kw_only=True)
class MedianSmoothing(InputDefence):
    """The median of each pixel's neighbourhood, reflected at the border (Xu et al., NDSS 2018).

    Args:
        size: Side of the neighbourhood in pixels, odd and at least 3.

    Raises:
        ValueError: A field is out of its range, or (when called) the neighbourhood is larger than the image allows.
    """

    size: int = 3

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        if not isinstance(self.size, int) or self.size < 3 or self.size % 2 == 0:
            raise ValueError(f"size is the odd side of a neighbourhood, at least 3, got {self.size}")

    def changed(self, images: Tensor, draw: Draw) -> Tensor:
        """The filtered images."""
        reach = self.size // 2
        _check_reach(f"a neighbourhood of {self.size} pixels", reach, images)
        padded = functional.pad(images, (reach, reach, reach, reach), mode="reflect")
        windows = padded.unfold(2, self.size, 1).unfold(3, self.size, 1)
        return windows.flatten(4).median(4).values


@dataclass(frozen=True, kw_only=True)
class RandomResizing(InputDefence):
    """Shrinking each image to a random size and padding it with black at random (Xie et al., ICLR 2018).

    The size is uniform between ``smallest`` and 1 of the side, and so is the place; the result has the old size. The
    defence draws its numbers from the content of the image, so that an evaluation can be repeated. Where an evaluation
    judges, they follow from the image's id: the clean image and what attacks make of it meet the same numbers, so that
    no other draw is taken for an attack's success. An attack sees other draws than those that judge it, and averages
    outputs, losses and gradients over ``samples`` of them: EOT (Athalye et al., ICML 2018, section 4.2). Each of them
    counts as a pass. It is none for masks and boxes, which stay where they are while the image moves.

    Args:
        smallest: Smallest size, as a share of the side, above 0 and at most 1.
        samples: Number of draws that an attack averages over, at least 1.
        seed: Seed of the random numbers.

    Raises:
        ValueError: A field is out of its range.
    """

    is_random: ClassVar[bool] = True
    moves: ClassVar[bool] = True
    gradient: ClassVar[Gradient] = "exact"

    smallest: float = 0.8
    samples: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        if not 0 < self.smallest <= 1:
            raise ValueError(f"smallest is a share of the side above 0 and at most 1, got {self.smallest}")
        if not isinstance(self.samples, int) or self.samples < 1:
            raise ValueError(f"samples counts draws and is a whole number of at least 1, got {self.samples}")

    def changed(self, images: Tensor, draw: Draw) -> Tensor:
        """The images at their random sizes and places."""
        if not len(images):
            return images
        numbers = self._numbers(images, draw).to(images.dtype)
        share = self.smallest + (1 - self.smallest) * numbers[:, 0]
        shift = (2 * numbers[:, 1:] - 1) * (1 - share)[:, None]
        scale = torch.eye(2, dtype=images.dtype, device=images.device) / share[:, None, None]
        grid = functional.affine_grid(
            torch.cat([scale, (-shift / share[:, None])[:, :, None]], 2), list(images.shape), align_corners=False
        )
        return functional.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)

    def _numbers(self, images: Tensor, draw: Draw) -> Tensor:
        """Three numbers in [0, 1) for each image, ``(N, 3)``."""
        if isinstance(draw, str):
            return content_uniform(images, 3, f"{self.seed}/{draw}")
        streams = [image_generator(self.seed, type(self).__name__, name) for name in draw]
        return torch.stack([torch.rand(3, dtype=torch.float64, generator=one) for one in streams]).to(images.device)


def _check_reach(what: str, reach: int, images: Tensor) -> None:
    """Refuse images that are too small to be reflected at their border."""
    if reach >= min(images.shape[-2:]):
        raise ValueError(
            f"{what} reaches {reach} pixels beyond the border, and the images have only {min(images.shape[-2:])}"
        )


def content_uniform(images: Tensor, count: int, stream: str) -> Tensor:
    """Numbers in [0, 1) that follow from each image's values, ``(N, count)``: the same in any batch and on any device.

    The host does not wait for the device, which a hash of the bytes would ask for.

    Args:
        images: ``(N, C, H, W)``.
        count: Numbers per image.
        stream: Name of the numbers.
    """
    bits = images.detach().float().contiguous().view(torch.int32).flatten(1).long()
    places = torch.arange(1, bits.shape[1] + 1, device=bits.device)
    digest = _mixed(bits + _mixed(places)).sum(1)
    salts = [_salt(f"{stream}/{number}") for number in range(count)]
    numbers = torch.stack([_mixed(digest ^ salt) for salt in salts], 1)
    return ((numbers >> 12) & ((1 << 40) - 1)).double() / (1 << 40)


def _mixed(values: Tensor) -> Tensor:
    """A bijection of 64-bit integers in which each bit of the result depends on all bits (after splitmix64)."""
    values = (values ^ ((values >> 30) & 0x3FFFFFFFF)) * -0x40A7B892E31B1A47
    values = (values ^ ((values >> 27) & 0x1FFFFFFFFF)) * -0x6B2FB644ECCEEE15
    return values ^ ((values >> 31) & 0x1FFFFFFFF)


def _salt(text: str) -> int:
    """A number of 62 bits that follows from a text alone."""
    value = 14695981039346656037
    for byte in text.encode():
        value = ((value ^ byte) * 1099511628211) % (1 << 64)
    return value >> 2

"""One random stream for each image, the same in any batch, order, rank and device."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def image_generator(seed: int, stream: str, id: str) -> torch.Generator:
    """Random stream of one image: the same for (seed, stream, id) in any batch, order, rank and device."""
    digest = hashlib.blake2b(repr((seed, stream, str(id))).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


def content_ids(images: Tensor) -> list[str]:
    """A name for each image, made of its values in float32: the same in any batch, order, precision and device.

    Args:
        images: ``(N, C, H, W)``.
    """
    rows = images.detach().to("cpu", torch.float32).contiguous().numpy()
    return [hashlib.blake2b(repr(row.shape).encode() + row.tobytes(), digest_size=16).hexdigest() for row in rows]


def per_image_uniform(ids: Sequence[str], shape: Sequence[int], seed: int, stream: str, like: Tensor) -> Tensor:
    """Uniform noise in [-1, 1], ``(N, *shape)``, on the device and in the dtype of ``like``.

    Drawn on the CPU in float32, so that every device and precision starts from the same point, and never from the
    global stream, so that adding an attack does not change the others.
    """
    noise = torch.empty((len(ids), *shape), pin_memory=like.is_cuda)
    for row, id in zip(noise, ids, strict=True):
        row.uniform_(-1, 1, generator=image_generator(seed, stream, id))
    return noise.to(like.device, like.dtype, non_blocking=True)


def per_image_normal(ids: Sequence[str], shape: Sequence[int], seed: int, stream: str, like: Tensor) -> Tensor:
    """Standard normal noise, ``(N, *shape)``, drawn as ``per_image_uniform`` draws its own."""
    noise = torch.empty((len(ids), *shape), pin_memory=like.is_cuda)
    for row, id in zip(noise, ids, strict=True):
        row.normal_(generator=image_generator(seed, stream, id))
    return noise.to(like.device, like.dtype, non_blocking=True)

"""Reading image files: images of any kind as float32 in [0, 1], masks as the integers that they hold."""

import io
import stat
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

EXPECTED = "a complete 8- or 16-bit JPEG or PNG image"
EXPECTED_MASK = "a complete mask image with one integer per pixel"
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_ORIENTATION_TAG = 0x0112
_SCALED = np.arange(256, dtype=np.float32) / 255  # a table is faster than a copy that is divided


def read_image(path: Path, channels: int) -> np.ndarray:
    """The image of a file as float32 in [0, 1], upright.

    8-bit values are divided by 255 and 16-bit values by 65535, palettes are expanded, alpha is dropped and the EXIF
    orientation is applied. The content decides how a file is read, not its extension.

    Args:
        path: The image file.
        channels: 1 for grey (ITU-R BT.601 luma of colour images) or 3 for RGB (grey is repeated).

    Returns:
        ``(H, W, channels)`` float32.

    Raises:
        ValueError: The file is missing, empty, truncated, damaged or not an image; the message names it.
    """
    return scaled(_decoded(path, EXPECTED, _decode), channels)


def scaled(pixels: np.ndarray, channels: int) -> np.ndarray:
    """Decoded pixels as float32 in [0, 1].

    Args:
        pixels: ``(H, W)`` or ``(H, W, 3)`` in RGB order: uint8, uint16, or floating-point numbers in [0, 1].
        channels: 1 for grey (ITU-R BT.601 luma of colour images) or 3 for RGB (grey is repeated).

    Returns:
        ``(H, W, channels)`` float32.
    """
    if pixels.dtype == np.uint8:
        image = np.asarray(cv2.LUT(np.ascontiguousarray(pixels), _SCALED))
    else:
        image = pixels.astype(np.float32, order="C")
        if np.issubdtype(pixels.dtype, np.integer):
            image = image / np.float32(np.iinfo(pixels.dtype).max)
    if image.ndim == 2:
        return image[:, :, None] if channels == 1 else np.asarray(cv2.cvtColor(image, cv2.COLOR_GRAY2RGB))
    if channels == 1:
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[:, :, None])
    return image


def read_mask(path: Path) -> np.ndarray:
    """The integers that a mask file holds, upright: no value is scaled, and a palette's indices are the values.

    A colour image must have equal channels, of which one is taken; alpha is dropped.

    Args:
        path: The mask file, of a lossless format such as PNG.

    Returns:
        ``(H, W)`` int32; pixels of one bit are 0 and 1.

    Raises:
        ValueError: The file is missing, empty, truncated or not a mask; the message names it.
    """
    return _decoded(path, EXPECTED_MASK, _decode_mask)


def _decoded(path: Path, expected: str, decode: Callable[[bytes], np.ndarray]) -> np.ndarray:
    """Pixels of a file; an error of any kind becomes one sentence that names the file."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a named pipe would wait for a writer for ever
            raise ValueError(f"{path}: expected {expected}, got something that is not a file")
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: expected {expected}, but the file cannot be read ({error.strerror})") from None
    if not data:
        raise ValueError(f"{path}: expected {expected}, got an empty file")
    try:
        if data.startswith(_PNG_SIGNATURE):
            _check_pixels_of_png(data)
        return decode(data)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = "not an image" if isinstance(error, Image.UnidentifiedImageError) else str(error)
        got = f"{len(data)} bytes that cannot be decoded ({reason})"
        raise ValueError(f"{path}: expected {expected}, got {got}") from None


def _check_pixels_of_png(data: bytes) -> None:
    """Refuse a PNG whose pixels are damaged, such as by zeros where a crash kept them from being written.

    Pillow does not compare the checksums of pixels, and shows black where it cannot go on.
    """
    place = len(_PNG_SIGNATURE)
    while place + 12 <= len(data):  # length, kind and checksum of a chunk
        length, kind = struct.unpack_from(">I4s", data, place)
        end = place + 8 + length
        if kind == b"IDAT" and zlib.crc32(data[place + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            raise ValueError("its pixels are not those that their checksum was made of")
        place = end + 4


def _decode_mask(data: bytes) -> np.ndarray:
    """Values of an encoded mask, ``(H, W)`` int32, upright."""
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
        if image.mode == "F":
            raise ValueError("pixels of mode 'F' are not integers")
        pixels = np.asarray(image)
        if image.mode in ("LA", "RGBA", "PA"):
            pixels = pixels[:, :, :-1]
    if pixels.ndim == 3:
        if not (pixels == pixels[:, :, :1]).all():
            raise ValueError("colours that are not grey")
        pixels = pixels[:, :, 0]
    return np.ascontiguousarray(_upright(pixels.astype(np.int32), orientation))


def _decode(data: bytes) -> np.ndarray:
    """Pixels of an encoded image: uint8 or uint16, ``(H, W)`` or ``(H, W, 3)`` in RGB order, upright."""
    with Image.open(io.BytesIO(data)) as image:
        image.load()  # opening only reads the header: a truncated file fails here
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
        if data.startswith(_PNG_SIGNATURE) and data[24] == 16:
            pixels = _decode_deep_png(data)
        elif image.mode.startswith("I;16"):
            pixels = np.asarray(image).astype(np.uint16)
        elif image.mode in ("1", "L"):
            pixels = np.asarray(image if image.mode == "L" else image.convert("L"))
        elif image.mode in ("LA", "La"):
            pixels = np.asarray(image.convert("LA").getchannel(0))
        elif image.mode in ("I", "F"):
            raise ValueError(f"pixels of mode {image.mode!r} have no known range")
        elif image.mode in ("P", "PA", "RGBA", "RGBa"):
            pixels = np.asarray(image.convert("RGBA"))[:, :, :3]
        else:
            pixels = np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    return _upright(pixels, orientation)


def _decode_deep_png(data: bytes) -> np.ndarray:
    """Pixels of a 16-bit PNG, of whose colours Pillow would keep only the upper byte."""
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise ValueError("damaged 16-bit PNG")
    if pixels.ndim == 2:
        return np.asarray(pixels)
    if pixels.shape[2] == 2:
        return np.asarray(pixels[:, :, 0])
    return np.asarray(pixels[:, :, 2::-1])


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels turned according to the EXIF orientation (1 to 8); any other value leaves them unchanged."""
    if orientation in (5, 6, 7, 8):
        pixels = np.swapaxes(pixels, 0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels

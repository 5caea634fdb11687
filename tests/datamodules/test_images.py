"""Reading image and mask files: bit depths, palettes, alpha, orientation, and files that cannot be read."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.images import read_image, read_mask


def png(path: Path, depth: int, colour: int, rows: list[bytes]) -> Path:
    """Write a PNG by hand: `colour` 0 grey, 2 RGB, 4 grey with alpha, 6 RGBA."""
    width = len(rows[0]) * 8 // depth // {0: 1, 2: 3, 4: 2, 6: 4}[colour]
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, len(rows), depth, colour, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))),
        (b"IEND", b""),
    ]
    content = b"".join(struct.pack(">I", len(c)) + t + c + struct.pack(">I", zlib.crc32(t + c)) for t, c in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    return path


def test_sixteen_bit_images_keep_their_precision(tmp_path: Path) -> None:
    grey = png(tmp_path / "g.png", 16, 0, [struct.pack(">3H", 0, 257, 65535)])
    np.testing.assert_allclose(read_image(grey, 1)[0, :, 0], [0, 257 / 65535, 1], rtol=1e-6)
    colour = png(tmp_path / "c.png", 16, 2, [struct.pack(">3H", 1, 300, 65535)])
    np.testing.assert_allclose(read_image(colour, 3)[0, 0], [1 / 65535, 300 / 65535, 1], rtol=1e-6)
    alpha = png(tmp_path / "a.png", 16, 6, [struct.pack(">4H", 1, 300, 65535, 7)])
    np.testing.assert_allclose(read_image(alpha, 3)[0, 0], [1 / 65535, 300 / 65535, 1], rtol=1e-6)
    both = png(tmp_path / "ga.png", 16, 4, [struct.pack(">2H", 1000, 0)])
    np.testing.assert_allclose(read_image(both, 1)[0, 0], [1000 / 65535], rtol=1e-6)


def test_alpha_is_dropped_palettes_are_expanded_bits_are_scaled(tmp_path: Path) -> None:
    Image.fromarray(np.array([[[10, 20, 30, 0]]], np.uint8), "RGBA").save(tmp_path / "rgba.png")
    np.testing.assert_allclose(read_image(tmp_path / "rgba.png", 3)[0, 0], np.array([10, 20, 30]) / 255, rtol=1e-6)
    Image.fromarray(np.array([[[90, 0]]], np.uint8), "LA").save(tmp_path / "la.png")
    np.testing.assert_allclose(read_image(tmp_path / "la.png", 1)[0, 0], [90 / 255], rtol=1e-6)
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    palette.putpalette([200, 100, 50, 0, 0, 255])
    palette.save(tmp_path / "p.png", transparency=0)
    expected = np.array([[200, 100, 50], [0, 0, 255]]) / 255
    np.testing.assert_allclose(read_image(tmp_path / "p.png", 3)[0], expected, rtol=1e-6)
    # luma of ITU-R BT.601: 0.299 R + 0.587 G + 0.114 B
    np.testing.assert_allclose(
        read_image(tmp_path / "p.png", 1)[0, 0], [expected[0] @ (0.299, 0.587, 0.114)], atol=1e-4
    )
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(read_image(tmp_path / "bits.png", 1)[0, :, 0], [1, 0])
    Image.new("CMYK", (2, 2), (0, 0, 0, 255)).save(tmp_path / "cmyk.jpeg", quality=100)
    assert read_image(tmp_path / "cmyk.jpeg", 3).max() < 0.02


@pytest.mark.parametrize(
    ("orientation", "expected"),
    [
        (1, [[0, 1, 2], [3, 4, 5]]),
        (2, [[2, 1, 0], [5, 4, 3]]),
        (3, [[5, 4, 3], [2, 1, 0]]),
        (4, [[3, 4, 5], [0, 1, 2]]),
        (5, [[0, 3], [1, 4], [2, 5]]),
        (6, [[3, 0], [4, 1], [5, 2]]),
        (7, [[5, 2], [4, 1], [3, 0]]),
        (8, [[2, 5], [1, 4], [0, 3]]),
    ],
)
def test_exif_orientation(tmp_path: Path, orientation: int, expected: list[list[int]]) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.array([[0, 1, 2], [3, 4, 5]], np.uint8) * 40).save(tmp_path / "o.png", exif=exif)
    np.testing.assert_allclose(read_image(tmp_path / "o.png", 1)[:, :, 0] * 255 / 40, expected, atol=1e-5)


def test_truncated_png_and_missing_file_raise(tmp_path: Path) -> None:
    path = png(tmp_path / "deep.png", 16, 0, [np.random.default_rng(row).bytes(128) for row in range(64)])
    path.write_bytes(path.read_bytes()[:4000])  # of more than 64 x 128, as noise cannot be compressed
    with pytest.raises(ValueError, match="deep.png: expected a complete"):
        read_image(path, 1)
    with pytest.raises(ValueError, match="none.png: .* cannot be read"):
        read_image(tmp_path / "none.png", 1)


@pytest.mark.parametrize("read", [lambda path: read_image(path, 1), read_mask])
def test_a_png_whose_end_was_never_written_is_refused(tmp_path: Path, read: Callable[[Path], np.ndarray]) -> None:
    path = tmp_path / "holes.png"
    Image.fromarray(np.random.default_rng(0).binomial(100, 0.5, (64, 64)).astype(np.uint8)).save(path)
    whole = path.read_bytes()
    assert read(path).shape[:2] == (64, 64)
    for share in (0.3, 0.7, 0.99):  # a crash leaves zeros in place of what had not reached the disk
        kept = int(share * len(whole))
        path.write_bytes(whole[:kept] + bytes(len(whole) - kept))
        with pytest.raises(ValueError, match="holes.png: expected a complete"):
            read(path)


def test_a_mask_keeps_its_integers(tmp_path: Path) -> None:
    values = np.array([[0, 1, 2], [3, 255, 7]], np.uint8)
    Image.fromarray(values).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "grey.png"), values)
    assert read_mask(tmp_path / "grey.png").dtype == np.int32
    palette = Image.fromarray(values, "P")
    palette.putpalette([9, 8, 7] * 256)  # all colours are alike: the indices are the labels
    palette.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "palette.png"), values)
    deep = png(tmp_path / "deep.png", 16, 0, [struct.pack(">3H", 1, 300, 65535)])
    np.testing.assert_array_equal(read_mask(deep), [[1, 300, 65535]])
    Image.fromarray(values > 2).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "bits.png"), [[0, 0, 0], [1, 1, 1]])
    Image.fromarray(np.dstack([values] * 3)).save(tmp_path / "rgb.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "rgb.png"), values)
    Image.fromarray(np.dstack([values] * 3 + [values * 0]), "RGBA").save(tmp_path / "rgba.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "rgba.png"), values)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(values).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(read_mask(tmp_path / "turned.png"), [[3, 0], [255, 1], [7, 2]])


def test_files_that_are_not_masks_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.ones((2, 2), np.float32)).save(tmp_path / "floats.tiff")
    with pytest.raises(ValueError, match="floats.tiff: expected a complete mask image .*mode 'F' are not integers"):
        read_mask(tmp_path / "floats.tiff")
    Image.fromarray(np.arange(12, dtype=np.uint8).reshape(2, 2, 3)).save(tmp_path / "colours.png")
    with pytest.raises(ValueError, match="colours.png: expected a complete mask image .*colours that are not grey"):
        read_mask(tmp_path / "colours.png")

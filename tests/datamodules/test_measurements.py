"""Measurements of single images, by hand; and findings that are kept for the same images only."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from datamodules import ImageFolder
from datamodules.findings import keep_findings
from datamodules.measurements import FEATURES, measure, measure_image


def features_of(image: np.ndarray, size: int | None = 600) -> dict[str, float]:
    return dict(zip(FEATURES, measure_image(image.astype(np.float32), size).features, strict=True))


def test_numbers_by_hand() -> None:
    image = np.full((100, 200), 0.5)  # a border of 3 pixels: 600 of the upper and lower rows, 282 of the sides, twice
    image[:3] = 0
    image[50, 100] = 0.7
    found = features_of(image)
    assert found["bytes per pixel"] == 0.03 and found["aspect ratio"] == 2
    assert found["black border"] == pytest.approx(600 / (2 * 600 + 2 * 3 * 94))
    assert found["mean grey"] == pytest.approx((0.5 * 97 * 200 + 0.2) / 20000)
    # inside, 94 x 194, the Laplacian (-4 in the middle, 1 beside it) is not 0 at the bright pixel and its four
    # neighbours, and in the upper row, beside the frame, which lies half a step inside: 194 values of -0.5
    step, count = 255 * 0.2, 94 * 194
    values = np.zeros(count)
    values[:5] = [-4 * step, step, step, step, step]
    values[5:199] = -255 * 0.5
    assert found["sharpness"] == pytest.approx(values.var(), rel=1e-5)
    assert np.isnan(features_of(image, None)["bytes per pixel"])


def test_the_smallest_images_have_every_number_that_they_can_have() -> None:
    found = features_of(np.array([[0.0, 1.0], [1.0, 0.0]]))
    assert np.isnan(found["sharpness"]) and found["black border"] == 0.5


def folder_of(root: Path, count: int = 24) -> Path:
    rng = np.random.default_rng(0)
    for place in range(count):
        path = root / ("sick" if place % 2 else "well") / f"{place:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), rng.integers(0, 255, (20, 30 + place), dtype=np.uint8))
    return root


def test_measurements_are_of_the_files_images_in_the_order_of_the_splits(tmp_path: Path) -> None:
    data = ImageFolder(folder_of(tmp_path), image_size=8, resize="squash", channels=3)
    data.setup()
    found = measure(data)
    assert [sample.id for sample in found.samples] == [one.id for members in data.splits.values() for one in members]
    assert found.heights.tolist() == [20] * 24
    assert sorted(found.widths.tolist()) == list(range(30, 54))
    place = found.widths.tolist().index(40)
    assert found.samples[place].id.endswith("10.png")
    size = found.samples[place].path.stat().st_size
    assert found.features["bytes per pixel"][place] == pytest.approx(size / 800)


def test_findings_are_found_again_until_an_image_changes(tmp_path: Path) -> None:
    folder_of(tmp_path / "a")

    def described(root: Path, **options: object) -> ImageFolder:
        data = ImageFolder(root, channels=1, **options)  # type: ignore[arg-type]
        data.setup()
        return data

    data = described(tmp_path / "a")
    assert data.describe()["findings"] is None
    assert keep_findings(data.findings_key(), {"images": 24})
    assert data.describe()["findings"] == {"images": 24}
    (tmp_path / "a").rename(tmp_path / "b")  # neither the place nor the size of the images matters, the splits do
    assert described(tmp_path / "b", image_size=32, resize="pad").describe()["findings"] == {"images": 24}
    assert described(tmp_path / "b", split_seed=1).describe()["findings"] is None
    cv2.imwrite(str(tmp_path / "b/well/00.png"), np.arange(600, dtype=np.uint16).reshape(20, 30).astype(np.uint8))
    assert described(tmp_path / "b").describe()["findings"] is None

"""Transforms: images, masks and boxes are moved together, to where they are on paper."""

from typing import Any

import numpy as np
import pytest

from datamodules import transforms
from datamodules.transforms import Augmentation, Resize, Scene, evaluation_transform, training_transform

NOTHING = {"rotation": 0.0, "shift": 0.0, "scale": 0.0, "horizontal_flip": 0.0}


def numbered(height: int, width: int, boxes: list[list[float]]) -> Scene:
    """Pixels numbered row by row, in the image (divided by 100) and in the mask, with boxes labelled 10, 11, ..."""
    mask = np.arange(height * width).reshape(height, width)
    labels = np.arange(10, 10 + len(boxes))
    return Scene(mask[:, :, None].astype(np.float32) / 100, mask, np.array(boxes, float).reshape(-1, 4), labels)


def augmented(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, border: Any = "black", least_visible: float = 0.1, **affine: Any
) -> Scene:
    """The scene after a known affine change instead of a random one."""
    known = {"rotate": (0, 0), "translate_percent": (0, 0), "scale": (1, 1)} | affine
    original = transforms.A.Affine
    monkeypatch.setattr(transforms.A, "Affine", lambda **options: original(**options | known))
    options = Augmentation(**NOTHING | {"rotation": 1.0})
    side = scene.image.shape[0]
    return training_transform(side, "crop", options, border, least_visible)(scene, seed=0)


# a 2 x 4 image becomes 2 x 2: the middle columns; every second column; halved, above a row that shows nothing
@pytest.mark.parametrize(
    ("resize", "image", "mask"),
    [
        ("crop", [[1, 2], [5, 6]], [[1, 2], [5, 6]]),
        ("squash", [[0.5, 2.5], [4.5, 6.5]], [[1, 3], [5, 7]]),  # means of pairs; the right one of two equally near
        ("pad", [[2.5, 4.5], [0, 0]], [[5, 7], [-1, -1]]),
    ],
)
def test_a_scene_becomes_square(resize: Resize, image: list[list[float]], mask: list[list[int]]) -> None:
    moved = evaluation_transform(2, resize)(numbered(2, 4, []))
    np.testing.assert_allclose(moved.image[:, :, 0] * 100, image, atol=1e-5)
    np.testing.assert_array_equal(moved.mask, mask)
    assert moved.boxes is not None and moved.boxes.shape == (0, 4) and moved.boxes.dtype == np.float32
    assert moved.labels is not None and moved.labels.shape == (0,)


# all of the image; its first pixel; the upper pixel left of the middle; a quarter of a pixel; columns 1 to 2.2
BOXES = [[0, 0, 4, 2], [0, 0, 1, 1], [1, 0, 2, 1], [3.5, 1.5, 4, 2], [0.8, 0, 2.2, 2]]


@pytest.mark.parametrize(
    ("resize", "expected"),
    [
        # x - 1, cut at 0 and 2: half of the first box is left, nothing of the second and the fourth
        ("crop", {10: [0, 0, 2, 2], 12: [0, 0, 1, 1], 14: [0, 0, 1.2, 2]}),
        # x / 2
        (
            "squash",
            {
                10: [0, 0, 2, 2],
                11: [0, 0, 0.5, 1],
                12: [0.5, 0, 1, 1],
                13: [1.75, 1.5, 2, 2],
                14: [0.4, 0, 1.1, 2],
            },
        ),
        # x / 2 and y / 2, in the upper row
        (
            "pad",
            {
                10: [0, 0, 2, 1],
                11: [0, 0, 0.5, 0.5],
                12: [0.5, 0, 1, 0.5],
                13: [1.75, 0.75, 2, 1],
                14: [0.4, 0, 1.1, 1],
            },
        ),
    ],
)
def test_boxes_of_a_square(resize: Resize, expected: dict[int, list[float]]) -> None:
    moved = evaluation_transform(2, resize)(numbered(2, 4, BOXES))
    assert moved.boxes is not None and moved.labels is not None and moved.labels.tolist() == list(expected)
    np.testing.assert_allclose(moved.boxes, list(expected.values()), atol=1e-6)


def test_growing_and_padding_put_a_scene_into_the_middle() -> None:
    # 2 x 1 to 4 x 2, between two columns that show nothing; x' = 2 x + 1, y' = 2 y
    moved = evaluation_transform(4, "pad")(numbered(2, 1, [[0, 0, 1, 1], [0.25, 1, 0.5, 2]]))
    np.testing.assert_array_equal(moved.mask, [[-1, 0, 0, -1], [-1, 0, 0, -1], [-1, 1, 1, -1], [-1, 1, 1, -1]])
    np.testing.assert_allclose(moved.boxes, [[1, 0, 3, 2], [1.5, 2, 2, 4]], atol=1e-6)


@pytest.mark.parametrize("resize", ["squash", "pad"])
def test_squash_and_pad_keep_small_boxes(resize: Resize) -> None:
    boxes = [[0, 0, 1, 1], [999.5, 999.5, 1000, 1000]]
    scene = Scene(np.zeros((1000, 1000, 1), np.float32), boxes=np.array(boxes), labels=np.array([0, 1]))
    moved = evaluation_transform(16, resize, least_visible=0.99)(scene)  # boxes of 0.016 and 0.008 pixels
    np.testing.assert_allclose(moved.boxes, np.array(boxes) * 16 / 1000, atol=1e-5)


@pytest.mark.parametrize(("least_visible", "kept"), [(0.2, [10, 11]), (0.4, [11]), (0.6, [])])
def test_cropping_drops_boxes_of_which_too_little_is_left(least_visible: float, kept: list[int]) -> None:
    # of the columns 0 to 4 the crop keeps 1 to 3: a quarter of the first box, half of the second
    moved = evaluation_transform(2, "crop", least_visible)(numbered(2, 4, [[0, 0, 4 / 3, 2], [0, 0, 4, 1]]))
    assert moved.labels is not None and moved.labels.tolist() == kept
    assert moved.boxes is not None and moved.boxes.shape == (len(kept), 4)


def test_a_flip_alone_is_a_mirror_image() -> None:
    scene = numbered(4, 4, [[0, 0, 1, 2], [3, 1, 4, 4]])
    moved = training_transform(4, augmentation=Augmentation(**NOTHING | {"horizontal_flip": 1.0}))(scene, seed=0)
    assert scene.mask is not None and moved.mask is not None
    np.testing.assert_array_equal(moved.image, scene.image[:, ::-1])
    np.testing.assert_array_equal(moved.mask, scene.mask[:, ::-1])
    np.testing.assert_allclose(moved.boxes, [[3, 0, 4, 2], [0, 1, 1, 4]], atol=1e-6)  # x' = 4 - x


def test_upside_down() -> None:
    scene = numbered(4, 4, [[0, 0, 1, 2], [3, 1, 4, 4]])
    moved = training_transform(4, augmentation=Augmentation(**NOTHING | {"vertical_flip": 1.0}))(scene, seed=0)
    assert scene.mask is not None and moved.mask is not None
    np.testing.assert_array_equal(moved.image, scene.image[::-1])
    np.testing.assert_array_equal(moved.mask, scene.mask[::-1])
    np.testing.assert_allclose(moved.boxes, [[0, 2, 1, 4], [3, 0, 4, 3]], atol=1e-6)  # y' = 4 - y


def test_colours_change_by_their_saturation_and_hue_alone() -> None:
    # of a mix of colour and grey of the same luma the mix changes; a turn of the hues keeps the largest and the least
    colours = np.array([[[0.8, 0.4, 0.2], [0.5, 0.5, 0.5]], [[0.2, 0.7, 0.3], [0.0, 0.0, 0.0]]], np.float32)
    luma = colours @ np.array([0.299, 0.587, 0.114], np.float32)
    boxes = {"boxes": np.array([[0.0, 0, 1, 2]]), "labels": np.array([3])}
    factors, turned = set(), set()
    for seed in range(6):
        paler, other = (
            training_transform(2, augmentation=Augmentation(**NOTHING, **change))(Scene(colours, **boxes), seed=seed)
            for change in ({"saturation": 0.5}, {"hue": 0.5})
        )
        assert paler.boxes is not None and paler.boxes.tolist() == [[0, 0, 1, 2]]
        away, before = paler.image - luma[..., None], colours - luma[..., None]
        factor = float((away * before).sum() / (before**2).sum())
        assert 0.5 <= factor <= 1.5
        np.testing.assert_allclose(away, factor * before, atol=2e-3)
        factors.add(round(factor, 3))
        for edge in (np.min, np.max):
            np.testing.assert_allclose(edge(other.image, axis=2), edge(colours, axis=2), atol=5e-3)
        turned.add(tuple(other.image[0, 0].round(2).tolist()))
    assert len(factors) > 4 and len(turned) > 4
    grey = np.full((2, 2, 1), 0.3, np.float32)
    moved = training_transform(2, augmentation=Augmentation(**NOTHING, saturation=1.0, hue=0.5))(Scene(grey), seed=0)
    np.testing.assert_array_equal(moved.image, grey)


def test_noise_has_a_deviation_up_to_the_one_that_is_named() -> None:
    # its deviation is uniform in [0, 0.1], so that it is 0.05 on average; the image stays within its range
    scene = Scene(np.full((64, 64, 1), 0.5, np.float32))
    change = training_transform(64, augmentation=Augmentation(**NOTHING, noise=0.1))
    deviations = [float((change(scene, seed=seed).image - 0.5).std()) for seed in range(60)]
    assert max(deviations) < 0.105 and min(deviations) < 0.02 and np.mean(deviations) == pytest.approx(0.05, abs=0.012)
    white = change(Scene(np.ones((64, 64, 1), np.float32)), seed=1).image
    assert white.max() == 1 and white.min() < 1 and white.dtype == np.float32


def test_a_quarter_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    # anticlockwise: (x, y) comes to (y, 4 - x), and the last column becomes the first row
    scene = numbered(4, 4, [[0, 0, 1, 2], [3, 1, 4, 4]])
    moved = augmented(scene, monkeypatch, rotate=(90, 90))
    np.testing.assert_array_equal(moved.mask, [[3, 7, 11, 15], [2, 6, 10, 14], [1, 5, 9, 13], [0, 4, 8, 12]])
    np.testing.assert_allclose(moved.image[:, :, 0] * 100, moved.mask, atol=1e-4)
    np.testing.assert_allclose(moved.boxes, [[0, 3, 2, 4], [1, 0, 4, 1]], atol=1e-5)


def test_half_a_quarter_turn_takes_the_upright_box_around_the_turned_one(monkeypatch: pytest.MonkeyPatch) -> None:
    moved = augmented(numbered(4, 4, [[1.5, 1.5, 2.5, 2.5]]), monkeypatch, rotate=(45, 45))
    half_diagonal = 0.5**0.5
    low, high = 2 - half_diagonal, 2 + half_diagonal
    np.testing.assert_allclose(moved.boxes, [[low, low, high, high]], atol=1e-5)


def test_a_shift_by_a_pixel(monkeypatch: pytest.MonkeyPatch) -> None:
    # (x, y) comes to (x + 1, y + 1): a box stays whole, of one a quarter is left, and one leaves the image
    scene = numbered(4, 4, [[0, 0, 1, 2], [2, 2, 4, 4], [3, 1, 4, 4]])
    moved = augmented(scene, monkeypatch, translate_percent=(0.25, 0.25))
    np.testing.assert_array_equal(moved.mask, [[-1, -1, -1, -1], [-1, 0, 1, 2], [-1, 4, 5, 6], [-1, 8, 9, 10]])
    assert moved.labels is not None and moved.labels.tolist() == [10, 11]
    np.testing.assert_allclose(moved.boxes, [[1, 1, 2, 3], [3, 3, 4, 4]], atol=1e-5)
    assert (moved.image[0] == 0).all() and (moved.image[:, 0] == 0).all()


def test_zoom_is_about_the_centre(monkeypatch: pytest.MonkeyPatch) -> None:
    # x' = 2 x - 2: a box becomes the upper left quarter, of one a quarter is left, which is the same, and one is gone
    closer = augmented(numbered(4, 4, [[1, 1, 2, 2], [0, 0, 2, 2], [0, 0, 1, 2]]), monkeypatch, scale=(2, 2))
    np.testing.assert_allclose(closer.boxes, [[0, 0, 2, 2], [0, 0, 2, 2]], atol=1e-5)
    assert closer.mask is not None and (closer.mask[:2, :2] == 5).all() and (closer.mask[2:, 2:] == 10).all()


def test_what_the_crop_cut_off_is_not_shifted_back_in(monkeypatch: pytest.MonkeyPatch) -> None:
    # 4 x 2 pixels, cropped to 2 x 2, of which the shift leaves one column: half of a box, and half of that
    scene, to_the_right = numbered(2, 4, [[0, 0, 4, 2], [0, 0, 1, 1]]), {"x": (0.5, 0.5), "y": (0, 0)}
    for least_visible, boxes in ((0.4, [[1, 0, 2, 2]]), (0.6, np.zeros((0, 4)))):
        with monkeypatch.context() as patch:
            moved = augmented(scene, patch, least_visible=least_visible, translate_percent=to_the_right)
        np.testing.assert_array_equal(moved.mask, [[-1, 1], [-1, 5]])
        np.testing.assert_allclose(moved.boxes, boxes, atol=1e-5)


def test_a_mask_is_mirrored_at_the_border_as_its_image_is(monkeypatch: pytest.MonkeyPatch) -> None:
    moved = augmented(numbered(4, 4, []), monkeypatch, border="mirror", translate_percent=(0.25, 0.25))
    np.testing.assert_array_equal(moved.mask, [[5, 4, 5, 6], [1, 0, 1, 2], [5, 4, 5, 6], [9, 8, 9, 10]])
    np.testing.assert_allclose(moved.image[:, :, 0] * 100, moved.mask, atol=1e-4)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("resize", ["crop", "squash", "pad"])
def test_image_mask_and_box_stay_together(seed: int, resize: Resize) -> None:
    mask = np.zeros((90, 120), np.int64)
    mask[30:50, 50:80] = 1
    image = mask[:, :, None].astype(np.float32)
    scene = Scene(image, mask, np.array([[50, 30, 80, 50]]), np.array([0]))
    augmentation = Augmentation(rotation=180, shift=0.1, scale=0.2)
    moved = training_transform(64, resize, augmentation, border="black")(scene, seed=seed)
    assert moved.mask is not None and moved.boxes is not None and len(moved.boxes) == 1
    assert set(np.unique(moved.mask)) <= {-1, 0, 1}
    rows, columns = np.nonzero(moved.mask == 1)
    around = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    np.testing.assert_allclose(moved.boxes[0], around, atol=1.0)
    assert (((moved.image[:, :, 0] > 0.5) != (moved.mask == 1)).sum()) < 0.1 * len(rows)  # along the edge
    again = training_transform(64, resize, augmentation, border="black")(Scene(image), seed=seed)
    np.testing.assert_array_equal(again.image, moved.image)  # a mask or a box draws no random number


def test_labels_to_ignore_are_all_alike() -> None:
    mask = np.array([[-1, -70000], [2, 0]])
    moved = evaluation_transform(2)(Scene(np.zeros((2, 2, 1), np.float32), mask))
    np.testing.assert_array_equal(moved.mask, [[-1, -1], [2, 0]])


def test_shrinking_takes_the_mean_of_the_area() -> None:
    board = np.indices((64, 64)).sum(0)[:, :, None].astype(np.float32) % 2
    np.testing.assert_allclose(evaluation_transform(16)(Scene(board)).image, 0.5, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rotation": 181}, "rotation is in degrees, from 0 to 180, got 181"),
        ({"shift": 1}, "shift is a fraction, at least 0 and below 1, got 1"),
        ({"horizontal_flip": 1.5}, "horizontal_flip is between 0 and 1, got 1.5"),
        ({"vertical_flip": -0.5}, "vertical_flip is between 0 and 1, got -0.5"),
        ({"saturation": 2}, "saturation is between 0 and 1, got 2"),
        ({"noise": -1}, "noise is between 0 and 1, got -1"),
        ({"hue": 0.6}, "hue is a part of the circle of hues, from 0 to 0.5, got 0.6"),
    ],
)
def test_bad_augmentation(options: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Augmentation(**options)

"""Overlays: which pixels of a picture a mask and a box colour, and the words beside a box."""

import numpy as np
import pytest
import torch

from medrobust.listeners.overlays import COLOURS, FILLED, Found, draw_boxes, draw_masks, magnification_of, rim

ORANGE, BLUE = COLOURS[:2]


def test_a_mask_fills_its_region_and_has_a_rim_of_full_colour() -> None:
    labels = torch.zeros(200, 200, dtype=torch.long)
    labels[20:60, 20:60], labels[100:160, 100:160] = 1, 2
    image = np.asarray(draw_masks(torch.full((1, 200, 200), 0.4), labels, labels))
    grey = 102
    assert image.shape == (200, 200, 3) and image[5, 5].tolist() == [grey] * 3
    for (row, column), colour in (((40, 40), ORANGE), ((130, 130), BLUE)):
        assert image[row, column].tolist() == [round((1 - FILLED) * grey + FILLED * part) for part in colour]
    assert image[20, 40].tolist() == list(ORANGE) and image[159, 130].tolist() == list(BLUE)
    assert not (image == 255).all(2).any()  # the truth is drawn in white only beside what differs from it


def test_the_truth_has_white_contours_and_ignored_pixels_are_dark_and_empty() -> None:
    truth = torch.zeros(200, 200, dtype=torch.long)
    truth[20:60, 20:60], truth[:, 150:] = 1, -1
    found = torch.ones(200, 200, dtype=torch.long)
    image = np.asarray(draw_masks(torch.full((3, 200, 200), 0.5), found, truth))
    assert image[20, 40].tolist() == [255] * 3 and image[21, 40].tolist() == [0] * 3
    assert image[100, 180].tolist() == [round(0.4 * 128)] * 3  # not orange, though found everywhere


def test_small_pictures_are_enlarged_by_whole_numbers() -> None:
    assert [magnification_of(side, side) for side in (8, 64, 100, 224, 400, 1024)] == [36, 4, 3, 1, 1, 1]
    labels = torch.zeros(8, 8, dtype=torch.long)
    picture = torch.arange(64).view(1, 8, 8) / 64
    image = np.asarray(draw_masks(picture, labels, labels))
    assert image.shape == (288, 288, 3)
    assert (image[::36, ::36, 0] == (picture[0] * 255).round().numpy()).all() and (image[35] == image[0]).all()


def test_the_rim_of_a_region_has_its_thickness() -> None:
    region = np.zeros((9, 9), bool)
    region[1:8, 1:8] = True
    assert rim(region, 1).sum() == 49 - 25 and rim(region, 2).sum() == 49 - 9 and rim(region, 9).sum() == 49


def test_boxes_are_framed_in_their_colour_over_white_truth() -> None:
    box, true = Found(1, (40.0, 50.0, 140.0, 150.0), 0.875), Found(0, (200.0, 200.0, 260.0, 260.0))
    image = np.asarray(draw_boxes(torch.full((1, 288, 288), 0.5), [box], [true], ["spot", "glare"]))
    assert image[100, 40].tolist() == image[149, 90].tolist() == list(BLUE)
    assert image[100, 90].tolist() == [128] * 3 and image[230, 200].tolist() == [255] * 3
    above = image[50 - 14 : 50, 40:60]  # the words stand above the box, black on its colour
    assert (above == np.array(BLUE)).all(2).mean() > 0.3 and (above.sum(2) < 60).any()


@pytest.mark.parametrize("corners", [(0.0, 0.0, 288.0, 288.0), (280.0, 2.0, 288.0, 10.0), (0.0, 280.0, 5.0, 288.0)])
def test_words_stay_inside_the_picture(corners: tuple[float, float, float, float]) -> None:
    image = np.asarray(draw_boxes(torch.zeros(1, 288, 288), [Found(0, corners, 0.5)], [], ["specularity"]))
    written = (image == np.array(ORANGE)).all(2)
    assert image.shape == (288, 288, 3) and written.sum() > 500  # far more than the frame of the small ones


def test_words_that_would_cover_others_or_do_not_fit_are_left_out() -> None:
    one, other = (Found(0, (100.0, 100.0, 120.0, 104.0), score) for score in (0.9, 0.8))

    def letters(boxes: list[Found], names: list[str]) -> int:
        return int((np.asarray(draw_boxes(torch.ones(1, 288, 288), boxes, [], names)) == np.array(ORANGE)).all(2).sum())

    few = letters([one], ["spot"])
    crowd = letters([one, other, other, other, other], ["spot"])
    assert few < crowd <= 3 * few  # above, inside and below, and no further place
    assert letters([one], ["a name that is far too long to be written into a picture of this size at all"]) < few

"""Input diversity: the resize matrix against torch's own resize, masks and boxes against numbers found by hand."""

import pytest
import torch
from torch.nn import functional

from medrobust.attacks.diversity import diversify, draw_places, resize_matrix


@pytest.mark.parametrize(
    ("height", "width", "place"),
    [
        (10, 10, (9, 9, 0, 0)),
        (10, 10, (9, 9, 1, 1)),
        (32, 32, (29, 30, 3, 1)),
        (24, 17, (22, 16, 1, 0)),
        (33, 20, (10, 11, 20, 4)),
        (7, 5, (1, 1, 6, 4)),
        (64, 64, (64, 60, 0, 2)),
    ],
)
def test_resize_and_pad_equal_torchs_interpolate_and_pad(
    height: int, width: int, place: tuple[int, int, int, int]
) -> None:
    images = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(1))
    new_height, new_width, top, left = place
    small = functional.interpolate(images, (new_height, new_width), mode="bilinear", align_corners=False)
    padding = (left, width - new_width - left, top, height - new_height - top)

    moved, _ = diversify(images, torch.zeros(2), torch.tensor([place, place]))

    torch.testing.assert_close(moved, functional.pad(small, padding), atol=5e-6, rtol=0)


def test_images_in_double_precision_are_resized_in_double_precision() -> None:
    """A float64 run is the reference for a float32 one, so its weights must not be float32's."""
    images = torch.rand(1, 1, 10, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    small = functional.interpolate(images, (7, 9), mode="bilinear", align_corners=False)
    moved, _ = diversify(images, torch.zeros(1), torch.tensor([[7, 9, 3, 1]]))
    torch.testing.assert_close(moved, functional.pad(small, (1, 0, 3, 0)), atol=1e-12, rtol=0)


def test_images_of_one_batch_get_each_their_own_place() -> None:
    images = torch.rand(3, 1, 10, 10, generator=torch.Generator().manual_seed(2))
    places = torch.tensor([[9, 9, 1, 0], [10, 10, 0, 0], [9, 10, 0, 0]])
    together, _ = diversify(images, torch.zeros(3), places)
    for row, (image, place) in enumerate(zip(images, places, strict=True)):
        alone, _ = diversify(image[None], torch.zeros(1), place[None])
        torch.testing.assert_close(together[row], alone[0])
    assert torch.equal(together[1], images[1])


@pytest.mark.parametrize("side", [1, 2, 3, 31, 224])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_full_size_is_the_identity(side: int, dtype: torch.dtype) -> None:
    matrix = resize_matrix(torch.tensor([side]), torch.tensor([0]), side, dtype)
    assert matrix.dtype == dtype
    assert torch.equal(matrix[0], torch.eye(side, dtype=dtype))


def test_the_resize_of_four_pixels_to_two_is_as_found_by_hand() -> None:
    """Output centres 0.5 and 1.5 lie at 2 * 0.5 - 0.5 = 0.5 and 2 * 1.5 - 0.5 = 2.5 of the source."""
    matrix = resize_matrix(torch.tensor([2]), torch.tensor([1]), 4, torch.float32)[0]
    half = [[0.0] * 4, [0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5], [0.0] * 4]
    assert torch.equal(matrix, torch.tensor(half))


def test_masks_take_the_nearest_label_and_are_ignored_in_the_padding() -> None:
    """Five pixels to three: centres (i + 1/2) 5/3 - 1/2 = 1/3, 2, 11/3, nearest pixels 0, 2, 4."""
    mask = torch.arange(25).view(1, 5, 5)
    expected = torch.full((1, 5, 5), -1)
    expected[0, 2:5, 1:4] = mask[0][[0, 2, 4]][:, [0, 2, 4]]
    _, moved = diversify(torch.zeros(1, 1, 5, 5), mask, torch.tensor([[3, 3, 2, 1]]))
    assert torch.equal(moved, expected)
    assert torch.equal(mask, torch.arange(25).view(1, 5, 5))


def test_masks_agree_with_torchs_nearest_resize_and_keep_ignored_labels() -> None:
    """With an odd side no output centre falls between two pixels, so nearest has one meaning."""
    mask = torch.randint(-1, 3, (4, 21, 21), generator=torch.Generator().manual_seed(4))
    small = functional.interpolate(mask[:, None].float(), (19, 19), mode="nearest-exact")[:, 0].long()
    expected = functional.pad(small, (1, 1, 0, 2), value=-1)
    _, moved = diversify(torch.zeros(4, 1, 21, 21), mask, torch.tensor([[19, 19, 0, 1]] * 4))
    assert torch.equal(moved, expected)
    _, same = diversify(torch.zeros(4, 1, 21, 21), mask, torch.tensor([[21, 21, 0, 0]] * 4))
    assert torch.equal(same, mask)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool])
def test_label_maps_move_as_so_many_masks_and_labels_stay(dtype: torch.dtype) -> None:
    maps = torch.randint(0, 2, (3, 4, 11, 13), generator=torch.Generator().manual_seed(5)).to(dtype)
    places = torch.tensor([[10, 12, 1, 0], [11, 13, 0, 0], [9, 11, 0, 2]])
    images = torch.zeros(3, 1, 11, 13)
    _, moved = diversify(images, maps, places)
    for label in range(4):
        assert torch.equal(moved[:, label], diversify(images, maps[:, label].long(), places)[1])
    assert bool((moved == -1).any())
    labels = torch.tensor([[0, 1], [1, 1], [0, -1]])
    assert diversify(images, labels, places)[1] is labels


def test_boxes_are_scaled_and_shifted() -> None:
    """10 x 20 shrunk to 8 x 15 at (top 1, left 4): x -> 0.75 x + 4, y -> 0.8 y + 1."""
    boxes = torch.tensor([[0.0, 0.0, 20.0, 10.0], [4.0, 5.0, 8.0, 7.5]])
    target = {"boxes": boxes, "labels": torch.tensor([1, 2])}
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)}
    place = torch.tensor([[8, 15, 1, 4]])
    _, moved = diversify(torch.zeros(2, 1, 10, 20), [target, empty], place.expand(2, -1))
    torch.testing.assert_close(moved[0]["boxes"], torch.tensor([[4.0, 1.0, 19.0, 9.0], [7.0, 5.0, 10.0, 7.0]]))
    assert torch.equal(moved[0]["labels"], torch.tensor([1, 2]))
    assert moved[1]["boxes"].shape == (0, 4)
    assert torch.equal(boxes[1], torch.tensor([4.0, 5.0, 8.0, 7.5]))


def test_a_bright_box_and_its_coordinates_move_together() -> None:
    images = torch.zeros(1, 1, 20, 20)
    images[0, 0, 4:12, 6:16] = 1
    target = [{"boxes": torch.tensor([[6.0, 4.0, 16.0, 12.0]]), "labels": torch.tensor([1])}]
    moved, boxes = diversify(images, target, torch.tensor([[18, 18, 2, 1]]))
    grid = torch.arange(20) + 0.5
    weights = moved[0, 0] / moved.sum()
    x1, y1, x2, y2 = boxes[0]["boxes"][0].tolist()
    assert float((weights.sum(0) * grid).sum()) == pytest.approx((x1 + x2) / 2, abs=0.1)
    assert float((weights.sum(1) * grid).sum()) == pytest.approx((y1 + y2) / 2, abs=0.1)
    assert float(moved.sum()) == pytest.approx((x2 - x1) * (y2 - y1), rel=0.05)


def test_classes_stay_as_they_are() -> None:
    targets = torch.tensor([0, 2])
    _, same = diversify(torch.zeros(2, 1, 6, 6), targets, torch.tensor([[5, 5, 0, 0]] * 2))
    assert torch.equal(same, targets)


def test_places_are_inside_the_image_and_uniform_over_the_sizes() -> None:
    """Sides 18, 19 and 20 of 20, one third each; the gap of 20 - size pixels is split uniformly."""
    ids = [str(i) for i in range(300)]
    places = draw_places(ids, 20, (20, 20), 1.0, 0.9, 0, "DIM")
    assert places.shape == (20, 300, 4)
    assert places.dtype == torch.int64
    height, width, top, left = places.unbind(-1)
    assert torch.equal(height, width)
    for size in (18, 19, 20):
        assert float((height == size).double().mean()) == pytest.approx(1 / 3, abs=0.03)
        for corner in (top, left):
            here = corner[height == size]
            assert int(here.min()) == 0
            assert int(here.max()) == 20 - size
            assert float(here.double().mean()) == pytest.approx((20 - size) / 2, abs=0.06)


@pytest.mark.parametrize("side", [(20, 10), (31, 224), (8, 8)])
@pytest.mark.parametrize("smallest", [0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
def test_the_smallest_side_is_reached_and_not_undercut(side: tuple[int, int], smallest: float) -> None:
    places = draw_places([str(i) for i in range(200)], 10, side, 1.0, smallest, 0, "DIM")
    for axis in range(2):
        least = -(-round(side[axis] * smallest * 1000) // 1000)  # the ceiling, without rounding noise
        sizes = places[..., axis]
        assert int(sizes.min()) == least
        assert int(sizes.max()) == side[axis]
        assert bool((places[..., 2 + axis] >= 0).all())
        assert bool((places[..., 2 + axis] + sizes <= side[axis]).all())


def test_no_side_is_lost_to_rounding() -> None:
    for side in range(10, 1025, 10):
        places = draw_places([str(i) for i in range(3)], 400, (side, side), 1.0, 0.9, 0, "DIM")
        assert int(places[..., 0].min()) >= side * 9 // 10
        if side <= 100:
            assert int(places[..., 0].min()) == side * 9 // 10


@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
def test_an_image_is_resized_with_the_given_probability(probability: float) -> None:
    """Side 100 from 50: one of 51 sizes is the full one, so 50/51 of the resized images are smaller."""
    places = draw_places([str(i) for i in range(200)], 20, (100, 100), probability, 0.5, 0, "DIM")
    resized = places[..., 0] < 100
    assert float(resized.double().mean()) == pytest.approx(probability * 50 / 51, abs=0.04)
    assert bool((places[~resized] == torch.tensor([100, 100, 0, 0])).all())


def test_places_of_an_image_do_not_depend_on_its_batch_nor_on_the_number_of_steps() -> None:
    together = draw_places(["a", "b", "c"], 10, (40, 40), 0.5, 0.5, 0, "DIM")
    assert torch.equal(draw_places(["c", "b"], 4, (40, 40), 0.5, 0.5, 0, "DIM"), together[:4, [2, 1]])
    assert not torch.equal(together[:, 0], together[:, 1])
    assert not torch.equal(together, draw_places(["a", "b", "c"], 10, (40, 40), 0.5, 0.5, 1, "DIM"))

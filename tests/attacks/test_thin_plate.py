"""The thin-plate matrix against SciPy's spline, affine maps and hand-made folds."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.interpolate import RBFInterpolator

import medrobust.attacks.thin_plate as thin_plate
from medrobust.attacks.thin_plate import coordinates, folded, warp_matrix
from tests.largest_tensor import LargestTensor

CPU = torch.device("cpu")
SIZES = [(8, 8, 2), (9, 5, 3), (5, 12, 4), (40, 31, 16)]


def test_coordinates_run_along_the_rows_from_corner_to_corner() -> None:
    expected = [[-1, 0, 1, -1, 0, 1], [-1, -1, -1, 1, 1, 1]]
    assert coordinates(2, 3, CPU, torch.float32).tolist() == expected


@pytest.mark.parametrize(("height", "width", "gridsize"), SIZES)
def test_the_spline_is_scipys(height: int, width: int, gridsize: int) -> None:
    controls, pixels = (coordinates(*size, CPU, torch.float64) for size in ((gridsize, gridsize), (height, width)))
    values = torch.randn(gridsize**2, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    spline = RBFInterpolator(controls.T.numpy(), values.numpy(), kernel="thin_plate_spline", degree=1)
    expected = spline(pixels.T.numpy())
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-5)):
        matrix = warp_matrix(height, width, gridsize, CPU, dtype)
        assert (matrix.shape, matrix.dtype) == ((height * width, gridsize**2), dtype)
        np.testing.assert_allclose((matrix @ values.to(dtype)).numpy(), expected, atol=tolerance)


def test_the_matrix_is_made_in_pieces_that_are_smaller_than_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """All distances in float64 at once took more than six times the float32 result: 1.6 GB for 512 x 512 pixels."""
    whole = warp_matrix(33, 31, 5, CPU, torch.float32)
    monkeypatch.setattr(thin_plate, "PIXELS_AT_ONCE", 100)
    warp_matrix.cache_clear()
    with LargestTensor() as watch:
        pieces = warp_matrix(33, 31, 5, CPU, torch.float32)
    warp_matrix.cache_clear()
    torch.testing.assert_close(pieces, whole, atol=1e-6, rtol=0)
    assert watch.size == pieces.numel() * 4  # the result itself


def test_three_control_points_a_side_by_hand() -> None:
    """The centre of a 2 x 2 grid is equally far from all four: each weighs 1/4, and an edge's middle 1/2."""
    matrix = warp_matrix(3, 3, 2, CPU, torch.float64)
    torch.testing.assert_close(matrix[4], torch.full((4,), 0.25, dtype=torch.float64))
    torch.testing.assert_close(matrix[1], torch.tensor([0.5, 0.5, 0, 0], dtype=torch.float64))


@pytest.mark.parametrize(("height", "width", "gridsize"), SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_affine_maps_and_with_them_the_identity_are_reproduced(
    height: int, width: int, gridsize: int, dtype: torch.dtype
) -> None:
    matrix = warp_matrix(height, width, gridsize, CPU, dtype)
    controls, pixels = (coordinates(*size, CPU, dtype) for size in ((gridsize, gridsize), (height, width)))
    torch.testing.assert_close(controls @ matrix.T, pixels, atol=1e-6, rtol=0)
    turn = torch.tensor([[0.4, -1.2], [0.7, 0.1]], dtype=dtype)
    shift = torch.tensor([[0.3], [-0.5]], dtype=dtype)
    torch.testing.assert_close((turn @ controls + shift) @ matrix.T, turn @ pixels + shift, atol=3e-6, rtol=0)


def test_pixels_at_control_points_move_with_them() -> None:
    matrix = warp_matrix(4, 4, 4, CPU, torch.float64)
    torch.testing.assert_close(matrix, torch.eye(16, dtype=torch.float64), atol=1e-12, rtol=0)


def test_the_matrix_is_computed_once_for_each_size_grid_and_type() -> None:
    kept = warp_matrix(6, 7, 3, CPU, torch.float32)
    misses = warp_matrix.cache_info().misses
    assert warp_matrix(6, 7, 3, torch.device("cpu"), torch.float32) is kept
    assert warp_matrix.cache_info().misses == misses
    other_settings = [(7, 6, 3, CPU, torch.float32), (6, 7, 4, CPU, torch.float32), (6, 7, 3, CPU, torch.float64)]
    assert not any(warp_matrix(*other) is kept for other in other_settings)
    assert warp_matrix(6, 7, 3, torch.device("meta"), torch.float32).device.type == "meta"


def test_a_matrix_first_asked_for_in_inference_mode_can_be_differentiated_through() -> None:
    with torch.inference_mode():
        matrix = warp_matrix(6, 5, 3, CPU, torch.float32)
    moves = torch.zeros(9, requires_grad=True)
    (gradient,) = torch.autograd.grad((matrix @ moves).sum(), moves)
    torch.testing.assert_close(gradient, matrix.sum(0))


def cells(columns: list[list[float]], rows: list[list[float]]) -> Any:
    """Warped places of one image, given by x and y of each pixel."""
    return torch.tensor([[columns, rows]])


def test_folds_by_hand() -> None:
    x, y = [[-1.0, 0.0, 1.0]] * 3, [[-1.0] * 3, [0.0] * 3, [1.0] * 3]
    plain, mirrored, turned = cells(x, y), cells([row[::-1] for row in x], y), cells(y[::-1], x)
    past = cells([[-1.0, 2.0, 1.0]] * 3, y)  # the middle column lies right of the last one: half the cells turn over
    collapsed = cells([[0.0] * 3] * 3, y)
    assert folded(torch.cat([plain, mirrored, turned, past, collapsed])).tolist() == [0, 1, 0, 0.5, 0]


def test_images_of_a_single_row_have_no_cell_to_fold() -> None:
    assert math.isnan(float(folded(torch.zeros(1, 2, 1, 5))))


def test_small_moves_do_not_fold_and_large_ones_do() -> None:
    """Columns of control points lie 2 / 15 = 0.133 apart and move to and fro in turn: by 0.1 they pass each other."""
    matrix, pixels = warp_matrix(64, 64, 16, CPU, torch.float64), coordinates(64, 64, CPU, torch.float64)
    turns = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(128).expand(2, -1)
    shares = [float(folded((pixels + length * turns @ matrix.T).view(1, 2, 64, 64))) for length in (0.01, 0.1)]
    assert shares[0] == 0
    assert shares[1] > 0.1

"""Thin-plate splines as a matrix: warps of an image's pixels that are linear in the moves of control points."""

from functools import lru_cache

import torch
from torch import Tensor

PIXELS_AT_ONCE = 2**12  # whose distances to all control points are in memory together: 8 MB for a grid of 16 x 16


def coordinates(height: int, width: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Coordinates x (along the width) and y of a grid's points, row by row, ``(2, height * width)`` in [-1, 1]."""
    y, x = (torch.linspace(-1, 1, side, device=device, dtype=dtype) for side in (height, width))
    return torch.stack([x.repeat(height), y.repeat_interleave(width)])


@lru_cache(maxsize=8)
def warp_matrix(height: int, width: int, gridsize: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Matrix by which the moves of the control points are multiplied to give the moves of the pixels.

    The thin-plate spline through values v at control points c_k is f(p) = sum_k w_k U(|p - c_k|) + b_0 + b_1 x + b_2 y
    with U(r) = r^2 log r, sum w = 0 and sum w c = 0 (Bookstein, IEEE TPAMI 11(6), 1989). The weights are linear in v,
    so they and the affine part are folded into one matrix M with f = M v. As M reproduces affine maps, the control
    points' moves times M are the pixels' moves, and moves of 0 give exactly 0.

    The result is cached and shared between callers, so it must not be modified. In float32 a grid of 16 x 16 takes
    1 kB per pixel, 268 MB for 512 x 512, however many images there are.

    Args:
        height: Rows of the image.
        width: Columns of the image.
        gridsize: Control points per side, at least 2; they span [-1, 1] like the pixels, row by row.
        device: Device of the result.
        dtype: Type of the result; the system is solved in float64.

    Returns:
        ``(height * width, gridsize * gridsize)``
    """
    with torch.inference_mode(False), torch.no_grad():
        host = torch.device("cpu")
        controls = coordinates(gridsize, gridsize, host, torch.float64).T
        pixels = coordinates(height, width, host, torch.float64).T
        count = len(controls)
        system = torch.zeros((count + 3, count + 3), dtype=torch.float64, device=host)
        system[:count] = _basis(controls, controls)
        system[count:, :count] = system[:count, count:].T
        values = torch.eye(count + 3, count, dtype=torch.float64, device=host)  # last 3 rows: the weights' conditions
        weights: Tensor = torch.linalg.solve(system, values)
        matrix = torch.empty((len(pixels), count), dtype=dtype, device=host)
        for rows, places in zip(matrix.split(PIXELS_AT_ONCE), pixels.split(PIXELS_AT_ONCE), strict=True):
            rows.copy_(_basis(places, controls) @ weights)  # in float64 all at once would take six times the result
        return matrix.to(device)


def _basis(places: Tensor, controls: Tensor) -> Tensor:
    """U(r) = r^2 log r^2 (twice the usual one) for every place and control point, then 1, x and y: ``(P, K + 3)``."""
    squares = torch.cdist(places, controls, compute_mode="donot_use_mm_for_euclid_dist").square()
    return torch.cat([torch.xlogy(squares, squares), torch.ones_like(places[:, :1]), places], 1)


def folded(places: Tensor) -> Tensor:
    """Share of an image's cells of 2 x 2 pixels that a warp folds over: their Jacobian determinant is negative.

    Args:
        places: Where the warp puts each pixel, ``(N, 2, H, W)``, x first.

    Returns:
        ``(N,)``, 0 without a fold; NaN where a side has a single pixel.
    """
    across, down = places[:, :, :-1, 1:] - places[:, :, :-1, :-1], places[:, :, 1:, :-1] - places[:, :, :-1, :-1]
    determinants = across[:, 0] * down[:, 1] - across[:, 1] * down[:, 0]
    return (determinants < 0).to(places.dtype).mean((1, 2))

"""Pictures in figures: images as they are shown, in panels without axes."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def shown_image(image: NDArray[Any]) -> NDArray[np.float64]:
    """An image ``(C, H, W)`` in [0, 1] as ``(H, W)`` if it is grey, else as ``(H, W, 3)``."""
    values = np.clip(image.astype(np.float64), 0, 1)
    return values[0] if len(values) != 3 else np.moveaxis(values, 0, -1)


def frame(axis: "Axes") -> "Axes":
    """A panel without ticks, grid and lines around it, which keeps its label."""
    axis.set_xticks([])
    axis.set_yticks([])
    axis.grid(False)
    for spine in axis.spines.values():
        spine.set_visible(False)
    return axis

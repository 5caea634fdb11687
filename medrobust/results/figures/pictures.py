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


def show(axis: "Axes", image: NDArray[Any]) -> "Axes":
    """Show an image ``(C, H, W)`` in [0, 1] in a panel of its own."""
    frame(axis).imshow(shown_image(image), cmap="gray", vmin=0, vmax=1)
    return axis


def show_blended(axis: "Axes", image: NDArray[Any], values: NDArray[Any]) -> "Axes":
    """Show an image and a map ``(H, W)`` in [0, 1] over it, the more opaque the larger it is: dark 0, yellow 1."""
    import matplotlib

    known = np.clip(np.nan_to_num(values.astype(np.float64)), 0, 1)[..., None]
    under = shown_image(image)
    under = under if under.ndim == 3 else np.repeat(under[..., None], 3, -1)
    opacity = 0.15 + 0.5 * known
    colours = matplotlib.colormaps["inferno"](known[..., 0])[..., :3]
    frame(axis).imshow((1 - opacity) * under + opacity * colours)
    return axis


def name_row(axis: "Axes", label: str) -> None:
    """Write a label above the first panel of a row, over the others too if it is long."""
    axis.set_title(" ")  # keeps the place
    axis.text(0, 1.04, label, transform=axis.transAxes, clip_on=False).set_in_layout(False)


def frame(axis: "Axes") -> "Axes":
    """A panel without ticks, grid and lines around it, which keeps its label."""
    axis.set_xticks([])
    axis.set_yticks([])
    axis.grid(False)
    for spine in axis.spines.values():
        spine.set_visible(False)
    return axis

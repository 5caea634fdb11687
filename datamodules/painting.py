"""What phantoms are painted with: soft edges, smooth noise, wandering lines and tints."""

import cv2
import numpy as np

Array = np.ndarray


def soft_edge(distance: Array, softness: float) -> Array:
    """1 where a distance is well below 0, 0 where it is well above, and a soft edge between."""
    return np.asarray(1 / (1 + np.exp(np.clip(distance / softness, -30, 30))), np.float32)


def walk(turns: Array, step: float) -> Array:
    """Places ``(N, 2)`` after each of N steps of this length in these directions."""
    return np.column_stack([np.cos(turns).cumsum(), np.sin(turns).cumsum()]) * step


def smooth_noise(random: np.random.Generator, shape: tuple[int, ...], cells: tuple[int, ...]) -> Array:
    """Smooth noise of about unit variance: one octave per number of cells along the height."""
    total = np.zeros(shape[:2], np.float32)
    for number in cells:
        coarse = random.standard_normal((number, max(1, round(number * shape[1] / shape[0])))).astype(np.float32)
        total += cv2.resize(coarse, shape[1::-1], interpolation=cv2.INTER_CUBIC)
    return total / np.float32(np.sqrt(len(cells)))


def tint(image: Array, amount: Array, colour: tuple[float, float, float]) -> Array:
    """Mix a colour into an image, `amount` in [0, 1] for each pixel."""
    return np.asarray(image + amount[..., None] * (np.asarray(colour, np.float32) - image))

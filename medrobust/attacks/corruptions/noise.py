"""Corruptions by noise: of the electronics, of photons, of coherent waves, and of broken pixels."""

from torch import Tensor

from medrobust.attacks.corruptions.draws import Draws


def gaussian_noise(images: Tensor, strength: float, draws: Draws) -> Tensor:
    """Normal noise of a standard deviation, in units of the [0, 1] image range."""
    return (images + strength * _grey_where_grey(images, draws.normal(*images.shape[1:]))).clamp(0, 1)


def speckle_noise(images: Tensor, strength: float, draws: Draws) -> Tensor:
    """Every value times 1 plus normal noise of a standard deviation."""
    return (images * (1 + strength * _grey_where_grey(images, draws.normal(*images.shape[1:])))).clamp(0, 1)


def shot_noise(images: Tensor, strength: float, draws: Draws) -> Tensor:
    """Noise of so many photons as white stands for: normal with variance x / photons, which Poisson's approaches."""
    noise = _grey_where_grey(images, draws.normal(*images.shape[1:]))
    return (images + (images / strength).sqrt() * noise).clamp(0, 1)


def impulse_noise(images: Tensor, strength: float, draws: Draws) -> Tensor:
    """A share of the values, which become black or white, half of them each."""
    noise = _grey_where_grey(images, draws.uniform(*images.shape[1:]))
    return images.masked_fill(noise < strength - 1, 0).masked_fill(noise > 1 - strength, 1)


def _grey_where_grey(images: Tensor, noise: Tensor) -> Tensor:
    """The noise, the same in all channels of an image whose channels are equal: X-rays have no coloured noise."""
    grey = (images == images[:, :1]).flatten(1).all(1).view(-1, 1, 1, 1)
    return noise[:, :1].where(grey, noise)

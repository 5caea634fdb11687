"""Images beside an attack that a detector must not take for adversarial: noise of its length, and random signs."""

from collections.abc import Sequence

import torch
from torch import Tensor

from medrobust.attacks import Attack
from medrobust.evaluation.plan import radius_of
from medrobust.random_streams import per_image_normal, per_image_uniform

ROUNDS = 8  # of looking for the values that black and white cut off


def changed(clean: Tensor, adversarial: Tensor) -> Tensor:
    """Whether an attack changed each image at all, bool ``(N,)``."""
    return (adversarial != clean).flatten(1).any(1)


def noise_of_length(clean: Tensor, adversarial: Tensor, ids: Sequence[str], seed: int) -> Tensor:
    """Noisy versions ``(N, C, H, W)`` of images, each as far away in L2 as its adversarial one (Feinman et al. 2017).

    The noise is Gaussian, whatever norm the attack bounds: of all noise with independent values, it alone has no
    preferred direction, so that length is all that it shares with the perturbation. What black and white cut off is
    made up for elsewhere. Where that is not enough, the noise is as long as the range of the image allows. An image
    that the attack left unchanged is returned unchanged, and is then no noisy version: see ``changed``.

    Args:
        clean: Clean images, ``(N, C, H, W)`` in [0, 1].
        adversarial: What an attack made of them.
        ids: Ids of the images; each has a random stream of its own.
        seed: Seed of the noise.
    """
    return _moved(clean, per_image_normal(ids, clean.shape[1:], seed, "GaussianNoise", clean), adversarial)


def random_signs(attack: Attack, clean: Tensor, adversarial: Tensor, ids: Sequence[str], seed: int) -> Tensor:
    """Versions ``(N, C, H, W)`` of images whose every value has moved by the same amount, up or down at random.

    They look like one signed step, and know nothing of the victim. The amount is the attack's radius in the maximum
    norm; for an attack without one, the change has the L2 length of the image's own perturbation.

    Args:
        attack: The attack.
        clean: Clean images, ``(N, C, H, W)`` in [0, 1].
        adversarial: What the attack made of them.
        ids: Ids of the images; each has a random stream of its own.
        seed: Seed of the signs.
    """
    signs = per_image_uniform(ids, clean.shape[1:], seed, "RandomSigns", clean).sign()
    radius = signs_radius(attack)
    if radius is None:
        return _moved(clean, signs, adversarial)
    return torch.clamp(clean + radius * signs, 0, 1)


def signs_radius(attack: Attack) -> float | None:
    """By how much random signs change each value beside an attack; None if it has no radius in the maximum norm."""
    return radius_of(attack) if attack.norm == "linf" else None


def _moved(clean: Tensor, direction: Tensor, adversarial: Tensor) -> Tensor:
    """Images in [0, 1], moved along a direction of each image as far as its adversarial version lies away."""
    wanted = _squared(adversarial - clean)
    room = torch.where(direction > 0, 1 - clean, clean)
    factor = torch.zeros_like(wanted)
    for _ in range(ROUNDS):  # the values that a factor cuts off stay cut off by every larger one, so it only grows
        cut = factor.to(clean).view(-1, 1, 1, 1) * direction.abs() >= room
        free = _squared(direction.masked_fill(cut, 0))
        missing = (wanted - _squared(room.masked_fill(~cut, 0))).clamp(min=0)
        factor = torch.where(free > 0, (missing / free).sqrt(), factor)
    return torch.clamp(clean + factor.to(clean).view(-1, 1, 1, 1) * direction, 0, 1)


def _squared(values: Tensor) -> Tensor:
    """Squared L2 length of each image's values, float64 ``(N,)``."""
    return torch.linalg.vector_norm(values.flatten(1), dim=1, dtype=torch.float64).square()

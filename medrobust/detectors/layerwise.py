"""What detectors with a network for each layer share: settings, initial weights, training, held-out patients."""

import hashlib
import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from medrobust.detectors.patient_groups import Groups, dealt
from medrobust.detectors.supervised import SupervisedDetector

HELD = 5  # a fifth of the patients is held out
FURTHEST = 10.0  # standard deviations to which a channel is clipped: a nearly constant one would outweigh the rest


class LayerwiseDetector(SupervisedDetector):
    """Base of the detectors that train a small network for each layer of the victim.

    Every network has its own loss, its own initial weights (drawn from the layer's name) and its own AdamW, which sees
    all rows at once, so that what is learnt from one layer does not depend on the other layers.

    Args:
        hidden: Number of hidden units of each network, at least 1.
        epochs: Number of passes over all images, one step each, at least 1.
        learning_rate: Learning rate of AdamW, > 0.
        weight_decay: Weight decay of AdamW, decoupled from the gradient, >= 0.
        seed: Seed of the initial weights.

    Raises:
        ValueError: A setting is out of range.
    """

    def __init__(self, hidden: int, epochs: int, learning_rate: float, weight_decay: float, seed: int) -> None:
        super().__init__()
        check_counts(hidden=hidden, epochs=epochs)
        if not 0 < learning_rate < math.inf:
            raise ValueError(f"learning_rate is positive, got {learning_rate!r}")
        if not 0 <= weight_decay < math.inf:
            raise ValueError(f"weight_decay is not negative, got {weight_decay!r}")
        self.hidden, self.epochs, self.seed = hidden, epochs, seed
        self.learning_rate, self.weight_decay = learning_rate, weight_decay

    def generator(self, layer: str) -> torch.Generator:
        """Random stream of the initial weights of a layer's network."""
        digest = hashlib.sha256(f"{self.seed}/{layer}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)

    def train_weights(
        self, weights: list[Tensor], learnt: Callable[[], Iterable[Tensor]], held: Callable[[], Iterable[Tensor]]
    ) -> list[Tensor]:
        """Train networks, and return each one's weights after its step with the lowest loss on held-out patients.

        Networks of one shape are trained side by side, as AdamW moves each number by its own gradient alone; nothing
        waits for a device.

        Args:
            weights: Initial weights, which are changed: of one network, or of L with L as the leading dimension.
            learnt: Gives the parts of the loss, a number or ``(L,)``, with these weights on the rows to learn from;
                they are summed.
            held: The same on the held-out rows.
        """
        optimizer = torch.optim.AdamW(
            [weight.requires_grad_() for weight in weights], self.learning_rate, weight_decay=self.weight_decay
        )
        best, least = [weight.detach().clone() for weight in weights], torch.tensor(math.log(2))
        for _ in range(self.epochs):
            optimizer.zero_grad()
            for part in learnt():
                for weight, gradient in zip(weights, torch.autograd.grad(part.sum(), weights), strict=True):
                    weight.grad = gradient if weight.grad is None else weight.grad + gradient
            optimizer.step()
            with torch.no_grad():
                loss = torch.stack(list(held())).sum(0)
                better = loss < least.to(loss)
                least = torch.where(better, loss, least.to(loss))  # a loss that is NaN leaves it as it is
                for weight, kept in zip(weights, best, strict=True):
                    kept.copy_(
                        torch.where(better.view(*better.shape, *[1] * (weight.ndim - better.ndim)), weight, kept)
                    )
        return best


def check_counts(**counts: int) -> None:
    """Refuse what does not count anything.

    Raises:
        ValueError: One of them is no whole number of at least 1.
    """
    for name, count in counts.items():
        if not isinstance(count, int) or count < 1:
            raise ValueError(f"{name} is a whole number of at least 1, got {count!r}")


def parted(negative: Tensor, positive: Tensor, groups: Groups) -> list[tuple[Tensor, Tensor]]:
    """Negatives and positives to learn from, and those of other patients for choosing the step, a fifth of them."""
    folds = Groups(*(fold.to(negative.device) for fold in dealt(groups, HELD)))
    last = int(folds.positive.amax())
    parts = [
        (negative[(folds.negative == last) == held], positive[(folds.positive == last) == held])
        for held in (False, True)
    ]
    return parts if all(len(rows) for part in parts for rows in part) else [(negative, positive)] * 2


def standardised(values: Tensor, centre: Tensor, width: Tensor) -> Tensor:
    """Features ``(N, C)``, or maps ``(N, C, H, W)``, in widths from the centre, float64, clipped to ``FURTHEST``."""
    return ((values.double() - centre) / width).clamp(-FURTHEST, FURTHEST)

"""DNN: a small network for the features of each layer, logits summed (Metzen et al., ICLR 2017; Yao et al. 2021)."""

import torch
from torch import Tensor
from torch.nn import functional

from medrobust.detectors.base import check_groups
from medrobust.detectors.features import Features
from medrobust.detectors.layerwise import LayerwiseDetector, parted, standardised
from medrobust.detectors.numerics import standardisation
from medrobust.detectors.patient_groups import Groups, rows_apart


class LayerNetworks(LayerwiseDetector):
    """DNN: a network with one hidden layer for each layer of the victim (Metzen et al. 2017; Yao et al. 2021).

    Each network reads the features of its layer in standard deviations of the negatives, clipped to +-10. It has its
    own loss (cross-entropy with balanced classes), its own initial weights (drawn from the layer's name) and its own
    AdamW, which sees all rows at once, so that what is learnt from one layer does not depend on the other layers. The
    score is the sum of the logits.

    A fifth of the patients is held out, and the weights of the step with the lowest loss on their images are kept, so
    that a layer that carries little information adds less overfitting. Where the patients are not known (features
    without ``groups``), a fifth of the rows is held out, and other versions of a held-out image may be among the rest.
    If fewer than two patients have adversarial images, all images serve for both.

    The hidden units are smooth (GELU). With ReLU, whose slope jumps, a hundred steps on all rows at once magnify the
    rounding of the features, which differs with the number of images in a batch, by five orders of magnitude.

    Args:
        hidden: Number of hidden units of each network, at least 1.
        epochs: Number of passes over all images, one step each, at least 1.
        learning_rate: Learning rate of AdamW, > 0.
        weight_decay: Weight decay of AdamW, decoupled from the gradient, >= 0.
        seed: Seed of the initial weights.

    Raises:
        ValueError: A setting is out of range.
    """

    centre: Tensor
    width: Tensor
    first: Tensor
    first_bias: Tensor
    second: Tensor
    second_bias: Tensor

    def __init__(
        self,
        hidden: int = 64,
        epochs: int = 100,
        learning_rate: float = 0.003,
        weight_decay: float = 0.01,
        seed: int = 0,
    ) -> None:
        super().__init__(hidden, epochs, learning_rate, weight_decay, seed)

    def measure(self, features: Features) -> Tensor:
        """The features of all layers side by side, ``(N, D)``."""
        self._check(features)
        return torch.cat(list(features.layers.values()), 1)

    def fit_classifier(self, negative: Tensor, positive: Tensor, groups: Groups | None = None) -> None:
        """Train a network on each layer's columns of the negatives ``(N, D)`` and of the positives ``(M, D)``."""
        check_groups(negative, positive)
        device, sizes = negative.device.type, self.layer_widths.tolist()
        layers = list(zip(self.layer_names, negative.split(sizes, 1), positive.split(sizes, 1), strict=True))
        apart = groups or rows_apart(negative, positive)
        trained: dict[str, list[Tensor]] = {}
        # the caller may have switched gradients off or run in half precision
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device, enabled=False):
            for size in dict.fromkeys(sizes):  # layers of one width learn side by side
                trained |= self._train([layer for layer, own in zip(layers, sizes, strict=True) if own == size], apart)
            networks = [trained[name] for name in self.layer_names]
            centre, width, first, first_bias, second, second_bias = zip(*networks, strict=True)
            self.keep(
                centre=torch.cat(centre),
                width=torch.cat(width),
                first=torch.cat(first),
                first_bias=torch.stack(first_bias),
                second=torch.stack(second),
                second_bias=torch.stack(second_bias),
            )

    def layer_logits(self, measured: Tensor) -> Tensor:
        """Logits of the networks of all layers, float64 ``(N, L)``, for measured images ``(N, D)``.

        Raises:
            ValueError: The detector has not been fitted on adversarial images.
        """
        self.require("second_bias")
        values = standardised(measured, self.centre, self.width)
        sizes = self.layer_widths.tolist()
        parts = zip(values.split(sizes, 1), self.first.double().split(sizes), strict=True)
        hidden = torch.stack([part @ first for part, first in parts], 1) + self.first_bias
        return (functional.gelu(hidden) * self.second).sum(2) + self.second_bias

    def classify(self, measured: Tensor) -> Tensor:
        """Sum of the layers' logits, ``(N,)``.

        Raises:
            ValueError: The detector has not been fitted on adversarial images.
        """
        return self.layer_logits(measured).sum(1)

    def _train(self, layers: list[tuple[str, Tensor, Tensor]], groups: Groups) -> dict[str, list[Tensor]]:
        """Scaling and weights of the networks of L layers of one width, by name.

        Args:
            layers: Name of each, and the features ``(N, C)`` and ``(M, C)`` of both groups.
            groups: Patients of both.
        """
        names = [name for name, *_ in layers]
        scales = [standardisation(negative.detach().double()) for _, negative, _ in layers]
        centre, width = (torch.stack(parts) for parts in zip(*scales, strict=True))
        negative, positive = (  # images first, as patients are dealt
            standardised(torch.stack(own, 1).detach(), centre, width).float()
            for own in ([negative for _, negative, _ in layers], [positive for *_, positive in layers])
        )
        learnt, held = (_Rows(*part) for part in parted(negative, positive, groups))
        channels, count = negative.shape[2], len(layers)
        drawn = [torch.randn((channels, self.hidden), generator=self.generator(name)) for name in names]
        shapes = ((count, self.hidden), (count, self.hidden), (count,))
        weights = [
            (torch.stack(drawn) * (2 / channels) ** 0.5).to(width).float(),
            *(width.new_zeros(shape).float() for shape in shapes),
        ]
        best = self.train_weights(weights, lambda: [learnt.loss(weights)], lambda: [held.loss(weights)])
        return {name: [part[place] for part in (centre, width, *best)] for place, name in enumerate(names)}


class _Rows:
    """Standardised features of L layers, ``(N, L, C)`` and ``(M, L, C)``, with what the loss needs of them."""

    def __init__(self, negative: Tensor, positive: Tensor) -> None:
        self.values = torch.cat([negative, positive]).transpose(0, 1).contiguous()
        self.truth = torch.cat([negative.new_zeros(len(negative)), negative.new_ones(len(positive))])
        self.shares = torch.where(self.truth > 0, 0.5 / len(positive), 0.5 / len(negative)).to(negative)

    def loss(self, weights: list[Tensor]) -> Tensor:
        """Cross-entropy, with balanced classes, of each of the networks with these weights, ``(L,)``."""
        first, first_bias, second, second_bias = weights
        hidden = functional.gelu(torch.baddbmm(first_bias.unsqueeze(1), self.values, first))
        logits = (hidden @ second.unsqueeze(2)).squeeze(2) + second_bias.unsqueeze(1)
        truth = self.truth.expand_as(logits)
        return functional.binary_cross_entropy_with_logits(logits, truth, reduction="none") @ self.shares

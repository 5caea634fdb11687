"""DNN on maps: a small convolutional network for each layer, sigmoids averaged (Metzen et al., ICLR 2017; HFC21)."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from medrobust.detectors.base import check_groups
from medrobust.detectors.features import Features, Views
from medrobust.detectors.layerwise import LayerwiseDetector, check_counts, parted, standardised
from medrobust.detectors.numerics import RESOLUTION
from medrobust.detectors.patient_groups import Groups, rows_apart

CHUNK = 2**24  # numbers of a layer's maps that are worked on at a time, at most
SCALES = ("centre", "width")
WEIGHTS = ("first", "first_bias", "second", "second_bias", "third", "third_bias")


class LayerConvolutions(LayerwiseDetector):
    """DNN as in the papers: a small convolutional network on the maps of each layer (Metzen et al. 2017; HFC21).

    Each network reads its layer's maps, averaged over cells to at most ``side`` x ``side``, in standard deviations of
    the negatives, clipped to +-10: a 1x1 convolution, a 3x3 convolution, each with GELU, and a 1x1 convolution to one
    channel, whose mean over the cells is the logit. The score is the mean of the layers' sigmoids. What holds for the
    training of ``LayerNetworks`` holds here: own loss, weights and optimiser for each layer, all rows in each step, and
    the weights of the step with the lowest loss on a fifth of the patients.

    The maps take up to ``2 * side ** 2`` bytes for each channel of all layers and each image: 1.3 MB for the 35 layers
    of a MobileNetV2 at a side of 8 and images of 160 pixels. Fitting holds those of all reference images and of the
    clean, noisy and adversarial images of AdvTrain.

    Args:
        side: Longest side of the maps, at least 1.
        hidden: Number of channels inside each network, at least 1.
        epochs: Number of passes over all images, one step each, at least 1.
        learning_rate: Learning rate of AdamW, > 0.
        weight_decay: Weight decay of AdamW, decoupled from the gradient, >= 0.
        seed: Seed of the initial weights.

    Raises:
        ValueError: A setting is out of range.
    """

    map_sizes: Tensor  # (L, 3) channels, height and width of each layer's maps

    def __init__(
        self,
        side: int = 8,
        hidden: int = 16,
        epochs: int = 60,
        learning_rate: float = 0.01,
        weight_decay: float = 0.01,
        seed: int = 0,
    ) -> None:
        super().__init__(hidden, epochs, learning_rate, weight_decay, seed)
        check_counts(side=side)
        self.side = side

    @property
    def views(self) -> Views:
        """Maps of the layers."""
        return Views(maps=self.side)

    def fit_reference(self, clean: Features, labels: Tensor) -> None:
        """Store the sizes of the maps; nothing is learnt from clean images alone."""
        super().fit_reference(clean, labels)
        self.keep(map_sizes=torch.tensor([list(maps.shape[1:]) for maps in self._maps(clean)]))

    def measure(self, features: Features) -> Tensor:
        """The maps of all layers, flattened, side by side, ``(N, D)``.

        Raises:
            ValueError: There are no maps, or they are of other sizes than those that the detector was fitted on.
        """
        self._check(features)
        maps = self._maps(features)
        received = [list(one.shape[1:]) for one in maps]
        if received != self.map_sizes.tolist():
            raise ValueError(f"expected maps of the sizes {self.map_sizes.tolist()}, got {received}")
        return torch.cat([one.flatten(1) for one in maps], 1)

    def fit_classifier(self, negative: Tensor, positive: Tensor, groups: Groups | None = None) -> None:
        """Train a network on each layer's columns of the negatives ``(N, D)`` and of the positives ``(M, D)``."""
        check_groups(negative, positive)
        apart = groups or rows_apart(negative, positive)
        # the caller may have switched gradients off or run in half precision
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(negative.device.type, enabled=False):
            layers = zip(self._by_layer(negative), self._by_layer(positive), strict=True)
            for index, (name, (normal, other)) in enumerate(zip(self.layer_names, layers, strict=True)):
                fitted = self._train(name, normal.detach().clone(), other.detach().clone(), apart)
                names = [f"{key}_{index}" for key in (*SCALES, *WEIGHTS)]
                self.keep(**dict(zip(names, fitted, strict=True)))

    def layer_logits(self, measured: Tensor) -> Tensor:
        """Logits of the networks of all layers, float64 ``(N, L)``, for measured images ``(N, D)``.

        Raises:
            ValueError: The detector has not been fitted on adversarial images.
        """
        self.require("third_bias_0")
        columns = []
        for index, maps in enumerate(self._by_layer(measured)):
            centre, width, *weights = (self.get_buffer(f"{key}_{index}").double() for key in (*SCALES, *WEIGHTS))
            logits = [_logits(standardised(rows, centre, width), weights) for rows in _chunks(maps)]
            columns.append(torch.cat(logits))
        return torch.stack(columns, 1)

    def classify(self, measured: Tensor) -> Tensor:
        """Mean of the layers' sigmoids, float64 ``(N,)`` in [0, 1].

        Raises:
            ValueError: The detector has not been fitted on adversarial images.
        """
        return self.layer_logits(measured).sigmoid().mean(1)

    def _maps(self, features: Features) -> list[Tensor]:
        assert features.maps is not None  # _check has refused features without them
        if list(features.maps) != self.layer_names:
            raise ValueError(f"expected maps of the layers {self.layer_names}, got {list(features.maps)}")
        return list(features.maps.values())

    def _by_layer(self, measured: Tensor) -> list[Tensor]:
        """Maps ``(N, C, H, W)`` of each layer, from measured images ``(N, D)``."""
        sizes = self.map_sizes.tolist()
        return [
            part.unflatten(1, size)
            for part, size in zip(measured.split([math.prod(size) for size in sizes], 1), sizes, strict=True)
        ]

    def _train(self, name: str, negative: Tensor, positive: Tensor, groups: Groups) -> list[Tensor]:
        """Scaling and weights of one layer's network, from the maps ``(N, C, H, W)`` and ``(M, C, H, W)``."""
        centre, width = _channel_scales(negative)
        learnt, held = parted(negative, positive, groups)
        generator = self.generator(name)
        channels, hidden = negative.shape[1], self.hidden
        first = torch.randn((hidden, channels, 1, 1), generator=generator) * (2 / channels) ** 0.5
        second = torch.randn((hidden, hidden, 3, 3), generator=generator) * (2 / (9 * hidden)) ** 0.5
        made = (first, torch.zeros(hidden), second, torch.zeros(hidden), torch.zeros(1, hidden, 1, 1), torch.zeros(1))
        weights = [weight.to(negative.device) for weight in made]
        best = self.train_weights(
            weights, lambda: _losses(weights, centre, width, *learnt), lambda: _losses(weights, centre, width, *held)
        )
        return [centre, width, *best]


def _channel_scales(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and width ``(C, 1, 1)`` of each channel of ``(N, C, H, W)``, float64; see `standardisation`."""
    cells = maps.shape[0] * maps.shape[2] * maps.shape[3]
    parts = list(_chunks(maps))
    centre = torch.stack([rows.double().sum((0, 2, 3)) for rows in parts]).sum(0) / cells
    away = [(rows.double() - centre[:, None, None]).square().sum((0, 2, 3)) for rows in parts]
    width = (torch.stack(away).sum(0) / cells).sqrt()
    width = torch.where(width > RESOLUTION * centre.abs(), width, 1.0)
    return centre[:, None, None], width[:, None, None]


def _losses(
    weights: list[Tensor], centre: Tensor, width: Tensor, negative: Tensor, positive: Tensor
) -> Iterator[Tensor]:
    """Parts of the cross-entropy with balanced classes, one for each chunk of rows; their sum is the loss."""
    for group, sign in ((negative, 1.0), (positive, -1.0)):
        for rows in _chunks(group):
            logits = _logits(standardised(rows, centre, width).float(), weights)
            yield functional.softplus(sign * logits).sum() * (0.5 / len(group))


def _logits(maps: Tensor, weights: list[Tensor]) -> Tensor:
    """Logits ``(N,)`` of standardised maps ``(N, C, H, W)``."""
    first, first_bias, second, second_bias, third, third_bias = weights
    inner = functional.gelu(functional.conv2d(maps, first, first_bias))
    inner = functional.gelu(functional.conv2d(inner, second, second_bias, padding=1))
    return functional.conv2d(inner, third, third_bias).mean((1, 2, 3))


def _chunks(maps: Tensor) -> tuple[Tensor, ...]:
    """A few rows at a time, so that what is computed from them fits in memory."""
    return maps.split(max(1, CHUNK // max(1, maps[:1].numel())))

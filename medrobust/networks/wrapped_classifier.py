"""Plain models that classify, find labels or segment, wrapped so that they are attacked without Lightning."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, get_args

from torch import Tensor, nn
from torch.nn import functional

from medrobust.networks.label_outputs import label_loss, label_outcome
from medrobust.networks.mask_outputs import check_masks, pixel_cross_entropy
from medrobust.networks.model_outputs import OfLabels, Output
from medrobust.networks.victims import Outcome, class_outcome
from medrobust.networks.wrapped_model import WrappedModel


class WrappedClassifier(WrappedModel):
    """A classifier of one class per image as a victim. Arguments as ``WrappedModel``."""

    def loss(self, images: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy of each image, ``(N,)``."""
        return functional.cross_entropy(self(images), targets, reduction="none")

    def outcome(self, outputs: Tensor, targets: Tensor) -> Outcome:
        """Whether the largest logit is that of the target ``(N,)``, and the probability of the target."""
        return class_outcome(outputs, targets)


class WrappedLabels(WrappedModel):
    """A classifier of labels that do not exclude each other as a victim. Arguments as ``WrappedModel``.

    Targets are ``(N, L)``, each 0 or 1, or negative where the label is not known. The victim is right about an image if
    all of its known labels are right.
    """

    task = "multilabel"

    def loss(self, images: Tensor, targets: Tensor) -> Tensor:
        """Mean binary cross-entropy over each image's known labels, ``(N,)``."""
        return label_loss(self(images), targets)

    def outcome(self, outputs: Tensor, targets: Tensor) -> Outcome:
        """Whether all known labels ``(N, L)`` are right, and the share of them that are."""
        return label_outcome(outputs, targets)


class WrappedSegmenter(WrappedModel):
    """A network that names a class for each pixel, of which 0 is the background, as a victim.

    Targets are masks ``(N, H, W)``; negative pixels are ignored. The victim is right about an image if the mean Jaccard
    index of its foreground classes is at least ``threshold``. Its loss is the cross-entropy.

    Args:
        network: As ``WrappedModel``.
        mean: As ``WrappedModel``.
        std: As ``WrappedModel``.
        threshold: Jaccard index from which a mask counts as right, above 0 and at most 1.

    Raises:
        ValueError: ``std`` or ``threshold`` is out of its range.
    """

    task = "segmentation"

    def __init__(
        self,
        network: nn.Module | Callable[[Tensor], Any],
        mean: "float | Sequence[float]",
        std: "float | Sequence[float]",
        threshold: float = 0.5,
    ) -> None:
        """Keep the network, its normalisation and the threshold."""
        super().__init__(network, mean, std, "masks")
        if not 0 < threshold <= 1:
            raise ValueError(f"threshold is a Jaccard index above 0 and at most 1, got {threshold}")
        self.threshold = threshold

    def loss(self, images: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy over each image's labelled pixels, ``(N,)``."""
        logits = self(images)
        check_masks(logits, targets)
        return pixel_cross_entropy(logits, targets)

    def outcome(self, outputs: Tensor, targets: Tensor) -> Outcome:
        """Whether the mean Jaccard index of the foreground classes reaches the threshold, and that index."""
        from medrobust.metrics.segmentation import overlaps, predicted_labels, quality_of_masks  # only masks need it

        check_masks(outputs, targets)
        quality = quality_of_masks(overlaps(predicted_labels(outputs), targets, outputs.shape[1]))
        return Outcome(quality >= self.threshold, quality)

    def description(self) -> dict[str, Any]:
        """What the victim is and when it is right, as plain values."""
        return {**super().description(), "threshold": self.threshold}


def as_victim(
    model: nn.Module | Callable[[Tensor], Any],
    mean: "float | Sequence[float]" = 0.0,
    std: "float | Sequence[float]" = 1.0,
    output: Output = "logits",
    threshold: float = 0.5,
) -> WrappedModel:
    """Wrap a model of any origin, so that it can be attacked and evaluated without Lightning.

    Attacks run and judge it in eval mode, whatever its mode; what you compute with it yourself is computed in the mode
    in which it is, so call ``eval()`` first. The model is not copied. A tensor is read wherever a model returns it: by
    itself, or under ``logits`` (as transformers do) or ``out`` (as torchvision's segmenters do) of an object or a
    dictionary.

    Args:
        model: Maps normalised images ``(N, C, H, W)`` to outputs: a module, or a function, of which the modules in its
            closure are held still and told apart by their weights; anything else that it reads is not.
        mean: Mean that the model expects to be subtracted from images in [0, 1]; one number or one per channel.
        std: Standard deviation by which it expects them to be divided; one number or one per channel. Those of images
            in [0, 255] are to be divided by 255.
        output: What the model returns.

            - ``logits`` ``(N, K)`` of K >= 2 classes, or ``probabilities``, which a softmax has made of them;
            - ``one_logit`` ``(N, 1)`` or ``(N,)``, class 1 where it is positive, or ``one_sigmoid``, its probability;
            - ``label_logits`` ``(N, L)`` of labels that do not exclude each other, or ``label_sigmoids``, their
              probabilities; targets are 0 or 1, negative where they are not known;
            - ``masks``: logits ``(N, K, H, W)`` of a class for each pixel, 0 the background, or ``(N, 1, H, W)``;
            - a function that makes logits ``(N, K)`` of what the model returned.

            Attacks need logits. From probabilities they are taken by the logarithm, which works until float32 has
            rounded a probability to 0 or 1: say ``logits`` wherever the model can return them.
        threshold: Mean Jaccard index from which the victim counts as right about a mask; other outputs have none.

    Raises:
        ValueError: ``std`` is not positive, ``output`` names nothing, or (when called) the model returns something
            else.

    >>> import torch
    >>> victim = as_victim(lambda images: images.mean((1, 2, 3)) - 0.5, output="one_logit")
    >>> victim(torch.tensor([0.25, 1.0]).reshape(2, 1, 1, 1))
    tensor([[ 0.0000, -0.2500],
            [ 0.0000,  0.5000]])
    """
    if inspect.isclass(model):
        raise ValueError(f"a model is an object, got the class {model.__name__}: write {model.__name__}(...)")
    if not callable(model):
        raise ValueError(f"a model is a torch module or a function of images, got {type(model).__name__}")
    if output == "masks":
        return WrappedSegmenter(model, mean, std, threshold)
    if output in get_args(OfLabels):
        return WrappedLabels(model, mean, std, output)
    return WrappedClassifier(model, mean, std, output)

"""What a detector is: fitted state in buffers, and one score per image, larger if it looks more adversarial."""

import copy
import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn

from medrobust.detectors.features import Features, Views, concatenate, groups_of
from medrobust.detectors.patient_groups import Groups


class Detector(nn.Module, ABC):
    """Tells adversarial images from clean and noisy ones by their features.

    It works in three stages, so that detectors fitted to different attacks can share the first two: ``fit_reference``
    learns what clean training images look like, ``measure`` turns features into numbers that do not depend on any
    attack, and ``fit_classifier`` learns from these what adversarial images look like. ``fit`` runs all three.

    Larger scores always mean more adversarial. Each measurement has that direction by its definition; where a fitted
    classifier weights one against it, ``wrong_signs`` names it.

    A subclass stores its settings under the names of its ``__init__`` arguments, and everything it fits with ``keep``.
    """

    layer_widths: Tensor  # (L,) number of channels of each layer
    threshold: Tensor  # () score above which an image is flagged, where one has been set on clean images
    # whether it compares images with clean ones, which must not be among those that it learns to tell apart
    needs_reference: ClassVar[bool] = False
    # whether it asks for the one class of an image: it compares the image with clean ones of its class, or reads the
    # probabilities of classes that exclude each other
    needs_class: bool = False
    without_classes: ClassVar[str] = ""  # the setting by which it takes all images for one class; empty without one
    # whether the score has a gradient with respect to the features (almost everywhere), by which it can be attacked
    differentiable: ClassVar[bool] = True

    @property
    def views(self) -> Views:
        """The views of an image that it reads: only the plain features, unless a subclass asks for more."""
        return Views()

    def fit(
        self,
        clean: Features,
        labels: Tensor,
        adversarial: Features | None = None,
        noisy: Features | None = None,
        reference: Features | None = None,
        reference_labels: Tensor | None = None,
    ) -> Self:
        """Learn from clean images and, if there are any, from adversarial ones.

        Args:
            clean: Clean images that the victim classifies correctly, the negatives. Where these, the noisy and the
                adversarial ones have ``groups``, images of one patient are never on both sides of a choice that
                fitting makes, such as when to stop.
            labels: True classes of the clean images, ``(N,)`` int64.
            adversarial: Images that fool the victim, the positives. With None no classifier is fitted.
            noisy: Noisy versions of the clean images, further negatives.
            reference: Clean training images that densities are fitted on, none of them among the other images. None
                takes ``clean``, except that a detector that needs a reference refuses this with adversarial images.
            reference_labels: True classes of the reference images.

        Returns:
            The detector itself.

        Raises:
            ValueError: The detector cannot be fitted on these features; the message says why.
        """
        if len(labels) != len(clean):
            raise ValueError(f"expected one label for each of {len(clean)} images, got {len(labels)}")
        if adversarial is not None:
            check_groups(clean.predictions, adversarial.predictions)
        if (reference is None) != (reference_labels is None):
            raise ValueError("reference and reference_labels belong together, and only one of them was given")
        if reference is None and adversarial is not None and self.needs_reference:
            raise ValueError(
                f"{type(self).__name__} compares images with clean ones that are not among those it learns to tell "
                "apart: give clean training images as reference and reference_labels"
            )
        known, classes = (
            (clean, labels) if reference is None or reference_labels is None else (reference, reference_labels)
        )
        self.fit_reference(known, classes)
        if adversarial is not None:
            negative = clean if noisy is None else concatenate([clean, noisy])
            groups = groups_of(negative, adversarial)
            self.fit_classifier(self.measure(negative), self.measure(adversarial), groups=groups)
        return self

    def fit_reference(self, clean: Features, labels: Tensor) -> None:
        """Learn what clean training images look like; the base class only checks and stores the layers.

        Args:
            clean: Clean training images.
            labels: True classes of the images, ``(N,)``.

        Raises:
            ValueError: The detector cannot be fitted on these images.
        """
        if len(labels) != len(clean):
            raise ValueError(f"expected one label for each of {len(clean)} images, got {len(labels)}")
        self._buffers.clear()  # what an earlier fit learnt belongs to other images
        self.layer_names = list(clean.layers)
        self._check(clean)
        self.keep(layer_widths=torch.tensor([values.shape[1] for values in clean.layers.values()]))

    @abstractmethod
    def measure(self, features: Features) -> Tensor:
        """Numbers that the classifier reads, ``(N, D)``; each row depends on its own image alone and on no attack."""

    @abstractmethod
    def fit_classifier(self, negative: Tensor, positive: Tensor, groups: Groups | None = None) -> None:
        """Learn from measured clean and noisy images ``(N, D)`` and adversarial ones ``(M, D)``.

        Args:
            negative: Measured clean and noisy images, ``(N, D)``.
            positive: Measured adversarial images, ``(M, D)``.
            groups: Patients of the rows; None takes every row for a patient of its own.

        Raises:
            ValueError: A group is empty.
        """

    @abstractmethod
    def classify(self, measured: Tensor) -> Tensor:
        """Scores ``(N,)`` of measured images ``(N, D)``, of any range, larger = more adversarial."""

    def score(self, features: Features) -> Tensor:
        """Scores ``(N,)``, of any range, larger = more adversarial.

        Raises:
            ValueError: The detector is not fitted, or the features lack a view, have other layers or are not finite.
        """
        return self.classify(self.measure(features))

    def wrong_signs(self) -> list[str]:
        """Names of the measurements that the fitted classifier takes the wrong way round.

        By its definition a measurement is larger for more adversarial images; its weight is wrong if it is negative.
        Empty before a classifier is fitted, where the score uses no weights, and for classifiers without weights.
        """
        return []

    def flags(self, features: Features) -> Tensor:
        """Whether each image is flagged, bool ``(N,)``: whether its score lies above ``threshold``.

        Raises:
            ValueError: No threshold has been set, or `score` refuses the features.
        """
        if "threshold" not in self._buffers:
            raise ValueError(f"{type(self).__name__} has no threshold: an evaluation sets it on clean images")
        return self.score(features) > self.threshold

    def layer_scores(self, features: Tensor, layer: int) -> Tensor:
        """Scores of a single layer, which a gradient step of the images lowers.

        A detector whose ``views`` ask for a step implements it.

        Args:
            features: Activations of the layer, ``(N, C)``.
            layer: Index of the layer among those that the detector was fitted on.

        Returns:
            Scores ``(N,)``, larger = more adversarial, differentiable with respect to the features.

        Raises:
            NotImplementedError: The detector has no such scores.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no scores of single layers, which a gradient step of the images needs: "
            "implement layer_scores"
        )

    def keep(self, **fitted: Tensor) -> None:
        """Store fitted tensors as buffers, replacing earlier ones; ``nn.Module`` must not use their names itself."""
        for name, values in fitted.items():
            if values.is_inference():  # autograd could not save it for a backward pass through the score
                with torch.inference_mode(False):
                    values = values.clone()
            if name not in self._buffers:
                self.__dict__.pop(name, None)
                self.register_buffer(name, None)
            setattr(self, name, values.detach())

    def fork(self) -> Self:
        """A detector that shares everything fitted so far and can be fitted further, to an attack of its own."""
        fork = copy.copy(self)
        object.__setattr__(fork, "_buffers", dict(self._buffers))
        return fork

    def parameters_given(self) -> dict[str, Any]:
        """The detector's settings, by the names of the ``__init__`` arguments."""
        arguments = inspect.signature(type(self).__init__).parameters.values()
        names = [one.name for one in arguments if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]
        return {name: getattr(self, name) for name in names if name != "self"}

    @property
    def layer_names(self) -> list[str]:
        """Names of the layers that the detector was fitted on, in order.

        Raises:
            ValueError: The detector is not fitted.
        """
        names: list[str] | None = self.__dict__.get("_layer_names")
        if names is None:
            raise ValueError(f"{type(self).__name__} is not fitted yet: call fit first")
        return names

    @layer_names.setter
    def layer_names(self, names: Sequence[str]) -> None:
        self.__dict__["_layer_names"] = list(names)

    def _check(self, features: Features) -> None:
        """Refuse features of other layers, non-finite ones, and those that lack the draws or maps that are needed."""
        if list(features.layers) != self.layer_names:
            raise ValueError(f"expected features of the layers {self.layer_names}, got {list(features.layers)}")
        widths = self._buffers.get("layer_widths")
        received = [values.shape[1] for values in features.layers.values()]
        if widths is not None and widths.tolist() != received:
            raise ValueError(f"expected layers of {widths.tolist()} channels, got {received}")
        for name, values in features.layers.items():
            if not bool(values.sum().isfinite()) and bool((bad := ~values.isfinite().all(1)).any()):
                raise ValueError(
                    f"the features of layer {name!r} are not finite for {int(bad.sum())} of {len(bad)} images"
                )
        if self.views.draws and features.draws is None:
            raise ValueError(f"{type(self).__name__} needs passes with dropout, and the features have none")
        if self.views.maps and features.maps is None:
            raise ValueError(f"{type(self).__name__} needs maps of the layers, and the features have none")


class NeededViews(NamedTuple):
    """What a set of detectors needs of an image besides its plain features."""

    draws: bool  # whether any of them reads passes with dropout
    stepping: Detector | None  # the one that asks for a gradient step of the image
    maps: int = 0  # longest side of the layers' maps; 0 if none of them reads maps


def views_needed(detectors: Iterable[Detector]) -> NeededViews:
    """Collect the views that detectors ask for, whether or not they are fitted.

    Args:
        detectors: Detectors that judge the same images; only one of several forks of the same detector.

    Raises:
        ValueError: More than one asks for a gradient step, while ``Features`` holds the moved images of one only, or
            they ask for maps of different sizes.
    """
    detectors = list(detectors)
    stepping = [detector for detector in detectors if detector.views.step > 0]
    if len(stepping) > 1:
        names = ", ".join(f"{type(detector).__name__} of step {detector.views.step:g}" for detector in stepping)
        raise ValueError(f"only one detector can ask for a gradient step of the images, got {names}")
    sides = sorted({detector.views.maps for detector in detectors if detector.views.maps})
    if len(sides) > 1:
        raise ValueError(f"all detectors that read maps are expected to ask for the same side, got {sides}")
    draws = any(detector.views.draws for detector in detectors)
    return NeededViews(draws, stepping[0] if stepping else None, sides[0] if sides else 0)


def check_groups(negative: Tensor, positive: Tensor) -> None:
    """Refuse to fit a classifier on only one kind of image.

    Args:
        negative: Anything of the clean and noisy images, one row per image.
        positive: Anything of the adversarial images, one row per image.

    Raises:
        ValueError: A group is empty.
    """
    if not len(positive):
        raise ValueError("there is no successful adversarial image to fit on")
    if not len(negative):
        raise ValueError("there is no correctly classified clean image to fit on")

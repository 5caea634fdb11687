"""What a detector is: fitted state in buffers, and one number an image, larger for what looks more adversarial."""

import copy
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Views:
    """The views of an image that a detector reads beside its plain features.

    Args:
        draws: Whether it reads several passes with dropout, ``Features.draws``.
        step: Length of the signed gradient step by which an image is moved towards what each layer takes for clean, in
            units of the [0, 1] image range, for ``Features.stepped``; 0 for none.

    Raises:
        ValueError: The step is out of its range.
    """

    draws: bool = False
    step: float = 0.0

    def __post_init__(self) -> None:
        """Refuse a step that is no length in the image range."""
        if not 0 <= self.step < 1:
            raise ValueError(f"step is a length in the [0, 1] image range, at least 0 and below 1, got {self.step}")


@dataclass(frozen=True)
class Features:
    """What a victim makes of N images, all from one forward: all that detectors see of them.

    Args:
        layers: Activations averaged over space, ``(N, C)`` by layer, in the network's order; the last is the
            penultimate layer, from which the classes are read.
        predictions: Predicted classes, ``(N,)`` int64.
        draws: Class probabilities of T passes with dropout on, ``(N, T, K)``; None if no detector asks for them.
        stepped: Activations of each layer for images that one signed gradient step has moved towards what that layer
            takes for clean, ``(N, C)`` by layer; None if no detector asks for them.

    Raises:
        ValueError: There is no layer, or the numbers of images differ.
    """

    layers: Mapping[str, Tensor]
    predictions: Tensor
    draws: Tensor | None = None
    stepped: Mapping[str, Tensor] | None = None

    def __post_init__(self) -> None:
        """Refuse tensors that do not belong together."""
        if not self.layers:
            raise ValueError("features need at least one layer, got none")
        counts = {name: len(values) for name, values in self._tensors().items()}
        if len(set(counts.values())) > 1:
            raise ValueError(f"features are of one set of images, got {counts}")
        flat = {name: tuple(values.shape) for name, values in self.layers.items() if values.ndim != 2}
        if flat:
            raise ValueError(f"the features of a layer are (N, C), got {flat}")

    def __len__(self) -> int:
        """Number of images."""
        return len(self.predictions)

    @property
    def penultimate(self) -> Tensor:
        """Activations of the last layer, ``(N, C)``."""
        return list(self.layers.values())[-1]

    def __getitem__(self, rows: Any) -> "Features":
        """Features of some of the images, by anything that indexes a tensor's rows."""
        return self._each(lambda values: values[rows])

    def to(self, device: torch.device | str) -> "Features":
        """The same on another device."""
        return self._each(lambda values: values.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Features":
        return Features(
            {name: change(values) for name, values in self.layers.items()},
            change(self.predictions),
            None if self.draws is None else change(self.draws),
            None if self.stepped is None else {name: change(values) for name, values in self.stepped.items()},
        )

    def _tensors(self) -> dict[str, Tensor]:
        named = {**self.layers, "predictions": self.predictions}
        named |= {} if self.draws is None else {"draws": self.draws}
        return named | {f"stepped {name}": values for name, values in (self.stepped or {}).items()}


def concatenate(parts: Sequence[Features]) -> Features:
    """Put the images of several features below each other.

    Raises:
        ValueError: There is no part, or their layers differ.
    """
    if not parts:
        raise ValueError("features of no images cannot be put together")
    names = list(parts[0].layers)
    if any(list(part.layers) != names for part in parts):
        raise ValueError("features of different layers cannot be put together")
    for what in ("draws", "stepped"):
        if len({getattr(part, what) is None for part in parts}) > 1:
            raise ValueError(f"features with and without {what} cannot be put together")
    draws = [part.draws for part in parts if part.draws is not None]
    stepped = [part.stepped for part in parts if part.stepped is not None]
    return Features(
        {name: torch.cat([part.layers[name] for part in parts]) for name in names},
        torch.cat([part.predictions for part in parts]),
        torch.cat(draws) if draws else None,
        {name: torch.cat([part[name] for part in stepped]) for name in names} if stepped else None,
    )


class Detector(nn.Module, ABC):
    """Tells adversarial images from clean and noisy ones by their features.

    It works in three stages that can be shared: ``fit_reference`` learns what clean training images look like,
    ``measure`` turns features into the numbers that do not depend on any attack, and ``fit_classifier`` learns from
    these what adversarial images look like. ``fit`` runs all of them.

    A subclass stores its settings under the names of its ``__init__`` arguments and everything fitted by ``keep``.
    """

    layer_widths: Tensor  # (L,) number of channels of each layer
    needs_reference: ClassVar[bool] = (
        False  # compares with clean images, which must be none of those that it tells apart
    )

    @property
    def views(self) -> Views:
        """The views of an image that it reads; the plain features alone if a subclass says nothing else."""
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
        """Learn from clean images, and from adversarial ones where there are some.

        Args:
            clean: Clean images, correctly classified: negatives.
            labels: Their true classes, ``(N,)`` int64.
            adversarial: Images that fool the victim: positives. None leaves the raw score.
            noisy: Noisy versions of the clean images: negatives too.
            reference: Clean training images that densities are fitted on, none of the others; None takes ``clean``
                where there are no adversarial images.
            reference_labels: Their true classes.

        Returns:
            The detector itself.

        Raises:
            ValueError: The features do not allow it; says why.
        """
        if len(labels) != len(clean):
            raise ValueError(f"expected one label for each of {len(clean)} images, got {len(labels)}")
        if adversarial is not None:
            check_groups(clean.predictions, adversarial.predictions)
        if (reference is None) != (reference_labels is None):
            raise ValueError("reference and reference_labels belong together, and only one of them is given")
        if reference is None and adversarial is not None and self.needs_reference:
            raise ValueError(
                f"{type(self).__name__} compares images with clean ones, which none of those may be that it learns to "
                "tell apart: give clean training images as reference and reference_labels"
            )
        known, classes = (
            (clean, labels) if reference is None or reference_labels is None else (reference, reference_labels)
        )
        self.fit_reference(known, classes)
        if adversarial is not None:
            negative = clean if noisy is None else concatenate([clean, noisy])
            self.fit_classifier(self.measure(negative), self.measure(adversarial))
        return self

    def fit_reference(self, clean: Features, labels: Tensor) -> None:
        """Learn what clean training images look like; the base class only checks and notes the layers.

        Args:
            clean: Clean training images.
            labels: Their true classes, ``(N,)``.

        Raises:
            ValueError: They do not allow it.
        """
        if len(labels) != len(clean):
            raise ValueError(f"expected one label for each of {len(clean)} images, got {len(labels)}")
        self._buffers.clear()  # what an earlier fit has learnt belongs to other images
        self.layer_names = list(clean.layers)
        self._check(clean)
        self.keep(layer_widths=torch.tensor([values.shape[1] for values in clean.layers.values()]))

    @abstractmethod
    def measure(self, features: Features) -> Tensor:
        """Numbers that the classifier reads, ``(N, D)``; they depend on each image alone and on no attack."""

    @abstractmethod
    def fit_classifier(self, negative: Tensor, positive: Tensor) -> None:
        """Learn from measured clean and noisy images ``(N, D)`` and adversarial ones ``(M, D)``.

        Raises:
            ValueError: One of the groups is empty.
        """

    @abstractmethod
    def classify(self, measured: Tensor) -> Tensor:
        """Scores ``(N,)`` of measured images ``(N, D)``, of any range, larger = more adversarial."""

    def score(self, features: Features) -> Tensor:
        """Scores ``(N,)``, of any range, larger = more adversarial.

        Raises:
            ValueError: It is not fitted, or the features have other layers or are not finite.
        """
        return self.classify(self.measure(features))

    def layer_scores(self, features: Tensor, layer: int) -> Tensor:
        """Scores of one layer, which the gradient step of an image lowers; only detectors that ask for one have them.

        Args:
            features: Activations of that layer, ``(N, C)``, with a gradient.
            layer: Index of the layer among those that it was fitted on.

        Returns:
            Scores ``(N,)``, differentiable with respect to the features, larger = more adversarial.

        Raises:
            NotImplementedError: The detector has none.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no scores of single layers, which a gradient step of the images needs: "
            "implement layer_scores"
        )

    def keep(self, **fitted: Tensor) -> None:
        """Store fitted tensors as buffers, in place of earlier ones; their names are none of ``nn.Module``'s."""
        for name, values in fitted.items():
            if values.is_inference():  # a backward through the score could not save it
                with torch.inference_mode(False):
                    values = values.clone()
            if name not in self._buffers:
                self.__dict__.pop(name, None)
                self.register_buffer(name, None)
            setattr(self, name, values.detach())

    def fork(self) -> Self:
        """A detector that shares what is fitted so far and can be fitted on to another attack."""
        other = copy.copy(self)
        object.__setattr__(other, "_buffers", dict(self._buffers))
        return other

    def parameters_given(self) -> dict[str, Any]:
        """Its settings, by the names of the ``__init__`` arguments."""
        given = inspect.signature(type(self).__init__).parameters.values()
        named = [one.name for one in given if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]
        return {name: getattr(self, name) for name in named if name != "self"}

    @property
    def layer_names(self) -> list[str]:
        """Names of the layers that it was fitted on, in order.

        Raises:
            ValueError: It is not fitted.
        """
        names: list[str] | None = self.__dict__.get("_layer_names")
        if names is None:
            raise ValueError(f"{type(self).__name__} is not fitted yet: call fit first")
        return names

    @layer_names.setter
    def layer_names(self, names: Sequence[str]) -> None:
        self.__dict__["_layer_names"] = list(names)

    def _check(self, features: Features) -> None:
        """Refuse features of other layers, without draws where they are needed, or that are not finite."""
        if list(features.layers) != self.layer_names:
            raise ValueError(f"expected features of the layers {self.layer_names}, got {list(features.layers)}")
        widths = self._buffers.get("layer_widths")
        came = [values.shape[1] for values in features.layers.values()]
        if widths is not None and widths.tolist() != came:
            raise ValueError(f"expected layers of {widths.tolist()} channels, got {came}")
        for name, values in features.layers.items():
            if not bool(values.sum().isfinite()) and bool((bad := ~values.isfinite().all(1)).any()):
                raise ValueError(
                    f"the features of layer {name!r} are not finite for {int(bad.sum())} of {len(bad)} images"
                )
        if self.views.draws and features.draws is None:
            raise ValueError(f"{type(self).__name__} needs passes with dropout, and the features have none")


class NeededViews(NamedTuple):
    """What a set of detectors needs of an image beside its plain features."""

    draws: bool  # whether any of them reads passes with dropout
    stepping: Detector | None  # the one that asks for a gradient step of the image


def views_needed(detectors: Iterable[Detector]) -> NeededViews:
    """Collect the views that detectors ask for, fitted or not.

    Args:
        detectors: Detectors that judge the same images, each once: of the forks of a detector only one.

    Raises:
        ValueError: More than one asks for a gradient step, and features have room for the images of one only.
    """
    detectors = list(detectors)
    stepping = [detector for detector in detectors if detector.views.step > 0]
    if len(stepping) > 1:
        names = ", ".join(f"{type(detector).__name__} of step {detector.views.step:g}" for detector in stepping)
        raise ValueError(f"only one detector can ask for a gradient step of the images, got {names}")
    return NeededViews(any(detector.views.draws for detector in detectors), stepping[0] if stepping else None)


def check_groups(negative: Tensor, positive: Tensor) -> None:
    """Refuse to fit a classifier on one kind of image alone.

    Raises:
        ValueError: A group is empty.
    """
    if not len(positive):
        raise ValueError("there is no successful adversarial image to fit on")
    if not len(negative):
        raise ValueError("there is no correctly classified clean image to fit on")

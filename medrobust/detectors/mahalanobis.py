"""Mahalanobis distance: adversarial images lie far from the means of all classes, relative to the classes' spread."""

from typing import ClassVar

import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from medrobust.detectors.cross_validation import cross_validated_regression
from medrobust.detectors.features import Features, Views
from medrobust.detectors.numerics import check_variation, count_classes, rows_at_once, standardisation
from medrobust.detectors.patient_groups import Groups, rows_apart
from medrobust.detectors.weighted_measurements import WeightedMeasurements

LARGEST_CONDITION = 1e10  # of a correlation matrix that counts as regular: 6 of 16 digits are left
SMALLEST_SHRINKAGE = 1e-6  # of a singular covariance


class Mahalanobis(WeightedMeasurements):
    """Squared Mahalanobis distance to the nearest class at every layer (Lee et al., NeurIPS 2018, eq. 2).

    All classes share one covariance: the mean, over all reference images, of the outer products of the deviations
    from the mean of their class. It is shrunk to ``(1 - s) covariance + s v I``, v being the mean of the variances.
    By definition a larger distance is more adversarial.

    Fitted on adversarial images, the layers' distances, in standard deviations of the negatives, are weighted by a
    logistic regression whose penalty is chosen by cross-validation over patients (Lee et al.; see
    `cross_validated_regression`).

    Args:
        shrinkage: s in [0, 1], the same for all layers. None takes for each layer the value of Ledoit & Wolf (2004),
            which has the least expected error; see `ledoit_wolf`. 0 leaves the covariance as it is, which of hardly
            more images than channels is regular and yet far from that of new images: distances of new images then are
            too large.
        perturbation: Length, in units of the [0, 1] image range, of the signed step that moves an image towards the
            clean features of a layer before that layer measures it. Lee et al. (eq. 3) choose it between 0 and 0.014,
            such as 0.0005. It costs two forward passes and a backward pass for each layer; 0 leaves the step out.
        one_class: Take all images for one class, so that the distance is that from the mean of all clean images: for
            data whose images have no class, such as masks and boxes.

    Raises:
        ValueError: A setting is out of range.
    """

    needs_reference: ClassVar[bool] = True
    needs_class: bool = True
    without_classes: ClassVar[str] = "one_class"

    chosen: Tensor  # (L,) shrinkage that each layer was fitted with
    strength: Tensor  # () C of the regression

    def __init__(self, shrinkage: float | None = None, perturbation: float = 0.0, one_class: bool = False) -> None:
        super().__init__()
        if shrinkage is not None and not 0 <= shrinkage <= 1:
            raise ValueError(f"shrinkage is a share between 0 and 1, or None, got {shrinkage}")
        if not 0 <= perturbation < 1:
            raise ValueError(f"perturbation is a length in the [0, 1] image range, got {perturbation}")
        self.shrinkage, self.perturbation, self.one_class = shrinkage, perturbation, one_class
        self.needs_class = not one_class

    @property
    def views(self) -> Views:
        """A gradient step of the length ``perturbation``."""
        return Views(step=self.perturbation)

    def fit_reference(self, clean: Features, labels: Tensor) -> None:
        """Store a whitening matrix and the whitened means of the classes for each layer.

        Args:
            clean: Clean training images.
            labels: True classes of the images, ``(N,)``.

        Raises:
            ValueError: A class has a single image, a layer does not vary within the classes, or its covariance is
                singular with the given shrinkage.
        """
        super().fit_reference(clean, labels)
        labels = torch.zeros_like(labels) if self.one_class else labels
        classes, members, counts = count_classes(labels.to(clean.penultimate.device), "the Mahalanobis distance")
        chosen = []
        for index, (name, features) in enumerate(clean.layers.items()):
            values = features.double()
            check_variation(values, name)
            centre = values.mean(0)
            values = values - centre
            means = torch.stack([values[members == number].mean(0) for number in range(len(classes))])
            whitening, shrinkage = self._whitening(values - means[members], len(classes), name)
            chosen.append(shrinkage)
            self.keep(
                **{f"centre_{index}": centre, f"whitening_{index}": whitening, f"means_{index}": means @ whitening}
            )
        self.keep(chosen=torch.tensor(chosen, dtype=torch.float64, device=counts.device))

    def measure(self, features: Features) -> Tensor:
        """Squared distance to the nearest class at every layer, float64 ``(N, L)``, larger = more suspicious."""
        self._check(features)
        layers = features.stepped if self.perturbation else features.layers
        if layers is None:
            raise ValueError("Mahalanobis with a perturbation needs features of moved images, and there are none")
        columns = []
        for index, values in enumerate(layers[name] for name in self.layer_names):
            parts = values.split(rows_at_once(values.shape[1]))
            columns.append(torch.cat([self.layer_scores(part, index) for part in parts]))
        return torch.stack(columns, 1)

    def layer_scores(self, features: Tensor, layer: int) -> Tensor:
        """Squared distance to the nearest class at one layer, differentiable with respect to the features.

        Lee et al. (2018, eq. 3) move the image against its gradient before they measure the image.

        Args:
            features: Activations of the layer, ``(N, C)``, of any floating-point type.
            layer: Index of the layer among those that the detector was fitted on.

        Returns:
            Scores, float64 ``(N,)``, larger = more suspicious.
        """
        white = (features.double() - self.get_buffer(f"centre_{layer}")) @ self.get_buffer(f"whitening_{layer}")
        means = self.get_buffer(f"means_{layer}")
        to_classes = means.square().sum(1) - 2 * white @ means.T  # without |white|^2, which is the same for all
        return (to_classes.amin(1) + white.square().sum(1)).clamp(min=0)

    def scaling(self, negative: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each layer's distances, ``(L,)``, over the negatives ``(N, L)``."""
        return standardisation(negative)

    def regression(self, values: Tensor, truth: Tensor, groups: Groups | None) -> LogisticRegression:
        """A regression whose penalty is chosen by cross-validation over patients."""
        if groups is None:
            groups = rows_apart(*(values[truth == kind] for kind in (0, 1)))
        regression = cross_validated_regression(values, truth, groups, self.iterations)
        self.keep(strength=values.new_tensor(float(regression.C)))
        return regression

    def _whitening(self, deviations: Tensor, classes: int, name: str) -> tuple[Tensor, float]:
        """Matrix W ``(C, C)`` with ``W W' = inverse(shrunk covariance)``, and the shrinkage."""
        number, channels = deviations.shape
        covariance = deviations.T @ deviations / number
        variances = covariance.diagonal()
        if not bool((variances > 0).any()):
            raise ValueError(f"the features of layer {name!r} do not vary within any class")
        if self.shrinkage is not None:
            shrinkage = float(self.shrinkage)
            if shrinkage == 0 and not _is_regular(covariance, number - classes):
                raise ValueError(
                    f"the covariance of layer {name!r}, {channels} channels of {number} images, is singular: "
                    "set shrinkage above 0 or to None"
                )
        else:
            shrinkage = ledoit_wolf(deviations, covariance)
            if shrinkage < SMALLEST_SHRINKAGE and not _is_regular(covariance, number - classes):
                shrinkage = SMALLEST_SHRINKAGE
        shrunk = (1 - shrinkage) * covariance
        shrunk.diagonal().add_(shrinkage * variances.mean())
        factor, failed = torch.linalg.cholesky_ex(shrunk)
        if int(failed):
            raise ValueError(f"the covariance of layer {name!r} is singular with a shrinkage of {shrinkage:g}")
        identity = torch.eye(channels, dtype=factor.dtype, device=factor.device)
        return torch.linalg.solve_triangular(factor, identity, upper=False).T.contiguous(), shrinkage


def _is_regular(covariance: Tensor, freedom: int) -> bool:
    """Whether a covariance with ``freedom`` degrees of freedom can be inverted, whatever the channels' units."""
    deviations = covariance.diagonal().sqrt()
    if freedom < len(covariance) or not bool((deviations > 0).all()):
        return False
    eigenvalues = torch.linalg.eigvalsh(covariance / deviations / deviations.unsqueeze(1))
    return bool(eigenvalues[0] * LARGEST_CONDITION > eigenvalues[-1])


def ledoit_wolf(deviations: Tensor, covariance: Tensor) -> float:
    """Shrinkage s with the least expected squared error (Ledoit & Wolf, 2004, section 3).

    With the deviations ``d_n`` from the means of their classes, ``S = 1/N sum_n d_n d_n'`` and ``v = trace(S) / C``,
    ``s = min(1, b / a)``, where ``a = |S - v I|^2`` is how far S is from its target and
    ``b = 1/N^2 sum_n |d_n d_n' - S|^2`` how uncertain S is; ``|.|`` is the Frobenius norm.

    Args:
        deviations: Samples from which the means of their classes are subtracted, ``(N, C)``.
        covariance: Mean of their outer products, ``(C, C)``.

    Returns:
        Share in [0, 1].
    """
    number, channels = deviations.shape
    size = covariance.square().sum()
    distance = size - covariance.trace().square() / channels  # squared distance from the covariance to v I
    error = (deviations.square().sum(1).square().mean() - size) / number  # expected squared error of the covariance
    return float((error / distance).clamp(0, 1)) if distance > 0 else 0.0

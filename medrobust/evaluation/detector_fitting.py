"""What detectors are fitted on: clean, noisy and adversarial versions of AdvTrain's images."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from medrobust.attacks import UniformNoise
from medrobust.detectors import Detector, Features, concatenate, groups_of, patient_numbers
from medrobust.evaluation.batch import CleanBatch
from medrobust.evaluation.context import EvaluationContext
from medrobust.evaluation.controls import changed, noise_of_length
from medrobust.evaluation.crafting import Crafter, judged
from medrobust.evaluation.data import Batch
from medrobust.evaluation.extraction import Extractor, gather
from medrobust.evaluation.plan import EvaluationPlan, PlannedAttack
from medrobust.evaluation.thresholds import FOLDS, held_out_threshold
from medrobust.networks.victims import EvaluatedVictim

SAME = "same"  # stands for the judged attack itself


@dataclass(frozen=True, kw_only=True)
class FittingFeatures:
    """Features of those AdvTrain images that the victim gets right, on the CPU, in the order of their ids.

    Args:
        clean: Of the clean images; None where there are none.
        noisy: Of their noisy versions, each as far away as its adversarial one; None where there are none.
        adversarial: Of the adversarial versions that reached their aim; None where there are none.
    """

    clean: Features | None
    noisy: Features | None
    adversarial: Features | None

    def counts(self) -> dict[str, int]:
        """Number of images of each kind."""
        kinds = {"clean": self.clean, "noisy": self.noisy, "adversarial": self.adversarial}
        return {kind: 0 if features is None else len(features) for kind, features in kinds.items()}

    def fit(self, detector: Detector, device: torch.device, folds: int = FOLDS) -> str:
        """Fit a detector's classifier, and set its threshold on scores of clean images that it has not learnt from.

        Clean and noisy images are the negatives, adversarial ones the positives.

        Args:
            detector: A detector with a reference, which is fitted.
            device: Where it is fitted.
            folds: Parts of the patients, each of which is left out once for the threshold.

        Returns:
            Why the detector has no threshold; empty if it has one.

        Raises:
            ValueError: There is no image of one kind, or the classifier cannot be fitted.
        """
        if self.clean is None:
            raise ValueError("there is no correctly classified clean image to fit on")
        if self.adversarial is None:
            raise ValueError("there is no successful adversarial image to fit on")
        negatives = self.clean if self.noisy is None else concatenate([self.clean, self.noisy])
        groups = groups_of(negatives, self.adversarial)
        negative = detector.measure(negatives.to(device))
        positive = detector.measure(self.adversarial.to(device))
        detector.fit_classifier(negative, positive, groups=groups)
        try:
            threshold = held_out_threshold(detector, negative, positive, groups, len(self.clean), folds)
        except ValueError as error:
            return str(error)
        detector.keep(threshold=threshold)
        return ""


class _Collected:
    """Features of one kind of image, gathered batch by batch."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.parts: list[Features] = []

    def add(self, extractor: Extractor, images: Tensor, clean: CleanBatch) -> None:
        """Add the features of images that belong to those clean ones."""
        if len(clean):
            self.ids += clean.ids
            self.parts.append(extractor(images, clean.targets, clean.ids).to("cpu"))

    def gathered(self, context: EvaluationContext, patients: Mapping[str, str] | None) -> Features | None:
        """The features from all processes, in the order of the ids, with the patients where they are known."""
        ids, features, _ = gather(context, self.ids, self.parts)
        if features is None or patients is None:
            return features
        return replace(features, groups=patient_numbers([patients[id] for id in ids]))


def fitting_features(
    context: EvaluationContext,
    victim: EvaluatedVictim,
    plan: EvaluationPlan,
    crafter: Crafter,
    needed: Sequence[PlannedAttack],
    extractor: Extractor,
    loader: Iterable[Batch],
    seed: int,
    patients: Mapping[str, str] | None = None,
) -> dict[str, FittingFeatures]:
    """Attack AdvTrain: features of clean, noisy and adversarial images by an attack's key, the same on all processes.

    Images that the victim gets wrong are left out; of the adversarial ones those are kept that reached their aim. An
    image that an attack left unchanged has no noisy version.

    Args:
        context: The process.
        victim: The victim.
        plan: The evaluation, whose attacks run.
        crafter: Runs them.
        needed: Those of its attacks that detectors are fitted on.
        extractor: Gives the features.
        loader: AdvTrain.
        seed: Seed of the noise.
        patients: Patient of each image of AdvTrain by the image's id; None if they are not known.
    """
    clean_ones = _Collected()
    noisy_ones = {planned.key: _Collected() for planned in needed}
    adversarial_ones = {planned.key: _Collected() for planned in needed}
    for batch in context.batches(loader, "adversarial features for the detectors"):
        every = judged(victim, batch["image"], batch["target"], batch["id"])
        clean = every.take(every.outcome.right.nonzero().squeeze(1).tolist())
        if not len(clean):
            continue
        clean_ones.add(extractor, clean.images, clean)
        for planned in needed:
            with torch.enable_grad():
                attacked = crafter(victim, planned, plan, clean, white_box=True)
            noisy = noise_of_length(clean.images, attacked.adversarial, clean.ids, seed)
            moved = changed(clean.images, attacked.adversarial).nonzero().squeeze(1)
            noisy_ones[planned.key].add(extractor, noisy[moved], clean.take(moved.tolist()))
            reached = attacked.reached.nonzero().squeeze(1)
            adversarial_ones[planned.key].add(extractor, attacked.adversarial[reached], clean.take(reached.tolist()))
    shared = clean_ones.gathered(context, patients)
    return {
        planned.key: FittingFeatures(
            clean=shared,
            noisy=noisy_ones[planned.key].gathered(context, patients),
            adversarial=adversarial_ones[planned.key].gathered(context, patients),
        )
        for planned in needed
    }


def fit_name(planned: PlannedAttack) -> str:
    """How a file of detectors names the attack that a classifier was fitted on."""
    return planned.name if planned.epsilon is None else f"{planned.name}@{planned.epsilon:.6g}"


def fitted_on(detectors: Mapping[str, Detector], planned: PlannedAttack) -> dict[str, Detector]:
    """The detectors of a file that were fitted on an attack, by their own names."""
    prefix = f"{fit_name(planned)}/"
    return {name.removeprefix(prefix): one for name, one in detectors.items() if name.startswith(prefix)}


def fit_key(fit: str, judged_attack: PlannedAttack, attacks: Sequence[PlannedAttack]) -> str | None:
    """Key of the attack whose fit judges an attack; None if there is none.

    Args:
        fit: Name of the attack to fit on, or ``same``.
        judged_attack: The attack whose images are judged.
        attacks: All attacks; one that runs at several radii is taken at the judged one's radius, or the nearest.
    """
    if fit == SAME:
        is_noise = judged_attack.control or isinstance(judged_attack.attack, UniformNoise)
        return None if is_noise else judged_attack.key
    candidates = [planned for planned in attacks if planned.name == fit and not planned.control]
    if not candidates:
        return None
    radius = judged_attack.epsilon
    if radius is None:
        return candidates[0].key
    far = [abs((planned.epsilon if planned.epsilon is not None else radius) - radius) for planned in candidates]
    return candidates[far.index(min(far))].key

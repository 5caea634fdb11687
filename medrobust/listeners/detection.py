"""Detection: fits detectors of adversarial images on Train and AdvTrain, then scores every attacked image."""

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from medrobust.detectors import Detector, load_detectors, read_header, save_detectors, views_needed
from medrobust.detectors.weighted_measurements import WeightedMeasurements
from medrobust.evaluation.batch import AdversarialBatch
from medrobust.evaluation.context import EvaluationContext
from medrobust.evaluation.controls import changed, noise_of_length, random_signs, signs_radius
from medrobust.evaluation.crafting import Crafter
from medrobust.evaluation.data import EvaluationData
from medrobust.evaluation.detector_fitting import (
    SAME,
    FittingFeatures,
    fit_key,
    fit_name,
    fitted_on,
    fitting_features,
)
from medrobust.evaluation.detectors_left_out import fitted_ones, servable
from medrobust.evaluation.extraction import Extractor, clean_features
from medrobust.evaluation.listener import AttackIdentity, EvaluationListener
from medrobust.evaluation.plan import EvaluationPlan, PlannedAttack, radius_of, record_key, weights_hash
from medrobust.evaluation.thresholds import FOLDS, PASSING
from medrobust.listeners.shared_fits import FITS, fit_digest, found_elsewhere, of_fits, offered
from medrobust.networks.victims import EvaluatedVictim
from medrobust.results import columns

logger = logging.getLogger(__name__)

NAME = re.compile(r"[A-Za-z0-9-]+")
DEFINITION = 2  # of what is scored and fitted on: scores of another one are not mixed with these
Shown: TypeAlias = tuple[str, str | float]  # kind of image, and by what attack or radius


class Detection(EvaluationListener):
    """Scores four versions of every image by every detector: adversarial, clean, noisy, and with random signs.

    Densities are fitted on clean images of Train, classifiers on AdvTrain (clean and noisy images against those
    adversarial ones that fool the victim, without the images that the victim gets wrong anyway). The noise has the L2
    length of the image's own perturbation, so that no detector can tell the two apart by their length alone; an image
    that the attack left unchanged has no noisy version. Random signs of the attack's radius are a control that nothing
    is fitted on. The split under evaluation is only scored.

    The scores are columns of the records: ``detector_D_F`` of the adversarial image, ``detector_D_F_clean``,
    ``detector_D_F_noisy`` and ``detector_D_F_signs``, for the detector D fitted on the attack F. Beside them stand
    ``detector_D_F_threshold``, the score that 90 % of AdvTrain's clean images do not exceed when the classifier has not
    learnt from them, ``detector_D_F_wrong_signs``, how many of a regression's weights are negative, and
    ``fitted_F_positives``, the number of adversarial images that classifiers learnt from. A detector that cannot be
    fitted is left out with a warning, and its columns stay empty.

    Args:
        detectors: Detectors by name, of letters, digits and ``-``.
        layers: Layers that the detectors see, given by names, patterns, ``activations``, or ``encoder_activations`` for
            victims of masks and boxes.
        fit_on: Names of the attacks that classifiers are fitted on; each classifier is judged on all attacks.
            ``same`` fits one classifier per attack and judges it on that attack alone. Where an attack runs at
            several radii, the radius of the judged attack is used, or the nearest one.
        reference_per_class: Clean images of Train of each class that densities are fitted on; None for all.
        fit_per_class: Images of AdvTrain of each class; None for all.
        passes: Passes with dropout for Bayesian uncertainty.
        folds: Parts of AdvTrain's patients, each of which is left out once to score its clean images for the
            threshold. Every classifier is fitted that many times more, so that fewer parts save time.
        seed: Seed of dropout and noise.
        folder: Folder of the evaluation; the command line sets ``runs/NAME/evaluate``.

    Raises:
        ValueError: A name or a number is out of its range; or (later, before images are read) a layer or an attack
            does not exist, or the split is one that detectors are fitted on.
    """

    def __init__(
        self,
        detectors: dict[str, Detector] | None = None,
        layers: list[str] | None = None,
        fit_on: list[str] | None = None,
        reference_per_class: int | None = 500,
        fit_per_class: int | None = 1000,
        passes: int = 50,
        seed: int = 0,
        folder: str = "",
        folds: int = FOLDS,
    ) -> None:
        """Keep the settings; nothing is fitted yet."""
        self.detectors = dict(detectors or {})
        self.layers, self.fit_on = list(layers or ["activations"]), list(fit_on or [SAME])
        self.reference_per_class, self.fit_per_class = reference_per_class, fit_per_class
        self.passes, self.folds, self.seed, self.folder = passes, folds, seed, folder
        if len(set(self.fit_on)) < len(self.fit_on):
            raise ValueError(f"fit_on names each attack once, got {self.fit_on}")
        for name in self.detectors:
            if not NAME.fullmatch(name):
                raise ValueError(f"a detector's name is made of letters, digits and -, got {name!r}")
        for option, count in (("reference_per_class", reference_per_class), ("fit_per_class", fit_per_class)):
            if count is not None and count < 1:
                raise ValueError(f"{option} counts images and is at least 1, got {count}")
        views_needed(self.detectors.values())  # refuses two that ask for a gradient step
        if passes < 2:
            raise ValueError(f"passes with dropout have a variance from 2 on, got {passes}")
        if folds < 2:
            raise ValueError(f"folds are parts of the patients to leave out in turn, at least 2, got {folds}")
        self.fits = True  # with False, only detectors that an evaluation has fitted give scores
        self._extractor: Extractor | None = None
        self._one_class = True  # whether each image has one true class
        self._decides: tuple[dict[str, Any], list[dict[str, Any]]] = ({}, [])  # fits; for all, and for each attack
        self._fitted: dict[str, dict[str, Detector]] = {}
        self._chosen: dict[tuple[str, str], str | None] = {}
        self._measured: dict[Shown, dict[str, Tensor]] = {}
        self._batch: list[str] = []
        self._counts: dict[str, dict[str, int]] = {}  # images of each kind that were fitted on, by the attack's key

    def on_evaluation_identity(
        self,
        context: EvaluationContext,
        victim: EvaluatedVictim,
        data: EvaluationData,
        attacks: Sequence[AttackIdentity],
    ) -> dict[str, Any]:
        """Find the layers, and name what the scores depend on: the detectors, and all that they are fitted on.

        Raises:
            ValueError: A layer or an attack does not exist.
        """
        if not self.detectors:
            return {}
        self._one_class = data.task == "classification"
        extractor = self._extractor = self._found(context, victim)
        names = list(dict.fromkeys(name for name, _ in attacks))
        for wanted in self.fit_on:
            if wanted != SAME and wanted not in names:
                raise ValueError(
                    f"detectors are to be fitted on the attack {wanted!r}, and there are {', '.join(names)}"
                )
        taken = {f"{fit}{suffix}" for fit in self.fit_on for suffix in columns.FIT_SUFFIXES} & set(self.fit_on)
        if taken or (SAME in self.fit_on and SAME in names):
            raise ValueError(
                f"the attack {(taken or {SAME}).pop()!r} has a name that columns of scores need: rename it"
            )
        described = {
            "definition": DEFINITION,
            "threshold": {"passing": PASSING, "folds": self.folds},
            "detectors": list(self.detectors),
            "fits": self.fit_on,
            "settings": {
                name: {"class": type(detector).__name__, **detector.parameters_given()}
                for name, detector in self.detectors.items()
            },
            "layers": list(extractor.names),
            "attacks": [[name, identity] for name, identity in attacks if name in self.fit_on],
            "reference": data.fingerprint("train"),
            "fitted_on": data.fingerprint("adv_train"),
            "patients": record_key(sorted([sample.id, sample.patient] for sample in data.splits.get("adv_train", ()))),
            "reference_per_class": self.reference_per_class,
            "fit_per_class": self.fit_per_class,
            "passes": extractor.passes,
            "seed": self.seed,
        }
        of_all = {name: value for name, value in described.items() if name not in ("detectors", "fits", "attacks")}
        self._decides = of_all, [identity for _, identity in attacks]
        return {"detection": described}

    def _found(self, context: EvaluationContext, victim: EvaluatedVictim) -> Extractor:
        """An extractor of the detectors' layers; warns if the last of them is not a classifier's penultimate layer."""
        views = views_needed(one for one in self.detectors.values() if self._one_class or not one.needs_class)
        passes = self.passes if views.draws else 0
        extractor = Extractor(victim, self.layers, passes, self.seed, maps=views.maps, classes=self._one_class)
        if self._one_class:
            last, usual = extractor.names[-1], victim.layers_named(["activations"])[-1]
            if last != usual and context.is_first:
                logger.warning("detectors of penultimate features are given layer %s, the network's is %s", last, usual)
        return extractor

    def on_evaluation_plan(self, context: EvaluationContext, victim: EvaluatedVictim, plan: EvaluationPlan) -> None:
        """Refuse to judge detectors on the images that they are fitted on, or to fit them on the control.

        Raises:
            ValueError: The split is Train or AdvTrain, or an attack to fit on is the noise that was added as control.
        """
        if self.detectors and plan.split in ("train", "adv_train"):
            raise ValueError(
                f"detectors are fitted on train and adv_train and judged on another split, and this is {plan.split}"
            )
        controls = [planned.name for planned in plan.attacks if planned.control and planned.name in self.fit_on]
        if self.detectors and controls:
            raise ValueError(f"detectors are fitted on attacks, and {controls[0]!r} is the control beside them")

    def on_evaluation_start(
        self,
        context: EvaluationContext,
        victim: EvaluatedVictim,
        data: EvaluationData,
        plan: EvaluationPlan,
        crafter: Crafter,
    ) -> None:
        """Fit the detectors, or load those that a killed evaluation, or another one of the run, has fitted."""
        self._forget()
        if self._extractor is None or not plan.is_pending():
            return
        self._extractor.stepping = None
        self._chosen = {
            (fit, planned.key): fit_key(fit, planned, plan.attacks) for fit in self.fit_on for planned in plan.attacks
        }
        needed = [planned for planned in plan.attacks if planned.key in self._chosen.values()]
        weights = weights_hash(victim.state_dict())
        file = Path(self.folder) / "detectors" / f"{record_key([planned.key for planned in needed])}.safetensors"
        if context.broadcast(context.is_first and self._is_whole(file, weights)):  # all processes fit, or none
            self._load(file, weights, context.device, needed)
            return
        if not self.fits:
            return
        digests = self._digests(plan, crafter)
        other = None
        if self.folder and context.is_first:
            other = found_elsewhere(
                Path(self.folder), weights, {fit_name(planned): digests[fit_name(planned)] for planned in needed}
            )
        if other := context.broadcast(other):
            self._load(other, weights, context.device, needed)
            if context.is_first:
                fits = ", ".join(map(_told, needed))
                logger.info("detectors on %s: those that %s has fitted are taken", fits, other.parent.parent)
        else:
            with torch.inference_mode(False), torch.no_grad():
                self._fit(context, victim, data, plan, crafter, needed)
        if self.folder and context.is_first:
            fitted = {fit_name(planned): self._fitted[planned.key] for planned in needed}
            held = {f"{fit}/{name}": one for fit, detectors in fitted.items() for name, one in detectors.items()}
            images = {fit_name(planned): self._counts[planned.key] for planned in needed}
            about = {"split": "adv_train", "images": images, "passing": PASSING}
            about[FITS] = offered(fitted, digests, list(self.detectors))
            save_detectors(file, held, weights, list(fitted), about)

    def _digests(self, plan: EvaluationPlan, crafter: Crafter) -> dict[str, str]:
        """What each fit is by all that decides it, by its name; equal ones of two evaluations are interchangeable."""
        of_all, of_each = self._decides
        shared = {name: value for name, value in crafter.identity().items() if name != "surrogate"}  # a white box
        return {
            fit_name(planned): fit_digest(of_all, plan.victim, shared, identity)
            for planned, identity in zip(plan.attacks, of_each, strict=True)
        }

    def _is_whole(self, file: Path, weights: str) -> bool:
        """Whether a file holds detectors that a killed evaluation has fitted; a warning says if it is damaged."""
        if not self.folder or not file.is_file():
            return False
        try:
            load_detectors(file, weights)
        except ValueError as error:
            logger.warning("the detectors are fitted again: %s", error)
            return False
        return True

    @torch.no_grad()
    def on_adversarial_batch(
        self, context: EvaluationContext, victim: EvaluatedVictim, batch: AdversarialBatch
    ) -> None:
        """Add the scores of a batch, and how the detectors that gave them were fitted."""
        if not self.detectors:
            return
        if self._batch != batch.ids:
            self._batch, self._measured = batch.ids, {}
        undefined = torch.full((len(batch.ids),), torch.nan, dtype=torch.float64, device=batch.clean.device)
        for kind, (which, images, there) in self._shown(batch).items():
            measured = self._measure(which, images, batch)
            for fit in self.fit_on:
                fitted = self._fitted.get(self._chosen.get((fit, batch.planned.key)) or "", {})
                for name in self.detectors:
                    scores = fitted[name].classify(measured[name]).double() if name in fitted else undefined
                    batch.columns[columns.score_column(name, fit, kind)] = torch.where(there, scores, undefined)
        for fit in self.fit_on:
            for column, value in self._facts(fit, self._chosen.get((fit, batch.planned.key)) or "").items():
                batch.columns[column] = undefined if value is None else value.to(undefined).expand_as(undefined)

    def on_evaluation_end(self, context: EvaluationContext, victim: EvaluatedVictim, plan: EvaluationPlan) -> None:
        """Drop the detectors, which are saved."""
        self._forget()

    def _shown(self, batch: AdversarialBatch) -> dict[columns.Kind, tuple[Shown, Tensor, Tensor]]:
        """The versions of a batch's images that are scored: what identifies them, the images, and which of them count.

        Where the attack has left an image unchanged, noise of its length and signs of its length are no further images.
        """
        attack, key = batch.planned.attack, batch.planned.key
        moved = changed(batch.clean, batch.adversarial)
        all_of_them = torch.ones_like(moved)
        radius = signs_radius(attack)
        noisy = noise_of_length(batch.clean, batch.adversarial, batch.ids, self.seed)
        signs = random_signs(attack, batch.clean, batch.adversarial, batch.ids, self.seed)
        return {
            "clean": (("clean", ""), batch.clean, all_of_them),
            "noisy": (("noisy", key), noisy, moved),
            "signs": (
                ("signs", key if radius is None else float(radius)),
                signs,
                moved if radius is None else all_of_them,
            ),
            "adversarial": (("adversarial", key), batch.adversarial, all_of_them),
        }

    def _facts(self, fit: str, key: str) -> dict[str, Tensor | None]:
        """How the detectors of a fit were fitted, by column; None where that is not defined.

        Args:
            fit: Name of the fit.
            key: Key of the attack that it is; empty if there is none.
        """
        fitted, counts = self._fitted.get(key, {}), self._counts.get(key)
        positives = None if counts is None else torch.tensor(counts["adversarial"])
        found = {columns.fitted_positives_column(fit): positives}
        for name, detector in self.detectors.items():
            one = fitted.get(name)
            found[columns.threshold_column(name, fit)] = None if one is None else one._buffers.get("threshold")
            if isinstance(detector, WeightedMeasurements) and not detector.raw:
                wrong = None if one is None else torch.tensor(len(one.wrong_signs()))
                found[columns.wrong_signs_column(name, fit)] = wrong
        return found

    def _load(self, file: Path, weights: str, device: torch.device, needed: Sequence[PlannedAttack]) -> None:
        """Load the detectors that a killed evaluation has fitted, or another one of the same run."""
        header = read_header(file)
        names = of_fits(header, {fit_name(planned): planned for planned in needed})
        loaded, images = load_detectors(file, weights, device, names), header["about"]["images"]
        self._fitted = {planned.key: fitted_on(loaded, planned) for planned in needed}
        self._counts = {planned.key: images[fit_name(planned)] for planned in needed}
        one_of_each = {name: one for fitted in self._fitted.values() for name, one in fitted.items()}
        assert self._extractor is not None
        self._extractor.stepping = views_needed(one_of_each.values()).stepping

    def _measure(self, kind: Shown, images: Tensor, batch: AdversarialBatch) -> dict[str, Tensor]:
        """What each detector measures of images; all attacks on a batch share the clean ones."""
        if kind in self._measured:
            return self._measured[kind]
        assert self._extractor is not None
        features = self._extractor(images, batch.targets, batch.ids)
        measured: dict[str, Tensor] = {}
        for fitted in self._fitted.values():
            for name, detector in fitted.items():
                if name not in measured:  # classifiers of several attacks read the same measurements
                    measured[name] = detector.measure(features)
        if kind[1] != batch.planned.key:  # other attacks on this batch will ask for it
            self._measured[kind] = measured
        return measured

    def _fit(
        self,
        context: EvaluationContext,
        victim: EvaluatedVictim,
        data: EvaluationData,
        plan: EvaluationPlan,
        crafter: Crafter,
        needed: Sequence[PlannedAttack],
    ) -> None:
        assert self._extractor is not None
        device, on_first = context.device, context.is_first
        loader = data.reference_dataloader(self.reference_per_class)
        _, reference, labels = clean_features(context, self._extractor, loader, "clean features for the detectors")
        prepared = servable(self.detectors, self._one_class, self._extractor.without_dropout, on_first)
        near, classes = reference.to(device), labels.to(device)

        def refer(one: Detector) -> str:
            one.fit_reference(near, classes)
            return ""

        prepared = fitted_ones(prepared, refer, device, on_first)
        self._extractor.stepping = views_needed(prepared.values()).stepping
        loader = data.dataloader_of("adv_train", self.fit_per_class)
        patients = {sample.id: sample.patient for sample in data.splits["adv_train"]}
        found = fitting_features(context, victim, plan, crafter, needed, self._extractor, loader, self.seed, patients)
        for planned in needed:
            groups = found[planned.key]
            counts = self._counts[planned.key] = groups.counts()
            if on_first:
                logger.info(
                    "detectors on %s: %d clean images of train, %d clean and %d adversarial of adv_train",
                    _told(planned),
                    len(reference),
                    counts["clean"],
                    counts["adversarial"],
                )
            forks = {name: detector.fork() for name, detector in prepared.items()}

            def classify(one: Detector, groups: FittingFeatures = groups) -> str:
                return groups.fit(one, device, self.folds)

            self._fitted[planned.key] = fitted_ones(forks, classify, device, on_first, f" on {planned.name}")

    def _forget(self) -> None:
        self._fitted, self._chosen, self._counts, self._measured, self._batch = {}, {}, {}, {}, []


def _told(planned: PlannedAttack) -> str:
    """An attack as the log names it, with its radius as it was given."""
    return planned.name if planned.epsilon is None else f"{planned.name} {radius_of(planned.attack)}"

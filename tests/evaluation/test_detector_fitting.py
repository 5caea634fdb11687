"""What detectors are fitted on: the images of AdvTrain that count, with their patients."""

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor

from medrobust.attacks import FGSM, DeepFool, UniformNoise
from medrobust.detectors import Features, Mahalanobis
from medrobust.evaluation import Crafter, EvaluationContext, EvaluationPlan, PlannedAttack
from medrobust.evaluation.detector_fitting import (
    FittingFeatures,
    fit_key,
    fit_name,
    fitted_on,
    fitting_features,
)
from medrobust.evaluation.extraction import Extractor
from tests.in_memory import random_split
from tests.tiny_networks import linear_victim

COUNT = 11
VICTIM: Any = linear_victim().eval()
IMAGES = random_split(COUNT)[0]


def layer(*values: float) -> Features:
    """Features of one layer with one channel."""
    return Features({"layer": torch.tensor(values)[:, None]}, torch.zeros(len(values), dtype=torch.long))


def test_the_counts_are_those_of_the_images_and_missing_kinds_count_nothing() -> None:
    data = FittingFeatures(clean=layer(1, 2, 3), noisy=layer(1, 2), adversarial=None)
    assert data.counts() == {"clean": 3, "noisy": 2, "adversarial": 0}


class Notes(Mahalanobis):
    """Notes what its classifier is fitted on."""

    seen: tuple[Tensor, Tensor]

    def fit_classifier(self, negative: Tensor, positive: Tensor, groups: Any = None) -> None:
        if not hasattr(self, "seen"):
            self.seen = (negative, positive)
        super().fit_classifier(negative, positive, groups)


def test_negatives_are_the_clean_and_the_noisy_images_and_positives_the_adversarial_ones() -> None:
    # two classes at 0 and 10 whose images lie 1 beside them: a covariance of 1, so the distance is squared
    reference, labels = layer(-1, 1, 9, 11), torch.tensor([0, 0, 1, 1])
    detector = Notes(shrinkage=0.0)
    detector.fit_reference(reference, labels)
    data = FittingFeatures(clean=layer(0, 10), noisy=layer(2, 10.5), adversarial=layer(5, 13))
    assert data.fit(detector, torch.device("cpu")) == "a threshold needs to know the images' patients"
    negatives, positives = detector.seen
    torch.testing.assert_close(negatives.flatten(), torch.tensor([0.0, 0.0, 4.0, 0.25], dtype=torch.float64))
    torch.testing.assert_close(positives.flatten(), torch.tensor([25.0, 9.0], dtype=torch.float64))


@pytest.mark.parametrize(
    ("missing", "words"), [("clean", "no correctly classified clean"), ("adversarial", "no successful adversarial")]
)
def test_a_kind_of_which_there_is_no_image_is_named(missing: str, words: str) -> None:
    kinds = {kind: layer(1, 2) for kind in ("clean", "noisy", "adversarial")}
    with pytest.raises(ValueError, match=words):
        FittingFeatures(**{**kinds, missing: None}).fit(Mahalanobis(), torch.device("cpu"))


def collected(targets: Tensor) -> dict[str, FittingFeatures]:
    """FittingFeatures of noise-like and of strong attacks on images with these targets."""
    attacks = {"weak": FGSM(epsilon=1e-6), "strong": FGSM(epsilon=0.3)}
    planned = [PlannedAttack(name=name, attack=attack, key=name) for name, attack in attacks.items()]
    plan = EvaluationPlan(attacks=planned, split="test", images=[], victim={}, data={})
    ids = [f"image-{place:02d}" for place in range(COUNT)]
    batches: Iterable[Any] = [
        {"image": IMAGES[rows], "target": targets[rows], "id": [ids[row] for row in rows]}
        for rows in ([9, 10, 7, 8], [0, 1, 2, 3, 4, 5, 6])
    ]
    extractor = Extractor(VICTIM, ["dropout"])
    return fitting_features(EvaluationContext(), VICTIM, plan, Crafter(), planned, extractor, batches, seed=0)


def test_images_that_the_victim_gets_wrong_are_left_out_and_attacks_count_where_they_reached_their_aim() -> None:
    with torch.no_grad():
        targets = VICTIM(IMAGES).argmax(1)
    targets[::4] = 1 - targets[::4]  # images 0, 4 and 8: wrong
    found = collected(targets)
    assert found["weak"].counts() == {"clean": 8, "noisy": 8, "adversarial": 0}
    assert found["strong"].counts() == {"clean": 8, "noisy": 8, "adversarial": 8}
    right = [place for place in range(COUNT) if place % 4]
    clean = found["strong"].clean
    assert clean is not None
    torch.testing.assert_close(clean.penultimate, VICTIM.normalised(IMAGES[right]).flatten(1))  # by their ids


def test_where_the_victim_is_always_wrong_there_is_nothing_to_fit_on() -> None:
    with torch.no_grad():
        found = collected(1 - VICTIM(IMAGES).argmax(1))
    assert found["strong"].counts() == {"clean": 0, "noisy": 0, "adversarial": 0}


def test_a_file_names_fits_by_attack_and_radius_and_finds_them_again() -> None:
    fgsm = PlannedAttack(name="fgsm", attack=FGSM(epsilon=0.1), key="a")
    stronger = PlannedAttack(name="fgsm", attack=FGSM(epsilon=0.15), key="b")
    free = PlannedAttack(name="free", attack=DeepFool(), key="c")
    names = [fit_name(planned) for planned in (fgsm, stronger, free)]
    assert names == ["fgsm@0.1", "fgsm@0.15", "free"]
    held = {f"{name}/maha": Mahalanobis() for name in names}
    for planned, name in zip((fgsm, stronger, free), names, strict=True):
        assert fitted_on(held, planned) == {"maha": held[f"{name}/maha"]}


def test_the_classifier_of_a_judged_attack_is_of_its_radius_or_the_nearest() -> None:
    def planned(name: str, epsilon: float | None, control: bool = False) -> PlannedAttack:
        attack = DeepFool() if epsilon is None else FGSM(epsilon=epsilon)
        return PlannedAttack(name=name, attack=attack, key=f"{name} {epsilon}", control=control)

    noise, free = planned("noise", 0.1, control=True), planned("free", None)
    fgsm = [planned("fgsm", 0.1), planned("fgsm", 0.4)]
    attacks = [noise, *fgsm, planned("pgd", 0.2), planned("pgd", 0.3), free]
    assert fit_key("same", fgsm[1], attacks) == "fgsm 0.4"
    assert fit_key("same", noise, attacks) is None
    assert fit_key("fgsm", planned("pgd", 0.2), attacks) == "fgsm 0.1"
    assert fit_key("fgsm", planned("pgd", 0.3), attacks) == "fgsm 0.4"
    assert fit_key("pgd", fgsm[0], attacks) == "pgd 0.2"
    assert fit_key("pgd", fgsm[1], attacks) == "pgd 0.3"
    assert fit_key("fgsm", noise, attacks) == "fgsm 0.1"
    assert fit_key("free", fgsm[0], attacks) == "free None"
    assert fit_key("fgsm", free, attacks) == "fgsm 0.1"
    assert fit_key("bim", free, attacks) is None


def test_configured_noise_has_no_classifier_of_its_own() -> None:
    grain = PlannedAttack(name="grain", attack=UniformNoise(epsilon=0.1), key="grain")
    assert fit_key("same", grain, [grain]) is None

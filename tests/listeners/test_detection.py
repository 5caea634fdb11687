"""The listener of detectors: what they are fitted on, what each judges, and that fitting sees no test image."""

import logging
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars
import pytest
import torch
from torch import Tensor, nn

import medrobust.listeners.detection as module
from medrobust.attacks import FGSM, PGD, Attack, DeepFool
from medrobust.detectors import (
    BayesianUncertainty,
    DeepFeatures,
    Detector,
    Features,
    Groups,
    KernelDensity,
    KernelDensityUncertainty,
    LayerConvolutions,
    LayerNetworks,
    LocalDimension,
    Mahalanobis,
    QuantizedFeatures,
    SupportVectors,
    load_detectors,
    patient_numbers,
    read_header,
)
from medrobust.evaluation import EvaluationListener, EvaluationPlan, detectors_left_out
from medrobust.evaluation.extraction import Extractor
from medrobust.evaluation.plan import weights_hash
from medrobust.listeners import Detection, RecordJournal
from medrobust.metrics.separation import auroc
from medrobust.networks import WrappedClassifier, as_victim
from medrobust.results.records import read_records
from medrobust.results.report.page import finish
from tests import recording
from tests.in_memory import InMemoryData
from tests.recording import Recorder, Stopped

SIDE = 8
COUNTS = {"train": 26, "adv_train": 25, "adv_test": 11}
WRONG = 6  # every so many images the victim is wrong
ATTACKS: dict[str, Attack] = {"fgsm": FGSM(epsilon=0.03), "deepfool": DeepFool(steps=10)}
LAYERS = ["act1", "act2"]
FACTS = ("_threshold", "_wrong_signs")  # of how a detector was fitted, the same for all images
KINDS = ("", "_clean", "_noisy", "_signs")


def all_detectors() -> dict[str, Detector]:
    """Every detector that there is, made cheap."""
    return {
        "kd": KernelDensity(),
        "bu": BayesianUncertainty(),
        "kd-bu": KernelDensityUncertainty(),
        "lid": LocalDimension(neighbours=5),
        "maha": Mahalanobis(),
        "svm": SupportVectors(),
        "dnn": LayerNetworks(hidden=4, epochs=5),
        "dnn-maps": LayerConvolutions(side=4, hidden=4, epochs=5),
        "dfeat": DeepFeatures(trees=5),
        "qfeat": QuantizedFeatures(),
    }


class Net(nn.Module):
    """Two convolutions, dropout and a linear layer; and beside them an activation that is always zero."""

    def __init__(self, dropout: float = 0.5) -> None:
        super().__init__()
        self.first, self.act1 = nn.Conv2d(1, 4, 3, padding=1), nn.ReLU()
        self.dead = nn.ReLU()
        self.second, self.act2 = nn.Conv2d(4, 6, 3, padding=1, stride=2), nn.ReLU()
        self.dropout, self.last = nn.Dropout(dropout), nn.Linear(6, 2)
        generator = torch.Generator().manual_seed(4)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
            self.eval()
            logits = self((torch.rand(64, 1, SIDE, SIDE, generator=generator) - 0.5) / 0.25)
            self.last.bias -= logits.mean(0)  # or one class would always win

    def forward(self, images: Tensor) -> Tensor:
        maps = self.act1(self.first(images))
        maps = self.act2(self.second(maps + self.dead(-maps)))
        return self.last(self.dropout(maps.mean((2, 3))))


def victim_of(dropout: float = 0.5) -> WrappedClassifier:
    """A classifier with that network; always the same."""
    return as_victim(Net(dropout), mean=0.5, std=0.25).eval()


def data_of(batch_size: int = 4, poison: bool = False, other_test: bool = False) -> InMemoryData:
    """Random images of three splits; the targets are what the victim says, except for every sixth."""
    splits, ids, victim = {}, {}, victim_of()
    for number, (split, count) in enumerate(COUNTS.items()):
        other = other_test and split == "adv_test"
        images = torch.rand(count, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(100 if other else number))
        with torch.no_grad():
            targets = victim(images).argmax(1)
        targets[WRONG - 1 :: WRONG] = 1 - targets[WRONG - 1 :: WRONG]
        splits[split] = (1 - images if poison and split == "adv_test" else images, targets)
        ids[split] = [f"{'other' if other else split}-{place * 7 % count:02d}" for place in range(count)]
    splits["val"], ids["val"] = splits["adv_test"], ids["adv_test"]
    return InMemoryData(splits, ids, batch_size)


def evaluate(
    folder: Path,
    detectors: dict[str, Detector],
    attacks: dict[str, Attack] = ATTACKS,
    data: InMemoryData | None = None,
    victim: WrappedClassifier | None = None,
    more: tuple[EvaluationListener, ...] = (),
    epsilons: list[float] | None = None,
    split: str = "",
    stop_after: int | None = None,
    **settings: Any,
) -> Recorder:
    """Evaluate with a journal and with uniform noise as control."""
    detection = Detection(detectors, folder=str(folder), **{"layers": LAYERS, "passes": 4, "folds": 2, **settings})
    return recording.evaluate(
        victim or victim_of(),
        data or data_of(),
        attacks,
        *(RecordJournal(str(folder), "tiny"), detection, *more),
        epsilons=epsilons,
        split=split,
        controls=True,
        stop_after=stop_after,
    )


def records(folder: Path) -> polars.DataFrame:
    """Merged records, after the results have been written."""
    finish(folder)
    return read_records(folder)


def saved(folder: Path) -> list[bytes]:
    """What the files of fitted detectors hold, whatever their names."""
    return sorted(file.read_bytes() for file in (folder / "detectors").iterdir())


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Detectors' warnings."""
    names = (module.__name__, detectors_left_out.__name__)
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING and r.name in names]


def score_columns(frame: polars.DataFrame) -> list[str]:
    """Names of the columns of scores."""
    return [name for name in frame.columns if name.startswith("detector_") and not name.endswith(FACTS)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], polars.DataFrame]:
    """An evaluation with every detector: its folder, summary and records."""
    folder = tmp_path_factory.mktemp("whole")
    evaluate(folder, all_detectors(), fit_on=["same", "fgsm"])
    return folder, finish(folder), read_records(folder)


def test_every_detector_scores_the_four_versions_of_every_attacked_image(
    whole: tuple[Path, dict[str, Any], polars.DataFrame],
) -> None:
    table = whole[2]
    assert len(table) == 3 * COUNTS["adv_test"]
    attacked = table.filter(polars.col("attack") != "noise")
    assert set(score_columns(table)) == {
        f"detector_{name}_{fit}{kind}" for kind in KINDS for fit in ("same", "fgsm") for name in all_detectors()
    }
    unchanged = attacked["linf"] == 0  # by DeepFool where it was wrong before: no noise has the length 0
    assert 0 < unchanged.sum() < len(attacked)
    for column in score_columns(table):
        least = attacked.filter(~unchanged) if column.endswith(("_noisy", "_signs")) else attacked
        assert least[column].null_count() == 0, column
        assert all(map(math.isfinite, least[column])), column
    beside = attacked.filter(unchanged)
    assert beside["detector_maha_same_noisy"].null_count() == len(beside)


def test_a_cell_of_the_summary_is_the_share_of_pairs_that_the_score_puts_in_order(
    whole: tuple[Path, dict[str, Any], polars.DataFrame],
) -> None:
    _, summary, table = whole
    rows = summary["detection"]["rows"]
    assert len(rows) == 2 * 2 * 10  # attacks, fits, detectors
    for detector in ("maha", "dnn"):
        cell = next(row for row in rows if (row["attack"], row["fit"], row["detector"]) == ("fgsm", "same", detector))
        right = table.filter((polars.col("attack") == "fgsm") & polars.col("correct_before"))
        column = f"detector_{detector}_same"
        positive = right.filter(polars.col("success"))[column].to_list()
        negative = [*right[f"{column}_clean"], *right[f"{column}_noisy"]]
        assert (cell["n_positive"], cell["n_negative"]) == (len(positive), len(negative))
        assert len(positive) > 2
        won = sum((p > n) + (p == n) / 2 for p in positive for n in negative)
        assert cell["auroc"] == pytest.approx(won / len(positive) / len(negative))


def test_a_noise_control_has_scores_by_a_named_fit_and_none_by_its_own(
    whole: tuple[Path, dict[str, Any], polars.DataFrame],
) -> None:
    noise = whole[2].filter(attack="noise")
    for kind in KINDS:
        assert noise[f"detector_maha_same{kind}"].null_count() == len(noise)
        assert noise[f"detector_maha_fgsm{kind}"].null_count() == 0


def test_clean_scores_of_a_named_fit_are_the_same_in_every_attacks_rows(
    whole: tuple[Path, dict[str, Any], polars.DataFrame],
) -> None:
    by_attack = [whole[2].filter(attack=name).sort("id") for name in ("fgsm", "deepfool", "noise")]
    for name in all_detectors():
        column = f"detector_{name}_fgsm_clean"
        assert by_attack[0][column].to_list() == by_attack[1][column].to_list() == by_attack[2][column].to_list()


@pytest.mark.parametrize("change", ["poison", "other_test"])
def test_what_is_fitted_does_not_depend_on_the_images_under_evaluation(
    change: str, whole: tuple[Path, dict[str, Any], polars.DataFrame], tmp_path: Path
) -> None:
    evaluate(tmp_path, all_detectors(), data=data_of(**{change: True}), fit_on=["same", "fgsm"])
    scores = [table.sort("attack", "id")["detector_maha_fgsm"].to_list() for table in (whole[2], records(tmp_path))]
    assert scores[0] != scores[1]  # it was another test
    assert len(saved(tmp_path)) == 1
    assert saved(tmp_path) == saved(whole[0])


def test_fit_on_names_judge_every_attack_at_its_radius_or_the_nearest(tmp_path: Path) -> None:
    attacks: dict[str, Attack] = {"fgsm": FGSM(), "pgd": PGD(steps=2), "deepfool": DeepFool(steps=10)}
    detectors = {"maha": Mahalanobis(), "dnn": LayerNetworks(hidden=4, epochs=5)}
    radii = [0.1, 0.2]
    keep = evaluate(tmp_path, detectors, attacks, fit_on=["fgsm", "pgd"], epsilons=radii)
    (file,) = (tmp_path / "detectors").iterdir()
    loaded = load_detectors(file, weights_hash(victim_of().state_dict()))
    assert loaded.keys() == {
        f"{fit}@{radius}/{name}" for fit in ("fgsm", "pgd") for radius in radii for name in detectors
    }

    victim = victim_of()
    extract = Extractor(victim, LAYERS)
    for batch in keep.batches:
        radius = batch.planned.epsilon or radii[0]  # DeepFool has none: the first
        features = extract(batch.adversarial, batch.targets, batch.ids)
        for fit in ("fgsm", "pgd"):
            for name in detectors:
                detector = loaded[f"{fit}@{radius}/{name}"]
                torch.testing.assert_close(batch.columns[f"detector_{name}_{fit}"], detector.score(features).double())


class Spy(Detector):
    """Notes what it is fitted on."""

    references: list[tuple[Features, Tensor]] = []
    groups: list[tuple[Tensor, Tensor]] = []
    patients: list[Groups | None] = []

    def fit_reference(self, clean: Features, labels: Tensor) -> None:
        super().fit_reference(clean, labels)
        self.references.append((clean, labels))

    def measure(self, features: Features) -> Tensor:
        return features.penultimate

    def fit_classifier(self, negative: Tensor, positive: Tensor, groups: Groups | None = None) -> None:
        self.groups.append((negative, positive))
        self.patients.append(groups)

    def classify(self, measured: Tensor) -> Tensor:
        return measured.sum(1)


@pytest.fixture
def spy() -> Spy:
    """A spy that has seen nothing yet."""
    Spy.references, Spy.groups, Spy.patients = [], [], []
    return Spy()


def test_only_right_images_and_successful_attacks_of_adv_train_are_fitted_on(spy: Spy, tmp_path: Path) -> None:
    attack, data, victim = FGSM(epsilon=0.03), data_of(), victim_of()
    evaluate(tmp_path, {"spy": spy}, {"fgsm": attack}, reference_per_class=5)

    images = data.images["adv_train"]
    targets = data.targets("adv_train")
    with torch.no_grad():
        right = victim(images).argmax(1) == targets
        assert int((~right).sum()) == COUNTS["adv_train"] // WRONG
        attacked = attack(victim, images[right], targets[right])
        features = [victim.features(kind, ["act2"])[1]["act2"] for kind in (images[right], attacked.images)]
    assert 0 < int(attacked.success.sum()) < int(right.sum())
    negative, positive = Spy.groups[0]  # those after it leave patients out, for the threshold
    assert len(negative) == 2 * int(right.sum())  # clean and noisy
    order = torch.tensor(sorted(range(len(images)), key=lambda row: data.splits["adv_train"][row].id))
    kept = torch.arange(len(images))[right].tolist()
    rows = [kept.index(row) for row in order.tolist() if row in kept]
    torch.testing.assert_close(negative[: len(rows)], features[0][rows])
    torch.testing.assert_close(positive, features[1][[row for row in rows if attacked.success[row]]])


def test_classifiers_know_which_rows_belong_to_one_patient(spy: Spy, tmp_path: Path) -> None:
    """Two images a patient: the clean and the noisy version of both, and their adversarial ones, share a number."""
    data = data_of()
    for sample in data.splits["adv_train"]:
        sample.patient = f"patient {int(sample.id[-2:]) // 2}"
    evaluate(tmp_path, {"spy": spy}, {"fgsm": FGSM(epsilon=0.03)}, data=data, reference_per_class=5, folds=5)
    (groups, *parts), ((negative, positive), *_) = Spy.patients, Spy.groups
    assert groups is not None
    assert (len(groups.negative), len(groups.positive)) == (len(negative), len(positive))
    clean, noisy = groups.negative.chunk(2)
    assert torch.equal(clean, noisy)
    assert int(clean.unique(return_counts=True)[1].max()) == 2
    with torch.no_grad():
        right = victim_of()(data.images["adv_train"]).argmax(1) == data.targets("adv_train")
    kept = sorted(sample.id for sample, good in zip(data.splits["adv_train"], right.tolist(), strict=True) if good)
    assert torch.equal(clean, patient_numbers([f"patient {int(id[-2:]) // 2}" for id in kept]))
    assert set(groups.positive.tolist()) <= set(clean.tolist())
    left_out = [set(clean.tolist()) - set(part.negative.tolist()) for part in parts if part is not None]
    assert len(left_out) == 5
    assert sum(map(len, left_out)) == len(set().union(*left_out)) == len(clean.unique())  # each patient once


def test_densities_are_fitted_on_the_first_clean_images_of_each_class_of_train(spy: Spy, tmp_path: Path) -> None:
    evaluate(tmp_path, {"spy": spy}, {"fgsm": FGSM(epsilon=0.03)}, reference_per_class=5)
    features, labels = Spy.references[0]
    assert len(Spy.references) == 1
    assert labels.bincount().tolist() == [5, 5]
    expected = [
        (sample.id, image, sample.target)
        for target in (0, 1)
        for image, sample in [
            pair for pair in zip(data_of().images["train"], data_of().splits["train"]) if pair[1].target == target
        ][:5]
    ]
    expected.sort(key=lambda one: one[0])
    assert labels.tolist() == [target for _, _, target in expected]
    with torch.no_grad():
        _, taps = victim_of().features(torch.stack([image for _, image, _ in expected]), ["act2"])
    torch.testing.assert_close(features.penultimate, taps["act2"])


@pytest.mark.parametrize(
    ("detector", "changes", "why"),
    [
        ("bu", {"victim": victim_of(dropout=0.0)}, "detector bu is left out: the victim has no dropout"),
        ("dnn", {"attacks": {"fgsm": FGSM(epsilon=1e-7)}}, "detector dnn on fgsm.*no successful adversarial image"),
        ("maha", {"layers": ["dead", "act2"]}, "detector maha is left out: the features of layer 'dead' are the same"),
        ("lid", {"reference_per_class": 4}, "detector lid is left out: .*8"),
    ],
)
def test_a_detector_that_cannot_be_fitted_is_left_out_with_one_warning_and_the_others_go_on(
    detector: str, changes: dict[str, Any], why: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    makes = {"bu": BayesianUncertainty(), "dnn": LayerNetworks(epochs=2), "maha": Mahalanobis()}
    detectors = {"kd": KernelDensity(), detector: {**makes, "lid": LocalDimension()}[detector]}
    evaluate(tmp_path, detectors, **{"attacks": {"fgsm": FGSM(epsilon=0.03)}, **changes})
    table = records(tmp_path).filter(attack="fgsm")

    said = [line for line in warnings_of(caplog) if line.startswith(f"detector {detector} ")]
    assert len(said) == 1
    assert re.search(why, said[0])
    for kind in KINDS:
        assert table[f"detector_{detector}_same{kind}"].null_count() == len(table)
        nothing = detector == "dnn"  # then the other detectors have no adversarial image to be fitted on either
        assert table[f"detector_kd_same{kind}"].null_count() == (len(table) if nothing else 0)


def test_an_evaluation_none_of_whose_detectors_can_be_fitted_ends_with_empty_columns(tmp_path: Path) -> None:
    evaluate(tmp_path, {"bu": BayesianUncertainty()}, victim=victim_of(dropout=0.0))
    table = records(tmp_path)
    assert all(table[column].null_count() == len(table) == 33 for column in score_columns(table))
    assert len(score_columns(table)) == 4
    assert table["detector_bu_same_threshold"].null_count() == 33


@pytest.fixture
def crafted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the attacks, by method, whenever a batch is crafted."""
    calls: list[str] = []
    craft = Attack.craft

    def watched(self: Attack, *arguments: Any) -> Any:
        calls.append(type(self).__name__)
        return craft(self, *arguments)

    monkeypatch.setattr(Attack, "craft", watched)
    return calls


@pytest.mark.parametrize(
    ("settings", "split", "words"),
    [
        ({"layers": ["act3"]}, "adv_test", "no layer 'act3'; the nearest names are .*act2"),
        ({"fit_on": ["same", "pgd"]}, "adv_test", "fitted on the attack 'pgd', and there are noise, fgsm, deepfool"),
        ({"fit_on": ["fgsm", "noise"]}, "adv_test", "fitted on attacks, and 'noise' is the control"),
        ({}, "adv_train", "judged on another split, and this is adv_train"),
        ({}, "train", "judged on another split, and this is train"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_an_image_is_attacked(
    settings: dict[str, Any], split: str, words: str, crafted: list[str], tmp_path: Path
) -> None:
    data = data_of()
    data.test_split = split
    with pytest.raises(ValueError, match=words) as error:
        evaluate(tmp_path, {"maha": Mahalanobis()}, data=data, **settings)
    assert "\n" not in str(error.value)
    assert not crafted
    assert not (tmp_path / "journal").exists()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"detectors": {"kd_bu": KernelDensity()}}, "letters, digits and -, got 'kd_bu'"),
        ({"reference_per_class": 0}, "reference_per_class counts images and is at least 1, got 0"),
        ({"fit_per_class": -1}, "fit_per_class counts images and is at least 1, got -1"),
        ({"passes": 1}, "from 2 on, got 1"),
        ({"folds": 1}, "at least 2, got 1"),
        ({"detectors": {name: Mahalanobis(perturbation=0.01) for name in "ab"}}, "only one detector .* gradient step"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Detection(**settings)


def test_without_detectors_there_is_no_column_no_file_and_no_identity(tmp_path: Path) -> None:
    keep = evaluate(tmp_path, {})
    assert not score_columns(records(tmp_path))
    assert not (tmp_path / "detectors").exists()
    assert "detection" not in keep.plans[0].listeners


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Names of the attacks that AdvTrain is attacked by, whenever that is done."""
    calls: list[list[str]] = []
    original = module.fitting_features

    def watched(context: Any, victim: Any, plan: Any, crafter: Any, needed: Any, *rest: Any) -> Any:
        calls.append([planned.name for planned in needed])
        return original(context, victim, plan, crafter, needed, *rest)

    monkeypatch.setattr(module, "fitting_features", watched)
    return calls


def some_detectors(**changes: Any) -> dict[str, Detector]:
    """A distance that moves the images, and networks."""
    return {"maha": Mahalanobis(perturbation=0.005), "dnn": LayerNetworks(**{"hidden": 4, "epochs": 5, **changes})}


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an evaluation, ``whole``, and with the same one that was stopped after 4 of 9 batches."""
    folder = tmp_path_factory.mktemp("halves")
    evaluate(folder / "whole", some_detectors())
    with pytest.raises(Stopped):
        evaluate(folder / "stopped", some_detectors(), stop_after=4)
    finish(folder / "whole")
    return folder


@pytest.fixture
def stopped(halves: Path, tmp_path: Path) -> Path:
    """A copy of the stopped evaluation."""
    return Path(shutil.copytree(halves / "stopped", tmp_path / "stopped", ignore=shutil.ignore_patterns("*.lock")))


def test_an_evaluation_that_was_stopped_loads_its_detectors_and_ends_like_a_whole_one(
    fits: list[list[str]], halves: Path, stopped: Path
) -> None:
    assert saved(stopped) == saved(halves / "whole")
    keep = evaluate(stopped, some_detectors())

    assert not fits
    assert sum(len(batch.ids) for batch in keep.batches) == 33 - 4 * 4  # 4 of 9 batches were written
    assert saved(stopped) == saved(halves / "whole")
    one, other = read_records(halves / "whole"), records(stopped)
    assert one["key"].equals(other["key"])
    assert one.equals(other.select(one.columns))


@pytest.mark.parametrize("left", [0, 4, 0.5, 0.99])
def test_fitted_detectors_whose_file_was_truncated_are_fitted_again_with_a_warning(
    fits: list[list[str]], halves: Path, stopped: Path, left: float, caplog: pytest.LogCaptureFixture
) -> None:
    (file,) = (stopped / "detectors").iterdir()
    content = file.read_bytes()
    file.write_bytes(content[: left if isinstance(left, int) else int(left * len(content))])
    evaluate(stopped, some_detectors())
    assert fits == [["fgsm", "deepfool"]] and file.read_bytes() == content
    assert [text for text in caplog.messages if "fitted again" in text and file.name in text]
    one, other = read_records(halves / "whole"), records(stopped)
    assert one.equals(other.select(one.columns))


def test_an_evaluation_that_is_complete_fits_and_loads_nothing(fits: list[list[str]], tmp_path: Path) -> None:
    evaluate(tmp_path, {"maha": Mahalanobis(perturbation=0.005)})
    for file in (tmp_path / "detectors").iterdir():
        file.unlink()
    keep = evaluate(tmp_path, {"maha": Mahalanobis(perturbation=0.005)})
    assert len(fits) == 1
    assert not keep.batches


def test_all_that_scores_depend_on_changes_the_records_keys(tmp_path: Path) -> None:
    def keys(**settings: Any) -> dict[str, str]:
        class Enough(EvaluationListener):
            def on_evaluation_plan(self, context: Any, victim: Any, plan: EvaluationPlan) -> None:
                found.update({planned.name: planned.key for planned in plan.attacks})
                raise Stopped

        found: dict[str, str] = {}
        with pytest.raises(Stopped):
            evaluate(tmp_path, more=(Enough(),), **{"detectors": some_detectors(), **settings})
        return found

    usual = keys()
    assert keys() == usual
    moved = data_of()
    moved.splits["adv_train"] = moved.splits["adv_train"][1:]
    fewer = data_of()
    fewer.splits["train"] = fewer.splits["train"][1:]
    for changed in (
        {"detectors": some_detectors(epochs=6)},
        {"detectors": {"maha": Mahalanobis()}},
        {"detectors": {"maha": Mahalanobis(shrinkage=0.1), "dnn": some_detectors()["dnn"]}},
        {"layers": ["act2"]},
        {"reference_per_class": 9},
        {"fit_per_class": 9},
        {"folds": 3},
        {"seed": 1},
        {"fit_on": ["fgsm"]},
        {"data": moved},
        {"data": fewer},
    ):
        other = keys(**changed)
        assert not set(other.values()) & set(usual.values()), changed
    unsure: dict[str, Detector] = {"bu": BayesianUncertainty()}
    assert keys(detectors=unsure, passes=4) != keys(detectors=unsure, passes=5)
    assert keys(passes=5) == usual  # which makes no passes
    stronger = {**ATTACKS, "fgsm": FGSM(epsilon=0.2)}
    assert keys(attacks=stronger)["deepfool"] == usual["deepfool"]  # which has a classifier of its own
    assert keys(attacks=stronger, fit_on=["fgsm"])["deepfool"] != keys(fit_on=["fgsm"])["deepfool"]


def test_scores_do_not_depend_on_the_batch_size(tmp_path: Path) -> None:
    detectors = ("kd", "bu", "lid", "maha", "svm", "dnn")
    tables = []
    for batch_size in (1, 4, 16):
        chosen = {name: detector for name, detector in all_detectors().items() if name in detectors}
        folder = tmp_path / str(batch_size)
        evaluate(folder, chosen, {"fgsm": FGSM(epsilon=0.03)}, data_of(batch_size))
        tables.append(records(folder))
    assert len(score_columns(tables[0])) == 4 * len(detectors)
    for table in tables[1:]:
        assert table["key"].equals(tables[0]["key"])
        assert table["success"].equals(tables[0]["success"])
        for column in score_columns(table):
            ours, theirs = (one.filter(attack="fgsm")[column].to_list() for one in (table, tables[0]))
            assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-3), column


def test_dropout_is_drawn_by_image_and_seed(tmp_path: Path) -> None:
    def uncertain(folder: str, seed: int) -> list[float]:
        evaluate(tmp_path / folder, {"bu": BayesianUncertainty()}, {"fgsm": FGSM(epsilon=0.03)}, seed=seed)
        return records(tmp_path / folder)["detector_bu_same_clean"].to_list()

    first: Callable[[], list[float]] = lambda: uncertain("first", 0)  # noqa: E731
    once = first()
    assert uncertain("again", 0) == once
    assert uncertain("other", 1) != once


def test_another_split_is_judged_by_the_same_detectors(
    whole: tuple[Path, dict[str, Any], polars.DataFrame], tmp_path: Path
) -> None:
    evaluate(tmp_path, all_detectors(), fit_on=["same", "fgsm"], split="val")
    assert set(records(tmp_path)["split"]) == {"val"}
    assert saved(tmp_path) == saved(whole[0])


class Plain(nn.Module):
    """Logits that are linear in the image, whose values can be read at a layer that leaves them as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.act, self.last = nn.ReLU(), nn.Linear(SIDE * SIDE, 2)
        with torch.no_grad():
            self.last.weight.copy_(torch.randn(2, SIDE * SIDE, generator=torch.Generator().manual_seed(0)))
            self.last.bias.zero_()

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.act(images.flatten(1)))


class Length(Detector):
    """How far an image lies from the mid-grey that all clean images are, to three digits of FGSM's length."""

    def measure(self, features: Features) -> Tensor:
        return (features.penultimate - 0.5).norm(dim=1, keepdim=True).div(0.1 * SIDE).round(decimals=3)

    def fit_classifier(self, negative: Tensor, positive: Tensor, groups: Groups | None = None) -> None:
        """The length itself is the score."""

    def classify(self, measured: Tensor) -> Tensor:
        return measured[:, 0]


def test_the_length_of_a_perturbation_tells_nothing(tmp_path: Path) -> None:
    """Beside uniform noise of its radius, which is shorter, FGSM is recognised by its length, AUROC 1."""
    victim = as_victim(Plain(), mean=0.0, std=1.0).eval()
    images = torch.full((12, 1, SIDE, SIDE), 0.5)
    with torch.no_grad():
        split = images, victim(images).argmax(1)
    data = InMemoryData(dict.fromkeys(COUNTS, split))
    keep = evaluate(tmp_path, {"length": Length()}, {"fgsm": FGSM(epsilon=0.1)}, data, victim, layers=["act"])
    assert keep.of("fgsm", "success").all()
    attacked, noisy, signs = (keep.column("fgsm", f"detector_length_same{kind}") for kind in ("", "_noisy", "_signs"))
    uniform = Length().measure(Features({"act": keep.of("noise", "adversarial").flatten(1)}, torch.zeros(12)))[:, 0]
    assert float(auroc(uniform.double(), attacked)) == 1
    assert float(auroc(noisy, attacked)) == 0.5
    assert float(auroc(noisy, signs)) == 0.5


def test_a_detectors_threshold_is_saved_with_it_and_stands_in_the_records(
    whole: tuple[Path, dict[str, Any], polars.DataFrame],
) -> None:
    folder, _, table = whole
    (file,) = (folder / "detectors").iterdir()
    loaded = load_detectors(file, weights_hash(victim_of().state_dict()))
    fgsm = table.filter(attack="fgsm")
    for name in all_detectors():
        threshold = float(loaded[f"fgsm@0.03/{name}"].get_buffer("threshold"))
        assert fgsm[f"detector_{name}_same_threshold"].to_list() == [threshold] * len(fgsm)
    counts = read_header(file)["about"]["images"]["fgsm@0.03"]
    assert set(fgsm["fitted_same_positives"]) == {float(counts["adversarial"])}
    weights = loaded["fgsm@0.03/lid"].get_buffer("weights")
    assert set(fgsm["detector_lid_same_wrong_signs"]) == {float((weights < 0).sum())}
    assert "detector_kd_same_wrong_signs" not in table.columns  # it has no weights


def test_scores_of_another_definition_are_not_mixed_with_these(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = evaluate(tmp_path, {"maha": Mahalanobis()}).keys()
    monkeypatch.setattr(module, "DEFINITION", 1)
    with pytest.raises(ValueError, match="holds an evaluation with other settings of detectors"):
        evaluate(tmp_path, {"maha": Mahalanobis()})
    old = evaluate(tmp_path / "other", {"maha": Mahalanobis()})
    assert not set(old.keys().values()) & set(keys.values())
    assert sum(old.counts().values()) == 33  # everything is attacked again


def test_without_attacked_patients_a_classifier_has_no_threshold_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = data_of()
    for sample in data.splits["adv_train"]:
        sample.patient = "the only one"
    evaluate(tmp_path, {"maha": Mahalanobis(), "kd": KernelDensity()}, {"fgsm": FGSM(epsilon=0.03)}, data)
    table = records(tmp_path).filter(attack="fgsm")
    assert table["detector_maha_same"].null_count() == 0
    assert table["detector_maha_same_threshold"].null_count() == len(table)
    assert table["detector_kd_same_threshold"].null_count() == 0  # which is a measurement and no classifier
    said = [line for line in warnings_of(caplog) if "no threshold" in line]
    assert said == [
        "detector maha on fgsm has no threshold: a threshold needs adversarial images of at least 2 patients"
    ]

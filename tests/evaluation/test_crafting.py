"""How a batch is crafted: on a surrogate, on copies that are not mixed up, with objectives fitted to clean images."""

from functools import cache
from pathlib import Path
from typing import Any

import polars
import pytest
import torch

import medrobust.evaluation.crafting as module
from lightning_modules import Classifier
from medrobust.attacks import BIM, FGSM, Attack
from medrobust.detectors import Detector, LayerNetworks, Mahalanobis
from medrobust.evaluation import EvaluationContext, EvaluationListener, EvaluationPlan, PlannedAttack
from medrobust.evaluation.crafting import Crafter, judged
from medrobust.evaluation.plan import weights_hash
from medrobust.listeners import Detection, RecordJournal
from medrobust.networks.defended_victim import DefendedVictim
from medrobust.networks.input_defences import GaussianSmoothing
from medrobust.objectives import CrossEntropy, FeatureConstraint, TypicalMargin, WeightedSum
from medrobust.objectives.clean_features import CleanFeatures, fit_objectives, patterns_wanted
from medrobust.results.records import merge
from tests import recording
from tests.in_lightning import random_resnet
from tests.in_memory import InMemoryData
from tests.recording import Recorder

pytestmark = pytest.mark.filterwarnings("ignore:.* to untargeted cross-entropy")  # most need no better objective

SIDE = 32
COUNTS = {"train": 12, "adv_train": 10, "adv_test": 9}
TAPS = ("act1", "layer2.*.act2")
FOOL: dict[str, Attack] = {"fgsm": FGSM(epsilon=0.02)}


def hiding(**changes: Any) -> BIM:
    """An attack that is to hide among clean features."""
    terms = (CrossEntropy(), FeatureConstraint(taps=TAPS))
    return BIM(**{"epsilon": 0.02, "steps": 3, "objective": WeightedSum(terms, (1.0, 0.5)), **changes})


def victim_of(seed: int = 0, **changes: Any) -> Classifier:
    """An untrained classifier whose classes are balanced, with BatchNorms that are not the identity."""
    return random_resnet(seed, balanced=True, **changes)


@cache
def splits_of() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Random images of three splits; the targets are what the victim says, except for every fifth."""
    splits, victim = {}, victim_of()
    for number, (split, count) in enumerate(COUNTS.items()):
        images = torch.rand(count, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(number))
        with torch.no_grad():
            targets = victim(images).argmax(1)
        targets[4::5] = 1 - targets[4::5]
        splits[split] = (images, targets)
    return splits


def data_of(batch_size: int = 4) -> InMemoryData:
    """These images, in samples of their own."""
    return InMemoryData(splits_of(), batch_size=batch_size)


def evaluate(
    attacks: dict[str, Attack],
    *listeners: EvaluationListener,
    data: InMemoryData | None = None,
    victim: Any = None,
    **options: Any,
) -> Recorder:
    """Evaluate in a plain loop, and record."""
    return recording.evaluate(victim or victim_of(), data or data_of(), attacks, *listeners, **options)


@pytest.fixture(scope="module")
def surrogate(tmp_path_factory: pytest.TempPathFactory, run_of: Any) -> str:
    """The run of another victim."""
    return run_of(tmp_path_factory.mktemp("surrogate") / "other", victim_of(1, mean=0.4, std=0.3))


def test_a_surrogates_images_are_judged_by_the_victim(surrogate: str) -> None:
    data, victim, other = data_of(), victim_of(), victim_of(1, mean=0.4, std=0.3)
    keep = evaluate(FOOL, data=data, victim=victim, surrogate=surrogate, deployment=False)

    images, targets = data.images["adv_test"], data.targets("adv_test")
    theirs = FOOL["fgsm"](other, images, targets, data.ids("adv_test"))
    # its gradients are those of other batches: the sign of a vanishing one may differ
    differing = (keep.of("fgsm", "adversarial") - theirs.images).abs() > 1e-5
    assert float(differing.double().mean()) < 1e-3
    victim.eval()
    with torch.no_grad():
        fooled = victim(keep.of("fgsm", "adversarial")).argmax(1) != targets
        before = victim(images).argmax(1) == targets
    assert keep.of("fgsm", "reached").tolist() == fooled.tolist()
    assert keep.of("fgsm", "reached").tolist() != theirs.success.tolist()  # or it would not matter whose it is
    assert keep.of("fgsm", "before.right").tolist() == before.tolist()


def test_the_surrogates_weights_are_part_of_every_key(surrogate: str, tmp_path: Path, run_of: Any) -> None:
    twin = run_of(tmp_path / "twin", victim_of(1, mean=0.4, std=0.3))
    third = run_of(tmp_path / "third", victim_of(2))
    data = data_of()
    data.splits["adv_test"] = data.splits["adv_test"][:2]
    found = [evaluate(FOOL, data=data, surrogate=one).keys()["fgsm"] for one in (None, surrogate, twin, third)]
    assert found[1] == found[2]
    assert len(set(found)) == 3


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nowhere", "there is no checkpoint .*nowhere"),
        ("torn", "not a checkpoint that train.py wrote"),
        ("three", "the surrogate has num_classes 3, the victim 2"),
    ],
)
def test_an_unusable_surrogate_is_refused_before_an_image_is_read(
    name: str, words: str, tmp_path: Path, run_of: Any
) -> None:
    (tmp_path / "torn").write_bytes(b"no checkpoint")
    run_of(tmp_path / "three", victim_of(num_classes=3))
    data = data_of()
    with pytest.raises(ValueError, match=words) as error:
        evaluate(FOOL, data=data, surrogate=str(tmp_path / name))
    assert "\n" not in str(error.value)
    assert not data.read


def test_detectors_are_fitted_with_attacks_on_the_victim_although_there_is_a_surrogate(
    surrogate: str, tmp_path: Path
) -> None:
    fitted, made = [], []
    for name, other in (("without", None), ("with", surrogate)):
        detectors: dict[str, Detector] = {"maha": Mahalanobis(), "dnn": LayerNetworks(hidden=4, epochs=3)}
        detection = Detection(detectors, list(TAPS), folds=2, folder=str(tmp_path / name))
        attacks: dict[str, Attack] = {**FOOL, "hide": hiding(steps=2)}
        keep = evaluate(attacks, detection, surrogate=other)
        files = (tmp_path / name / "detectors").iterdir()
        fitted.append(sorted(file.read_bytes() for file in files))
        made.append({name: keep.of(name, "adversarial") for name in attacks})
        assert all(bool(batch.columns["detector_dnn_same"].isfinite().all()) for batch in keep.batches)
    assert len(fitted[0]) == 1
    assert fitted[0] == fitted[1]
    assert not any(torch.equal(made[0][name], made[1][name]) for name in made[0])


def test_the_copies_of_victim_and_surrogate_are_not_mixed_up(surrogate: str) -> None:
    data, victim, other = data_of(), victim_of(), victim_of(1, mean=0.4, std=0.3)
    network = victim.network
    crafter = Crafter(surrogate=surrogate)
    crafter.load(EvaluationContext(), victim)
    held = crafter._surrogate
    assert weights_hash(held.state_dict()) == weights_hash(other.state_dict()) != weights_hash(victim.state_dict())
    network_of_the_surrogate = held.network
    attack = FOOL["fgsm"]
    planned = PlannedAttack(name="fgsm", attack=attack, key="key")
    plan = EvaluationPlan(attacks=[planned], split="adv_test", images=[], victim={}, data={})
    images, targets, ids = data.images["adv_test"], data.targets("adv_test"), data.ids("adv_test")
    clean = judged(victim, images, targets, ids)
    for white_box, attacked in ((True, victim), (False, other), (True, victim), (False, other)):
        batch = crafter(victim, planned, plan, clean, white_box=white_box)
        differing = (batch.adversarial - attack(attacked, images, targets, ids).images).abs() > 1e-5
        assert float(differing.double().mean()) < 0.01
        assert victim.network is network
        assert held.network is network_of_the_surrogate
    assert len(crafter.deployment._copies) == 2


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[CleanFeatures]:
    """The references that attacks are fitted to."""
    given: list[CleanFeatures] = []

    def watched(attack: Any, reference: CleanFeatures) -> Any:
        given.append(reference)
        return fit_objectives(attack, reference)

    monkeypatch.setattr(module, "fit_objectives", watched)
    return given


def test_objectives_are_fitted_once_to_trains_clean_images_and_the_plan_keeps_the_attack_as_it_was(
    fits: list[CleanFeatures],
) -> None:
    data, attack, victim = data_of(), hiding(), victim_of()
    keep = evaluate({**FOOL, "hide": attack}, data=data, victim=victim)

    assert len(fits) == 1  # of 3 batches and 2 attacks
    assert data.read.count("train") == 1
    reference = fits[0]
    assert list(reference.ids) == data.ids("train")
    assert reference.labels.tolist() == data.targets("train").tolist()
    names = victim.layers_named(TAPS)
    assert reference.named == {TAPS: names}
    victim.eval()
    with torch.no_grad():
        _, expected = victim.features(data.images["train"], names)
    for name in names:
        torch.testing.assert_close(reference.layers[name], expected[name], rtol=1e-4, atol=1e-5)
    planned = next(planned for planned in keep.plans[0].attacks if planned.name == "hide")
    assert planned.attack is attack
    assert patterns_wanted(planned.attack) == [TAPS]
    assert planned.attack.parameters()["objective"]["terms"][1]["class"] == "FeatureConstraint"


def test_what_an_objective_is_fitted_to_decides_what_is_crafted() -> None:
    data, changed = data_of(), data_of()
    changed.images["train"] = changed.images["train"] * 0.5
    strong = hiding(objective=WeightedSum((CrossEntropy(), FeatureConstraint(taps=TAPS)), (1.0, 5.0)))
    made = [evaluate({"hide": strong}, data=one).of("hide", "adversarial") for one in (data, changed, data_of())]
    assert not torch.equal(made[0], made[1])
    assert torch.equal(made[0], made[2])


def test_with_a_surrogate_objectives_know_its_features_for_its_attacks(
    surrogate: str, fits: list[CleanFeatures]
) -> None:
    data, name = data_of(), "act1"
    attack = hiding(steps=2, objective=WeightedSum((CrossEntropy(), FeatureConstraint(taps=TAPS)), (1.0, 5.0)))
    keep = evaluate({"hide": attack}, data=data, surrogate=surrogate, deployment=False)
    assert len(fits) == 2
    images, targets = data.images["adv_test"], data.targets("adv_test")
    made = [fit_objectives(attack, one)(victim_of(1, mean=0.4, std=0.3), images, targets).images for one in fits]
    differing = [float(((keep.of("hide", "adversarial") - one).abs() > 1e-5).double().mean()) for one in made]
    assert differing[1] < 0.01 < 0.1 < differing[0]
    with torch.no_grad():
        for reference, attacked in zip(fits, (victim_of(), victim_of(1, mean=0.4, std=0.3)), strict=True):
            _, expected = attacked.features(data.images["train"], [name])
            torch.testing.assert_close(reference.layers[name], expected[name], rtol=1e-4, atol=1e-5)


def test_the_reference_is_part_of_the_key_of_attacks_that_are_fitted_and_of_no_other() -> None:
    def keys(**changes: Any) -> dict[str, str]:
        data = changes.pop("data", None) or data_of()
        data.splits["adv_test"] = data.splits["adv_test"][:1]
        return evaluate({**FOOL, "hide": hiding(steps=1)}, data=data, **changes).keys()

    usual, fewer = keys(), data_of()
    fewer.splits["train"] = fewer.splits["train"][:-1]
    for changes in ({"reference_per_class": 3}, {"data": fewer}):
        other = keys(**changes)
        assert other["fgsm"] == usual["fgsm"]
        assert other["hide"] != usual["hide"]


def test_equal_weights_behind_an_input_defence_have_fits_of_their_own(fits: list[CleanFeatures]) -> None:
    victim = victim_of()
    for one in (victim, DefendedVictim(victim, GaussianSmoothing(sigma=1.0)), victim):
        evaluate({"hide": hiding(steps=1)}, victim=one)
    plain, defended, again = (reference.key for reference in fits)
    assert plain == again != defended


def test_a_complete_evaluation_reads_no_clean_image_of_train_again(tmp_path: Path) -> None:
    data = data_of()
    for expected in (1, 1):
        evaluate({"hide": hiding(steps=1)}, RecordJournal(str(tmp_path), "tiny"), data=data)
        assert data.read.count("train") == expected


def test_a_number_of_reference_images_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="reference_per_class counts images and is at least 1, got 0"):
        Crafter(reference_per_class=0)


def test_an_attack_that_hides_gives_the_same_records_at_any_batch_size(tmp_path: Path) -> None:
    tables: list[polars.DataFrame] = []
    for batch_size in (1, 16):
        folder = tmp_path / str(batch_size)
        evaluate({"hide": hiding()}, RecordJournal(str(folder), "tiny"), data=data_of(batch_size))
        tables.append(merge(folder))
    one, other = tables
    assert len(one) == COUNTS["adv_test"]
    assert 0 < one["success"].sum()
    exact = ["key", "id", "success", "correct_before", "adversarial_prediction", "forwards", "backwards"]
    assert one.select(exact).equals(other.select(exact))
    assert one["linf"].to_list() == pytest.approx(other["linf"].to_list(), abs=1e-6)
    assert one["l2"].to_list() == pytest.approx(other["l2"].to_list(), rel=1e-2)


def test_margins_are_fitted_to_the_logits_of_trains_clean_images() -> None:
    data, victim = data_of(), victim_of()
    attack = hiding(objective=TypicalMargin())
    crafter, context = Crafter(), EvaluationContext()
    planned = PlannedAttack(name="margin", attack=attack, key="key")
    plan = EvaluationPlan(attacks=[planned], split="adv_test", images=[("a", "0")], victim={}, data={})
    crafter.prepare(context, victim, data, plan)
    fitted = crafter._ready["key", True].objective
    expected = TypicalMargin().fit(CleanFeatures.extract(victim, data.images["train"], data.targets("train"), ()))
    torch.testing.assert_close(fitted.state.parts, expected.state.parts, rtol=1e-4, atol=1e-5)
    assert crafter.attack_identity(attack, data)["reference"] == data.fingerprint("train")


def test_an_attack_that_fights_its_own_hiding_is_named_before_it_runs() -> None:
    attacks = {"fights": hiding(steps=1), "aims": hiding(steps=1, targeted=True)}
    with pytest.warns(UserWarning, match="to untargeted cross-entropy") as caught:
        evaluate(attacks, goals="likeliest")
    words = [str(one.message) for one in caught if "untargeted" in str(one.message)]
    assert len(words) == 1 and words[0].startswith("the attack 'fights' adds FeatureConstraint")

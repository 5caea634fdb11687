"""How perturbations grow: on a linear victim each iteration is known, and the last one is the attack itself."""

from pathlib import Path

import numpy as np
import pytest

from medrobust.attacks import APGD, BIM, DAG, FGSM, PGD, SMIA, Attack, DeepFool
from medrobust.listeners import RecordJournal, Studies
from medrobust.networks import RandomResizing, defended
from medrobust.objectives import CrossEntropy, FeatureConstraint
from medrobust.results.records import read_journal
from medrobust.results.studied import Kept, read_studies
from medrobust.studies import Trajectory
from medrobust.studies.trajectory import TOGETHER, has_iterations
from tests import recording
from tests.in_memory import InMemoryData, random_data
from tests.tiny_networks import linear_victim

COUNT, RADIUS, STEPS = 7, 0.2, 5


def look(folder: Path, attacks: dict[str, Attack], batch_size: int = 3) -> tuple[dict[str, list[Kept]], InMemoryData]:
    data: InMemoryData = random_data(COUNT, batch_size=batch_size)
    listeners = [
        RecordJournal(str(folder), "tiny", seed=1),
        Studies(str(folder), {"mine": Trajectory(images=None)}),
    ]
    recording.evaluate(linear_victim(), data, attacks, *listeners)
    (studied,) = read_studies(folder)
    return {found[0].about["attack"]: found for found in studied.attacked.values()}, data


def test_every_iteration_on_a_linear_victim_is_known(tmp_path: Path) -> None:
    """Every step goes along the same signs, x_t = clip(x + t epsilon / n s), cut off by black and white."""
    kept, data = look(tmp_path, {"bim": BIM(epsilon=RADIUS, steps=STEPS)})
    weight = linear_victim().network.weight.detach().double()
    images = dict(zip(data.ids("adv_test"), data.images["adv_test"].double(), strict=True))
    targets = dict(zip(data.ids("adv_test"), data.targets("adv_test").tolist(), strict=True))
    for one in kept["bim"]:
        signs = (weight[1 - targets[one.id]] - weight[targets[one.id]]).sign().view(1, 8, 8)
        changes = [
            ((images[one.id] + (step + 1) * RADIUS / STEPS * signs).clamp(0, 1) - images[one.id]).numpy().ravel()
            for step in range(STEPS)
        ]
        updates = np.diff(np.stack([np.zeros_like(changes[0]), *changes]), axis=0)
        cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(updates[1:], updates, strict=False)]
        np.testing.assert_allclose(one.arrays["var"], [(change / RADIUS).var() for change in changes], rtol=1e-4)
        np.testing.assert_allclose(one.arrays["l2"], [np.linalg.norm(change) for change in changes], rtol=1e-5)
        np.testing.assert_allclose(one.arrays["cos"][1:], cosines, rtol=1e-4)
        assert np.isnan(one.arrays["cos"][0])
        shown = one.arrays["perturbations"].reshape(2, -1)  # iterations 1 and 4; there is no ninth
        np.testing.assert_allclose(shown, np.stack([changes[0], changes[3]]) / RADIUS, atol=1e-3)


def test_the_last_iteration_is_that_of_the_records(tmp_path: Path) -> None:
    attacks: dict[str, Attack] = {
        "smia": SMIA(epsilon=RADIUS, steps=STEPS),
        "early": BIM(epsilon=RADIUS, steps=STEPS, stop_when_fooled=True),
        "pgd": PGD(epsilon=RADIUS, steps=STEPS),
        "dag": DAG(epsilon=RADIUS, steps=STEPS, step_size=None),
    }
    kept, _ = look(tmp_path, attacks)
    records = {(row["attack"], row["id"]): row for row in read_journal(tmp_path).iter_rows(named=True)}
    for name in attacks:
        for one in kept[name]:
            row = records[name, one.id]
            assert one.arrays["var"].shape == (STEPS,) and one.arrays["var"][-1] == pytest.approx(row["var"], rel=1e-4)
            assert one.arrays["l2"][-1] == pytest.approx(row["l2"], rel=1e-4)
            assert bool(one.arrays["right"][-1]) == row["correct_after"]
            cosines = one.arrays["cos"][~np.isnan(one.arrays["cos"])]
            assert (row["cos"] is None) == (not len(cosines))
            if len(cosines):
                assert cosines.mean() == pytest.approx(row["cos"], rel=1e-4)


def test_nothing_depends_on_batch_mates(tmp_path: Path) -> None:
    attacks: dict[str, Attack] = {"smia": SMIA(epsilon=RADIUS, steps=3)}
    one, _ = look(tmp_path / "one", attacks, 1)
    other, _ = look(tmp_path / "other", attacks, COUNT)
    for mine, theirs in zip(one["smia"], other["smia"], strict=True):
        assert mine.id == theirs.id
        np.testing.assert_allclose(mine.arrays["var"], theirs.arrays["var"], rtol=1e-5)


WITHOUT: list[Attack] = [
    DeepFool(),
    APGD(steps=3),
    PGD(restarts=2),
    DAG(),
    BIM(epsilon=0.0),
    BIM(domain="log", epsilon=0.1),
    BIM(objective=CrossEntropy() + FeatureConstraint()),  # fitted to clean images where the attack itself runs
]


@pytest.mark.parametrize("attack", WITHOUT, ids=repr)
def test_attacks_without_iterations_of_one_length_are_passed_over(attack: Attack) -> None:
    assert not has_iterations(attack)


def test_behind_a_random_defence_the_last_iteration_is_that_of_the_records(tmp_path: Path) -> None:
    count = TOGETHER + 3  # images of one batch
    journal = RecordJournal(str(tmp_path), "tiny", seed=1)
    studies = Studies(str(tmp_path), {"mine": Trajectory(images=None)})
    victim = defended(linear_victim(), RandomResizing(smallest=0.5))
    attacks: dict[str, Attack] = {"bim": BIM(epsilon=RADIUS, steps=3)}
    recording.evaluate(victim, random_data(count, batch_size=count), attacks, journal, studies)
    (studied,) = read_studies(tmp_path)
    (found,) = studied.attacked.values()
    rows = {row["id"]: row for row in read_journal(tmp_path).iter_rows(named=True)}
    assert len(found) == count
    for one in found:
        assert bool(one.arrays["right"][-1]) == rows[one.id]["correct_after"]
        assert one.arrays["l2"][-1] == pytest.approx(rows[one.id]["l2"], rel=1e-4)


def test_one_step_is_the_whole_perturbation(tmp_path: Path) -> None:
    kept, _ = look(tmp_path, {"fgsm": FGSM(epsilon=RADIUS)})
    records = {row["id"]: row for row in read_journal(tmp_path).iter_rows(named=True)}
    for one in kept["fgsm"]:
        assert one.arrays["var"] == pytest.approx(records[one.id]["var"], rel=1e-4)


def test_an_attack_without_iterations_keeps_nothing(tmp_path: Path) -> None:
    kept, _ = look(tmp_path, {"deepfool": DeepFool()})
    assert all(not one.arrays for one in kept["deepfool"])

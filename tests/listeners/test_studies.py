"""Studies: always the same few images, looked at once, whatever happens in between."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from medrobust.attacks import FGSM, PGD, Attack
from medrobust.evaluation import AdversarialBatch
from medrobust.listeners import RecordJournal, Studies
from medrobust.listeners.studies import chosen_images
from medrobust.metrics.concentration import gini, top_energy, top_overlap
from medrobust.networks import GaussianSmoothing, defended
from medrobust.results.records import read_journal
from medrobust.results.studied import Studied, read_studies
from medrobust.studies import Saliency, Study
from tests import recording
from tests.in_memory import InMemoryData, random_data
from tests.tiny_networks import linear_victim

COUNT = 11
ATTACKS: dict[str, Attack] = {"fgsm": FGSM(epsilon=0.05), "pgd": PGD(epsilon=0.05, steps=2)}


@dataclass(frozen=True, kw_only=True)
class Changes(Study):
    """Keeps how far each pixel was moved, and adds the largest as a column."""

    drawing: ClassVar[str] = "my_figures.largest_changes"
    factor: float = 1.0

    def of_clean(self, victim: Any, images: Tensor, targets: Any, ids: Sequence[str]) -> dict[str, Tensor]:
        return {"mean": images.mean((1, 2, 3))}

    def of_attack(self, victim: Any, batch: AdversarialBatch) -> dict[str, Tensor]:
        assert torch.is_grad_enabled() and not batch.clean.is_inference()
        return {"change": self.factor * (batch.adversarial - batch.clean)}

    def columns(self, victim: Any, batch: AdversarialBatch) -> dict[str, Tensor]:
        return {"largest_change": (batch.adversarial - batch.clean).abs().amax((1, 2, 3))}


def data_of(batch_size: int = 4) -> InMemoryData:
    data: InMemoryData = random_data(COUNT, batch_size=batch_size)
    return data


def study(folder: Path, studies: dict[str, Study], batch_size: int = 4, **options: Any) -> dict[str, int]:
    """Evaluate with a journal and studies; how many images each attack was run on."""
    listeners = [RecordJournal(str(folder), "tiny", seed=1), Studies(str(folder), studies)]
    options = {"controls": True, **options}
    return recording.evaluate(linear_victim(), data_of(batch_size), ATTACKS, *listeners, **options).counts()


def only(folder: Path) -> Studied:
    (studied,) = read_studies(folder)
    return studied


def test_the_chosen_images_are_even_over_the_classes_and_do_not_depend_on_the_order() -> None:
    images = [(str(number), "a" if number < 8 else "b") for number in range(10)]
    chosen = chosen_images(images, 4)
    assert sorted("ab"[int(one) > 7] for one in chosen) == ["a", "a", "b", "b"]
    assert chosen_images(images[::-1], 4) == chosen and len(chosen_images(images, None)) == 10
    assert chosen_images(images, 3) == chosen[:3]


def test_each_study_keeps_its_images_and_the_control_counts_only_where_it_is_named(tmp_path: Path) -> None:
    assert study(tmp_path, {"mine": Changes(images=3)}) == {"noise": COUNT, "fgsm": COUNT, "pgd": COUNT}
    kept = only(tmp_path)
    assert len(kept.images) == len(kept.clean) == 3 and len(kept.attacked) == 2
    assert kept.drawing == "my_figures.largest_changes"
    for found in kept.attacked.values():
        assert [one.id for one in found] == kept.images
        assert all(np.abs(one.arrays["change"]).max() == pytest.approx(0.05, abs=1e-6) for one in found)
    about = kept.attacked[next(iter(kept.attacked))][0].about
    assert about.keys() == {"attack", "epsilon", "right_before", "right_after", "target", "prediction"}


def test_columns_are_of_all_images(tmp_path: Path) -> None:
    study(tmp_path, {"mine": Changes(images=1)})
    records = read_journal(tmp_path)
    assert len(records) == 3 * COUNT
    assert all(value == pytest.approx(0.05, abs=1e-6) or value < 0.05 for value in records["largest_change"])


def test_a_second_evaluation_looks_at_nothing_again(tmp_path: Path) -> None:
    study(tmp_path, {"saliency": Saliency(images=3)})
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz")}
    assert study(tmp_path, {"saliency": Saliency(images=3)}) == {} and len(before) == 3
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz")} == before


def test_more_images_and_further_studies_attack_only_what_they_lack(tmp_path: Path) -> None:
    study(tmp_path, {"saliency": Saliency(images=3)})
    assert study(tmp_path, {"saliency": Saliency(images=5)}) == {"noise": 2}  # the first attack shows the clean image
    for path in list(tmp_path.rglob("*.npz"))[:1]:
        path.write_bytes(b"")
    assert study(tmp_path, {"saliency": Saliency(images=5)}) == {"noise": 1}
    assert len(only(tmp_path).clean) == 5


def test_another_parameter_is_another_study(tmp_path: Path) -> None:
    study(tmp_path, {"saliency": Saliency(images=2)})
    (first,) = {str(one.arrays["map"].sum()) for one in only(tmp_path).clean[:1]}
    from medrobust.objectives import Margin

    study(tmp_path, {"saliency": Saliency(images=2, objective=Margin())})
    assert str(only(tmp_path).clean[0].arrays["map"].sum()) != first


@pytest.mark.parametrize("batch_size", [1, 3, COUNT])
def test_nothing_depends_on_batch_mates(batch_size: int, tmp_path: Path) -> None:
    study(tmp_path / "four", {"saliency": Saliency(images=None)})
    study(tmp_path / "other", {"saliency": Saliency(images=None)}, batch_size)
    one, other = only(tmp_path / "four"), only(tmp_path / "other")
    assert one.images == other.images and len(one.clean) == COUNT
    for mine, theirs in zip(one.clean, other.clean, strict=True):
        np.testing.assert_allclose(mine.arrays["map"], theirs.arrays["map"], rtol=1e-5)


def test_a_killed_evaluation_goes_on_with_what_it_has_kept(tmp_path: Path) -> None:
    with pytest.raises(recording.Stopped):
        study(tmp_path, {"mine": Changes(images=None)}, stop_after=4)
    study(tmp_path, {"mine": Changes(images=None)})
    assert [len(found) for found in only(tmp_path).attacked.values()] == [COUNT, COUNT]


def test_wrong_settings_are_refused_before_an_image_is_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a study's name is made of letters, digits, _ and -, got 'a/b'"):
        Studies(str(tmp_path), {"a/b": Saliency()})
    with pytest.raises(ValueError, match="images counts images and is at least 1, got 0"):
        Saliency(images=0)
    with pytest.raises(ValueError, match="the study 'mine' looks at the attack 'cw', expected noise, fgsm, pgd"):
        study(tmp_path, {"mine": Changes(attacks=("cw",))})
    assert not list(tmp_path.rglob("*.npz"))


def test_the_saliency_of_a_linear_victim_is_that_of_its_weights(tmp_path: Path) -> None:
    """With two classes dJ/dx = (p_1 - y) (w_1 - w_0) / std: the same map for all images, up to a factor."""
    study(tmp_path, {"saliency": Saliency(images=4)})
    weight = linear_victim().network.weight.detach()
    expected = (weight[1] - weight[0]).abs().view(1, 8, 8)
    for one in only(tmp_path).clean:
        found = torch.from_numpy(one.arrays["map"])[None]
        torch.testing.assert_close(found / found.sum(), expected / expected.sum(), rtol=1e-4, atol=0)
        assert float(one.arrays["gini"]) == pytest.approx(gini(expected).item(), rel=1e-5)
        assert float(one.arrays["top_energy"]) == pytest.approx(top_energy(expected).item(), rel=1e-5)


def test_maps_without_anything_on_them_have_no_concentration() -> None:
    zeros = torch.zeros(1, 4, 4)
    assert gini(zeros).isnan().all() and top_energy(zeros).isnan().all() and top_overlap(zeros, zeros).isnan().all()
    one = torch.zeros(1, 4, 4)
    one[0, 1, 2] = 3
    assert gini(one).item() == pytest.approx(15 / 16) and top_energy(one).item() == 1
    same = torch.arange(16.0).view(1, 4, 4)
    assert top_overlap(same, 2 * same).item() == 1 and top_overlap(same, -same).item() == 0


def test_a_victim_behind_a_defence_is_looked_at_anew(tmp_path: Path) -> None:
    victim = linear_victim()

    def maps(victim: Any) -> list[np.ndarray]:
        listeners = [
            RecordJournal(str(tmp_path), "tiny", seed=1, resume=False),
            Studies(str(tmp_path), {"saliency": Saliency(images=3)}),
        ]
        recording.evaluate(victim, data_of(), ATTACKS, *listeners)
        return [one.arrays["map"] for one in only(tmp_path).clean]

    before = maps(victim)
    behind = maps(defended(victim, GaussianSmoothing(sigma=2.0)))  # it has the same weights
    assert all(np.abs(one - other).max() > 1e-3 for one, other in zip(before, behind, strict=True))

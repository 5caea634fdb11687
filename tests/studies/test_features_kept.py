"""Maps of layers and penultimate features: each against numbers made by hand, whatever the batch is."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_modules import Classifier
from medrobust.attacks import FGSM, PGD, Attack
from medrobust.evaluation.controls import noise_of_length
from medrobust.listeners import RecordJournal, Studies
from medrobust.networks import as_victim
from medrobust.networks.features import map_layers
from medrobust.results.studied import Studied, read_studies
from medrobust.studies import Embedding, LayerMaps, Study
from medrobust.studies.layer_maps import channel_mean
from tests import recording
from tests.in_memory import InMemoryData, random_data
from tests.tiny_networks import linear_victim

COUNT = 9
ATTACKS: dict[str, Attack] = {"fgsm": FGSM(epsilon=0.05), "still": FGSM(epsilon=0.0), "pgd": PGD(epsilon=0.05, steps=2)}


class Copies(nn.Module):
    """One, two and three times the image, then logits linear in their means: no value is negative."""

    def __init__(self) -> None:
        super().__init__()
        self.copies, self.act1 = nn.Conv2d(1, 3, 1, bias=False), nn.ReLU()
        self.halves, self.act2 = nn.AvgPool2d(2), nn.ReLU()
        self.last = nn.Linear(3, 2, bias=False)
        with torch.no_grad():
            self.copies.weight.copy_(torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1, 1))
            self.last.weight.copy_(torch.tensor([[1.0, -1.0, 1.0], [1.0, 1.0, -1.0]]))

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.act2(self.halves(self.act1(self.copies(images)))).mean((2, 3)))


def look(folder: Path, study: Study, batch_size: int = 4) -> tuple[Studied, InMemoryData, recording.Recorder]:
    data: InMemoryData = random_data(COUNT, batch_size=batch_size)
    listeners = [RecordJournal(str(folder), "tiny", seed=1), Studies(str(folder), {"mine": study})]
    heard = recording.evaluate(as_victim(Copies(), mean=0.0, std=1.0), data, ATTACKS, *listeners)
    (studied,) = read_studies(folder)
    return studied, data, heard


def test_what_was_kept_of_earlier_attacks_stays_when_another_one_joins(tmp_path: Path) -> None:
    data: InMemoryData = random_data(COUNT, batch_size=4)
    for attacks in ({"fgsm": ATTACKS["fgsm"]}, {"pgd": ATTACKS["pgd"]}):
        mine = Studies(str(tmp_path), {"mine": LayerMaps(images=2, layers=("act1",))})
        journal = RecordJournal(str(tmp_path), "tiny", seed=1)
        recording.evaluate(as_victim(Copies(), mean=0.0, std=1.0), data, attacks, journal, mine)
    (studied,) = read_studies(tmp_path)
    looked = sorted({one.about["attack"] for found in studied.attacked.values() for one in found})
    assert looked == ["fgsm", "pgd"] and all(len(found) == 2 for found in studied.attacked.values())


def of(kept: Studied, name: str, array: str) -> dict[str, Any]:
    """An array of every image that was looked at, clean or under an attack."""
    every = {
        one.about.get("attack", "clean"): found for found in (kept.clean, *kept.attacked.values()) for one in found
    }
    return {one.id: one.arrays[array] for one in every[name]}


def test_the_map_of_a_layer_is_the_mean_of_its_channels(tmp_path: Path) -> None:
    """Of one, two and three times the image it is twice the image; the second layer halves its sides."""
    kept, data, heard = look(tmp_path, LayerMaps(images=None, layers=("act1", "act2")))
    for name in ("clean", "pgd"):
        images = data.images["adv_test"] if name == "clean" else heard.of("pgd", "adversarial")
        ids = data.ids("adv_test")
        for id, image in zip(ids, images, strict=True):
            np.testing.assert_allclose(of(kept, name, "act1")[id], 2 * image[0], rtol=1e-6)
            np.testing.assert_allclose(of(kept, name, "act2")[id], 2 * nn.AvgPool2d(2)(image)[0], rtol=1e-6)
            np.testing.assert_allclose(of(kept, name, "image")[id], image, atol=1e-3)


def test_without_layers_a_quarter_of_the_depth_and_the_last_map_are_shown(tmp_path: Path) -> None:
    kept, _, _ = look(tmp_path, LayerMaps(images=1))
    assert [name for name in kept.clean[0].arrays if name != "image"] == ["act1", "act2"]


@pytest.mark.parametrize(
    ("backbone", "last"), [("resnet10t", "layer4.0.act1"), ("mobilenetv3_small_050", "blocks.4.2.bn2.act")]
)
@pytest.mark.parametrize("head", ["linear", "dense"])
def test_layers_of_the_head_and_of_gates_are_no_maps(backbone: str, last: str, head: str) -> None:
    found = map_layers(Classifier(backbone, channels=1, head=head).network)
    assert found[-1] == last


def test_maps_of_other_forms_have_their_places() -> None:
    tokens = torch.arange(2 * 5 * 2.0).view(2, 5, 2)
    assert torch.equal(channel_mean(tokens), tokens[:, 1:].mean(2).view(2, 2, 2))
    assert torch.equal(channel_mean(tokens[:, 1:]), tokens[:, 1:].mean(2).view(2, 2, 2))
    last = torch.rand(1, 4, 4, 3)
    assert torch.equal(channel_mean(last), last.mean(3))
    with pytest.raises(ValueError, match=r"a layer with places in the image, got one of shape \(1, 7, 2\)"):
        channel_mean(torch.zeros(1, 7, 2))


def test_layers_that_cannot_be_drawn_are_refused_before_an_image_is_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no activation layer that is a map; name the layers"):
        LayerMaps().check(linear_victim())
    victim = as_victim(Copies(), mean=0.0, std=1.0)
    with pytest.raises(ValueError, match=r"layer maps show at most 4 layers, and \* are 5"):
        LayerMaps(layers=("*",)).check(victim)
    with pytest.raises(ValueError, match="the network has no layer 'act9'"):
        look(tmp_path, LayerMaps(layers=("act9",)))


def test_features_are_those_of_the_images_and_of_noise_as_long_as_the_perturbation(tmp_path: Path) -> None:
    """The penultimate features are one, two and three times the mean of the image."""
    kept, data, heard = look(tmp_path, Embedding(seed=3))
    ids, clean = data.ids("adv_test"), data.images["adv_test"]
    adversarial = heard.of("fgsm", "adversarial")
    noisy = noise_of_length(clean, adversarial, ids, 3)
    expected = {("clean", "features"): clean, ("fgsm", "features"): adversarial, ("fgsm", "noisy"): noisy}
    for (name, array), images in expected.items():
        for id, image in zip(ids, images, strict=True):
            np.testing.assert_allclose(of(kept, name, array)[id], float(image.mean()) * np.array([1, 2, 3]), rtol=1e-5)
    assert all(np.isnan(values).all() for values in of(kept, "still", "noisy").values())  # nothing to be as long as
    assert all(np.isfinite(values).all() for values in of(kept, "still", "features").values())


@pytest.mark.parametrize("batch_size", [1, 5, COUNT])
def test_features_are_the_same_bits_in_any_batch(batch_size: int, tmp_path: Path) -> None:
    one, _, _ = look(tmp_path / "four", Embedding())
    other, _, _ = look(tmp_path / "other", Embedding(), batch_size)
    for name in ("clean", "fgsm"):
        mine, theirs = of(one, name, "features"), of(other, name, "features")
        assert mine.keys() == theirs.keys() and all(np.array_equal(mine[id], theirs[id]) for id in mine)


@pytest.mark.parametrize("images", [None, 251])
def test_more_images_than_an_embedding_holds_are_refused(images: int | None) -> None:
    with pytest.raises(ValueError, match=f"images is at most 250, because t-SNE compares all of them, got {images}"):
        Embedding(images=images)

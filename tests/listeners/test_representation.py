"""What attacks do to representations: means and directions, each compared with numbers made by hand."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars
import pytest
import torch
from torch import Tensor, nn

from medrobust.attacks import BIM, FGSM, Attack, DeepFool, UniformNoise
from medrobust.attacks.base import Crafted
from medrobust.listeners import RecordJournal, Representation
from medrobust.networks import as_victim
from medrobust.results.records import merge
from tests import recording
from tests.in_lightning import with_network
from tests.in_memory import InMemoryData
from tests.recording import Recorder, Stopped

SIDE = 6
COUNT = 10
BOTH: dict[str, Attack] = {"fgsm": FGSM(epsilon=0.05), "deepfool": DeepFool()}
FIXED: dict[str, Attack] = {"fgsm": FGSM(epsilon=0.05), "grain": UniformNoise(epsilon=0.05)}


class Linear(nn.Module):
    """Logits linear in the pixels, which are the penultimate features: none is negative, so the ReLU lets them be."""

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        self.act, self.last = nn.ReLU(), nn.Linear(SIDE * SIDE, classes)
        generator = torch.Generator().manual_seed(classes)
        with torch.no_grad():
            self.last.weight.copy_(torch.randn(self.last.weight.shape, generator=generator))
            self.last.bias.copy_(-self.last.weight.sum(1) / 2)  # grey is between the classes

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.act(images.flatten(1)))


class Deep(nn.Module):
    """Two convolutions whose activations differ, and a linear layer on the pooled second."""

    def __init__(self, linear: bool = True) -> None:
        super().__init__()
        self.first, self.act1 = nn.Conv2d(1, 3, 3, padding=1), nn.ReLU()
        self.second, self.act2 = nn.Conv2d(3, 5, 3, padding=1, stride=2), nn.ReLU()
        self.last = nn.Linear(5, 2) if linear else nn.Conv2d(5, 2, 1)
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)

    def maps(self, images: Tensor) -> tuple[Tensor, Tensor]:
        once = self.act1(self.first(images))
        return once, self.act2(self.second(once))

    def forward(self, images: Tensor) -> Tensor:
        pooled = self.maps(images)[1].mean((2, 3))
        return self.last(pooled) if isinstance(self.last, nn.Linear) else self.last(pooled[..., None, None]).flatten(1)


@dataclass(frozen=True, kw_only=True)
class Towards(Attack):
    """Goes a way along the weights, towards the true class or away from it."""

    way: float = 0.1

    def perturb(self, victim: Any, images: Tensor, targets: Tensor, ids: Sequence[str]) -> Crafted:
        weights = victim.network.last.weight.detach()
        along = weights[targets] - weights[1 - targets]
        none = torch.zeros(len(images), dtype=torch.long)
        return Crafted(images + self.way * along.view_as(images) / along.abs().max(), none, none, none)


def data_of(classes: int = 2) -> InMemoryData:
    """Random grey images, far from black and white, so that no perturbation is clipped."""
    images = 0.4 + 0.2 * torch.rand(COUNT, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(5))
    ids = {"adv_test": [f"{place}" for place in range(COUNT)]}
    return InMemoryData({"adv_test": (images, torch.arange(COUNT) % classes)}, ids, num_classes=classes)


def victim_of(network: nn.Module) -> Any:
    """A classifier around a network that gets the images as they are."""
    return with_network(network, num_classes=classes_of(network), mean=0.0, std=1.0)


def classes_of(network: nn.Module) -> int:
    """Number of logits."""
    return network.last.out_features if isinstance(network.last, nn.Linear) else network.last.out_channels


def evaluate(
    attacks: dict[str, Attack],
    representation: Representation,
    network: nn.Module | None = None,
    folder: Path | None = None,
    stop_after: int | None = None,
    **options: Any,
) -> Recorder:
    """Evaluate, with the listeners in the order of the command line."""
    network = Linear() if network is None else network
    journal = [] if folder is None else [RecordJournal(str(folder), "tiny")]
    data, victim = data_of(classes_of(network)), victim_of(network)
    return recording.evaluate(victim, data, attacks, *journal, representation, stop_after=stop_after, **options)


def test_means_are_those_of_the_activations_before_and_after() -> None:
    network = Deep()
    keep = evaluate(BOTH, Representation(["act1", "act2"]), network)
    assert set(keep.batches[0].columns) == {"mean_act1_clean", "mean_act1", "mean_act2_clean", "mean_act2"}
    with torch.no_grad():
        for name in BOTH:
            for suffix, field in (("_clean", "clean"), ("", "adversarial")):
                for layer, maps in zip(("act1", "act2"), network.maps(keep.of(name, field)), strict=True):
                    expected = maps.mean((1, 2, 3))
                    torch.testing.assert_close(keep.column(name, f"mean_{layer}{suffix}"), expected)
    assert not torch.equal(keep.column("fgsm", "mean_act2"), keep.column("fgsm", "mean_act2_clean"))


def test_dots_of_a_layers_name_become_underscores() -> None:
    class Nested(Linear):
        def __init__(self) -> None:
            super().__init__()
            self.trunk = nn.ModuleDict({"block-1": nn.Sequential(nn.ReLU())})

        def forward(self, images: Tensor) -> Tensor:
            return super().forward(self.trunk["block-1"](images))

    keep = evaluate({"fgsm": FGSM()}, Representation(["trunk.block-1.0"]), Nested())
    assert set(keep.batches[0].columns) == {"mean_trunk_block_1_0_clean", "mean_trunk_block_1_0"}


def test_the_shortest_perturbation_of_a_linear_network_goes_along_the_weights() -> None:
    # the boundary's normal is w_new - w_true, and DeepFool in L2 steps along it
    for classes in (2, 3):
        keep = evaluate({"deepfool": DeepFool()}, Representation(directions=True), Linear(classes))
        moved = keep.of("deepfool", "before.right")
        assert 0 < int(moved.sum()) < COUNT
        cosines = keep.column("deepfool", "direction_weights")
        torch.testing.assert_close(cosines[moved], torch.ones(int(moved.sum()), dtype=torch.float64))


def test_an_image_that_is_left_as_it_was_has_no_direction(tmp_path: Path) -> None:
    keep = evaluate({"deepfool": DeepFool()}, Representation(directions=True), folder=tmp_path)
    wrong = ~keep.of("deepfool", "before.right")  # they fool from the start, and come back clean
    assert bool(keep.column("deepfool", "direction_weights")[wrong].isnan().all())
    assert merge(tmp_path)["direction_weights"].null_count() == int(wrong.sum()) > 0


@pytest.mark.parametrize(("way", "cosine"), [(-0.1, 1.0), (-0.001, 1.0), (0.1, -1.0)])
def test_away_from_the_true_class_is_plus_one_and_towards_it_minus_one(way: float, cosine: float) -> None:
    keep = evaluate({"go": Towards(way=way)}, Representation(directions=True), deployment=False)
    torch.testing.assert_close(
        keep.column("go", "direction_weights"), torch.full((COUNT,), cosine, dtype=torch.float64), rtol=0, atol=1e-5
    )


def test_a_sign_gradient_of_a_linear_network_has_the_cosine_of_the_norms() -> None:
    # <sign(v), v> / (|sign(v)| |v|) = |v|_1 / (sqrt(n) |v|_2)
    network = Linear()
    keep = evaluate({"fgsm": FGSM(epsilon=0.05)}, Representation(directions=True), network)
    difference = (network.last.weight[0] - network.last.weight[1]).detach().double()
    expected = float(difference.abs().sum() / (SIDE * difference.norm()))
    assert keep.column("fgsm", "direction_weights").tolist() == pytest.approx([expected] * COUNT, abs=1e-5)


def test_an_attack_that_failed_is_compared_with_the_likeliest_other_class() -> None:
    network = Linear(classes=3)
    keep = evaluate({"noise": UniformNoise(epsilon=0.02)}, Representation(directions=True), network)
    weights = network.last.weight.detach().double()
    with torch.no_grad():
        before, after = (network(keep.of("noise", field)) for field in ("clean", "adversarial"))
    change = (keep.of("noise", "adversarial") - keep.of("noise", "clean")).flatten(1).double()
    targets, kinds = keep.of("noise", "targets"), set()
    for row, target in enumerate(targets.tolist()):
        new = int(after[row].argmax())
        kinds.add(new == target)
        if new == target:
            new = max((k for k in range(3) if k != target), key=lambda k: float(before[row, k]))
        heading = weights[new] - weights[target]
        expected = float(change[row] @ heading / change[row].norm() / heading.norm())
        assert float(keep.column("noise", "direction_weights")[row]) == pytest.approx(expected, abs=1e-5)
    assert kinds == {True, False}


def test_an_attack_is_compared_with_those_before_it_and_not_with_itself() -> None:
    network = Deep()
    attacks: dict[str, Attack] = {"a": FGSM(epsilon=0.05), "b": UniformNoise(epsilon=0.05), "again": FGSM(epsilon=0.05)}
    keep = evaluate(attacks, Representation(directions=True), network)
    columns = [f"direction_{name}_0.05" for name in attacks]
    assert set(keep.batches[0].columns) == {"direction_weights", *columns}
    undefined = {name: [bool(keep.column(name, column).isnan().all()) for column in columns] for name in attacks}
    assert undefined == {"a": [True] * 3, "b": [False, True, True], "again": [False, False, True]}

    with torch.no_grad():
        changes = {
            name: network.maps(keep.of(name, "adversarial"))[1].mean((2, 3))
            - network.maps(keep.of(name, "clean"))[1].mean((2, 3))
            for name in attacks
        }
    expected = nn.functional.cosine_similarity(changes["b"].double(), changes["a"].double())
    torch.testing.assert_close(keep.column("b", columns[0]), expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(keep.column("again", columns[0]), torch.ones(COUNT, dtype=torch.float64))


def test_each_radius_of_a_sweep_has_a_direction_of_its_own() -> None:
    keep = evaluate({"fgsm": FGSM(), "free": DeepFool()}, Representation(directions=True), epsilons=[1 / 255, 0.1])
    names = {"direction_weights", "direction_fgsm_0.00392", "direction_fgsm_0.1", "direction_free"}
    assert all(set(batch.columns) == names for batch in keep.batches)
    second = [batch for batch in keep.batches if batch.planned.epsilon == 0.1]
    for batch in second:  # of a linear network both go the same way
        torch.testing.assert_close(batch.columns["direction_fgsm_0.00392"], torch.ones(len(batch.ids)).double())


@pytest.mark.parametrize("stop", [1, 4, 6])
def test_an_evaluation_that_was_stopped_attacks_by_all_what_some_attack_lacks_and_ends_like_a_whole_one(
    stop: int, tmp_path: Path
) -> None:
    asked, attacks = ["act1"], {**FIXED, "bim": BIM(epsilon=0.05, steps=2)}
    evaluate(attacks, Representation(asked, True), Deep(), tmp_path / "whole")
    with pytest.raises(Stopped):
        evaluate(attacks, Representation(asked, True), Deep(), tmp_path / "stopped", stop)
    keep = evaluate(attacks, Representation(asked, True), Deep(), tmp_path / "stopped")

    done = 4 * (stop // 3)  # images of batches that all three attacks had been through
    attacked = {name: [id for b in keep.batches if b.planned.name == name for id in b.ids] for name in attacks}
    assert attacked == dict.fromkeys(attacks, [f"{place}" for place in range(done, COUNT)])
    one, other = merge(tmp_path / "whole"), merge(tmp_path / "stopped")
    assert one.equals(other.select(one.columns))
    nulls = [one[f"direction_{name}_0.05"].null_count() for name in attacks]
    assert nulls == [COUNT, 2 * COUNT, 3 * COUNT]  # its own rows, and those of the attacks before it


def test_without_directions_a_stopped_evaluation_repeats_nothing(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        evaluate(BOTH, Representation(["act1"]), Deep(), tmp_path, stop_after=3)
    keep = evaluate(BOTH, Representation(["act1"]), Deep(), tmp_path)
    assert sum(len(batch.ids) for batch in keep.batches) == 2 * COUNT - (4 + 4 + 4)


def test_directions_to_other_attacks_are_other_columns(tmp_path: Path) -> None:
    def directions(epsilons: list[float]) -> polars.DataFrame:
        evaluate(FIXED, Representation(directions=True), Deep(), tmp_path, epsilons=epsilons)
        names = (f"direction_{name}_{radius}" for name in FIXED for radius in epsilons)
        return merge(tmp_path).select("attack", "epsilon", "id", *names)

    at_once = directions([0.02, 0.1])
    assert at_once.filter(attack="grain", epsilon=0.02)["direction_fgsm_0.1"].null_count() == 0
    with pytest.raises(ValueError, match="holds an evaluation with other settings of representation"):
        directions([0.02, 0.05])
    assert directions([0.02, 0.1]).equals(at_once)


def test_directions_are_to_the_settings_of_an_attack(tmp_path: Path) -> None:
    def directions(seed: int) -> list[float]:
        attacks: dict[str, Attack] = {"grain": UniformNoise(epsilon=0.05, seed=seed), "fgsm": FGSM(epsilon=0.05)}
        evaluate(attacks, Representation(directions=True), Deep(), tmp_path / str(seed))
        return merge(tmp_path / str(seed)).filter(attack="fgsm")["direction_grain_0.05"].to_list()

    assert directions(1) != directions(2)


def test_columns_that_are_asked_for_change_the_keys() -> None:
    def key(*asked: Any) -> str:
        return evaluate({"fgsm": FGSM()}, Representation(*asked), Deep()).plans[0].attacks[0].key

    keys = [key(), key(["act1"]), key(["act1", "act2"]), key(["act1"], True), key(None, True)]
    assert len(set(keys)) == len(keys)
    assert key(["act?"]) == keys[2]  # another way to say the same
    plan = evaluate({"fgsm": FGSM()}, Representation(), Deep()).plans[0]
    assert plan.attacks[0].key == keys[0]
    assert plan.listeners == {}


@pytest.mark.parametrize(
    ("representation", "network", "words"),
    [
        (Representation(directions=True), Deep(linear=False), "last linear layer, and the victim has none"),
        (Representation(["act3"]), Deep(), "no layer 'act3'; the nearest names are .*act"),
    ],
)
def test_victims_that_lack_what_is_measured_are_refused_before_an_image_is_attacked(
    representation: Representation, network: nn.Module, words: str
) -> None:
    recorder, data = Recorder(), data_of()
    with pytest.raises(ValueError, match=words) as error:
        recording.evaluate(victim_of(network), data, BOTH, representation, recorder)
    assert "\n" not in str(error.value)
    assert not recorder.plans
    assert not data.read


def test_means_can_be_measured_on_a_victim_without_a_linear_layer() -> None:
    keep = evaluate({"fgsm": FGSM()}, Representation(["act1"]), Deep(linear=False))
    assert all(map(math.isfinite, keep.column("fgsm", "mean_act1").tolist()))


def test_directions_of_a_wrapped_classifier_are_those_of_the_same_network_in_lightning() -> None:
    attacks: dict[str, Attack] = {"fgsm": FGSM(epsilon=0.05)}
    wrapped = recording.evaluate(as_victim(Linear()), data_of(), attacks, Representation(directions=True))
    cosines = evaluate(attacks, Representation(directions=True)).column("fgsm", "direction_weights")
    torch.testing.assert_close(wrapped.column("fgsm", "direction_weights"), cosines)


def test_a_last_linear_layer_of_other_outputs_than_the_classes_is_refused() -> None:
    class Halved(Linear):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images)[:, :2]

    with pytest.raises(ValueError, match="a last linear layer, and the victim's has 4 outputs for 2 classes"):
        recording.evaluate(as_victim(Halved(4)), data_of(), BOTH, Representation(directions=True))

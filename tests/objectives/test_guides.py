"""HFC and its rivals: their values on paper, their effect on features, and their passes."""

import gc
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from medrobust.attacks import BIM
from medrobust.networks import as_victim
from medrobust.objectives import CrossEntropy, guides
from medrobust.objectives.base import Step, WeightedSum
from medrobust.objectives.clean_features import CleanFeatures, fit_objectives
from medrobust.objectives.density_guides import DensityGuide, DimensionGuide, dimensionality
from medrobust.objectives.feature_constraint import FeatureConstraint
from medrobust.objectives.guides import ClosestGuide, RandomGuide

pytestmark = pytest.mark.filterwarnings("ignore:.* to untargeted cross-entropy")  # most need no better objective

TAPS = ("layer*",)
ALL = [FeatureConstraint(), FeatureConstraint(components=4), RandomGuide(), ClosestGuide(), DensityGuide()]
ALL += [DimensionGuide(neighbours=10)]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def clean_features_of(layers: dict[str, Tensor], labels: Tensor) -> CleanFeatures:
    return CleanFeatures(layers, labels, [str(place) for place in range(len(labels))], {TAPS: tuple(layers)})


def two_layers(count: int = 40, classes: int = 2) -> CleanFeatures:
    return clean_features_of(
        {"layer1": drawn(count, 4), "layer2": drawn(count, 4, seed=1)}, torch.arange(count) % classes
    )


def step_of(victim: Any, images: Tensor, targets: Tensor, objective: Any, index: int = 0, ids: Any = None) -> Step:
    names = [str(place) for place in range(len(images))] if ids is None else ids
    return Step(victim, images, images.detach(), targets, names, False, objective.layers, index)


SCALES = {"layer1": 1.0, "layer2": 0.5}


def test_the_closest_guide_by_hand(seen_victim: Any) -> None:
    known = torch.tensor([[0.0, 0], [4, 4], [1, 1], [9, 9]], dtype=torch.float64)
    labels = torch.tensor([0, 1, 1, 0])
    objective = ClosestGuide(TAPS).fit(clean_features_of({"layer1": known.flip(1) + 1, "layer2": known}, labels))
    images = torch.tensor([[[[1.5, 2.0]]], [[[8.0, 7.0]]]], dtype=torch.float64)
    step = step_of(seen_victim(2, {"layer1": 1.0, "layer2": 1.0}), images, torch.tensor([0, 1]), objective)
    # the guides are (1, 1) and (9, 9) in layer2, (2, 2) and (10, 10) in layer1; each square over 2 channels
    expected = [-((0.5**2 + 0) + (0.5**2 + 1)) / 2, -((2**2 + 3**2) + (1 + 2**2)) / 2]
    assert objective(step).tolist() == pytest.approx(expected)
    assert step.forwards == 2


def test_the_closest_guide_is_chosen_once_by_the_clean_image(seen_victim: Any) -> None:
    objective, victim = ClosestGuide(TAPS).fit(two_layers()), seen_victim(2, SCALES)
    clean, targets = drawn(3, 1, 2, 2, seed=5), torch.tensor([0, 1, 1])
    objective(step_of(victim, clean, targets, objective))
    known = victim.forwards
    assert known == 2
    moved = Step(victim, -clean, clean, targets, ["0", "1", "2"], False, objective.layers, 1)
    fresh = Step(victim, -clean, clean.clone(), targets, ["0", "1", "2"], False, objective.layers, 1)
    first = objective(Step(victim, clean, moved.clean, targets, ["0", "1", "2"], False, objective.layers, 0))
    assert not torch.equal(objective(moved), first)
    torch.testing.assert_close(objective(moved), objective(fresh))
    assert (moved.forwards, fresh.forwards) == (1, 1)  # a search after step 0 is the batch's cost, not the images'


def test_what_the_closest_guide_notes_dies_with_the_call(seen_victim: Any) -> None:
    objective = ClosestGuide(TAPS).fit(two_layers())
    gc.collect()
    before = len(guides._CHOSEN)
    images = drawn(3, 1, 2, 2)
    step = step_of(seen_victim(2, SCALES), images, torch.tensor([0, 1, 1]), objective)
    objective(step)
    assert len(guides._CHOSEN) == before + 1
    del step, images
    gc.collect()
    assert len(guides._CHOSEN) == before


def test_a_random_guide_is_an_image_of_the_class_drawn_by_the_id(seen_victim: Any) -> None:
    clean_features, victim = two_layers(30, 3), seen_victim(3, SCALES)
    objective = RandomGuide(TAPS, seed=3).fit(clean_features)
    images = drawn(1, 1, 2, 2, seed=5).expand(60, 1, 2, 2)
    ids = [f"image {place}" for place in range(60)]
    targets = torch.full((60,), int(images[0, 0, 0].argmax()))
    step = step_of(victim, images, targets, objective, ids=ids)
    goal = step.outputs[0].scatter(0, targets[:1], -math.inf).argmax()
    values = objective(step)
    seen = images[0].flatten()
    distances = [
        -sum((seen * SCALES[name] - clean_features.layers[name][row]).square().sum() / 4 for name in SCALES)
        for row in range(30)
        if clean_features.labels[row] == goal
    ]
    nearest = (values[:, None] - torch.stack(distances)).abs()
    assert float(nearest.amin(1).max()) < 1e-9
    assert len(nearest.argmin(1).unique()) == 10  # each of them is drawn some time
    backwards = objective(step_of(victim, images, targets, objective, ids=ids[::-1]))
    torch.testing.assert_close(backwards.flip(0), values)
    other = RandomGuide(TAPS, seed=4).fit(clean_features)
    assert not torch.equal(other(step_of(victim, images, targets, other, ids=ids)), values)


def test_the_kernel_density_by_hand(seen_victim: Any) -> None:
    known = torch.tensor([[0.0, 0], [3, 4], [0, 1], [0, 3]], dtype=torch.float64)
    objective = DensityGuide(TAPS, bandwidth=2.0).fit(
        clean_features_of({"layer1": drawn(4, 3), "layer2": known}, torch.tensor([0, 0, 1, 1]))
    )
    assert objective.layers == ("layer2",)
    image = torch.tensor([[[[0.0, 1.0]]]], dtype=torch.float64)
    victim = seen_victim(2, {"layer2": 1.0})
    towards = [objective(step_of(victim, image, torch.tensor([label]), objective)).item() for label in (0, 1)]
    # squares: to class 1 0 and 4, to class 0 1 and 18
    assert towards[0] == pytest.approx(math.log((1 + math.exp(-1)) / 2))
    assert towards[1] == pytest.approx(math.log((math.exp(-0.25) + math.exp(-4.5)) / 2))


def test_the_default_bandwidth_is_the_median_spacing_of_a_class() -> None:
    known = torch.tensor([[0.0], [1.0], [3.0], [10.0], [20.0], [40.0]], dtype=torch.float64)
    clean_features = clean_features_of({"layer": known}, torch.tensor([0, 0, 0, 1, 1, 1]))
    widths = DensityGuide(TAPS).fit(clean_features).state.parts[3]
    assert widths.tolist() == [1.0, 10.0]  # spacings 1, 1, 2 and 10, 10, 20
    with pytest.raises(ValueError, match="class 1 coincide"):
        DensityGuide(TAPS).fit(clean_features_of({"layer": known.clamp(max=10)}, torch.tensor([0, 0, 0, 1, 1, 1])))
    with pytest.raises(ValueError, match="2 clean images of each class, got 1 of class 1"):
        DensityGuide(TAPS).fit(clean_features_of({"layer": known}, torch.tensor([0, 0, 0, 0, 0, 1])))


def test_far_away_the_density_still_has_a_gradient(seen_victim: Any) -> None:
    objective = DensityGuide(TAPS, bandwidth=0.01).fit(two_layers())
    images = (drawn(2, 1, 2, 2).float() + 50).requires_grad_()
    value = objective(step_of(seen_victim(2, SCALES), images, torch.tensor([0, 1]), objective))
    (gradient,) = torch.autograd.grad(value.sum(), images)
    assert bool(value.isfinite().all()) and bool((gradient < 0).all())


def test_the_dimension_by_hand(seen_victim: Any) -> None:
    # ln(r_i / r_3) of r = 1, 2, 4 is -ln 4, -ln 2, 0, with mean -ln 2
    assert dimensionality(torch.tensor([16.0, 1, 4])).item() == pytest.approx(1 / math.log(2))
    known = torch.tensor([[1.0], [-2.0], [4.0], [50.0], [-60.0]], dtype=torch.float64)
    known = torch.cat([known, torch.zeros(5, 1)], 1)
    clean_features = clean_features_of({"layer1": known, "layer2": 3 * known}, torch.tensor([0, 1, 0, 1, 0]))
    objective = DimensionGuide(TAPS, neighbours=3).fit(clean_features)
    image = torch.zeros(1, 1, 1, 2, dtype=torch.float64)
    value = objective(step_of(seen_victim(2, {"layer1": 1.0, "layer2": 1.0}), image, torch.tensor([0]), objective))
    assert value.tolist() == pytest.approx([-1 / math.log(2)])


@pytest.mark.parametrize("dimensions", [2, 6])
def test_the_dimension_of_points_in_a_plane(dimensions: int, seen_victim: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    known = torch.zeros(2000, 12, dtype=torch.float64)
    known[:, :dimensions] = torch.rand(2000, dimensions, generator=generator, dtype=torch.float64) - 0.5
    objective = DimensionGuide(TAPS, neighbours=50, max_references=2000)
    objective = objective.fit(clean_features_of({"layer": known}, torch.arange(2000) % 2))
    images = torch.zeros(1, 1, 1, 12, dtype=torch.float64)
    value = objective(step_of(seen_victim(2, {"layer": 1.0}), images, torch.tensor([0]), objective))
    assert value.item() == pytest.approx(-dimensions, rel=0.25)


def test_twins_and_equal_distances_give_finite_numbers(seen_victim: Any) -> None:
    known = torch.cat([torch.eye(4), -torch.eye(4), torch.zeros(2, 4)])
    objective = DimensionGuide(TAPS, neighbours=2).fit(clean_features_of({"layer": known}, torch.arange(10) % 2))
    for image in (torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), 0.5), torch.eye(4)[:1].view(1, 1, 2, 2)):
        variable = image.clone().requires_grad_()
        value = objective(step_of(seen_victim(2, {"layer": 1.0}), variable, torch.tensor([0]), objective))
        (gradient,) = torch.autograd.grad(value.sum(), variable)
        assert bool(value.isfinite().all()) and bool(gradient.isfinite().all())


def test_of_many_clean_images_some_are_kept() -> None:
    clean_features = two_layers(40)
    first, second, other = (
        DimensionGuide(TAPS, 5, max_references=10, seed=seed).fit(clean_features).state.parts[0].known
        for seed in (0, 0, 1)
    )
    assert first.shape == (2, 10, 4)
    assert torch.equal(first, second) and not torch.equal(first, other)


@pytest.mark.parametrize(
    "objective",
    [RandomGuide(TAPS), ClosestGuide(TAPS), DensityGuide(TAPS), DimensionGuide(TAPS, 5)],
    ids=lambda one: type(one).__name__,
)
@pytest.mark.parametrize("classes", [2, 3])
def test_gradients_are_the_numerical_ones_and_batch_mates_change_nothing(
    objective: Any, classes: int, seen_victim: Any
) -> None:
    objective, victim = objective.fit(two_layers(42, classes)), seen_victim(classes, SCALES)
    images, targets = drawn(6, 1, 2, 2, seed=9).requires_grad_(), torch.arange(6) % classes
    ids = list("abcdef")
    values = objective(step_of(victim, images, targets, objective, ids=ids))
    (gradient,) = torch.autograd.grad(values.sum(), images)
    direction = drawn(6, 1, 2, 2, seed=10)

    def at(moved: Tensor) -> Tensor:  # the guides stay those of the clean images
        return objective(Step(victim, moved, images.detach(), targets, ids, False, objective.layers)).sum()

    with torch.no_grad():
        numerical = (at(images + 1e-6 * direction) - at(images - 1e-6 * direction)) / 2e-6
    torch.testing.assert_close((gradient * direction).sum(), numerical, rtol=1e-5, atol=1e-7)
    for row in range(6):
        one = slice(row, row + 1)
        alone = objective(step_of(victim, images[one], targets[one], objective, ids=ids[one]))
        torch.testing.assert_close(alone[0], values[row])


@pytest.fixture(scope="module")
def stripes() -> tuple[Any, Tensor, Tensor, CleanFeatures]:
    """A victim that reads pooled features, trained on three kinds of stripes, with unseen images and clean features."""

    def draw(count: int, seed: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        labels = torch.arange(count) % 3
        lines = 0.05 * torch.sign(torch.sin(torch.arange(16) * (0.5 + 0.7 * labels[:, None]) + 0.1))
        noise = 0.12 * torch.randn((count, 1, 16, 16), generator=generator)
        return (0.5 + lines[:, None, None] + noise).clamp(0, 1), labels

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(
            *(nn.Conv2d(1, 8, 5, padding=2), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3)),
        )
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    for index in range(120):
        images, labels = draw(48, 100 + index)
        optimizer.zero_grad()
        functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
    victim = as_victim(network.eval())
    images, labels = draw(30, 1)
    right = victim(images).argmax(1) == labels
    assert int(right.sum()) > 25
    return victim, images[right], labels[right], CleanFeatures.extract(victim, *draw(300, 7), ("activations",))


@pytest.mark.parametrize("objective", ALL, ids=lambda one: f"{type(one).__name__}-{getattr(one, 'components', '')}")
def test_with_it_bim_still_fools_and_hides_better(objective: Any, stripes: Any) -> None:
    victim, images, labels, clean_features = stripes
    settings: dict[str, Any] = {"epsilon": 16 / 255, "steps": 30, "step_size": 1 / 255}
    plain = BIM(**settings)(victim, images, labels)
    # few dimensions are no reason to leave the class, while a confident victim's cross-entropy has little slope
    weight = 0.01 if isinstance(objective, DimensionGuide) else 1.0
    combined = BIM(**settings, objective=WeightedSum((CrossEntropy(), objective), (1.0, weight)))
    hidden = fit_objectives(combined, clean_features)(victim, images, labels)
    fitted = objective.fit(clean_features)

    def criterion(images: Tensor, clean: Tensor) -> Tensor:
        ids = [str(place) for place in range(len(images))]
        with torch.no_grad():
            return fitted(Step(victim, images, clean, labels, ids, False, fitted.layers))

    assert float(plain.success.float().mean()) > 0.8
    assert float(hidden.success.float().mean()) > 0.8
    before, after = criterion(plain.images, images), criterion(hidden.images, images)
    assert float(after.mean()) > float(before.mean())
    if isinstance(objective, FeatureConstraint):
        assert float(after.mean()) > 0.4 * float(before.mean())  # both are negative
    extra = int(isinstance(objective, ClosestGuide))
    assert hidden.forwards.tolist() == [31 + extra] * len(images)


@pytest.mark.parametrize("objective", ALL, ids=lambda one: f"{type(one).__name__}-{getattr(one, 'components', '')}")
def test_images_that_leave_the_batch_change_nothing(objective: Any, stripes: Any) -> None:
    victim, images, labels, clean_features = stripes
    combined = WeightedSum((CrossEntropy(), objective), (1.0, 0.1))
    attack = fit_objectives(BIM(epsilon=0.05, steps=6, stop_when_fooled=True, objective=combined), clean_features)
    ids = [str(place) for place in range(len(images))]
    together = attack(victim, images, labels, ids)
    assert 0 < int(together.success.sum())
    rows = slice(3, 6)
    alone = attack(victim, images[rows], labels[rows], ids[rows])
    different = (alone.images != together.images[rows]).float().mean()
    assert float(different) < 0.02  # a sign of a gradient of about 0 may be either
    assert alone.success.tolist() == together.success[rows].tolist()
    singly = [attack(victim, images[row : row + 1], labels[row : row + 1], ids[row : row + 1]) for row in range(12)]
    assert len({one.forwards.item() for one in singly}) > 1  # they leave at different steps
    assert [one.forwards.item() for one in singly] == together.forwards[:12].tolist()


@pytest.mark.parametrize("objective", ALL, ids=lambda one: f"{type(one).__name__}-{getattr(one, 'components', '')}")
def test_unfitted_it_says_so(objective: Any, stripes: Any) -> None:
    victim, images, labels, _ = stripes
    with pytest.raises(ValueError, match="is fitted to clean training images first"):
        BIM(steps=1, objective=CrossEntropy() + objective)(victim, images, labels)


@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        (DensityGuide, {"bandwidth": 0.0}, "positive length"),
        (DimensionGuide, {"neighbours": 1}, "at least 2, got 1"),
        (DimensionGuide, {"max_references": 5}, "at least neighbours \\(20\\), got 5"),
        (RandomGuide, {"taps": ()}, "at least one pattern"),
    ],
)
def test_bad_settings_get_one_sentence(kind: Any, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        kind(**settings)


def test_too_few_images_for_the_neighbours() -> None:
    with pytest.raises(ValueError, match="20 neighbours need at least as many clean images, got 8"):
        DimensionGuide(TAPS).fit(two_layers(8))

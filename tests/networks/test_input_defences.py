"""Input defences against independent references, and how attacks see through them."""

import json
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor, nn

from medrobust.attacks import PGD, Oblivious, UniformNoise
from medrobust.evaluation.plan import weights_hash
from medrobust.networks import (
    BitDepth,
    GaussianSmoothing,
    InputDefence,
    JPEGCompression,
    MedianSmoothing,
    RandomResizing,
    as_victim,
    defended,
    is_evaluated_victim,
    is_stored_victim,
)
from medrobust.networks.input_defences import ExpectedVictim, content_uniform, drawn_by, under_attack
from tests import recording
from tests.conftest import pattern
from tests.in_lightning import random_resnet
from tests.in_memory import InMemoryData, random_split

DEFENCES: list[InputDefence] = [
    JPEGCompression(),
    BitDepth(),
    GaussianSmoothing(),
    MedianSmoothing(),
    RandomResizing(samples=3),
]
SIDE = 16
TARGETS = torch.tensor([0, 1, 1, 0])


class Linear(nn.Module):
    """Two logits that are linear in an image of 16 x 16."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(pattern(SIDE * SIDE).view(1, SIDE, SIDE))

    def forward(self, images: Tensor) -> Tensor:
        score = ((images - 0.5) * self.weight).sum((1, 2, 3))
        return torch.stack([-score, score], 1)


def victim_of() -> Any:
    return as_victim(Linear()).eval()


def images_of(count: int = 4, channels: int = 1) -> Tensor:
    return 0.2 + 0.6 * torch.rand(count, channels, SIDE, SIDE, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("defence", DEFENCES, ids=lambda one: type(one).__name__)
def test_every_defence_keeps_its_word(defence: InputDefence) -> None:
    for channels in (1, 3):
        images = images_of(channels=channels)
        before = images.clone()
        changed = defence(images)
        assert changed.shape == images.shape and changed.dtype == images.dtype
        assert 0 <= changed.min() and changed.max() <= 1 and not torch.equal(changed, images)
        assert torch.equal(images, before) and torch.equal(defence(images), changed)
        torch.testing.assert_close(defence(images[2:3]), changed[2:3])  # without its batch mates
        torch.testing.assert_close(defence(images.flip(0)).flip(0), changed)
        assert defence(images[:0]).shape == (0, channels, SIDE, SIDE)
    variable = images_of().requires_grad_()
    weights = torch.rand(4, 1, SIDE, SIDE)
    (gradient,) = torch.autograd.grad((defence(variable) * weights).sum(), variable)
    if defence.gradient == "straight_through":
        assert torch.equal(gradient, weights)
    assert (gradient != 0).float().mean() > 0.5
    described = defence.parameters()
    assert described["class"] == type(defence).__name__ and json.dumps(described)


def test_bit_depth_rounds_to_the_nearest_level() -> None:
    images = torch.tensor([0.0, 0.16, 0.17, 0.49, 0.51, 0.83, 0.84, 1.0]).view(1, 1, 2, 4)
    expected = torch.tensor([0.0, 0.0, 1, 1, 2, 2, 3, 3]).view(1, 1, 2, 4) / 3
    assert torch.equal(BitDepth(bits=2)(images), expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_the_file_that_opencv_writes(channels: int) -> None:
    images = (images_of(2, channels) * 255).round() / 255
    for image, changed in zip(images, JPEGCompression(quality=60)(images), strict=True):
        array = (image * 255).round().byte().permute(1, 2, 0).numpy()[:, :, ::-1]  # blue first
        _, file = cv2.imencode(".jpg", array, [cv2.IMWRITE_JPEG_QUALITY, 60])
        expected = cv2.imdecode(file, cv2.IMREAD_UNCHANGED).reshape(SIDE, SIDE, channels)[:, :, ::-1]
        assert np.abs(changed.permute(1, 2, 0).numpy() * 255 - expected).max() <= 4.01  # roundings of two libraries


def test_smoothing_is_that_of_scipy() -> None:
    image = images_of(1)
    array = image[0, 0].numpy()
    smooth = ndimage.gaussian_filter(array, 1.5, mode="mirror", truncate=5 / 1.5)  # 5 pixels, as 3 x 1.5 rounded up
    np.testing.assert_allclose(GaussianSmoothing(sigma=1.5)(image)[0, 0].numpy(), smooth, atol=1e-5)
    median = ndimage.median_filter(array, 5, mode="mirror")
    assert np.array_equal(MedianSmoothing(size=5)(image)[0, 0].numpy(), median)


def test_random_resizing_leaves_the_image_alone_at_its_full_size() -> None:
    torch.testing.assert_close(RandomResizing(smallest=1.0)(images_of()), images_of())


def test_random_resizing_shows_a_smaller_white_square_somewhere_in_black() -> None:
    whites = 1 - 1e-4 * images_of(200)  # nearly equal: an edge is bright or dark as a whole
    changed = RandomResizing(smallest=0.5)(whites)[:, 0] > 0.5
    high, wide = changed.any(2).sum(1), changed.any(1).sum(1)
    assert (high - wide).abs().max() <= 1 and high.min() >= 7 and high.max() <= 16
    missing = high * wide - changed.flatten(1).sum(1)
    assert missing.min() >= 0 and missing.max() <= 4  # a rectangle, whose corners may be dark
    sizes = high.double()
    assert abs(sizes.mean() - 12) < 0.6 and abs(sizes.std() - 8 / 12**0.5) < 0.6  # uniform from 8 to 16
    firsts = changed.any(2).int().argmax(1)
    assert {0, 3} <= set(firsts.tolist())


def test_random_numbers_follow_from_the_content_alone() -> None:
    images = images_of(400)
    numbers = content_uniform(images, 3, "a")
    assert torch.equal(content_uniform(images[7:9].contiguous(memory_format=torch.channels_last), 3, "a"), numbers[7:9])
    assert not torch.isclose(content_uniform(images, 3, "b"), numbers, atol=1e-6).any()
    assert 0 <= numbers.min() and numbers.max() < 1
    assert (numbers.mean(0) - 0.5).abs().max() < 0.06  # four standard deviations of a mean of 400
    assert (torch.corrcoef(numbers.T) - torch.eye(3)).abs().max() < 0.2
    moved = images.clone()
    moved[:, 0, 3, 3] = torch.nextafter(moved[:, 0, 3, 3], torch.ones(()))
    apart = content_uniform(moved, 3, "a")
    assert (torch.corrcoef(torch.cat([numbers, apart], 1).T)[:3, 3:]).abs().max() < 0.2


def test_attacks_see_through_a_step_function() -> None:
    victim = defended(victim_of(), BitDepth(bits=4))
    images = images_of()
    attacked = PGD(epsilon=0.1, step_size=0.1, steps=3)(victim, images, TARGETS, list("abcd"))
    uphill = torch.where(TARGETS == 0, 1.0, -1.0).view(-1, 1, 1, 1) * victim.network.weight.sign()
    torch.testing.assert_close(attacked.images, images + 0.1 * uphill.detach())
    real = victim.undefended((attacked.images * 15).round() / 15)
    assert torch.equal(attacked.success, real.argmax(1) != TARGETS)
    assert torch.equal(victim(attacked.images), real)


def test_a_random_defence_is_attacked_on_the_mean_of_its_draws_and_judged_on_another() -> None:
    victim, images = defended(victim_of(), RandomResizing(samples=3)), images_of()
    seen = under_attack(victim)
    assert isinstance(seen, ExpectedVictim)
    draws = [victim.undefended(victim.defence(images, f"attacked {number}")) for number in range(3)]
    torch.testing.assert_close(seen(images), torch.stack(draws).mean(0))
    losses = [nn.functional.cross_entropy(one, TARGETS, reduction="none") for one in draws]
    torch.testing.assert_close(seen.loss(images, TARGETS), torch.stack(losses).mean(0))
    outputs, features = seen.features(images, [])
    torch.testing.assert_close(outputs, seen(images))
    assert not features and not any(torch.allclose(victim(images), one, atol=1e-4) for one in draws)
    variable = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(seen(variable)[:, 1].sum(), variable)
    means = []
    for number in range(3):
        one = images.clone().requires_grad_()
        (part,) = torch.autograd.grad(victim.undefended(victim.defence(one, f"attacked {number}"))[:, 1].sum(), one)
        means.append(part)
    torch.testing.assert_close(gradient, torch.stack(means).mean(0))


def test_each_draw_counts_as_a_pass() -> None:
    victim = defended(victim_of(), RandomResizing(samples=3))
    attacked = PGD(epsilon=0.1, steps=2)(victim, images_of(), TARGETS)
    assert attacked.forwards.tolist() == [3 * 2 + 1] * 4 and attacked.backwards.tolist() == [3 * 2] * 4
    bare = Oblivious(attack=PGD(steps=2), epsilon=0.1)(victim, images_of(), TARGETS)
    assert bare.forwards.tolist() == [3] * 4 and bare.backwards.tolist() == [2] * 4


def test_an_oblivious_attack_is_crafted_without_the_defence_and_judged_with_it() -> None:
    victim, images, ids = defended(victim_of(), GaussianSmoothing(sigma=2.0)), images_of(), list("abcd")
    pgd = PGD(epsilon=0.1, steps=3)
    found = Oblivious(attack=pgd, epsilon=0.1)(victim, images, TARGETS, ids)
    assert torch.equal(found.images, pgd(victim.undefended, images, TARGETS, ids).images)
    assert torch.equal(found.success, victim(found.images).argmax(1) != TARGETS)
    alone = Oblivious(attack=pgd, epsilon=0.1)(victim.undefended, images, TARGETS, ids)
    assert torch.equal(alone.images, found.images)
    with pytest.raises(ValueError, match="one with a radius"):
        from medrobust.attacks import DeepFool

        Oblivious(attack=DeepFool())


def test_an_evaluation_judges_by_the_real_defence_and_its_keys_name_it() -> None:
    data = InMemoryData({"adv_test": random_split(6, side=32)})
    bare, defence = random_resnet(balanced=True), BitDepth(bits=2)
    before = {name: value.clone() for name, value in bare.state_dict().items()}
    network = bare.network
    victim = defended(bare, defence)
    attacks = {"pgd": PGD(epsilon=0.1, steps=3), "blind": Oblivious(attack=PGD(steps=3), epsilon=0.1)}
    recorder = recording.evaluate(victim, data, attacks)
    for name in attacks:
        adversarial = recorder.of(name, "adversarial")
        with torch.no_grad():
            logits = bare((adversarial * 3).round() / 3)
        assert torch.equal(recorder.of(name, "after.prediction"), logits.argmax(1))
    assert bare.network is network and victim.network is network
    assert all(torch.equal(value, before[name]) for name, value in bare.state_dict().items())
    keys = recorder.keys()
    other = recording.evaluate(defended(bare, BitDepth(bits=3)), data, attacks).keys()
    plain = recording.evaluate(bare, data, attacks).keys()
    assert all(len({keys[name], other[name], plain[name]}) == 3 for name in attacks)
    assert recorder.plans[0].victim["input_defence"] == {"class": "BitDepth", "bits": 2}
    assert weights_hash(victim.state_dict()) == weights_hash(bare.state_dict())


def test_another_draw_of_a_random_defence_is_no_success_of_an_attack() -> None:
    data = InMemoryData({"adv_test": random_split(24, side=32)}, batch_size=5)
    victim = defended(random_resnet(balanced=True), RandomResizing(smallest=0.5, samples=1))
    hair = UniformNoise(epsilon=1e-7)
    recorder = recording.evaluate(victim, data, {"hair": hair, "pgd": PGD(epsilon=0.1, steps=2)})
    clean, moved = recorder.of("hair", "clean"), recorder.of("hair", "adversarial")
    assert not torch.equal(clean, moved)
    with torch.no_grad():
        assert not torch.equal(victim(clean).argmax(1), victim(moved).argmax(1))  # by their content the draws differ
    assert torch.equal(recorder.of("hair", "before.prediction"), recorder.of("hair", "after.prediction"))
    assert recorder.of("hair", "before.prediction").unique().tolist() == [0, 1]
    assert recorder.of("pgd", "success").any() and victim.draw == "judged"
    others = InMemoryData({"adv_test": random_split(24, side=32)}, batch_size=24)
    again = recording.evaluate(victim, others, {"hair": hair})
    assert torch.equal(again.of("hair", "before.prediction"), recorder.of("hair", "before.prediction"))


def test_an_image_meets_the_same_numbers_wherever_its_name_is_given() -> None:
    images, defence = images_of(), RandomResizing()
    named = defence(images, list("abcd"))
    torch.testing.assert_close(defence(images[2:3], ["c"]), named[2:3])
    assert not torch.allclose(defence(images, list("efgh")), named, atol=1e-3)
    victim = defended(victim_of(), defence)
    with pytest.raises(RuntimeError), drawn_by(victim, list("abcd")):
        torch.testing.assert_close(victim(images), victim.undefended(named))
        raise RuntimeError
    assert victim.draw == "judged"


def test_a_victim_behind_a_defence_is_still_one() -> None:
    wrapped, stored = defended(victim_of(), BitDepth()), defended(random_resnet(), BitDepth())
    assert is_evaluated_victim(wrapped) and not is_stored_victim(wrapped)
    assert is_evaluated_victim(stored) and is_stored_victim(stored) and stored.seen_images() is None
    assert stored.layers_named(["fc"]) == ("fc",)
    images = torch.rand(2, 1, 32, 32)
    outputs, features = stored.features(images, ["layer1"])
    torch.testing.assert_close(outputs, stored.undefended(BitDepth()(images)))
    assert set(features) == {"layer1"}
    twice = defended(wrapped, MedianSmoothing())
    torch.testing.assert_close(twice(images_of()), victim_of()(BitDepth()(MedianSmoothing()(images_of()))))
    with pytest.raises(ValueError, match="an evaluation needs a victim"):
        defended(nn.Flatten(), BitDepth())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: JPEGCompression(quality=0), "quality of a JPEG file"),
        (lambda: BitDepth(bits=9), "bits is a whole number"),
        (lambda: GaussianSmoothing(sigma=0), "sigma is a positive number"),
        (lambda: MedianSmoothing(size=4), "odd side of a neighbourhood"),
        (lambda: RandomResizing(smallest=0), "smallest is a share"),
        (lambda: RandomResizing(samples=0), "samples counts draws"),
        (lambda: GaussianSmoothing(sigma=6)(images_of()), "reaches 18 pixels beyond the border"),
        (lambda: MedianSmoothing(size=33)(images_of()), "reaches 16 pixels beyond the border, .* have only 16"),
        (lambda: MedianSmoothing()(images_of()[:, :, :1, :1]), "reaches 1 pixels beyond the border, .* have only 1"),
        (lambda: JPEGCompression()(images_of(channels=2)), "1 or 3 channels, got 2"),
    ],
)
def test_settings_that_cannot_work_are_refused(build: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words) as refused:
        build()
    assert "\n" not in str(refused.value)

"""Networks for every layer: the informative layers are found, and no network depends on another."""

import pytest
import torch
from torch import Tensor

from medrobust.detectors.features import Features, concatenate
from medrobust.detectors.layer_networks import LayerNetworks
from medrobust.detectors.layerwise import parted
from medrobust.detectors.patient_groups import Groups

SIZES = {"early": 8, "middle": 24, "late": 16}


def features(count: int, seed: int, shift: float = 0.0, shifted: str = "middle", sizes=SIZES) -> Features:
    """Normal features of unequal scales; four channels of one layer are shifted by ``shift`` standard deviations."""
    layers = {}
    for place, (name, channels) in enumerate(sizes.items()):
        generator = torch.Generator().manual_seed(100 * seed + sum(map(ord, name)))
        values = torch.randn((count, channels), generator=generator)
        values += (shift if name == shifted else 0.0) * (torch.arange(channels) < 4)
        layers[name] = values * 10.0 ** (place - 1) + 3
    return Features(layers, torch.zeros(count, dtype=torch.long))


def only(given: Features, *names: str) -> Features:
    return Features({name: given.layers[name] for name in names}, given.predictions)


def fitted(clean: Features, adversarial: Features | None, **settings) -> LayerNetworks:
    return LayerNetworks(**settings).fit(clean, torch.zeros(len(clean), dtype=torch.long), adversarial)


def area(negative: Tensor, positive: Tensor) -> Tensor:
    """Area under the ROC curve, by pairs: ties are one half."""
    difference = positive[:, None] - negative
    return ((difference > 0).double() + 0.5 * (difference == 0).double()).mean(dim=(0, 1))


@pytest.fixture(scope="module")
def detector() -> LayerNetworks:
    return fitted(features(400, 0), features(200, 1, 1.5))


def test_the_informative_layer_is_found_on_new_images_and_the_rest_stay_quiet(detector) -> None:
    clean, adversarial = features(400, 2), features(400, 3, 1.5)
    assert area(detector.score(clean), detector.score(adversarial)) > 0.95
    logits = [detector.layer_logits(detector.measure(given)) for given in (clean, adversarial)]
    areas = [area(*(part[:, layer] for part in logits)).item() for layer in range(3)]
    assert areas[1] > 0.95 and all(abs(areas[layer] - 0.5) < 0.06 for layer in (0, 2))
    spread = logits[0].std(0)
    assert spread[1] > 10 * spread[0] and spread[1] > 10 * spread[2]
    torch.testing.assert_close(detector.score(clean), logits[0].sum(1))


def test_nothing_is_found_in_noise_alone() -> None:
    detector = fitted(features(200, 0), features(200, 1))
    assert abs(area(detector.score(features(1000, 2)), detector.score(features(1000, 3))) - 0.5) < 0.05


def test_a_straight_boundary_is_not_needed() -> None:
    """Adversarial images lie on both sides of the clean ones, where no weighted sum of channels separates them."""
    clean, wide = features(400, 0, sizes={"middle": 4}), features(400, 1, sizes={"middle": 4})
    test, wide_test = features(400, 2, sizes={"middle": 4}), features(400, 3, sizes={"middle": 4})
    for given in (wide, wide_test):
        given.layers["middle"].sub_(3).mul_(4).add_(3)
    detector = fitted(clean, wide)
    assert area(detector.score(test), detector.score(wide_test)) > 0.9


def test_the_logits_are_those_of_a_plain_network(detector) -> None:
    """Written out layer by layer with the stored weights: standardise, clip, two linear maps with a GELU between."""
    given, start = features(5, 2), 0
    for layer, values in enumerate(given.layers.values()):
        part = slice(start, start + values.shape[1])
        start = part.stop
        scaled = ((values.double() - detector.centre[part]) / detector.width[part]).clamp(-10, 10)
        inner = torch.nn.functional.linear(scaled, detector.first[part].T.double(), detector.first_bias[layer].double())
        expected = torch.nn.functional.gelu(inner) @ detector.second[layer].double() + detector.second_bias[layer]
        torch.testing.assert_close(detector.layer_logits(detector.measure(given))[:, layer], expected)
    assert start == sum(SIZES.values()) == len(detector.first)
    assert detector.layer_widths.tolist() == list(SIZES.values())


@pytest.mark.parametrize("names", [("middle",), ("late", "middle"), ("middle", "early", "late")], ids=len)
def test_what_is_learnt_from_a_layer_depends_on_no_other(names, detector) -> None:
    train = features(400, 0), features(200, 1, 1.5)
    other = fitted(*(only(given, *names) for given in train))
    test = features(20, 2)
    ours = detector.layer_logits(detector.measure(test))
    theirs = other.layer_logits(other.measure(only(test, *names)))
    order = [list(SIZES).index(name) for name in names]
    torch.testing.assert_close(theirs, ours[:, order], rtol=1e-12, atol=1e-12)
    rows = [slice(sum(list(SIZES.values())[:place]), sum(list(SIZES.values())[: place + 1])) for place in order]
    assert torch.equal(other.first, torch.cat([detector.first[part] for part in rows]))


def test_fitting_again_gives_the_same_and_draws_nothing_from_the_global_generator(detector) -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    again = fitted(features(400, 0), features(200, 1, 1.5))
    assert torch.equal(torch.get_rng_state(), before)
    test = features(20, 2)
    assert torch.equal(again.score(test), detector.score(test))
    assert not torch.equal(fitted(features(400, 0), features(200, 1, 1.5), seed=1).score(test), detector.score(test))


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, lambda: torch.autocast("cpu", torch.bfloat16)])
def test_the_mode_of_the_caller_does_not_matter(mode, detector) -> None:
    with mode():
        inside = fitted(features(400, 0), features(200, 1, 1.5))
        scores = inside.score(features(20, 2))
    assert torch.equal(scores, detector.score(features(20, 2)))
    assert not any(values.is_inference() or values.requires_grad for values in inside.buffers())
    test = features(3, 2)
    asked = test.layers["middle"].requires_grad_()
    (gradient,) = torch.autograd.grad(inside.score(test).sum(), asked)
    assert gradient.isfinite().all() and gradient.abs().sum() > 0


def test_an_image_scores_the_same_alone_and_in_any_batch(detector) -> None:
    test = features(33, 2)
    together = detector.score(test)
    alone = torch.cat([detector.score(test[i : i + 1]) for i in range(33)])
    torch.testing.assert_close(alone, together, rtol=1e-12, atol=1e-12)
    assert together.dtype == torch.float64 and detector.score(test[:0]).shape == (0,)


def test_channels_that_never_change_carry_nothing() -> None:
    train = features(60, 0), features(30, 1, 2.0)
    for given in train:
        given.layers["late"][:] = 0.1
    detector = fitted(*train)
    test = features(5, 2)
    test.layers["late"][:] = 0.1
    logits = detector.layer_logits(detector.measure(test))
    assert logits.isfinite().all() and logits[:, 2].unique().numel() == 1
    test.layers["late"][:] = 1e30  # a constant channel that changes is clipped like any other
    assert detector.score(test).isfinite().all()


def test_a_single_image_of_each_kind_is_enough_to_fit() -> None:
    detector = fitted(features(1, 0), features(1, 1, 5.0))
    assert detector.score(features(1, 1, 5.0)) > detector.score(features(1, 0))


def test_a_fork_is_fitted_to_another_attack_without_a_trace(detector) -> None:
    test = features(20, 2)
    before, other = detector.score(test), detector.fork()
    other.fit_classifier(other.measure(features(50, 0)), other.measure(features(50, 1, -3.0)))
    assert torch.equal(detector.score(test), before)
    assert not torch.equal(other.score(test), before)


def test_what_cannot_be_fitted_or_scored_is_refused_in_one_sentence(detector) -> None:
    clean, adversarial = features(20, 0), features(10, 1)
    with pytest.raises(ValueError, match="no successful adversarial image"):
        fitted(clean, adversarial[:0])
    with pytest.raises(ValueError, match="no correctly classified clean image"):
        fitted(clean[:0], adversarial)
    with pytest.raises(ValueError, match="LayerNetworks has seen no adversarial images yet"):
        fitted(clean, None).score(clean)
    with pytest.raises(ValueError, match="expected features of the layers"):
        detector.score(only(clean, "early"))
    with pytest.raises(ValueError, match=r"channels"):
        detector.score(features(3, 0, sizes={**SIZES, "late": 17}))
    clean.layers["late"][3, 1] = float("nan")
    with pytest.raises(ValueError, match="'late' are not finite for 1 of 20 images"):
        detector.score(clean)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden": 0}, "hidden is a whole number of at least 1, got 0"),
        ({"epochs": 0.5}, "epochs is a whole number of at least 1, got 0.5"),
        ({"learning_rate": 0.0}, "learning_rate is positive, got 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate is positive, got nan"),
        ({"weight_decay": -1.0}, "weight_decay is not negative, got -1.0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        LayerNetworks(**settings)


def test_rounding_of_the_features_stays_rounding_in_the_scores() -> None:
    """Features that differ in their seventh digit, as in batches of another size, whose channels vary by 1 %."""

    def rounded(given: Features, seed: int) -> Features:
        generator = torch.Generator().manual_seed(seed)
        layers = {
            name: (values + 300) * (1 + 1e-7 * seed * torch.randn(values.shape, generator=generator))
            for name, values in given.layers.items()
        }
        return Features(layers, given.predictions)

    sizes = {"one": 24}
    given = features(200, 0, sizes=sizes), features(120, 1, 1.0, "one", sizes=sizes)
    detectors = [fitted(*(rounded(one, seed) for one in given)) for seed in (0, 1)]
    test = rounded(given[1], 0)
    scores = [detector.score(test) for detector in detectors]
    assert (scores[0] - scores[1]).abs().max() < 1e-3 * scores[0].std()


def test_the_step_is_chosen_on_other_patients() -> None:
    """Noise that tells images apart only by heart: twins of the same image on the other side would hide that.

    Clean and noisy versions are copies here, and so are two adversarial versions. With the patients known, the loss on
    held-out ones does not fall far below log 2, so hardly anything is learnt; with unknown patients all of it is.
    """
    clean, adversarial = features(41, 0, sizes={"one": 60}), features(41, 1, sizes={"one": 60})
    labels, patients = torch.zeros(41).long(), torch.arange(41)
    scores = {}
    for known in (True, False):
        with_groups = [
            Features(one.layers, one.predictions, groups=patients if known else None) for one in (clean, adversarial)
        ]
        twice = concatenate([with_groups[1], with_groups[1]])
        detector = LayerNetworks().fit(with_groups[0], labels, twice, with_groups[0])
        scores[known] = area(detector.score(clean), detector.score(adversarial)), detector.score(adversarial).std()
    assert scores[True][1] < 0.3 * scores[False][1]


def test_held_out_patients_have_no_row_among_those_that_are_learnt_from() -> None:
    patients = torch.arange(30).repeat_interleave(2)
    groups = Groups(torch.cat([patients, patients]), patients[:40])
    rows = Groups(*(one.float().unsqueeze(1) for one in groups))
    learnt, held = parted(*rows, groups)
    again = parted(*(one.flip(0) for one in rows), Groups(*(one.flip(0) for one in groups)))
    sides = [set(torch.cat(side).flatten().tolist()) for side in (learnt, held)]
    assert not sides[0] & sides[1] and len(sides[1]) == 6 and len(sides[0]) == 24
    assert [set(torch.cat(side).flatten().tolist()) for side in again] == sides

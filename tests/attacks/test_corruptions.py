"""Corruptions: by hand, milder to stronger, and the same for an image whatever is beside it."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from medrobust.attacks import Corruption
from medrobust.attacks.corruptions import MODALITIES
from medrobust.attacks.corruptions.blur import defocus_blur, gaussian_blur, motion_blur
from medrobust.attacks.corruptions.compression import jpeg, pixelation
from medrobust.attacks.corruptions.corruption import KINDS
from medrobust.attacks.corruptions.draws import Draws
from medrobust.attacks.corruptions.light import OFF_CENTRE, bias_field, contrast, exposure, gamma, vignetting
from medrobust.attacks.corruptions.noise import gaussian_noise, impulse_noise, shot_noise, speckle_noise
from medrobust.attacks.corruptions.strengths import SEVERITIES, strength_of
from medrobust.metrics.quality import ssim
from medrobust.networks import as_victim

EVERY = [(modality, kind) for modality, kinds in MODALITIES.items() for kind in kinds]
each_kind = pytest.mark.parametrize(("modality", "kind"), EVERY, ids=lambda one: str(one))


def draws_of(images: Tensor, seed: int = 0) -> Draws:
    return Draws([f"image {place}" for place in range(len(images))], seed, "test", images)


def pictures(count: int, channels: int, side: int = 64, grey: bool = False) -> Tensor:
    """Random images whose amplitudes fall like 1 / frequency, as those of photographs do."""
    noise = torch.randn((count, 1, side, side), generator=torch.Generator().manual_seed(3))
    line = torch.fft.fftfreq(side)
    amplitudes = 1 / (line**2 + line[:, None] ** 2).sqrt().clamp(min=1 / side)
    values = torch.fft.ifft2(torch.fft.fft2(noise) * amplitudes).real
    values = 0.45 + 0.13 * values / values.std((1, 2, 3), keepdim=True)
    tints = torch.ones(1, channels, 1, 1) if grey else torch.linspace(0.8, 1.1, channels).view(1, -1, 1, 1)
    return (values * tints).clamp(0, 1)


def corrupted(images: Tensor, ids: list[str] | None = None, **fields: Any) -> Tensor:
    class Mean(torch.nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            means = images.mean((1, 2, 3))
            return torch.stack([means, -means], 1)

    targets = torch.zeros(len(images), dtype=torch.long)
    return Corruption(**fields)(as_victim(Mean()), images, targets, ids).images


@each_kind
def test_each_severity_leaves_less_similarity_than_the_one_before(modality: Any, kind: Any) -> None:
    images = pictures(4, 1 if modality in ("xray", "ct") else 3)
    ids = list("abcd")
    similarities = torch.stack(
        [ssim(images, corrupted(images, ids, kind=kind, severity=one, modality=modality)) for one in SEVERITIES]
    )
    assert bool((similarities[0] < 1).all())
    assert bool((similarities.diff(dim=0) < 0).all()), similarities


@each_kind
def test_batch_mates_places_and_other_severities_have_no_influence(modality: Any, kind: Any) -> None:
    images, ids, fields = pictures(3, 3, 24), list("abc"), {"kind": kind, "modality": modality}
    together = corrupted(images, ids, **fields)
    order = [2, 0]
    apart = corrupted(images[order], [ids[place] for place in order], **fields)
    torch.testing.assert_close(apart, together[order], atol=1e-6, rtol=0)
    twin = corrupted(images[:1].expand(2, -1, -1, -1), ["a", "z"], **fields)
    torch.testing.assert_close(twin[0], together[0], atol=1e-6, rtol=0)
    random = kind.endswith("noise") or kind in ("bias_field", "vignetting", "motion_blur")
    assert torch.allclose(twin[0], twin[1], atol=1e-4) != random


@each_kind
def test_grey_images_stay_grey_with_any_number_of_channels(modality: Any, kind: Any) -> None:
    images = pictures(2, 3, 24, grey=True)
    made = corrupted(images, ["a", "b"], kind=kind, modality=modality)
    torch.testing.assert_close(made, made[:, :1].expand_as(made), atol=1e-6, rtol=0)
    for channels in (1, 2):
        assert corrupted(images[:, :channels], kind=kind, modality=modality).shape == (2, channels, 24, 24)


def test_every_kind_has_a_modality_and_five_severities() -> None:
    assert {kind for _, kind in EVERY} == set(KINDS)
    assert all(len(strengths) == len(SEVERITIES) for kinds in MODALITIES.values() for strengths in kinds.values())


def test_light_by_hand() -> None:
    images = torch.tensor([0.0, 0.25, 0.5, 1.0]).view(1, 1, 2, 2)
    draws = draws_of(images)
    assert exposure(images, 2.0, draws).flatten().tolist() == [0.0, 0.5, 1.0, 1.0]
    assert gamma(images, 0.5, draws).flatten().tolist() == pytest.approx([0.0, 0.5, math.sqrt(0.5), 1.0])
    assert contrast(images, 0.0, draws).flatten().tolist() == pytest.approx([0.4375] * 4)
    assert contrast(images, 2.0, draws).flatten().tolist() == pytest.approx([0.0, 0.0625, 0.5625, 1.0])


def test_vignetting_takes_its_stops_from_the_corners_around_its_own_centre() -> None:
    """Factor (1 + r^2 (2^(s/2) - 1))^-2: with s = 2 and r = 1 it is 2^-2; at the centre it is 1."""
    images = torch.ones(1, 1, 65, 65)
    draws = draws_of(images)
    light = vignetting(images, 2.0, draws)[0, 0]
    x, y = (OFF_CENTRE * draws.uniform(2, 1, 1)).flatten().tolist()
    brightest = light.argmax().item()
    assert (brightest % 65 - 32) / 32 == pytest.approx(x, abs=1 / 32)
    assert (brightest // 65 - 32) / 32 == pytest.approx(y, abs=1 / 32)
    for row, column, side_y, side_x in ((0, 0, -1, -1), (0, 64, -1, 1), (64, 64, 1, 1)):
        squares = ((side_x - x) ** 2 + (side_y - y) ** 2) / 2
        assert float(light[row, column]) == pytest.approx((1 + squares) ** -2, rel=1e-5)


def test_a_bias_field_reaches_its_stops_and_leaves_them_nowhere() -> None:
    images = torch.full((5, 1, 16, 16), 0.1)
    stops = (bias_field(images, 1.5, draws_of(images)) / images).log2().flatten(1).abs().amax(1)
    torch.testing.assert_close(stops, torch.full((5,), 1.5), atol=1e-5, rtol=0)


def test_noise_has_its_deviation() -> None:
    images = torch.full((1, 1, 200, 200), 0.5)
    draws = draws_of(images)
    assert float(gaussian_noise(images, 0.05, draws).std()) == pytest.approx(0.05, rel=0.02)
    assert float(speckle_noise(images, 0.1, draws).std()) == pytest.approx(0.05, rel=0.02)
    assert float(shot_noise(images, 200, draws).std()) == pytest.approx(math.sqrt(0.5 / 200), rel=0.02)
    spoilt = impulse_noise(images, 0.1, draws)
    assert float((spoilt == 0).double().mean()) == pytest.approx(0.05, rel=0.1)
    assert float((spoilt == 1).double().mean()) == pytest.approx(0.05, rel=0.1)


def point(side: int = 9) -> Tensor:
    """One white pixel in the middle."""
    images = torch.zeros(1, 1, side, side)
    images[..., side // 2, side // 2] = 1
    return images


def test_blur_of_a_point_is_its_kernel() -> None:
    """A pixel of 224 is 9/224 of a pixel here, so that strengths below are sizes in pixels times 224 / 9."""
    images, unit = point(), 224 / 9
    draws = draws_of(images)
    line = (-0.5 * torch.arange(-4.0, 5.0) ** 2).exp()
    expected = line[:, None] * line / line.sum() ** 2
    torch.testing.assert_close(gaussian_blur(images, unit, draws)[0, 0], expected, atol=1e-6, rtol=0)
    disc = defocus_blur(images, 3 * unit, draws)[0, 0]
    assert float(disc.sum()) == pytest.approx(1)
    assert float(disc[4, 4]) == pytest.approx(1 / (9 * math.pi), rel=0.05)  # a disc of radius 3 is as bright everywhere
    assert float(disc[4, 0]) == 0 and float(disc[4, 1]) > 0 and float(disc[0, 0]) == 0
    angle = math.pi / 2 * float(draws.uniform(1))
    line_seen = motion_blur(images, 4 * unit, draws)[0, 0]
    places = torch.arange(-4.0, 5.0)
    second_moments = [(line_seen.sum(axis) * places**2).sum() for axis in (0, 1)]  # of x, then of y
    # the moment of a line of length 4 is 16 / 12 in all; sharing a point among pixels adds u (1 - u) <= 1/4 on an axis
    assert 0 <= float(second_moments[0]) - 4 / 3 * math.cos(angle) ** 2 <= 0.25
    assert 0 <= float(second_moments[1]) - 4 / 3 * math.sin(angle) ** 2 <= 0.25


@pytest.mark.parametrize(("blur", "strength"), [(gaussian_blur, 20.0), (defocus_blur, 60.0), (motion_blur, 80.0)])
def test_blur_changes_no_constant_image_and_reaches_as_far_at_any_size(blur: Any, strength: float) -> None:
    constant = torch.full((2, 3, 12, 7), 0.3)
    torch.testing.assert_close(blur(constant, 40.0, draws_of(constant)), constant, atol=1e-6, rtol=0)
    small, large = point(33), point(99)
    spreads = []
    for images in (small, large):
        made = blur(images, strength, draws_of(images))[0, 0]
        places = torch.linspace(-1, 1, images.shape[-1])
        spreads.append(float((made * (places**2 + places[:, None] ** 2)).sum()))
    assert spreads[0] == pytest.approx(
        spreads[1], rel=0.1
    )  # a point is shared by four pixels, which are smaller in the larger image


def test_pixelation_takes_means_and_jpeg_keeps_what_eight_bits_hold() -> None:
    images = torch.arange(16.0).view(1, 1, 4, 4) / 16
    made = pixelation(images, 0.5, draws_of(images))
    assert made[0, 0, ::2, ::2].flatten().tolist() == pytest.approx([2.5 / 16, 4.5 / 16, 10.5 / 16, 12.5 / 16])
    torch.testing.assert_close(made[..., ::2, ::2], made[..., 1::2, 1::2])
    for channels in (1, 2, 3, 4):
        flat = torch.full((2, channels, 16, 16), 77 / 255)  # one coefficient, which any quality keeps nearly
        assert float((jpeg(flat, 95, draws_of(flat)) - flat).abs().max()) <= 2 / 255
    assert corrupted(images[:0], [], kind="jpeg").shape == (0, 1, 4, 4)


def test_strengths_are_those_of_medmnist_c() -> None:
    assert [strength_of("xray", "gaussian_noise", one) for one in SEVERITIES] == [0.04, 0.05, 0.06, 0.07, 0.08]
    assert [strength_of("dermoscopy", "jpeg", one) for one in SEVERITIES] == [30, 20, 15, 10, 7]
    assert Corruption(kind="pixelation", severity=5).parameters()["strength"] == 0.4


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"severity": 0}, "severity is a whole number from 1 to 5, got 0"),
        ({"severity": 6}, "got 6"),
        ({"severity": True}, "got True"),
        ({"severity": 2.5}, "got 2.5"),
        ({"kind": "defocus_blur"}, "the kinds of xray are bias_field, .*, pixelation, got 'defocus_blur'$"),
        ({"kind": "rain"}, "got 'rain', and there is no such kind"),
        ({"modality": "mri"}, "modality is one of xray, ct, fundus, dermoscopy, endoscopy, got 'mri'"),
    ],
)
def test_what_does_not_exist_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Corruption(**fields)

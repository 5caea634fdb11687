"""The adversarial-smooth bias field against its formula, closed forms, and the log-domain baseline."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import medrobust.attacks.bias_field as bias_field
from medrobust.attacks import LogDomain
from medrobust.attacks.bias_field import AdvSBF, Polynomials, multiplied, roughness
from medrobust.attacks.thin_plate import warp_matrix
from medrobust.networks import as_victim
from medrobust.objectives import CrossEntropy, Margin
from medrobust.objectives.base import Objective, Step
from tests.attacks.dense_cases import dense_case
from tests.largest_tensor import LargestTensor

FREE = {"penalty_coefficients": 0.0, "penalty_warp": 0.0}
DEGREES = [(10, 0, 66), (10, 1, 45), (10, 2, 28), (10, 3, 15), (10, 5, 1), (0, 0, 1), (3, 1, 3), (4, 0, 15), (2, 1, 1)]


class Pixel(Objective):
    """One pixel's value times a sign that may turn after the first step."""

    def __init__(self, first: float, later: float, row: int = 0, column: int = 0) -> None:
        self.signs, self.place = (first, later), (row, column)

    def __call__(self, step: Step) -> Tensor:
        sign = self.signs[min(step.index, 1)]
        return sign * step.images[:, 0, self.place[0], self.place[1]] + 0 * step.outputs[:, 0]


def flat_victim(pixels: int) -> Any:
    """A classifier of so many pixels, for objectives that ignore its outputs."""
    return as_victim(nn.Sequential(nn.Flatten(), nn.Linear(pixels, 2)))


def images_between(low: float, high: float, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    noise = torch.rand(shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return (low + (high - low) * noise).to(dtype)


def literal_field(coefficients: Tensor, x: Tensor, y: Tensor, degree: int, lowest: int) -> tuple[Tensor, int]:
    """SBF20 eq. 4, term by term, for one image, and the number of terms."""
    field, count = torch.zeros_like(x), 0
    for t in range(lowest, degree + 1):
        for l in range(lowest, degree - t + 1):  # noqa: E741
            field = field + coefficients[t - lowest, l - lowest] * x**t * y**l
            count += 1
    return field, count


@pytest.mark.parametrize(("degree", "lowest", "terms"), DEGREES)
def test_the_field_is_the_papers_sum(degree: int, lowest: int, terms: int) -> None:
    polynomials = Polynomials(degree, lowest, 4, torch.zeros(1, 1, 7, 5, dtype=torch.float64))
    generator = torch.Generator().manual_seed(1)
    coefficients, moves = (
        torch.randn(start.shape, generator=generator, dtype=torch.float64) for start in polynomials.start(2)
    )
    warped = polynomials.warped(0.02 * moves)
    field = polynomials.field(coefficients, warped)
    for i in range(2):
        x, y = warped[i].clamp(-1, 1).view(2, 7, 5)
        expected, count = literal_field(coefficients[i], x, y, degree, lowest)
        torch.testing.assert_close(field[i, 0], expected, atol=1e-12, rtol=1e-12)
        assert count == terms == int(polynomials.terms.sum())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(8, 8), (7, 12)], ids=["square", "wide"])
@pytest.mark.parametrize("channels", [1, 3], ids=["grey", "colour"])
def test_without_coefficients_and_moves_the_image_is_unchanged(
    channels: int, shape: tuple[int, int], dtype: torch.dtype
) -> None:
    images = torch.rand((2, channels, *shape), dtype=dtype)
    images[:, :, 0, :2] = torch.tensor([0.0, 1.0])
    polynomials = Polynomials(10, 1, 16, images)
    coefficients, moves = polynomials.start(2)
    warped = polynomials.warped(moves)
    assert torch.equal(warped, polynomials.pixels.expand_as(warped))
    assert torch.equal(multiplied(images, polynomials.field(coefficients, warped)), images)


def test_the_first_step_adds_every_term_with_the_sign_of_its_slope(linear: Any, images_of: Any) -> None:
    """On a linear victim dJ/da_{t,l} = sum of u x X^t Y^l over the pixels, u = +-2 w; theta has no slope at a = 0."""
    victim, images, targets = linear(3).double(), images_of(6, 3).double() * 0.5, torch.arange(6) % 2
    attacked = AdvSBF(degree=6, steps=1, step_size_coefficients=0.05)(victim, images, targets)
    line = torch.linspace(-1, 1, 8, dtype=torch.float64)
    x, y = line.expand(8, 8), line.expand(8, 8).T
    for i in range(6):
        uphill = victim.weight.detach() * (1 if targets[i] == 0 else -1)
        field = torch.zeros(8, 8, dtype=torch.float64)
        for t in range(1, 7):
            for l in range(1, 7 - t):  # noqa: E741
                slope = (uphill * images[i] * x**t * y**l).sum()
                assert abs(float(slope)) > 1e-6
                field += 0.05 * slope.sign() * x**t * y**l
        torch.testing.assert_close(attacked.pictures["bias_field"][i, 0], field)
        torch.testing.assert_close(attacked.images[i], (images[i] * field.exp()).clamp(0, 1))
    assert attacked.measures["warp_folds"].tolist() == [0] * 6
    torch.testing.assert_close(
        attacked.measures["field_largest"], attacked.pictures["bias_field"].abs().amax((1, 2, 3))
    )


def test_a_constant_field_by_hand() -> None:
    """D = 0 leaves a_{0,0}: one step up, four down is exp(-3 * 0.06). White pixels must find back past the clip."""
    attack = AdvSBF(degree=0, lowest_degree=0, steps=5, objective=Pixel(1.0, -1.0))
    attacked = attack(flat_victim(4), torch.ones(1, 1, 2, 2), torch.tensor([0]))
    torch.testing.assert_close(attacked.images, torch.full((1, 1, 2, 2), math.exp(-0.18)))
    assert attacked.measures["cos"].tolist() == [pytest.approx(0.5)]  # -1, 1, 1, 1
    assert attacked.measures["positive_cosines"].tolist() == [0.75]
    assert math.isnan(float(attacked.measures["field_roughness"]))


def test_pixels_on_the_border_can_be_moved_inwards() -> None:
    """2 x 2 control points on 2 x 2 pixels, B = a + b X + c Y, brighten the corner (-1, -1) once and darken it twice.

    B = 0, then (a, b, c) = (0.06, -0.06, -0.06). Darkening moves them back to 0 and, as the corner's slope in X and Y
    is negative, the corner inwards to (-0.98, -0.98). Then (a, b, c) = (-0.06, 0.06, 0.06): B = -0.06 (1 + 2 * 0.98).
    """
    attack = AdvSBF(degree=1, lowest_degree=0, gridsize=2, steps=3, objective=Pixel(1.0, -1.0), **FREE)
    attacked = attack(flat_victim(4), torch.full((1, 1, 2, 2), 0.5), torch.tensor([0]))
    corner = attacked.pictures["bias_field"][0, 0, 0, 0]
    assert float(corner) == pytest.approx(-0.06 * 2.96, abs=1e-6)


def test_pixels_do_not_leave_the_square_on_which_the_field_is_bounded() -> None:
    """Brightening only, X = Y = -1.02 after two steps: B is that of the corner, 3 * 0.12."""
    attack = AdvSBF(degree=1, lowest_degree=0, gridsize=2, steps=2, objective=Pixel(1.0, 1.0), **FREE)
    attacked = attack(flat_victim(4), torch.full((1, 1, 2, 2), 0.5), torch.tensor([0]))
    assert float(attacked.pictures["bias_field"][0, 0, 0, 0]) == pytest.approx(0.36, abs=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_a_penalty_stronger_than_the_slope_brings_everything_back_exactly(steps: int, conv_net: Any) -> None:
    images = images_between(0.1, 0.9, 3, 3, 16, 16)
    attack = AdvSBF(steps=steps, penalty_coefficients=1e6, penalty_warp=1e6)
    attacked = attack(as_victim(conv_net()), images, torch.arange(3))
    assert torch.equal(attacked.images, images) == (steps % 2 == 0)


def test_the_penalties_act_on_their_own_variables() -> None:
    """As the border test above, but the warp's penalty outweighs its slope in the third step and takes it back."""
    attack = AdvSBF(
        degree=1, lowest_degree=0, gridsize=2, steps=3, objective=Pixel(1.0, -1.0), penalty_coefficients=0.0
    )
    attacked = attack(flat_victim(4), torch.full((1, 1, 2, 2), 0.5), torch.tensor([0]))
    corner = attacked.pictures["bias_field"][0, 0, 0, 0]
    assert float(corner) == pytest.approx(-0.18, abs=1e-6)


def test_slopes_agree_with_finite_differences(conv_net: Any) -> None:
    images = images_between(0.2, 0.5, 2, 3, 9, 7, dtype=torch.float64)
    victim, polynomials = as_victim(conv_net().double()).eval(), Polynomials(5, 1, 3, images)
    generator = torch.Generator().manual_seed(2)
    coefficients, moves = (
        (0.1 * torch.randn(start.shape, generator=generator, dtype=torch.float64)).requires_grad_()
        for start in polynomials.start(2)
    )
    moves = (moves * polynomials.terms.new_tensor(0.2)).detach().requires_grad_()

    def objective(coefficients: Tensor, moves: Tensor) -> Tensor:
        field = polynomials.field(coefficients, polynomials.warped(moves))
        return CrossEntropy()(Step(victim, multiplied(images, field), images, torch.tensor([0, 1]), ["a", "b"]))

    def exactly(coefficients: Tensor, moves: Tensor) -> Tensor:
        field = polynomials.field(coefficients, polynomials.warped(moves))
        return victim.loss(images * field.exp(), torch.tensor([0, 1]))

    slopes = torch.autograd.grad(objective(coefficients, moves).sum(), (coefficients, moves))
    for slope, variable in zip(slopes, (coefficients, moves), strict=True):
        assert bool(slope.flatten(1).any(1).all())
        for place in range(variable.numel()):
            push = torch.zeros(variable.numel(), dtype=torch.float64)
            push[place] = 1e-6
            push = push.view_as(variable)
            ends = [
                exactly(*(v + sign * push if v is variable else v for v in (coefficients, moves))).sum()
                for sign in (1, -1)
            ]
            difference = float((ends[0] - ends[1]).detach() / 2e-6)
            assert float(slope.flatten()[place]) == pytest.approx(difference, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("stop", [False, True], ids=["full budget", "stop when fooled"])
def test_pieces_of_a_field_give_what_the_whole_gives(
    stop: bool, conv_net: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = images_between(0.1, 0.9, 5, 3, 20, 13, dtype=torch.float64)
    victim, targets = as_victim(conv_net().double()), torch.arange(5) % 3
    attack = AdvSBF(steps=6, stop_when_fooled=stop)
    whole = attack(victim, images, targets)
    monkeypatch.setattr(bias_field, "PIXELS_AT_ONCE", 37)
    monkeypatch.setattr(bias_field, "IMAGES_AT_ONCE", 2)
    pieces = attack(victim, images, targets)
    torch.testing.assert_close(pieces.pictures["bias_field"], whole.pictures["bias_field"], atol=1e-12, rtol=0)
    torch.testing.assert_close(pieces.images, whole.images, atol=1e-12, rtol=0)
    assert torch.equal(pieces.backwards, whole.backwards)
    none = attack(victim, images[:0], targets[:0])
    assert none.images.shape == (0, 3, 20, 13)


def test_a_large_field_keeps_a_few_numbers_per_pixel_for_its_gradient() -> None:
    """Its powers took 9 numbers of 4 bytes per pixel, ten times over: 82 MB for an image of 512 x 512 pixels."""
    images = torch.zeros(3, 1, 300, 300)
    polynomials, kept = Polynomials(10, 1, 2, images), 0

    def note(value: Tensor) -> Tensor:
        nonlocal kept
        kept += value.numel()
        return value

    variables = [value.requires_grad_() for value in polynomials.start(3)]
    with torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
        field = polynomials.field(variables[0], polynomials.warped(variables[1]))
    assert kept <= 8 * images.numel()
    with LargestTensor() as watch:
        torch.autograd.grad(field.sum(), variables)
    assert watch.size <= 2 * 4 * images.numel()  # the slope of the warped coordinates


def test_the_clip_keeps_the_slope_of_the_bound() -> None:
    """dx_a / dB = x_a: exactly the image's where nothing is clipped, 1 past white, 0 on black, and finite for any B."""
    clean = torch.tensor([0.0, 0.5, 0.5, 1.0, 1e-3]).view(1, 1, 1, 5)
    field = torch.tensor([500.0, -1.0, 3.0, 0.0, 500.0]).view(1, 1, 1, 5).requires_grad_()
    seen = multiplied(clean, field)
    expected = torch.tensor([0.0, 0.5 / math.e, 1.0, 1.0, 1.0]).view(1, 1, 1, 5)
    torch.testing.assert_close(seen.detach(), expected)
    torch.testing.assert_close(torch.autograd.grad(seen.sum(), field)[0], expected)
    assert torch.equal(multiplied(clean, field.detach()), seen.detach())


@pytest.mark.parametrize("attack", [AdvSBF(), AdvSBF(lowest_degree=0, steps=100, step_size_coefficients=1.0)])
@pytest.mark.parametrize("channels", [1, 3], ids=["grey", "colour"])
def test_one_field_for_all_channels_and_nothing_else(channels: int, attack: AdvSBF, conv_net: Any) -> None:
    images = images_between(0.0, 1.0, 2, channels, 20, 13)
    images[:, :, 3] = 0
    attacked = attack(as_victim(conv_net(channels)), images, torch.tensor([0, 1]))
    field = attacked.pictures["bias_field"]
    assert field.shape == (2, 1, 20, 13)
    torch.testing.assert_close(attacked.images, (images * field.clamp(max=80).exp()).clamp(0, 1))
    assert not bool(attacked.images[:, :, 3].any())
    assert bool(attacked.images.isfinite().all())
    assert (attack.norm, attack.minimal) == ("none", False)


def test_roughness_by_hand() -> None:
    """A plane has none, x^2 has 2, x^2 + y^2 has 4, a checkerboard of +-1 has 8; one image does not see another."""
    line = torch.arange(6.0)
    x, y = line.expand(6, 6), line.expand(6, 6).T
    board = (-1.0) ** (x + y)
    fields = torch.stack([2 * x - y + 7, x**2, x**2 + y**2, board])[:, None]
    torch.testing.assert_close(roughness(fields), torch.tensor([0.0, 2.0, 4.0, 8.0]))
    torch.testing.assert_close(roughness(torch.cat([fields[1:2], fields[2:3]], 1)), torch.tensor([10.0]).sqrt())
    assert bool(roughness(torch.zeros(2, 1, 2, 9)).isnan().all())


@pytest.mark.parametrize("shift", [-1000.0, 0.0, 1000.0])
@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize("objective", [None, CrossEntropy(), Margin(1e6)], ids=repr)
def test_a_saturated_or_shifted_victim_is_broken_like_the_plain_one(
    objective: Objective | None, scale: float, shift: float, linear: Any
) -> None:
    images = images_between(0.3, 0.7, 8, 1, 8, 8)
    plain, victim = linear(constant_sign=True), linear(constant_sign=True, scale=scale, shift=shift)
    targets = plain(images).argmax(1)
    attack = AdvSBF(lowest_degree=0, objective=objective, **FREE)
    weak, strong = attack(plain, images, targets), attack(victim, images, targets)
    assert bool(weak.success.all())
    assert bool(strong.success.all())


def test_keeping_the_saturated_cross_entropy_stalls_and_says_so(linear: Any, images_of: Any) -> None:
    images, victim = images_of(6), linear(scale=1e4)
    targets = victim(images).argmax(1)
    attacked = AdvSBF(steps=5, objective=CrossEntropy(saturated="keep"))(victim, images, targets)
    assert torch.equal(attacked.images, images)
    assert attacked.zero_gradients.tolist() == [5] * 6
    assert attacked.backwards.tolist() == [5] * 6
    assert bool(attacked.measures["cos"].isnan().all())
    for objective in (None, CrossEntropy()):
        moved = AdvSBF(steps=5, objective=objective)(victim, images, targets)
        assert bool((moved.images != images).flatten(1).any(1).all())


def test_penalties_outweigh_a_small_cross_entropy_but_not_the_margin(linear: Any) -> None:
    """At a margin of -20 cross-entropy's slope is 2e-9 of the margin's: it steps off and is called back, for ever."""
    images, victim = images_between(0.2, 0.3, 4, 1, 8, 8), linear(constant_sign=True, scale=20.0)
    targets = victim(images).argmax(1)
    literal = AdvSBF(lowest_degree=0, objective=CrossEntropy(saturated="keep"))
    attacked = literal(victim, images, targets)
    assert torch.equal(attacked.images, images)
    assert not attacked.zero_gradients.any()
    torch.testing.assert_close(attacked.measures["cos"], torch.full((4,), -1.0))
    assert bool(dataclasses.replace(literal, objective=None)(victim, images, targets).success.all())


def test_a_gradient_that_vanishes_because_the_victim_is_fooled_is_not_reported(linear: Any, images_of: Any) -> None:
    victim, images = linear(), images_of(6)
    attacked = AdvSBF(objective=Margin(), **FREE)(victim, images, 1 - victim(images).argmax(1))
    assert torch.equal(attacked.images, images)
    assert attacked.zero_gradients.tolist() == [0] * 6


def test_a_gradient_that_is_not_a_number_leaves_a_valid_image() -> None:
    class Rooted(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            score = images.square().sum((1, 2, 3)).sqrt()
            return torch.stack([score, 0.5 - score], 1)

    images = torch.zeros(2, 1, 4, 4)
    images[1] = 0.5
    attacked = AdvSBF()(as_victim(Rooted()), images, torch.tensor([1, 0]))
    assert bool(attacked.images.isfinite().all())


def bright_case(task: str, request: pytest.FixtureRequest, tagged: bool = False) -> tuple[Any, Tensor, Any]:
    """The dense case without black pixels, which no field can change."""
    images, classes = images_between(0.1, 0.9, 8, 3, 8, 8), 1 + torch.arange(8) % 2
    return dense_case(task, 3, request, tagged, images, classes)


@pytest.mark.parametrize("stop", [False, True], ids=["full budget", "stop when fooled"])
@pytest.mark.parametrize("targeted", [False, True], ids=["untargeted", "targeted"])
@pytest.mark.parametrize("task", ["classes", "masks", "boxes"])
def test_every_kind_of_victim_is_pushed_in_the_right_direction(
    task: str, targeted: bool, stop: bool, request: pytest.FixtureRequest
) -> None:
    victim, images, targets = bright_case(task, request)
    attack = AdvSBF(lowest_degree=0, targeted=targeted, stop_when_fooled=stop)
    attacked = attack(victim, images, targets)
    before, after = victim.loss(images, targets).detach(), victim.loss(attacked.images, targets).detach()
    gain = (before - after) if targeted else (after - before)
    started = attack.reached(victim, victim(images), targets)
    assert bool((gain[~started] > 1e-3).all())
    assert bool(started.any())
    assert bool((~started).any())
    assert int(attacked.success.sum()) > int(started.sum())
    if stop:
        assert torch.equal(attacked.images[started], images[started])
        assert attacked.backwards[started].tolist() == [0] * int(started.sum())


@pytest.mark.parametrize("stop", [False, True], ids=["full budget", "stop when fooled"])
@pytest.mark.parametrize("task", ["classes", "masks", "boxes"])
def test_passes_are_counted_as_an_independent_counter_sees_them(
    task: str, stop: bool, counting: Any, request: pytest.FixtureRequest
) -> None:
    """Channel 0 names the image, in steps of 0.14: fields of at most 66 * 5 * 0.0002 = 0.066 leave it its name."""
    victim, images, targets = bright_case(task, request, tagged=True)
    tags = 0.01 + 0.14 * torch.arange(8)
    images[:, 0] = tags.view(-1, 1, 1)
    attack = AdvSBF(lowest_degree=0, steps=5, step_size_coefficients=2e-4, stop_when_fooled=stop, **FREE)
    counter = counting(victim, tags)
    for i in range(8):  # an image's passes are those that it costs in a batch of its own
        attack(counter, images[i : i + 1], targets[i : i + 1], [f"image {i}"])
    attacked = attack(victim, images, targets)
    assert attacked.forwards.tolist() == [counter.seen[i] for i in range(8)]
    assert attacked.backwards.tolist() == [counter.differentiated[i] for i in range(8)]
    if not stop:
        assert attacked.forwards.tolist() == [6] * 8
        assert attacked.backwards.tolist() == [5] * 8


@pytest.mark.parametrize("stop", [False, True], ids=["full budget", "stop when fooled"])
@pytest.mark.parametrize("task", ["classes", "masks", "boxes", "network"])
def test_batch_mates_have_no_influence(task: str, stop: bool, request: pytest.FixtureRequest) -> None:
    if task == "network":
        victim, images = as_victim(request.getfixturevalue("conv_net")()), images_between(0, 1, 8, 3, 14, 20)
        targets = victim.eval()(images).argmax(1)
    else:
        victim, images, targets = bright_case(task, request)
    attack = AdvSBF(lowest_degree=0, stop_when_fooled=stop)
    together = attack(victim, images, targets)
    for rows in (slice(0, 1), slice(1, 3), slice(3, 8)):  # alone, or with fewer of the others
        apart = attack(victim, images[rows], targets[rows])
        torch.testing.assert_close(apart.images, together.images[rows], atol=1e-5, rtol=0)
        for name in ("success", "forwards", "backwards", "zero_gradients"):
            assert torch.equal(getattr(apart, name), getattr(together, name)[rows])
        for name, values in together.measures.items():
            torch.testing.assert_close(apart.measures[name], values[rows], atol=1e-4, rtol=1e-4, equal_nan=True)


def test_stopping_keeps_the_field_that_fooled_first(linear: Any) -> None:
    """A constant field darkens by 0.06 per step: 0.52 and 0.55 fall below 1/2 after 1 and 2 steps, 0.58 after 3."""
    victim, images = linear(constant_sign=True), torch.tensor([0.52, 0.55, 0.58]).view(3, 1, 1, 1).expand(3, 1, 8, 8)
    attack = AdvSBF(degree=0, lowest_degree=0, stop_when_fooled=True)
    attacked = attack(victim, images, torch.ones(3).long())
    steps = torch.tensor([1.0, 2.0, 3.0])
    torch.testing.assert_close(attacked.images, images * (-0.06 * steps).exp().view(3, 1, 1, 1))
    assert attacked.backwards.tolist() == [1, 2, 3]
    assert attacked.forwards.tolist() == [3, 4, 5]  # one look more to find it fooled, and the judgement
    torch.testing.assert_close(attacked.measures["field_largest"], 0.06 * steps)


class Blobs:
    """Images with one soft spot, left for class 0 and right for class 1, and a network that was trained on them."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.targets = torch.arange(64) % 2
        line = torch.linspace(-1, 1, 64)
        centre = (self.targets * 2 - 1) * 0.4 + 0.1 * torch.randn(64, generator=generator)
        height = 0.3 * torch.randn(64, generator=generator)
        distance = (line.view(1, 1, -1) - centre.view(-1, 1, 1)) ** 2 + (
            line.view(1, -1, 1) - height.view(-1, 1, 1)
        ) ** 2
        noise = 0.03 * torch.randn((64, 64, 64), generator=generator)
        self.images = (0.3 + 0.15 * (-4 * distance).exp() + noise).clamp(0.1, 0.6)[:, None]
        torch.manual_seed(0)
        self.network = nn.Sequential(
            nn.Conv2d(1, 8, 5, stride=4),
            nn.ReLU(),
            nn.Conv2d(8, 8, 5, stride=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(288, 2),
        )
        optimizer = torch.optim.Adam(self.network.parameters(), lr=1e-2)
        for _ in range(40):
            optimizer.zero_grad()
            functional.cross_entropy(self.network((self.images - 0.3) / 0.1), self.targets).backward()
            optimizer.step()
        self.victim = as_victim(self.network, 0.3, 0.1)


@pytest.fixture(scope="module")
def blobs() -> Blobs:
    """A small trained network and its images."""
    with torch.random.fork_rng():
        return Blobs()


def test_the_field_is_far_smoother_than_the_baselines_at_equal_success(blobs: Blobs) -> None:
    assert bool((blobs.victim(blobs.images).argmax(1) == blobs.targets).all())
    gentle = AdvSBF(lowest_degree=0, degree=4, gridsize=4, step_size_coefficients=0.02, stop_when_fooled=True)
    default = AdvSBF(lowest_degree=0, stop_when_fooled=True)
    baseline = LogDomain(epsilon=0.5, stop_when_fooled=True)
    smooth, wild, free = (attack(blobs.victim, blobs.images, blobs.targets) for attack in (gentle, default, baseline))
    assert all(bool(attacked.success.all()) for attacked in (smooth, wild, free))
    fields = [(attacked.images / blobs.images).log() for attacked in (smooth, free)]
    torch.testing.assert_close(fields[0], smooth.pictures["bias_field"], atol=1e-5, rtol=0)
    torch.testing.assert_close(roughness(fields[0]), smooth.measures["field_roughness"], atol=1e-5, rtol=0)
    limit = float(roughness(fields[1]).median())
    assert float(smooth.measures["field_roughness"].median()) < 0.05 * limit
    assert float(wild.measures["field_roughness"].median()) < 0.15 * limit


def test_the_matrix_is_shared_by_all_batches_of_a_size(blobs: Blobs) -> None:
    attack = AdvSBF(gridsize=5, steps=1)
    attack(blobs.victim, blobs.images[:2], blobs.targets[:2])
    misses = warp_matrix.cache_info().misses
    attack(blobs.victim, blobs.images[:5], blobs.targets[:5])
    assert warp_matrix.cache_info().misses == misses


class Cells(Objective):
    """A weighted sum of the image's pixels, whose signs may turn after some steps."""

    def __init__(self, weights: list[list[float]], turn: int = 1000) -> None:
        self.weights, self.turn = torch.tensor(weights), turn

    def __call__(self, step: Step) -> Tensor:
        sign = 1 if step.index < self.turn else -1
        return sign * (self.weights * step.images[:, 0]).sum((1, 2)) + 0 * step.outputs[:, 0]


STOP = math.log(2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("stop", [False, True], ids=["full budget", "stop when fooled"])
@pytest.mark.parametrize("stops", [0.1, 0.5, 1.0, 2.0])
def test_no_field_is_beyond_its_bound_and_the_image_is_that_of_the_field(
    stops: float, stop: bool, dtype: torch.dtype, conv_net: Any
) -> None:
    images = images_between(0.0, 0.2, 5, 3, 20, 13, dtype=dtype)
    victim, targets = as_victim(conv_net().to(dtype)), torch.arange(5) % 3
    attacked = AdvSBF(max_stops=stops, lowest_degree=0, steps=15, stop_when_fooled=stop)(victim, images, targets)
    field = attacked.pictures["bias_field"]
    assert float(field.abs().max()) <= stops * STOP
    assert float(attacked.measures["field_largest"].max()) == float(field.abs().max())
    torch.testing.assert_close(attacked.images, images * field.exp())  # 0.2 times four is not cut off
    bright = images.flatten(1).amax(1)
    assert bool((attacked.images.flatten(1).amax(1) <= bright * 2**stops * (1 + 1e-6)).all())
    if not stop:
        torch.testing.assert_close(attacked.measures["field_largest"], torch.full((5,), stops * STOP, dtype=dtype))


def test_a_bound_that_is_not_reached_changes_nothing_at_all(conv_net: Any) -> None:
    images = images_between(0.1, 0.9, 5, 3, 20, 13)
    victim, targets = as_victim(conv_net()), torch.arange(5) % 3
    free = AdvSBF(lowest_degree=0)(victim, images, targets)
    wide = AdvSBF(lowest_degree=0, max_stops=60.0)(victim, images, targets)
    assert float(free.measures["field_largest"].max()) < 59 * STOP
    assert torch.equal(wide.images, free.images)
    assert all(torch.equal(wide.measures[name], values) for name, values in free.measures.items())


def test_a_bounded_constant_field_by_hand() -> None:
    """Steps of 0.06 towards 0.1 stops of 0.0693: 0.06, then 0.12, beyond, where the slope along the bound is none.

    The objective turns after six steps: the field of 0.12 had better be smaller, and 0.06 is inside again; then 0.
    """
    for steps, expected in ((1, 0.06), (2, 0.1 * STOP), (6, 0.1 * STOP), (7, 0.06), (8, 0.0), (10, -0.1 * STOP)):
        attack = AdvSBF(
            degree=0, lowest_degree=0, steps=steps, objective=Cells([[1.0, 1.0]] * 2, turn=6), max_stops=0.1, **FREE
        )
        attacked = attack(flat_victim(4), torch.full((1, 1, 2, 2), 0.5), torch.tensor([0]))
        largest = attacked.pictures["bias_field"].flatten().tolist()
        assert largest == pytest.approx([expected] * 4, abs=1e-6), steps
        assert attacked.zero_gradients.tolist() == [0]  # the victim's gradient has not vanished


def test_at_the_bound_the_field_moves_along_it_by_hand() -> None:
    """B = a + b X + c Y on the corners (-1, -1), (1, -1), (-1, 1), (1, 1), with weights 4, 1, 1, 1 on x = 0.5.

    dJ/da = 7 x, dJ/db = dJ/dc = -3 x, so that after a step (a, b, c) = (s, -s, -s) with s = 0.06: B is 3 s, s, s, -s,
    and the bound of 0.06 makes it s, s/3, s/3, -s/3. There dJ/da = x (4 e^s + 2 e^(s/3) + e^(-s/3)) = 7.27 x, and
    dJ/db = dJ/dc = -x (4 e^s - e^(-s/3)) = -3.27 x, in units of the scale. Along (a, b, c) that is (7.27 + 2 * 3.27) s
    x, and the largest value, 3 s, grows by (1, -1, -1): what is taken away is 4.60 (1, -1, -1) x. What is left is
    (2.67, 1.33, 1.33) x, so that a grows and b and c come back: (2 s, 0, 0), the constant field, not (2 s, -2 s, -2 s).
    """
    stops, clean = 0.06 / STOP, torch.full((1, 1, 2, 2), 0.5)
    fields = {"degree": 1, "lowest_degree": 0, "gridsize": 2, "max_stops": stops, "step_size_warp": 1e-9}
    attack = AdvSBF(steps=1, objective=Cells([[4.0, 1.0], [1.0, 1.0]]), **fields, **FREE)
    one = attack(flat_victim(4), clean, torch.tensor([0])).pictures["bias_field"].flatten()
    torch.testing.assert_close(one, 0.06 * torch.tensor([1.0, 1 / 3, 1 / 3, -1 / 3]), atol=1e-6, rtol=0)
    two = dataclasses.replace(attack, steps=2)(flat_victim(4), clean, torch.tensor([0]))
    torch.testing.assert_close(two.pictures["bias_field"].flatten(), torch.full((4,), 0.06), atol=1e-6, rtol=0)


def test_the_slope_along_the_bound_is_that_of_the_bounded_field(conv_net: Any) -> None:
    """By finite differences of the objective on the bounded field, whose scale depends on the coefficients, too."""
    images = images_between(0.2, 0.5, 1, 3, 9, 7, dtype=torch.float64)
    victim, polynomials = as_victim(conv_net().double()).eval(), Polynomials(3, 0, 3, images)
    generator = torch.Generator().manual_seed(4)
    coefficients, moves = (
        scale * torch.randn(start.shape, generator=generator, dtype=torch.float64)
        for scale, start in zip((1.0, 0.02), polynomials.start(1), strict=True)
    )
    variables = [coefficients.requires_grad_(), moves.requires_grad_()]

    @torch.no_grad()
    def climbed(coefficients: Tensor, moves: Tensor) -> Tensor:
        free = polynomials.field(coefficients, polynomials.warped(moves))
        limited = free * (0.3 * STOP / free.abs().max())
        return victim.loss(images * limited.exp(), torch.tensor([2])).sum()

    for sign in (1, -1):
        free = polynomials.field(coefficients, polynomials.warped(moves))
        held = multiplied(images, bias_field.bounded(free, 0.3))
        slopes = torch.autograd.grad(sign * victim.loss(held, torch.tensor([2])).sum(), variables, retain_graph=True)
        outwards = float((slopes[0] * coefficients.detach()).sum())
        found = bias_field._along_bound(slopes, variables, free, 0.3)
        if outwards <= 0:
            assert all(torch.equal(one, other) for one, other in zip(found, slopes, strict=True))
            continue
        for slope, variable in zip(found, variables, strict=True):
            for place in range(variable.numel()):
                push = torch.zeros(variable.numel(), dtype=torch.float64)
                push[place] = 1e-6
                ends = [
                    climbed(*(v.detach() + step * push.view_as(v) if v is variable else v.detach() for v in variables))
                    for step in (1, -1)
                ]
                difference = sign * float(ends[0] - ends[1]) / 2e-6
                assert float(slope.flatten()[place]) == pytest.approx(difference, rel=1e-3, abs=1e-7)


def test_a_penalty_counts_the_coefficients_of_the_bounded_field(conv_net: Any) -> None:
    """B = a X on -1 and 1 with x = 0.5, weights 0 and 1: dJ/da = x e^B, and the penalty has the slope lambda.

    The bound of 0.006 takes a tenth of a = 0.06, so that both slopes are a tenth: 0.503 against lambda, whose size the
    scale does not change. The larger penalty takes a back to 0; of the smaller one nothing is left along the bound.
    """
    for penalty, expected in ((0.4, 0.006), (0.6, 0.0)):
        attack = AdvSBF(
            **{"degree": 1, "lowest_degree": 0, "gridsize": 2, "max_stops": 0.006 / STOP, "steps": 2},
            objective=Cells([[0.0, 0.0], [0.0, 1.0]]),
            **{"penalty_coefficients": penalty, "penalty_warp": 1e6},
        )
        attacked = attack(flat_victim(4), torch.full((1, 1, 2, 2), 0.5), torch.tensor([0]))
        largest = float(attacked.measures["field_largest"])
        assert largest == pytest.approx(expected, abs=1e-6)


def test_pieces_of_a_bounded_field_give_what_the_whole_gives(conv_net: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    images = images_between(0.1, 0.9, 5, 3, 20, 13, dtype=torch.float64)
    victim, targets, attack = as_victim(conv_net().double()), torch.arange(5) % 3, AdvSBF(steps=6, max_stops=0.5)
    whole = attack(victim, images, targets)
    monkeypatch.setattr(bias_field, "PIXELS_AT_ONCE", 37)
    monkeypatch.setattr(bias_field, "IMAGES_AT_ONCE", 2)
    pieces = attack(victim, images, targets)
    torch.testing.assert_close(pieces.pictures["bias_field"], whole.pictures["bias_field"], atol=1e-12, rtol=0)
    assert attack(victim, images[:0], targets[:0]).images.shape == (0, 3, 20, 13)


def test_a_bounded_field_does_not_depend_on_batch_mates(conv_net: Any) -> None:
    victim, images, targets = as_victim(conv_net()), images_between(0, 1, 6, 3, 14, 20), torch.arange(6) % 3
    attack = AdvSBF(max_stops=0.5)
    together = attack(victim, images, targets)
    for rows in (slice(0, 1), slice(1, 6)):
        apart = attack(victim, images[rows], targets[rows])
        torch.testing.assert_close(apart.images, together.images[rows], atol=1e-5, rtol=0)


def test_defaults_are_the_papers_but_for_the_warps_step_and_the_margin() -> None:
    attack = AdvSBF()
    assert (attack.degree, attack.lowest_degree, attack.gridsize, attack.steps) == (10, 1, 16, 10)
    assert (attack.step_size_coefficients, attack.step_size_warp) == (0.06, 0.02)
    assert (attack.penalty_coefficients, attack.penalty_warp) == (0.01, 0.01)
    assert attack.raised() == Margin(math.inf)
    assert AdvSBF(objective=CrossEntropy()).raised() == CrossEntropy()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"lowest_degree": 6}, r"lowest_degree lies in \[0, degree / 2\], or no term is left, got 6 for degree 10"),
        ({"lowest_degree": -1}, "got -1 for degree 10"),
        ({"degree": 1}, "got 1 for degree 1"),
        ({"degree": -2, "lowest_degree": 0}, "got 0 for degree -2"),
        ({"gridsize": 1}, "gridsize counts control points per side and is at least 2, got 1"),
        ({"steps": 0}, "steps counts gradient steps"),
        ({"step_size_coefficients": 0.0}, "step_size_coefficients is in units of the natural logarithm of an image"),
        ({"step_size_warp": math.nan}, "step_size_warp is in units of coordinates that run from -1 to 1"),
        ({"penalty_coefficients": -0.1}, "penalty_coefficients weighs .* not negative, got -0.1"),
        ({"penalty_warp": math.inf}, "penalty_warp weighs .* finite .* got inf"),
        ({"penalty_warp": math.nan}, "penalty_warp"),
        ({"max_stops": 0}, "max_stops bounds the change in photographic stops and is positive, got 0"),
        ({"max_stops": math.inf}, "max_stops .* got inf"),
        ({"max_stops": math.nan}, "max_stops .* got nan"),
    ],
)
def test_a_field_out_of_range_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdvSBF(**fields)

"""The sign-gradient family against closed forms: on a linear victim the best perturbation is a corner of the ball."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from medrobust.attacks import BIM, DIM, FGSM, MIM, PGD, SMIA, TIM, CWLinf, LogDomain, SignGradient, UniformNoise
from medrobust.networks import as_victim
from medrobust.objectives import CrossEntropy, Margin
from medrobust.objectives.base import Objective, Step
from medrobust.objectives.stabilization import gaussian_kernel
from medrobust.random_streams import per_image_uniform
from tests.attacks.dense_cases import dense_case

EPSILON = 0.1
FAMILY = [
    FGSM(epsilon=EPSILON),
    BIM(epsilon=EPSILON),
    BIM(epsilon=EPSILON, steps=3),
    PGD(epsilon=EPSILON),
    CWLinf(epsilon=EPSILON, kappa=1e6),
    MIM(epsilon=EPSILON),
    SignGradient(epsilon=EPSILON, random_start=True, step_size=0.05, steps=4, momentum=0.5, objective=Margin(1e6)),
]
SMOOTH = [
    DIM(epsilon=EPSILON, diversity=0.9, smallest_side=0.8),
    TIM(epsilon=EPSILON),
    TIM(epsilon=EPSILON, smoothing=15),
]
ALL = [*FAMILY, *SMOOTH, LogDomain(epsilon=EPSILON)]


def name(value: Any) -> str:
    return f"{type(value).__name__}-{value.steps}"


def rounding(images: Tensor, steps: int) -> float:
    """Each step rounds a number of at most 1 once."""
    return 2e-7 + 6e-8 * steps


@pytest.mark.parametrize("targeted", [False, True], ids=["untargeted", "targeted"])
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("channels", [1, 3], ids=["grey", "colour"])
@pytest.mark.parametrize("attack", FAMILY, ids=name)
def test_the_corner_of_the_ball_is_reached(
    attack: SignGradient, channels: int, classes: int, targeted: bool, linear: Any, images_of: Any
) -> None:
    victim, images = linear(channels, classes), images_of(6, channels)
    targets = torch.arange(6) % classes
    direction = victim.uphill(targets) * (-1 if targeted else 1)

    attacked = dataclasses.replace(attack, targeted=targeted)(victim, images, targets)

    expected = (images + EPSILON * direction).clamp(0, 1)
    torch.testing.assert_close(attacked.images, expected, atol=rounding(images, attack.steps), rtol=0)
    wrong = victim(expected).argmax(1) != targets
    assert torch.equal(attacked.success, ~wrong if targeted else wrong)
    assert attacked.forwards.tolist() == [attack.steps + 1] * 6
    assert attacked.backwards.tolist() == [attack.steps] * 6
    assert attacked.zero_gradients.tolist() == [0] * 6


@pytest.mark.parametrize("targeted", [False, True], ids=["untargeted", "targeted"])
@pytest.mark.parametrize("attack", [*SMOOTH, *FAMILY[:1]], ids=name)
def test_smoothing_and_diversity_reach_the_corner_where_all_weights_have_one_sign(
    attack: SignGradient, targeted: bool, linear: Any, images_of: Any
) -> None:
    """Both mix gradients of neighbouring pixels with weights that are not negative."""
    victim, images = linear(3, 2, constant_sign=True), images_of(6, 3)
    targets = torch.arange(6) % 2
    direction = victim.uphill(targets) * (-1 if targeted else 1)
    attacked = dataclasses.replace(attack, targeted=targeted)(victim, images, targets)
    torch.testing.assert_close(attacked.images, (images + EPSILON * direction).clamp(0, 1), atol=1e-6, rtol=0)


@pytest.mark.parametrize("targeted", [False, True], ids=["untargeted", "targeted"])
@pytest.mark.parametrize("random_start", [False, True], ids=["from the image", "random start"])
@pytest.mark.parametrize("momentum", [0.0, 1.0])
def test_the_log_domain_reaches_its_own_corner(
    momentum: float, random_start: bool, targeted: bool, linear: Any, images_of: Any
) -> None:
    """x exp(eps sign w), clipped: dark pixels move less, black ones not at all, and white ones can turn darker."""
    victim, images = linear(3, 3), images_of(6, 3)
    targets = torch.arange(6) % 3
    direction = victim.uphill(targets) * (-1 if targeted else 1)
    attack = LogDomain(
        epsilon=EPSILON, steps=10, step_size=0.02, random_start=random_start, momentum=momentum, targeted=targeted
    )
    attacked = attack(victim, images, targets)
    expected = (images * (EPSILON * direction).exp()).clamp(0, 1)
    torch.testing.assert_close(attacked.images, expected, atol=2e-6, rtol=0)


def test_a_white_pixel_of_the_log_domain_can_come_back_from_the_wrong_side() -> None:
    """One step up, four down: B = 0.1, 0, -0.1, -0.2, -0.2. The clip at 1 must not hide the slope meanwhile."""

    class Uphill(Objective):
        def __call__(self, step: Step) -> Tensor:
            sign = 1.0 if step.index == 0 else -1.0
            return sign * step.images.sum((1, 2, 3)) + 0 * step.outputs.sum(1)

    victim = as_victim(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2)))
    attack = LogDomain(epsilon=0.2, steps=5, step_size=0.1, objective=Uphill())
    attacked = attack(victim, torch.ones(1, 1, 2, 2), torch.tensor([0]))
    torch.testing.assert_close(attacked.images, torch.full((1, 1, 2, 2), -0.2).exp())


@pytest.mark.parametrize(
    ("attack", "length", "steps"),
    [
        (SignGradient(epsilon=0.06), 0.006, 10),
        (FGSM(epsilon=0.06), 0.06, 1),
        (BIM(epsilon=0.06), 0.0015, 40),
        (BIM(epsilon=0.06, steps=10), 0.006, 10),
        (PGD(epsilon=0.06), 0.006, 20),
        (PGD(epsilon=0.06, steps=7), 0.006, 7),
        (CWLinf(epsilon=0.06), 0.006, 20),
        (MIM(epsilon=0.06), 0.006, 10),
        (DIM(epsilon=0.06), 0.006, 10),
        (TIM(epsilon=0.06, steps=5), 0.012, 5),
        (LogDomain(epsilon=0.06), 0.006, 10),
    ],
)
def test_without_a_step_size_each_method_follows_its_papers_rule(
    attack: SignGradient, length: float, steps: int, linear: Any
) -> None:
    assert attack.steps == steps
    assert attack.step_length() == pytest.approx(length)
    assert dataclasses.replace(attack, step_size=0.01).step_length() == 0.01
    if not attack.random_start and attack.domain == "pixel" and not isinstance(attack, FGSM):
        one = dataclasses.replace(attack, steps=1, step_size=length)
        victim, images = linear(constant_sign=True), torch.full((1, 1, 8, 8), 0.5)
        objective = Margin(1e6)
        moved = dataclasses.replace(one, objective=objective)(victim, images, torch.tensor([0])).images
        torch.testing.assert_close(moved, images + length)


@pytest.mark.parametrize(
    ("attack", "settings"),
    [
        (PGD(), {"random_start": True}),
        (BIM(), {"random_start": False, "momentum": 0.0}),
        (MIM(), {"momentum": 1.0}),
        (DIM(), {"momentum": 1.0, "diversity": 0.5, "smallest_side": 0.9}),
        (TIM(), {"momentum": 1.0, "smoothing": 7}),
        (CWLinf(), {"kappa": 0.0, "random_start": False}),
        (LogDomain(), {"domain": "log"}),
    ],
)
def test_defaults_are_the_papers(attack: Any, settings: dict[str, Any]) -> None:
    assert {field: getattr(attack, field) for field in settings} == settings


def test_one_full_step_without_random_start_is_fgsm(conv_net: Any, images_of: Any) -> None:
    victim, images, targets = as_victim(conv_net()), images_of(6, 3), torch.arange(6) % 3
    fgsm = FGSM(epsilon=0.05)(victim, images, targets).images
    for attack in (SignGradient(epsilon=0.05, steps=1, step_size=0.05), PGD(epsilon=0.05, steps=1, step_size=0.05)):
        step = dataclasses.replace(attack, random_start=False)
        assert torch.equal(step(victim, images, targets).images, fgsm)
    assert not torch.equal(fgsm, images)


@pytest.mark.parametrize("attack", [*ALL, UniformNoise(epsilon=EPSILON)], ids=lambda a: type(a).__name__)
def test_the_budget_is_never_exceeded(attack: Any, conv_net: Any, images_of: Any) -> None:
    images = images_of(8, 3, 3)
    made = attack(as_victim(conv_net()), images, torch.arange(8) % 3).images
    assert float(made.min()) >= 0
    assert float(made.max()) <= 1
    if getattr(attack, "domain", "pixel") == "log":
        assert bool((made <= images * (1 + 1e-6) * torch.tensor(EPSILON).exp()).all())
        assert bool(
            (made >= torch.minimum(images * (1 - 1e-6) * torch.tensor(-EPSILON).exp(), made.new_ones(()))).all()
        )
    else:
        assert float((made - images).abs().max()) <= EPSILON + 1e-6
    assert not torch.equal(made, images)


@pytest.mark.parametrize("step_size", [0.04, 1.0], ids=["overshooting", "huge"])
@pytest.mark.parametrize("attack", [BIM, PGD, MIM, DIM, TIM, CWLinf], ids=lambda a: a.__name__)
def test_a_large_step_is_projected_back(attack: Any, step_size: float, conv_net: Any, images_of: Any) -> None:
    images = images_of(4, 3)
    made = attack(epsilon=0.01, step_size=step_size)(as_victim(conv_net()), images, torch.arange(4) % 3).images
    assert float((made - images).abs().max()) <= 0.01 + 1e-6
    assert 0 <= float(made.min()) <= float(made.max()) <= 1


@pytest.mark.parametrize("shift", [-20.0, -1000.0, 1000.0])
@pytest.mark.parametrize(
    "attack", [FGSM(epsilon=0.4), PGD(epsilon=0.4), CWLinf(epsilon=0.4), MIM(epsilon=0.4)], ids=name
)
def test_a_shift_of_all_logits_saves_no_victim(attack: SignGradient, shift: float, linear: Any, images_of: Any) -> None:
    images = images_of(6)
    plain, shifted = linear(classes=3), linear(classes=3, shift=shift)
    targets = plain(images).argmax(1)
    assert bool(attack(shifted, images, targets).success.all())
    assert torch.equal(attack(shifted, images, targets).success, attack(plain, images, targets).success)


@pytest.mark.parametrize("attack", [FGSM(epsilon=0.4), BIM(epsilon=0.4), MIM(epsilon=0.4), DIM(epsilon=0.4)], ids=name)
def test_a_saturated_victim_is_broken_and_its_lost_gradients_are_reported(
    attack: SignGradient, linear: Any, images_of: Any
) -> None:
    images, victim = images_of(6), linear(scale=1e4, constant_sign=True)
    targets = victim(images).argmax(1)
    attacked = attack(victim, images, targets)
    assert bool(attacked.success.all())
    assert bool((attacked.zero_gradients >= 1).all())
    assert bool((attacked.zero_gradients <= attacked.backwards).all())


def test_keeping_the_saturated_cross_entropy_stalls_and_says_so(linear: Any, images_of: Any) -> None:
    images, victim = images_of(6), linear(scale=1e4)
    targets = victim(images).argmax(1)
    logits = victim(images).detach()
    assert float((logits[:, 1] - logits[:, 0]).abs().min()) > 200  # exp(-200) is 0 in float32
    attacked = BIM(epsilon=0.4, steps=5, objective=CrossEntropy(saturated="keep"))(victim, images, targets)
    assert torch.equal(attacked.images, images)
    assert attacked.zero_gradients.tolist() == [5] * 6
    assert not attacked.success.any()


def test_a_saturated_network_is_as_weak_as_the_same_network_with_small_logits(conv_net: Any, images_of: Any) -> None:
    images = images_of(8, 3, 1)
    plain, saturated = as_victim(conv_net()), as_victim(conv_net(scale=1e4))
    with torch.no_grad():
        targets = plain.eval()(images).argmax(1)
    for attack in (PGD(epsilon=0.3), MIM(epsilon=0.3), CWLinf(epsilon=0.3)):
        weak, strong = attack(plain, images, targets), attack(saturated, images, targets)
        assert bool(weak.success.any())
        assert int(strong.success.sum()) >= int(weak.success.sum())
    kept = PGD(epsilon=0.3, objective=CrossEntropy(saturated="keep"))(saturated, images, targets)
    assert bool(kept.zero_gradients.any())


@pytest.mark.parametrize("attack", [CWLinf(), CWLinf(kappa=1.0), BIM(), FGSM()], ids=name)
def test_an_image_on_the_boundary_is_pushed_over_it(attack: SignGradient, linear: Any) -> None:
    """All logits are equal at x = 1/2 and the first class is taken: not fooled yet, so the margin must not be flat."""
    victim, images = linear(), torch.full((2, 1, 8, 8), 0.5)
    assert victim(images).detach().unique().tolist() == [0.0]
    attacked = attack(victim, images, torch.tensor([0, 0]))
    assert attacked.success.tolist() == [True, True]
    assert attacked.zero_gradients.tolist() == [0, 0]


def test_a_gradient_that_vanishes_because_the_victim_is_fooled_is_not_reported(linear: Any, images_of: Any) -> None:
    """With kappa 0 the margin is flat from the first success on, and the images stay where they are."""
    victim, images = linear(constant_sign=True), images_of(6)
    attacked = CWLinf(epsilon=0.4)(victim, images, victim(images).argmax(1))
    assert bool(attacked.success.all())
    assert float((attacked.images - images).abs().max()) < 0.4 - 0.04
    assert attacked.zero_gradients.tolist() == [0] * 6


def test_momentum_survives_steps_without_a_gradient(linear: Any) -> None:
    """Once the margin is reached its gradient is zero and 0/0 must not spread."""
    victim, images = linear(constant_sign=True), torch.full((2, 1, 8, 8), 0.5)
    dead = as_victim(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2)))
    torch.nn.init.zeros_(dead.network[1].weight)
    for attack in (MIM(), DIM(), TIM(), MIM(objective=Margin())):
        attacked = attack(dead, images, torch.tensor([0, 1]))
        assert torch.equal(attacked.images, images)
        assert bool(attack(victim, images, torch.tensor([0, 1])).images.isfinite().all())
    bias_wins = dead.network[1].bias.detach().argmax()
    attacked = MIM()(dead, images, torch.full((2,), int(bias_wins)))
    assert attacked.zero_gradients.tolist() == [10, 10]


@pytest.mark.parametrize("momentum", [0.0, 1.0])
def test_a_gradient_that_is_not_a_number_leaves_a_valid_image(momentum: float) -> None:
    """The square root has an infinite slope at 0, and 0 * inf is no number: the result must stay inside [0, 1]."""

    class Rooted(torch.nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            score = images.square().sum((1, 2, 3)).sqrt()
            return torch.stack([score, 0.5 - score], 1)

    images = torch.zeros(2, 1, 2, 2)
    images[1] = 0.5
    attacked = SignGradient(momentum=momentum)(as_victim(Rooted()), images, torch.tensor([1, 0]))
    assert bool(attacked.images.isfinite().all())
    assert float((attacked.images - images).abs().max()) <= 8 / 255 + 1e-6


def test_momentum_divides_each_images_gradient_by_its_own_l1_norm(linear: Any) -> None:
    """mu = 1 and gradients g, then -g / 100: the velocity is g/|g| - g/|g| = 0, so the second step moves nothing."""

    class Turning(Objective):
        def __call__(self, step: Step) -> Tensor:
            weight = 1.0 if step.index == 0 else -0.01
            return weight * step.outputs[:, 1]

    victim, images = linear(), torch.full((2, 1, 8, 8), 0.5)
    sign = victim.weight.detach().sign()
    one = MIM(epsilon=0.1, step_size=0.02, steps=2, objective=Turning(), momentum=0.5)(
        victim, images, torch.zeros(2).long()
    )
    torch.testing.assert_close(one.images, images)  # 0.5 - 1 < 0: back again
    two = MIM(epsilon=0.1, step_size=0.02, steps=2, objective=Turning(), momentum=2.0)(
        victim, images, torch.zeros(2).long()
    )
    torch.testing.assert_close(two.images, images + 0.04 * sign)  # 2 - 1 > 0: on


@pytest.mark.parametrize(("side", "deviations"), [(7, 3.0), (15, 3.0), (5, 2.0), (1, 3.0)])
def test_the_smoothing_kernel_is_dongs(side: int, deviations: float) -> None:
    """Normal density at linspace(-3, 3, k), outer product, divided by its sum."""
    stats = pytest.importorskip("scipy.stats")
    import numpy as np

    line = stats.norm.pdf(np.linspace(-deviations, deviations, side)) if side > 1 else np.ones(1)
    kernel = np.outer(line, line) / np.outer(line, line).sum()
    images = torch.zeros(1, 2, 31, 31)

    class Impulse(Objective):
        def __call__(self, step: Step) -> Tensor:
            return step.images[:, 0, 15, 15] + 0 * step.outputs[:, 0]

    attack = TIM(smoothing=side, smoothing_deviations=deviations, steps=1, objective=Impulse())
    if side > 1:
        made = gaussian_kernel(side, side // 2 / deviations, images.device, torch.float32)
        np.testing.assert_allclose(made.double().numpy(), kernel, atol=1e-7)
    victim = as_victim(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2 * 31 * 31, 2)))
    moved = attack(victim, images, torch.tensor([0])).images > 0
    half = side // 2
    assert int(moved.sum()) == side * side
    assert bool(moved[0, 0, 15 - half : 16 + half, 15 - half : 16 + half].all())


def test_the_kernel_is_made_once_for_all_steps_and_batches(linear: Any, images_of: Any) -> None:
    gaussian_kernel.cache_clear()
    attack, victim = TIM(steps=3, smoothing=5), linear()
    for seed in (0, 1):
        with torch.inference_mode():  # as in Lightning's test loop; what is kept must serve gradients later
            attack(victim, images_of(2, 1, seed), torch.tensor([0, 1]))
    assert gaussian_kernel.cache_info().misses == 1
    SMIA(steps=4, kernel=5, sigma=2 / 3)(victim, images_of(2), torch.tensor([0, 1]))
    assert gaussian_kernel.cache_info().misses == 1  # SMIA's steps take the same one
    assert not gaussian_kernel(5, 2 / 3, torch.device("cpu"), torch.float32).is_inference()


def test_smoothing_averages_the_gradient_before_its_sign_is_taken(linear: Any, images_of: Any) -> None:
    """On a linear victim the gradient is a multiple of w: scipy's convolution of w with the kernel gives the sign."""
    ndimage = pytest.importorskip("scipy.ndimage")
    victim, images = linear(3, 2), torch.full((2, 3, 8, 8), 0.5)
    attack = TIM(epsilon=EPSILON)
    kernel = gaussian_kernel(7, 1.0, images.device, torch.float64).numpy()
    weight = victim.weight.detach().double().numpy()
    smooth = torch.stack([torch.from_numpy(ndimage.convolve(w, kernel, mode="constant")) for w in weight])
    made = attack(victim, images, torch.tensor([0, 1])).images
    signs = torch.tensor([1.0, -1.0]).view(-1, 1, 1, 1) * smooth.sign()
    assert not torch.equal(smooth.sign(), victim.weight.detach().double().sign())
    torch.testing.assert_close(made, (images + EPSILON * signs).float(), atol=1e-6, rtol=0)


def test_the_same_image_starts_at_the_same_point_in_any_batch_and_order(linear: Any) -> None:
    """With a tiny step the result shows the start."""
    victim, images = linear(), torch.full((3, 1, 8, 8), 0.5)
    targets = torch.tensor([0, 1, 0])
    attack = PGD(epsilon=0.1, steps=1, step_size=1e-7)
    together = attack(victim, images, targets, ["a", "b", "c"]).images
    turned = attack(victim, images[:2], targets[[2, 0]], ["c", "a"]).images
    torch.testing.assert_close(turned, together[[2, 0]], atol=3e-7, rtol=0)

    def start(attack: SignGradient, id: str) -> Tensor:
        return attack(victim, images[:1], targets[:1], [id]).images

    different = [
        start(attack, "a"),
        start(attack, "b"),
        start(dataclasses.replace(attack, seed=1), "a"),
        start(SignGradient(epsilon=0.1, steps=1, step_size=1e-7, random_start=True), "a"),
    ]
    for i, one in enumerate(different):
        for other in different[:i]:
            assert float((one - other).abs().max()) > 0.01


def test_the_random_start_fills_the_ball_evenly(linear: Any) -> None:
    """Uniform in [-eps, eps]: mean 0 with standard error eps / sqrt(3 n), mean square eps^2 / 3."""
    images = torch.full((64, 1, 8, 8), 0.5)
    attack = PGD(epsilon=0.1, steps=1, step_size=1e-7)
    moved = (
        attack(linear(), images, torch.zeros(64).long(), [str(place) for place in range(64)]).images - images
    ).double()
    assert abs(float(moved.mean())) < 5 * 0.1 / (3 * 4096) ** 0.5
    assert float(moved.square().mean()) == pytest.approx(0.01 / 3, rel=0.05)
    assert 0.099 < float(moved.abs().max()) <= 0.1 + 1e-6


def test_uniform_noise_is_uniform_and_costs_one_look(linear: Any) -> None:
    images = torch.full((100, 1, 8, 8), 0.5)
    images[0] = 0.0
    attacked = UniformNoise(epsilon=0.1)(
        linear(), images, torch.zeros(100).long(), [str(place) for place in range(100)]
    )
    moved = (attacked.images - images).double()[1:]
    assert abs(float(moved.mean())) < 5 * 0.1 / (3 * 6336) ** 0.5
    assert float(moved.square().mean()) == pytest.approx(0.01 / 3, rel=0.05)
    assert 0.0999 < float(moved.abs().max()) <= 0.1 + 1e-6
    assert 0.3 < float((attacked.images[0] == 0).double().mean()) < 0.7  # half of it would be below black
    assert attacked.forwards.tolist() == [1] * 100
    assert attacked.backwards.tolist() == [0] * 100
    assert attacked.zero_gradients.tolist() == [0] * 100


def test_already_fooled_images_come_back_unchanged_and_cost_one_look(linear: Any, images_of: Any) -> None:
    victim, images = linear(), images_of(6)
    right = victim(images).argmax(1)
    targets = torch.where(torch.arange(6) < 3, 1 - right, right)
    attacked = BIM(epsilon=0.2, stop_when_fooled=True)(victim, images, targets)
    assert torch.equal(attacked.images[:3], images[:3])
    assert attacked.forwards[:3].tolist() == [2] * 3  # found at the first look, judged at the last
    assert bool(attacked.success[:3].all())
    assert not torch.equal(attacked.images[3:], images[3:])
    aimed = BIM(epsilon=0.2, stop_when_fooled=True, targeted=True)(victim, images, 1 - targets)
    assert torch.equal(aimed.images[:3], images[:3])


def test_stopping_ends_at_the_first_step_that_fools(linear: Any) -> None:
    """The gap starts at 2 <w, x - 1/2> and falls by 2 * 4 * alpha per step (|w|_1 = 4): gap 1 needs 7 steps of 0.02."""
    victim = linear(constant_sign=True)
    images = torch.full((2, 1, 8, 8), 0.5) + torch.tensor([0.125, 0.04]).view(-1, 1, 1, 1)
    attack = BIM(epsilon=0.2, steps=10, stop_when_fooled=True)
    attacked = attack(victim, images, torch.tensor([1, 1]))
    moved = (images - attacked.images).amax((1, 2, 3))
    assert (moved / 0.02).round().long().tolist() == [7, 3]  # 0.04 / 0.02 = 2 steps would end at a tie or just above
    assert bool(attacked.success.all())


DENSE = [
    FGSM(epsilon=EPSILON),
    BIM(epsilon=EPSILON, steps=8),
    PGD(epsilon=EPSILON),
    CWLinf(epsilon=EPSILON, kappa=1e6),
    MIM(epsilon=EPSILON),
    DIM(epsilon=EPSILON, smallest_side=0.6),  # 0.9 of 8 pixels would be 8
    TIM(epsilon=EPSILON),
    LogDomain(epsilon=EPSILON),
]


@pytest.mark.parametrize("targeted", [False, True], ids=["untargeted", "targeted"])
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("attack", DENSE[:5], ids=name)
def test_each_labelled_pixel_of_a_mask_reaches_its_corner(
    attack: SignGradient, classes: int, targeted: bool, segmenter: Any, images_of: Any
) -> None:
    """Pixels are independent, so each goes to its own corner; ignored ones (-1) stay where they started."""
    victim, images = segmenter(3, classes), images_of(4, 3)
    masks = torch.randint(-1, classes, (4, 8, 8), generator=torch.Generator().manual_seed(6))
    if classes == 3:  # class 1 goes towards class 2 only where class 0 is far behind
        masks[masks == 1] = 2
    direction = victim.uphill(masks) * (-1 if targeted else 1)
    attacked = dataclasses.replace(attack, targeted=targeted)(victim, images, masks)
    expected = (images + EPSILON * direction).clamp(0, 1)
    labelled = (masks >= 0)[:, None].expand_as(images)
    torch.testing.assert_close(
        attacked.images[labelled], expected[labelled], atol=rounding(images, attack.steps), rtol=0
    )
    if not attack.random_start:
        assert torch.equal(attacked.images[~labelled], images[~labelled])


@pytest.mark.parametrize("stop", [False, True], ids=["full budget", "stop when fooled"])
@pytest.mark.parametrize("targeted", [False, True], ids=["untargeted", "targeted"])
@pytest.mark.parametrize("task", ["masks", "boxes"])
@pytest.mark.parametrize("attack", DENSE, ids=name)
def test_dense_victims_are_pushed_in_the_right_direction(
    attack: SignGradient, task: str, targeted: bool, stop: bool, request: pytest.FixtureRequest
) -> None:
    victim, images, targets = dense_case(task, 3, request)
    configured = dataclasses.replace(attack, targeted=targeted, stop_when_fooled=stop)
    attacked = configured(victim, images, targets)
    before, after = victim.loss(images, targets).detach(), victim.loss(attacked.images, targets).detach()
    gain = (before - after) if targeted else (after - before)
    started = configured.reached(victim, victim(images), targets)
    assert bool((gain[~started] > 1e-3).all())
    assert bool(started.any())
    assert bool((~started).any())
    assert int(attacked.success.sum()) >= int(started.sum())
    if stop and not attack.random_start:
        assert torch.equal(attacked.images[started], images[started])
    if not stop:
        assert bool((gain > -1e-6).all())


@pytest.mark.parametrize("targeted", [False, True], ids=["untargeted", "targeted"])
@pytest.mark.parametrize("attack", [DENSE[0], DENSE[1], DENSE[4]], ids=name)
def test_pixels_inside_the_boxes_reach_the_corner_and_others_stay(
    attack: SignGradient, targeted: bool, box_victim: Any, images_of: Any, boxes_of: Any
) -> None:
    victim, images, boxes = box_victim(3), images_of(4, 3), boxes_of(4)
    attacked = dataclasses.replace(attack, targeted=targeted)(victim, images, boxes)
    inside = torch.zeros(4, 1, 8, 8)
    inside[:, :, 1:5, 0:4] = 1
    inside[1::2, :, 2:8, 4:8] = 1
    sign = torch.tensor([1.0, -1.0, 1.0]).view(1, 3, 1, 1) * (1 if targeted else -1)
    torch.testing.assert_close(attacked.images, (images + EPSILON * sign * inside).clamp(0, 1), atol=2e-6, rtol=0)


@pytest.mark.parametrize("targeted", [False, True], ids=["untargeted", "targeted"])
@pytest.mark.parametrize("task", ["classes", "masks", "boxes"])
@pytest.mark.parametrize("attack", DENSE, ids=name)
def test_stopping_fools_the_same_images_and_costs_at_most_one_pass_more_a_step(
    attack: SignGradient, task: str, targeted: bool, request: pytest.FixtureRequest
) -> None:
    victim, images, targets = dense_case(task, 3, request)
    full = dataclasses.replace(attack, targeted=targeted)(victim, images, targets)
    stopped = dataclasses.replace(attack, targeted=targeted, stop_when_fooled=True)(victim, images, targets)
    if not attack.diversity and not attack.momentum and task != "boxes":
        assert torch.equal(stopped.success, full.success)
    assert bool((stopped.success | ~full.success).all())
    assert bool((stopped.forwards <= full.forwards + attack.steps).all())
    assert bool((stopped.backwards <= full.backwards).all())
    never = ~stopped.success & ~full.success
    torch.testing.assert_close(stopped.images[never], full.images[never], atol=1e-5, rtol=0)


@pytest.mark.parametrize("stop", [False, True], ids=["full budget", "stop when fooled"])
@pytest.mark.parametrize("task", ["classes", "masks", "boxes"])
@pytest.mark.parametrize("attack", DENSE, ids=name)
def test_passes_are_counted_as_an_independent_counter_sees_them(
    attack: SignGradient, task: str, stop: bool, counting: Any, request: pytest.FixtureRequest
) -> None:
    """Channel 0 names the image, in steps of 0.14, further apart than any attack may move it."""
    victim, images, targets = dense_case(task, 3, request, tagged=True)
    tags = 0.01 + 0.14 * torch.arange(8)
    images[:, 0] = tags.view(-1, 1, 1)
    configured = dataclasses.replace(attack, epsilon=0.05, stop_when_fooled=stop)
    ids = [f"image {i}" for i in range(8)]
    counter = counting(victim, tags)
    for i in range(8):  # an image's passes are those that it costs in a batch of its own
        configured(counter, images[i : i + 1], targets[i : i + 1], ids[i : i + 1])
    attacked = configured(victim, images, targets, ids)
    assert attacked.forwards.tolist() == [counter.seen[i] for i in range(8)]
    assert attacked.backwards.tolist() == [counter.differentiated[i] for i in range(8)]
    if not stop:
        assert attacked.backwards.tolist() == [attack.steps] * 8
        assert attacked.forwards.tolist() == [attack.steps + 1] * 8


@pytest.mark.parametrize("stop", [False, True], ids=["full budget", "stop when fooled"])
@pytest.mark.parametrize("task", ["classes", "masks", "boxes"])
@pytest.mark.parametrize("attack", DENSE, ids=name)
def test_dense_images_do_not_depend_on_their_batch_mates(
    attack: SignGradient, task: str, stop: bool, request: pytest.FixtureRequest
) -> None:
    victim, images, targets = dense_case(task, 3, request)
    configured = dataclasses.replace(attack, stop_when_fooled=stop)
    ids = [f"image {i}" for i in range(8)]
    together = configured(victim, images, targets, ids)
    for rows in (slice(0, 1), slice(1, 3), slice(3, 8)):  # alone, or with fewer of the others
        apart = configured(victim, images[rows], targets[rows], ids[rows])
        torch.testing.assert_close(apart.images, together.images[rows], atol=1e-5, rtol=0)
        for name in ("success", "forwards", "backwards"):
            assert torch.equal(getattr(apart, name), getattr(together, name)[rows])


def test_restarts_of_pgd_leave_what_they_broke_and_keep_the_best(conv_net: Any, images_of: Any) -> None:
    victim, images = as_victim(conv_net()), images_of(12, 3, 1)
    with torch.no_grad():
        targets = victim.eval()(images).argmax(1)
    ids = [f"image {i}" for i in range(12)]
    once, again = (PGD(epsilon=0.012, steps=4, restarts=restarts) for restarts in (1, 4))
    first, best = once(victim, images, targets, ids), again(victim, images, targets, ids)
    runs = [PGD(epsilon=0.012, steps=4, seed=1_000_003 * run)(victim, images, targets, ids) for run in range(4)]
    assert torch.equal(runs[0].images, first.images)
    broken = torch.stack([run.success for run in runs])
    assert torch.equal(best.success, broken.any(0))
    margins = []
    for run in runs:
        outputs = victim(run.images).detach()
        rivals = outputs.scatter(1, targets[:, None], -torch.inf).amax(1)
        margins.append(rivals - outputs.gather(1, targets[:, None]).squeeze(1))
    for i in range(12):
        chosen = int(broken[:, i].int().argmax()) if broken[:, i].any() else int(torch.stack(margins)[:, i].argmax())
        torch.testing.assert_close(best.images[i], runs[chosen].images[i])
        made = int(broken[:, i].int().argmax()) + 1 if broken[:, i].any() else 4
        assert (int(best.backwards[i]), int(best.forwards[i])) == (4 * made, 5 * made + 1)
        alone = again(victim, images[i : i + 1], targets[i : i + 1], ids[i : i + 1])
        torch.testing.assert_close(alone.images[0], best.images[i], atol=1e-5, rtol=0)
    assert set(best.measures) == set(first.measures)


def test_one_restart_of_pgd_is_pgd(conv_net: Any, images_of: Any) -> None:
    victim, images = as_victim(conv_net()), images_of(4, 3, 1)
    targets, settings = torch.arange(4) % 3, {"epsilon": 0.02, "steps": 5, "step_size": 0.002, "random_start": True}
    ids = [str(i) for i in range(4)]
    plain = PGD(**settings, restarts=1)(victim, images, targets, ids)  # type: ignore[arg-type]
    assert plain.forwards.tolist() == [6] * 4
    assert plain.backwards.tolist() == [5] * 4
    noise = per_image_uniform(ids, images.shape[1:], 0, "PGD", images)
    start = (images + 0.02 * noise).clamp(images - 0.02, images + 0.02).clamp(0, 1)
    walked = SignGradient(epsilon=1.0, steps=5, step_size=0.002)
    low, high = (images - 0.02).clamp(min=0), (images + 0.02).clamp(max=1)
    for _ in range(5):
        start = dataclasses.replace(walked, steps=1)(victim, start, targets).images.clamp(low, high)
    torch.testing.assert_close(plain.images, start, atol=1e-6, rtol=0)


def test_restarts_without_a_random_start_are_refused() -> None:
    with pytest.raises(ValueError, match="3 restarts without a random start would all be the same"):
        PGD(restarts=3, random_start=False)
    with pytest.raises(ValueError, match="restarts counts runs and is a whole number of at least 1, got 0"):
        PGD(restarts=0)

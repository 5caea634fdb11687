"""Basin hopping against its closed forms: a corner of the ball, and a hilly objective that only kicks get through."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medrobust.attacks import BasinHopping, UniformNoise, WorstCase
from medrobust.networks import Outcome, as_victim
from medrobust.objectives import Margin
from tests.tiny_networks import Recorded

EPSILON = 0.1
IDS = [f"image {i}" for i in range(8)]


class Hilly(nn.Module):
    """Each pixel adds 2 u above the clean image and -u below it, where u is its change in radii; N of them in all.

    There are 2^N local maxima, the vertices of the ball, and class 1 is reached only at one, whose sum is 2 N.
    """

    def __init__(self, clean: float = 0.5) -> None:
        super().__init__()
        self.clean = clean

    def forward(self, images: Tensor) -> Tensor:
        change = (images.double() - self.clean) / EPSILON
        height = torch.where(change > 0, 2 * change, -change).flatten(1)
        lead = height.sum(1) - 2 * height.shape[1] + 0.5
        return torch.stack([-lead, lead], 1) / 2


@pytest.mark.parametrize("targeted", [False, True], ids=["untargeted", "targeted"])
@pytest.mark.parametrize("channels", [1, 3])
def test_one_hop_climbs_a_linear_victim_to_the_corner_of_the_ball(
    channels: int, targeted: bool, linear: Any, images_of: Any
) -> None:
    """Its steps add up to sum_k epsilon / 6 * 10^(-2 k / 100) = 3.7 epsilon, and the ball is 2 epsilon wide."""
    victim, images = linear(channels, 3), images_of(6, channels, 3)
    right = torch.full((6,), not targeted)
    victim.outcome = lambda outputs, targets: Outcome(right, right.float())  # or the images would leave before
    targets = torch.arange(6) % 3
    attack = BasinHopping(epsilon=EPSILON, hops=1, steps=100, targeted=targeted, objective=Margin(1e6))
    crafted = attack.craft(victim, images, targets, IDS[:6])
    leaf = images.clone().requires_grad_()
    logits = victim(leaf)
    own = logits.gather(1, targets[:, None])[:, 0]
    other = logits.scatter(1, targets[:, None], -torch.inf).amax(1)
    (uphill,) = torch.autograd.grad((own - other if targeted else other - own).sum(), leaf)
    corner = torch.where(uphill > 0, (images + EPSILON).clamp(max=1), (images - EPSILON).clamp(min=0))
    settled = uphill != 0
    torch.testing.assert_close(crafted.images[settled], corner[settled])
    assert crafted.forwards.tolist() == [101] * 6
    assert crafted.backwards.tolist() == [100] * 6


def test_kicks_lead_where_no_ascent_does() -> None:
    """Of 16 pixels about half start below the clean image and stay there.

    A hop raises the sum if more pixels are kicked up than down. The last pixel is kicked alone with probability
    1/16 (15/16)^15 = 0.024, so that 600 hops miss it with probability 6e-7; the ones before it come sooner.
    """
    victim, images, targets = as_victim(Hilly()), torch.full((4, 1, 4, 4), 0.5), torch.zeros(4).long()
    stuck = BasinHopping(epsilon=EPSILON, hops=1, steps=60)(victim, images, targets, IDS[:4])
    assert not bool(stuck.success.any())
    below = (stuck.images < 0.5).flatten(1).sum(1)
    assert bool(((below > 0) & (below < 16)).all())
    torch.testing.assert_close((stuck.images - 0.5).abs(), torch.full_like(images, EPSILON), atol=1e-3, rtol=0)

    attack = BasinHopping(epsilon=EPSILON, hops=1200, steps=4, kick=1 / 16)
    through = attack(victim, images, targets, IDS[:4])
    assert bool(through.success.all())
    assert len(through.forwards.unique()) == 4  # each image has its own kicks, and leaves with the look that fools
    for i in range(4):
        alone = attack(victim, images[i : i + 1], targets[i : i + 1], IDS[i : i + 1])
        assert torch.equal(alone.images[0], through.images[i])
        assert alone.forwards.tolist() == [int(through.forwards[i])]
        assert alone.backwards.tolist() == [int(through.backwards[i])]


def test_a_hop_begins_at_the_best_image_with_a_share_of_its_values_at_the_further_bound() -> None:
    """Of 4,096 values 10 % are kicked: 410, with a deviation of 19."""
    victim = Recorded(Hilly())
    images, starts = torch.full((2, 1, 64, 64), 0.5), torch.full((2, 1, 64, 64), 0.58)
    attack = BasinHopping(epsilon=EPSILON, hops=3, steps=1, kick=0.1)
    attack.perturb_from(victim, images, torch.zeros(2).long(), IDS[:2], starts)  # type: ignore[arg-type]
    assert torch.equal(victim.shown[0], starts)
    best = victim.shown[1]
    torch.testing.assert_close(best, starts + EPSILON / 6)
    for first in (victim.shown[2], victim.shown[4]):
        kicked = first != best
        torch.testing.assert_close(first[kicked], torch.full_like(first[kicked], 0.4))
        assert bool(((kicked.flatten(1).sum(1) - 409.6).abs() < 5 * 19.2).all())
    assert not torch.equal(victim.shown[2], victim.shown[4])
    assert not torch.equal(victim.shown[2][0], victim.shown[2][1])


def test_in_a_worst_case_it_begins_at_the_best_attempt_of_the_attacks_before_it() -> None:
    victim = Recorded(Hilly())
    images, targets = torch.full((2, 1, 4, 4), 0.5), torch.zeros(2).long()
    noise = UniformNoise(epsilon=EPSILON)(as_victim(Hilly()), images, targets, IDS[:2]).images
    members = (UniformNoise(), BasinHopping(hops=1, steps=1))
    WorstCase(attacks=members, epsilon=EPSILON).craft(victim, images, targets, IDS[:2])
    assert torch.equal(victim.shown[0], noise)  # to judge the noise
    assert torch.equal(victim.shown[1], noise)


def test_it_never_loses_ground_and_stays_in_the_ball(images_of: Any, linear: Any) -> None:
    images, victim = images_of(4), linear(1)
    victim.outcome = lambda outputs, targets: Outcome(torch.ones(4, dtype=torch.bool), torch.ones(4))
    targets = torch.zeros(4).long()
    starts = images + 3 * EPSILON * victim.uphill(targets).sign()  # outside: it begins at the nearest point inside
    made = BasinHopping(epsilon=EPSILON, hops=3, steps=5, objective=Margin(1e6)).perturb_from(
        victim, images, targets, IDS[:4], starts
    )
    nearest = torch.clamp(starts, (images - EPSILON).clamp(min=0), (images + EPSILON).clamp(max=1))
    torch.testing.assert_close(made.images, nearest)


def test_the_looks_that_are_counted_were_made(counting: Any, linear: Any) -> None:
    """Channel 0 names the image, in steps of 0.14; it has no weight."""
    victim = linear(3, tagged=True)
    images = torch.rand((6, 3, 8, 8), generator=torch.Generator().manual_seed(4)) * 0.2 + 0.4
    tags = 0.01 + 0.14 * torch.arange(6)
    images[:, 0] = tags.view(-1, 1, 1)
    targets = victim(images).argmax(1)
    attack, counter = BasinHopping(epsilon=0.015, hops=2, steps=10), counting(victim, tags)
    for i in range(6):
        attack(counter, images[i : i + 1], targets[i : i + 1], IDS[i : i + 1])
    attacked = attack(victim, images, targets, IDS[:6])
    assert attacked.forwards.tolist() == [counter.seen[i] for i in range(6)]
    assert attacked.backwards.tolist() == [counter.differentiated[i] for i in range(6)]
    assert len(attacked.forwards.unique()) > 1


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("hops", 0, "hops counts ascents and is a whole number of at least 1, got 0"),
        ("hops", 2.5, "got 2.5"),
        ("steps", 0, "steps counts gradient steps"),
        ("kick", 0.0, r"kick is a probability and lies in \(0, 1\), got 0.0"),
        ("kick", 1.0, "got 1.0"),
        ("kick", math.nan, "kick"),
        ("epsilon", 8, "epsilon is in units of"),
    ],
)
def test_a_field_out_of_range_is_refused(field: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BasinHopping(**{field: value})

"""The square attack against its closed form, its paper's table and a peer, and where gradients help nobody."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medrobust.attacks import PGD
from medrobust.attacks.square import Square
from medrobust.networks import Outcome, as_victim
from medrobust.objectives import CrossEntropy, Margin
from tests.tiny_networks import Recorded

EPSILON = 0.1
IDS = [f"image {i}" for i in range(8)]


class Indifferent(nn.Module):
    """Logits that no image changes."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.tensor([1.0, 0.0]).expand(len(images), 2)


class Rounded(nn.Module):
    """A victim that sees images of 17 grey levels: its gradient is zero wherever there is one."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images: Tensor) -> Tensor:
        return self.inner((16 * images).round() / 16)


def own_class(victim: Any, images: Tensor) -> Tensor:
    """Classes that the victim gives clean images."""
    with torch.no_grad():
        return victim.eval()(images).argmax(1)


def bounds(images: Tensor, epsilon: float = EPSILON) -> tuple[Tensor, Tensor]:
    """Least and largest image of the ball."""
    return (images - epsilon).clamp(min=0), (images + epsilon).clamp(max=1)


@pytest.mark.parametrize("targeted", [False, True], ids=["untargeted", "targeted"])
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("constant_sign", [True, False])
def test_the_corner_of_the_ball_is_reached(
    constant_sign: bool, classes: int, targeted: bool, linear: Any, images_of: Any
) -> None:
    """Of 2000 queries the 1800 from index 200 on cover sqrt(0.8 / 32 * 64) = 1 pixel.

    One that meets a pixel on the wrong side always mends it, as its sign is turned round if it is the pixel's own; a
    pixel is missed by all of them with probability (63 / 64)^1800 = 5e-13.
    """
    victim, images = linear(1, classes, constant_sign), images_of(6)
    right = torch.full((6,), not targeted)
    victim.outcome = lambda outputs, targets: Outcome(right, right.float())  # or the images would leave before
    targets = torch.arange(6) % classes
    uphill = -victim.uphill(targets) if targeted else victim.uphill(targets)
    objective = None if targeted else Margin(1e6)  # the margin without kappa stops rising where the victim is wrong
    lower, upper = bounds(images)

    attack = Square(epsilon=EPSILON, queries=2000, targeted=targeted, objective=objective)
    made = attack(victim, images, targets, IDS[:6]).images

    torch.testing.assert_close(made, torch.where(uphill > 0, upper, lower), atol=0, rtol=0)


def test_the_area_of_the_squares_follows_the_papers_table() -> None:
    """Halved at 10, 50, 200, 500, 1000, 2000, 4000, 6000 and 8000 of 10,000 queries."""
    halvings = [10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000]
    full, half = Square(queries=10_000), Square(queries=5000)
    for passed, milestone in enumerate(halvings):
        assert full.area(milestone - 1) == 0.8 / 2**passed
        assert full.area(milestone) == 0.8 / 2 ** (passed + 1)
        assert half.area(milestone // 2) == 0.8 / 2 ** (passed + 1)
        assert half.area(milestone // 2 - 1) == 0.8 / 2**passed
    assert Square(queries=100, share=0.4).area(1) == 0.1  # query 1 of 100 is the 100th of 10,000


def test_sides_are_the_roots_of_the_areas() -> None:
    """Of 224: sqrt(0.8) * 224 = 200.4, sqrt(0.4) * 224 = 141.7, 100.2, 70.8, 50.1, 35.4, 25.04, 17.7, 12.5, 8.9."""
    attack = Square(queries=10_000)
    sides = [attack.side(index, 224, 224) for index in (1, 10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)]
    assert sides == [200, 142, 100, 71, 50, 35, 25, 18, 13, 9]
    assert attack.side(9999, 8, 8) == 1  # 0.3 would be none
    assert attack.side(1, 4, 100) == 4  # 17.9 would not fit


@pytest.mark.parametrize("channels", [1, 3])
def test_the_first_query_is_vertical_stripes_at_the_bounds(channels: int, linear: Any, images_of: Any) -> None:
    images = images_of(8, channels, 3)
    victim = Recorded(linear(channels))
    made = Square(epsilon=EPSILON, queries=1)(victim, images, torch.zeros(8).long(), IDS).images
    lower, upper = bounds(images)
    assert torch.equal(made, victim.shown[0])
    high = made == upper
    assert torch.equal(made, torch.where(high, upper, lower))
    assert torch.equal(high, high[:, :, :1].expand_as(high))
    assert 0.35 < float(high[:, :, 0].double().mean()) < 0.65  # 64 or 192 fair coins
    assert len({tuple(row.flatten().tolist()) for row in high}) == 8  # each image has its own


@pytest.mark.parametrize(("channels", "height", "width"), [(1, 8, 8), (3, 8, 8), (2, 6, 11), (1, 1, 1)])
def test_every_query_is_one_square_drawn_into_the_best_image_so_far(channels: int, height: int, width: int) -> None:
    """Replays the search from what the victim was shown: nothing worse is kept, and nothing changes outside squares."""
    generator = torch.Generator().manual_seed(5)
    images = torch.rand((4, channels, height, width), generator=generator)
    net = nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, 9), nn.Tanh(), nn.Linear(9, 3))
    for parameter in net.requires_grad_(False).parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator))
    victim, targets = Recorded(net), torch.arange(4) % 3
    attack = Square(epsilon=EPSILON, queries=300)

    made = attack(victim, images, targets, IDS[:4]).images

    shown, (lower, upper) = torch.stack(victim.shown[:300], 1), bounds(images)
    assert bool(((shown == lower[:, None]) | (shown == upper[:, None])).all())
    for i in range(4):
        best, value, accepted = shown[i, 0], -math.inf, 0
        for index in range(300):
            side, asked = attack.side(index, height, width), shown[i, index]
            changed = (asked != best).nonzero()
            if index:
                assert len(changed), "a query was wasted"
                extent = changed.amax(0) - changed.amin(0) + 1
                assert int(extent[1]) <= side
                assert int(extent[2]) <= side
                for channel in changed[:, 0].unique():  # one sign for each channel
                    of_channel = changed[changed[:, 0] == channel]
                    ups = asked[of_channel.unbind(1)] > best[of_channel.unbind(1)]
                    assert bool(ups.all()) or not bool(ups.any())
            logits = net(asked[None])[0]
            target = int(targets[i])
            margin = float(torch.cat([logits[:target], logits[target + 1 :]]).max() - logits[target])
            if min(margin, 0) > value:
                best, value, accepted = asked, min(margin, 0), accepted + 1
        assert accepted > 1 or height == 1 or value == 0
        assert torch.equal(made[i], best)


@pytest.mark.parametrize(("height", "width"), [(4, 4), (2, 8), (8, 2)])
def test_squares_lie_anywhere_in_the_image_the_last_row_and_column_included(height: int, width: int) -> None:
    """Squares of one pixel among 16: each place is as likely, 1 in 16; the deviation of 980 draws is 7.6."""
    victim = Recorded(Indifferent())
    attack = Square(epsilon=EPSILON, queries=1000)
    attack(victim, torch.full((8, 1, height, width), 0.5), torch.zeros(8).long(), IDS)
    single = [index for index in range(1, 1000) if attack.side(index, height, width) == 1]
    assert single == list(range(20, 1000))  # sqrt(0.8 / 8 * 16) = 1.3 from the 200th of 10,000 queries on
    stack = torch.stack(victim.shown[:1000])
    counts = (stack[single] != stack[0]).double().sum(0)[:, 0]
    assert torch.equal(counts.sum((1, 2)), torch.full((8,), 980.0).double())
    assert float((counts - 980 / 16).abs().max()) < 5 * math.sqrt(980 / 16 * 15 / 16)


def test_larger_squares_have_each_of_their_places() -> None:
    """Of 4 pixels on 8 x 8 (queries 10 to 39 of 2000): five tops and five lefts, 240 draws over 25 places."""
    victim = Recorded(Indifferent())
    attack = Square(epsilon=EPSILON, queries=2000)
    assert [attack.side(index, 8, 8) for index in (9, 10, 39, 40)] == [5, 4, 4, 3]
    attack(victim, torch.full((8, 1, 8, 8), 0.5), torch.zeros(8).long(), IDS)
    changed = (torch.stack(victim.shown[10:40]) != victim.shown[0]).flatten(0, 2)
    tops = changed.any(2).double().argmax(1)
    assert sorted(set(tops.tolist())) == [0, 1, 2, 3, 4]
    assert bool((changed.any(2).sum(1) == 4).all())  # the stripes' columns change from top to bottom or not at all
    assert bool(changed.any(1).any(0).all())


def test_an_image_is_offered_the_same_squares_in_any_batch_and_order(linear: Any, images_of: Any) -> None:
    victim, images = linear(3, 3), images_of(8, 3, 1)
    targets = own_class(victim, images)
    attack = Square(epsilon=0.01, queries=150)
    together = attack(victim, images, targets, IDS)
    assert 0 < int(together.success.sum()) < 8  # some leave, at different queries
    assert len(together.forwards.unique()) > 2
    for rows in ([3], [7, 2, 5], [6, 5, 4, 3, 2, 1, 0], [0], [1]):
        part = attack(victim, images[rows], targets[rows], [IDS[row] for row in rows])
        assert torch.equal(part.images, together.images[rows])
        assert torch.equal(part.forwards, together.forwards[rows])
    other = Square(epsilon=0.01, queries=150, seed=1)(victim, images, targets, IDS)
    assert not torch.equal(other.images, together.images)
    renamed = attack(victim, images, targets, [f"other {i}" for i in range(8)])
    assert not torch.equal(renamed.images, together.images)


def test_every_precision_is_offered_the_same_squares(images_of: Any) -> None:
    shown = []
    for dtype in (torch.float32, torch.float64):
        victim = Recorded(Indifferent())
        Square(epsilon=EPSILON, queries=100)(victim, images_of(3).to(dtype), torch.zeros(3).long(), IDS[:3])
        shown.append(torch.stack(victim.shown))
    torch.testing.assert_close(shown[0].double(), shown[1], atol=1e-7, rtol=0)


@pytest.mark.parametrize("task", ["classes", "masks", "boxes"])
def test_the_queries_that_are_counted_were_made(
    task: str, counting: Any, linear: Any, segmenter: Any, box_victim: Any, boxes_of: Any
) -> None:
    """Channel 0 names the image, in steps of 0.14; it has no weight. Boxes cost a loss and a decision each query."""
    victim = {"classes": linear(3, tagged=True), "masks": segmenter(3, tagged=True), "boxes": box_victim(3, True)}[task]
    noise = torch.rand((6, 3, 8, 8), generator=torch.Generator().manual_seed(4)) - 0.5
    images = 0.5 + noise * (0.04 if task == "masks" else 0.2)
    tags = 0.01 + 0.14 * torch.arange(6)
    images[:, 0] = tags.view(-1, 1, 1)
    outputs = victim(images)
    targets: Any = boxes_of(6) if task == "boxes" else outputs.argmax(1)
    attack, ids = Square(epsilon=0.05, queries=40), IDS[:6]
    counter = counting(victim, tags)
    for i in range(6):
        attack(counter, images[i : i + 1], targets[i : i + 1], ids[i : i + 1])

    attacked = attack(victim, images, targets, ids)

    assert attacked.forwards.tolist() == [counter.seen[i] for i in range(6)]
    assert attacked.backwards.tolist() == [counter.differentiated[i] for i in range(6)] == [0] * 6
    most = 81 if task == "boxes" else 41
    assert int(attacked.forwards.max()) <= most
    for passes, success in zip(attacked.forwards.tolist(), attacked.success.tolist(), strict=True):
        assert success or passes == most
    assert len(attacked.forwards.unique()) > 1
    together = counting(victim, tags)
    attack(together, images, targets, ids)
    assert [together.seen[i] for i in range(6)] == attacked.forwards.tolist()  # nobody stays after being fooled


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("task", ["masks", "boxes"])
def test_dense_victims_are_broken(task: str, targeted: bool, segmenter: Any, box_victim: Any, boxes_of: Any) -> None:
    """Every pixel moves by up to 0.45 (3 + 2 + 4) = 4 of a score of at most 4.5, so most images break."""
    victim = segmenter(3) if task == "masks" else box_victim(3)
    images = torch.rand((6, 3, 8, 8), generator=torch.Generator().manual_seed(4)) * 0.2 + 0.4
    targets: Any = boxes_of(6) if task == "boxes" else victim(images).argmax(1)
    if targeted and task == "masks":
        targets = 1 - targets
    attacked = Square(epsilon=0.45, queries=800, targeted=targeted)(victim, images, targets, IDS[:6])
    assert bool(attacked.success.all())
    assert float((attacked.images - images).abs().max()) <= 0.45 + 1e-6


@pytest.mark.parametrize(("shift", "scale"), [(-20.0, 1.0), (1000.0, 1.0), (0.0, 1e4), (-20.0, 1e4), (0.0, 1e-4)])
@pytest.mark.parametrize("targeted", [False, True])
def test_logits_may_be_shifted_and_saturated(
    shift: float, scale: float, targeted: bool, linear: Any, images_of: Any
) -> None:
    plain, images = linear(1), images_of(8)
    changed = linear(1, shift=shift, scale=scale)
    targets = own_class(plain, images)
    targets = 1 - targets if targeted else targets
    attack = Square(epsilon=0.15, queries=600, targeted=targeted)
    attacked = attack(changed, images, targets, IDS)
    assert torch.equal(attacked.success, attack(plain, images, targets, IDS).success)
    assert int(attacked.success.sum()) >= 6


def test_a_victim_that_hides_its_gradients_is_broken(linear: Any, images_of: Any) -> None:
    images = images_of(8)
    victim = as_victim(Rounded(linear(1)))
    targets = own_class(victim, images)
    blind = PGD(epsilon=EPSILON, random_start=False)(victim, images, targets, IDS)
    assert not bool(blind.success.any())
    assert bool((blind.zero_gradients == blind.backwards).all())
    search = Square(epsilon=EPSILON, queries=600)(victim, images, targets, IDS)
    open_ = PGD(epsilon=EPSILON)(linear(1), images, targets, IDS)
    assert int(search.success.sum()) >= int(open_.success.sum()) - 1 >= 5  # one may sit within half a grey level


def test_a_detached_victim_is_broken_like_an_open_one(linear: Any, images_of: Any) -> None:
    victim, images = linear(1), images_of(8)
    targets = own_class(victim, images)

    class Detached(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return victim(images).detach()

    attack = Square(epsilon=EPSILON, queries=300)
    made = attack(as_victim(Detached()), images, targets, IDS)
    assert torch.equal(made.images, attack(victim, images, targets, IDS).images)
    assert int(made.success.sum()) >= 5


def test_an_objective_of_ones_own_is_climbed(linear: Any, images_of: Any) -> None:
    """Cross-entropy and margin agree on two classes up to a rising function, so they take the same squares."""
    victim, images = linear(1).double(), images_of(8).double()
    targets = own_class(victim, images)
    made = [
        Square(epsilon=0.03, queries=200, objective=objective)(victim, images, targets, IDS).images
        for objective in (None, Margin(), CrossEntropy())
    ]
    assert torch.equal(made[0], made[1])
    assert torch.equal(made[0], made[2])
    uphill = Square(epsilon=0.03, queries=200, objective=-1.0 * Margin(1e6))(victim, images, targets, IDS)
    assert not bool(uphill.success.any())


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("queries", 0, "queries counts looks at the victim and is a whole number of at least 1, got 0"),
        ("queries", 2.5, "got 2.5"),
        ("share", 0.0, r"share is a part of the image's area and lies in \(0, 1\], got 0.0"),
        ("share", 1.5, "got 1.5"),
        ("share", math.nan, "share"),
        ("epsilon", 8, "epsilon is in units of"),
    ],
)
def test_a_field_out_of_range_is_refused(field: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Square(**{field: value})


def stripes_task(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images of 12 x 12 whose class is the third of the columns that is a little brighter."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randint(0, 3, (count,), generator=generator)
    images = torch.rand((count, 1, 12, 12), generator=generator) / 2 + 0.1
    brighter = torch.arange(12) // 4 == classes[:, None]
    return images + 0.1 * brighter[:, None, None, :], classes


def test_it_breaks_as_many_as_a_peer_with_as_many_queries() -> None:
    """Three seeds of 64 images: the standard error of the difference of two such rates is below 0.04.

    Torchattacks never reaches the last row and column, which matters on so small an image, and repeats squares that
    change nothing: ours break more here (0.54 against 0.37).
    """
    torchattacks = pytest.importorskip("torchattacks", exc_type=ImportError)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 8, 3, padding=1, stride=2),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(288, 3),
        )
        images, classes = stripes_task(512, 1)
        optimiser = torch.optim.Adam(net.parameters(), 3e-3)
        for _ in range(60):
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(images), classes).backward()
            optimiser.step()
        images, classes = stripes_task(64, 2)
        assert torch.equal(own_class(net, images), classes)
        ours = theirs = 0.0
        for seed in range(3):
            attack = Square(epsilon=0.04, queries=200, seed=seed)
            ours += float(attack(as_victim(net), images, classes).success.double().mean()) / 3
            peer = torchattacks.Square(net, eps=0.04, n_queries=200, seed=seed, loss="margin", resc_schedule=True)
            theirs += float((own_class(net, peer(images, classes)) != classes).double().mean()) / 3
    assert ours > theirs - 0.04
    assert 0.2 < theirs < 0.8

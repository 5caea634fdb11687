"""Toy victims whose optimal perturbation is known by hand; tests get them from the fixtures below."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from medrobust.attacks import Attack
from medrobust.networks import Outcome, class_outcome

SIDE = 8
# logits are LEADS[k] * <w, x - 1/2> + BIASES[k]: cross-entropy and margin rise along DIRECTIONS[y] * sign(w)
LEADS = {2: (-1.0, 1.0), 3: (-1.0, 0.3, 1.0)}
BIASES = {2: (0.0, 0.0), 3: (-6.0, 0.0, 0.0)}  # class 0 of three never leads: away from class 1 means towards class 2
DIRECTIONS = {2: (1.0, -1.0), 3: (1.0, 1.0, -1.0)}


def pattern(count: int) -> Tensor:
    """Hand-chosen numbers of both signs, none of them zero, whose absolute values sum to 4."""
    values = (torch.arange(count) * 7 % 11) - 4.5
    return 4 * values / values.abs().sum()


class LinearVictim(nn.Module):
    """A linear classifier with 2 or 3 classes, ``scale * (a_k <w, x - 1/2> + b_k) + shift``.

    Args:
        channels: Channels of its images; all are 8 x 8.
        classes: 2 or 3.
        constant_sign: Let all weights be positive.
        shift: Added to every logit.
        scale: Multiplies every logit.
        tagged: Give channel 0 no weight, so that it can carry the image's name.
    """

    def __init__(
        self,
        channels: int = 1,
        classes: int = 2,
        constant_sign: bool = False,
        shift: float = 0.0,
        scale: float = 1.0,
        tagged: bool = False,
    ) -> None:
        super().__init__()
        weight = pattern(channels * SIDE * SIDE).view(channels, SIDE, SIDE)
        weight = weight.abs() if constant_sign else weight
        if tagged:
            weight[0] = 0
        self.weight = nn.Parameter(weight)
        self.shift, self.scale = shift, scale
        self.register_buffer("leads", torch.tensor(LEADS[classes]))
        self.register_buffer("biases", torch.tensor(BIASES[classes]))
        self.register_buffer("directions", torch.tensor(DIRECTIONS[classes]))

    def forward(self, images: Tensor) -> Tensor:
        score = ((images - 0.5) * self.weight).sum((1, 2, 3))
        return self.scale * (score[:, None] * self.leads + self.biases) + self.shift

    def loss(self, images: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(self(images), targets, reduction="none")

    def outcome(self, outputs: Tensor, targets: Tensor) -> Outcome:
        return class_outcome(outputs, targets)

    def features(self, images: Tensor, layers: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        offered = {"channels": images.mean((2, 3)), "pixels": images.flatten(1)}
        return self(images), {layer: offered[layer] for layer in layers}

    def uphill(self, targets: Tensor) -> Tensor:
        """Signs ``(N, C, H, W)`` in which a perturbation leaves the targets."""
        return self.directions[targets].view(-1, 1, 1, 1) * self.weight.detach().sign()


class SegmenterVictim(nn.Module):
    """A linear classifier of each pixel with 2 or 3 classes; wrong when more than half the labelled pixels are."""

    def __init__(self, channels: int = 1, classes: int = 2, tagged: bool = False, scale: float = 1.0) -> None:
        super().__init__()
        weight = torch.tensor([3.0, -2.0, 4.0])[:channels].clone()
        if tagged:
            weight[0] = 0
        self.weight = nn.Parameter(weight)
        self.scale = scale
        self.register_buffer("leads", torch.tensor(LEADS[classes]))
        self.register_buffer("biases", torch.tensor(BIASES[classes]))
        self.register_buffer("directions", torch.tensor(DIRECTIONS[classes]))

    def forward(self, images: Tensor) -> Tensor:
        score = torch.einsum("nchw,c->nhw", images - 0.5, self.weight)
        return self.scale * (score[:, None] * self.leads[:, None, None] + self.biases[:, None, None])

    def loss(self, images: Tensor, targets: Tensor) -> Tensor:
        ignored = targets < 0
        values = functional.cross_entropy(self(images), targets.clamp(min=0), reduction="none")
        return values.masked_fill(ignored, 0).sum((1, 2)) / (~ignored).sum((1, 2)).clamp(min=1)

    def outcome(self, outputs: Tensor, targets: Tensor) -> Outcome:
        right, labelled = ((outputs.argmax(1) == targets).sum((1, 2)), (targets >= 0).sum((1, 2)))
        return Outcome(2 * right >= labelled, right / labelled.clamp(min=1))

    def features(self, images: Tensor, layers: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        return self(images), {layer: images.mean((2, 3)) for layer in layers}

    def uphill(self, targets: Tensor) -> Tensor:
        """Signs ``(N, C, H, W)`` in which a perturbation leaves the masks; 0 where the label is ignored."""
        direction = self.directions[targets.clamp(min=0)] * (targets >= 0)
        return direction[:, None] * self.weight.detach().sign()[:, None, None]


class BoxVictim(nn.Module):
    """A box is found when its pixels' mean score is positive; wrong when at most half the boxes are found."""

    def __init__(self, channels: int = 1, tagged: bool = False) -> None:
        super().__init__()
        weight = torch.tensor([3.0, -2.0, 4.0])[:channels].clone()
        if tagged:
            weight[0] = 0
        self.weight = nn.Parameter(weight)

    def forward(self, images: Tensor) -> list[dict[str, Tensor]]:
        maps = torch.einsum("nchw,c->nhw", images - 0.5, self.weight)
        return [{"map": row} for row in maps]

    def inside(self, target: dict[str, Tensor], height: int, width: int) -> Tensor:
        """Share of each pixel that lies in each box, ``(boxes, H, W)``."""

        def overlap(low: Tensor, high: Tensor, side: int) -> Tensor:
            places = torch.arange(side)
            return (torch.minimum(high[:, None], places + 1) - torch.maximum(low[:, None], places)).clamp(min=0)

        x1, y1, x2, y2 = target["boxes"].unbind(1)
        return overlap(y1, y2, height)[:, :, None] * overlap(x1, x2, width)[:, None, :]

    def scores(self, output: dict[str, Tensor], target: dict[str, Tensor]) -> Tensor:
        inside = self.inside(target, *output["map"].shape)
        return (inside * output["map"]).sum((1, 2)) / inside.sum((1, 2))

    def loss(self, images: Tensor, targets: list[dict[str, Tensor]]) -> Tensor:
        outputs = self(images)
        return torch.stack(
            [
                functional.softplus(-self.scores(o, t)).sum() + 0 * o["map"].sum()
                for o, t in zip(outputs, targets, strict=True)
            ]
        )

    def outcome(self, outputs: list[dict[str, Tensor]], targets: list[dict[str, Tensor]]) -> Outcome:
        found = [(self.scores(o, t) > 0) for o, t in zip(outputs, targets, strict=True)]
        recalls = torch.tensor([float(hits.float().mean()) if len(hits) else 1.0 for hits in found])
        return Outcome(recalls > 0.5, recalls)

    def features(self, images: Tensor, layers: Sequence[str]) -> tuple[Any, dict[str, Tensor]]:
        return self(images), {layer: images.mean((2, 3)) for layer in layers}


class ConvNet(nn.Sequential):
    """A tiny classifier with BatchNorm and dropout, ``(N, channels, 8, 8)`` to 3 logits; plain, to be wrapped."""

    def __init__(self, channels: int = 3, scale: float = 1.0) -> None:
        generator = torch.Generator().manual_seed(12)
        super().__init__(
            nn.Conv2d(channels, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 8, 3, padding=1, stride=2),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(0.5),
            nn.Linear(8, 3),
        )
        for name, tensor in self.state_dict().items():
            if name.endswith("running_var"):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) / 4 + 0.05)
            elif tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.4)
        with torch.no_grad():
            self[9].bias.sub_(self.eval()(make_images(8, channels, 1)).mean(0))  # or one class would always win
            self[9].weight.mul_(scale)
            self[9].bias.mul_(scale)


class Counting(nn.Module):
    """A victim that counts, for each image, how often it was seen and how often differentiated.

    An image is recognised by the largest value of its channel 0, which the inner victim must ignore.
    """

    def __init__(self, inner: nn.Module, tags: Tensor) -> None:
        super().__init__()
        self.inner, self.tags = inner, tags
        self.calls = 0
        self.seen: Counter[int] = Counter()
        self.differentiated: Counter[int] = Counter()

    def watched(self, images: Tensor) -> Tensor:
        self.calls += 1
        tags = images.detach()[:, 0].amax((1, 2))
        names = (tags[:, None] - self.tags.to(tags)).abs().argmin(1).tolist()
        self.seen.update(names)
        if images.requires_grad:
            images = images.view_as(images)
            images.register_hook(lambda gradient: self.differentiated.update(names))
        return images

    def forward(self, images: Tensor) -> Any:
        return self.inner(self.watched(images))

    def loss(self, images: Tensor, targets: Any) -> Tensor:
        return self.inner.loss(self.watched(images), targets)

    def outcome(self, outputs: Any, targets: Any) -> Outcome:
        return self.inner.outcome(outputs, targets)

    def features(self, images: Tensor, layers: Sequence[str]) -> tuple[Any, dict[str, Tensor]]:
        return self.inner.features(self.watched(images), layers)


class RaisesAtCall(nn.Module):
    """A victim that fails at its k-th forward."""

    def __init__(self, inner: nn.Module, k: int) -> None:
        super().__init__()
        self.inner, self.left = inner, k

    def forward(self, images: Tensor) -> Any:
        self.left -= 1
        if self.left == 0:
            raise RuntimeError("the victim fell over")
        return self.inner(images)

    def loss(self, images: Tensor, targets: Any) -> Tensor:
        return functional.cross_entropy(self(images), targets, reduction="none")

    def outcome(self, outputs: Any, targets: Any) -> Outcome:
        return class_outcome(outputs, targets)

    def features(self, images: Tensor, layers: Sequence[str]) -> tuple[Any, dict[str, Tensor]]:
        return self(images), {}


def make_images(count: int = 6, channels: int = 1, seed: int = 0, side: int = SIDE) -> Tensor:
    """Random images, with some pixels at and near 0 and 1, where clipping takes effect."""
    images = torch.rand((count, channels, side, side), generator=torch.Generator().manual_seed(seed))
    images[:, :, 0, :4] = torch.tensor([0.0, 1.0, 0.01, 0.99])
    images[:, :, 5, -4:] = torch.tensor([0.99, 0.01, 1.0, 0.0])
    return images


def make_boxes(count: int) -> list[dict[str, Tensor]]:
    """One or two boxes (x1, y1, x2, y2) per image, in pixels."""
    both = torch.tensor([[0.0, 1.0, 4.0, 5.0], [4.0, 2.0, 8.0, 8.0]])
    return [
        {"boxes": both[: 1 + i % 2].clone(), "labels": torch.ones(1 + i % 2, dtype=torch.long)} for i in range(count)
    ]


def draw_waves(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noisy waves of 16 x 16 behind a black border, whose frequency is the class, 0 to 2."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    wave = torch.sin(torch.linspace(0, 3, 16)[None] * (labels[:, None] + 1)) * 0.1
    images = 0.4 + wave[:, None, None] + 0.15 * torch.randn((count, 3, 16, 16), generator=generator)
    images[:, :, :2] = images[:, :, -2:] = 0
    return images.clamp(0, 1), labels


class Seen:
    """A victim whose layers are the scaled values of an image, and whose logits are the first of these values."""

    def __init__(self, classes: int, scales: dict[str, float]) -> None:
        self.classes, self.scales, self.forwards = classes, scales, 0

    def __call__(self, images: Tensor) -> Tensor:
        self.forwards += 1
        return images.flatten(1)[:, : self.classes]

    def features(self, images: Tensor, layers: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        return self(images), {name: images.flatten(1) * self.scales[name] for name in layers}

    def outcome(self, outputs: Tensor, targets: Tensor) -> Outcome:
        return class_outcome(outputs, targets)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests with processes of their own come first: they are long, and at the end a worker would wait for the other."""
    items.sort(key=lambda item: item.get_closest_marker("processes") is None)


@pytest.fixture
def seen_victim() -> type[Seen]:
    """The victim whose features are the image."""
    return Seen


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests keep their hashes of files in a folder of their own, also those that start programs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDROBUST_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def run_of() -> Callable[[Path, Any], str]:
    """Writes a victim's checkpoint as train.py does: ``run_of(folder, victim)`` gives the run's folder."""

    def write(folder: Path, victim: Any) -> str:
        from tests.in_lightning import trainer_of  # only here, since importing Lightning takes seconds

        trainer = trainer_of()
        trainer.strategy.connect(victim)
        (folder / "checkpoints").mkdir(parents=True)
        trainer.save_checkpoint(folder / "checkpoints" / "best.ckpt")
        return str(folder)

    return write


@pytest.fixture(scope="session")
def waves() -> tuple[nn.Module, Tensor, Tensor]:
    """A small network trained on three kinds of waves, with 16 images that it has not seen and their labels."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(
            *(nn.Conv2d(3, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 16, 3, 2, 1), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(256, 3)),
        )
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for index in range(60):
        images, labels = draw_waves(48, 100 + index)
        optimizer.zero_grad()
        functional.cross_entropy(net(images), labels).backward()
        optimizer.step()
    return net.eval(), *draw_waves(16, 1)


@pytest.fixture
def linear() -> type[LinearVictim]:
    """The linear classifier, to be built with the arguments of ``LinearVictim``."""
    return LinearVictim


@pytest.fixture
def segmenter() -> type[SegmenterVictim]:
    """The segmenter of single pixels."""
    return SegmenterVictim


@pytest.fixture
def box_victim() -> type[BoxVictim]:
    """The victim that finds boxes."""
    return BoxVictim


@pytest.fixture
def conv_net() -> type[ConvNet]:
    """The tiny convolutional classifier, a plain module."""
    return ConvNet


@pytest.fixture
def counting() -> type[Counting]:
    """The counting wrapper."""
    return Counting


@pytest.fixture
def raises_at_call() -> type[RaisesAtCall]:
    """The victim that fails at its k-th forward."""
    return RaisesAtCall


@pytest.fixture
def images_of() -> Callable[..., Tensor]:
    """Images by ``images_of(count, channels, seed, side)``; diversity's 0.9 needs a side of 10 at least."""
    return make_images


@pytest.fixture
def boxes_of() -> Callable[[int], list[dict[str, Tensor]]]:
    """Lists of boxes by ``boxes_of(count)``."""
    return make_boxes


@pytest.fixture
def crafted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Every batch that any attack crafts: the method and the number of images."""
    calls: list[tuple[str, int]] = []
    craft = Attack.craft

    def watched(self: Attack, victim: Any, images: Tensor, *arguments: Any) -> Any:
        calls.append((type(self).__name__, len(images)))
        return craft(self, victim, images, *arguments)

    monkeypatch.setattr(Attack, "craft", watched)
    return calls

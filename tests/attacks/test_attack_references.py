"""The family beside two peer libraries, on a small network, with their settings made ours."""

from typing import Any

import pytest
import torch
from torch import Tensor

from medrobust.attacks import BIM, DIM, FGSM, MIM, PGD, TIM, SignGradient
from medrobust.attacks.diversity import draw_places
from medrobust.networks import as_victim

EPSILON = 0.05


def same(ours: Tensor, theirs: Tensor, clean: Tensor) -> None:
    """Equal to 1e-5 for all but one pixel in a thousand, and not by standing still."""
    assert float(((ours - theirs).abs() > 1e-5).double().mean()) < 1e-3
    assert float((ours - clean).abs().mean()) > 0.2 * EPSILON


@pytest.fixture
def batch(conv_net: Any, images_of: Any) -> tuple[Any, Tensor, Tensor]:
    """A network in eval mode, eight images and the classes that it gives them."""
    net, images = conv_net().eval(), images_of(8, 3, 1)
    with torch.no_grad():
        return net, images, net(images).argmax(1)


@pytest.mark.parametrize(
    ("name", "settings", "ours"),
    [
        ("FGSM", {"eps": EPSILON}, FGSM(epsilon=EPSILON)),
        ("BIM", {"eps": EPSILON, "alpha": 0.01, "steps": 10}, BIM(epsilon=EPSILON, step_size=0.01, steps=10)),
        (
            "PGD",
            {"eps": EPSILON, "alpha": 0.01, "steps": 10, "random_start": False},
            PGD(epsilon=EPSILON, step_size=0.01, steps=10, random_start=False),
        ),
        (
            "MIFGSM",
            {"eps": EPSILON, "alpha": 0.01, "steps": 8, "decay": 1.0},
            MIM(epsilon=EPSILON, step_size=0.01, steps=8),
        ),
        (
            "MIFGSM",
            {"eps": EPSILON, "alpha": 0.01, "steps": 8, "decay": 0.5},
            MIM(epsilon=EPSILON, step_size=0.01, steps=8, momentum=0.5),
        ),
        (
            "TIFGSM",
            {
                "eps": EPSILON,
                "alpha": 0.01,
                "steps": 8,
                "decay": 1.0,
                "len_kernel": 7,
                "nsig": 3,
                "diversity_prob": 0.0,
            },
            TIM(epsilon=EPSILON, step_size=0.01, steps=8),
        ),
        (
            "TIFGSM",
            {
                "eps": EPSILON,
                "alpha": 0.01,
                "steps": 8,
                "decay": 0.0,
                "len_kernel": 15,
                "nsig": 3,
                "diversity_prob": 0.0,
            },
            TIM(epsilon=EPSILON, step_size=0.01, steps=8, momentum=0.0, smoothing=15),
        ),
    ],
)
def test_torchattacks_gives_the_same_images(
    name: str, settings: dict[str, Any], ours: SignGradient, batch: tuple[Any, Tensor, Tensor]
) -> None:
    torchattacks = pytest.importorskip("torchattacks", exc_type=ImportError)
    net, images, targets = batch
    theirs = getattr(torchattacks, name)(net, **settings)(images, targets)
    attacked = ours(as_victim(net), images, targets)
    same(attacked.images, theirs, images)
    with torch.no_grad():
        assert torch.equal(attacked.success, net(theirs).argmax(1) != targets)


@pytest.mark.parametrize("targeted", [False, True])
def test_foolbox_gives_the_same_images(targeted: bool, batch: tuple[Any, Tensor, Tensor]) -> None:
    foolbox = pytest.importorskip("foolbox", exc_type=ImportError)
    net, images, targets = batch
    targets = (targets + 1) % 3 if targeted else targets
    model = foolbox.PyTorchModel(net, bounds=(0, 1))
    criterion = foolbox.criteria.TargetedMisclassification(targets) if targeted else targets
    if not targeted:
        theirs = foolbox.attacks.LinfFastGradientAttack()(model, images, criterion, epsilons=EPSILON)[1]
        same(FGSM(epsilon=EPSILON)(as_victim(net), images, targets).images, theirs, images)
    peer = foolbox.attacks.LinfBasicIterativeAttack(abs_stepsize=0.01, steps=10, random_start=False)
    theirs = peer(model, images, criterion, epsilons=EPSILON)[1]
    ours = BIM(epsilon=EPSILON, step_size=0.01, steps=10, targeted=targeted)
    same(ours(as_victim(net), images, targets).images, theirs, images)


def plain_loop(net: Any, images: Tensor, targets: Tensor, steps: int, size: float, decay: float) -> Tensor:
    """The textbook loop, written out: one image at a time, in float64."""
    made = []
    for image, target in zip(images.double(), targets, strict=True):
        current, velocity = image.clone(), torch.zeros_like(image)
        for _ in range(steps):
            leaf = current.clone().requires_grad_()
            loss = torch.nn.functional.cross_entropy(net(leaf[None]), target[None])
            gradient = torch.autograd.grad(loss, leaf)[0]
            velocity = decay * velocity + gradient / gradient.abs().sum()
            current = torch.minimum(torch.maximum(current + size * velocity.sign(), image - EPSILON), image + EPSILON)
            current = current.clamp(0, 1)
        made.append(current)
    return torch.stack(made)


@pytest.mark.parametrize("decay", [0.0, 1.0])
def test_the_textbook_loop_over_single_images_gives_the_same_images(
    decay: float, batch: tuple[Any, Tensor, Tensor]
) -> None:
    net, images, targets = batch
    net = net.double()
    attack = SignGradient(epsilon=EPSILON, step_size=0.012, steps=6, momentum=decay)
    theirs = plain_loop(net, images, targets, 6, 0.012, decay)
    same(attack(as_victim(net), images.double(), targets).images, theirs, images)


def test_diverse_inputs_climb_the_loss_of_the_resized_image(batch: tuple[Any, Tensor, Tensor]) -> None:
    """The gradient of each step is that of interpolate and pad at the place that was drawn for image and step."""
    net, images, targets = batch
    net, images = net.double(), images.double()
    ids = [str(i) for i in range(8)]
    attack = SignGradient(epsilon=EPSILON, steps=3, diversity=1.0, smallest_side=0.7)
    made = attack(as_victim(net), images, targets, ids).images
    places = draw_places(ids, 3, (8, 8), 1.0, 0.7, 0, "SignGradient:diversity")
    assert (places[1:] != places[:1]).any(0).any(1).sum() >= 4  # or the step would not matter
    for i in range(8):
        current = images[i : i + 1].clone()
        for height, width, top, left in places[:, i].tolist():
            leaf = current.clone().requires_grad_()
            small = torch.nn.functional.interpolate(leaf, (height, width), mode="bilinear", align_corners=False)
            padded = torch.nn.functional.pad(small, (left, 8 - width - left, top, 8 - height - top))
            loss = torch.nn.functional.cross_entropy(net(padded), targets[i : i + 1])
            gradient = torch.autograd.grad(loss, leaf)[0]
            current = (current + EPSILON / 3 * gradient.sign()).clamp(0, 1)
        assert float(((made[i] - current[0]).abs() > 1e-5).double().mean()) < 0.02


def test_images_that_stay_keep_their_own_places_when_others_leave(batch: tuple[Any, Tensor, Tensor]) -> None:
    """Places are drawn per image, not per row: when every second image leaves, the others do not change."""
    net, images, targets = batch
    targets = torch.where(torch.arange(8) % 2 == 0, (targets + 1) % 3, targets)
    ids = [str(i) for i in range(8)]
    attack = DIM(epsilon=0.01, steps=6, diversity=1.0, smallest_side=0.6, stop_when_fooled=True)
    together = attack(as_victim(net), images, targets, ids).images
    for i in range(1, 8, 2):
        alone = attack(as_victim(net), images[i : i + 1], targets[i : i + 1], ids[i : i + 1]).images[0]
        assert float(((together[i] - alone).abs() > 1e-5).double().mean()) < 0.02

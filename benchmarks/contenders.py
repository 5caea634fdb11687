"""The contenders: the floor, our attacks, torchattacks and foolbox, each with the same radius and steps."""

import copy
import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn import functional

from medrobust.attacks import BIM, FGSM, MIM, PGD, Crafted
from medrobust.attacks.sign_gradient import SignGradient
from medrobust.networks import as_victim
from medrobust.networks.deployment import deployment_copy

EPSILON, SMALL_EPSILON = 8 / 255, 1 / 255
Run = Callable[[], Tensor | Crafted]


@dataclass(frozen=True)
class Block:
    """Contenders of one method, measured against one floor.

    Args:
        method: ``FGSM``, ``BIM``, ``PGD`` or ``MIM``.
        steps: Steps of every contender except those in ``own_steps``.
        repeats: Runs of each contender within one measurement, so that short ones can be timed.
        runs: What to run, by contender.
        own_steps: Number of steps of the contenders that differ from the block.
    """

    method: str
    steps: int
    repeats: int
    runs: dict[str, Run]
    own_steps: dict[str, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Method and number of steps, as in ``PGD-20``."""
        return self.method if self.method == "FGSM" else f"{self.method}-{self.steps}"


@dataclass(frozen=True)
class Setting:
    """A network, the images on which it is attacked, and the methods.

    Args:
        network: Name of a timm network.
        batch: Number of images N.
        side: Height and width.
        training: Training steps.
        steps: Steps of each method.
        repeats: Runs per measurement of the methods with a single step.
        rounds: Default number of rounds, in each of which everything is measured once.
    """

    network: str
    batch: int
    side: int
    training: int
    steps: dict[str, int]
    repeats: int = 1
    rounds: int = 5


ALL_STEPS = {"FGSM": 1, "BIM": 10, "PGD": 20, "MIM": 10}


def step_size(method: str, steps: int) -> float:
    """Length of one step, the same for all libraries: epsilon / steps, for PGD epsilon / 10 or twice epsilon / steps.

    >>> [round(255 * step_size(method, steps), 3) for method, steps in (("BIM", 10), ("PGD", 20), ("PGD", 4))]
    [0.8, 0.8, 4.0]
    """
    return EPSILON * (2 if method == "PGD" else 1) / steps


def peer(name: str) -> ModuleType | None:
    """The library, or None if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        print(f"{name} is left out: {error}")
        return None


def build(setting: Setting, network: nn.Module, images: Tensor, targets: Tensor) -> list[Block]:
    """Set up every contender for every method.

    The peers and our plain form are given the network as training leaves it, in eval mode and with trainable weights;
    the floor and ``foolbox, frozen`` are given it with ``requires_grad_(False)``. Our attacks freeze it themselves.
    """
    frozen = copy.deepcopy(network).requires_grad_(False)
    folded, pairs = deployment_copy(network, images[:2])
    print(f"{setting.network}: {pairs} BatchNorms folded")
    torchattacks, foolbox = peer("torchattacks"), peer("foolbox")
    blocks = []
    for method, steps in setting.steps.items():
        length = step_size(method, steps)
        attack = ours(method, steps, length)
        runs: dict[str, Run] = {
            "floor": floor(frozen, images, targets, steps),
            "plain": craft(attack, network, images, targets),
            "folded": craft(attack, folded, images, targets),
            "folded floor": floor(folded, images, targets, steps),
        }
        if torchattacks:
            runs["torchattacks"] = by_torchattacks(torchattacks, method, steps, length, network, images, targets)
        if foolbox:
            for label, given in (("foolbox", network), ("foolbox, frozen", frozen)):
                runs[label] = by_foolbox(foolbox, method, steps, length, given, images, targets)
        own_steps = {}
        if steps == 1:
            runs["judging"] = judge(frozen, images)
        if method == "PGD":
            for epsilon in (EPSILON, SMALL_EPSILON):
                label = f"stop at {round(255 * epsilon)}/255"
                stopping = PGD(epsilon=epsilon, steps=20, stop_when_fooled=True)
                runs[label], own_steps[label] = craft(stopping, network, images, targets), 20
        blocks.append(Block(method, steps, setting.repeats if steps == 1 else 1, runs, own_steps))
    return blocks


def floor(network: nn.Module, images: Tensor, targets: Tensor, steps: int) -> Run:
    """What no sign-gradient attack can avoid: in each step, a forward pass and a gradient with respect to the input."""

    def run() -> Tensor:
        for _ in range(steps):
            variable = images.detach().requires_grad_()
            loss = functional.cross_entropy(network(variable), targets, reduction="sum")
            torch.autograd.grad(loss, variable)
        return images

    return run


def judge(network: nn.Module, images: Tensor) -> Run:
    """The forward pass that shows which images fool: what ``attack(...)`` adds to ``attack.craft(...)``."""

    def run() -> Tensor:
        with torch.no_grad():
            network(images)
        return images

    return run


def ours(method: str, steps: int, length: float) -> SignGradient:
    """Our attack of that name."""
    if method == "FGSM":
        return FGSM(epsilon=EPSILON)
    kinds = {"BIM": BIM, "PGD": PGD, "MIM": MIM}
    return kinds[method](epsilon=EPSILON, steps=steps, step_size=length)


def craft(attack: SignGradient, network: nn.Module, images: Tensor, targets: Tensor) -> Run:
    """Our attack on a network."""
    victim = as_victim(network)
    return lambda: attack.craft(victim, images, targets)


def by_torchattacks(
    library: ModuleType, method: str, steps: int, length: float, network: nn.Module, images: Tensor, targets: Tensor
) -> Run:
    """Attack of that name by torchattacks."""
    if method == "FGSM":
        attack = library.FGSM(network, eps=EPSILON)
    else:
        kind = {"BIM": library.BIM, "PGD": library.PGD, "MIM": library.MIFGSM}[method]
        attack = kind(network, eps=EPSILON, alpha=length, steps=steps)
    return lambda: attack(images, targets)


def by_foolbox(
    library: ModuleType, method: str, steps: int, length: float, network: nn.Module, images: Tensor, targets: Tensor
) -> Run:
    """Attack of that name by foolbox, by ``run``: calling the attack would add a forward pass to judge it."""
    kinds = library.attacks
    if method == "FGSM":
        attack = kinds.LinfFastGradientAttack()
    else:
        names = {
            "BIM": "LinfBasicIterativeAttack",
            "PGD": "LinfProjectedGradientDescentAttack",
            "MIM": "LinfMomentumIterativeFastGradientMethod",
        }
        attack = getattr(kinds, names[method])(abs_stepsize=length, steps=steps)
    model = library.PyTorchModel(network, bounds=(0, 1), device=images.device)
    criterion = library.criteria.Misclassification(targets)
    return lambda: attack.run(model, images, criterion, epsilon=EPSILON)

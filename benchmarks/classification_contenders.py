"""The contenders on classifiers: minimal-norm, bias-field, stabilised and worst-case attacks, and their peers."""

import importlib.util
import io
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from benchmarks.contenders import EPSILON, SMALL_EPSILON, Block, Run, floor, peer
from medrobust.attacks import APGD, CWL2, FAB, JSMA, SMIA, AdvSBF, Attack, Crafted, DeepFool, Square, WorstCase
from medrobust.networks import as_victim
from medrobust.objectives.difference_of_logits import DifferenceOfLogits

LEARNING_RATE, CONSTANT, FIRST_CONSTANT = 0.001, 0.05, 0.001
OVERSHOOT, CANDIDATES = 0.02, 10
THETA, SHARE = 0.1, 0.1  # JSMA's move, and the share of the values that may be moved
NEEDED = {  # for each library: the modules used here, and modules that it imports only for parts that are not used
    "torchattacks": (("torchattacks",), ()),
    "foolbox": (("foolbox",), ()),
    "ART": (("art.attacks.evasion", "art.estimators.classification"), ("multiprocess",)),
    "adversarial-library": (("adv_lib.attacks",), ("visdom",)),
}


@dataclass(frozen=True, kw_only=True)
class Contest(Block):
    """Contenders of one method on the same images, and the network that judges the results.

    Args:
        network: The attacked network, frozen.
        images: Clean images, ``(N, C, H, W)``.
        targets: Their classes ``(N,)``, or the goals if ``targeted``.
        unit: Number of floor steps by which times are divided; ``steps`` is the number that is timed as the floor.
        norm: Norm that the method minimises, if any.
        targeted: Whether success means that the image is classified as the target.
        about: Settings that all contenders share, for the reader.
    """

    network: nn.Module
    images: Tensor
    targets: Tensor
    unit: int = 1
    norm: Literal["l2", "l0", "none"] = "none"
    targeted: bool = False
    about: str = ""

    @property
    def name(self) -> str:
        """The method."""
        return self.method


@dataclass(frozen=True)
class Subject:
    """A frozen network and images, and how each library attacks them; a missing library adds no contender.

    Args:
        network: Maps images to logits, frozen.
        images: ``(N, C, H, W)`` in [0, 1].
        targets: Their classes, ``(N,)``.
        libraries: Modules by library, as in ``NEEDED``.
    """

    network: nn.Module
    images: Tensor
    targets: Tensor
    libraries: dict[str, tuple[ModuleType, ...]]

    @cached_property
    def classes(self) -> int:
        """Number of classes."""
        with torch.no_grad():
            return int(self.network(self.images[:1]).shape[1])

    def first(self, number: int) -> "Subject":
        """The same network with the first ``number`` images."""
        return Subject(self.network, self.images[:number], self.targets[:number], self.libraries)

    def ours(self, attack: Attack, goals: Tensor | None = None) -> dict[str, Run]:
        """Our attack."""
        victim, targets = as_victim(self.network), self.targets if goals is None else goals

        def run() -> Crafted:
            return attack.craft(victim, self.images, targets)

        return {"ours": run}

    def floor(self, steps: int) -> dict[str, Run]:
        """Forward passes and gradients with respect to the images, and nothing else."""
        return {"floor": floor(self.network, self.images, self.targets, steps)}

    def torchattacks(self, attack: str, **parameters: Any) -> dict[str, Run]:
        """Attack of that name by torchattacks."""
        if "torchattacks" not in self.libraries:
            return {}
        (library,) = self.libraries["torchattacks"]
        return {"torchattacks": lambda: getattr(library, attack)(self.network, **parameters)(self.images, self.targets)}

    def foolbox(self, attack: str, **parameters: Any) -> dict[str, Run]:
        """Attack of that name by foolbox, by ``run``: calling the attack would add a forward pass to judge it."""
        if "foolbox" not in self.libraries:
            return {}
        (library,) = self.libraries["foolbox"]

        def run() -> Tensor:
            """Adversarial images by the library."""
            model = library.PyTorchModel(self.network, bounds=(0, 1), device=self.images.device)
            criterion = library.criteria.Misclassification(self.targets)
            made: Tensor = getattr(library.attacks, attack)(**parameters).run(model, self.images, criterion)
            return made

        return {"foolbox": run}

    def adversarial_library(self, attack: str, **parameters: Any) -> dict[str, Run]:
        """Attack of that name by adversarial-library."""
        if "adversarial-library" not in self.libraries:
            return {}
        (library,) = self.libraries["adversarial-library"]
        made = getattr(library, attack)
        return {"adversarial-library": lambda: made(self.network, self.images, self.targets, **parameters)}

    def art(self, attack: str, goals: Tensor | None = None, **parameters: Any) -> dict[str, Run]:
        """Attack of that name by ART, with all images in one batch; ART takes and returns arrays."""
        if "ART" not in self.libraries:
            return {}
        attacks, estimators = self.libraries["ART"]
        targets = self.targets if goals is None else goals

        def run() -> Tensor:
            """Adversarial images by the library."""
            classifier = estimators.PyTorchClassifier(
                self.network,
                loss=nn.CrossEntropyLoss(),
                input_shape=tuple(self.images.shape[1:]),
                nb_classes=self.classes,
                clip_values=(0.0, 1.0),
                device_type="gpu" if self.images.is_cuda else "cpu",
            )
            made = getattr(attacks, attack)(classifier, batch_size=len(self.images), **parameters)
            with redirect_stderr(io.StringIO()):  # not all progress bars can be turned off
                arrays = made.generate(self.images.cpu().numpy(), targets.cpu().numpy())
            return torch.from_numpy(arrays).to(self.images)

        return {"ART": run}


def libraries() -> dict[str, tuple[ModuleType, ...]]:
    """The peers that can be imported here."""
    found = {}
    for name, (modules, unused) in NEEDED.items():
        for module in unused:
            if importlib.util.find_spec(module) is None:
                sys.modules[module] = ModuleType(module)
        try:
            imported = [peer(module) for module in modules]
        except Exception as error:  # a library whose pins are old may fail in any way
            print(f"{name} is left out: {error!r}")
            continue
        present = tuple(module for module in imported if module is not None)
        if len(present) == len(modules):
            found[name] = present
    return found


def small_norms(subject: Subject, few: Subject, steps: int, search_steps: int) -> list[Contest]:
    """CW-L2 with one constant for all images, and with a search for each image's constant."""
    contests = []
    for method, of, constants, first in (
        ("CW-L2", subject, 1, CONSTANT),
        ("CW-L2, with its search", few, search_steps, FIRST_CONSTANT),
    ):
        shared: dict[str, Any] = {"learning_rate": LEARNING_RATE, "abort_early": False}
        passes = constants * steps
        runs = of.floor(steps) | of.ours(CWL2(search_steps=constants, steps=steps, initial_constant=first, **shared))
        if constants == 1:
            runs |= of.torchattacks("CW", c=first, steps=steps, lr=LEARNING_RATE)
        runs |= of.foolbox(
            "L2CarliniWagnerAttack",
            binary_search_steps=constants,
            steps=steps,
            stepsize=LEARNING_RATE,
            initial_const=first,
            abort_early=False,
        )
        runs |= of.adversarial_library(
            "carlini_wagner_l2",
            binary_search_steps=constants,
            max_iterations=steps,
            initial_const=first,
            **shared,
        )
        if constants == 1:
            runs |= of.art(
                "CarliniL2Method",
                learning_rate=LEARNING_RATE,
                binary_search_steps=1,
                max_iter=steps,
                initial_const=first,
                verbose=False,
            )
        about = f"{constants} x {steps} steps, learning rate {LEARNING_RATE}, c from {first}, without early ends"
        about = about if constants > 1 else f"{steps} steps, learning rate {LEARNING_RATE}, c = {first}"
        contests.append(contest(method, of, steps, runs, unit=passes, norm="l2", about=about))
    return contests


def contest(method: str, subject: Subject, steps: int, runs: dict[str, Run], **more: Any) -> Contest:
    """Combine a subject and its runs; further arguments are those of ``Contest``."""
    given: dict[str, Any] = {"network": subject.network, "images": subject.images, "targets": subject.targets}
    return Contest(method, steps, 1, runs, **given | more)


def nearest_boundary(subject: Subject, steps: int) -> Contest:
    """DeepFool."""
    runs = subject.floor(5) | subject.ours(DeepFool(steps=steps, overshoot=OVERSHOOT, candidates=CANDIDATES))
    runs |= subject.torchattacks("DeepFool", steps=steps, overshoot=OVERSHOOT)
    runs |= subject.foolbox("L2DeepFoolAttack", steps=steps, candidates=CANDIDATES, overshoot=OVERSHOOT)
    runs |= subject.adversarial_library("df", steps=steps, overshoot=OVERSHOOT)
    runs |= subject.art("DeepFool", max_iter=steps, epsilon=OVERSHOOT, nb_grads=CANDIDATES, verbose=False)
    about = f"at most {steps} steps, {subject.classes} classes, all of them candidates"
    return contest(f"DeepFool, {subject.classes} classes", subject, 5, runs, norm="l2", about=about)


def few_pixels(subject: Subject) -> Contest:
    """JSMA towards the next class, each value changed at most once, because torchattacks offers nothing else."""
    goals = (subject.targets + 1) % subject.classes
    steps = -(-int(SHARE * subject.images[0].numel()) // 2)
    attack = JSMA(targeted=True, step_size=THETA, changes=1, steps=steps, direction="increase")
    runs = subject.floor(5) | subject.ours(attack, goals)
    runs |= subject.torchattacks("JSMA", theta=THETA, gamma=SHARE)
    runs |= subject.art("SaliencyMapMethod", goals, theta=THETA, gamma=SHARE, verbose=False)
    about = f"towards the next class, values raised by {THETA}, at most a share of {SHARE} of them"
    return contest("JSMA", subject, 5, runs, norm="l0", targeted=True, targets=goals, about=about)


def full_budgets(subject: Subject, steps: int) -> list[Contest]:
    """AdvSBF and SMIA, which no peer implements, against the passes that they cannot avoid."""
    bias, stable = AdvSBF(steps=steps), SMIA(epsilon=EPSILON, steps=steps)
    twice = 2 * steps - 1  # from the second step on, the smoothed image needs a forward and a backward pass too
    return [
        contest(
            "AdvSBF", subject, steps, subject.floor(steps) | subject.ours(bias), unit=steps, about=f"{steps} steps"
        ),
        contest(
            "SMIA", subject, twice, subject.floor(twice) | subject.ours(stable), unit=twice, about=f"{steps} steps"
        ),
    ]


def worst_cases(subject: Subject, steps: int, queries: int) -> list[Contest]:
    """Each library's own AutoAttack at 8/255, and the same four attacks with equal steps at 1/255."""
    runs = subject.floor(5) | subject.ours(WorstCase(epsilon=EPSILON))
    runs |= subject.torchattacks("AutoAttack", eps=EPSILON, n_classes=subject.classes, seed=0)
    runs |= subject.art("AutoAttack", eps=EPSILON, eps_step=EPSILON / 4)
    about = "as each library sets it up"
    contests = [contest("worst case, 8/255", subject, 5, runs, about=about)]
    members: Sequence[Attack] = (
        APGD(steps=steps),
        APGD(steps=steps, objective=DifferenceOfLogits()),
        FAB(steps=steps, stop_when_fooled=True),
        Square(queries=queries),
    )
    runs = subject.floor(5) | subject.ours(WorstCase(attacks=tuple(members), epsilon=SMALL_EPSILON))
    if "torchattacks" in subject.libraries:
        (library,) = subject.libraries["torchattacks"]

        def run() -> Tensor:
            """Adversarial images by the library."""
            shared: dict[str, Any] = {"eps": SMALL_EPSILON, "seed": 0}
            ascent = [library.APGD(subject.network, steps=steps, loss=loss, **shared) for loss in ("ce", "dlr")]
            projection = library.FAB(subject.network, steps=steps, n_classes=subject.classes, **shared)
            search = library.Square(subject.network, n_queries=queries, **shared)
            made: Tensor = library.MultiAttack([*ascent, projection, search])(subject.images, subject.targets)
            return made

        runs |= {"torchattacks": run}
    about = f"APGD, APGD with DLR and FAB with {steps} steps each, Square with {queries} queries"
    return [*contests, contest("worst case, 1/255", subject, 5, runs, about=about)]

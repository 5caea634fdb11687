"""A victim behind an input defence: what is judged, and what attacks see of it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from medrobust.networks.input_defences import Draw, InputDefence
from medrobust.networks.seen_images import SeenImages
from medrobust.networks.victims import (
    BOX_METHODS,
    EvaluatedVictim,
    Outcome,
    Outputs,
    Targets,
    evaluated_victim,
    is_stored_victim,
)


class DefendedVictim(nn.Module):
    """A victim behind an input defence; ``defended`` makes it.

    It is judged with the real defence. ``under_attack`` gives what attacks see: the same, and for a random defence the
    mean over some draws that do not judge.

    Attributes:
        undefended: The victim without the defence.
        network: Its network; one that is put in its place is put into the victim, too.
        draw: What the random numbers of a random defence follow from, as ``InputDefence`` takes it.
    """

    network: nn.Module
    draw: Draw

    def __init__(self, victim: EvaluatedVictim, defence: InputDefence) -> None:
        """Keep both."""
        super().__init__()
        assert isinstance(victim, nn.Module)
        self.undefended: Any = victim
        self.defence, self.draw = defence, "judged"
        self.network = victim.network
        self.training = victim.training

    def __setattr__(self, name: str, value: Any) -> None:
        """Put another network into the victim, too."""
        if name == "network":
            self.undefended.network = value
        super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        """What the victim says of its stages, if it is a ``BoxVictim``, of images behind the defence."""
        if name in BOX_METHODS:
            return partial(self._looked_into, getattr(self.undefended, name))
        return super().__getattr__(name)

    def _looked_into(self, method: Any, images: Tensor, *arguments: Any) -> Any:
        """What one of ``BOX_METHODS`` answers."""
        return method(self.defence(images, self.draw), *arguments)

    def forward(self, images: Tensor) -> Outputs:
        """Outputs for images ``(N, C, H, W)`` in [0, 1]."""
        return self.undefended(self.defence(images, self.draw))

    def normalised(self, images: Tensor) -> Tensor:
        """What the network is given for images ``(N, C, H, W)`` in [0, 1]."""
        normalised: Tensor = self.undefended.normalised(self.defence(images, self.draw))
        return normalised

    def loss(self, images: Tensor, targets: Targets) -> Tensor:
        """Loss of each image, ``(N,)``.

        Raises:
            ValueError: The defence moves what an image shows, and the targets have places: masks or boxes.
        """
        self._check_places(targets)
        loss: Tensor = self.undefended.loss(self.defence(images, self.draw), targets)
        return loss

    def outcome(self, outputs: Outputs, targets: Targets) -> Outcome:
        """How well outputs fit their targets, for each image.

        Raises:
            ValueError: As ``loss``.
        """
        self._check_places(targets)
        outcome: Outcome = self.undefended.outcome(outputs, targets)
        return outcome

    def _check_places(self, targets: Targets) -> None:
        """Refuse targets with places, which would stay where they are while the image moves."""
        if not isinstance(targets, Tensor) or targets.ndim > 2:
            refuse_moving(self, "boxes" if not isinstance(targets, Tensor) else "segmentation")

    def features(self, images: Tensor, layers: Sequence[str]) -> tuple[Outputs, dict[str, Tensor]]:
        """Outputs and the named layers' activations averaged over space, ``(N, C)`` each, in one forward."""
        seen = self.defence(images, self.draw)
        found: tuple[Outputs, dict[str, Tensor]] = self.undefended.features(seen, layers)
        return found

    def layers_named(self, patterns: Sequence[str]) -> tuple[str, ...]:
        """Names of the network's layers that match patterns."""
        names: tuple[str, ...] = self.undefended.layers_named(patterns)
        return names

    def description(self) -> dict[str, Any]:
        """What the victim is, and its defence, as plain values; of several a list, in the order in which they act."""
        inner = self.undefended.description()
        own, further = self.defence.parameters(), inner.get("input_defence")
        if further is None:
            return {**inner, "input_defence": own}
        return {**inner, "input_defence": [own, *(further if isinstance(further, list) else [further])]}

    def seen_by_attacks(self) -> list[dict[str, Any]]:
        """How attacks see through each defence, in the order in which they act.

        ``gradient`` is that of ``InputDefence``, and ``samples`` the number of draws that attacks average over, None
        where nothing is random.
        """
        samples = ExpectedVictim(self).samples if self.defence.is_random else None
        own = {"gradient": self.defence.gradient, "samples": samples}
        return [own, *(self.undefended.seen_by_attacks() if isinstance(self.undefended, DefendedVictim) else ())]

    def state_dict(self, *arguments: Any, **options: Any) -> Any:
        """The victim's own parameters and buffers; a defence has none."""
        return self.undefended.state_dict(*arguments, **options)

    def under_attack(self) -> "DefendedVictim | ExpectedVictim":
        """What attacks see in place of it."""
        return ExpectedVictim(self) if self.defence.is_random else self


class StoredDefendedVictim(DefendedVictim):
    """A victim from a checkpoint, behind an input defence."""

    def seen_images(self) -> SeenImages | None:
        """The images that the victim was trained on and chosen by; None where its checkpoint does not say."""
        seen: SeenImages | None = self.undefended.seen_images() if hasattr(self.undefended, "seen_images") else None
        return seen

    def from_checkpoint(self, path: str | Path) -> Any:
        """Another victim of the same class, without a defence, from its checkpoint."""
        return self.undefended.from_checkpoint(path)


class ExpectedVictim:
    """A victim behind a random defence as attacks see it: its mean answer over some draws.

    Args:
        victim: The victim.

    Attributes:
        samples: Number of draws, each of which is a pass.
    """

    def __init__(self, victim: DefendedVictim) -> None:
        """Keep the victim."""
        self.victim = victim
        self.samples = int(getattr(victim.defence, "samples", 1))

    def __getattr__(self, name: str) -> Any:
        """Anything else that the victim has; of a ``BoxVictim``'s stages not what the judging draw would show."""
        value = getattr(self.victim, name)
        return partial(self._looked_into, name) if name in BOX_METHODS else value

    def _looked_into(self, name: str, images: Tensor, *arguments: Any) -> Any:
        """The mean answer of one of ``BOX_METHODS``; of proposals, which have none, those of the first draw."""
        method = getattr(self.victim.undefended, name)
        draws = self._draws(images)[: 1 if name == "proposals" else None]
        answers = [method(one, *arguments) for one in draws]
        return answers[0] if name == "proposals" else tree_map(lambda *leaves: torch.stack(leaves).mean(0), *answers)

    def __call__(self, images: Tensor) -> Outputs:
        """Mean outputs for N images."""
        return _mean([self.victim.undefended(one) for one in self._draws(images)])

    def loss(self, images: Tensor, targets: Targets) -> Tensor:
        """Mean loss of each image, ``(N,)``.

        Raises:
            ValueError: As that of a ``DefendedVictim``.
        """
        self.victim._check_places(targets)
        loss: Tensor = _mean([self.victim.undefended.loss(one, targets) for one in self._draws(images)])
        return loss

    def features(self, images: Tensor, layers: Sequence[str]) -> tuple[Outputs, dict[str, Tensor]]:
        """Mean outputs, and means of the named layers."""
        found: Any = _mean([self.victim.undefended.features(one, layers) for one in self._draws(images)])
        return found

    def _draws(self, images: Tensor) -> list[Tensor]:
        return [self.victim.defence(images, f"attacked {number}") for number in range(self.samples)]


def _mean(answers: list[Any]) -> Any:
    """Mean of answers of the same form, tensor by tensor.

    Raises:
        ValueError: They are lists, as those of box victims, of which there is no mean.
    """
    if any(isinstance(answer[0] if isinstance(answer, tuple) else answer, list) for answer in answers):
        raise ValueError("a victim whose outputs are lists, such as boxes, has no mean output over random draws")
    return tree_map(lambda *leaves: torch.stack(leaves).mean(0), *answers)


@contextmanager
def drawn_by(victim: object, ids: Sequence[str] | None) -> Iterator[None]:
    """Let a random input defence draw each image's numbers from its id: whatever was done to the image, they are equal.

    Args:
        victim: A victim, behind an input defence or not.
        ids: Ids of the images that it is about to see, in their order; None for what follows from their content.
    """
    modules = victim.modules() if isinstance(victim, nn.Module) and ids is not None else ()
    found = [(module, module.draw) for module in modules if isinstance(module, DefendedVictim)]
    for module, _ in found:
        module.draw = list(ids or ())
    try:
        yield
    finally:
        for module, draw in found:
            module.draw = draw


def under_attack(victim: Any) -> Any:
    """What an attack sees of a victim: the victim itself, unless it has an answer of its own to that."""
    return victim.under_attack() if isinstance(victim, DefendedVictim) else victim


def refuse_moving(victim: object, task: str) -> None:
    """Refuse a defence that moves what an image shows where the targets have places, so that none could fit.

    Args:
        victim: A victim, behind input defences or not.
        task: The task of the data, as data modules name it.

    Raises:
        ValueError: Names the defence.
    """
    what = {"segmentation": "masks", "boxes": "boxes"}.get(task)
    while what is not None and isinstance(victim, DefendedVictim):
        if victim.defence.moves:
            raise ValueError(
                f"{type(victim.defence).__name__} moves what an image shows, and {what} would stay where they are: "
                "take an input defence that leaves everything at its place, such as JPEGCompression"
            )
        victim = victim.undefended


def defended(victim: EvaluatedVictim, defence: InputDefence) -> DefendedVictim:
    """Put a victim behind an input defence; the victim itself is not changed.

    Args:
        victim: A victim such as ``as_victim`` makes.
        defence: What is done to each image.

    Raises:
        ValueError: The victim is none that can be evaluated, or it stands behind a random defence and this one is not
            random: attacks would then see the draws that judge.
    """
    inner = evaluated_victim(victim)
    if isinstance(inner, DefendedVictim) and inner.defence.is_random and not defence.is_random:
        raise ValueError(
            f"a random defence comes first, and {type(defence).__name__} was to come before "
            f"{type(inner.defence).__name__}: put the victim behind {type(defence).__name__} and then behind that one"
        )
    if is_stored_victim(inner) or hasattr(inner, "seen_images"):
        return StoredDefendedVictim(inner, defence)
    return DefendedVictim(inner, defence)

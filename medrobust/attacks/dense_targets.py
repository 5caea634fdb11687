"""What dense adversary generation is to turn: the pixels of masks, or proposals of boxes, each with two labels."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torchvision.ops import box_iou

from medrobust.networks.victims import Victim, box_victim
from medrobust.objectives.base import Step
from medrobust.objectives.logit_gap import step_logits
from medrobust.random_streams import image_generator

GOAL_IOU = 0.5  # of a proposal with a goal's box above which the box's label is its goal
STREAM = "DAG"


class DenseTargets(ABC):
    """The targets of the images under attack; labels are ``(n, ...)``, with -1 at places that are no target.

    Args:
        labels: What each target is, or is to become.
        ids: Ids of the images, from which the wrong labels are drawn.
        seed: Seed of these draws.
        targeted: Whether ``labels`` are goals.
    """

    def __init__(self, labels: Tensor, ids: Sequence[str], seed: int, targeted: bool) -> None:
        self.labels, self.ids, self.seed, self.targeted = labels.long(), list(ids), seed, targeted
        self.wrong: Tensor | None = None

    @abstractmethod
    def logits(self, step: Step) -> Tensor:
        """Logits of the targets, ``(n, K, ...)``."""

    @abstractmethod
    def others(self, logits: Tensor) -> int:
        """Number of labels among which a wrong one is drawn, that of the target itself included."""

    def left(self, logits: Tensor) -> Tensor:
        """Which targets are left, bool ``(n, ...)``: still what they are, or not yet what they are to become."""
        named = logits.detach().max(1).indices == self.labels  # argmax is slow on a CPU
        return ~named & (self.labels >= 0) if self.targeted else named  # -1 is never named

    def lead(self, logits: Tensor, left: Tensor) -> Tensor:
        """What is raised, ``(n,)``: z_wrong - z_true, or z_goal - max z_other, summed over targets that are left."""
        index = self.labels.clamp(min=0).unsqueeze(1)
        own = logits.gather(1, index)
        if self.targeted:
            values = own - logits.scatter(1, index, float("-inf")).amax(1, keepdim=True)
        else:
            if self.wrong is None:
                self.wrong = self._drawn(self.others(logits))
            values = logits.gather(1, self.wrong.unsqueeze(1)) - own
        values = torch.where(left, values.squeeze(1), 0.0)
        return values.flatten(1).sum(1) if values.ndim > 1 else values

    def keep(self, places: Tensor) -> None:
        """Go on with the images at these places."""
        self.labels = self.labels[places]
        self.wrong = None if self.wrong is None else self.wrong[places]
        self.ids = [self.ids[place] for place in places.tolist()]

    def _drawn(self, labels: int) -> Tensor:
        """A wrong label for each target, the same for an image in any batch: label + shift, counted in a ring."""
        known = self.labels.clamp(min=0)
        if labels == 2:
            return 1 - known
        return (known + self._shifts(labels).to(known.device)) % labels

    @abstractmethod
    def _shifts(self, labels: int) -> Tensor:
        """Whole numbers from 1 to ``labels`` - 1, drawn for each image's targets, shaped like the labels."""


class PlaceTargets(DenseTargets):
    """The labelled pixels of masks ``(N, H, W)``, or the classes or labels of images."""

    def logits(self, step: Step) -> Tensor:
        """Logits of the targets, ``(n, K, ...)``."""
        logits = step_logits(step)
        if logits is None:
            raise ValueError(
                "DAG turns classes, labels, the pixels of masks or proposals, and the victim gives no logits that fit "
                f"targets {tuple(self.labels.shape)}"
            )
        return logits

    def others(self, logits: Tensor) -> int:
        """Number of labels among which a wrong one is drawn: all."""
        return logits.shape[1]

    def _shifts(self, labels: int) -> Tensor:
        shape = self.labels.shape[1:]
        return torch.stack(
            [torch.randint(1, labels, shape, generator=image_generator(self.seed, STREAM, id)) for id in self.ids]
        )


class ProposalTargets(DenseTargets):
    """Proposals of box victims, ``(n, T)`` with T those of the image that has most; their last label is background.

    Args:
        proposals: Corners ``(T, 4)`` of each image's targets.
        labels: Their labels, ``(T,)`` each.
        ids: Ids of the images, from which the wrong labels are drawn.
        seed: Seed of these draws.
        targeted: Whether ``labels`` are goals.
    """

    def __init__(
        self, proposals: Sequence[Tensor], labels: Sequence[Tensor], ids: Sequence[str], seed: int, targeted: bool
    ) -> None:
        joined = pad_sequence(list(labels), batch_first=True, padding_value=-1) if labels else torch.zeros(0, 0)
        super().__init__(joined, ids, seed, targeted)
        self.proposals = list(proposals)

    @classmethod
    def chosen(
        cls,
        victim: Victim,
        clean: Tensor,
        targets: Any,
        ids: Sequence[str],
        seed: int,
        targeted: bool,
        least: tuple[float, float, float],
    ) -> "ProposalTargets":
        """Choose among the proposals of the clean images.

        Args:
            victim: The victim.
            clean: Clean images, ``(N, C, H, W)``.
            targets: True boxes, or goals if ``targeted``.
            ids: The images' ids.
            seed: Seed of the wrong labels.
            targeted: Whether the targets are goals.
            least: The fields ``overlap``, ``least_iou`` and ``least_score`` of ``DAG``.

        Raises:
            ValueError: The victim does not tell its proposals.
        """
        overlap, least_iou, least_score = least
        asked = box_victim(victim, "DAG")
        with torch.no_grad():
            proposals = asked.proposals(clean, overlap) if ids else []
            if targeted:
                pairs = zip(proposals, targets, strict=True)
                proposals = [torch.cat([corners, goal["boxes"].to(corners)]) for corners, goal in pairs]
            logits = asked.proposal_logits(clean, proposals) if ids else []
            labels = []
            for corners, found, target in zip(proposals, logits, targets, strict=True):
                if targeted:
                    labels.append(goal_labels(corners, found, target, least_score))
                else:
                    labels.append(true_labels(corners, found, target, least_iou, least_score))
        chosen = [(of_image >= 0).nonzero().squeeze(1) for of_image in labels]
        return cls(
            [corners[rows] for corners, rows in zip(proposals, chosen, strict=True)],
            [of_image[rows] for of_image, rows in zip(labels, chosen, strict=True)],
            ids,
            seed,
            targeted,
        )

    def logits(self, step: Step) -> Tensor:
        """Logits of the targets, ``(n, K + 1, T)``, also where the image that has T of them has left."""
        found = pad_sequence(box_victim(step.victim, "DAG").proposal_logits(step.images, self.proposals), True)
        return torch.nn.functional.pad(found, (0, 0, 0, self.labels.shape[1] - found.shape[1])).mT

    def others(self, logits: Tensor) -> int:
        """Number of labels among which a wrong one is drawn: those of objects, and the background if there is one."""
        return max(logits.shape[1] - 1, 2)

    def keep(self, places: Tensor) -> None:
        """Go on with the images at these places."""
        self.proposals = [self.proposals[place] for place in places.tolist()]
        super().keep(places)
        most = max(map(len, self.proposals), default=0)  # as wide as the logits of those that are left
        self.labels = self.labels[:, :most]
        self.wrong = None if self.wrong is None else self.wrong[:, :most]

    def _shifts(self, labels: int) -> Tensor:
        pairs = zip(self.ids, self.proposals, strict=True)
        drawn = [
            torch.randint(1, labels, (len(own),), generator=image_generator(self.seed, STREAM, id)) for id, own in pairs
        ]
        missing = [self.labels.shape[1] - len(own) for own in drawn]
        return torch.stack([torch.nn.functional.pad(own, (0, more)) for own, more in zip(drawn, missing, strict=True)])


def true_labels(
    proposals: Tensor, logits: Tensor, target: dict[str, Tensor], least_iou: float, least_score: float
) -> Tensor:
    """What each proposal of an image is, ``(P,)``: the label of the true box that it finds, -1 where it finds none.

    Args:
        proposals: Corners, ``(P, 4)``.
        logits: Their logits, ``(P, K + 1)``, background last.
        target: True boxes and labels.
        least_iou: IoU with a true box above which a proposal may find it.
        least_score: Probability of that box's class above which it finds it.
    """
    labels = target["labels"].long()
    if not len(labels):
        return labels.new_full((len(proposals),), -1)
    overlaps = box_iou(proposals, target["boxes"].to(proposals))
    finds = (overlaps > least_iou) & (logits.softmax(1)[:, labels] > least_score)
    best, place = torch.where(finds, overlaps, -1.0).max(1)
    return torch.where(best >= 0, labels[place], -1)


def goal_labels(proposals: Tensor, logits: Tensor, goal: dict[str, Tensor], least_score: float) -> Tensor:
    """What each proposal of an image is to become, ``(P,)``; -1 where it neither fits a goal nor finds anything.

    Args:
        proposals: Corners, ``(P, 4)``.
        logits: Their logits, ``(P, K + 1)``, background last.
        goal: Boxes and labels that are to be found.
        least_score: Probability of a class of objects above which a proposal finds something.
    """
    background = logits.shape[1] - 1
    found = logits.softmax(1)[:, :-1].amax(1) > least_score
    labels = torch.where(found, background, -1)
    wanted = goal["labels"].long()
    if not len(wanted):
        return labels
    best, place = box_iou(proposals, goal["boxes"].to(proposals)).max(1)
    return torch.where(best > GOAL_IOU, wanted[place], labels)

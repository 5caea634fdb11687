"""One split of somebody's batches: named and hashed in a first pass, dealt to the processes in the later ones."""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from medrobust.evaluation.context import EvaluationContext
from medrobust.evaluation.data import Batch
from medrobust.evaluation.given_batches import GivenBatch, read_batch
from medrobust.random_streams import content_ids

SHOWN = 8  # digits of an image's hash in the id that is made up for it
TASKS = {1: "classification", 2: "multilabel", 3: "segmentation"}


@dataclass(frozen=True)
class LoadedSample:
    """An image of a split.

    Args:
        id: Its id: the one that was given, or its place and the beginning of its hash.
        target: Its class, or its labels; None of masks and boxes.
        patient: Its patient; its own id where nobody says.
        stratum: Its class or its labels as text.
        content: Hash of its values and shape.
        truth: Hash of its target.
        highest: The largest number of its target, such as its class; None where there is none.
    """

    id: str
    target: Any
    patient: str
    stratum: str
    content: str
    truth: str
    highest: int | None


class LoadedSplit:
    """Images that a loader gives, each of them evaluated by one process.

    Where all processes are given the same images, these are dealt to them in turn. Where each is given images of its
    own, as by a ``DistributedSampler``, they have to have ids, by which an image that several have is known.

    Args:
        context: The process; all processes make a split at the same time.
        batches: What ``given_batches.batches_of`` returns; gone through here once.
        what: What they are, for the messages, such as ``data``.
        task: The task that the victim is known to have; None for what the targets look like.

    Attributes:
        samples: The images of all processes, in their order.
        task: ``classification``, ``multilabel``, ``segmentation`` or ``boxes``.
        first: The first image or two, to try a victim on.

    Raises:
        ValueError: There is no image, one is not in [0, 1], an id stands for two images, or the targets are those of
            another task.
    """

    def __init__(
        self, context: EvaluationContext, batches: Iterable[Any], what: str = "data", task: str | None = None
    ) -> None:
        """Go through the batches once."""
        self.context, self.batches, self.what = context, batches, what
        self.task, self._known_task = task or "", task
        self.named: bool | None = None  # whether ids are given
        self.first: GivenBatch | None = None
        self._shapes: set[tuple[int, ...]] = set()
        self._chosen: Collection[str] | None = None
        self.limit: int | None = None
        mine: list[LoadedSample] = []
        for number, value in enumerate(context.progress(batches, f"reading {what}")):
            mine += self._index(self._read(value, number), len(mine))
        self._check_names(mine)
        self.samples, self._owners = self._shared(mine)
        self._places = {sample.id: sample for sample in self.samples}

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Channels, height and width of the images; None where they differ."""
        return next(iter(self._shapes)) if len(self._shapes) == 1 else None

    def fingerprint(self) -> str:
        """32 hex digits that change with any image, target, id or patient, and not with their order."""
        rows = sorted((one.id, one.patient, one.content, one.truth) for one in self.samples)
        return hashlib.sha256(repr(rows).encode()).hexdigest()[:32]

    def part(self, ids: Collection[str]) -> "LoadedSplit":
        """The same images without all but some."""
        other = object.__new__(LoadedSplit)
        other.__dict__ |= self.__dict__
        kept = set(ids) if self._chosen is None else set(ids) & set(self._chosen)
        other._chosen = kept
        other.samples = [sample for sample in self.samples if sample.id in kept]
        return other

    def of_each(self, per_class: int | None) -> "LoadedSplit":
        """The first images of each stratum; all where ``per_class`` is None."""
        if per_class is None:
            return self
        counts: dict[str, int] = {}
        chosen = []
        for sample in self.samples:
            counts[sample.stratum] = counts.get(sample.stratum, 0) + 1
            if counts[sample.stratum] <= per_class:
                chosen.append(sample.id)
        return self.part(chosen)

    def __len__(self) -> int:
        """Number of batches, 0 where the loader does not say."""
        return len(self.batches) if isinstance(self.batches, Sized) else 0

    def __iter__(self) -> Iterator[Batch]:
        """This process's images, in batches; those that hold none of them are left out.

        Raises:
            ValueError: The images are not those of the first pass.
        """
        place = 0
        for number, value in enumerate(self.batches):
            if self.limit is not None and place >= self.limit:
                return
            given = self._read(value, number)
            batch = self.dealt(given, place)
            place += len(given.images)
            if batch is not None:
                yield batch
        if place < len(self._places) and self._owners is None:
            raise ValueError(
                f"{self.what} gave {len(self._places)} images in the first pass and {place} in a later one: a loader "
                "has to give the same images each time"
            )

    def dealt(self, given: GivenBatch, place: int) -> Batch | None:
        """The images of a batch that this process evaluates; None if there is none.

        Args:
            given: A batch, as it was in the first pass.
            place: Number of images before it.

        Raises:
            ValueError: An image is not the one that it was in the first pass.
        """
        rows, ids = [], []
        contents = content_ids(given.images)
        for row, content in enumerate(contents):
            at = place + row
            if given.ids is None and at >= len(self._order):
                raise ValueError(self._changed(f"image {at} (counted from 0) is new", named=False))
            id = self._order[at] if given.ids is None else given.ids[row]
            sample = self._places.get(id)
            if sample is None or sample.content != content:
                found = "is new" if sample is None else "is another one"
                which = f"image {at} (counted from 0)" if given.ids is None else f"image {id!r}"
                raise ValueError(self._changed(f"{which} {found}", named=given.ids is not None))
            if self._is_mine(id, at) and (self._chosen is None or id in self._chosen):
                rows.append(row)
                ids.append(id)
        if not rows:
            return None
        mine = given.rows(rows)
        return {"image": mine.images, "target": mine.targets, "id": ids}

    def read(self, value: Any) -> GivenBatch:
        """A batch with targets of the split's task."""
        return self._fitting(read_batch(value, f"a batch of {self.what}"))

    def _is_mine(self, id: str, place: int) -> bool:
        if self.limit is not None and place >= self.limit:
            return False
        if self._owners is not None:
            return self._owners[id] == self.context.rank
        return self._number[id] % self.context.ranks == self.context.rank

    def _changed(self, found: str, named: bool) -> str:
        how = "no random augmentation" if named else "shuffle=False, no random augmentation"
        names = "" if named else ", or name the images by ids in its batches"
        return (
            f"{self.what} is gone through twice, and in the second pass {found}: a loader has to give the same images "
            f"{'under the same ids' if named else 'in the same order'} each time ({how}){names}"
        )

    def _read(self, value: Any, number: int) -> GivenBatch:
        given = self._fitting(read_batch(value, f"batch {number} of {self.what}"))
        if self.named is not None and len(given.images) and self.named != (given.ids is not None):
            raise ValueError(f"{self.what} gives ids for some batches and none for others: give them for all or none")
        return given

    def _fitting(self, given: GivenBatch) -> GivenBatch:
        """A batch whose targets are those of the victim's task."""
        targets = given.targets
        found = TASKS.get(targets.ndim, "") if isinstance(targets, Tensor) else "boxes"
        if self._known_task == "classification" and isinstance(targets, Tensor) and targets.ndim == 2:
            if targets.shape[1] == 1:
                return GivenBatch(given.images, targets[:, 0], given.ids, given.patients)
            raise ValueError(
                f"{self.what} has targets {tuple(targets.shape)}, and the victim names one class for each image: of "
                "one-hot rows take targets.argmax(1); labels that do not exclude each other need "
                "as_victim(..., output='label_logits')"
            )
        if self.task == "segmentation" and isinstance(targets, Tensor) and targets.ndim == 4 and targets.shape[1] == 1:
            return GivenBatch(given.images, targets[:, 0], given.ids, given.patients)
        if not self.task:
            self.task = found
        if not found or found != self.task:
            shape = tuple(targets.shape) if isinstance(targets, Tensor) else "a list of boxes"
            raise ValueError(
                f"{self.what} has targets {shape}, and those of {self.task or 'a task'} are " + _expected(self.task)
            )
        return given

    def _index(self, given: GivenBatch, place: int) -> list[LoadedSample]:
        """What is kept of the images of a batch."""
        if not len(given.images):
            return []
        if self.first is None:
            self.first, self.named = given.rows(range(min(2, len(given.images)))), given.ids is not None
        self._shapes.add(tuple(given.images.shape[1:]))
        found = []
        for row, (content, target) in enumerate(zip(content_ids(given.images), given.targets, strict=True)):
            id = f"{place + row:05d}-{content[:SHOWN]}" if given.ids is None else given.ids[row]
            patient = id if given.patients is None else given.patients[row]
            found.append(_sample(id, patient, content, target))
            if isinstance(target, Tensor) and not target.ndim and int(target) < 0:
                raise ValueError(f"classes are counted from 0, and image {id!r} has the target {int(target)}")
        return found

    def _check_names(self, mine: Sequence[LoadedSample]) -> None:
        """Refuse a split without images, and an id that stands for two."""
        every = self.context.gather(len(mine))
        if not any(every):
            raise ValueError(f"{self.what} holds no image")
        places: dict[str, int] = {}
        for place, sample in enumerate(mine):
            if sample.id in places:
                raise ValueError(
                    f"an id names one image, and {sample.id!r} names image {places[sample.id]} and image {place} of "
                    f"{self.what} (counted from 0)"
                )
            places[sample.id] = place

    def _shared(self, mine: list[LoadedSample]) -> tuple[list[LoadedSample], dict[str, int] | None]:
        """The images of all processes, and which process has each; None where all have all."""
        parts = self.context.gather(mine)
        self._order = [sample.id for sample in mine]
        tasks = {task for task in self.context.gather(self.task) if task}
        self.task = next(iter(tasks))
        self._shapes = set().union(*self.context.gather(self._shapes))
        self._number = {id: number for number, id in enumerate(self._order)}
        if all(part == parts[0] for part in parts):
            return mine, None
        if not all(self.context.gather(bool(self.named) or not mine)):
            raise ValueError(
                f"the processes are given different images of {self.what}: give all of them the same loader, of which "
                "the images are dealt out here (without a DistributedSampler; in Lightning "
                "Trainer(use_distributed_sampler=False)), or name the images by ids in its batches"
            )
        owners: dict[str, int] = {}
        samples = []
        for rank, part in enumerate(parts):
            for sample in part:
                if sample.id not in owners:
                    owners[sample.id] = rank
                    samples.append(sample)
        return samples, owners


def _sample(id: str, patient: str, content: str, target: Any) -> LoadedSample:
    """What is kept of one image."""
    parts = [target] if isinstance(target, Tensor) else [target[name] for name in sorted(target)]
    digest = hashlib.sha256()
    for part in parts:
        values = torch.as_tensor(part).detach().cpu().contiguous()
        digest.update(repr((values.dtype, tuple(values.shape))).encode() + values.numpy().tobytes())
    known: Any = None
    if isinstance(target, Tensor) and target.ndim < 2:
        known = int(target) if not target.ndim else tuple(target.tolist())
    highest = int(target.max()) if isinstance(target, Tensor) and target.numel() else None
    stratum = "" if known is None else str(known)
    return LoadedSample(id, known, patient, stratum, content, digest.hexdigest()[:32], highest)


def _expected(task: str) -> str:
    return {
        "classification": "one class per image, (N,)",
        "multilabel": "a number for each label, (N, L)",
        "segmentation": "masks (N, H, W)",
        "boxes": "a list of N dictionaries with boxes and labels",
    }.get(task, "classes (N,), labels (N, L), masks (N, H, W) or a list of dictionaries of boxes")

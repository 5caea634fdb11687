"""The images that a victim was trained on and chosen by, as hashes: enough to recognise one, not to name it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self, runtime_checkable

import torch
from torch import Tensor

SCHEMA = 1
COLUMNS = ("ids", "patients", "data", "pixels")
# why an image counts as seen, the weightier reason first
REASONS = {
    "data": "the same file",
    "pixels": "the same pixels under another name",
    "ids": "an image of that name with other content",
    "patients": "another image of its patient",
}


@dataclass(frozen=True)
class SeenImages:
    """The images in a victim's Train and Val.

    A checkpoint keeps it as plain values and tensors, which load without code; 100,000 images take 3.2 MB.

    Args:
        facts: What the data were: ``name``, ``class_names``, ``image_size`` and others, ready for JSON.
        splits: Hashes of the images of ``train`` and ``val``: ``ids``, ``patients``, ``data`` (bytes of the files) and
            ``pixels`` (of the decoded image), each int64 ``(N,)``; 0 means unknown.
    """

    facts: Mapping[str, Any]
    splits: Mapping[str, Mapping[str, Tensor]]

    @classmethod
    def stored(cls, value: object) -> Self | None:
        """What a checkpoint keeps under ``trained_on``; None for one that does not say what it was trained on."""
        if not isinstance(value, dict) or value.get("schema") != SCHEMA:
            return None
        splits = value["splits"]
        return cls({name: fact for name, fact in value.items() if name not in ("schema", "splits")}, splits)

    def to_store(self) -> dict[str, Any]:
        """Plain values and tensors, which `stored` reads."""
        splits = {split: dict(hashes) for split, hashes in self.splits.items()}
        return {"schema": SCHEMA, **self.facts, "splits": splits}

    def reasons(self, split: str, hashes: Mapping[str, Tensor]) -> list[str]:
        """Why each of N images counts as one of a split, in words of `REASONS`; empty for those that do not.

        Args:
            split: ``train`` or ``val``.
            hashes: Hashes of N images, in the same columns.

        >>> seen = SeenImages({}, {"train": {name: torch.tensor([1, 2]) for name in COLUMNS}})
        >>> new = {"ids": [5, 6], "patients": [2, 7], "data": [0, 8], "pixels": [0, 9]}
        >>> seen.reasons("train", {name: torch.tensor(values) for name, values in new.items()})
        ['another image of its patient', '']
        """
        known = self.splits.get(split, {})
        found = [""] * len(hashes["ids"])
        for column in reversed(REASONS):
            if column in known and column in hashes:
                hits = torch.isin(hashes[column], known[column]) & (hashes[column] != 0)
                for place in hits.nonzero().flatten().tolist():
                    found[place] = REASONS[column]
        return found

    def differences(self, split: str, hashes: Mapping[str, Tensor]) -> dict[str, int]:
        """How many images of a split are ``gone``, ``new`` or ``changed`` in content, compared with what was seen."""
        known = self.splits.get(split, {})
        before = dict(zip(known["ids"].tolist(), known["data"].tolist(), strict=True)) if known else {}
        now = dict(zip(hashes["ids"].tolist(), hashes["data"].tolist(), strict=True))
        return {
            "gone": len(before.keys() - now.keys()),
            "new": len(now.keys() - before.keys()),
            "changed": sum(before[id] != now[id] for id in before.keys() & now.keys()),
        }

    def joined(self, other: "SeenImages") -> "SeenImages":
        """The images of both, with the facts of the other: a victim that is trained further has seen them all."""
        return SeenImages(
            other.facts,
            {
                split: {
                    column: torch.cat([one.splits[split][column] for one in (self, other) if split in one.splits])
                    for column in COLUMNS
                }
                for split in dict.fromkeys([*self.splits, *other.splits])
            },
        )


@runtime_checkable
class TellsSeenImages(Protocol):
    """A victim that can tell what it has seen."""

    def seen_images(self) -> SeenImages | None:
        """The images of its training and validation; None where nobody has noted them."""


@runtime_checkable
class HashedData(Protocol):
    """Data that tell images apart by hashes, of the columns that ``SeenImages`` describes."""

    def hashes(self, split: str) -> Mapping[str, Tensor]:
        """Hashes of the images of a split, each int64 ``(N,)``, in the order of the split; 0 means unknown."""


@runtime_checkable
class TrainingData(HashedData, Protocol):
    """Data that a victim can note in its checkpoint."""

    def training_data(self) -> dict[str, Any]:
        """What `SeenImages.stored` reads, of Train and Val."""

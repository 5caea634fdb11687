"""What a victim has seen: images are recognised by their name, their patient, their file and their pixels."""

import io

import torch
from torch import Tensor

from medrobust.networks import SeenImages
from medrobust.networks.seen_images import COLUMNS, REASONS


def hashes(ids: list[int], patients: list[int], data: list[int], pixels: list[int]) -> dict[str, Tensor]:
    """Columns of hashes."""
    return dict(zip(COLUMNS, map(torch.tensor, (ids, patients, data, pixels)), strict=True))


SEEN = SeenImages(
    {"name": "some"}, {"train": hashes([1, 2], [11, 11], [21, 22], [31, 0]), "val": hashes([], [], [], [])}
)


def test_the_weightiest_reason_is_given() -> None:
    # same file; same pixels only; same id only; same patient only; nothing, with unknown pixels that match no unknown
    asked = hashes([1, 5, 2, 6, 7], [11, 15, 11, 11, 17], [21, 25, 26, 27, 28], [31, 31, 36, 37, 0])
    words = [REASONS["data"], REASONS["pixels"], REASONS["ids"], REASONS["patients"], ""]
    assert SEEN.reasons("train", asked) == words
    assert SEEN.reasons("val", asked) == SEEN.reasons("unheard of", asked) == [""] * 5


def test_differences_are_counted() -> None:
    now = hashes([2, 3, 4], [11, 13, 14], [29, 23, 24], [0, 0, 0])
    assert SEEN.differences("train", now) == {"gone": 1, "new": 2, "changed": 1}
    assert not any(SEEN.differences("train", SEEN.splits["train"]).values())


def test_what_is_stored_loads_without_code_and_in_little_space() -> None:
    many = {name: torch.arange(100_000) for name in COLUMNS}
    file = io.BytesIO()
    torch.save({"trained_on": SeenImages({"name": "many", "class_names": ["a"]}, {"train": many}).to_store()}, file)
    assert file.tell() < 3.3e6
    file.seek(0)
    loaded = SeenImages.stored(torch.load(file, weights_only=True)["trained_on"])
    assert loaded is not None and loaded.facts == {"name": "many", "class_names": ["a"]}
    assert torch.equal(loaded.splits["train"]["pixels"], many["pixels"])


def test_what_is_not_known_is_none() -> None:
    assert SeenImages.stored(None) is None and SeenImages.stored({"schema": 99}) is None


def test_further_training_adds_what_is_seen() -> None:
    both = SEEN.joined(SeenImages({"name": "other"}, {"train": hashes([8], [18], [28], [38])}))
    assert both.facts == {"name": "other"} and both.splits["train"]["ids"].tolist() == [1, 2, 8]
    assert set(both.splits) == {"train", "val"}

"""Batches of other people's loaders: what is understood, and the sentence with which the rest is refused."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from medrobust.evaluation.given_batches import batches_of, fresh, read_batch, read_images, read_targets

IMAGES, TARGETS = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0])


class Eager:
    """An array of another library."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def numpy(self) -> np.ndarray:
        return self.values


@pytest.mark.parametrize(
    "given",
    [
        (IMAGES, TARGETS),
        [IMAGES, TARGETS],
        (IMAGES.numpy(), TARGETS.numpy()),
        (IMAGES.double(), TARGETS.float()),
        (IMAGES, TARGETS.tolist()),
        (Eager(IMAGES.numpy()), Eager(TARGETS.numpy())),
        {"image": IMAGES, "target": TARGETS, "more": None},
        {"pixel_values": IMAGES, "labels": TARGETS},
        {"images": IMAGES, "mask": TARGETS},
    ],
    ids=lambda given: type(given).__name__,
)
def test_a_batch_is_understood_in_many_forms(given: Any) -> None:
    batch = read_batch(given, "batch 0")
    assert torch.equal(batch.images, IMAGES) and batch.images.dtype == torch.float32
    assert torch.equal(batch.targets, TARGETS) and batch.targets.dtype == torch.int64
    assert batch.ids is None and batch.patients is None


def test_ids_and_patients_become_text() -> None:
    named = read_batch({"image": IMAGES, "target": TARGETS, "id": torch.arange(4), "patient": list("aabb")}, "batch 0")
    assert named.ids == list("0123") and named.patients == list("aabb")
    assert read_batch((IMAGES, TARGETS, ("a", "b", "c", "d")), "batch 0").ids == list("abcd")
    part = named.rows([2, 0])
    assert part.ids == ["2", "0"] and part.patients == ["b", "a"] and torch.equal(part.images, IMAGES[[2, 0]])


LAST = IMAGES.permute(0, 2, 3, 1)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (
            (LAST * 255).byte().numpy(),
            r"channels second, got ndarray uint8 \(4, 8, 8, 3\): convert them by "
            r"torch.from_numpy\(images\).permute\(0, 3, 1, 2\) / 255$",
        ),
        (LAST.numpy(), r"torch.from_numpy\(images\).permute\(0, 3, 1, 2\)$"),
        ((LAST * 255).numpy(), r"torch.from_numpy\(images\).permute\(0, 3, 1, 2\) / 255$"),
        (Eager(LAST.numpy()), r"got Eager .*torch.from_numpy\(images.numpy\(\)\).permute\(0, 3, 1, 2\)$"),
        (LAST, r"got Tensor float32 \(4, 8, 8, 3\): convert them by images.permute\(0, 3, 1, 2\)$"),
        (
            (IMAGES * 255).byte(),
            r"float32 images .* got Tensor uint8 .*: convert them by images.float\(\) / 255$",
        ),
        ((IMAGES * 255).byte().numpy(), r"convert them by torch.from_numpy\(images\).float\(\) / 255$"),
        (IMAGES.half(), r"got Tensor float16 .*: convert them by images.float\(\)$"),
        (IMAGES * 255, r"in \[0, 1\], got values from [\d.]+ to [\d.]+: divide them by 255$"),
        (
            (IMAGES - 0.5) / 0.25,
            r"got values from -[\d.]+ to .*: images that are normalised .* as_victim\(model",
        ),
        (IMAGES * 1000, r"to \d+(\.\d)?: scale them$"),
        (IMAGES[0], r"got Tensor float32 \(3, 8, 8\): images\[:, None\] gives .*, and images\[None\] makes a batch"),
        (IMAGES[0, 0], r"expected images \(N, C, H, W\), got Tensor float32 \(8, 8\)"),
        (IMAGES.tolist(), "got a list"),
        (torch.where(IMAGES > 0.9, torch.nan, IMAGES), "the one at place 0 of the batch holds NaN or infinity"),
    ],
    ids=range(15),
)
def test_images_of_another_form_are_refused_with_their_conversion(images: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        read_images(images)
    assert "\n" not in str(error.value)


def test_the_conversion_that_is_named_is_the_right_one() -> None:
    array = (LAST * 255).round().byte().numpy()
    with pytest.raises(ValueError, match="convert them by ") as error:
        read_images(array)
    converted = eval(str(error.value).partition("convert them by ")[2], {"torch": torch, "images": array})
    torch.testing.assert_close(read_images(converted), IMAGES, atol=0.5 / 255, rtol=0)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ((IMAGES, TARGETS - 1), "batch 3: classes are counted from 0, got -1"),
        (
            (IMAGES, TARGETS + 0.5),
            r"batch 3: expected targets of whole .* got torch.float32 \(4,\) with parts",
        ),
        ((IMAGES, ["cat"] * 4), "batch 3: expected targets of whole numbers, got a list such as"),
        ((IMAGES, None), "batch 3: expected targets of whole numbers or dicts of boxes, got a NoneType"),
        ((IMAGES, TARGETS[:3]), "batch 3: got 4 images, 3 targets"),
        ((IMAGES, TARGETS, ["a", "b", "a", "c"]), "batch 3: ids name the images .* got 'a' for 2 of 4"),
        ((IMAGES, TARGETS, 1.5), "batch 3: expected a list of texts as id"),
        ({"image": IMAGES, "target": TARGETS, "patient": ["a"]}, "batch 3: got 4 images and 1 patients"),
        (
            {"image": IMAGES, "class": TARGETS},
            "batch 3 is a .* with the keys 'image', 'class': .* 'target' is missing",
        ),
        (IMAGES, r"batch 3: a batch is a pair \(images, targets\), .* got a Tensor"),
        ((IMAGES,), "got a tuple of 1"),
    ],
    ids=range(11),
)
def test_a_batch_that_lacks_something_is_refused_by_its_name(value: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_batch(value, "batch 3")


def test_boxes_are_lists_of_dictionaries() -> None:
    boxes = [{"boxes": torch.tensor([[0.0, 0.0, 4.0, 4.0]]), "labels": torch.tensor([0])}] * 4
    assert read_batch((IMAGES, boxes), "batch 0").targets == boxes
    assert read_targets(np.array([[1, 0], [0, 1]])).tolist() == [[1, 0], [0, 1]]


def test_images_in_memory_come_in_batches_as_often_as_one_likes() -> None:
    for given in ((IMAGES, TARGETS), {"image": IMAGES, "target": TARGETS}, (IMAGES.numpy(), TARGETS.numpy())):
        batches: Any = batches_of(given, 3)
        assert len(batches) == 2
        for _ in range(2):
            assert [len(batch.images) for batch in batches] == [3, 1]
            assert torch.equal(torch.cat([batch.targets for batch in batches]), TARGETS)
    listed = [(IMAGES[:2], TARGETS[:2]), (IMAGES[2:], TARGETS[2:])]
    assert batches_of(listed, 3) is listed
    loader = DataLoader(TensorDataset(IMAGES, TARGETS), batch_size=3)
    assert batches_of(loader, 3) is loader and fresh(loader) is loader


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (iter([(IMAGES, TARGETS)]), "data is gone through more than once, and a list_iterator gives its batches once"),
        (TensorDataset(IMAGES, TARGETS), "data is a TensorDataset, which gives single images: put it into a loader"),
        (IMAGES, "data is images alone: their targets are needed too"),
        ("folder", "data is a loader, a list of batches or a pair .*, got str"),
        (None, "got NoneType"),
    ],
    ids=range(5),
)
def test_what_gives_no_batches_is_refused(given: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        batches_of(given, 2)


def test_a_loader_that_keeps_its_workers_is_copied() -> None:
    def collated(items: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        return torch.stack([one for one, _ in items]), torch.stack([other for _, other in items])

    loader = DataLoader(
        TensorDataset(IMAGES, TARGETS), batch_size=3, num_workers=1, persistent_workers=True, collate_fn=collated
    )
    other = fresh(loader)
    assert other is not loader and not other.persistent_workers
    assert (other.batch_sampler, other.collate_fn, other.dataset) == (loader.batch_sampler, collated, loader.dataset)


def test_arrays_of_other_layouts_are_understood_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    frozen = IMAGES.numpy().copy()
    frozen.setflags(write=False)
    for images in (frozen, IMAGES.numpy().astype(">f4"), IMAGES.clone().requires_grad_()):
        read = read_batch((images, TARGETS.numpy().astype(">i8")), "data")
        assert torch.equal(read.images, IMAGES) and not read.images.requires_grad
        assert torch.equal(torch.as_tensor(read.targets), TARGETS)
    assert not recwarn.list


@pytest.mark.parametrize(
    ("targets", "ids", "words"),
    [
        (np.array(["a"] * 4), None, "expected targets of whole numbers, got a ndarray of <U1"),
        (np.array([None] * 4), None, "expected targets of whole numbers, got a ndarray of object"),
        (torch.tensor([0, 1, 1, 1e20]), None, r"expected targets of whole numbers, got 1e\+20 among them"),
        (TARGETS, ["a", "b", "c", "\ud800"], "expected a text that UTF-8 can hold as id, got"),
    ],
    ids=range(4),
)
def test_targets_and_ids_that_cannot_be_meant_are_refused(targets: Any, ids: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_batch((IMAGES, targets, ids), "data")

"""Batches as other people's loaders give them, read as images, targets, ids and patients, or refused in a sentence."""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from medrobust.attacks.batch_checks import check_batch
from medrobust.networks.victims import Targets

IMAGES = ("image", "images", "pixel_values", "img")
TARGETS = ("target", "targets", "label", "labels", "mask", "masks")
IDS = ("id", "ids")
PATIENTS = ("patient", "patients")
LARGEST = 2.0**53  # up to which a floating point number tells one whole number from the next
CHANNELS = (1, 3, 4)  # numbers of channels that the last dimension of an image is taken for


@runtime_checkable
class GivesNumpy(Protocol):
    """An array of another library, such as a tensor of TensorFlow."""

    def numpy(self) -> np.ndarray:
        """Its values."""
        ...


@dataclass(frozen=True)
class GivenBatch:
    """N images, checked.

    Args:
        images: ``(N, C, H, W)``, float32 in [0, 1].
        targets: Classes ``(N,)``, labels ``(N, L)`` or masks ``(N, H, W)`` as int64, or a list of N dicts of boxes.
        ids: Names of the images; None where they have none.
        patients: Patient of each image; None where nobody says.
    """

    images: Tensor
    targets: Targets
    ids: list[str] | None
    patients: list[str] | None

    def rows(self, places: Sequence[int]) -> "GivenBatch":
        """The images at some places."""
        chosen = list(places)
        if chosen == list(range(len(self.images))):
            return self
        ids, patients = (None if one is None else [one[row] for row in chosen] for one in (self.ids, self.patients))
        targets = self.targets[chosen] if isinstance(self.targets, Tensor) else [self.targets[row] for row in chosen]
        return GivenBatch(self.images[chosen], targets, ids, patients)


class InMemoryBatches:
    """Images in memory, in batches.

    Args:
        given: All of them.
        size: Images in a batch.
    """

    def __init__(self, given: GivenBatch, size: int) -> None:
        """Keep them; nothing is copied."""
        self.given, self.size = given, size

    def __len__(self) -> int:
        """Number of batches."""
        return -(-len(self.given.images) // self.size)

    def __iter__(self) -> Iterator[GivenBatch]:
        """The batches, in order."""
        for start in range(0, len(self.given.images), self.size):
            yield self.given.rows(range(start, min(start + self.size, len(self.given.images))))


def batches_of(given: Any, size: int, what: str = "data") -> Iterable[Any]:
    """Batches of images that can be gone through more than once.

    Args:
        given: A loader or a list of batches, each a pair (images, targets), a triple with ids, or a dictionary; or all
            images at once, as one such pair, triple or dictionary of tensors or NumPy arrays.
        size: Images in a batch, where all are given at once.
        what: What these are, for the messages.

    Raises:
        ValueError: They are something else, or can be gone through only once.
    """
    if size < 1:
        raise ValueError(f"batch_size counts images and is at least 1, got {size}")
    if isinstance(given, Mapping) or (isinstance(given, tuple | list) and len(given) in (2, 3) and is_array(given[0])):
        return InMemoryBatches(read_batch(given, what), size)
    if isinstance(given, Dataset):
        raise ValueError(
            f"{what} is a {type(given).__name__}, which gives single images: put it into a loader, "
            "torch.utils.data.DataLoader(dataset, batch_size=32)"
        )
    if is_array(given):
        raise ValueError(f"{what} is images alone: their targets are needed too, as a pair (images, targets)")
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise ValueError(
            f"{what} is a loader, a list of batches or a pair (images, targets) of arrays, got {type(given).__name__}"
        )
    if isinstance(given, Iterator):
        raise ValueError(
            f"{what} is gone through more than once, and a {type(given).__name__} gives its batches once: make a list "
            "of it, or give the loader that it comes from"
        )
    return given


def fresh(loader: Any) -> Any:
    """A loader that can be gone through while another loop goes through the same one, even if it keeps its workers."""
    if not isinstance(loader, DataLoader) or not loader.persistent_workers:
        return loader
    options: dict[str, Any] = {"num_workers": loader.num_workers, "timeout": loader.timeout}
    if isinstance(loader.dataset, IterableDataset):
        options |= {"batch_size": loader.batch_size, "drop_last": loader.drop_last}
    elif loader.batch_sampler is None:
        options |= {"batch_size": None, "sampler": loader.sampler}
    else:
        options["batch_sampler"] = loader.batch_sampler
    return DataLoader(loader.dataset, collate_fn=loader.collate_fn, worker_init_fn=loader.worker_init_fn, **options)


def is_array(value: Any) -> bool:
    """Whether a value is a tensor or an array of any library."""
    return isinstance(value, Tensor | np.ndarray) or (isinstance(value, GivesNumpy) and not isinstance(value, type))


def read_batch(value: Any, where: str) -> GivenBatch:
    """Images, targets, ids and patients of a batch.

    Args:
        value: A pair (images, targets), a triple (images, targets, ids), or a dictionary with ``image`` and ``target``
            and, where they are known, ``id`` and ``patient``; plural forms, ``pixel_values``, ``label`` and ``mask``
            are understood, too.
        where: Which batch this is, for the messages.

    Raises:
        ValueError: Something is missing, or no image in [0, 1] or no target; the message says how it becomes one.
    """
    if isinstance(value, GivenBatch):
        return value
    images, targets, ids, patients = _parts(value, where)
    try:
        images, targets = read_images(images), read_targets(targets)
        names, persons = _texts(ids, "id"), _texts(patients, "patient")
        check_batch(images, targets, names)
        if persons is not None and len(persons) != len(images):
            raise ValueError(f"got {len(images)} images and {len(persons)} patients: one of each is needed")
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    return GivenBatch(images, targets, names, persons)


def _parts(value: Any, where: str) -> tuple[Any, Any, Any, Any]:
    """Images, targets, ids and patients of a batch, as they are given."""
    if isinstance(value, Mapping):
        found = [next((value[key] for key in keys if key in value), None) for keys in (IMAGES, TARGETS, IDS, PATIENTS)]
        for what, part in (("image", found[0]), ("target", found[1])):
            if part is None:
                raise ValueError(
                    f"{where} is a dictionary with the keys {', '.join(map(repr, value))}: expected 'image' and "
                    f"'target', and where they are known 'id' and 'patient'; {what!r} is missing"
                )
        return found[0], found[1], found[2], found[3]
    if isinstance(value, tuple | list) and len(value) in (2, 3):
        return value[0], value[1], value[2] if len(value) == 3 else None, None
    received = f"{type(value).__name__} of {len(value)}" if isinstance(value, tuple | list) else type(value).__name__
    raise ValueError(
        f"{where}: a batch is a pair (images, targets), a triple (images, targets, ids) or a dictionary with 'image' "
        f"and 'target', got a {received}"
    )


def read_images(value: Any) -> Tensor:
    """Images ``(N, C, H, W)``, float32 in [0, 1].

    Raises:
        ValueError: They are something else; the message says the conversion.
    """
    name, given = "images", value.detach() if isinstance(value, Tensor) else value
    if not isinstance(value, Tensor | np.ndarray):
        if not is_array(value):
            raise ValueError(f"expected float32 images (N, C, H, W) in [0, 1], got a {type(value).__name__}")
        name, given = "images.numpy()", value.numpy()
    shape = tuple(given.shape)
    dtype: Any = given.dtype
    kind = dtype.name if isinstance(dtype, np.dtype) else str(dtype).removeprefix("torch.")  # of either order of bytes
    tensor = name if isinstance(given, Tensor) else f"torch.from_numpy({name})"
    told = f"got {type(value).__name__} {kind} {shape}"
    if len(shape) == 3:
        raise ValueError(
            f"expected images (N, C, H, W), {told}: {name}[:, None] gives grey images their channel, and {name}[None] "
            "makes a batch of one image"
        )
    whole = kind.startswith(("uint", "int", "bool"))
    largest = float(given.max()) if 0 not in shape else 0.0
    scaled = " / 255" if (whole and kind != "bool") or 1 < largest <= 255 else ""
    if len(shape) == 4 and shape[3] in CHANNELS and shape[1] not in CHANNELS:
        raise ValueError(
            f"expected images (N, C, H, W) with the channels second, {told}: convert them by "
            f"{tensor}.permute(0, 3, 1, 2){scaled}"
        )
    if len(shape) != 4:
        raise ValueError(f"expected images (N, C, H, W), {told}")
    if kind not in ("float32", "float64"):
        raise ValueError(f"expected float32 images in [0, 1], {told}: convert them by {tensor}.float(){scaled}")
    images = (given if isinstance(given, Tensor) else _tensor_of(given)).float()
    _check_range(images)
    return images


def _check_range(images: Tensor) -> None:
    """Refuse images outside [0, 1], and say how they get there."""
    if not images.numel():
        return
    finite = images.detach().isfinite().flatten(1).all(1)
    if not bool(finite.all()):
        place = int((~finite).nonzero()[0])
        raise ValueError(f"expected finite images, and the one at place {place} of the batch holds NaN or infinity")
    low, high = (float(bound) for bound in torch.stack(images.detach().aminmax()))
    if low < 0:
        raise ValueError(
            f"expected images in [0, 1], got values from {low:.4g} to {high:.4g}: images that are normalised already "
            "are to be given as they were before, and mean and std to as_victim(model, mean, std)"
        )
    if high > 1:
        how = ": divide them by 255" if high <= 255 else ": scale them"
        raise ValueError(f"expected images in [0, 1], got values from {low:.4g} to {high:.4g}{how}")


def read_targets(value: Any) -> Targets:
    """Targets as int64, or a list of dicts of boxes.

    Raises:
        ValueError: They are no whole numbers.
    """
    if isinstance(value, list | tuple) and value and all(isinstance(one, Mapping) for one in value):
        return [dict(one) for one in value]
    if not isinstance(value, Tensor) and is_array(value):
        array = np.asarray(value if isinstance(value, np.ndarray) else value.numpy())
        if array.dtype.kind not in "buif":
            raise ValueError(f"expected targets of whole numbers, got a {type(value).__name__} of {array.dtype}")
        value = _tensor_of(array)
    if isinstance(value, list | tuple):
        try:
            value = torch.as_tensor(value)
        except (TypeError, ValueError, RuntimeError):
            raise ValueError(f"expected targets of whole numbers, got a list such as {value[:1]!r}") from None
    if not isinstance(value, Tensor):
        raise ValueError(f"expected targets of whole numbers or dicts of boxes, got a {type(value).__name__}")
    if value.is_complex() or (value.is_floating_point() and not bool((value == value.round()).all())):
        raise ValueError(
            f"expected targets of whole numbers, one class, mask or row of labels for each image, got {value.dtype} "
            f"{tuple(value.shape)} with parts of ones"
        )
    if value.is_floating_point() and not bool((value.abs() <= LARGEST).all()):
        raise ValueError(f"expected targets of whole numbers, got {float(value.abs().max()):g} among them")
    return value.long()


def _tensor_of(array: np.ndarray) -> Tensor:
    """A tensor that shares the memory of an array, where its values are laid out as torch has them."""
    array = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # nothing is written into it
        return torch.from_numpy(array)


def _texts(values: Any, what: str) -> list[str] | None:
    """Names as text; numbers are written out."""
    if values is None:
        return None
    listed = values.tolist() if isinstance(values, Tensor | np.ndarray) else values
    if not isinstance(listed, list | tuple) or not all(isinstance(one, str | int) for one in listed):
        raise ValueError(f"expected a list of texts as {what}, one for each image, got a {type(values).__name__}")
    texts = [str(one) for one in listed]
    if unwritable := [text for text in texts if any("\ud800" <= letter <= "\udfff" for letter in text)]:
        raise ValueError(f"expected a text that UTF-8 can hold as {what}, got {unwritable[0]!r}")
    return texts

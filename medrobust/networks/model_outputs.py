"""What other people's models return, read as the logits that attacks need."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch
from torch import Tensor

OfClasses = Literal["logits", "probabilities", "one_logit", "one_sigmoid"]
OfLabels = Literal["label_logits", "label_sigmoids"]
OfMasks = Literal["masks"]
OutputKind: TypeAlias = OfClasses | OfLabels | OfMasks
Output: TypeAlias = OutputKind | Callable[[Any], Tensor]

KINDS: tuple[str, ...] = (*get_args(OfClasses), *get_args(OfLabels), *get_args(OfMasks))
SHAPES = {
    "logits": "logits (N, K) with K >= 2",
    "probabilities": "probabilities (N, K) with K >= 2",
    "one_logit": "one logit for each image, (N, 1) or (N,)",
    "one_sigmoid": "one probability for each image, (N, 1) or (N,)",
    "label_logits": "a logit for each label, (N, L)",
    "label_sigmoids": "a probability for each label, (N, L)",
    "masks": "logits (N, K, H, W)",
}
PLACES = ("logits", "out")  # where objects and dictionaries keep them: those of transformers, and torchvision's masks
SUM_TOLERANCE = 1e-2  # by which rounding of a model in half precision may move the sum of its probabilities
ENOUGH = 16  # numbers of which all lie in [0, 1] before logits are taken for probabilities


def read_logits(outputs: Any, kind: str, whose: str = "this one") -> Tensor:
    """Logits, whatever form a model returns them in.

    Probabilities become logits by the logarithm, log p or log p - log(1 - p), whose softmax or sigmoid they are. Where
    float32 has rounded one to 0 or 1 nothing is left to differentiate: a sigmoid is lost beyond a logit of about 17, a
    softmax beyond a gap of about 87. Such gradients are counted as vanished.

    Args:
        outputs: A tensor, or an object or dictionary that has one under ``logits`` (or ``out``).
        kind: What the tensor holds, one of ``KINDS``.
        whose: Whose outputs these are, for the message.

    Returns:
        ``(N, K)`` with K >= 2 of classes, of which a single logit z becomes (0, z); ``(N, L)`` of labels;
        ``(N, K, H, W)`` with K >= 2 of masks. At least float32.

    Raises:
        ValueError: They are of another form; the message says which, and which ``output`` would read it.

    >>> read_logits(torch.tensor([[2.0]]), "one_logit")
    tensor([[0., 2.]])
    >>> read_logits({"logits": torch.tensor([[0.25, 0.75]])}, "probabilities").exp()
    tensor([[0.2500, 0.7500]])
    """
    found = tensor_in(outputs)
    if found is None or not _fits(found, kind):
        raise ValueError(_unexpected(outputs, found, kind, whose))
    values = found.float() if found.dtype in (torch.float16, torch.bfloat16) else found
    if kind in ("one_logit", "one_sigmoid"):
        values = values.reshape(-1, 1)
    if kind == "probabilities":
        return _log(values)
    if kind == "one_sigmoid":
        return torch.cat([_log(1 - values), _log(values)], 1)
    if kind == "label_sigmoids":
        return _log(values) - _log(1 - values)
    single = kind == "one_logit" or (kind == "masks" and values.shape[1] == 1)
    return torch.cat([torch.zeros_like(values), values], 1) if single else values


def tensor_in(outputs: Any) -> Tensor | None:
    """The tensor that a model returned, or that is under ``logits`` or ``out`` in what it returned; None if none is."""
    if isinstance(outputs, Tensor):
        return outputs
    for place in PLACES:
        found = outputs.get(place) if isinstance(outputs, Mapping) else getattr(outputs, place, None)
        if isinstance(found, Tensor):
            return found
    return None


def check_numbers(outputs: Any, kind: str) -> bool:
    """Refuse probabilities that are none, and logits of one sigmoid or of labels that are probabilities.

    The host waits for the device, so that it is asked until there is an answer for a model, and then no more.

    Args:
        outputs: What a model returned, as ``read_logits`` takes it.
        kind: What it is said to be.

    Returns:
        Whether there were enough numbers to tell.

    Raises:
        ValueError: The message says which ``output`` fits.
    """
    values = tensor_in(outputs)
    few = ENOUGH if kind in ("one_logit", "label_logits") else 1
    if values is None or values.numel() < few or not bool(values.isfinite().all()):
        return False  # what is not finite is refused where the image's name is known
    low, high = (float(bound) for bound in torch.stack(values.detach().float().aminmax()))
    inside = low >= 0 and high <= 1
    if kind in ("one_logit", "label_logits") and inside:
        meant = "one_sigmoid" if kind == "one_logit" else "label_sigmoids"
        raise ValueError(
            f"output={kind!r} is said to be logits, of which some are negative, and all {values.numel()} values that "
            f"the model returned lie between {low:.3g} and {high:.3g}: if a sigmoid has made them, say output={meant!r}"
        )
    if kind not in ("probabilities", "one_sigmoid", "label_sigmoids"):
        return True
    if not inside:
        meant = {"probabilities": "logits", "one_sigmoid": "one_logit", "label_sigmoids": "label_logits"}[kind]
        raise ValueError(
            f"output={kind!r} is said to be probabilities, and the model returned values from {low:.3g} to {high:.3g}: "
            f"logits are output={meant!r}"
        )
    sums = values.detach().float().sum(1) if kind == "probabilities" else torch.ones(1)
    if bool(((sums - 1).abs() > SUM_TOLERANCE).any()):
        raise ValueError(
            "output='probabilities' are those of a softmax, which sum to 1, and the model's sum to "
            f"{float(sums[0]):.3g} for the first image: sigmoids of several labels are output='label_sigmoids'"
        )
    return True


def check_output(output: Any) -> None:
    """Refuse what names no kind of output.

    Raises:
        ValueError: It is neither one of ``KINDS`` nor a function.
    """
    if not callable(output) and output not in KINDS:
        raise ValueError(f"output is a function or one of {', '.join(KINDS)}, got {output!r}")


def _log(values: Tensor) -> Tensor:
    return values.clamp(min=torch.finfo(values.dtype).tiny).log()


def _fits(values: Tensor, kind: str) -> bool:
    if not values.is_floating_point():
        return False
    if kind in ("one_logit", "one_sigmoid"):
        return values.ndim == 1 or (values.ndim == 2 and values.shape[1] == 1)
    if kind == "masks":
        return values.ndim == 4 and values.shape[1] >= 1
    return values.ndim == 2 and values.shape[1] >= (1 if kind in get_args(OfLabels) else 2)


def _unexpected(outputs: Any, found: Tensor | None, kind: str, whose: str) -> str:
    """What to say of outputs of another form."""
    received, hint = type(outputs).__name__, ""
    if isinstance(outputs, np.ndarray):
        hint = ": attacks need the tensor itself, with its gradient"
    elif found is None and isinstance(outputs, list | tuple):
        hint = ": say which entry holds them, such as output=lambda outputs: outputs[0]"
    elif found is None:
        hint = ": say where they are, such as output=lambda outputs: outputs.scores"
    elif not found.is_floating_point():
        received, hint = f"whole numbers {tuple(found.shape)}", ": attacks need the logits by which these were chosen"
    else:
        received = f"{tuple(found.shape)}"
        if kind == "logits" and (found.ndim == 1 or (found.ndim == 2 and found.shape[1] == 1)):
            hint = ": say output='one_logit', or 'one_sigmoid' where a sigmoid has made it a probability"
        elif kind == "logits" and found.ndim == 4:
            hint = ": say output='masks' if they name a class for each pixel"
    what = "classifiers that return" if kind in get_args(OfClasses) else "models that return"
    return f"as_victim wraps {what} {SHAPES[kind]}, {whose} returned {received}{hint}"

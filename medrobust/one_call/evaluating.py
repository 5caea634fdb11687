"""An evaluation in one call, without Lightning: resumed, checked and reported as on the command line."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

import torch
from torch import Tensor, nn

from medrobust.detectors import Detector
from medrobust.evaluation import Crafter, EvaluationListener
from medrobust.networks.victims import EvaluatedVictim
from medrobust.one_call.call import Call
from medrobust.one_call.evaluated import Evaluated
from medrobust.one_call.named_attacks import GivenAttacks, Radius


class Options(TypedDict, total=False):
    """Further arguments of ``evaluate``, which explains them."""

    reference: Any
    detectors: Mapping[str, Detector]
    judges: Mapping[str, object]
    listeners: Sequence[EvaluationListener]
    crafter: Crafter
    log_epsilons: Radius | Sequence[Radius]
    controls: bool
    seed: int
    class_names: Sequence[str]
    name: str
    batch_size: int
    limit: int
    resume: bool
    probabilities: bool
    seen: Literal["refuse", "report"]
    device: torch.device | str
    progress: bool


def evaluate(
    model: EvaluatedVictim | nn.Module | Callable[[Tensor], Any],
    data: Any,
    attacks: GivenAttacks,
    epsilons: Radius | Sequence[Radius] | None = None,
    *,
    folder: str | Path,
    **options: Unpack[Options],
) -> Evaluated:
    """Attack a model with every attack on every image; records, checks and report lie in a folder afterwards.

    A call that was stopped goes on where it was when it is made again, and a changed model, image or attack is attacked
    anew. The model is left as it was. Where ``torch.distributed`` is initialised, all processes make the same call on
    the same data, and each image is attacked by one of them.

    Args:
        model: What ``as_victim`` returns, a victim of the project, or a module or function that maps float32 images
            ``(N, C, H, W)`` in [0, 1] to logits ``(N, K)``. Models that want normalised images or return something
            else need ``as_victim(model, mean, std, output)``.
        data: A loader or list of batches, (images, targets), (images, targets, ids) or dictionaries of ``image``,
            ``target``, ``id``, ``patient``; or all images at once in such a form. Targets are classes ``(N,)``, labels
            ``(N, L)``, masks ``(N, H, W)`` or a list of N dictionaries of ``boxes`` and ``labels``. Without ids, images
            are known by place and content, so that the order has to stay. Or data of ``evaluation.EvaluationData``.
        attacks: Attacks, or names such as ``pgd`` and ``standard``, one or several, or a dictionary of them.
        epsilons: Radii at which each attack runs, such as ``"2/255"``, in units of the [0, 1] image range; None for
            its own.
        folder: Folder of the results.
        **options: ``reference``: images like ``data`` that detectors and hiding objectives learn from, none of which is
            evaluated, or a dictionary of ``train`` and ``adv_train``; ``detectors`` by name, of the layers
            ``activations`` (a ``Detection`` among the listeners sees others); ``judges``: further models by name;
            ``listeners``: others of ``medrobust.listeners``, or those in other settings (``Panels(count=4)`` and
            ``Quality(download=False)`` are there already); ``crafter``: a ``Crafter`` with goals, precision and the
            like; ``log_epsilons`` of attacks in the log domain; ``controls`` (True): uniform noise of the same radii;
            ``seed`` of all attacks; ``class_names``; ``name`` of the data (images); ``batch_size`` (32) of images that
            are given at once; ``limit``: attack only so many images for now; ``resume`` (True); ``probabilities``
            (False) of all classes in the records; ``seen`` (refuse) as the callback's; ``device``, that of the model
            by default; ``progress`` (True).

    Raises:
        ValueError: Something is missing or does not fit; the message names what was expected and what was given.
        TypeError: An option has a name that is not among these.
    """
    if unknown := [name for name in options if name not in Options.__annotations__]:
        near = difflib.get_close_matches(unknown[0], Options.__annotations__, n=1, cutoff=0.4)
        raise TypeError(f"evaluate has no option {unknown[0]!r}{f'; did you mean {near[0]!r}?' if near else ''}")
    if not str(folder):
        raise ValueError("folder is that of the results, such as runs/mine, got an empty text")
    return Call(model, data, attacks, epsilons, Path(folder), dict(options)).run()

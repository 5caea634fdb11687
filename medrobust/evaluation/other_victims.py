"""Victims other than the one under evaluation: judges of its adversarial images, and surrogates to craft them on."""

from pathlib import Path

import torch

from medrobust.networks.victims import EvaluatedVictim, StoredVictim, is_stored_victim

RIGHT = ("threshold", "score_threshold", "iou_threshold", "share")  # what decides when a victim is right


def victim_beside(victim: EvaluatedVictim, path: str, what: str, device: torch.device) -> StoredVictim:
    """Another victim of the same kind and task, frozen, on a device.

    It is right where the victim under evaluation would be: by that one's thresholds, not by those that the other one
    was trained with. Otherwise rates of the two could not be compared.

    Args:
        victim: The victim under evaluation.
        path: The other one's run or checkpoint.
        what: What the other one is, as an error names it.
        device: Device that the other victim is moved to.

    Raises:
        ValueError: The checkpoint does not exist, or does not fit the victim.
    """
    if not is_stored_victim(victim):
        raise ValueError(f"{what} is read from a checkpoint, and a {type(victim).__name__} cannot be built from one")
    with torch.inference_mode(False):  # a trainer's inference mode would leave it tensors without gradients
        other = victim.from_checkpoint(checkpoint_of(path)).to(device)
    wanted, found = victim.description(), other.description()
    for fact in ("num_classes", "channels"):
        if wanted.get(fact) != found.get(fact):
            raise ValueError(f"{what} has {fact} {found.get(fact)}, the victim {wanted.get(fact)}")
    for fact in RIGHT:
        if fact in wanted and fact in found:
            setattr(other, fact, wanted[fact])
    return other.eval().requires_grad_(False)


def checkpoint_of(path: str | Path) -> Path:
    """A checkpoint, or a run's best one.

    Raises:
        ValueError: There is no checkpoint.
    """
    found = Path(path) / "checkpoints" / "best.ckpt" if Path(path).is_dir() else Path(path)
    if not found.is_file():
        raise ValueError(f"there is no checkpoint {found}: a run's folder or a checkpoint of train.py is needed")
    return found

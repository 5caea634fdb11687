"""What detectors are fitted on: clean, noisy and adversarial versions of AdvTrain's images."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from medrobust.attacks import Attack, UniformNoise
from medrobust.detectors import Detector, Features, concatenate
from medrobust.evaluation.deployment import judging
from medrobust.evaluation.extraction import Extractor, batches, gather
from medrobust.evaluation.plan import EvaluationPlan, PlannedAttack
from medrobust.random_streams import image_generator

SAME = "same"  # stands for the judged attack itself
ROUNDS = 5  # of scaling Gaussian noise to its length


def fit_data(
    trainer: Any,
    victim: Any,
    plan: EvaluationPlan,
    needed: Sequence[PlannedAttack],
    extractor: Extractor,
    loader: Iterable[Any],
    seed: int,
) -> dict[str, tuple[Features | None, Features | None, Features | None]]:
    """Attack AdvTrain: features of clean, noisy and adversarial images by an attack's key, the same on all processes.

    Images that the victim gets wrong are left out; of the adversarial ones those are kept that reached their aim.

    Args:
        trainer: The trainer.
        victim: The victim.
        plan: The evaluation, whose attacks run.
        needed: Those of its attacks that detectors are fitted on.
        extractor: Gives the features.
        loader: AdvTrain.
        seed: Seed of the noise.

    Returns:
        Features on the CPU in the order of the images' ids, None where there is no image.
    """
    kinds = ["clean", *(f"{kind} {planned.key}" for planned in needed for kind in ("noisy", "adversarial"))]
    names: dict[str, list[str]] = {kind: [] for kind in kinds}
    parts: dict[str, list[Features]] = {kind: [] for kind in kinds}
    for batch in batches(trainer, loader, "adversarial features for the detectors"):
        images, targets, ids = batch["image"], batch["target"], list(batch["id"])
        with judging(victim):
            outputs = victim(images)
            right = (~victim.fooled(outputs, targets)).nonzero().squeeze(1)
        rows = right.tolist()
        if not rows:
            continue
        images, targets, outputs, ids = images[right], targets[right], outputs[right], [ids[row] for row in rows]
        names["clean"] += ids
        parts["clean"].append(extractor(images, ids).to("cpu"))
        correct = torch.ones(len(ids), dtype=torch.bool, device=images.device)
        for planned in needed:
            with torch.enable_grad():
                attacked = plan.craft(victim, planned, plan, ids, targets, images, outputs, correct, white_box=True)
            noisy = negatives_like(planned.attack, victim, images, attacked.adversarial, ids, seed)
            names[f"noisy {planned.key}"] += ids
            parts[f"noisy {planned.key}"].append(extractor(noisy, ids).to("cpu"))
            reached = attacked.success.nonzero().squeeze(1)
            chosen = reached.tolist()
            if chosen:
                fooling = [ids[row] for row in chosen]
                names[f"adversarial {planned.key}"] += fooling
                parts[f"adversarial {planned.key}"].append(extractor(attacked.adversarial[reached], fooling).to("cpu"))
    found = {kind: gather(names[kind], parts[kind], [])[1] for kind in kinds}
    return {
        planned.key: (found["clean"], found[f"noisy {planned.key}"], found[f"adversarial {planned.key}"])
        for planned in needed
    }


def negatives_like(
    attack: Attack, victim: Any, clean: Tensor, adversarial: Tensor, ids: Sequence[str], seed: int
) -> Tensor:
    """Noisy images ``(N, C, H, W)`` for an attack's: what a detector must not take for adversarial.

    Uniform noise of the attack's own radius where that bounds the maximum norm, else Gaussian noise of the same L2
    norm as the adversarial perturbation; drawn for each image from (seed, id).
    """
    epsilon = getattr(attack, "epsilon", None)
    if attack.norm == "linf" and epsilon is not None:
        no_targets = torch.zeros(len(clean), dtype=torch.long, device=clean.device)
        return UniformNoise(epsilon=epsilon, seed=seed).perturb(victim, clean, no_targets, list(ids)).images
    noise = torch.empty(clean.shape, pin_memory=clean.is_cuda)
    for row, id in zip(noise, ids, strict=True):
        row.normal_(generator=image_generator(seed, "GaussianNoise", id))
    noise = noise.to(clean.device, clean.dtype, non_blocking=True)
    wanted = (adversarial - clean).flatten(1).norm(dim=1)
    noisy, factor = clean, wanted / noise.flatten(1).norm(dim=1)
    for _ in range(ROUNDS):  # what is cut off at black and white has to be made up for elsewhere
        noisy = (clean + noise * factor.view(-1, 1, 1, 1)).clamp(0, 1)
        factor = factor * torch.nan_to_num(wanted / (noisy - clean).flatten(1).norm(dim=1), nan=1.0, posinf=1.0)
    return noisy


def fit_name(planned: PlannedAttack) -> str:
    """How the file names what a classifier was fitted on."""
    return planned.name if planned.epsilon is None else f"{planned.name}@{planned.epsilon:.6g}"


def fitted_on(detectors: Mapping[str, Detector], planned: PlannedAttack) -> dict[str, Detector]:
    """The detectors of a file that were fitted on an attack, by their own names."""
    prefix = f"{fit_name(planned)}/"
    return {name.removeprefix(prefix): one for name, one in detectors.items() if name.startswith(prefix)}


def measured_groups(
    detector: Detector, groups: tuple[Features | None, Features | None, Features | None], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Measured negatives and positives of AdvTrain."""
    clean, noisy, adversarial = groups
    if clean is None or noisy is None:
        raise ValueError("there is no correctly classified clean image to fit on")
    if adversarial is None:
        raise ValueError("there is no successful adversarial image to fit on")
    negatives = concatenate([clean, noisy]).to(device)
    return detector.measure(negatives), detector.measure(adversarial.to(device))


def fit_key(fit: str, judged: PlannedAttack, attacks: list[PlannedAttack]) -> str | None:
    """Key of the attack that the classifier is fitted on which judges an attack; None for none."""
    if fit == SAME:
        return None if judged.control or isinstance(judged.attack, UniformNoise) else judged.key
    candidates = [planned for planned in attacks if planned.name == fit and not planned.control]
    if not candidates:
        return None
    radius = judged.epsilon
    if radius is None:
        return candidates[0].key
    far = [abs((planned.epsilon if planned.epsilon is not None else radius) - radius) for planned in candidates]
    return candidates[far.index(min(far))].key

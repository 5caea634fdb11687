"""Panels: for a few images, the clean one, the magnified perturbation, the adversarial one and what was found there."""

import hashlib
import io
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from medrobust.evaluation.batch import AdversarialBatch
from medrobust.evaluation.context import EvaluationContext
from medrobust.evaluation.data import EvaluationData
from medrobust.evaluation.listener import AttackIdentity, EvaluationListener
from medrobust.evaluation.plan import EvaluationPlan
from medrobust.listeners.boxes import box_columns
from medrobust.listeners.overlays import Found, colour_of, draw_boxes, draw_masks, hexadecimal
from medrobust.networks.victims import EvaluatedVictim, Outputs, is_classes
from medrobust.results.manifest import replace_file

CANDIDATES = 2  # images kept for each that is shown, among which a report finds every outcome
BUDGET = 3_000_000  # bytes of pictures in a report
SCORE_THRESHOLD = 0.5  # from which a detection is drawn, for victims that name no threshold of their own
COUNTS = ("boxes_lost", "boxes_relabelled", "boxes_invented")

logger = logging.getLogger(__name__)


class Panels(EvaluationListener):
    """Saves the pictures that the report shows: the same images for every attack and any number of processes.

    Twice as many images are saved as are shown, so that the report can choose evenly over classes and outcomes, which
    nobody knows beforehand.

    Of masks and boxes there are three pictures more: ``truth`` on the clean image, and what the victim finds there,
    ``found_before``, and in the adversarial image, ``found_after``.

    Args:
        folder: Folder of the evaluation; the command line sets ``runs/NAME/evaluate``.
        count: Number of images per attack and radius that the report shows, spread over the classes; 0 for none.
        budget: Bytes that pictures may take in the report, which shows fewer images where they would take more and says
            so; those on the disk stay.
    """

    def __init__(self, folder: str = "", count: int = 4, budget: int = BUDGET) -> None:
        """Keep the settings."""
        if count < 0:
            raise ValueError(f"count counts images and is not negative, got {count}")
        if budget < 0:
            raise ValueError(f"budget counts bytes and is not negative, got {budget}")
        self.folder, self.count, self.budget = folder, count, budget
        self.chosen: set[str] = set()

    def on_evaluation_identity(
        self,
        context: EvaluationContext,
        victim: EvaluatedVictim,
        data: EvaluationData,
        attacks: Sequence[AttackIdentity],
    ) -> dict[str, Any]:
        """Nothing: pictures add no columns."""
        return {}

    def on_evaluation_plan(self, context: EvaluationContext, victim: EvaluatedVictim, plan: EvaluationPlan) -> None:
        """Choose the images: one stratum after the other in turn, in the order of a hash of their ids.

        Those whose pictures have been damaged or removed since are attacked again.
        """
        strata: dict[str, list[str]] = {}
        for id, stratum in sorted(plan.images, key=lambda image: hashlib.sha256(image[0].encode()).digest()):
            strata.setdefault(stratum, []).append(id)
        turns = [(place, stratum, id) for stratum, ids in strata.items() for place, id in enumerate(ids)]
        self.chosen = {id for _, _, id in sorted(turns)[: CANDIDATES * self.count]}
        damaged = [
            (planned, id)
            for planned in plan.attacks
            for id in self.chosen
            if id in plan.done.get(planned.key, ()) and self._is_damaged(planned.key, id)
        ]
        for planned, id in damaged:
            plan.done[planned.key].discard(id)
        if damaged and context.is_first:
            planned, id = damaged[0]
            logger.warning(
                "the pictures of %d images under attack are damaged or missing and are made, first %r under %s",
                *(len(damaged), id, planned.name),
            )

    def _is_damaged(self, key: str, id: str) -> bool:
        """Whether the pictures of an image are missing, or one of them cannot be read."""
        folder, image = Path(self.folder) / "panels", image_name(id)
        about = folder / f"{image}-{key}.json"
        try:
            names = json.loads(about.read_bytes())["images"].values()
            for name in names:
                with Image.open(folder / Path(name).name) as picture:
                    picture.load()
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SyntaxError):
            return True
        return False

    def on_adversarial_batch(
        self, context: EvaluationContext, victim: EvaluatedVictim, batch: AdversarialBatch
    ) -> None:
        """Save the chosen images of a batch."""
        rows = [row for row, id in enumerate(batch.ids) if id in self.chosen]
        if not rows:
            return
        columns = {**batch.columns, **box_columns(batch)}
        for row in rows:
            clean, adversarial = batch.clean[row].cpu(), batch.adversarial[row].cpu()
            difference = adversarial - clean
            magnification = 0.5 / max(float(difference.abs().max()), 1e-12)
            if not difference.any():
                magnification = 1.0
            pictures = {
                "clean": clean,
                "perturbation": 0.5 + magnification * difference,
                "adversarial": adversarial,
            }
            extras = {name: picture[row].detach().cpu() for name, picture in batch.pictures.items()}
            largest = {name: float(picture.abs().max()) for name, picture in extras.items()}
            pictures |= {name: 0.5 + 0.5 * picture / (largest[name] or 1.0) for name, picture in extras.items()}
            about = {
                "key": batch.planned.key,
                "attack": batch.planned.name,
                "method": type(batch.planned.attack).__name__,
                "epsilon": batch.planned.epsilon,
                "id": batch.ids[row],
                **_verdict(batch, row, columns),
                "success": bool(batch.success[row]),
                "linf": float(difference.abs().max()),
                "magnification": magnification,
                "extras": largest,
                "shown": self.count,
            }
            images = {kind: to_image(picture) for kind, picture in pictures.items()}
            self._save(about, images | overlays(batch, row))

    def _save(self, about: dict[str, Any], pictures: dict[str, Image.Image]) -> None:
        """Write the pictures, then the file that names them."""
        folder = Path(self.folder) / "panels"
        image = image_name(about["id"])
        names = {kind: f"{image}-{about['key']}-{kind}.png" for kind in pictures}
        names |= {kind: f"{image}-{kind}.png" for kind in ("clean", "truth") if kind in names}
        for kind, picture in pictures.items():
            buffer = io.BytesIO()
            picture.save(buffer, "PNG")
            content = buffer.getvalue()
            if kind == "found_before":  # the same under all attacks, but not for another victim
                names[kind] = f"{image}-{kind}-{hashlib.sha256(content).hexdigest()[:8]}.png"
            replace_file(folder / names[kind], content)
        text = json.dumps({**about, "images": names}, allow_nan=False)
        replace_file(folder / f"{image}-{about['key']}.json", text.encode())


def _verdict(batch: AdversarialBatch, row: int, columns: Mapping[str, Any]) -> dict[str, Any]:
    """What the victim made of an image: classes with their confidence, or else how good its outputs were."""
    before, after = batch.before, batch.after
    said = (before.prediction, before.confidence, after.prediction, after.confidence)
    if is_classes(batch.targets) and all(values is not None for values in said):
        names = ("clean_prediction", "clean_confidence", "adversarial_prediction", "adversarial_confidence")
        numbers = {name: values[row].item() for name, values in zip(names, said, strict=True) if values is not None}
        return {"target": int(batch.targets[row]), **numbers}
    qualities = {"quality_before": float(before.quality[row]), "quality_after": float(after.quality[row])}
    return {
        "right_before": bool(before.right[row]),
        "right_after": bool(after.right[row]),
        **{name: None if value != value else value for name, value in qualities.items()},
        **{name: int(columns[name][row]) for name in COUNTS if name in columns},
        "legend": legend(batch),
    }


def shows_masks(outputs: Outputs, targets: Any) -> bool:
    """Whether outputs are logits of masks."""
    masks = isinstance(outputs, Tensor) and isinstance(targets, Tensor) and outputs.ndim == 4 and targets.ndim == 3
    return masks and outputs.shape[2:] == targets.shape[1:]


def shows_boxes(outputs: Outputs) -> bool:
    """Whether outputs are lists of boxes with their classes and scores."""
    return isinstance(outputs, list) and all({"boxes", "scores", "labels"} <= set(one) for one in outputs)


def legend(batch: AdversarialBatch) -> list[dict[str, str]]:
    """Name and colour of each class that overlays may show; none where there are no overlays."""
    if not shows_masks(batch.clean_outputs, batch.targets) and not shows_boxes(batch.clean_outputs):
        return []
    names = _class_names(batch)[1 if shows_masks(batch.clean_outputs, batch.targets) else 0 :]
    return [{"name": name, "colour": hexadecimal(colour_of(place))} for place, name in enumerate(names)]


def overlays(batch: AdversarialBatch, row: int) -> dict[str, Image.Image]:
    """Pictures of an image with its true masks or boxes and those found before and after; none for other tasks."""
    clean, adversarial = batch.clean[row].cpu(), batch.adversarial[row].cpu()
    before, after = batch.clean_outputs, batch.adversarial_outputs
    if shows_masks(before, batch.targets):
        truth = batch.targets[row].cpu()
        return {
            "truth": draw_masks(clean, truth, truth),
            "found_before": draw_masks(clean, before[row].argmax(0).cpu(), truth),
            "found_after": draw_masks(adversarial, after[row].argmax(0).cpu(), truth),
        }
    if shows_boxes(before):
        names, threshold = _class_names(batch), float(batch.plan.victim.get("score_threshold", SCORE_THRESHOLD))
        true = _boxes(batch.targets[row])
        return {
            "truth": draw_boxes(clean, true, (), names),
            "found_before": draw_boxes(clean, _boxes(before[row], threshold), true, names),
            "found_after": draw_boxes(adversarial, _boxes(after[row], threshold), true, names),
        }
    return {}


def _class_names(batch: AdversarialBatch) -> list[str]:
    return [str(name) for name in batch.plan.data.get("class_names") or ()]


def _boxes(values: dict[str, Tensor], threshold: float = 0.0) -> list[Found]:
    """The boxes of a target or an output, those of an output that reach the threshold."""
    scores = values["scores"].tolist() if "scores" in values else [None] * len(values["labels"])
    found = zip(values["labels"].tolist(), values["boxes"].tolist(), scores, strict=True)
    return [Found(int(label), tuple(box), score) for label, box, score in found if score is None or score >= threshold]


def image_name(id: str) -> str:
    """How the names of an image's files begin."""
    return hashlib.sha256(id.encode()).hexdigest()[:8]


def to_image(picture: Tensor) -> Image.Image:
    """Picture ``(C, H, W)`` in [0, 1] as 8 bit: grey if its channels are equal, else RGB of the first three."""
    grey = picture.shape[0] < 3 or bool((picture == picture[:1]).all())
    values = (picture.clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(values[0].numpy() if grey else values[:3].permute(1, 2, 0).contiguous().numpy())

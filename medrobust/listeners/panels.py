"""Panels: for a few images, the clean one, the magnified perturbation and the adversarial one, as pictures."""

import hashlib
import io
import json
import logging
from collections.abc import Sequence
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
from medrobust.networks.victims import EvaluatedVictim, is_classes
from medrobust.results.manifest import replace_file

logger = logging.getLogger(__name__)


class Panels(EvaluationListener):
    """Saves the pictures that the report shows: the same images for every attack and any number of processes.

    Args:
        folder: Folder of the evaluation; the command line sets ``runs/NAME/evaluate``.
        count: Number of images per attack and radius, spread over the classes; 0 for none.
    """

    def __init__(self, folder: str = "", count: int = 4) -> None:
        """Keep the settings."""
        if count < 0:
            raise ValueError(f"count counts images and is not negative, got {count}")
        self.folder, self.count = folder, count
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

        Those whose pictures have been damaged since are attacked again.
        """
        strata: dict[str, list[str]] = {}
        for id, stratum in sorted(plan.images, key=lambda image: hashlib.sha256(image[0].encode()).digest()):
            strata.setdefault(stratum, []).append(id)
        turns = [(place, stratum, id) for stratum, ids in strata.items() for place, id in enumerate(ids)]
        self.chosen = {id for _, _, id in sorted(turns)[: self.count]}
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
                "the pictures of %d images under attack are damaged and are made again, first %r under %s",
                *(len(damaged), id, planned.name),
            )

    def _is_damaged(self, key: str, id: str) -> bool:
        """Whether there are pictures of an image, of which one cannot be read."""
        folder, image = Path(self.folder) / "panels", image_name(id)
        about = folder / f"{image}-{key}.json"
        if not about.is_file():
            return False
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
        before, after = batch.before, batch.after
        if not rows or before.prediction is None or before.confidence is None:
            return
        if after.prediction is None or after.confidence is None or not is_classes(batch.targets):
            return
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
                "target": int(batch.targets[row]),
                "clean_prediction": int(before.prediction[row]),
                "clean_confidence": float(before.confidence[row]),
                "adversarial_prediction": int(after.prediction[row]),
                "adversarial_confidence": float(after.confidence[row]),
                "success": bool(batch.success[row]),
                "linf": float(difference.abs().max()),
                "magnification": magnification,
                "extras": largest,
            }
            self._save(about, pictures)

    def _save(self, about: dict[str, Any], pictures: dict[str, Tensor]) -> None:
        """Write the pictures, then the file that names them."""
        folder = Path(self.folder) / "panels"
        image = image_name(about["id"])
        names = {kind: f"{image}-{about['key']}-{kind}.png" for kind in pictures}
        names["clean"] = f"{image}-clean.png"
        for kind, picture in pictures.items():
            buffer = io.BytesIO()
            to_image(picture).save(buffer, "PNG")
            replace_file(folder / names[kind], buffer.getvalue())
        text = json.dumps({**about, "images": names}, allow_nan=False)
        replace_file(folder / f"{image}-{about['key']}.json", text.encode())


def image_name(id: str) -> str:
    """How the names of an image's files begin."""
    return hashlib.sha256(id.encode()).hexdigest()[:8]


def to_image(picture: Tensor) -> Image.Image:
    """Picture ``(C, H, W)`` in [0, 1] as 8 bit: grey if its channels are equal, else RGB of the first three."""
    grey = picture.shape[0] < 3 or bool((picture == picture[:1]).all())
    values = (picture.clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(values[0].numpy() if grey else values[:3].permute(1, 2, 0).contiguous().numpy())

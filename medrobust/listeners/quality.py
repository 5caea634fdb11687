"""Quality of each adversarial image compared with its clean one: PSNR, SSIM and BRISQUE, as columns of the records."""

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medrobust.evaluation.batch import AdversarialBatch
from medrobust.evaluation.context import EvaluationContext
from medrobust.evaluation.data import EvaluationData
from medrobust.evaluation.listener import AttackIdentity, EvaluationListener
from medrobust.evaluation.plan import EvaluationPlan
from medrobust.metrics.brisque import Brisque, find_brisque, read_brisque
from medrobust.metrics.quality import psnr, ssim
from medrobust.networks.victims import EvaluatedVictim

logger = logging.getLogger(__name__)


class Quality(EvaluationListener):
    """Measures the quality of every attacked image: columns ``psnr`` in dB, ``ssim``, ``brisque_clean``, ``brisque``.

    Records that were written without a model keep an empty BRISQUE when the evaluation is resumed with a model.

    Undefined values are NaN: the PSNR of an unchanged image, the SSIM of an image with a side below 11 pixels, the
    BRISQUE of a constant image or one with a side below 16 pixels, and every BRISQUE if no model is found.

    Args:
        brisque: BRISQUE's model: a folder with ``allmodel`` and ``allrange`` of LIVE's release, or a weight file of
            piq. None looks at the environment variable ``MEDROBUST_BRISQUE``, then for piq's downloaded weights.
        ssim: Measure SSIM too.
        download: Let piq download its weights if no model is at hand; by default nothing is looked for elsewhere.

    Raises:
        ValueError: ``brisque`` names something that is not a BRISQUE model.
    """

    def __init__(self, brisque: str | None = None, ssim: bool = True, download: bool = False) -> None:
        """Keep the settings; the model is read when an evaluation begins."""
        self.brisque, self.ssim, self.download = brisque, ssim, download
        self._named = None if brisque is None else read_brisque(Path(brisque))
        self._model: Brisque | None = None
        self._clean: dict[str, Tensor] = {}  # an image's clean score is the same under every attack
        self._scored, self._without = 0, torch.tensor(0)

    def on_evaluation_identity(
        self,
        context: EvaluationContext,
        victim: EvaluatedVictim,
        data: EvaluationData,
        attacks: Sequence[AttackIdentity],
    ) -> dict[str, Any]:
        """Find BRISQUE's model on the first process and share it, so that all processes measure the same."""
        found = self._named or (find_brisque(None, self.download) if context.is_first else None)
        self._model = context.broadcast(found)
        self._forget()
        return {}

    @torch.no_grad()
    def on_adversarial_batch(
        self, context: EvaluationContext, victim: EvaluatedVictim, batch: AdversarialBatch
    ) -> None:
        """Add a batch's columns, ``(N,)`` each."""
        clean, adversarial = batch.clean, batch.adversarial
        batch.columns["psnr"] = psnr(clean, adversarial)
        if self.ssim:
            batch.columns["ssim"] = ssim(clean, adversarial)
        if self._model is None:
            empty = torch.full((len(batch.ids),), math.nan, dtype=torch.float64, device=clean.device)
            batch.columns.update(brisque_clean=empty, brisque=empty.clone())
            return
        model = self._model.to(clean.device)
        new = [row for row, id in enumerate(batch.ids) if id not in self._clean]
        if new:
            scores = self._count(model.score(clean if len(new) == len(batch.ids) else clean[new]))
            self._clean.update(zip((batch.ids[row] for row in new), scores.unbind(), strict=True))
        batch.columns["brisque_clean"] = torch.stack([self._clean[id] for id in batch.ids])
        batch.columns["brisque"] = self._count(model.score(adversarial))

    def on_evaluation_end(self, context: EvaluationContext, victim: EvaluatedVictim, plan: EvaluationPlan) -> None:
        """Log how many images have no BRISQUE score; each process logs its share."""
        if without := int(self._without):
            logger.warning(
                "%d of %d clean and adversarial images have no BRISQUE score, being constant or too small",
                without,
                self._scored,
            )
        self._forget()

    def _count(self, scores: Tensor) -> Tensor:
        self._scored += len(scores)
        self._without = self._without + scores.isnan().sum()  # on the device: reading it would wait for every batch
        return scores

    def _forget(self) -> None:
        self._clean.clear()
        self._scored, self._without = 0, torch.tensor(0)

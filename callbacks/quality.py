"""Quality of each adversarial image beside its clean one: PSNR, SSIM and BRISQUE, as columns of the records."""

import logging
import math
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from medrobust.evaluation.plan import AdversarialBatch, EvaluationPlan
from medrobust.metrics.brisque import Brisque, find_brisque, read_brisque
from medrobust.metrics.quality import psnr, ssim

logger = logging.getLogger(__name__)


class Quality(Callback):
    """Measures every attacked image: the columns ``psnr`` in dB, ``ssim``, ``brisque_clean`` and ``brisque``.

    Records that were made without a model keep an empty BRISQUE when the evaluation is resumed with one.

    A value that is not defined is NaN: the PSNR of an unchanged image, the SSIM of one below 11 pixels on a side, the
    BRISQUE of a constant one or of one below 16 pixels, and every BRISQUE where no model is found.

    Args:
        brisque: BRISQUE's model: a folder with ``allmodel`` and ``allrange`` of LIVE's release, or a weight file of
            piq. None looks at the environment variable ``MEDROBUST_BRISQUE``, then for piq's own weights.
        ssim: Measure SSIM too.
        download: Let piq download its weights if no model is at hand.

    Raises:
        ValueError: ``brisque`` names what is no model of BRISQUE's.
    """

    def __init__(self, brisque: str | None = None, ssim: bool = True, download: bool = True) -> None:
        """Keep the settings; the model is read when an evaluation begins."""
        self.brisque, self.ssim, self.download = brisque, ssim, download
        self._named = None if brisque is None else read_brisque(Path(brisque))
        self._model: Brisque | None = None
        self._clean: dict[str, Tensor] = {}  # an image's clean score is the same under every attack
        self._scored, self._without = 0, torch.tensor(0)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Find BRISQUE's model on the first rank and give it to all: they must not differ in what they measure."""
        if stage != "fit":  # every rank comes by here, even one that has no image and thus no later hook
            found = self._named or (find_brisque(None, self.download) if trainer.is_global_zero else None)
            self._model = trainer.strategy.broadcast(found)

    def on_evaluation_start(self, trainer: pl.Trainer, victim: pl.LightningModule, plan: EvaluationPlan) -> None:
        """Forget the scores of an earlier evaluation."""
        self._forget()

    @torch.no_grad()
    def on_adversarial_batch(self, trainer: pl.Trainer, victim: pl.LightningModule, batch: AdversarialBatch) -> None:
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

    def on_evaluation_end(self, trainer: pl.Trainer, victim: pl.LightningModule, plan: EvaluationPlan) -> None:
        """Say how many images have no BRISQUE score; each rank speaks of its own."""
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

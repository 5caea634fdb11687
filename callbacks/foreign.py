"""Other people's loaders in a trainer: their batches as an evaluation takes them."""

from collections.abc import Mapping
from typing import Any, Literal

import pytorch_lightning as pl

from medrobust.evaluation import EvaluationContext, EvaluationData
from medrobust.evaluation.data import Batch, DataOffered, evaluation_data
from medrobust.evaluation.first_look import look_first
from medrobust.evaluation.given_batches import fresh, read_batch
from medrobust.evaluation.loaded_data import LoadedData
from medrobust.networks.victim_of import task_of
from medrobust.networks.victims import EvaluatedVictim
from medrobust.random_streams import content_ids

KEYS = {"image", "target", "id"}


class LoaderBatches:
    """The batches that a trainer takes from somebody's loader, one after the other.

    Args:
        data: What was found in the loader.
    """

    def __init__(self, data: LoadedData) -> None:
        """None has come yet."""
        self._split, self._place = data.split(data.test_split), 0

    def next(self, value: Any) -> Batch | None:
        """This process's images of the next batch; None if it has none of them.

        Raises:
            ValueError: The images are not those that the loader gave before.
        """
        given = self._split.read(value)
        found = self._split.dealt(given, self._place)
        self._place += len(given.images)
        return found


def data_for(
    trainer: pl.Trainer, stage: Literal["test", "val"], context: EvaluationContext, victim: EvaluatedVictim
) -> EvaluationData:
    """The data that a trainer evaluates: its data module, or else what its loader gives.

    Args:
        trainer: A trainer that is about to test or to validate.
        stage: Which of the two.
        context: The process.
        victim: The victim; it is shown an image, so that what does not fit is said before anything is attacked.

    Raises:
        ValueError: There is no loader or more than one, or it gives no batches of images; the message says what is
            missing.
    """
    module: object = trainer.datamodule  # type: ignore[attr-defined]
    if isinstance(module, DataOffered | EvaluationData):
        return evaluation_data(module)
    loaders = trainer.test_dataloaders if stage == "test" else trainer.val_dataloaders
    if isinstance(loaders, list | tuple) and len(loaders) == 1:
        loaders = loaders[0]
    if loaders is None or isinstance(loaders, list | tuple | Mapping):
        count = 0 if loaders is None else len(loaders)
        given = f"a dictionary of {count}" if isinstance(loaders, Mapping) else str(count)
        raise ValueError(f"an evaluation takes its images from one loader, and the trainer has {given}")
    name = "images" if module is None else type(module).__name__
    data = LoadedData(context, fresh(loaders), stage, name=name, task=task_of(victim))
    look_first(context, victim, data, stage)
    return data


def own_batch(value: Any) -> Batch:
    """A batch with ids: as it is if it has them, and otherwise with ids that follow from the images' content."""
    if isinstance(value, dict) and value.keys() >= KEYS:
        kept: Any = value
        return kept  # type: ignore[no-any-return]
    given = read_batch(value, "a validation batch")
    return {"image": given.images, "target": given.targets, "id": given.ids or content_ids(given.images)}

"""Features of images: all layers from one forward, on any number of processes."""

from collections.abc import Iterable, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from medrobust.detectors import Detector, Features, concatenate
from medrobust.evaluation.context import EvaluationContext
from medrobust.evaluation.data import Batch
from medrobust.evaluation.deployment import judging
from medrobust.networks.dropout import Dropouts
from medrobust.networks.features import reduced_maps, tapped
from medrobust.networks.victims import EvaluatedVictim, Targets, is_classes

LOGITS = ""  # in place of a layer's name: that of the network itself in its named_modules, and of no layer


class Extractor:
    """Turns images into what detectors see of them.

    Args:
        victim: The victim.
        layers: Names or patterns of its layers, as ``networks.features.layers_named`` reads them.
        passes: Passes with dropout on; 0 for none. A victim without dropout makes none.
        seed: Seed of the dropout.
        logits: Put the victim's logits first among the layers, under the name ``LOGITS``.
        maps: Longest side of the layers' maps, which are then kept besides their means; 0 for none. They take up to
            ``2 * maps ** 2`` bytes for each channel of all layers and each image: 1.3 MB for the 35 layers of a
            MobileNetV2 at a side of 8 and images of 160 pixels.
        classes: Refuse a victim that does not name one class per image; otherwise its predictions are all 0.

    Raises:
        ValueError: A layer does not exist.
    """

    def __init__(
        self,
        victim: EvaluatedVictim,
        layers: Sequence[str],
        passes: int = 0,
        seed: int = 0,
        logits: bool = False,
        maps: int = 0,
        classes: bool = True,
    ) -> None:
        """Find the layers and the dropout."""
        self.classes = classes
        self.victim, self.passes, self.seed, self.logits, self.maps = victim, passes, seed, logits, maps
        self.names: tuple[str, ...] = victim.layers_named(layers) if layers else ()
        self.without_dropout = ""
        self.stepping: Detector | None = None  # the detector that asks for a gradient step of the images
        self._dropouts: Dropouts | None = None
        if passes:
            try:
                self._dropouts = Dropouts(victim.network)
            except ValueError as error:
                self.without_dropout = str(error)

    def __call__(self, images: Tensor, targets: Targets, ids: Sequence[str]) -> Features:
        """Features of images ``(N, C, H, W)`` in [0, 1], computed in float32 by the victim itself.

        Raises:
            ValueError: The victim does not name one class per image.
        """
        dropouts = self._dropouts
        with (
            judging(self.victim, ids),
            dropouts.watching() if dropouts is not None else nullcontext(),
            tapped(self.victim.network, self.names, self._reduced) if self.maps else nullcontext() as maps,
        ):
            outputs, layers = self.victim.features(images, self.names)
            predictions = self.victim.outcome(outputs, targets).prediction
        if predictions is None and not self.classes:
            predictions = torch.zeros(len(images), dtype=torch.long, device=images.device)
        if predictions is None:
            raise ValueError("detectors and fitted objectives need a victim that names one class per image")
        draws = None
        if dropouts is not None:
            with judging(self.victim, ids):
                draws = dropouts.draws(self.victim.normalised(images), ids, self.passes, self.seed)
        stepped = None if self.stepping is None else self._stepped(images, ids, self.stepping)
        seen: dict[str, Tensor] = {LOGITS: outputs} if self.logits and isinstance(outputs, Tensor) else {}
        kept = seen | {name: layers[name] for name in self.names}
        found = None if maps is None else {name: maps[name] for name in self.names}
        return Features(kept, predictions, draws, stepped, maps=found)

    def _reduced(self, activation: Tensor) -> Tensor:
        return reduced_maps(activation, self.maps)

    def _stepped(self, images: Tensor, ids: Sequence[str], detector: Detector) -> dict[str, Tensor]:
        """Each layer's features of images moved towards what that layer takes for clean (Lee et al., 2018, eq. 3)."""
        found = {}
        with judging(self.victim, ids):
            for layer, name in enumerate(self.names):
                with torch.enable_grad():
                    variable = images.detach().requires_grad_()
                    scores = detector.layer_scores(self.victim.features(variable, [name])[1][name], layer)
                    (gradient,) = torch.autograd.grad(scores.sum(), variable)
                moved = torch.sub(images, gradient.sign(), alpha=detector.views.step).clamp_(0, 1)
                found[name] = self.victim.features(moved, [name])[1][name]
        return found


def gather(
    context: EvaluationContext, ids: Sequence[str], features: Sequence[Features], labels: Sequence[Tensor] = ()
) -> tuple[list[str], Features | None, Tensor]:
    """Features of all processes' images, in the order of their ids, the same on every process.

    Args:
        context: The process; all processes call this.
        ids: Ids of this process's images.
        features: Their features, in parts.
        labels: Their true classes, in parts; none where they are not asked for.

    Returns:
        Ids, features and labels on the CPU; features are None if no process has an image.
    """
    mine = (
        list(ids),
        concatenate(features).to("cpu") if features else None,
        torch.cat([*labels, torch.empty(0)]).cpu().long(),
    )
    parts = context.gather(mine)
    names = [id for part in parts for id in part[0]]
    found = [part[1] for part in parts if part[1] is not None]
    classes = torch.cat([part[2] for part in parts])
    order = sorted(range(len(names)), key=names.__getitem__)
    rows = torch.tensor(order, dtype=torch.long)
    return (
        [names[row] for row in order],
        concatenate(found)[rows] if found else None,
        classes[rows] if len(classes) else classes,
    )


def clean_features(
    context: EvaluationContext, extractor: Extractor, loader: Iterable[Batch], what: str
) -> tuple[list[str], Features, Tensor]:
    """Features of all clean images of a loader, with ids and true classes, on every process, on the CPU.

    Images whose targets are not one class each have the class 0.

    Raises:
        ValueError: There is no image.
    """
    ids: list[str] = []
    features: list[Features] = []
    labels: list[Tensor] = []
    for batch in context.batches(loader, what):
        features.append(extractor(batch["image"], batch["target"], batch["id"]).to("cpu"))
        labels.append(_classes(batch["target"], len(batch["id"])))
        ids += batch["id"]
    names, gathered, classes = gather(context, ids, features, labels)
    if gathered is None:
        raise ValueError(f"{what}: there is no image")
    return names, gathered, classes


def _classes(targets: Targets, count: int) -> Tensor:
    return targets.cpu() if is_classes(targets) else torch.zeros(count, dtype=torch.long)

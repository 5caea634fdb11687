"""What attacks do to a victim's representations: means of layers, and directions of change (HFC21 Table 1, Fig. 2)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from medrobust.evaluation.batch import AdversarialBatch
from medrobust.evaluation.context import EvaluationContext
from medrobust.evaluation.data import EvaluationData
from medrobust.evaluation.extraction import Extractor
from medrobust.evaluation.listener import AttackIdentity, EvaluationListener
from medrobust.evaluation.plan import EvaluationPlan
from medrobust.networks.victims import EvaluatedVictim
from medrobust.results.columns import DIRECTION_WEIGHTS, direction_column, layer_mean_column


class Representation(EvaluationListener):
    """Compares the features of every adversarial image with those of its clean one.

    Columns of the records: ``mean_L_clean`` and ``mean_L``, the mean of layer L's features before and after the
    attack (HFC21 Table 1); with ``directions`` also ``direction_weights``, the cosine between the change of the
    penultimate features and w_new - w_true, where w_new and w_true are the classifier's weights of the class predicted
    after the attack and of the true class (Fig. 2a; where the attack failed, the likeliest other class takes the place
    of the new one), and ``direction_A``, the cosine between that change and the change under attack A, which ran
    before (Fig. 2b).

    Args:
        layers: Layers whose means are measured, given by names, patterns or ``activations``.
        directions: Compare the directions in which attacks push the penultimate features.

    Raises:
        ValueError: A layer does not exist, or the victim has no linear classifier for ``directions``.
    """

    def __init__(self, layers: list[str] | None = None, directions: bool = False) -> None:
        """Keep the settings."""
        self.layers, self.directions = list(layers or []), directions
        self._means: list[str] = []
        self._last = ""
        self._extractor: Extractor | None = None
        self._clean: tuple[tuple[str, ...], dict[str, Tensor]] = ((), {})
        self._changes: dict[str, Tensor] = {}

    def on_evaluation_identity(
        self,
        context: EvaluationContext,
        victim: EvaluatedVictim,
        data: EvaluationData,
        attacks: Sequence[AttackIdentity],
    ) -> dict[str, Any]:
        """Find the layers, and name the columns and all attacks that directions are compared with.

        Raises:
            ValueError: A layer does not exist, or the victim has no linear classifier for ``directions``.
        """
        self._extractor = None
        if not (self.layers or self.directions):
            return {}
        self._means = list(victim.layers_named(self.layers)) if self.layers else []
        if self.directions:
            _last_weights(victim)
            self._last = victim.layers_named(["activations"])[-1]
        self._extractor = Extractor(victim, [*self._means, *([self._last] if self.directions else [])])
        compared = [[name, identity] for name, identity in attacks] if self.directions else []
        return {"representation": {"layers": self._means, "directions": compared}}

    def on_evaluation_plan(self, context: EvaluationContext, victim: EvaluatedVictim, plan: EvaluationPlan) -> None:
        """Redo all attacks on an image if one of them is missing, because their directions are compared."""
        if not self.directions or not plan.attacks:
            return
        everywhere = set.intersection(*(plan.done.get(planned.key, set()) for planned in plan.attacks))
        for planned in plan.attacks:
            plan.done[planned.key] = set(everywhere)

    @torch.no_grad()
    def on_adversarial_batch(
        self, context: EvaluationContext, victim: EvaluatedVictim, batch: AdversarialBatch
    ) -> None:
        """Add a batch's columns."""
        if self._extractor is None:
            return
        if self._clean[0] != tuple(batch.ids):
            self._clean = (tuple(batch.ids), dict(self._extractor(batch.clean, batch.targets, batch.ids).layers))
            self._changes = {}
        before, after = self._clean[1], self._extractor(batch.adversarial, batch.targets, batch.ids)
        for layer in self._means:
            batch.columns[layer_mean_column(layer, clean=True)] = before[layer].mean(1)
            batch.columns[layer_mean_column(layer)] = after.layers[layer].mean(1)
        if not self.directions:
            return
        change = after.layers[self._last] - before[self._last]
        weights, classes = _last_weights(victim), batch.clean_outputs.shape[1]
        if len(weights) != classes:
            raise ValueError(
                f"directions compares with the weights of a last linear layer, and the victim's has {len(weights)} "
                f"outputs for {classes} classes"
            )
        if weights.shape[1] != change.shape[1]:
            raise ValueError(
                f"directions compares the change of {self._last!r}, {change.shape[1]} channels, with the weights of a "
                f"linear layer that reads {weights.shape[1]}: the victim's last activations are not what it reads"
            )
        likeliest_other = batch.clean_outputs.scatter(1, batch.targets[:, None], float("-inf")).argmax(1)
        heading = torch.where(after.predictions != batch.targets, after.predictions, likeliest_other)
        batch.columns[DIRECTION_WEIGHTS] = _cosine(change, weights[heading] - weights[batch.targets])
        for other in batch.plan.attacks:
            earlier = self._changes.get(other.key)
            empty = torch.full((len(batch.ids),), torch.nan, device=change.device)
            name = direction_column(other.name, other.epsilon)
            batch.columns[name] = empty if earlier is None else _cosine(change, earlier)
        self._changes[batch.planned.key] = change

    def on_evaluation_end(self, context: EvaluationContext, victim: EvaluatedVictim, plan: EvaluationPlan) -> None:
        """Drop the last batch."""
        self._clean, self._changes = ((), {}), {}


def _cosine(one: Tensor, other: Tensor) -> Tensor:
    """Cosine between matching rows, NaN where one of the two is zero."""
    values = functional.cosine_similarity(one.double(), other.double(), dim=1, eps=0.0)
    return torch.where((one.abs().amax(1) > 0) & (other.abs().amax(1) > 0), values, torch.nan)


def _last_weights(victim: EvaluatedVictim) -> Tensor:
    """Weights ``(K, C)`` of the linear layer that turns the penultimate features into logits."""
    linear = [module for module in victim.network.modules() if isinstance(module, nn.Linear)]
    classes = victim.description().get("num_classes")  # some victims only know when they have seen an image
    if not linear or classes not in (None, linear[-1].out_features):
        raise ValueError("directions compares with the weights of a last linear layer, and the victim has none")
    return linear[-1].weight.detach()

"""DFeat: a random forest on deep features (Ma et al., Pattern Recognition 2020, section 5)."""

from typing import ClassVar

import numpy as np
import torch
from sklearn.ensemble import RandomForestClassifier
from torch import Tensor

from medrobust.detectors.base import check_groups
from medrobust.detectors.numerics import unit_scaling
from medrobust.detectors.patient_groups import Groups
from medrobust.detectors.supervised import SupervisedDetector


class DeepFeatures(SupervisedDetector):
    """Random forest on the penultimate features, scaled to [0, 1] on the negatives (Ma et al. 2020 section 5).

    The forest is grown by scikit-learn with balanced classes. Its nodes are stored, one tree after the other, and the
    score is read from them: the share of adversarial images in an image's leaf, averaged over the trees.

    Args:
        trees: Number of trees, at least 1.
        seed: Seed of the draws of images and channels, in [0, 2^32).

    Raises:
        ValueError: A setting is out of range.
    """

    differentiable: ClassVar[bool] = False  # trees have steps

    low: Tensor
    width: Tensor
    roots: Tensor
    depth: Tensor
    channels: Tensor
    thresholds: Tensor
    branches: Tensor
    shares: Tensor

    def __init__(self, trees: int = 100, seed: int = 0) -> None:
        super().__init__()
        if not isinstance(trees, int) or trees < 1:
            raise ValueError(f"trees is a whole number of at least 1, got {trees!r}")
        if not isinstance(seed, int) or not 0 <= seed < 2**32:
            raise ValueError(f"seed is a whole number of at least 0 and below 2 ** 32, got {seed!r}")
        self.trees, self.seed = trees, seed

    def fit_classifier(self, negative: Tensor, positive: Tensor, groups: Groups | None = None) -> None:
        """Fit the scaling on the negatives ``(N, C)`` and the forest on them and the positives ``(M, C)``."""
        check_groups(negative, positive)
        with torch.inference_mode(False), torch.no_grad():  # what is fitted must be usable outside inference mode
            negative, positive = (group.detach().clone().double() for group in (negative, positive))
            low, width = unit_scaling(negative)
            self.keep(low=low, width=width)
            values = self._scaled(torch.cat([negative, positive])).cpu().numpy()
            truth = [0] * len(negative) + [1] * len(positive)
            forest = RandomForestClassifier(self.trees, class_weight="balanced", random_state=self.seed)
            nodes = _nodes(forest.fit(values, truth))
            self.keep(**{name: torch.tensor(entries, device=negative.device) for name, entries in nodes.items()})

    def classify(self, measured: Tensor) -> Tensor:
        """The forest's probability that each image is adversarial, float64 ``(N,)`` in [0, 1].

        Raises:
            ValueError: The detector has not been fitted on adversarial images.
        """
        self.require("shares")
        values = self._scaled(measured).double()  # scikit-learn compares float32 values with float64 thresholds
        places = self.roots.expand(len(values), -1)
        for _ in range(int(self.depth)):
            right = values.gather(1, self.channels[places]) > self.thresholds[places]
            places = self.branches[places, right.long()]
        total = values.new_zeros(len(values))
        for shares in self.shares[places].T:  # in scikit-learn's order, on which the rounding of the sum depends
            total += shares
        return total / len(self.roots)

    def _scaled(self, features: Tensor) -> Tensor:
        """Features scaled so that the negatives lie in [0, 1], float32."""
        largest = torch.finfo(torch.float32).max
        return ((features.double() - self.low) / self.width).clamp(-largest, largest).float()


def _nodes(forest: RandomForestClassifier) -> dict[str, np.ndarray]:
    """Nodes of all trees, one tree after the other; both branches of a leaf lead back to it, so that a walk stays."""
    trees = [tree.tree_ for tree in forest.estimators_]
    roots = np.cumsum([0] + [tree.node_count for tree in trees])
    branches = []
    for tree, root in zip(trees, roots, strict=False):
        nodes = np.arange(tree.node_count)
        sides = [np.where(side < 0, nodes, side) + root for side in (tree.children_left, tree.children_right)]
        branches.append(np.stack(sides, 1))
    return {
        "roots": roots[:-1],
        "depth": np.array(max(tree.max_depth for tree in trees)),
        "channels": np.concatenate([tree.feature.clip(min=0) for tree in trees]),
        "thresholds": np.concatenate([tree.threshold for tree in trees]),
        "branches": np.concatenate(branches),
        "shares": np.concatenate([tree.value[:, 0, 1] for tree in trees]),
    }

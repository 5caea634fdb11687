"""The label-graph head: a graph convolution over ordered grades gives the weights of a classifier."""

from typing import Literal

import torch
from torch import Tensor, nn

LabelEmbedding = Literal["learnt", "one_hot"]


def grade_adjacency(classes: int) -> Tensor:
    """Normalised adjacency of ordered grades, D^-1/2 (A + I) D^-1/2, ``(K, K)`` (Kipf & Welling, ICLR 2017, eq. 8).

    Grades k and k + 1 are neighbours, each grade is its own neighbour, and D holds the numbers of neighbours.

    Args:
        classes: Number of grades K, at least 2.

    >>> grade_adjacency(2)  # both have two neighbours
    tensor([[0.5000, 0.5000],
            [0.5000, 0.5000]])
    """
    places = torch.arange(classes)
    linked = ((places[:, None] - places).abs() <= 1).float()
    scale = linked.sum(1).rsqrt()
    return scale[:, None] * linked * scale


class LabelGraphHead(nn.Module):
    """Logits as dot products of the pooled feature with one embedding for each grade (Qi et al., ICLR 2021, SMIA21).

    The embeddings are E = A ReLU(A X W_0) W_1, two graph convolutions (Kipf & Welling, ICLR 2017, eq. 9) over the
    grades, with A of ``grade_adjacency`` and X the grades' initial embeddings. The logits are z = x E^T: a linear
    classifier whose weights for neighbouring grades are tied to each other.

    Two grades have the same neighbours, and would have the same logit for every image. Of 5, 8, 11 and so on A is
    singular, which ties the logits to each other: of five, sqrt(2) (z_0 - z_4) = sqrt(3) (z_1 - z_3).

    Args:
        features: Number of pooled features C.
        classes: Number of ordered grades K, at least 3.
        embedding: X: ``learnt``, as many numbers for each grade as there are ``hidden`` units, or ``one_hot``.
        hidden: Number of units between the two convolutions.

    Raises:
        ValueError: A number or a choice is out of range.
    """

    adjacency: Tensor
    labels: Tensor

    def __init__(self, features: int, classes: int, embedding: LabelEmbedding = "learnt", hidden: int = 256) -> None:
        """Draw the weights (Glorot & Bengio, 2010)."""
        super().__init__()
        if classes < 3:
            raise ValueError(
                "a label graph tells at least 3 grades apart, since two have the same neighbours and with them the "
                f"same logits, got {classes}"
            )
        if embedding not in ("learnt", "one_hot"):
            raise ValueError(f"label_embedding is 'learnt' or 'one_hot', got {embedding!r}")
        if hidden < 1:
            raise ValueError(f"hidden counts units and is at least 1, got {hidden}")
        self.register_buffer("adjacency", grade_adjacency(classes), persistent=False)
        if embedding == "one_hot":
            self.register_buffer("labels", torch.eye(classes), persistent=False)
        else:
            self.labels = nn.Parameter(torch.empty(classes, hidden))
            nn.init.normal_(self.labels)
        self.first = nn.Parameter(torch.empty(self.labels.shape[1], hidden))
        self.second = nn.Parameter(torch.empty(hidden, features))
        for weight in (self.first, self.second):
            nn.init.xavier_uniform_(weight)

    def embeddings(self) -> Tensor:
        """The grades' embeddings, ``(K, C)``."""
        hidden = torch.relu(self.adjacency @ self.labels @ self.first)
        return self.adjacency @ hidden @ self.second

    def forward(self, features: Tensor) -> Tensor:
        """Logits ``(N, K)`` of pooled features ``(N, C)``."""
        return features @ self.embeddings().T

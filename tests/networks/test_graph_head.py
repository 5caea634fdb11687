"""The label-graph head: its adjacency by hand, its convolution written out, and its place behind a backbone."""

import pytest
import torch
from torch import Tensor

from medrobust.networks.classifiers import build_classifier
from medrobust.networks.graph_head import LabelGraphHead, grade_adjacency


def test_neighbouring_grades_are_joined_and_normalised_by_their_numbers_of_neighbours() -> None:
    # with themselves the five grades have 2, 3, 3, 3 and 2 neighbours
    outer, cross, inner = 1 / 2, 6**-0.5, 1 / 3
    expected = [
        [outer, cross, 0, 0, 0],
        [cross, inner, inner, 0, 0],
        [0, inner, inner, inner, 0],
        [0, 0, inner, inner, cross],
        [0, 0, 0, cross, outer],
    ]
    torch.testing.assert_close(grade_adjacency(5), torch.tensor(expected))
    # the largest eigenvalue of the normalised adjacency with loops is 1, so that convolutions do not blow up
    assert float(torch.linalg.eigvalsh(grade_adjacency(7)).max()) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("embedding", ["learnt", "one_hot"])
def test_the_logits_are_those_of_sums_over_neighbours(embedding: str) -> None:
    torch.manual_seed(0)
    head = LabelGraphHead(6, 3, embedding, hidden=4)  # type: ignore[arg-type]
    adjacency = grade_adjacency(3)

    def convolved(rows: Tensor, weight: Tensor) -> Tensor:
        """Each grade's sum over its neighbours, written out."""
        return torch.stack(
            [sum(adjacency[one, other] * (rows[other] @ weight) for other in range(3)) for one in range(3)]  # type: ignore[misc]
        )

    embeddings = convolved(convolved(head.labels, head.first).clamp(min=0), head.second)
    features = torch.randn(5, 6)
    expected = torch.stack([(features * embeddings[one]).sum(1) for one in range(3)], 1)
    torch.testing.assert_close(head(features), expected)
    assert ("labels" in head.state_dict()) == (embedding == "learnt")
    assert head.labels.shape == ((3, 4) if embedding == "learnt" else (3, 3))


def test_five_grades_are_tied_by_the_singular_adjacency() -> None:
    # sqrt(2) (e_0 - e_4) - sqrt(3) (e_1 - e_3) has the image 0 under the adjacency, and so under the embeddings
    torch.manual_seed(0)
    logits = LabelGraphHead(6, 5)(torch.randn(4, 6))
    torch.testing.assert_close(2**0.5 * (logits[:, 0] - logits[:, 4]), 3**0.5 * (logits[:, 1] - logits[:, 3]))
    assert (logits.max(1).values - logits.min(1).values).min() > 1e-3


def test_a_head_reads_what_the_linear_one_read_and_all_of_it_learns() -> None:
    network = build_classifier("resnet10t", 5, head="label_graph")
    images = torch.rand(2, 3, 32, 32)
    network(images).logsumexp(1).sum().backward()
    assert isinstance(network.fc, LabelGraphHead) and network.fc.second.shape == (256, 512)
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in network.fc.parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((8, 1), "tells at least 3 grades apart, .* got 1"),
        ((8, 2), "tells at least 3 grades apart, .* got 2"),
        ((8, 3, "none"), "'learnt' or 'one_hot', got 'none'"),
        ((8, 3, "learnt", 0), "at least 1, got 0"),
    ],
)
def test_a_graph_that_makes_no_sense_is_refused(arguments: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LabelGraphHead(*arguments)  # type: ignore[arg-type]

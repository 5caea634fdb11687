"""Objectives beyond classes: one logit, labels that do not exclude each other, and outputs that are no logits."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from medrobust.attacks import APGD, BIM, PGD, UniformNoise
from medrobust.networks import Outcome
from medrobust.objectives import CrossEntropy, DifferenceOfLogits, Margin, Objective, Stabilization, Step


class Halves(nn.Module):
    """A linear victim whose first logit reads the left half of an image and whose second one reads the right half.

    Args:
        logits: 1 (a decision by the sign of one logit, targets ``(N,)``) or 2 (a label each, targets ``(N, 2)``).
    """

    def __init__(self, logits: int) -> None:
        super().__init__()
        signs = torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0, -1.0, 1.0, -1.0]).repeat(8, 1)
        left = torch.arange(8) < 4
        self.signs = nn.Parameter(signs)
        self.halves = torch.stack([left, ~left])[:logits].float()

    def forward(self, images: Tensor) -> Tensor:
        return torch.einsum("nhw,hw,lw->nl", images[:, 0] - 0.5, self.signs, self.halves)

    def loss(self, images: Tensor, targets: Tensor) -> Tensor:
        raise AssertionError("the logits fit the targets, so that no objective needs the loss")

    def outcome(self, outputs: Tensor, targets: Tensor) -> Outcome:
        targets = targets.view_as(outputs)
        hits = ((outputs > 0) == (targets > 0)) | (targets < 0)
        return Outcome(hits.all(1), hits.float().mean(1))

    def features(self, images: Tensor, layers: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        return self(images), {}


class Given:
    """A victim with given outputs and losses, whatever it is shown."""

    def __init__(self, outputs: Any, losses: Tensor | None = None) -> None:
        self.outputs, self.losses = outputs, losses

    def __call__(self, images: Tensor) -> Any:
        return self.outputs

    def loss(self, images: Tensor, targets: Any) -> Tensor:
        assert self.losses is not None
        return self.losses


def step_of(outputs: Any, targets: Any, targeted: bool = False, index: int = 0, losses: Tensor | None = None) -> Step:
    images = torch.zeros(len(targets), 1, 2, 2)
    ids = [str(place) for place in range(len(targets))]
    victim: Any = Given(outputs, losses)
    return Step(victim, images, images, targets, ids, targeted, index=index)


def drawn(kind: str) -> tuple[Tensor, Tensor]:
    """Outputs and targets of five images; of all kinds but classes some entries are ignored."""
    outputs_shape, targets_shape = {
        "one logit": ((5, 1), (5,)),
        "mask": ((5, 1, 3, 4), (5, 3, 4)),
        "labels": ((5, 6), (5, 6)),
        "label maps": ((5, 2, 3, 4), (5, 2, 3, 4)),
    }[kind]
    generator = torch.Generator().manual_seed(len(kind))
    outputs = 3 * torch.randn(outputs_shape, generator=generator, dtype=torch.float64)
    targets = torch.randint(0 if kind == "one logit" else -1, 2, targets_shape, generator=generator)
    if kind != "one logit":
        targets[4] = -1
    return outputs, targets


KINDS = pytest.mark.parametrize("kind", ["one logit", "mask", "labels", "label maps"])


@KINDS
@pytest.mark.parametrize("targeted", [False, True])
def test_cross_entropy_is_torchs_binary_one_over_the_labelled_entries(kind: str, targeted: bool) -> None:
    outputs, targets = drawn(kind)
    leaf, reference = outputs.clone().requires_grad_(), outputs.clone().requires_grad_()
    values = CrossEntropy()(step_of(leaf, targets, targeted))
    (gradient,) = torch.autograd.grad(values.sum(), leaf)
    expected = []
    for logits, truth in zip(reference.view_as(targets), targets, strict=True):
        known = truth >= 0
        each = functional.binary_cross_entropy_with_logits(logits[known], truth[known].double(), reduction="none")
        expected.append((-1 if targeted else 1) * each.sum() / max(1, int(known.sum())))
    torch.testing.assert_close(values.detach(), torch.stack(expected).detach())
    torch.testing.assert_close(gradient, torch.autograd.grad(sum(expected), reference)[0])
    assert not gradient.view_as(targets)[targets < 0].any()


@KINDS
@pytest.mark.parametrize("targeted", [False, True])
def test_one_logit_is_the_second_of_two_of_which_the_first_is_zero(kind: str, targeted: bool) -> None:
    outputs, targets = drawn(kind)
    two = torch.stack([torch.zeros_like(outputs), outputs], 1).view(5, 2, *targets.shape[1:])
    objectives: list[Objective] = [CrossEntropy(), CrossEntropy("keep"), Margin(1.5), DifferenceOfLogits()]
    objectives += [Stabilization("kl"), Stabilization("cross_entropy"), Stabilization("hard")]
    for objective in objectives:
        for index in (0, 1):
            one, other = (objective(step_of(given, targets, targeted, index)) for given in (outputs, two))
            torch.testing.assert_close(one, other)


def test_the_margin_of_one_logit_is_its_distance_past_zero_up_to_kappa() -> None:
    logits = torch.tensor([[2.0], [2.0], [-3.0], [-0.5]])
    targets = torch.tensor([1, 0, 1, 1])
    assert Margin(1.0)(step_of(logits, targets)).tolist() == [-2.0, 1.0, 1.0, 0.5]
    assert Margin(2.5)(step_of(logits, targets, targeted=True)).tolist() == [2.0, -2.0, -3.0, -0.5]


@KINDS
def test_targets_may_be_bool(kind: str) -> None:
    outputs, targets = drawn(kind)
    for objective in (CrossEntropy(), Margin(1.0), DifferenceOfLogits()):
        expected = objective(step_of(outputs, targets.clamp(min=0)))
        torch.testing.assert_close(objective(step_of(outputs, targets > 0)), expected)
    classes = torch.tensor([True, False])
    logits = torch.tensor([[1.0, 3.0], [2.0, 0.5]])
    torch.testing.assert_close(CrossEntropy()(step_of(logits, classes)), CrossEntropy()(step_of(logits, 1 * classes)))


def test_where_all_labels_are_certain_the_margin_steps_in() -> None:
    """The first image is certain about both labels, the second about one of two, the third about the only known one."""
    logits = torch.tensor([[90.0, -70.0], [90.0, 0.0], [90.0, 0.0]], requires_grad=True)
    targets = torch.tensor([[1, 0], [1, 0], [1, -1]])
    step = step_of(logits, targets)
    values = CrossEntropy()(step)
    (gradient,) = torch.autograd.grad(values.sum(), logits)
    assert step.vanished is not None
    assert step.vanished.tolist() == [True, False, True]
    torch.testing.assert_close(values.detach(), torch.tensor([-80.0, 0.5 * torch.log(torch.tensor(2.0)), -90.0]))
    torch.testing.assert_close(gradient, torch.tensor([[-0.5, 0.5], [0.0, 0.25], [-1.0, 0.0]]))


@pytest.mark.parametrize("attack", [BIM(epsilon=0.1), PGD(epsilon=0.1), PGD(epsilon=0.1, objective=Margin(100.0))])
@pytest.mark.parametrize("targeted", [False, True])
def test_pgd_reaches_the_corner_against_a_linear_victim_with_one_logit(attack: Any, targeted: bool) -> None:
    victim, images = Halves(1), 0.3 + 0.4 * torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([0, 1, 1, 0])
    made = type(attack)(epsilon=0.1, objective=attack.objective, targeted=targeted)(victim, images, targets).images
    uphill = (1.0 - 2.0 * targets) * (-1 if targeted else 1)
    signs = uphill[:, None, None, None] * victim.signs.detach()
    torch.testing.assert_close(made[..., :4], (images + 0.1 * signs)[..., :4])
    if not attack.random_start:
        assert torch.equal(made[..., 4:], images[..., 4:])  # the half that it does not read


@pytest.mark.parametrize("objective", [CrossEntropy(), Margin(100.0)])
def test_each_label_moves_its_own_pixels_and_an_ignored_one_none(objective: Objective) -> None:
    victim, images = Halves(2), 0.3 + 0.4 * torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    targets = torch.tensor([[0, 1], [1, -1], [-1, 0]])
    made = BIM(epsilon=0.1, steps=4, objective=objective)(victim, images, targets).images
    uphill = torch.where(targets < 0, 0, 1 - 2 * targets).float()
    signs = uphill.repeat_interleave(4, 1)[:, None, None, :] * victim.signs.detach()
    torch.testing.assert_close(made, images + 0.1 * signs)
    assert torch.equal(made[1, ..., 4:], images[1, ..., 4:])
    assert torch.equal(made[2, ..., :4], images[2, ..., :4])


@pytest.mark.parametrize("attack", [PGD(stop_when_fooled=True), APGD(steps=5), UniformNoise()])
@pytest.mark.parametrize("logits", [1, 2])
def test_attacks_judge_by_the_victims_own_outcome(attack: Any, logits: int) -> None:
    victim, images = Halves(logits), torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        targets = (victim(images) > 0).long()
    targets = targets.squeeze(1) if logits == 1 else targets
    attacked = attack(victim, images, targets)
    with torch.no_grad():
        assert torch.equal(attacked.success, ~victim.outcome(victim(attacked.images), targets).right)


@pytest.mark.parametrize("objective", [CrossEntropy(), Margin(), DifferenceOfLogits()])
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize(
    ("outputs", "targets"),
    [
        ({"logits": torch.zeros(2, 3)}, torch.tensor([0, 1])),
        (torch.zeros(2), torch.tensor([0, 1])),
        (torch.zeros(2, 0), torch.tensor([0, 1])),
        (torch.zeros(2, 3, 4), torch.tensor([0, 1])),
        (torch.zeros(2, 3, 4, 4), torch.zeros(2, 8, 8).long()),
        (torch.zeros(2, 3), torch.zeros(2, 4).long()),
    ],
    ids=["dict", "no class dimension", "no logit", "one dimension more", "another size", "another number of labels"],
)
def test_outputs_that_fit_no_targets_leave_the_victims_own_loss(
    objective: Objective, targeted: bool, outputs: Any, targets: Tensor
) -> None:
    losses = torch.tensor([0.25, -4.0])
    values = objective(step_of(outputs, targets, targeted, losses=losses))
    torch.testing.assert_close(values, -losses if targeted else losses)


@pytest.mark.parametrize("objective", [CrossEntropy(), Margin(), DifferenceOfLogits()])
def test_one_logit_knows_two_targets_alone(objective: Objective) -> None:
    with pytest.raises(ValueError, match="one logit per target knows the targets 0 and 1, got 2"):
        objective(step_of(torch.zeros(2, 1), torch.tensor([0, 2])))
    with pytest.raises(ValueError, match="knows the targets 0 and 1, got 5"):
        objective(step_of(torch.zeros(2, 3), torch.tensor([[0, 1, -1], [5, 0, 0]])))


def test_the_stabilisation_refuses_outputs_that_are_no_logits_of_the_targets() -> None:
    with pytest.raises(ValueError, match=r"compares logits of .*, got outputs that do not fit targets of shape \(2,\)"):
        Stabilization()(step_of(torch.zeros(2, 3, 4), torch.tensor([0, 1]), index=1))

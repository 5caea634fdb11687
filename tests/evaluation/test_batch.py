"""The two sides of a batch: parts of the clean one, and what counts as success of the adversarial one."""

import torch

from medrobust.attacks import FGSM
from medrobust.evaluation import AdversarialBatch, CleanBatch, EvaluationPlan, PlannedAttack
from medrobust.networks import Outcome

IDS = ["a", "b", "c"]
RIGHT, QUALITY = torch.tensor([True, False, True]), torch.tensor([0.9, 0.2, 0.6])


def boxes(count: int) -> dict[str, torch.Tensor]:
    """As many boxes."""
    return {"boxes": torch.zeros(count, 4), "labels": torch.ones(count, dtype=torch.long)}


def test_a_part_of_a_clean_batch_has_the_same_images_everywhere() -> None:
    logits, targets = torch.tensor([[1.0, 0.0], [0.0, 1.0], [3.0, 2.0]]), torch.tensor([0, 0, 0])
    outcome = Outcome(RIGHT, QUALITY, logits.argmax(1), logits.softmax(1).amax(1))
    images = torch.arange(3.0).view(3, 1, 1, 1) / 4
    batch = CleanBatch(ids=IDS, images=images, targets=targets, outputs=logits, outcome=outcome)
    part = batch.take([2, 1])

    assert len(batch) == 3 and len(part) == 2
    assert part.ids == ["c", "b"]
    assert part.images.flatten().tolist() == [0.5, 0.25]
    assert part.outputs.tolist() == [[3.0, 2.0], [0.0, 1.0]]
    assert part.outcome.right.tolist() == [True, False]
    torch.testing.assert_close(part.outcome.quality, torch.tensor([0.6, 0.2]))
    assert part.outcome.prediction.tolist() == [0, 1]
    assert torch.equal(part.outcome.confidence, outcome.confidence[[2, 1]])
    assert batch.take([0, 1, 2]) is batch
    assert len(batch.take([])) == 0


def test_targets_and_outputs_may_be_lists() -> None:
    targets, outputs = [boxes(count) for count in (0, 1, 2)], [boxes(count) for count in (3, 4, 5)]
    images, outcome = torch.zeros(3, 1, 2, 2), Outcome(RIGHT, QUALITY)
    part = CleanBatch(ids=IDS, images=images, targets=targets, outputs=outputs, outcome=outcome).take([2, 0])

    assert [len(target["boxes"]) for target in part.targets] == [2, 0]
    assert [len(output["boxes"]) for output in part.outputs] == [5, 3]
    assert part.outcome.prediction is None and part.outcome.confidence is None


def test_an_attack_succeeds_where_it_reaches_its_aim_on_an_image_that_was_right() -> None:
    before, nothing = torch.tensor([True, True, False, False]), torch.zeros(4)
    batch = AdversarialBatch(
        planned=PlannedAttack(name="fgsm", attack=FGSM(), key="key"),
        plan=EvaluationPlan(attacks=[], split="test", images=[], victim={}, data={}),
        ids=list("abcd"),
        targets=nothing,
        goals=None,
        clean=nothing,
        adversarial=nothing,
        clean_outputs=nothing,
        adversarial_outputs=nothing,
        before=Outcome(before, nothing),
        after=Outcome(~before, nothing),
        reached=torch.tensor([True, False, True, False]),
        forwards=nothing,
        backwards=nothing,
        zero_gradients=nothing,
    )
    assert batch.success.tolist() == [True, False, False, False]
    assert len(batch) == 4

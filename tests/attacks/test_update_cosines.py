"""The cosine between consecutive updates, on paths whose angles are known."""

from typing import Any

import torch

from medrobust.attacks import BIM, FGSM, PGD
from medrobust.attacks.update_cosines import UpdateCosines, heard_updates
from medrobust.networks import as_victim


def test_cosines_of_known_paths() -> None:
    cosines, rows = UpdateCosines(torch.zeros(3, 1, 1, 2)), torch.arange(3)
    paths = torch.tensor(
        [
            [[1.0, 0], [2, 0], [0, 3], [0, -1]],  # cosines 1, 0, -1
            [[1.0, 0], [1, 1], [1, 1], [1, 1]],  # cosines 1/sqrt 2, 1, 1
            [[1.0, 0], [0, 0], [1, 0], [1, 0]],  # one pair only: the others have a step of length 0
        ]
    )
    for step in range(4):
        cosines.follow(paths[:, step].view(3, 1, 1, 2), rows)
    measures = cosines.measures()
    torch.testing.assert_close(measures["cos"], torch.tensor([0.0, (2 + 0.5**0.5) / 3, 1.0]))
    torch.testing.assert_close(measures["positive_cosines"], torch.tensor([1 / 3, 1.0, 1.0]))


def test_images_that_leave_keep_what_they_had() -> None:
    cosines = UpdateCosines(torch.zeros(2, 1, 1, 2))
    cosines.follow(torch.tensor([[1.0, 0], [1.0, 0]]), torch.tensor([0, 1]))
    cosines.follow(torch.tensor([[1.0, 0], [0.0, 1]]), torch.tensor([0, 1]))
    cosines.keep(torch.tensor([1]))
    cosines.follow(torch.tensor([[0.0, -1]]), torch.tensor([1]))
    torch.testing.assert_close(cosines.measures()["cos"], torch.tensor([1.0, -0.5]))


def test_one_step_has_no_cosine_and_a_linear_victim_a_straight_path(linear: Any, images_of: Any) -> None:
    victim = linear()  # its gradient has one direction
    images = 0.25 + 0.5 * torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([0, 1, 1])
    assert bool(FGSM(epsilon=0.1).craft(victim, images, targets).measures["cos"].isnan().all())
    straight = BIM(epsilon=0.1, steps=4).craft(victim, images, targets).measures
    torch.testing.assert_close(straight["cos"], torch.ones(3))
    torch.testing.assert_close(straight["positive_cosines"], torch.ones(3))


def test_cosines_do_not_depend_on_compaction(conv_net: Any, images_of: Any) -> None:
    victim, images = as_victim(conv_net()), images_of(6, 3)
    targets = victim.eval()(images).argmax(1)
    attack = PGD(epsilon=0.2, steps=6, stop_when_fooled=True)
    together = attack.craft(victim, images, targets).measures
    for place in range(6):
        row = slice(place, place + 1)
        alone = attack.craft(victim, images[row], targets[row]).measures
        for name in alone:
            torch.testing.assert_close(alone[name], together[name][row], equal_nan=True, atol=2e-2, rtol=0)


def test_updates_that_are_heard_add_up_and_change_nothing(linear: Any, images_of: Any) -> None:
    victim, images, targets = linear(), images_of(3, 1), torch.tensor([0, 1, 1])
    attack = BIM(epsilon=0.1, steps=4, stop_when_fooled=True)
    with heard_updates() as heard:
        crafted = attack.craft(victim, images, targets)
    total = torch.zeros_like(images).flatten(1)
    for update in heard:
        total.index_add_(0, update.rows, update.moved)
    torch.testing.assert_close(total.view_as(images), crafted.images - images)
    count = len(heard)
    assert torch.equal(attack.craft(victim, images, targets).images, crafted.images)
    assert len(heard) == count > 0  # nobody listens any more

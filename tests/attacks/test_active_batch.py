"""The batch of images under attack: who stays, what each has cost, and what each ended as."""

import torch

from medrobust.attacks.active_batch import ActiveBatch, staying_places

FIVE = torch.arange(5.0).view(5, 1, 1, 1)


def leaving(*places: int, of: int = 5) -> torch.Tensor:
    return torch.tensor([place in places for place in range(of)])


def test_nobody_leaves_and_nothing_is_copied() -> None:
    batch = ActiveBatch(FIVE, torch.arange(5), list("abcde"))
    assert staying_places(leaving()) is None
    assert batch.leave(FIVE + 10, leaving()) is None
    assert not batch.looks_again(None)
    values = torch.rand(5)
    assert batch.keep(None, values)[0] is values
    assert torch.equal(batch.finish(FIVE + 20).images, FIVE + 20)


def test_half_that_stay_go_on_with_their_rows() -> None:
    batch = ActiveBatch(FIVE, torch.arange(5), list("abcde"))
    staying = batch.leave(FIVE + 10, leaving(1, 3))
    assert staying is not None
    assert staying.tolist() == [0, 2, 4]
    assert not batch.looks_again(staying)
    assert batch.ids == list("abcde")  # until the backward is over
    gradient, fooled = batch.keep(staying, 2 * FIVE, torch.arange(5) > 2)
    assert gradient.flatten().tolist() == [0.0, 4.0, 8.0]
    assert fooled.tolist() == [False, False, True]
    assert (batch.ids, batch.rows.tolist(), batch.targets.tolist()) == (["a", "c", "e"], [0, 2, 4], [0, 2, 4])
    assert batch.finish(batch.clean + 20).images.flatten().tolist() == [20.0, 11.0, 22.0, 13.0, 24.0]


def test_fewer_than_half_look_again_and_pay_once() -> None:
    batch = ActiveBatch(FIVE, torch.arange(5), list("abcde"))
    batch.count_look(2)
    assert batch.looks_again(batch.leave(FIVE + 10, leaving(0, 1, 2)))
    assert batch.ids == ["d", "e"]
    batch.count_look(2)  # the same look again
    assert batch.forwards.tolist() == [2, 2, 2, 2, 2]
    batch.count_look(2)  # the next one
    assert batch.forwards.tolist() == [2, 2, 2, 4, 4]
    assert batch.looks_again(batch.leave(batch.clean + 30, leaving(0, 1, of=2)))
    assert not batch.ids
    assert batch.finish(batch.clean).images.flatten().tolist() == [10.0, 11.0, 12.0, 33.0, 34.0]

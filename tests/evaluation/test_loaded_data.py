"""Loaders as data of an evaluation: ids that stay, images dealt to processes, what does not fit refused in time."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from medrobust.evaluation import EvaluationContext, EvaluationData
from medrobust.evaluation.first_look import look_first
from medrobust.evaluation.loaded_data import LoadedData
from medrobust.evaluation.loaded_split import LoadedSplit
from medrobust.networks import as_victim
from tests.tiny_networks import LinearNet

IMAGES = torch.rand(10, 1, 8, 8, generator=torch.Generator().manual_seed(0))
TARGETS = torch.arange(10) % 2


class OneOfSeveral(EvaluationContext):
    """A process whose gathering is done by hand: the others' values are told in advance.

    Args:
        rank: Its number.
        told: What the other processes gather, in the order of the calls; None for the same as this one.
    """

    def __init__(self, rank: int, ranks: int, told: Sequence[Any] | None = None) -> None:
        super().__init__()
        self.rank, self.ranks, self.told, self.own = rank, ranks, list(told or ()), list[Any]()

    def gather(self, value: Any) -> list[Any]:
        self.own.append(value)
        if not self.told:
            return [value] * self.ranks
        values = [self.told.pop(0), value]
        return values if self.rank else values[::-1]


def split_of(given: Any = (IMAGES, TARGETS), context: EvaluationContext | None = None, **options: Any) -> LoadedSplit:
    return LoadedData(context or EvaluationContext(), given, batch_size=4, **options).split("test")


def ids(split: LoadedSplit) -> list[str]:
    return [sample.id for sample in split.samples]


def test_ids_are_made_of_place_and_content_and_stay() -> None:
    one, other = split_of(), split_of(DataLoader(TensorDataset(IMAGES, TARGETS), batch_size=3))
    assert ids(one) == ids(other) and one.fingerprint() == other.fingerprint()
    assert [id[:6] for id in ids(one)] == [f"{place:05d}-" for place in range(10)]
    assert len({id[6:] for id in ids(one)}) == 10
    assert [sample.patient for sample in one.samples] == ids(one)
    twice = split_of((torch.cat([IMAGES[:1]] * 2), TARGETS[:2] * 0))
    assert [id[5:] for id in ids(twice)] == [ids(one)[0][5:]] * 2 and len(set(ids(twice))) == 2
    batches = list(one)
    assert [id for batch in batches for id in batch["id"]] == ids(one)
    assert torch.equal(torch.cat([batch["image"] for batch in batches]), IMAGES)


@pytest.mark.parametrize("change", ["image", "target", "patient", "id", "more"])
def test_a_fingerprint_changes_with_what_decides_the_records(change: str) -> None:
    names = [f"n{place}" for place in range(10)]
    given: dict[str, Any] = {"image": IMAGES, "target": TARGETS, "id": names, "patient": ["p"] * 10}
    before = split_of(given).fingerprint()
    turned = {key: value.flip(0) if isinstance(value, Tensor) else value[::-1] for key, value in given.items()}
    assert split_of(turned).fingerprint() == before  # the order decides nothing where images have names
    changed = {
        "image": {"image": torch.cat([IMAGES[:9], IMAGES[:1]])},
        "target": {"target": 1 - TARGETS},
        "patient": {"patient": ["p"] * 9 + ["q"]},
        "id": {"id": [*names[:9], "x"]},
        "more": {key: torch.cat([v, v[:1]]) if isinstance(v, Tensor) else [*v, "y"] for key, v in given.items()},
    }
    assert split_of(given | changed[change]).fingerprint() != before


def test_the_data_are_what_an_evaluation_asks_for() -> None:
    data = LoadedData(EvaluationContext(), (IMAGES, TARGETS), class_names=["well", "ill"], name="mine")
    assert isinstance(data, EvaluationData)
    assert data.describe() == {
        **{"name": "mine", "task": "classification", "class_names": ["well", "ill"]},
        **{"channels": 1, "image_size": 8, "image_shape": [8, 8]},
    }
    assert [sample.stratum for sample in data.splits["test"]] == ["0", "1"] * 5


@pytest.mark.parametrize(
    ("targets", "task"),
    [
        (TARGETS, "classification"),
        (torch.stack([TARGETS, 1 - TARGETS], 1), "multilabel"),
        (torch.zeros(10, 8, 8), "segmentation"),
        ([{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)}] * 10, "boxes"),
    ],
)
def test_the_task_is_that_of_the_targets(targets: Any, task: str) -> None:
    assert split_of((IMAGES, targets)).task == task


def test_targets_of_another_task_than_the_victims_are_refused_or_read() -> None:
    assert split_of((IMAGES, TARGETS[:, None]), task="classification").samples[1].target == 1
    with pytest.raises(ValueError, match=r"of one-hot rows take targets.argmax\(1\); .*output='label_logits'"):
        split_of((IMAGES, torch.eye(2)[TARGETS]), task="classification")
    with pytest.raises(ValueError, match=r"targets \(4,\), and those of multilabel are a number for each label"):
        split_of((IMAGES, TARGETS), task="multilabel")
    with pytest.raises(ValueError, match=r"targets \(2, 2\), and those of classification are one class per image"):
        split_of([(IMAGES[:2], TARGETS[:2]), (IMAGES[2:4], torch.zeros(2, 2))])


def test_several_processes_deal_the_images_of_the_same_loader() -> None:
    seen = []
    for rank in range(3):
        split = split_of(context=OneOfSeveral(rank, 3))
        seen.append([id for batch in split for id in batch["id"]])
    assert sorted(id for part in seen for id in part) == ids(split_of())
    assert [len(part) for part in seen] == [4, 3, 3]


def test_processes_with_images_of_their_own_need_ids_and_padding_counts_once() -> None:
    names = [f"n{place}" for place in range(5)]
    shares = [[0, 2, 4], [1, 3, 0]]  # as a DistributedSampler deals and pads
    told: list[list[Any]] = []
    for rank in (0, 1):
        first = OneOfSeveral(rank, 2)
        rows = shares[rank]
        split_of((IMAGES[rows], TARGETS[rows], [names[row] for row in rows]), first)
        told.append(first.own)
    found = []
    for rank in (0, 1):
        rows = shares[rank]
        context = OneOfSeveral(rank, 2, [*told[1 - rank], True])
        split = split_of((IMAGES[rows], TARGETS[rows], [names[row] for row in rows]), context)
        assert sorted(ids(split)) == names
        found.append([id for batch in split for id in batch["id"]])
    assert found == [["n0", "n2", "n4"], ["n1", "n3"]]

    first = OneOfSeveral(0, 2)
    split_of((IMAGES[shares[0]], TARGETS[shares[0]]), first)
    with pytest.raises(ValueError, match="processes are given different images .*use_distributed_sampler=False"):
        split_of((IMAGES[shares[1]], TARGETS[shares[1]]), OneOfSeveral(1, 2, [*first.own, False]))


class Restless:
    """A loader whose second pass differs from its first."""

    def __init__(self, how: str, named: bool) -> None:
        self.how, self.named, self.passes = how, named, 0

    def __iter__(self) -> Any:
        self.passes += 1
        images, targets = IMAGES, TARGETS
        names = [f"n{place}" for place in range(10)]
        if self.passes > 1 and self.how == "order":
            images, targets, names = images.flip(0), targets.flip(0), names[::-1]
        if self.passes > 1 and self.how == "content":
            images = 1 - images
        if self.passes > 1 and self.how == "fewer":
            images, targets, names = images[:7], targets[:7], names[:7]
        if self.passes > 1 and self.how == "more":
            images, targets = torch.cat([images, images[:1]]), torch.cat([targets, targets[:1]])
            names = [*names, "n10"]
        yield (images, targets, names) if self.named else (images, targets)


@pytest.mark.parametrize(
    ("how", "named", "words"),
    [
        ("order", False, r"second pass image 0 \(counted from 0\) is another one: .* same order .*shuffle=False"),
        ("content", False, r"image 0 \(counted from 0\) is another one"),
        ("content", True, "image 'n0' is another one: .* under the same ids each time .no random augmentation.$"),
        ("fewer", False, "gave 10 images in the first pass and 7 in a later one"),
        ("fewer", True, "gave 10 images in the first pass and 7 in a later one"),
        ("more", False, r"image 10 \(counted from 0\) is new"),
        ("more", True, "image 'n10' is new"),
    ],
)
def test_a_loader_that_gives_other_images_the_second_time_is_refused(how: str, named: bool, words: str) -> None:
    split = split_of(Restless(how, named))
    with pytest.raises(ValueError, match=words):
        list(split)


def test_a_shuffled_loader_with_ids_is_none_the_worse() -> None:
    split = split_of(Restless("order", True))
    (batch,) = split
    assert batch["id"] == ids(split)[::-1] and torch.equal(batch["image"], IMAGES.flip(0))


def test_a_limit_leaves_the_later_images_for_another_time() -> None:
    split = split_of()
    split.limit = 5
    assert [batch["id"] for batch in split] == [ids(split)[:4], ids(split)[4:5]]
    assert len(split.samples) == 10


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], "data holds no image"),
        ((IMAGES[:0], TARGETS[:0]), "data holds no image"),
        (
            [(IMAGES[:2], TARGETS[:2], ["a", "b"]), (IMAGES[2:4], TARGETS[2:4], ["c", "a"])],
            "'a' names .* 0 and image 3",
        ),
        (
            [(IMAGES[:2], TARGETS[:2], ["a", "b"]), (IMAGES[2:4], TARGETS[2:4])],
            "some batches and none for others",
        ),
        ([(IMAGES[:2], TARGETS[:2]), (IMAGES[2:4], torch.tensor([0, -1]))], "batch 1 of data: .* got -1"),
    ],
    ids=range(5),
)
def test_a_loader_without_sense_is_refused(given: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        split_of(given)


def test_a_reference_is_halved_by_patients_and_each_half_has_every_class() -> None:
    others, persons = 1 - torch.cat([IMAGES, IMAGES / 2]), [f"p{place // 2}" for place in range(20)]
    reference = {"image": others, "target": torch.arange(20) // 2 % 2, "patient": persons}
    data = LoadedData(EvaluationContext(), (IMAGES, TARGETS), reference=reference)
    train, adv_train = data.splits["train"], data.splits["adv_train"]
    assert len(train) == len(adv_train) == 10
    assert not {sample.patient for sample in train} & {sample.patient for sample in adv_train}
    assert {sample.stratum for sample in train} == {sample.stratum for sample in adv_train} == {"0", "1"}
    seen = [id for batch in data.dataloader_of("adv_train") for id in batch["id"]]
    assert sorted(seen) == sorted(sample.id for sample in adv_train)
    two = [id for batch in data.reference_dataloader(2) for id in batch["id"]]
    assert len(two) == 4 and set(two) <= {sample.id for sample in train}


def test_what_is_learnt_from_is_not_evaluated() -> None:
    with pytest.raises(ValueError, match="of train is image .* of test: what detectors .* must not be evaluated"):
        parts = {"train": (IMAGES[:2], TARGETS[:2]), "adv_train": (1 - IMAGES[:2], TARGETS[:2])}
        LoadedData(EvaluationContext(), (IMAGES, TARGETS), reference=parts)
    with pytest.raises(ValueError, match="a dictionary of train and adv_train, and adv_train is missing"):
        LoadedData(EvaluationContext(), (IMAGES, TARGETS), reference={"train": (1 - IMAGES, TARGETS)})
    with pytest.raises(ValueError, match=r"images that are not evaluated \(train\), and none are given: name them"):
        LoadedData(EvaluationContext(), (IMAGES, TARGETS)).reference_dataloader()


def looked(model: Any, given: Any = (IMAGES, TARGETS), output: Any = "logits", **options: Any) -> None:
    context, victim = EvaluationContext(), as_victim(model, output=output)
    look_first(context, victim, LoadedData(context, given, task=victim.task, **options), "test")


@pytest.mark.parametrize(
    ("model", "given", "output", "options"),
    [
        (LinearNet(2), (IMAGES, TARGETS), "logits", {}),
        (LinearNet(3), (IMAGES, TARGETS), "logits", {"class_names": ["a", "b", "c"]}),
        (LinearNet(2), (IMAGES, torch.stack([TARGETS, -TARGETS], 1)), "label_logits", {}),
    ],
)
def test_the_first_look_passes_what_fits_without_a_word(
    model: Any, given: Any, output: Any, options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    looked(model, given, output, **options)
    assert not caplog.records


@pytest.mark.parametrize(
    ("model", "given", "options", "words"),
    [
        (
            LinearNet(5),
            (IMAGES, torch.tensor([0, 1, 2, 7] + [0] * 6)),
            {},
            r"distinguishes 5 classes, counted from 0 to 4, and image '00003-\w+' has the target 7",
        ),
        (
            nn.Conv2d(3, 2, 3),
            (IMAGES, TARGETS),
            {},
            r"the model cannot take images \(2, 1, 8, 8\) in \[0, 1\]: .* 3 channels, but got 1 channels",
        ),
        (LinearNet(2), (IMAGES, TARGETS), {"class_names": ["a"]}, "class_names names the victim's 2 classes, got 1: a"),
        (nn.Flatten(), (IMAGES[:, :, :1, :1], TARGETS), {}, "say output='one_logit'"),
        (
            LinearNet(3),
            (IMAGES, torch.stack([TARGETS, TARGETS], 1)),
            {"output": "label_logits"},
            "the victim has 3 labels, and the targets 2 for each image",
        ),
        (
            LinearNet(2),
            (IMAGES, torch.stack([TARGETS, 2 * TARGETS], 1)),
            {"output": "label_logits"},
            r"a label is 0 or 1, .*, and image '00001-\w+' has 2",
        ),
    ],
    ids=range(6),
)
def test_the_first_look_names_what_does_not_fit(model: nn.Module, given: Any, options: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        looked(model, given, **options)
    assert "\n" not in str(error.value)


class Noisy(LinearNet):
    """Answers otherwise each time."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) + torch.randn(len(images), 1)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Noisy(2), "answers otherwise when it is shown the same images again"),
        (nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False), LinearNet(2)), "depends on the images beside it"),
    ],
    ids=range(2),
)
def test_an_answer_is_one_of_the_image_alone(model: nn.Module, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        looked(model)


def test_probabilities_are_warned_of_before_anything_is_attacked(caplog: pytest.LogCaptureFixture) -> None:
    looked(nn.Sequential(LinearNet(2), nn.Softmax(1)))
    assert "as_victim(model, output='probabilities')" in caplog.text

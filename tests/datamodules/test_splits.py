"""Splits by patient, their CSV form, and the order in which ranks read images."""

import itertools
import math
import random
from collections import Counter
from pathlib import Path

import pytest

from datamodules import ClassificationDataModule, samplers
from datamodules.samplers import EachImageOnce, ShuffledEpochs
from datamodules.samples import Sample
from datamodules.splits import (
    SPLITS,
    Fractions,
    first_of_each_stratum,
    read_splits,
    split_by_patient,
    take,
    write_splits,
)


def made(*patients: tuple[str, str]) -> list[Sample[int]]:
    """Samples of patients, each given by a name and one digit per image: its class, which is its stratum."""
    return [
        Sample(Path(f"/data/{name}-{copy}.png"), f"{name}-{copy}.png", int(label), name, stratum=int(label))
        for name, labels in patients
        for copy, label in enumerate(labels)
    ]


class ZeroOrOne(ClassificationDataModule):
    """Two classes, of which only the way targets are written is wanted here."""

    name, class_names = "digits", ("zero", "one")

    def index(self) -> list[Sample[int]]:
        return []


DIGITS = ZeroOrOne("digits")


def population() -> list[Sample[int]]:
    """600 images: class 0 of 100 patients with one and 50 with two, class 1 of 400 with one image."""
    ones = [(f"a{n}", "0") for n in range(100)] + [(f"b{n}", "00") for n in range(50)]
    return made(*ones, *[(f"c{n}", "1") for n in range(400)])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_stratified_disjoint_by_patient_and_complete(seed: int) -> None:
    samples = population()
    splits = split_by_patient(samples, Fractions(), seed)

    assert tuple(splits) == SPLITS
    assert Counter(s.id for members in splits.values() for s in members) == Counter(s.id for s in samples)
    for one, other in itertools.combinations(splits.values(), 2):
        assert not {s.patient for s in one} & {s.patient for s in other}
    # shares of 200 images of class 0 and 400 of class 1; patients have at most two images
    expected = {"train": (130, 260), "val": (20, 40), "adv_train": (20, 40), "adv_test": (30, 60)}
    for split, numbers in expected.items():
        counts = Counter(s.target for s in splits[split])
        assert abs(counts[0] - numbers[0]) <= 2 and abs(counts[1] - numbers[1]) <= 1


def test_tolerance_with_large_patients() -> None:
    samples = made(*[(f"p{n}", "0" * (1 + n % 7)) for n in range(60)])
    splits = split_by_patient(samples, Fractions(), 0)
    for split, share in {"train": 0.65, "val": 0.10, "adv_train": 0.10, "adv_test": 0.15}.items():
        assert -21 < len(splits[split]) - share * len(samples) < 7


def test_order_of_input_does_not_matter_and_seed_does() -> None:
    samples = population()
    shuffled = random.Random(3).sample(samples, len(samples))
    assert split_by_patient(shuffled, Fractions(), 5) == split_by_patient(samples, Fractions(), 5)
    assert split_by_patient(samples, Fractions(), 6) != split_by_patient(samples, Fractions(), 5)


def test_known_split() -> None:
    """Frozen: another version of Python or of this file must not move a patient."""
    samples = made(*[(f"p{n}", "0") for n in range(8)])
    splits = split_by_patient(samples, Fractions(0.5, 0.25, 0.0, 0.25), 0)
    assert {split: [s.patient for s in members] for split, members in splits.items()} == KNOWN


KNOWN = {
    "train": ["p0", "p1", "p2", "p4"],
    "val": ["p5", "p6"],
    "adv_train": [],
    "adv_test": ["p3", "p7"],
}


def test_strata_may_have_names_and_numbers() -> None:
    # 20 images of a clinic, 10 of another and 10 without one: each of them halved, whatever the targets
    names = ["north"] * 20 + ["south"] * 10 + [7] * 10
    samples = [Sample(Path(f"{n}.png"), f"{n}.png", None, f"{n}", stratum) for n, stratum in enumerate(names)]
    splits = split_by_patient(samples, Fractions(0.5, 0, 0, 0.5), 0)
    for split in ("train", "adv_test"):
        assert Counter(s.stratum for s in splits[split]) == {"north": 10, "south": 5, 7: 5}
    assert Counter(s.stratum for s in take(samples, 8, 0)) == {"north": 4, "south": 2, 7: 2}
    assert [s.id for s in first_of_each_stratum(samples, 2)] == [f"{n}.png" for n in (0, 1, 20, 21, 30, 31)]
    assert first_of_each_stratum(samples, None) == samples


def test_patient_with_several_labels_belongs_to_the_rarest() -> None:
    # Of class 0 there are 4 images (m 1, t 1, u 2), of class 1 there are 6: n alone has none of class 0. The others are
    # dealt first, those with the most of it first: u to train, as both splits lack all of it, then m and t to val,
    # which lacks more until it has 2 too. n follows to the split with less of class 1: train has none of it, val has 3.
    samples = made(("m", "011"), ("n", "111"), ("t", "01"), ("u", "00"))
    splits = split_by_patient(samples, Fractions(0.5, 0.5, 0, 0), 0)
    home = {s.patient: split for split, members in splits.items() for s in members}
    assert home == {"u": "train", "m": "val", "t": "val", "n": "train"}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_few_patients_with_a_finding_and_many_images_without_one_reach_every_split(seed: int) -> None:
    # the stratum of most of a patient's images would be 0 for all 208 of them, and leave the finding to chance
    healthy = [(f"h{n}", "0" * (1 + n % 3)) for n in range(200)]
    ill = [("i0", "000001111111"), *((f"i{n}", "0001") for n in range(1, 8))]
    splits = split_by_patient(made(*healthy, *ill), Fractions(), seed)
    images = sum(map(len, splits.values()))
    counts = {split: sum(s.target for s in members) for split, members in splits.items()}
    assert min(counts.values()) >= 1 and counts["train"] >= 7  # of 14: the largest patient goes to the largest split
    for split, share in {"train": 0.65, "val": 0.10, "adv_train": 0.10, "adv_test": 0.15}.items():
        assert abs(len(splits[split]) - share * images) <= 5


@pytest.mark.parametrize(
    ("shares", "words"),
    [((0.5, 0.5, 0.5, 0), "sum to 1.5"), ((1.2, -0.2, 0, 0), "at least 0"), ((float("nan"), 1, 0, 0), "at least 0")],
)
def test_bad_fractions(shares: tuple[float, float, float, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Fractions(*shares)


def test_take_keeps_proportions_and_grows_with_the_limit() -> None:
    samples = population()  # classes 1 : 2
    assert Counter(s.target for s in take(samples, 30, 0)) == {0: 10, 1: 20}
    assert Counter(s.target for s in take(samples, 2, 0)) == {0: 1, 1: 1}
    assert len(take(samples, 1, 0)) == 1
    assert take(samples, 600, 0) == samples
    assert {s.id for s in take(samples, 30, 0)} < {s.id for s in take(samples, 60, 0)}


def test_csv_round_trip(tmp_path: Path) -> None:
    samples = made(("a, b", "01"), ('q"', "1"), ("ü", "0"), ("d", "1"), ("e", "0"), ("f", "1"))
    splits = split_by_patient(samples, Fractions(0.4, 0.2, 0.2, 0.2), 0)
    write_splits(tmp_path / "splits.csv", splits, DIGITS.written)
    assert read_splits(tmp_path / "splits.csv", samples, DIGITS.check_written) == splits


def test_csv_gives_the_patient(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("id,split,patient\na-0.png,val,mother\n")
    assert (
        read_splits(tmp_path / "s.csv", made(("a", "1"), ("b", "1")), DIGITS.check_written)["val"][0].patient
        == "mother"
    )


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("z-0.png,train,0,z", r"row 2: the image 'z-0.png' is missing: .*under the root; .*remove the row"),
        ("a-0.png,train,0,a\na-0.png,train,0,a", r"row 3: expected each id once, got 'a-0.png' again after row 2"),
        ("a-0.png,test,0,a", r"row 2: expected a split among train, val, adv_train, adv_test, got 'test'"),
        ("a-0.png,train,2,a", r"row 2: expected a target from 0 to 1, got '2'"),
        ("a-0.png,train,-1,a", r"row 2: expected a target from 0 to 1, got '-1'"),
        ("a-0.png,train,cat,a", r"row 2: expected a target from 0 to 1, got 'cat'"),
        ("a-0.png,train,1,a", r"row 2: expected target 0 as the dataset gives it, got 1"),
        ("a-0.png,train,0,a\na-1.png,val,1,a", r"row 3: expected each patient in one split, got 'a' in train and val"),
        ("a-0.png", r"row 2: expected a split among .*, got ''"),
    ],
)
def test_bad_csv_rows(tmp_path: Path, rows: str, words: str) -> None:
    path = tmp_path / "splits.csv"
    path.write_text(f"id,split,target,patient\n{rows}\n")
    with pytest.raises(ValueError, match=f"splits.csv, {words}"):
        read_splits(path, made(("a", "01"), ("b", "1")), DIGITS.check_written)


def test_bad_csv_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="none.csv: expected a split file with the columns id, split"):
        read_splits(tmp_path / "none.csv", [], DIGITS.check_written)
    (tmp_path / "columns.csv").write_text("id,target\na-0.png,0\n")
    with pytest.raises(ValueError, match=r"columns.csv, row 1: .*missing \['split'\]"):
        read_splits(tmp_path / "columns.csv", [], DIGITS.check_written)
    (tmp_path / "binary.csv").write_bytes(b"id,split\n\xff\xd8\xff,val\n")
    with pytest.raises(ValueError, match="binary.csv: expected a CSV file in UTF-8"):
        read_splits(tmp_path / "binary.csv", [], DIGITS.check_written)


def deal(monkeypatch: pytest.MonkeyPatch, length: int, world: int, batch_size: int) -> list[list[list[int]]]:
    """The batches of every rank."""
    ranks = []
    sampler = EachImageOnce(length, batch_size)
    for rank in range(world):
        monkeypatch.setattr(samplers, "rank_and_world", lambda rank=rank: (rank, world))
        batches = list(sampler)
        assert len(sampler) == len(batches)
        ranks.append(batches)
    return ranks


def test_each_image_once_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    # 7 images on 2 ranks: 4 and 3, in ceil(4 / 3) = 2 batches each
    assert deal(monkeypatch, 7, 2, 3) == [[[0, 2], [4, 6]], [[1], [3, 5]]]


@pytest.mark.parametrize("world", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("batch_size", [1, 2, 7, 64])
def test_each_image_once(monkeypatch: pytest.MonkeyPatch, world: int, batch_size: int) -> None:
    for length in (0, 1, 2, 3, 5, 16, 21, 37, 64, 65, 200):
        ranks = deal(monkeypatch, length, world, batch_size)
        assert sorted(index for batches in ranks for batch in batches for index in batch) == list(range(length))
        sizes = [len(batch) for batches in ranks for batch in batches]
        assert all(1 <= size <= batch_size for size in sizes)
        wanted = math.ceil(math.ceil(length / world) / batch_size)
        for rank, batches in enumerate(ranks):
            assert [index for batch in batches for index in batch] == list(range(rank, length, world))
            assert len(batches) == min(wanted, len(range(rank, length, world)))
        assert EachImageOnce(length, batch_size).even == (len({len(batches) for batches in ranks}) == 1)


@pytest.mark.parametrize(("length", "batch_size"), [(-1, 4), (4, 0)])
def test_each_image_once_refuses(length: int, batch_size: int) -> None:
    with pytest.raises(ValueError, match=f"got {length} and {batch_size}"):
        EachImageOnce(length, batch_size)


def test_shuffled_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = ShuffledEpochs(10, seed=1)
    first, second = list(sampler), list(sampler)
    assert sorted(index for index, _ in first) == sorted(index for index, _ in second) == list(range(10))
    assert {epoch for _, epoch in first} == {0} and {epoch for _, epoch in second} == {1}
    assert [index for index, _ in first] != [index for index, _ in second]
    resumed = ShuffledEpochs(10, seed=1)
    resumed.set_epoch(1)
    assert list(resumed) == second
    shares = []
    for rank in range(2):
        monkeypatch.setattr(samplers, "rank_and_world", lambda rank=rank: (rank, 2))
        shares.append([index for index, _ in ShuffledEpochs(10, seed=1)])
    assert sorted(shares[0] + shares[1]) == list(range(10))

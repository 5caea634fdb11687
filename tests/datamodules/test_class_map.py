"""Classes under other names: of ordered grades, and as a victim numbers them."""

from pathlib import Path
from typing import Any

import pytest

from datamodules import KaggleDR
from datamodules.fundus import GRADES
from tests.miniatures import TABLES


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Eyes of every grade."""
    return TABLES["kaggle_dr five"].write(tmp_path)


def set_up(root: Path, victim: Any = None, **options: Any) -> KaggleDR:
    """The data, set up, with the classes of a victim if there is one."""
    module = KaggleDR(root, image_size=8, **options)
    if victim is not None:
        module.test_split = "all"
        module.take_classes_of(victim)
    module.setup()
    return module


@pytest.mark.parametrize(
    ("changed", "ordered"),
    [
        ({"Mild": "No DR"}, True),
        ({"Mild": None, "Severe": None}, True),
        ({grade: grade.upper() for grade in GRADES}, True),
        ({"Proliferative DR": "No DR"}, False),  # the highest grade becomes the lowest class
    ],
)
def test_classes_are_ordered_as_long_as_their_numbers_follow_the_grades(
    root: Path, changed: dict[str, str | None], ordered: bool
) -> None:
    module = set_up(root, class_map=changed)
    assert module.ordered is ordered and ("ordered" in module.describe()) is ordered


def test_grades_that_a_victim_numbers_otherwise_are_not_ordered(root: Path) -> None:
    assert set_up(root, GRADES).ordered
    alphabetical = set_up(root, sorted(GRADES))
    assert not alphabetical.ordered and alphabetical.class_names == tuple(sorted(GRADES))
    names = {sample.id: alphabetical.class_names[sample.target] for sample in alphabetical.splits["all"]}
    expected = {sample.id: GRADES[sample.target] for sample in KaggleDR(root).index()}
    assert names == expected


def test_one_class_alone_is_refused(root: Path) -> None:
    for changed in (dict.fromkeys(GRADES, "eye"), dict.fromkeys(GRADES[1:])):
        with pytest.raises(ValueError, match="class_map is expected to leave at least two classes of kaggle_dr, got"):
            set_up(root, class_map=changed)

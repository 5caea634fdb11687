"""Evaluations of masks and boxes whose every answer is known by hand: records, resume, judges, pictures."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from medrobust.attacks import CWL2, FAB, FGSM, JSMA, PGD, Attack, DeepFool, WorstCase
from medrobust.listeners import Panels, RecordJournal, Transfer
from medrobust.networks import JPEGCompression, Outcome, RandomResizing, defended
from medrobust.networks.defended_victim import under_attack
from medrobust.results.records import merge
from medrobust.results.report.page import finish
from medrobust.results.summary import write_summary
from tests.dense_toys import TASKS, Organ, Spots, data_of
from tests.recording import Stopped, evaluate

RADIUS = 0.15
ATTACKS: dict[str, Attack] = {
    "fgsm": FGSM(epsilon=RADIUS),
    "pgd": PGD(epsilon=RADIUS, steps=3, step_size=0.1, random_start=True),
}
DENSE = pytest.mark.parametrize("task", list(TASKS))


def run(folder: Path, task: str, *listeners: Any, attacks: dict[str, Attack] = ATTACKS, **options: Any) -> pl.DataFrame:
    """Records of an evaluation of the toy of a task, in the order of attacks and images."""
    data = data_of(task, test_split="all", **{name: options.pop(name) for name in ("batch_size",) if name in options})
    victim = options.pop("victim", None) or TASKS[task][0]()
    evaluate(victim.eval(), data, attacks, *listeners, RecordJournal(str(folder), "toy"), **options)
    return merge(folder).sort("attack", "id")


def expected(task: str, number: int) -> tuple[bool, float | None, bool, float | None]:
    """Right and quality of an image before FGSM and after it, which moves every pixel by the radius.

    Of an organ's 32 pixels, those that are hardly brighter than one half get lost; the background stays dark. In a
    frame every true quadrant gets darker by the radius: spots of 0.6 get lost, and glare of 0.9 stays glare. In an
    empty one, quadrants get brighter: those brighter than 0.35 are found.
    """
    if task == "masks":
        kept = 1 - (number % 32) / 32
        return True, 1.0, kept >= 0.5, kept
    labels = [(number // 4 + place) % 2 for place in range(number % 4)]
    invented = 0.3 + 0.002 * number + RADIUS > 0.5
    if not labels:
        return True, None, not invented, None
    found = sum(labels) / len(labels)
    return True, 1.0, found >= 0.5, found


@DENSE
@pytest.mark.parametrize(
    ("attack", "kind"),
    [(CWL2(), "CWL2"), (DeepFool(), "DeepFool"), (JSMA(), "JSMA"), (FAB(), "FAB"), (WorstCase(), "FAB")],
)
def test_attacks_that_move_between_classes_are_refused_before_any_image_is_read(
    task: str, attack: Attack, kind: str, tmp_path: Path
) -> None:
    sentence = f"the attack 'one' is expected to run on {task}, and {kind} moves between classes and does not"
    with pytest.raises(ValueError, match=sentence):
        run(tmp_path, task, attacks={"one": attack})
    assert not list(tmp_path.iterdir())


@DENSE
def test_records_say_what_fgsm_does_to_each_image(task: str, tmp_path: Path) -> None:
    records = run(tmp_path, task, controls=True)
    assert len(records) == 3 * 40 and sorted(records["id"].unique()) == [f"{number:02d}" for number in range(40)]
    fgsm = records.filter(attack="fgsm")
    known = [expected(task, int(id)) for id in fgsm["id"]]
    for place, name in enumerate(("correct_before", "quality_before", "correct_after", "quality_after")):
        values = [row[place] for row in known]
        assert fgsm[name].to_list() == [value if value is None else pytest.approx(value) for value in values]
    assert fgsm["success"].to_list() == [not row[2] for row in known] and 5 < fgsm["success"].sum() < 35
    for name in ("target", "goal", "clean_prediction", "adversarial_prediction", "clean_confidence"):
        assert records[name].null_count() == len(records)
    summary = finish(tmp_path)
    row = next(row for row in summary["rows"] if row["attack"] == "fgsm")
    qualities = [row[3] for row in known if row[3] is not None]
    assert row["n_quality_after"] == len(qualities) == (40 if task == "masks" else 30)
    assert row["quality_after"] == pytest.approx(sum(qualities) / len(qualities))
    assert row["accuracy_under_attack"] == sum(one[2] for one in known) / 40
    worst = summary["worst_case"][0]
    lowest = records.filter(pl.col("attack") != "noise").group_by("id").agg(pl.col("quality_after").min())
    assert worst["quality"] == pytest.approx(lowest["quality_after"].drop_nulls().mean())


@DENSE
def test_a_killed_evaluation_goes_on_and_equals_one_that_was_not(task: str, tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", task)
    with pytest.raises(Stopped):
        run(tmp_path / "killed", task, stop_after=9)
    (file,) = (tmp_path / "killed" / "journal").glob("*.jsonl")
    lines = file.read_bytes().splitlines(keepends=True)
    assert 20 < len(lines) < 40
    file.write_bytes(b"".join(lines[:-1]) + lines[-1][: len(lines[-1]) // 2])  # a torn last line
    resumed = run(tmp_path / "killed", task)
    assert resumed.equals(whole) and len(resumed) == 80
    kept = [path for path in (tmp_path / "killed" / "journal").glob("*.jsonl") if path != file]
    assert sum(path.read_bytes().count(b"\n") for path in kept) == 80 - (len(lines) - 1)


@DENSE
@pytest.mark.parametrize("size", [1, 40])
def test_records_do_not_depend_on_the_batch(task: str, size: int, tmp_path: Path) -> None:
    one, other = run(tmp_path / "other", task, batch_size=size), run(tmp_path / "three", task)
    floats = [name for name, kind in one.schema.items() if kind.is_float()]
    assert one.drop(floats).equals(other.drop(floats))
    for name in floats:
        assert one[name].is_null().equals(other[name].is_null())
        assert (one[name] - other[name]).abs().max() in (None, pytest.approx(0, abs=1e-6)), name


@DENSE
def test_one_image_alone_is_an_evaluation(task: str, tmp_path: Path) -> None:
    data = data_of(task, test_split="all")
    data.splits["all"] = [sample for sample in data.splits["all"] if sample.id == "04"]  # a frame without boxes
    listeners = RecordJournal(str(tmp_path), "toy"), Panels(str(tmp_path))
    evaluate(TASKS[task][0]().eval(), data, ATTACKS, *listeners)
    summary = finish(tmp_path)
    (row,) = [row for row in summary["rows"] if row["attack"] == "fgsm"]
    assert row["n"] == 1 and row["quality_after_interval"] is None
    assert row["n_quality_after"] == (1 if task == "masks" else 0) and (tmp_path / "report.html").is_file()
    assert len(list(tmp_path.glob("panels/*.json"))) == 2


@DENSE
def test_another_victim_judges_the_same_images(task: str, tmp_path: Path, run_of: Any) -> None:
    kind = TASKS[task][0]
    judges = {"same": run_of(tmp_path / "a", kind()), "strict": run_of(tmp_path / "b", kind(level=0.58))}
    records = run(tmp_path / "e", task, Transfer(judges))
    assert records["judge_same_after"].to_list() == records["correct_after"].to_list()
    assert records["judge_same_success"].fill_null(False).to_list() == (~records["correct_after"]).to_list()
    fgsm = records.filter(attack="fgsm")
    if task == "masks":  # it does not find the organ's pixels at 0.55 in the clean image either
        before = [1 - (int(id) % 32) / 32 >= 0.5 for id in fgsm["id"]]
    else:
        before = [True] * 40
    assert fgsm["judge_strict_before"].to_list() == before
    rows = write_summary(tmp_path / "e")["rows"]
    assert {row["transfer"]["strict"]["n_correct_before"] for row in rows[1:]} == {sum(before)}


@DENSE
def test_a_judge_of_other_classes_is_refused(task: str, tmp_path: Path, run_of: Any) -> None:
    judge = run_of(tmp_path / "a", TASKS[task][0](num_classes=5))
    with pytest.raises(ValueError, match="num_classes 5, the victim 2"):
        run(tmp_path / "e", task, Transfer({"x": judge}))


@pytest.mark.parametrize(
    ("task", "count", "what", "refused"),
    [
        ("masks", 2, "quality", True),
        ("masks", 1, "quality", False),  # a share of pixels may jump by rounding
        ("boxes", 2, "quality", True),
        ("boxes", 1, "quality", False),
        ("boxes", 2, "right", True),  # of frames without a box, which have no quality
        ("boxes", 1, "right", False),
        ("boxes", 0, "right", False),
    ],
)
def test_a_victim_that_answers_otherwise_than_its_records_is_refused(
    task: str, count: int, what: str, refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = TASKS[task][0]
    first = {"fgsm": ATTACKS["fgsm"]}
    run(tmp_path, task, attacks=first, batch_size=40)
    honest = kind.outcome

    def changed(self: Any, outputs: Any, targets: Any) -> Outcome:
        outcome = honest(self, outputs, targets)
        right, quality = outcome.right.clone(), outcome.quality.clone()
        places = (quality.isnan() if what == "right" else ~quality.isnan()).nonzero().squeeze(1)[:count]
        right[places] = ~right[places]
        quality[places] -= 0.25
        return Outcome(right, quality)

    monkeypatch.setattr(kind, "outcome", changed)
    if refused:
        for batch_size in (40, 1):
            with pytest.raises(ValueError, match="the records that are there say that the victim was right"):
                run(tmp_path, task, batch_size=batch_size)
    else:
        assert len(run(tmp_path, task, batch_size=40)) == 80


@DENSE
def test_pictures_are_those_of_the_chosen_images(task: str, tmp_path: Path) -> None:
    run(tmp_path / "none", task, Panels(str(tmp_path / "none"), count=0))
    assert not list(tmp_path.glob("none/panels/*"))
    run(tmp_path / "two", task, Panels(str(tmp_path / "two"), count=2))
    panels = [json.loads(file.read_text()) for file in tmp_path.glob("two/panels/*.json")]
    assert len(panels) == 8 and len({panel["id"] for panel in panels}) == 2 * 2  # twice the images shown
    kinds = {"clean", "perturbation", "adversarial", "truth", "found_before", "found_after"}
    names = ["organ"] if task == "masks" else ["spot", "glare"]
    for panel in panels:
        assert panel["images"].keys() == kinds and [one["name"] for one in panel["legend"]] == names
        assert all((tmp_path / "two" / "panels" / name).is_file() for name in panel["images"].values())
        right_before, quality_before, right_after, quality_after = expected(task, int(panel["id"]))
        if panel["attack"] == "fgsm":
            assert (panel["right_before"], panel["right_after"]) == (right_before, right_after)
            assert panel["quality_before"] == quality_before and panel["quality_after"] == pytest.approx(quality_after)
    html_of = finish(tmp_path / "two")["paths"]["report"].read_text()
    assert html_of.count("<figure>") == 4 * 6 and "true class" not in html_of


@DENSE
def test_overlays_show_the_truth_and_what_is_found(task: str, tmp_path: Path) -> None:
    """Colours at chosen places of picture 39, or frame 39: three quadrants, the first and last of which are glare."""
    data = data_of(task, test_split="all", batch_size=40)
    data.splits["all"] = [sample for sample in data.splits["all"] if sample.id == ("17" if task == "masks" else "39")]
    evaluate(TASKS[task][0]().eval(), data, {"fgsm": ATTACKS["fgsm"]}, Panels(str(tmp_path), count=1))
    from PIL import Image

    (file,) = tmp_path.glob("panels/*.json")
    names = json.loads(file.read_text())["images"]
    pictures = {kind: Image.open(file.parent / name).convert("RGB") for kind, name in names.items()}
    orange, blue = (230, 159, 0), (86, 180, 233)
    if task == "masks":  # the first 17 of the organ's pixels are lost, of which the first is 36 pixels wide
        assert pictures["truth"].getpixel((0, 0)) == pictures["found_before"].getpixel((0, 0)) == orange
        assert pictures["found_after"].getpixel((0, 0)) == (255, 255, 255)
        assert pictures["found_after"].getpixel((287, 100)) == (255, 255, 255)  # the truth's rim lies over that found
        grey = pictures["found_after"].getpixel((18, 18))
        assert grey[0] == grey[1] == grey[2]
    else:
        for kind in ("truth", "found_before", "found_after"):
            seen = pictures[kind].getpixel((0, 100)), pictures[kind].getpixel((287, 70))
            assert seen == (blue, orange if kind != "found_after" else (255, 255, 255)), kind


def test_toys_are_built_again_from_their_checkpoints(tmp_path: Path, run_of: Any) -> None:
    for kind in (Organ, Spots):
        victim = kind(level=0.6)
        found = kind.from_checkpoint(Path(run_of(tmp_path / kind.__name__, victim)) / "checkpoints" / "best.ckpt")
        assert found.description() == victim.description()
        assert all(torch.equal(one, other) for one, other in zip(found.parameters(), victim.parameters(), strict=True))


@DENSE
def test_a_defence_that_moves_the_image_is_refused(task: str, tmp_path: Path) -> None:
    victim = defended(defended(TASKS[task][0]().eval(), JPEGCompression()), RandomResizing())
    what = {"masks": "masks", "boxes": "boxes"}[task]
    with pytest.raises(ValueError, match=f"RandomResizing moves what an image shows, and {what} would stay"):
        run(tmp_path, task, victim=victim)
    batch = next(iter(data_of(task, test_split="all").dataloader_of("all")))
    for asked in (victim, under_attack(victim)):  # from Python, too
        with pytest.raises(ValueError, match="RandomResizing moves"):
            asked.loss(batch["image"], batch["target"])
        with pytest.raises(ValueError, match="RandomResizing moves"):
            asked.outcome(asked(batch["image"]) if task == "masks" else [], batch["target"])
    assert len(run(tmp_path, task, victim=defended(TASKS[task][0]().eval(), JPEGCompression())))

"""What the report, the console and Markdown say of masks and boxes: numbers by hand, and no word of classes."""

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from medrobust.results.manifest import write_manifest
from medrobust.results.records import Journal
from medrobust.results.report.dense_tables import console_tables, markdown_tables
from medrobust.results.report.figures import quality_figure
from medrobust.results.report.page import finish, write_report
from medrobust.results.report.tables import console_table, dense_tables, markdown_table
from medrobust.results.statistics import Z95
from medrobust.results.summary import summarise
from medrobust.results.verdict import verdict
from medrobust.results.wording import quality_name, right_meaning
from tests.sample_record import record

VICTIMS: dict[str, dict[str, Any]] = {
    "segmentation": {"name": "resnet18", "class": "Segmenter", "threshold": 0.5},
    "boxes": {"name": "resnet50", "class": "BoxDetector", "score_threshold": 0.5, "iou_threshold": 0.5, "share": 0.25},
}
QUALITIES = {  # of four images of four patients, before and after; the third frame has no box, and no quality
    "clean": (0.9, 0.8, None, 0.7),
    "noise": (0.9, 0.8, None, 0.6),
    "pgd": (0.1, 0.6, None, 0.3),
    "dag": (0.4, 0.2, None, 0.2),
}
CLASSES = ("left lung", "right lung")


def evaluation(folder: Path, task: str, radii: tuple[float, ...] = (8 / 255,), **changes: Any) -> dict[str, Any]:
    """The summary of an evaluation of four images at some radii, finished."""
    attacks, records = [], []
    for name in ("noise", "pgd", "dag"):
        for radius in radii:
            key, control = f"{name}{radius:.4f}", name == "noise"
            attacks.append({"attack": name, "key": key, "epsilon": radius, "control": control, "method": "PGD"})
            for place, (before, after) in enumerate(zip(QUALITIES["clean"], QUALITIES[name], strict=True)):
                right = (after is None or after >= 0.5) and not (name == "dag" and after is None)
                none = dict.fromkeys(("target", "clean_prediction", "adversarial_prediction"))
                none |= dict.fromkeys(("clean_confidence", "adversarial_confidence"))
                verdict = {"correct_before": True, "correct_after": right, "reached": not right, "success": not right}
                about = {"attack": name, "epsilon": radius, "patient": f"p{place}", "linf": radius}
                quality = {"quality_before": before, "quality_after": after}
                records.append(record(f"i{place}", key, **none, **verdict, **about, **quality))
    manifest = {"schema": 1, "run": "dense", "data": {"name": "d", "task": task, "images": 4}, "attacks": attacks}
    write_manifest(folder, manifest | {"victim": VICTIMS[task]} | changes)
    with Journal(folder) as journal:
        journal.append(records)
    return finish(folder)


def masks_of(summary: dict[str, Any]) -> dict[str, Any]:
    """Results of masks in the agreed form, with numbers that tell rows and classes apart."""
    rows = []
    for place, row in enumerate(summary["rows"]):
        part = 0.9 - 0.1 * place
        both = {"jaccard": part, "jaccard_interval": [part - 0.05, part + 0.05], "dice": part, "dice_interval": None}
        classes = [
            {"name": name, "n": 4, **both, "jaccard": part - 0.01 * number, "hausdorff95": 2.25 * (number + 1)}
            | {"hausdorff95_interval": [1.0, 4.0], "n_hausdorff95": 4 - number}
            for number, name in enumerate(CLASSES)
        ]
        flipped = None if row["kind"] == "clean" else 0.123
        own = {"n": 4, "pixel_accuracy": 0.951, "pixel_accuracy_interval": [0.9, 0.99], "flipped_pixels": flipped}
        head = {name: row[name] for name in ("attack", "epsilon", "key", "kind")}
        rows.append({**head, **own, "flipped_pixels_interval": None, **both, "classes": classes})
    return {"names": list(CLASSES), "rows": rows}


def boxes_of(summary: dict[str, Any]) -> dict[str, Any]:
    """Results of boxes in the agreed form."""
    rows = []
    for place, row in enumerate(summary["rows"]):
        numbers = {name: 0.8 - 0.1 * place - 0.02 * order for order, name in enumerate(("map50", "map", "iou"))}
        numbers |= {"ead_score": 0.333}
        limits = {f"{name}_interval": [value - 0.1, value + 0.1] for name, value in numbers.items()}
        changes = dict.fromkeys(("lost", "relabelled", "invented"))
        changes |= {} if row["kind"] == "clean" else {"lost": 7, "relabelled": 0, "invented": 11}
        classes = [{"name": "spot", "n_boxes": 1, "ap50": 0.625}, {"name": "glare", "n_boxes": 0, "ap50": None}]
        head = {name: row[name] for name in ("attack", "epsilon", "key", "kind")}
        rows.append({**head, "n": 4, "n_boxes": 9, **numbers, **limits, **changes, "classes": classes})
    return {"names": ["spot", "glare"], "rows": rows}


class Text(HTMLParser):
    """The visible text of a page, and the headings of its sections."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text, self.headings = "", [""]
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        self.open.append(tag)
        self.headings += [""] if tag == "h2" else []

    def handle_endtag(self, tag: str) -> None:
        while self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.text += data
            self.headings[-1] += data if "h2" in self.open else ""


def page_of(folder: Path, task: str) -> Text:
    """The page with its tables of masks or boxes."""
    path = folder / "summary.json"
    summary = json.loads(path.read_text())
    summary |= {"masks": masks_of(summary)} if task == "segmentation" else {"boxes": boxes_of(summary)}
    path.write_text(json.dumps(summary))
    write_report(folder)
    return Text((folder / "report.html").read_text().replace("\N{NO-BREAK SPACE}", " "))


def test_the_worst_case_takes_the_lowest_quality_of_each_image(tmp_path: Path) -> None:
    (worst,) = evaluation(tmp_path, "segmentation")["worst_case"]
    lowest = (0.1, 0.2, 0.2)  # of the images that have one
    mean = sum(lowest) / 3
    assert worst["quality"] == pytest.approx(mean) and worst["n_quality"] == 3 and worst["attacks"] == ["pgd", "dag"]
    error = (3 / 2 * sum((value - mean) ** 2 for value in lowest)) ** 0.5 / 3
    assert worst["quality_interval"] == pytest.approx([mean - Z95 * error, mean + Z95 * error])
    assert (worst["n"], worst["n_correct_after"]) == (4, 0)


def test_the_worst_case_counts_only_images_that_all_attacks_have_tried(tmp_path: Path) -> None:
    evaluation(tmp_path, "segmentation")
    import polars as pl

    from medrobust.results.manifest import read_manifest
    from medrobust.results.records import read_records

    records = read_records(tmp_path).filter(~((pl.col("attack") == "dag") & (pl.col("id") == "i0")))
    (worst,) = summarise(records, read_manifest(tmp_path))["worst_case"]
    assert (worst["n"], worst["n_quality"], worst["quality"]) == (3, 2, pytest.approx(0.2))
    manifest = read_manifest(tmp_path)
    manifest["data"] = {**manifest["data"], "task": "classification"}
    assert "quality" not in summarise(records, manifest)["worst_case"][0]


@pytest.mark.parametrize(
    ("task", "name", "means"),
    [
        ("segmentation", "mean Jaccard", "Jaccard index is at least 50.0 %"),
        ("boxes", "boxes found", "at least 25.0 % of its true boxes are found"),
    ],
)
def test_qualities_are_called_by_their_definition(task: str, name: str, means: str) -> None:
    manifest = {"data": {"task": task}, "victim": VICTIMS[task]}
    assert quality_name(manifest) == name and means in right_meaning(manifest)
    for unknown in ({"data": {"task": task}, "victim": {"name": "mine"}}, {"data": {}, "victim": VICTIMS[task]}):
        assert quality_name(unknown) == "quality" and right_meaning(unknown) == ""


def test_the_verdict_says_both_what_is_right_and_how_good_it_is(tmp_path: Path) -> None:
    masks, boxes = (verdict(evaluation(tmp_path / task, task)) for task in ("segmentation", "boxes"))
    assert masks[0] == (
        "At ε = 8/255, an attacker who knows the model makes it wrong about all 4 images that it was right about, with "
        "the worst of 2 attacks on each; the control noise does so for none of 4."
    )
    assert boxes[0] == masks[0]
    assert masks[2].startswith("With so few images (4 right before the attack)")
    # the lowest of pgd and dag: 0.1, 0.2 and 0.2, whose mean is 1/6; clean (0.9 + 0.8 + 0.7) / 3
    assert masks[3].startswith("The mean Jaccard falls from 80.0 % to 16.7 % (95 % interval")
    assert boxes[3].startswith("The share of boxes found, averaged over the images, falls from 80.0 % to 16.7 %")


def test_a_page_of_masks_has_their_numbers_and_no_word_of_classes_or_probabilities(tmp_path: Path) -> None:
    evaluation(tmp_path, "segmentation")
    page = page_of(tmp_path, "segmentation")
    assert {"Masks", "Mean Jaccard under each attack", "Right images under each attack"} <= set(page.headings)
    assert not {"Boxes", "Classes", "Labels", "Pictures", "Detection"} & set(page.headings)
    flat = " ".join(page.text.split())
    for words in ("95.1", "12.3", "90.0–99.0", "left lung", "2.2", "4.5", "1.0–4.0", "n = 3", "HD95", "Dice"):
        assert words in flat, words
    assert "n = 4 HD95" not in flat and "An image counts as right where its Jaccard index is at least 50.0 %" in flat
    assert "With the lowest quality that each image has before or after them, the mean Jaccard is 16.7 %" in flat
    assert not re.search(r"with the probability|true class|cross-entropy|[Aa]ccuracy under attack|mAP", flat)
    assert "right after the attack" in flat


def test_a_page_of_boxes_has_their_numbers(tmp_path: Path) -> None:
    evaluation(tmp_path, "boxes", radii=(2 / 255, 8 / 255))
    page = page_of(tmp_path, "boxes")
    assert {"Boxes", "Boxes found against the radius"} <= set(page.headings) and "Masks" not in page.headings
    flat = " ".join(page.text.split())
    for words in ("mAP@0.5", "COCO mAP", "33.3", "23.3–43.3", "62.5", "relabelled", "9 true boxes in 4 images"):
        assert words in flat, words
    assert "spot with 1 box, glare with 0 boxes" in flat and "HD95" not in flat
    assert "the mean of boxes found is 16.7 %" in flat


def test_pages_without_these_numbers_have_no_such_sections(tmp_path: Path) -> None:
    for task in VICTIMS:
        evaluation(tmp_path / task, task)
        page = Text((tmp_path / task / "report.html").read_text())
        assert not {"Masks", "Boxes"} & set(page.headings) and "HD95" not in page.text and "mAP" not in page.text


def test_tables_for_console_and_markdown(tmp_path: Path) -> None:
    summary = evaluation(tmp_path, "segmentation")
    summary["masks"] = masks_of(summary)
    written = markdown_table(summary)
    assert "mean Jaccard after the attack" in written and "| dag | 8/255 | 4 | 0.0 % |" in written
    assert "An image counts as right where" in written
    assert "The worst of 2 attacks at ε = 8/255, image by image: 0.0 % right, with a mean Jaccard of 16.7 %" in written
    dense = markdown_tables(dense_tables(summary))
    assert "| pgd | 8/255 | 95.1 [90.0–99.0] | 12.3 [no interval] | 70.0 [65.0–75.0] | 70.0 [no interval] |" in dense
    assert "left lung Jaccard" in dense and "4.5 [1.0–4.0] (n = 3)" in dense and "HD95 in pixels" in dense
    for width, limits in ((80, False), (140, True)):
        screen = Console(width=width, file=io.StringIO(), record=True)
        screen.print(console_table(summary, width), *console_tables(dense_tables(summary), width))
        shown = screen.export_text()
        assert "mean Jaccard" in shown and "pixel accuracy" in shown and ("[90.0–99.0]" in shown) == limits
        assert ("95 % intervals" in " ".join(shown.split())) == limits and "n = 3" in shown
        assert "an attack with a goal succeeds where it reaches it" in " ".join(shown.split())
    assert markdown_tables(dense_tables({"rows": []})) == ""
    page = Text((tmp_path / "report.html").read_text())
    assert "an attack with a goal succeeds where it reaches it" in page.text


@pytest.mark.parametrize("task", ["segmentation", "boxes"])
def test_the_console_table_of_a_first_look_fits_every_screen(task: str, tmp_path: Path) -> None:
    summary = evaluation(tmp_path, task)
    for row in summary["rows"]:
        row |= {"n": 100, "images": 1000, "complete": False}
    for width in range(80, 170):
        screen = Console(width=width, file=io.StringIO(), record=True)
        screen.print(console_table(summary, width))
        shown = screen.export_text()
        words = " ".join(shown.split())
        assert all(name in shown for name in ("attack", "passes", "pgd", "dag")), width
        assert "among the images that it got right before; an attack with a goal" in words, width


def test_the_figure_of_qualities_leaves_out_what_has_none(tmp_path: Path) -> None:
    summary = evaluation(tmp_path, "boxes")
    assert "80.0 %" in quality_figure(summary, "boxes found")
    for row in summary["rows"][1:]:
        row["quality_after"] = None
    assert quality_figure(summary, "boxes found") == ""


def test_pictures_say_what_is_seen(tmp_path: Path) -> None:
    summary = evaluation(tmp_path, "boxes")
    kinds = ("clean", "perturbation", "adversarial", "truth", "found_before", "found_after")
    (tmp_path / "panels").mkdir()
    for kind in kinds:
        Image.new("RGB", (8, 8), (kinds.index(kind), 0, 0)).save(tmp_path / "panels" / f"a-{kind}.png")
    key = summary["manifest"]["attacks"][1]["key"]
    about = {"key": key, "attack": "pgd", "epsilon": 8 / 255, "id": "frame 7", "linf": 8 / 255, "magnification": 16}
    about |= {"right_before": True, "quality_before": 1.0, "right_after": False, "quality_after": None}
    about |= {"boxes_lost": 2, "boxes_relabelled": 0, "boxes_invented": 1, "extras": {}}
    legend = [{"name": "spot", "colour": "#e69f00"}]
    images = {kind: f"a-{kind}.png" for kind in kinds}
    (tmp_path / "panels" / "a.json").write_text(json.dumps(about | {"legend": legend, "images": images}))
    write_report(tmp_path)
    html = (tmp_path / "report.html").read_text().replace("\N{NO-BREAK SPACE}", " ")
    alternatives = re.findall(r'<img src="[^"]*" alt="([^"]*)"', html)
    changed = "image frame 7, changed by pgd at ε 8/255"
    assert alternatives == [
        "clean image frame 7",
        "change that pgd at ε 8/255 makes to image frame 7, 16 times as strong; L∞ 8/255",
        changed,
        "clean image frame 7, with what is truly there",
        "clean image frame 7, with what the victim finds, and white contours of the truth: right, boxes found 100.0 %",
        f"{changed}, with what the victim finds, and white contours of the truth: wrong, 2 lost, 1 invented",
    ]

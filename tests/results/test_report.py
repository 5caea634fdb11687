"""Reports: one page that stands alone, from whatever an evaluation has left so far."""

import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from medrobust.results.manifest import write_manifest
from medrobust.results.records import Journal
from medrobust.results.report.figures import accuracy_figure, cost_figure
from medrobust.results.report.page import finish, write_report
from medrobust.results.report.svg import STYLE, place, shorten, spread

CLASSES = ["NORMAL", "PNEUMONIA"]


class Page(HTMLParser):
    """The tags of a page and its visible text; unbalanced tags are an error."""

    VOID = ("meta", "img", "input", "br", "link", "wbr")

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.text = [], [], ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.text += data

    def count(self, tag, **wanted):
        return sum(name == tag and wanted.items() <= found.items() for name, found in self.tags)


def evaluation(folder, attacks, images=40, classes=CLASSES, done=None, panels=1, run="demo", task=None, **header):
    """An evaluation with made-up numbers: `attacks` are (name, epsilon, control, probability to be fooled)."""
    random = np.random.default_rng(0)
    target = random.integers(0, len(classes), images)
    right, hardness = random.random(images) < 0.95, random.random(images)
    entries, records = [], []
    for number, (name, epsilon, control, probability) in enumerate(attacks):
        key = f"{number:016x}"
        method = "UniformNoise" if control else "PGD"
        entry = {"attack": name, "method": method, "epsilon": epsilon, "key": key, "control": control}
        entries.append(entry | {"parameters": {"steps": 20, "random_start": True}})
        for image in range(images):
            fooled = bool(right[image] and hardness[image] < probability)
            clean = int(target[image]) if right[image] else int(target[image] + 1) % len(classes)
            shown = {
                "key": key,
                "id": f"{image:03d}.png",
                "target": int(target[image]),
                "attack": name,
                "method": method,
                "epsilon": epsilon,
                "clean_prediction": clean,
                "clean_confidence": 0.9,
                "adversarial_prediction": (clean + 1) % len(classes) if fooled else clean,
                "adversarial_confidence": 0.75,
                "reached": fooled,
                "success": fooled,
                "linf": epsilon or 0.01,
            }
            records.append(
                shown
                | {"run": run, "victim": "v", "dataset": "d", "split": "s", "goal": None, "seed": 42}
                | {"correct_before": bool(right[image]), "correct_after": bool(right[image] and not fooled)}
                | {
                    "patient": None,
                    "quality_before": 0.75 + image % 2 / 4,
                    "quality_after": (not fooled) * 0.75 + image % 2 / 4,
                }
                | {"l2": 0.5, "l0": None, "zero_gradients": 0, "psnr": 40.0}
                | {"forwards": 1 + 20 * (not control), "backwards": 20 * (not control)}
            )
            if image < panels:
                _panel(folder / "panels", f"{number}-{image}", shown, random)
    data = {"name": "phantom", "split": "adv_test", "images": images, "class_names": classes}
    data |= {} if task is None else {"task": task}
    write_manifest(folder, {"schema": 1, "run": run, "data": data, "attacks": entries, **header})
    with Journal(folder) as journal:
        journal.append(records[:done])
    return folder


def _panel(folder, name, shown, random):
    folder.mkdir(parents=True, exist_ok=True)
    for kind in ("clean", "perturbation", "adversarial"):
        Image.fromarray(random.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / f"{name}-{kind}.png")
    images = {kind: f"{name}-{kind}.png" for kind in ("clean", "perturbation", "adversarial")}
    (folder / f"{name}.json").write_text(json.dumps(shown | {"magnification": 100, "images": images}))


def sweep(names=("fgsm", "pgd"), radii=(0.5, 1, 2, 4, 8)):
    attacks = [("noise", radius / 255, True, 0.02) for radius in radii]
    return attacks + [(name, radius / 255, False, min(1.0, 0.3 + radius / 5)) for name in names for radius in radii]


def read(folder):
    html = finish(folder)["paths"]["report"].read_text()
    outside = html.replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?:|(?:src|href)\s*=\s*[\"'](?!data:image/png;base64,|#)|@import|url\(|//cdn", outside)
    for figure in re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL):
        assert "nan" not in figure.lower().replace("nance", "")
        ElementTree.fromstring(figure)
    return html, Page(html)


def test_report_of_a_sweep(tmp_path):
    html, page = read(evaluation(tmp_path, sweep(), victim={"name": "resnet10t", "parameters": 1234}, seed=42))
    # worst case, matrices at 5 radii, smallest perturbation, victim, cost, accuracy; classes for noise, fgsm and pgd
    assert page.count("svg", **{"class": "fig"}) == 1 + 5 + 1 + 1 + 2 + 3
    assert html.count(STYLE) == 1
    assert page.count("tr", **{"data-attack": "pgd"}) == 5
    assert page.count("img") == 15 * 3
    # the first attack's pictures and classes, not the noise's, and the matrix of the verdict's radius
    assert page.count("option", selected=None) == 3
    assert "All 11 self-checks passed" in page.text
    assert all(
        words in page.text
        for words in ("resnet10t", "1,234 parameters", "0.5/255", "NORMAL", "PSNR", "×\N{NO-BREAK SPACE}100")
    )
    assert len(re.sub(r"data:image/png;base64,[^\"]*", "", html)) < 200_000


def test_report_names_the_attacks_that_broke_the_images(tmp_path):
    folder = evaluation(tmp_path, sweep())
    assert "Which attack broke the images" not in read(folder)[0]
    summary = json.loads((folder / "summary.json").read_text())
    row = summary["rows"][-1]
    row["broken_by"], row["n_correct_before"], row["n_success"] = {"APGD towards 9 goals": 3, "Square": 1}, 8, 4
    del summary["rows"][1]["broken_by"]  # as an older summary has it
    (folder / "summary.json").write_text(json.dumps(summary))
    write_report(folder)
    html = (folder / "report.html").read_text()
    section = html[html.index("Which attack broke the images") :]
    section = section[: section.index("</section>")]
    assert re.findall(r"<td>(.*?)</td><td class=\"num\">(.*?)</td>", section) == [
        ("APGD towards 9 goals", "3"),
        ("Square", "1"),
        ("none", "4"),
    ]


def test_report_shows_qualities_of_masks_and_not_of_classes(tmp_path):
    shown = {task: read(evaluation(tmp_path / str(task), sweep(), task=task)) for task in (None, "segmentation")}
    headings = ["attack", "ε", "n", "right after", "fooled"]
    for task, more in ((None, []), ("segmentation", ["quality before", "quality after"])):
        html, page = shown[task]
        table = html[html.index('<table id="results">') :]
        cells = re.findall(r"<th(?: [^>]*)?>(.*?)</th>", table[: table.index("</thead>")])
        assert [cell.replace("<br>", " ") for cell in cells][: 5 + len(more)] == headings + more
        assert len({row.count("<td") for row in table[: table.index("</table>")].split("<tr")[2:]}) == 1
        assert ("<dt>quality</dt>" in html) == bool(more)
        assert bool(re.search(r"<b>87\.5\s%</b><small>8\d\.\d–9\d\.\d</small>", html)) == bool(more)


def test_finish_writes_all_and_can_be_repeated(tmp_path):
    evaluation(tmp_path, sweep())
    first = finish(tmp_path)
    assert {name: path.name for name, path in first["paths"].items()} == {
        "records": "records.parquet",
        "summary": "summary.json",
        "evidence": "evidence.json",
        "report": "report.html",
    }
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert finish(tmp_path) == first
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
    assert "paths" not in json.loads(before["summary.json"])


def test_report_of_a_half_finished_evaluation(tmp_path):
    attacks = [("noise", 1 / 255, True, 0.0), ("pgd", 1 / 255, False, 1.0), ("bim", 1 / 255, False, 1.0)]
    _, page = read(evaluation(tmp_path, attacks, done=60))
    assert "pgd has tried 20 of 40 images" in page.text.replace("\n", " ")
    assert "bim has tried 0 of 40 images" in page.text
    assert re.search(r"1 of \d+ self-checks found something to know before reading the numbers", page.text)
    assert page.text.count("read with care") == 2


@pytest.mark.parametrize("attacks", [[], [("pgd", 1 / 255, False, 0.5)], [("deepfool", None, False, 1.0)]])
@pytest.mark.parametrize("done", [None, 0])
def test_report_of_nearly_nothing(tmp_path, attacks, done):
    _, page = read(evaluation(tmp_path, attacks, panels=0, done=done))
    assert page.count("img") == 0
    figures = {"pgd": 7, "deepfool": 5}[attacks[0][0]] if attacks and done is None else 0  # no worst case or matrix
    assert page.count("svg") == figures
    assert ("No attack has been recorded yet." in page.text) == (not attacks or done == 0)


def test_report_of_sixty_rows_stays_small(tmp_path):
    names = [f"configured-attack-with-a-long-name-{number}" for number in range(10)]
    html, page = read(evaluation(tmp_path, sweep(names, (0.3, 0.5, 1, 2, 4, 8)), images=35, panels=0))
    assert page.count("tr", **{"class": "attack"}) + page.count("tr", **{"class": "attack first"}) > 60
    assert len(html) < 350_000


def test_names_are_escaped(tmp_path):
    nasty = "<script>alert('x')</script> & \"q\""
    classes = [nasty, "bacterial pneumonia with pleural effusion", "c", "d", "e"]
    html, page = read(evaluation(tmp_path, [(nasty, 1 / 255, False, 0.5)], classes=classes, run=nasty, command=nasty))
    assert page.count("script") == 1
    assert "<script>alert" not in html
    assert nasty in page.text


def test_damaged_panels_are_left_out(tmp_path, caplog):
    folder = evaluation(tmp_path, [("pgd", 1 / 255, False, 0.5)], panels=2)
    (folder / "panels/0-0.json").write_text('{"key": ')
    (folder / "panels/0-1-clean.png").unlink()
    secret = json.loads((folder / "panels/0-1.json").read_text())
    secret["images"]["adversarial"] = "../manifest.json"
    (folder / "panels/0-1.json").write_text(json.dumps(secret))
    (folder / "panels/9.json").write_text(json.dumps(secret | {"key": "of an older evaluation"}))
    _, page = read(folder)
    assert page.count("img") == 1
    assert "0-0.json is left out" in caplog.text


def test_panels_say_right_and_wrong(tmp_path):
    html, _ = read(evaluation(tmp_path, [("pgd", 1 / 255, False, 1.0)], panels=3))
    assert len(re.findall(r'class="right"><i[^>]*>✓</i> (NORMAL|PNEUMONIA)', html)) == 3
    assert len(re.findall(r'class="wrong"><i[^>]*>✗</i> (NORMAL|PNEUMONIA)', html)) == 3


def test_write_report_needs_a_summary(tmp_path):
    with pytest.raises(ValueError, match="summarise the records"):
        write_report(tmp_path)


def test_figures_name_every_attack(tmp_path):
    summary = finish(evaluation(tmp_path, sweep(("fgsm", "a-very-long-name-of-an-attack", "<pgd>")), panels=0))
    for figure in (accuracy_figure(summary), cost_figure(summary)):
        words = " ".join(ElementTree.fromstring(figure).itertext())
        assert all(
            name in words for name in ("noise (control)", "fgsm", shorten("a-very-long-name-of-an-attack"), "<pgd>")
        )
    ticks = [element.text for element in ElementTree.fromstring(accuracy_figure(summary)).iter() if element.text]
    assert {"0.5", "1", "2", "4", "8", "ε · 255"} <= set(ticks)


def test_labels_keep_apart():
    assert spread([10.0, 10.0, 50.0], 15, 0, 100) == [10.0, 25.0, 50.0]
    assert spread([100.0, 100.0, 99.0], 15, 0, 100) == [85.0, 100.0, 70.0]
    marks = [(100.0, 100.0)] * 6
    found = [spot for spot in place([(*mark, "pgd") for mark in marks], marks, (0, 0, 300, 300)) if spot]
    assert len(found) == 6
    assert all(abs(a[0] - b[0]) > 20 or abs(a[1] - b[1]) > 10 for a in found for b in found if a is not b)
    assert place([(5.0, 5.0, "much too long for this")], [(5.0, 5.0)], (0, 0, 40, 40)) == [None]


def test_findings_in_the_data_are_flags_and_not_facts(tmp_path):
    side = {"class": "PNEUMONIA", "against": "NORMAL", "higher": True, "n_positive": 30, "n_negative": 20}
    row = {"feature": "bytes per pixel", "auroc": 0.91, "interval": [0.88, 0.94], **side}
    shared = {"pairs": 2, "images": [{"split": "adv_test", "as": "train", "images": 1}]}
    folder = evaluation(tmp_path, sweep(radii=(1,)))
    manifest = json.loads((folder / "manifest.json").read_text())
    texts, raised = {}, {}
    for name, findings in {"old": {}, "none": {"findings": None}, "some": {"findings": None}}.items():
        manifest["data"] |= findings
        if name == "some":
            manifest["data"]["findings"] = {"images": 50, "shortcuts": [row], "near_duplicates": shared}
        write_manifest(folder, manifest)
        summary = finish(folder)
        raised[name] = {flag["check"] for flag in summary["flags"]} & {"shortcuts", "near_duplicates"}
        texts[name] = Page((folder / "report.html").read_text()).text
    assert raised == {"old": set(), "none": set(), "some": {"shortcuts", "near_duplicates"}}
    assert (
        "Bytes per pixel alone tells PNEUMONIA from NORMAL with an AUROC of 91.0 (88.0–94.0; 30 and 20" in texts["some"]
    )
    assert "1 image of AdvTest is nearly the same as one of Train" in texts["some"]
    assert ["Nobody has described these data" in texts[name] for name in ("old", "none", "some")] == [
        False,
        True,
        False,
    ]
    assert "pairs 2" not in texts["some"]


def test_lengths_have_the_unit_of_the_radii_and_a_further_evaluation_its_name(tmp_path):
    folder = evaluation(tmp_path / "demo" / "evaluations" / "hiding", [("pgd", 2 / 255, False, 0.5)], panels=1)
    html, page = read(folder)
    shown = " ".join(page.text.replace("\N{NO-BREAK SPACE}", " ").split())
    assert "<title>demo · hiding · robustness report</title>" in html and "<h1>demo · hiding</h1>" in html
    assert "L∞ 2/255" in shown and "0.00784" not in shown  # in the table, below the pictures and under what was run

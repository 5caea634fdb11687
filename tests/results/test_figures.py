"""Figures for papers: their numbers by hand, their files, and what is said where there is nothing to draw."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import compare
from medrobust.results.figures import compare_figures, write_figures
from medrobust.results.figures.drawing import _free_name
from medrobust.results.figures.radius_sweep import area_under, radius_sweep
from medrobust.results.figures.saliency import saliency
from medrobust.results.figures.sheet import COLOURS, NothingToDrawError, Sheet, inline, panels, series, write_sheet
from medrobust.results.figures.studied_run import StudiedRun
from medrobust.results.report.studied_figures import studied_figures
from medrobust.results.studied import SETTINGS, STUDIES, Kept, Studied, keep, read_studies, write_settings
from medrobust.results.summary import SCHEMA, SUMMARY
from tests.made_runs import write_run

BLUR = {"modality": "xray", "kind": "gaussian_blur", "severity": 1, "strength": 1.0}
CORRUPTION = {"key": "blur", "attack": "blur", "method": "Corruption", "parameters": BLUR}
NONE = Studied("sweep", "RadiusSweep", {}, [], [], {})


def row(attack: str, epsilon: float | None, accuracy: float, kind: str = "attack") -> dict[str, Any]:
    interval = [max(accuracy - 0.1, 0.0), min(accuracy + 0.1, 1.0)]
    key = f"{attack}-{epsilon}"
    shown = {"accuracy_under_attack": accuracy, "accuracy_under_attack_interval": interval, "n": 10, "key": key}
    return {"attack": attack, "epsilon": epsilon, "kind": kind, **shown}


def summary(radii: tuple[float, ...] = (0.1, 0.2)) -> dict[str, Any]:
    rows = [row("clean", None, 0.9, "clean")]
    rows += [row("noise", radius, 0.8, "control") for radius in radii]
    rows += [row(attack, radius, 0.5 - radius) for attack in ("pgd", "fgsm") for radius in radii]
    worst = [{"epsilon": radius, "accuracy": 0.3 - radius, "accuracy_interval": [0, 1], "n": 10} for radius in radii]
    areas = [{"key": "pgd-0.1", "auroc": 0.7}, {"key": "pgd-0.2", "auroc": 0.6}]
    points = [(0.0, 0.1), (0.1, 0.5), (0.2, 0.7)]
    found = [{"distance": distance, "share": share, "share_interval": [0.0, 1.0]} for distance, share in points]
    smallest = {"norm": "linf", "largest": radii[-1], "points": found}
    return {
        "rows": rows,
        "worst_case": worst,
        "classes": {"rows": areas},
        "smallest": smallest,
        "manifest": {"run": "a"},
    }


def test_the_curve_of_smallest_perturbations_ends_at_the_largest_radius() -> None:
    """What an attack without a radius needs beyond it belongs to the whole of the images, not to the curve."""
    far = summary()
    far["smallest"]["points"].append({"distance": 0.9, "share": 1.0, "share_interval": [0.0, 1.0]})
    *_, sheet = radius_sweep([StudiedRun("a", far, NONE)])
    points = sheet.table.sort("epsilon").select("epsilon", "wrong").rows()
    assert points == [(0.0, 0.1), (0.1, 0.5), (0.2, 0.7), (0.2, 0.7)]


def test_the_area_is_the_mean_of_the_steps() -> None:
    # 0.1 on [0, 0.1), 0.5 on [0.1, 0.2): what happens at the end itself has no width
    points = summary()["smallest"]["points"]
    assert area_under(points, 0.2) == pytest.approx((0.1 + 0.5) / 2)
    assert area_under(points, 0.4) == pytest.approx((0.1 + 0.5 + 2 * 0.7) / 4)


def test_a_sweep_draws_each_attack_at_each_radius_and_the_worst_case() -> None:
    accuracy, auroc, smallest = radius_sweep([StudiedRun("a", summary(), NONE), StudiedRun("b", summary(), NONE)])
    own = accuracy.table.filter(pl.col("run") == "b")
    found = {(name, radius): value for name, radius, value in own.select("attack", "epsilon", "accuracy").iter_rows()}
    assert found["clean", 0.0] == 0.9 and found["pgd", 0.2] == pytest.approx(0.3)
    assert found["worst case", 0.1] == pytest.approx(0.2) and len(found) == 1 + 2 + 4 + 2
    assert auroc.table["auroc"].to_list() == [0.7, 0.6] * 2
    assert smallest.table["area"].unique().to_list() == pytest.approx([0.3])
    assert "b: from 20.0 % at 0.1 (worst case) to 10.0 % at 0.2 (worst case)" in accuracy.label


def test_a_sweep_needs_two_radii() -> None:
    with pytest.raises(NothingToDrawError, match="attacks at two radii or more: give several by attack.epsilons"):
        radius_sweep([StudiedRun("a", summary((0.1,)), NONE)])


def sheet(name: str = "one") -> Sheet:
    def draw() -> Any:
        figure, ((axis,),) = panels(1, 1, 3.4)
        axis.plot([0, 1], [1, 2], **series(1))
        axis.set_xlabel("epsilon")
        return figure

    return Sheet(name, "One", "Ma20", "A note.", 'a "label" & <more>', pl.DataFrame({"x": [0.0, 1.0]}), draw)


def test_a_sheet_is_written_in_all_forms_and_always_the_same(tmp_path: Path) -> None:
    drawn = write_sheet(tmp_path, sheet())
    assert {path.name for path in tmp_path.iterdir()} == {
        f"one.{kind}" for kind in ("svg", "pdf", "png", "csv", "parquet")
    }
    assert (tmp_path / "one.pdf").read_bytes().startswith(b"%PDF") and b"PNG" in (tmp_path / "one.png").read_bytes()[:8]
    assert pl.read_parquet(tmp_path / "one.parquet").equals(pl.read_csv(tmp_path / "one.csv"))
    assert 'aria-label="a &quot;label&quot; &amp; &lt;more&gt;"' in drawn.svg and "epsilon" in drawn.svg
    assert "http" not in drawn.svg.replace("http://www.w3.org", "") and "<?xml" not in drawn.svg
    again = write_sheet(tmp_path / "again", sheet())
    assert again.svg == drawn.svg
    assert (tmp_path / "again" / "one.svg").read_bytes() == (tmp_path / "one.svg").read_bytes()


def test_words_are_at_least_seven_points_at_the_width_of_a_column(tmp_path: Path) -> None:
    import re

    svg = write_sheet(tmp_path, sheet()).svg
    sizes = [float(size) for size in re.findall(r"font(?:-size)?: ?([\d.]+)px", svg)]
    assert sizes and min(sizes) >= 7  # one px of the SVG is one point of the PDF, whose width is the column's


def test_series_differ_in_colour_dashes_or_mark() -> None:
    styles = [tuple(map(str, series(number).values())) for number in range(20)]
    assert len(set(styles)) == 20 and len(set(COLOURS)) == len(COLOURS)


def test_an_element_has_the_figures_own_box() -> None:
    head = '<?xml version="1.0"?>\n<svg width="72pt" height="36pt" viewBox="0 0 72 36" version="1.1">'
    file = f"{head}<metadata>x</metadata><g/></svg>"
    assert "<metadata>" not in inline(file, "a") and 'viewBox="0 0 72 36"' in inline(file, "a")
    assert "min-width:90px;max-width:115px;" in inline(file, "a")  # 72 points; a page's own least width is larger


def evaluation(folder: Path, kind: str = "RadiusSweep", name: str = "sweep") -> None:
    write_settings(folder, name, kind, {}, ["1"], "clean", {})


def test_the_share_of_images_rises_from_nothing_to_all() -> None:
    values = {"1": np.array(0.5), "2": np.array(0.25)}
    kept = [Kept(id, {}, {"gini": value, "top_energy": value}) for id, value in values.items()]
    run = StudiedRun("a", {}, Studied("saliency", "Saliency", {}, ["1", "2"], kept, {}))
    _, concentration = saliency([run])
    line = concentration.draw().axes[0].lines[0]
    assert line.get_xydata().tolist() == [[0.25, 0.0], [0.25, 0.5], [0.5, 1.0]]


@pytest.mark.parametrize(
    ("objectives", "said"),
    [([None], "its loss with"), ([None, {"class": "Margin", "kappa": 0.0}], "its Margin or loss with")],
)
def test_the_note_of_maps_names_what_was_differentiated(objectives: list[Any], said: str) -> None:
    kept = [Kept("1", {}, {"gini": np.array(0.5), "top_energy": np.array(0.5)})]
    studied = [Studied("saliency", "Saliency", {"objective": one}, ["1"], kept, {}) for one in objectives]
    maps, _ = saliency([StudiedRun(str(number), {}, one) for number, one in enumerate(studied)])
    assert f"the size of the gradient of {said} respect to each pixel" in maps.note


def test_a_study_without_numbers_says_why_and_writes_nothing(tmp_path: Path) -> None:
    evaluation(tmp_path)
    evaluation(tmp_path, "Saliency", "saliency")
    evaluation(tmp_path, "Unheard", "other")
    drawn = {one.name: one for one in write_figures(tmp_path, summary((0.1,)))}
    assert "two radii" in drawn["sweep"].note and "No image" in drawn["saliency"].note
    assert drawn["other"].note == "This version draws no study of the kind Unheard, and its class names no drawing."
    assert not any(one.svg for one in drawn.values()) and not (tmp_path / "figures").exists()


MINE = """
import polars as pl
from medrobust.results.figures import NothingToDrawError, Sheet
from medrobust.results.figures.sheet import panels

def largest(runs):
    kept = [(run, one.arrays["change"]) for run in runs for found in run.studied.attacked.values() for one in found]
    if not kept:
        raise NothingToDrawError("No image has been changed yet.")
    table = pl.DataFrame({"run": [run.label for run, _ in kept], "largest": [float(one.max()) for _, one in kept]})
    def draw():
        figure, ((axis,),) = panels(1, 1)
        axis.plot(table["largest"])
        return figure
    return [Sheet("largest", "Largest changes", "", "By image.", "Largest changes, by image.", table, draw)]

def failing(runs):
    return [largest(runs)[0]._replace(draw=lambda: 1 / 0)]

def drawing_nothing(runs):
    return [largest(runs)[0]._replace(draw=lambda: None)]

def empty(runs):
    return []
"""


def test_a_class_from_elsewhere_names_its_drawing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "figures_of_mine.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path / "code")
    monkeypatch.delitem(sys.modules, "figures_of_mine", raising=False)
    of_pgd = ("Mine", {}, ["1"], "clean", {"pgd": "of pgd"})
    for run, value in (("a", 0.5), ("b", 0.25)):
        write_settings(tmp_path / run, "mine", *of_pgd, "figures_of_mine.largest")
        keep(tmp_path / run, "mine", "of pgd", "1", {"attack": "pgd"}, {"change": np.array([0.0, value])})
        (tmp_path / run / SUMMARY).write_text(json.dumps(summary() | {"schema": SCHEMA}))
    (alone,) = write_figures(tmp_path / "a", summary())
    assert alone.svg and pl.read_parquet(tmp_path / "a/figures/mine.parquet")["largest"].to_list() == [0.5]
    (beside,) = compare_figures([("a", tmp_path / "a"), ("b", tmp_path / "b")], tmp_path / "out")
    assert beside.table is not None and dict(beside.table.iter_rows()) == {"a": 0.5, "b": 0.25}
    assert (tmp_path / "out/captions.txt").read_text() == "mine\nLargest changes. By image.\n"


def test_figures_without_one_of_the_runs_that_were_named_do_not_end_with_0(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "figures_of_mine.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "figures_of_mine", raising=False)
    run, missing, out = write_run(tmp_path, "a", {("pgd", 2): "1100"}), tmp_path / "b", str(tmp_path / "out")
    place = run / "evaluate"
    (key,) = (row["key"] for row in json.loads((place / SUMMARY).read_text())["rows"] if row["attack"] == "pgd")
    write_settings(place, "mine", "Mine", {}, ["1"], "clean", {key: "of pgd"}, "figures_of_mine.largest")
    keep(place, "mine", "of pgd", "1", {"attack": "pgd"}, {"change": np.ones(2)})
    compare.main(["figures", str(run), "--out", out])
    assert capsys.readouterr().err == ""
    with pytest.raises(SystemExit) as ended:
        compare.main(["figures", str(run), str(missing), "--out", out])
    assert ended.value.code == 1 and (tmp_path / "out/mine.svg").exists()
    assert capsys.readouterr().err == f"left out: {missing} does not exist.\n"


@pytest.mark.parametrize(
    ("drawing", "said"),
    [
        (
            "gone.for_good.largest",
            "gone.for_good.largest draws this study and cannot be imported: ModuleNotFoundError: ",
        ),
        ("figures_of_mine.smallest", "figures_of_mine.smallest draws this study, and figures_of_mine has no function"),
        ("figures_of_mine.largest", "No image has been changed yet."),
        (
            "figures_of_mine.empty",
            "figures_of_mine.empty draws this study by a list of Sheet, each with its table, and",
        ),
        ("largest", "A drawing is named by its import path, MODULE.FUNCTION, and this one by 'largest'."),
    ],
)
def test_a_drawing_that_is_gone_or_fails_is_one_sentence(
    drawing: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "figures_of_mine.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "figures_of_mine", raising=False)
    write_settings(tmp_path, "mine", "Mine", {}, ["1"], "clean", {}, drawing)
    (one,) = write_figures(tmp_path, summary())
    assert one.note.startswith(said) and one.note.endswith(".") and "\n" not in one.note and not one.svg


@pytest.mark.parametrize(("name", "said"), [("failing", "ZeroDivisionError"), ("drawing_nothing", "AttributeError")])
def test_a_figure_that_fails_while_it_is_drawn_is_one_sentence(
    name: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "figures_of_mine.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "figures_of_mine", raising=False)
    write_settings(tmp_path, "mine", "Mine", {}, ["1"], "clean", {"pgd": "of pgd"}, f"figures_of_mine.{name}")
    keep(tmp_path, "mine", "of pgd", "1", {"attack": "pgd"}, {"change": np.ones(2)})
    (one,) = write_figures(tmp_path, summary())
    assert one.note.startswith(f"figures_of_mine.{name} draws this study and has failed: {said}: ")
    assert not (tmp_path / "figures").exists()


def test_evaluations_without_studies_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="none of these evaluations has a study; evaluate with one"):
        compare_figures([], tmp_path)


def test_what_is_kept_comes_back_and_damage_counts_as_missing(tmp_path: Path) -> None:
    write_settings(tmp_path, "mine", "Saliency", {"images": 2}, ["a/1", "b/2", "c/3"], "clean", {"pgd": "of pgd"})
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    keep(tmp_path, "mine", "clean", "a/1", {"target": 1}, {"map": values})
    damaged = keep(tmp_path, "mine", "clean", "b/2", {}, {"map": values})
    damaged.write_bytes(damaged.read_bytes()[:40])
    keep(tmp_path, "mine", "of pgd", "c/3", {"attack": "pgd"}, {"map": values[0]})
    keep(tmp_path, "mine", "of an earlier one", "c/3", {}, {"map": values[0]})
    (studied,) = read_studies(tmp_path)
    assert (studied.name, studied.kind, studied.parameters) == ("mine", "Saliency", {"images": 2})
    assert [one.id for one in studied.clean] == ["a/1"] and studied.clean[0].about == {"target": 1}
    np.testing.assert_array_equal(studied.clean[0].arrays["map"], values)
    assert [one.id for one in studied.attacked["pgd"]] == ["c/3"]
    (tmp_path / STUDIES / "mine" / SETTINGS).write_text("{")
    with pytest.raises(ValueError, match=r"settings.json is damaged: evaluate that run again"):
        read_studies(tmp_path)


def test_names_with_dollars_are_words_and_no_formulas(tmp_path: Path) -> None:
    def draw() -> Any:
        figure, ((axis,),) = panels(1, 1, 3.4)
        axis.set_title(r"$\alpha_$ of $100")
        return figure

    assert r"$\alpha_$ of $100" in write_sheet(tmp_path, sheet()._replace(draw=draw)).svg


def sweep(folder: Path, name: str, kind: str = "RadiusSweep", shared: str = "this") -> None:
    write_settings(folder, name, kind, {}, ["1"], "clean", {}, shared=shared)


CORRUPTED = {**row("blur", None, 0.7, "control"), "key": "blur", "means": {}, "success_rate": 0.2}


def test_no_figure_takes_the_files_of_another(tmp_path: Path) -> None:
    sweep(tmp_path, "sweep")
    sweep(tmp_path, "Sweep_accuracy", "CorruptionSweep")
    made = summary() | {"manifest": {"run": "a", "attacks": [CORRUPTION]}}
    made["rows"] = [{**made["rows"][0], "clean_accuracy": 0.9}, *made["rows"][1:], CORRUPTED]
    names = [one.name for one in write_figures(tmp_path, made) if one.svg]
    assert names == ["Sweep_accuracy", "sweep_accuracy-2", "sweep_auroc", "sweep_smallest"]
    assert {path.stem for path in (tmp_path / "figures").iterdir()} == set(names)
    assert _free_name("sweep_pgd 1/255", []) == "sweep_pgd_1_255"


def test_the_studies_of_an_evaluation_that_was_replaced_are_passed_over(tmp_path: Path) -> None:
    sweep(tmp_path, "old", shared="that")
    keys = {"here": "own", "gone": "other"}
    write_settings(tmp_path, "own", "Saliency", {}, ["1"], "clean", keys, shared="this")
    write_settings(tmp_path, "unsaid", "Saliency", {}, ["1"], "clean", {})  # by an earlier version
    manifest = {"shared": "this", "attacks": [{"key": "here"}]}
    found = {one.name: one for one in read_studies(tmp_path, manifest)}
    assert list(found) == ["own", "unsaid"] and list(found["own"].attacked) == ["here"]
    assert [one.name for one in read_studies(tmp_path)] == ["old", "own", "unsaid"]


def test_a_figure_that_is_drawn_no_longer_leaves_no_file(tmp_path: Path) -> None:
    sweep(tmp_path, "sweep")
    assert [one.name for one in studied_figures(tmp_path, summary()) if one.figure][0] == "sweep_accuracy"
    (tmp_path / "figures" / "mine.txt").write_text("kept")
    studied_figures(tmp_path, summary((0.1,)))  # one radius is no sweep
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["mine.txt"]
    studied_figures(tmp_path, summary())
    (tmp_path / STUDIES / "sweep" / SETTINGS).unlink()
    assert studied_figures(tmp_path, summary()) == []
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["mine.txt"]


def test_radii_of_two_norms_do_not_share_an_axis() -> None:
    made = summary()
    made["rows"] += [row("pgd-l2", radius, 0.1) for radius in (0.5, 1.0)]
    entries = [{"key": one["key"], "attack": one["attack"], "epsilon": one["epsilon"]} for one in made["rows"][1:]]
    entries = [{**one, "norm": "l2" if one["attack"] == "pgd-l2" else "linf"} for one in entries]
    made["manifest"] = {"run": "a", "attacks": entries}
    accuracy = radius_sweep([StudiedRun("a", made, NONE)])[0]
    assert "pgd-l2" not in accuracy.table["attack"].to_list() and accuracy.table["epsilon"].max() == 0.2
    assert "another norm: pgd-l2 (l2)." in accuracy.note

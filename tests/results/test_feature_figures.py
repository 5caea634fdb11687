"""Figures of features and layers: their numbers by hand, and what is said where there is nothing to draw."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from medrobust.results.figures.directions import directions
from medrobust.results.figures.embedding import embedding
from medrobust.results.figures.layer_maps import layer_maps
from medrobust.results.figures.sheet import NothingToDrawError, Sheet, write_sheet
from medrobust.results.figures.stress_test import stress_test
from medrobust.results.figures.studied_run import StudiedRun, attack_labels
from medrobust.results.studied import Kept, Studied

HIDES = {
    "objective": {
        "class": "WeightedSum",
        "terms": [{"class": "CrossEntropy"}, {"class": "FeatureConstraint"}],
        "weights": [1.0, 2.0],
    }
}


def entry(key: str, attack: str, parameters: dict[str, Any] | None = None, epsilon: float = 0.1) -> dict[str, Any]:
    return {"key": key, "attack": attack, "parameters": parameters or {}, "epsilon": epsilon, "kind": "attack"}


def summary(*entries: dict[str, Any], rows: Sequence[dict[str, Any]] | None = None) -> dict[str, Any]:
    clean = {"key": None, "attack": "clean", "kind": "clean", "epsilon": None}
    manifest = {"run": "a", "data": {"class_names": ["ill", "well"]}, "attacks": list(entries)}
    return {"manifest": manifest, "rows": [clean, *(entries if rows is None else rows)]}


def drawn(folder: Path, sheets: list[Sheet]) -> list[pl.DataFrame]:
    """Draw the sheets, and return their numbers."""
    for sheet in sheets:
        assert (write_sheet(folder, sheet)).svg and sheet.label and sheet.note
    return [sheet.table for sheet in sheets]


def kept(id: str, target: int, arrays: dict[str, Any], right: bool = True, attack: str = "") -> Kept:
    about = {"target": target, "prediction": target, "right_before": right, "right_after": not attack}
    return Kept(id, about | ({"attack": attack, "epsilon": 0.1} if attack else {}), arrays)


def embedded(order: int = 1, count: int = 16) -> StudiedRun:
    """Two classes three apart; the plain attack moves far away, the other one and noise stay."""
    random = np.random.default_rng(0)
    base = random.normal(size=(count, 5)) + 3 * (np.arange(count) % 2)[:, None]
    clean, plain, hidden = [], [], []
    for place in range(count):
        right = place != 5
        id, target = f"{place:02d}", place % 2
        clean.append(kept(id, target, {"features": base[place]}, right))
        still = np.full(5, np.nan) if place == 3 else base[place] + 0.01
        plain.append(kept(id, target, {"features": base[place] + 50, "noisy": still}, right, "bim"))
        hidden.append(kept(id, target, {"features": base[place], "noisy": base[place]}, right, "bim-hfc"))
    studied = Studied("embedding", "Embedding", {}, [], clean[::order], {"p": plain[::order], "h": hidden[::order]})
    return StudiedRun("a", summary(entry("p", "bim"), entry("h", "bim-hfc", HIDES)), studied)


def test_the_planes_show_each_kind_without_images_that_are_wrong_anyway(tmp_path: Path) -> None:
    pca, tsne = drawn(tmp_path, embedding([embedded()]))
    for table in (pca, tsne):
        counts = dict(table.group_by("kind").len().iter_rows())
        assert counts == {"clean": 15, "noise like bim": 14, "bim": 15, "bim-hfc": 15}  # one perturbation is empty
        assert set(table["class"]) == {"ill", "well"} and "05" not in set(table["image"])
    shares = dict(pca.group_by("kind").agg(pl.col("inside").cast(pl.Float64).mean()).iter_rows())
    assert shares["bim"] == 0 and shares["bim-hfc"] == shares["clean"] >= 0.8
    assert set(pca.filter(pl.col("hidden"))["kind"]) == {"bim-hfc"}
    assert "bim-hfc (hides)" in embedding([embedded()])[0].note


def test_the_planes_do_not_depend_on_the_order_of_the_images() -> None:
    for one, other in zip(embedding([embedded()]), embedding([embedded(-1)]), strict=True):
        assert one.table.equals(other.table)


def test_without_an_ellipse_nothing_is_said_to_be_inside_one() -> None:
    few, many = embedding([embedded(count=6)])[0], embedding([embedded()])[0]
    assert "Inside an ellipse are" in many.note and "Inside an ellipse are" in many.label
    assert "No class has the 6 clean images" in few.note
    assert "nside an ellipse" not in few.note + few.label and few.note == few.note.strip()


def test_planes_of_two_runs_are_their_own(tmp_path: Path) -> None:
    pca, _ = drawn(tmp_path, embedding([embedded(), embedded()._replace(label="b")]))
    one, other = (pca.filter(pl.col("run") == run).drop("run") for run in "ab")
    assert one.equals(other) and len(one) == 59


def test_a_plane_needs_points() -> None:
    with pytest.raises(NothingToDrawError, match="four points of images that the victim gets right"):
        embedding([embedded()._replace(studied=embedded(count=3).studied._replace(attacked={}))])


def mapped(label: str = "a") -> StudiedRun:
    clean = [kept("1", 0, {"image": np.full((1, 4, 4), 0.5), "one": np.ones((2, 2)), "two": np.zeros((2, 2))})]
    changed = {"image": np.full((1, 4, 4), 0.6), "one": np.array([[1, 1], [1, 2.0]]), "two": np.ones((2, 2))}
    attacked = {"p": [kept("1", 0, changed, attack="pgd")]}
    return StudiedRun(label, summary(entry("p", "pgd")), Studied("maps", "LayerMaps", {}, ["1"], clean, attacked))


def test_the_change_of_a_map_is_relative_to_its_length(tmp_path: Path) -> None:
    """One of four values grows from 1 to 2: 1 / 2. A map of zeros has no relative change."""
    for runs in ([mapped()], [mapped(), mapped("b")]):
        maps, change = drawn(tmp_path, layer_maps(runs))
        values = dict(maps.filter(pl.col("run") == "a").select("layer", "change").iter_rows())
        assert values["one"] == pytest.approx(0.5) and np.isnan(values["two"])
        assert change.filter(pl.col("run") == "a")["layer"].to_list() == ["one"]


def test_maps_need_an_attack() -> None:
    run = mapped()
    with pytest.raises(NothingToDrawError, match="Maps of layers need an attack"):
        layer_maps([run._replace(studied=run.studied._replace(attacked={}))])


def test_attacks_are_told_apart_by_their_radii() -> None:
    entries = [entry("p", "pgd", epsilon=1 / 255), entry("q", "pgd", epsilon=2 / 255), entry("f", "fgsm")]
    one = [kept("1", 0, {})]
    run = StudiedRun("a", summary(*entries), Studied("x", "X", {}, [], [], {"p": one, "q": one, "f": one, "gone": one}))
    assert attack_labels(run) == {"p": "pgd 1/255", "q": "pgd 2/255", "f": "fgsm"}


def measured(
    key: str, attack: str, means: dict[str, float], parameters: dict[str, Any] | None = None
) -> dict[str, Any]:
    return {**entry(key, attack, parameters, 0.03125), "means": means, "undefined": {}, "n_changed": 9}


def pushed(label: str = "a") -> StudiedRun:
    """The changes under the second attack have a cosine of 0.8 with those under the first."""
    rows = [
        measured("1", "fgsm", {"direction_weights": 0.5, "psnr": 1.0}),
        measured("2", "pgd", {"direction_weights": 0.7, "direction_fgsm_0.0312": 0.8, "direction_noise_0.0312": 0.1}),
        {**measured("0", "noise", {"direction_weights": 0.2}), "kind": "control"},
    ]
    entries = [entry(row["key"], row["attack"]) for row in rows]
    return StudiedRun(label, summary(*entries, rows=rows), Studied("d", "Directions", {}, [], [], {}))


def test_directions_are_compared_with_the_weights_and_each_other(tmp_path: Path) -> None:
    weights, attacks = drawn(tmp_path, directions([pushed(), pushed("b")]))
    assert weights.filter(pl.col("run") == "b").select("attack", "cosine", "n").rows() == [
        ("fgsm", 0.5, 9),
        ("pgd", 0.7, 9),
        ("noise", 0.2, 9),
    ]
    assert attacks.filter(pl.col("run") == "b").select("attack", "compared_with", "cosine").rows() == [
        ("pgd", "fgsm", 0.8),
        ("pgd", "noise", 0.1),
    ]


def test_directions_need_their_columns() -> None:
    with pytest.raises(NothingToDrawError, match="where representation.directions is true"):
        directions([StudiedRun("a", summary(rows=[measured("1", "fgsm", {})]), pushed().studied)])


def stressed(label: str = "a") -> StudiedRun:
    means = {"mean_one": 3.0, "mean_one_clean": 2.0, "mean_two": 1.0, "mean_two_clean": 4.0}
    objectives = [("1", "one", "up"), ("2", "two", "down"), ("3", "three", "up")]
    entries = [
        entry(key, f"{layer}-{sign}", {"objective": {"class": "LayerMean", "layer": layer, "sign": sign}})
        for key, layer, sign in objectives
    ]
    rows = [measured(one["key"], one["attack"], means) for one in entries]
    noise = {"mean_one": 2.2, "mean_one_clean": 2.0}
    rows.append({**measured("0", "noise", noise), "kind": "control"})
    return StudiedRun(label, summary(*entries, rows=rows), Studied("s", "StressTest", {}, [], [], {}))


def test_the_stress_test_tells_how_far_a_mean_is_moved(tmp_path: Path) -> None:
    """From 2 to 3 and from 4 to 1; the third layer was not measured."""
    (table,) = drawn(tmp_path, stress_test([stressed(), stressed("b")]))
    own = table.filter(pl.col("run") == "a")
    assert own.select("place", "layer", "direction", "clean", "adversarial", "difference", "ratio").rows() == [
        (1, "one", "up", 2.0, 3.0, 1.0, 1.5),
        (2, "two", "down", 4.0, 1.0, 3.0, 0.25),
        (1, "one", "noise", 2.0, 2.2, pytest.approx(0.2), 1.1),
    ]


def test_the_stress_test_needs_its_attacks() -> None:
    with pytest.raises(NothingToDrawError, match=r"attacks that raise or lower the mean of a layer \(LayerMean\)"):
        stress_test([pushed()])

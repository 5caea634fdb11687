"""Planes of the penultimate features by PCA and t-SNE, with the classes' Gaussians (Ma20 Fig. 9, HFC21 Fig. 1, 3a)."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from medrobust.results.figures.planes import (
    FEWEST_OF_CLASS,
    LEVEL,
    WITHIN,
    Gaussian,
    gaussians,
    inside,
    pca_plane,
    tsne_plane,
)
from medrobust.results.figures.sheet import COLOURS, NothingToDrawError, Sheet, panels, series
from medrobust.results.figures.studied_run import StudiedRun, attack_labels
from medrobust.results.formats import format_percent
from medrobust.results.hiding import hiding_terms

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ATTACKS = 4  # that are drawn of a run
FEWEST = 4  # points


class Plane(NamedTuple):
    """The points of a run in a plane.

    Args:
        run: What the run is called.
        table: A row for each point: run, kind, hidden, image, class, x, y, inside, right_after.
        classes: The classes of the points, in the order of the data.
        gaussians: Those of the clean images of each class that has enough of them.
        variance: Shares of the variance of both axes; None for t-SNE.
    """

    run: str
    table: pl.DataFrame
    classes: list[str]
    gaussians: dict[str, Gaussian]
    variance: tuple[float, float] | None


def embedding(runs: Sequence[StudiedRun]) -> list[Sheet]:
    """The plane of the two largest principal components, and t-SNE's, a row for each run and a panel for each kind.

    The images that the victim gets wrong anyway are left out. The same features give the same planes, in whatever
    order the images come.

    Args:
        runs: The runs.

    Raises:
        NothingToDrawError: A run has fewer than four points.
    """
    points = [_points(run) for run in runs]
    if any(len(features) < FEWEST for _, features in points):
        raise NothingToDrawError("A plane needs four points of images that the victim gets right.")
    linear = [_plane(run, table, *pca_plane(features)) for run, (table, features) in zip(runs, points, strict=True)]
    bent = [_plane(run, table, tsne_plane(features), None) for run, (table, features) in zip(runs, points, strict=True)]
    left = [_left_out(run) for run in runs]
    return [
        _sheet("pca", "Penultimate features in the plane of their largest components", linear, left),
        _sheet("tsne", "Penultimate features by t-SNE", bent, left),
    ]


def _points(run: StudiedRun) -> tuple[pl.DataFrame, NDArray[np.float64]]:
    """A row for each point and its features, in the order of kinds and images."""
    names = _class_names(run)
    rows: list[dict[str, Any]] = []
    features: list[NDArray[Any]] = []

    def add(kind: str, hidden: bool, kept: Sequence[Any], array: str) -> None:
        for one in sorted(kept, key=lambda one: one.id):
            values = one.arrays[array]
            if not one.about["right_before"] or np.isnan(values).any():
                continue
            target = one.about.get("target")
            known = "" if target is None else names[target] if target < len(names) else str(target)
            after = one.about["right_after"] if array == "features" else None
            about = {"run": run.label, "kind": kind, "hidden": hidden, "image": one.id}
            rows.append({**about, "class": known, "right_after": after})
            features.append(values.astype(np.float64))

    labels, hiding = _attacks(run), _hiding(run)
    add("clean", False, run.studied.clean, "features")
    plain = next((key for key in labels if key not in hiding), next(iter(labels), ""))
    if plain:
        add(f"noise like {labels[plain]}", False, run.studied.attacked[plain], "noisy")
    for key, label in labels.items():
        add(label, key in hiding, run.studied.attacked[key], "features")
    return pl.DataFrame(rows, infer_schema_length=None), np.array(features)


def _attacks(run: StudiedRun) -> dict[str, str]:
    return dict(list(attack_labels(run).items())[:ATTACKS])


def _hiding(run: StudiedRun) -> set[str]:
    """Keys of the attacks that hide."""
    entries: Sequence[Mapping[str, Any]] = run.summary["manifest"]["attacks"]
    return {entry["key"] for entry in entries if hiding_terms(entry.get("parameters") or {})}


def _left_out(run: StudiedRun) -> int:
    return len(attack_labels(run)) - len(_attacks(run))


def _plane(
    run: StudiedRun, table: pl.DataFrame, places: NDArray[np.float64], variance: tuple[float, float] | None
) -> Plane:
    clean = (table["kind"] == "clean").to_numpy()
    found = gaussians(places[clean], table["class"].to_numpy()[clean].tolist())
    columns = {"x": places[:, 0], "y": places[:, 1], "inside": inside(places, list(found.values()))}
    seen = table["class"].unique().to_list()
    classes = [name for name in (*_class_names(run), *sorted(seen)) if name in seen]
    full = table.with_columns(**{name: pl.Series(values) for name, values in columns.items()})
    return Plane(run.label, full, list(dict.fromkeys(classes)), found, variance)


def _class_names(run: StudiedRun) -> list[str]:
    return [str(name) for name in run.summary["manifest"]["data"].get("class_names") or []]


def _sheet(name: str, title: str, planes: Sequence[Plane], left: Sequence[int]) -> Sheet:
    kinds = [plane.table["kind"].unique(maintain_order=True).to_list() for plane in planes]
    classes = list(dict.fromkeys(one for plane in planes for one in plane.classes))
    table = pl.concat([plane.table for plane in planes])

    def draw() -> "Figure":
        columns = max(len(own) for own in kinds)
        figure, axes = panels(len(planes), columns, height=0.45 + 7.0 / columns)
        for row, plane, own in zip(axes, planes, kinds, strict=True):
            for axis, kind in zip(row, own, strict=False):
                _panel(axis, plane, kind, classes)
            for axis in row[len(own) :]:
                axis.set_axis_off()
            if len(planes) > 1:
                row[0].set_ylabel(plane.run)
        handles = {one.get_label(): one for row in axes for axis in row for one in axis.collections}
        named = {word: handles[word] for word in classes if word and word in handles}
        if named:
            figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=min(len(named), 5))
        return figure

    told = "; ".join(_told(plane, own) for plane, own in zip(planes, kinds, strict=True))
    drawn = any(plane.gaussians for plane in planes)
    told = f"Inside an ellipse are, {told}." if drawn else ""
    meaning = (
        "Both axes of a run have one scale."
        if planes[0].variance
        else f"Only who is whose neighbour counts: lengths{', and the ellipses with them,' * drawn} mean little."
    )
    ellipses = (
        f"The ellipses hold {100 * LEVEL:.0f} % of a Gaussian with the mean and the covariance of a class's clean "
        f"images in this plane; a class with fewer than {FEWEST_OF_CLASS} has none."
        if drawn
        else f"No class has the {FEWEST_OF_CLASS} clean images, spread over the plane, that an ellipse takes."
    )
    more = f" {sum(left)} further attacks are left out." if sum(left) else ""
    note = (
        f"Each panel shows one kind of image over the clean ones in grey. {ellipses} {meaning} Noise is as long as "
        f"each image's own perturbation. Images that the victim gets wrong anyway are left out.{more} {told}"
    ).rstrip()
    return Sheet(name, title, "Ma20 Fig. 9, HFC21 Fig. 1, 3a", note, f"{title}. {told}".rstrip(), table, draw)


def _told(plane: Plane, kinds: Sequence[str]) -> str:
    shares = []
    for kind in kinds:
        own = plane.table.filter(pl.col("kind") == kind)
        hides = " (hides)" if own["hidden"][0] else ""
        shares.append(f"{kind}{hides} {format_percent(float(own['inside'].cast(pl.Float64).to_numpy().mean()))}")
    words = f"of {plane.run}, {len(plane.table.filter(pl.col('kind') == 'clean'))} images"
    if plane.variance:
        words += f", with {100 * sum(plane.variance):.0f} % of the variance"
    return f"{words}: {', '.join(shares)}"


def _panel(axis: "Axes", plane: Plane, kind: str, classes: Sequence[str]) -> None:
    from matplotlib.patches import Ellipse

    clean = plane.table.filter(pl.col("kind") == "clean")
    own = plane.table.filter(pl.col("kind") == kind)
    if kind != "clean":
        axis.scatter(clean["x"], clean["y"], s=5, color="#cccccc", linewidths=0)
    for number, one in enumerate(classes):
        style = series(number + 1)
        points = own.filter(pl.col("class") == one)
        marks: dict[str, Any] = {"marker": style["marker"], "s": 9, "alpha": 0.75, "linewidths": 0}
        axis.scatter(points["x"], points["y"], color=style["color"], label=one, **marks)
        if gaussian := plane.gaussians.get(one):
            width, height, angle = gaussian.ellipse()
            dashes = "-" if number < len(COLOURS) else "--"  # colours come again
            line: dict[str, Any] = {"fill": False, "edgecolor": style["color"], "linewidth": 0.8, "linestyle": dashes}
            axis.add_patch(Ellipse(tuple(gaussian.mean), width, height, angle=angle, **line))
    axis.set_title(kind)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.grid(False)
    lower, upper = _extent(plane)
    middle, half = (lower + upper) / 2, 0.54 * max(float((upper - lower).max()), 1e-9)
    axis.set_xlim(middle[0] - half, middle[0] + half)
    axis.set_ylim(middle[1] - half, middle[1] + half)
    axis.set_aspect("equal")
    for spine in axis.spines.values():
        spine.set_visible(True)
        spine.set_color("#bbbbbb")


def _extent(plane: Plane) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lower left and upper right corner of all points and ellipses."""
    corners = [plane.table.select("x", "y").to_numpy()]
    for one in plane.gaussians.values():
        reach = np.sqrt(WITHIN * np.diag(one.covariance))
        corners.append(np.stack([one.mean - reach, one.mean + reach]))
    places = np.concatenate(corners)
    return places.min(0), places.max(0)

"""What a victim that finds boxes makes of them, clean and under attack: mAP, EAD-2019's IoU and score, boxes lost."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from medrobust.results.box_matches import Matches, Numbers, matches, padded, weighted_quality
from medrobust.results.columns import BOX_CHANGES, BOX_TEXTS
from medrobust.results.detection import patients_of
from medrobust.results.manifest import task_of

RESAMPLES = 500
CHUNK = 1_000_000  # weights of detections that are held at a time
NUMBERS = ("map50", "map", "iou", "ead_score")


def box_results(
    rows: Sequence[Mapping[str, Any]], tables: Mapping[str | None, pl.DataFrame], manifest: Mapping[str, Any]
) -> dict[str, Any]:
    """How well boxes are found on the clean images and under each attack, from the records.

    Args:
        rows: The rows of a summary, the clean one first.
        tables: Records by the key of the attack, and all records under the key of the clean row, None.
        manifest: Its `data` names the classes, its `victim` states the `score_threshold`.

    Returns:
        Empty where the records have no boxes. Otherwise `names` and `rows`: one for each row of the summary that has
        images, with

        - `attack`, `epsilon`, `key`, `kind`.
        - `n` images with `n_boxes` true boxes.
        - `map50` and `map`: COCO's mean average precision at IoU 0.5 and over IoU 0.5, 0.55, ... 0.95; `iou` and
          `ead_score`: EAD-2019's mean IoU and 0.6 mAP + 0.4 IoU, of the detections whose score reaches the threshold.
          Each with a 95 % percentile interval by a cluster bootstrap over patients; None without a true box, and the
          interval also with fewer than two patients or where all resamples agree.
        - `lost`, `relabelled`, `invented`: numbers of boxes over all images (`metrics.boxes.box_changes`); None in the
          clean row.
        - `classes`: for each class its `name`, `n_boxes` and `ap50`, None without a true box.
    """
    present = next(iter(tables.values())).columns if tables else []
    if task_of(manifest) != "boxes" or not all(name in present for name in BOX_TEXTS):
        return {}
    names = [str(name) for name in manifest["data"].get("class_names") or []]
    score = float(manifest.get("victim", {}).get("score_threshold", 0.5))
    found = []
    for row in rows:
        clean = row["kind"] == "clean"
        table = tables[row["key"]].drop_nulls(list(BOX_TEXTS))
        if clean:
            table = table.unique("id", keep="first", maintain_order=True)
        if len(table):
            head = {name: row[name] for name in ("attack", "epsilon", "key", "kind")}
            changes = {name: None if clean else int(table[f"boxes_{name}"].sum()) for name in BOX_CHANGES}
            found.append({**head, **_of_images(table, "before" if clean else "after", names, score), **changes})
    return {"names": names, "rows": found}


def _of_images(table: pl.DataFrame, when: str, names: Sequence[str], score: float) -> dict[str, Any]:
    """Numbers of the images of a table, before the attack or after it."""
    true, shown = padded(table["boxes_true"].to_list()), padded(table[f"boxes_{when}"].to_list())
    classes = max(len(names), *(int(labels.max(initial=-1)) + 1 for labels in (true.labels, shown.labels)))
    compared = matches(shown, true, classes, score)
    quality = weighted_quality(compared, np.ones((len(table), 1)))
    intervals = _intervals(compared, patients_of(table))
    counts = compared.counts.sum(0)
    return {
        "n": len(table),
        "n_boxes": int(counts.sum()),
        **{
            key: value
            for name in NUMBERS
            for key, value in ((name, _defined(getattr(quality, name)[0])), (f"{name}_interval", intervals[name]))
        },
        "classes": [
            {
                "name": names[label] if label < len(names) else str(label),
                "n_boxes": int(counts[label]),
                "ap50": _defined(quality.ap50[label, 0]),
            }
            for label in range(classes)
        ],
    }


def _intervals(compared: Matches, patients: NDArray[np.int64]) -> dict[str, list[float] | None]:
    """Percentile intervals of the numbers: patients are drawn with replacement, each with all of its images."""
    count = int(patients.max()) + 1
    if count < 2:
        return dict.fromkeys(NUMBERS)
    generator, drawn = np.random.default_rng(0), []
    size = max(1, min(RESAMPLES, CHUNK // max(1, len(compared.images), len(patients))))
    for start in range(0, RESAMPLES, size):
        shares = np.full(count, 1 / count)
        draws = generator.multinomial(count, shares, min(size, RESAMPLES - start))
        quality = weighted_quality(compared, draws.T[patients].astype(np.float64))
        drawn.append(np.stack([getattr(quality, name) for name in NUMBERS]))
    return {name: _limits(values) for name, values in zip(NUMBERS, np.concatenate(drawn, 1), strict=True)}


def _limits(values: Numbers) -> list[float] | None:
    """Where the middle 95 % of the defined values lie; None where they are all equal."""
    values = values[~np.isnan(values)]
    if not len(values) or np.ptp(values) < 1e-9:
        return None
    low, high = np.percentile(values, [2.5, 97.5])
    return [float(low), float(high)]


def _defined(value: float) -> float | None:
    return None if np.isnan(value) else float(value)

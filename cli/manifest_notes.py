"""What the command line adds to the manifest of an evaluation: the victim's quality, and how it was trained."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medrobust.results.manifest import read_manifest, write_manifest
from medrobust.results.records import finished


def note_defence(folder: Path, defended: Mapping[str, Any] | None) -> None:
    """Write what a victim was trained against, and the passes that this took, into the manifest."""
    if defended is not None:
        manifest = read_manifest(folder)
        manifest["victim"]["defence"] = dict(defended)
        write_manifest(folder, manifest)


def note_quality(folder: Path, metrics: Mapping[str, Any], bare: bool = False) -> list[tuple[str, float]]:
    """Write how good the victim is on clean images into the manifest, which every result carries along.

    Beside it stands the number of these images, ``quality_images``. The metrics are of the images that this command has
    read, and the records of those that any command has: where these are others, as after a resume with another limit
    of batches, nothing is written.

    Args:
        folder: The evaluation's folder.
        metrics: The victim's own metrics by name, such as ``test/accuracy``, and ``test/images``.
        bare: Whether they were measured without the input defence behind which the victim is evaluated.

    Returns:
        The metrics by name, those that are defined; none where they are of other images than the records.
    """
    values = {name.partition("/")[2]: float(value) for name, value in metrics.items() if "/" in name}
    images = values.pop("images", None)
    manifest = read_manifest(folder)
    recorded = finished(folder, [entry["key"] for entry in manifest["attacks"]])
    if images is None or int(images) != len(set().union(*recorded.values())):  # it has read no image without a record
        return []
    defined = {name: value for name, value in values.items() if math.isfinite(value)}
    manifest["victim"]["quality_without_defence" if bare else "quality"] = {name: defined.get(name) for name in values}
    manifest["victim"]["quality_images"] = int(images)
    write_manifest(folder, manifest)
    return list(defined.items())

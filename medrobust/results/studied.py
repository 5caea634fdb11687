"""What studies keep of each image: arrays in a file of their own, beside what made them."""

import hashlib
import io
import json
import zipfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medrobust.results.manifest import replace_file, write_json

STUDIES, SETTINGS, ABOUT = "studies", "settings.json", "about"
FIGURES = "figures"  # folder beside that of the studies
KINDS = (".svg", ".pdf", ".png", ".parquet", ".csv")  # files of a figure


class Kept(NamedTuple):
    """What a study keeps of one image.

    Args:
        id: The image.
        about: Plain values: of the image, and of the attack unless it is clean.
        arrays: Arrays by name.
    """

    id: str
    about: dict[str, Any]
    arrays: dict[str, NDArray[Any]]


class Studied(NamedTuple):
    """A study of an evaluation, as its folder holds it.

    Args:
        name: Its name in the configuration.
        kind: Name of its class.
        parameters: Its parameters.
        images: The images that it was asked to study, in their order.
        clean: What it kept of clean images.
        attacked: What it kept of each attack's images, by the attack's key.
        drawing: Import path of the function that draws it; empty for the one that belongs to its class here.
    """

    name: str
    kind: str
    parameters: dict[str, Any]
    images: list[str]
    clean: list[Kept]
    attacked: dict[str, list[Kept]]
    drawing: str = ""


def place_of_image(folder: str | Path, study: str, key: str, id: str) -> Path:
    """The file of an image: its name is a hash of the image and of all that decides what is in it."""
    name = hashlib.sha256(f"{key}\0{id}".encode()).hexdigest()[:32]
    return Path(folder) / STUDIES / study / f"{name}.npz"


def keep(
    folder: str | Path, study: str, key: str, id: str, about: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
) -> Path:
    """Write what a study keeps of an image, atomically.

    Args:
        folder: Folder of the evaluation.
        study: Name of the study.
        key: Hash of what decides the arrays.
        id: The image.
        about: Plain values.
        arrays: Arrays by name, none of them named ``about``.
    """
    buffer = io.BytesIO()
    words = np.frombuffer(json.dumps({**about, "id": id}, allow_nan=False).encode(), np.uint8)
    np.savez_compressed(buffer, allow_pickle=False, **{ABOUT: words, **arrays})
    return replace_file(place_of_image(folder, study, key, id), buffer.getvalue())


def read_image(path: Path) -> Kept | None:
    """What a file keeps of an image; None if there is no such file or it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        about = json.loads(arrays.pop(ABOUT).tobytes())
        return Kept(str(about.pop("id")), about, arrays)
    except (OSError, ValueError, KeyError, EOFError, AttributeError, TypeError, zipfile.BadZipFile):
        return None


def write_settings(
    folder: str | Path,
    study: str,
    kind: str,
    parameters: Mapping[str, Any],
    images: Sequence[str],
    clean_key: str,
    keys: Mapping[str, str],
    drawing: str = "",
    shared: str = "",
) -> None:
    """Write what a study was asked for.

    Args:
        folder: Folder of the evaluation.
        study: Name of the study.
        kind: Name of its class.
        parameters: Its parameters.
        images: The images that it looks at.
        clean_key: Key of what it keeps of clean images.
        keys: Key of what it keeps of an attack's images, by the attack's key.
        drawing: Import path of the function that draws it.
        shared: Hash of what all records of the evaluation share, as its manifest has it.
    """
    settings = {"study": kind, "parameters": dict(parameters), "images": list(images), "drawing": drawing}
    settings |= {"clean_key": clean_key, "keys": dict(keys), "shared": shared}
    write_json(Path(folder) / STUDIES / study / SETTINGS, settings)


def kept_keys(folder: str | Path, study: str, kind: str, clean_key: str, shared: str) -> dict[str, str]:
    """The attacks' keys in a study's settings; none if they are of another study or evaluation, or damaged.

    Args:
        folder: Folder of the evaluation.
        study: Name of the study.
        kind: Name of its class.
        clean_key: Key of what it keeps of clean images, on which its parameters decide, too.
        shared: Hash of what all records of the evaluation share.
    """
    try:
        settings = json.loads((Path(folder) / STUDIES / study / SETTINGS).read_bytes())
        same = (settings["study"], settings["clean_key"], settings["shared"]) == (kind, clean_key, shared)
        return {str(key): str(own) for key, own in settings["keys"].items()} if same else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def read_studies(folder: str | Path, manifest: Mapping[str, Any] | None = None) -> list[Studied]:
    """The studies of an evaluation by name, with what they have kept so far; damaged files count as missing.

    An evaluation that was replaced leaves its studies behind: those of another victim, other images or settings than
    the manifest's are passed over, and so is what a study has kept of attacks that the manifest does not name.

    Args:
        folder: Folder of the evaluation.
        manifest: Its manifest; None to read whatever is there.

    Raises:
        ValueError: The settings of a study are damaged.
    """
    found = []
    shared = (manifest or {}).get("shared")
    entries = (manifest or {}).get("attacks")
    planned = None if entries is None else {entry["key"] for entry in entries}
    for path in sorted((Path(folder) / STUDIES).glob(f"*/{SETTINGS}")):
        try:
            settings = json.loads(path.read_bytes())
            if shared and (settings.get("shared") or shared) != shared:
                continue
            name, images = path.parent.name, [str(id) for id in settings["images"]]
            clean = _read_all(folder, name, settings["clean_key"], images)
            keys = {key: own for key, own in settings["keys"].items() if planned is None or key in planned}
            attacked = {key: _read_all(folder, name, own, images) for key, own in keys.items()}
            drawing = str(settings.get("drawing", ""))
            found.append(Studied(name, settings["study"], settings["parameters"], images, clean, attacked, drawing))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ValueError(f"{path} is damaged: evaluate that run again, which attacks no image anew") from None
    return found


def remove_other_figures(folder: str | Path, names: Collection[str]) -> None:
    """Remove the figures of an evaluation that are not among those that it has now."""
    for path in sorted((Path(folder) / FIGURES).glob("*")):
        if path.suffix in KINDS and path.stem not in names:
            path.unlink(missing_ok=True)


def _read_all(folder: str | Path, study: str, key: str, images: Sequence[str]) -> list[Kept]:
    kept = (read_image(place_of_image(folder, study, key, id)) for id in images)
    return [one for one in kept if one is not None]

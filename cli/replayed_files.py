"""What a replay reads of a run and what it writes: the configuration, fitted files, and the images."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from torch import Tensor

from medrobust.results.evaluations import run_folder_of
from medrobust.results.manifest import replace_file, write_json

CONFIG = "evaluate.yaml"
CONTROL = "noise"
WHITE = 65535  # of a picture with 16 bits
# what belongs to the machine that evaluated, or to the whole evaluation
HERE = {
    "devices": 1,
    "num_nodes": 1,
    "strategy": "auto",
    "logger": False,
    "fast_dev_run": False,
    "limit_test_batches": None,
    "limit_val_batches": None,
    "enable_progress_bar": False,
    "profiler": None,
}


def stored_configuration(folder: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration that a record was made with, for one process and nothing but the attack.

    Where attacks were added to an evaluation, each command has left its own: ``evaluate.yaml`` and ``evaluate-*.yaml``.
    The checkpoint is that of the run in whose folder the evaluation lies, wherever this folder lies now.

    Args:
        folder: The folder of the evaluation.
        record: The record.

    Raises:
        ValueError: There is no configuration, or it cannot be read.
    """
    places = [folder / CONFIG, *sorted(folder.glob("evaluate-*.yaml"))]
    if not places[0].is_file():
        raise ValueError(
            f"{folder} has no {CONFIG}, which says what its records were made with: only what evaluate.py has "
            "evaluated can be replayed"
        )
    read = [_read(path) for path in places]
    config = next((one for one in read if _has(one, record)), read[0])
    config["trainer"] = {**(config.get("trainer") or {}), **HERE}
    config["attack"] = {**(config.get("attack") or {}), "fit_batches": 0}
    if isinstance(checkpoint := config.get("ckpt_path"), str):
        own = Path(str(config.get("runs")), str(config.get("name")), "checkpoints")
        moved = run_folder_of(folder) / "checkpoints" / Path(checkpoint).name
        if Path(checkpoint).parent == own and moved.is_file():
            config["ckpt_path"] = str(moved)
    return config


def _read(path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged: {str(error).splitlines()[0]}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} is damaged: expected the configuration of an evaluation, got {type(found).__name__}")
    return found


def _has(config: Mapping[str, Any], record: Mapping[str, Any]) -> bool:
    """Whether a configuration has an attack of a record's name, at its radius as far as the configuration says it."""
    section = config.get("attack") or {}
    attacks, radius = section.get("attacks") or {}, record["epsilon"]
    if record["attack"] == CONTROL and CONTROL not in attacks:
        named = list(attacks.values()) if section.get("controls", True) else []
    else:
        named = [attacks[name] for name in attacks if name == record["attack"]]
    swept = [*(section.get("epsilons") or ()), *(section.get("log_epsilons") or ())]
    radii = [_number(one) for one in swept or [_radius_of(one) for one in named] if one is not None]
    near = any(abs(one - radius) <= 1e-9 + 1e-6 * radius for one in radii) if radius is not None else True
    return bool(named) and (near or not radii)


def _radius_of(attack: Any) -> Any:
    """An attack's own radius, as a configuration has it."""
    return (attack.get("init_args") or {}).get("epsilon") if isinstance(attack, Mapping) else None


def _number(written: Any) -> float:
    """A radius as a configuration has it, such as ``0.5/255``."""
    above, _, below = str(written).partition("/")
    return float(above) / float(below or 1)


def linked_files(folder: Path, place: Path) -> Path:
    """A folder whose files are those of another one, where new ones can be written without changing that.

    Args:
        folder: The other folder; it need not exist.
        place: The folder.

    Returns:
        `place`.
    """
    place.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.is_file():
            (place / path.name).symlink_to(path.absolute())
    return place


def write_replay(
    folder: Path, pictures: Mapping[str, Tensor], record: Mapping[str, Any], made: Mapping[str, Any], verdict: str
) -> None:
    """Write the images of a replay, and the two records.

    ``clean.npy`` and ``adversarial.npy`` hold the values themselves, float32 ``(C, H, W)`` in [0, 1]. The pictures of
    the same names have 16 bits a value, which rounds by 8e-6 at most; that of the perturbation is magnified so that its
    largest value is black or white, and grey is 0.

    Args:
        folder: Where to.
        pictures: The image before and after, ``(C, H, W)`` in [0, 1], as ``clean`` and ``adversarial``.
        record: The record of the evaluation.
        made: That of the replay.
        verdict: What comparing them has found.
    """
    clean, adversarial = (pictures[name].float() for name in ("clean", "adversarial"))
    difference = adversarial - clean
    largest = float(difference.abs().max())
    shown = {"clean": clean, "adversarial": adversarial, "perturbation": 0.5 + difference * (0.5 / (largest or 1.0))}
    for name, picture in shown.items():
        replace_file(folder / f"{name}.png", _png(picture))
        if name != "perturbation":
            replace_file(folder / f"{name}.npy", _npy(picture))
    about = {"verdict": verdict, "magnification": 0.5 / largest if largest else 1.0}
    write_json(folder / "record.json", {**about, "recorded": dict(record), "replayed": dict(made)})


def _png(picture: Tensor) -> bytes:
    """A picture ``(C, H, W)`` as PNG with 16 bits; grey unless it has three channels."""
    values = np.round(picture.clamp(0, 1).numpy().astype(np.float64) * WHITE).astype(np.uint16)
    shown = values[2::-1].transpose(1, 2, 0) if len(values) >= 3 else values[0]
    return cv2.imencode(".png", np.ascontiguousarray(shown))[1].tobytes()


def _npy(picture: Tensor) -> bytes:
    """The values of a picture as numpy stores an array."""
    buffer = io.BytesIO()
    np.save(buffer, picture.numpy(), allow_pickle=False)
    return buffer.getvalue()

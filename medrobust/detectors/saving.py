"""Fitted detectors in a file: their buffers as safetensors, their description as a JSON header, and no code."""

import inspect
import json
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

import medrobust.detectors as package
from medrobust.detectors.base import Detector

FORMAT = 2  # 1: layer networks with ReLU
KEY = "detectors"  # under which the file's metadata hold the header
ENTRIES = {"format": int, "victim": str, "fitted_on": object, "about": dict, "detectors": dict}
DETAILS = {"class": str, "parameters": dict, "layers": list, "buffers": dict}
Json = TypeVar("Json")


def save_detectors(
    path: str | Path,
    detectors: Mapping[str, Detector],
    victim: str,
    fitted_on: Any,
    about: Mapping[str, Any] | None = None,
) -> Path:
    """Write fitted detectors to one file, completely or not at all.

    Tensors that several detectors share, as forks do, are stored once.

    Args:
        path: The file to create or replace; its folder is created if necessary.
        detectors: Fitted detectors by the names under which they will be loaded.
        victim: Hash of the victim's checkpoint; the detectors can be loaded for this victim only.
        fitted_on: What the detectors were fitted on, such as the name of the attack; any JSON value.
        about: Whatever else is worth knowing; any JSON values.

    Returns:
        The path of the file.

    Raises:
        ValueError: A detector is not fitted, or something cannot be written as JSON.
    """
    path = Path(path)
    tensors: dict[str, Tensor] = {}
    keys: dict[tuple[Any, ...], str] = {}
    details: dict[str, Any] = {}
    for name, detector in detectors.items():
        buffers = {key: values for key, values in detector._buffers.items() if values is not None}
        places = {}
        for buffer, values in buffers.items():
            # an empty tensor has no address that identifies it
            address = values.data_ptr() or f"{name}.{buffer}"
            identity = (address, values.shape, values.stride(), values.dtype, values.device)
            places[buffer] = keys.setdefault(identity, f"{name}.{buffer}")
            if places[buffer] not in tensors:
                # a copy, since safetensors refuses tensors that share memory
                tensors[places[buffer]] = values.detach().to("cpu", copy=True).contiguous()
        details[name] = {
            "class": type(detector).__name__,
            "parameters": _as_json(detector.parameters_given(), f"the settings of {name!r}"),
            "layers": detector.layer_names,
            "buffers": places,
        }
    header = {
        "format": FORMAT,
        "victim": victim,
        "fitted_on": _as_json(fitted_on, "fitted_on"),
        "about": _as_json(dict(about or {}), "about"),
        "detectors": details,
    }
    # as bytes, since safetensors' own errors of a full disk are not the system's
    _write(path, save(tensors, {KEY: json.dumps(header)}))
    return path


def _write(path: Path, content: bytes) -> None:
    """Write a file completely or not at all; errors of the system name it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def read_header(path: str | Path) -> dict[str, Any]:
    """Read what a file of detectors says about itself, without the tensors.

    Returns:
        ``format``, ``victim``, ``fitted_on``, ``about`` and ``detectors``, which holds for each name the ``class``,
        ``parameters`` and ``layers`` of the detector, and the key of each of its ``buffers`` in the file.

    Raises:
        ValueError: It is not a complete file of detectors, or it is of another format.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})[KEY])
    except FileNotFoundError as error:
        raise ValueError(f"there is no file {path}") from error
    except Exception as error:  # safetensors and the system raise many types
        raise ValueError(f"{path} is damaged or not a file of detectors ({type(error).__name__})") from error
    version = header.get("format") if isinstance(header, dict) else None
    if version != FORMAT:
        raise ValueError(
            f"{path} is a file of detectors of format {version!r}, expected format {FORMAT}: fit the detectors again"
        )
    if not _has(header, ENTRIES) or not all(_has(entry, DETAILS) for entry in header["detectors"].values()):
        raise ValueError(f"{path} is damaged: its header is incomplete")
    return header


def load_detectors(
    path: str | Path, victim: str, device: torch.device | str = "cpu", names: Collection[str] | None = None
) -> dict[str, Detector]:
    """Read fitted detectors back, onto a device.

    Args:
        path: A file that `save_detectors` wrote.
        victim: Hash of the checkpoint of the victim whose features the detectors will judge.
        device: The device for their buffers.
        names: Those that are wanted, of the file's; None for all.

    Returns:
        The detectors by name; they share the tensors that they shared when they were saved.

    Raises:
        ValueError: They belong to another victim, the file does not exist or is damaged, or a class is unknown.
    """
    header = read_header(path)
    if header["victim"] != victim:
        raise ValueError(f"{path} holds detectors of the victim {header['victim']!r}, expected those of {victim!r}")
    wanted = {name: entry for name, entry in header["detectors"].items() if names is None or name in names}
    classes = {entry["class"]: _find(entry["class"]) for entry in wanted.values()}
    keys = {key for entry in wanted.values() for key in entry["buffers"].values()}
    loaded = {}
    with torch.inference_mode(False):
        tensors = {key: values.to(device) for key, values in _tensors(path, keys).items()}
        try:
            for name, entry in wanted.items():
                detector = loaded[name] = classes[entry["class"]](**entry["parameters"])
                detector.layer_names = entry["layers"]
                detector.keep(**{buffer: tensors[key] for buffer, key in entry["buffers"].items()})
        except Exception as error:  # whatever a constructor raises on settings that are not its own
            raise ValueError(f"{path} does not hold what its header says: {type(error).__name__}, {error}") from error
    return loaded


def _tensors(path: str | Path, keys: Collection[str]) -> dict[str, Tensor]:
    """Some tensors of a file, copied into memory: safetensors maps them from the file, which may change."""
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key).clone() for key in file.keys() if key in keys}  # noqa: SIM118 - no mapping
    except Exception as error:
        raise ValueError(f"{path} is damaged ({type(error).__name__})") from error


def _find(name: str) -> Callable[..., Detector]:
    """The detector class with this name: one that the package exports, or any other that has been imported."""
    exported = [getattr(package, entry, None) for entry in package.__all__]
    kinds = [kind for kind in (*exported, *_subclasses(Detector)) if inspect.isclass(kind) and kind.__name__ == name]
    for kind in kinds:
        if issubclass(kind, Detector) and not inspect.isabstract(kind):
            return kind
    raise ValueError(f"there is no detector class {name!r} to load")


def _subclasses(kind: type) -> list[type]:
    children: list[type] = kind.__subclasses__()
    return [found for child in children for found in (child, *_subclasses(child))]


def _as_json(value: Json, what: str) -> Json:
    try:
        json.dumps(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what} cannot be written as JSON: {error}") from error
    return value


def _has(entry: Any, expected: Mapping[str, type]) -> bool:
    return isinstance(entry, dict) and all(isinstance(entry.get(key), kind) for key, kind in expected.items())

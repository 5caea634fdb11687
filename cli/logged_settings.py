"""What loggers are told of a run: its settings as nested plain values, to filter and group runs by, and its tags."""

import math
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

from jsonargparse import Namespace

from medrobust.results.defences import CHANGES, METHODS
from medrobust.results.formats import format_epsilon
from medrobust.results.scalars import unique_parts
from medrobust.results.workspace import comparable

OURS = ("medrobust.", "lightning_modules.", "datamodules.", "callbacks.")  # packages that need not be named
OF_VICTIM = ("name", "class", "backbone", "architecture", "encoder", "num_classes", "head", "channels", "weights")
OF_DATA = ("name", "task", "split", "images", "image_size", "channels", "resize", "class_names", "fingerprint", "limit")
OF_TRAINER = ("max_epochs", "max_steps", "precision", "accelerator", "strategy", "devices", "num_nodes")


def logged_settings(
    config: Namespace,
    job: str,
    victim: Mapping[str, Any],
    data: Mapping[str, Any],
    manifest: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The settings of a run as a nested dictionary of numbers, texts, truth values, lists and None.

    - ``victim``: its class, backbone, classes, defences, and where it is evaluated the hash of its weights.
    - ``data``: name, task, size, split, number of images and fingerprint.
    - ``attack``: the attacks' names and methods, the radii in units of the [0, 1] image range, and each attack's own
      parameters under ``parameters``.
    - ``detection``: detectors and what they are fitted on.
    - ``training``: optimiser, schedule, batch size and epochs.
    - ``trainer``: where and in what precision it runs.
    - ``run``: name, job, seed, and of an evaluation ``comparable`` (the same for runs that may be ranked together), the
      versions, the command and the device.
    - ``configuration``: the whole configuration as it was given.

    Args:
        config: The configuration of the command.
        job: ``fit``, ``validate`` or ``test``.
        victim: Description of the victim.
        data: Description of the data, with their ``name`` and ``task``.
        manifest: The manifest of an evaluation; it says more exactly what ``victim`` and ``data`` say.
    """
    about = manifest or {}
    victim, data = {**victim, **about.get("victim", {})}, {**data, **about.get("data", {})}
    whole = plain(config)
    found: dict[str, Any] = {
        "victim": {
            **{name: victim[name] for name in OF_VICTIM if name in victim},
            "parameters": victim.get("parameters"),
            "checkpoint": victim.get("checkpoint"),
            "defence": _defence(victim, whole, job),
            "input_defence": _input_defence(victim) if job != "fit" else None,
        },
        "data": {name: data[name] for name in OF_DATA if name in data},
        "attack": _attack(whole, about),
        "detection": {
            name: list((about.get("listeners", {}).get("detection") or {}).get(name) or [])
            for name in ("detectors", "fits")
        },
        "training": _training(whole),
        "trainer": {name: (whole.get("trainer") or {}).get(name) for name in OF_TRAINER},
        "run": {
            "name": whole.get("name"),
            "job": job,
            "seed": whole.get("seed_everything"),
            "comparable": comparable(about) if about else None,
            **{name: about[name] for name in ("versions", "command", "device", "world_size") if name in about},
        },
        "configuration": {name: value for name, value in whole.items() if name not in ("config", "wandb")},
    }
    return dict(plain(found))


def tags(settings: Mapping[str, Any]) -> list[str]:
    """Words that runs are found by: task, data, victim, defences, and whether detectors take part.

    Args:
        settings: As `logged_settings` returns them.
    """
    victim, data = settings["victim"], settings["data"]
    backbone = victim.get("backbone") or victim.get("name") or victim.get("encoder") or victim.get("class")
    said = [data.get("task"), data.get("name"), backbone, victim["defence"]]
    said += [victim["input_defence"]] if victim["input_defence"] not in (None, "none") else []
    said += ["detection"] if settings["detection"]["detectors"] else []
    said += ["surrogate"] if settings["attack"].get("surrogate") else []
    return [str(word) for word in dict.fromkeys(said) if word]


def plain(value: Any) -> Any:
    """A value as JSON has them: fractions are numbers, classes their dotted names, and keys such as all loggers take.

    >>> from medrobust.attacks.budgets import Fraction
    >>> plain({"epsilons": (Fraction("51/255"), float("inf")), "root": "data"})
    {'epsilons': [0.2, 'inf'], 'root': 'data'}
    """
    if isinstance(value, Namespace):
        value = vars(value)
    if isinstance(value, Mapping):
        parts = unique_parts(value)  # names of attacks are a user's own, and not every logger takes them
        return {parts[str(name)]: plain(inner) for name, inner in value.items()}
    if isinstance(value, str | bool | int) or value is None:
        return value.value if isinstance(value, Enum) else value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, Sequence | set | frozenset):
        return [plain(inner) for inner in value]
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    if callable(item := getattr(value, "item", None)):  # a number of numpy or of torch
        return plain(item())
    return str(value)


def _short(class_path: Any) -> str | None:
    """A class by its own name if it is one of ours, else by its dotted one."""
    if class_path is None:
        return None
    text = str(class_path)
    return text.rpartition(".")[2] if text.startswith(OURS) else text


def _inside(whole: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Settings below these names; empty where there are none."""
    found: Any = whole
    for name in names:
        found = found.get(name) if isinstance(found, Mapping) else None
    return dict(found) if isinstance(found, Mapping) else {}


def _defence(victim: Mapping[str, Any], whole: Mapping[str, Any], job: str) -> str:
    """How a victim was trained against attacks, or is being trained."""
    if job == "fit":
        name = _short(_inside(whole, "defence").get("class_path"))
    else:
        name = ((victim.get("defence") or {}).get("defence") or {}).get("class")
    return METHODS.get(str(name), str(name)) if name else "undefended"


def _input_defence(victim: Mapping[str, Any]) -> str:
    """What is done to the images before a victim sees them."""
    layers = victim.get("input_defence") or []
    names = [str(layer.get("class")) for layer in ([layers] if isinstance(layers, Mapping) else layers)]
    return ", ".join(CHANGES.get(name, name) for name in names) or "none"


def _attack(whole: Mapping[str, Any], manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The attacks of a run; those of an evaluation as its manifest lists them, those of a training as configured."""
    configured = _inside(whole, "attack")
    given = {
        name: {"class": _short(settings.get("class_path")), **_inside(settings, "init_args")}
        for name, settings in _inside(configured, "attacks").items()
        if isinstance(settings, Mapping)
    }
    planned = [entry for entry in manifest.get("attacks", []) if not entry.get("control")]
    if planned:
        names = list(dict.fromkeys(entry["attack"] for entry in planned))
        parameters = {entry["attack"]: dict(entry.get("parameters") or {}) for entry in reversed(planned)}
        epsilons = sorted({entry["epsilon"] for entry in planned if entry.get("epsilon") is not None})
    else:
        names, parameters = list(given), given
        epsilons = sorted({one["epsilon"] for one in given.values() if isinstance(one.get("epsilon"), float)})
    others = ("controls", "goals", "precision", "surrogate", "fit_batches")
    return {
        "names": names,
        "methods": sorted({str(one.get("class")) for one in parameters.values()}),
        "epsilons": epsilons,
        "radii": ", ".join(map(format_epsilon, epsilons)),
        "largest_epsilon": max(epsilons, default=None),
        "parameters": {name: parameters[name] for name in names},
        **{name: configured.get(name) for name in others},
    }


def _training(whole: Mapping[str, Any]) -> dict[str, Any]:
    """What weights depend on besides the network and the data."""
    model, data = _inside(whole, "model", "init_args"), _inside(whole, "data", "init_args")
    optimizer = _inside(model, "optimizer")
    given = _inside(optimizer, "init_args")
    return {
        "optimizer": _short(optimizer.get("class_path")),
        **{name: given[name] for name in ("lr", "momentum", "weight_decay") if name in given},
        "schedule": model.get("schedule") if not isinstance(model.get("schedule"), Mapping) else "own",
        "class_weights": model.get("class_weights"),
        "pretrained": model.get("weights"),
        "batch_size": data.get("batch_size"),
        "augment": data.get("augment"),
        "ema": whole.get("ema"),
    }

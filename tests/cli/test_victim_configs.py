"""Configurations of victims: each builds its data and its network, which fit each other."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import ArgumentParser

import cli.main  # noqa: F401  makes classes known by their names
from datamodules import ImageFolder, MedicalDataModule
from lightning_modules import VictimModule

FILES = sorted((Path(__file__).resolve().parents[2] / "configs/victims").glob("*.yaml"))


def built(base: type, config: dict[str, Any]) -> Any:
    """The object that a part of a configuration describes."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(base, "part")
    return parser.instantiate(parser.parse_object({"part": config})).part


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_data_and_network_fit_each_other(path: Path, tmp_path: Path) -> None:
    config = yaml.safe_load(path.read_text())
    model, data = config["model"], config["data"]
    assert config["name"] == path.stem
    assert model["init_args"]["weights"] == (None if path.stem.startswith("phantom") else "hub")
    model["init_args"]["weights"] = None

    module = built(MedicalDataModule, data | {"init_args": data["init_args"] | {"root": str(tmp_path)}})
    victim = built(VictimModule, model)

    assert type(module).__name__ == data["class_path"] and victim.channels == module.channels
    if not isinstance(module, ImageFolder) and path.stem != "kvasir_boxes":  # whose classes are what they find
        assert victim.num_classes == module.num_classes
    assert (victim.description()["class"] == "MultiLabelClassifier") == (module.task == "multilabel")

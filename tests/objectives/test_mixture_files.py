"""Mixtures are fitted once for a victim and its clean images, whatever becomes of the file."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from medrobust.objectives import FeatureConstraint
from medrobust.objectives.clean_features import CleanFeatures
from medrobust.objectives.gaussian_mixture import fit_mixture
from medrobust.objectives.mixture_files import load_or_fit


def clean_features(folder: Path | None, key: str = "victim images") -> CleanFeatures:
    generator = torch.Generator().manual_seed(0)
    layers = {"a.act": torch.randn((40, 3), generator=generator), "b": torch.randn((40, 5), generator=generator)}
    return CleanFeatures(
        layers, torch.arange(40) % 2, [str(i) for i in range(40)], {("*",): ("a.act", "b")}, key, folder
    )


def tensors(objective: Any) -> list[Tensor]:
    return [value for part in objective.state.parts for value in vars(part.mixture).values() if torch.is_tensor(value)]


def test_a_second_evaluation_reads_what_the_first_has_fitted(tmp_path: Any, monkeypatch: Any) -> None:
    first = FeatureConstraint(("*",), components=2).fit(clean_features(tmp_path))
    assert len(list(tmp_path.iterdir())) == 1
    monkeypatch.setattr("medrobust.objectives.feature_constraint.fit_mixture", lambda *_: pytest.fail("fitted again"))
    second = FeatureConstraint(("*",), components=2).fit(clean_features(tmp_path))
    for one, other in zip(tensors(first), tensors(second), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("settings", "key"), [({"components": 1}, "victim images"), ({"shrinkage": 0.5}, "victim images"), ({}, "another")]
)
def test_other_settings_or_another_victim_are_fitted_anew(settings: dict[str, Any], key: str, tmp_path: Any) -> None:
    FeatureConstraint(("*",), components=2).fit(clean_features(tmp_path))
    FeatureConstraint(("*",), **{"components": 2, **settings}).fit(clean_features(tmp_path, key))
    assert len(list(tmp_path.iterdir())) == 2


def test_a_damaged_file_is_written_again(tmp_path: Any) -> None:
    calls: list[int] = []

    def fit() -> Any:
        calls.append(1)
        return {"layer": [fit_mixture(torch.randn(20, 3, generator=torch.Generator().manual_seed(1)), 1)]}

    load_or_fit(tmp_path, ["x"], fit)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:50])
    load_or_fit(tmp_path, ["x"], fit)
    load_or_fit(tmp_path, ["x"], fit)
    assert len(calls) == 2
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_without_a_folder_nothing_is_written_and_a_folder_needs_a_key(tmp_path: Any) -> None:
    FeatureConstraint(("*",)).fit(clean_features(None, ""))
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="needs a key that says what they are fitted to"):
        clean_features(tmp_path, "")

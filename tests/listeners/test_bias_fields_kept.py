"""The study of bias fields: what it keeps of attacks that make a field, and nothing of others."""

import math
from pathlib import Path

import numpy as np
import pytest

from medrobust.attacks import FGSM, AdvSBF, Corruption, RandomBiasField
from medrobust.listeners import Studies
from medrobust.results.studied import read_studies
from medrobust.studies import BiasFields
from tests import recording
from tests.in_memory import random_data
from tests.tiny_networks import linear_victim


def test_fields_are_kept_in_stops_of_attacks_and_controls_alike(tmp_path: Path) -> None:
    attacks = {
        "sbf": AdvSBF(max_stops=0.5, lowest_degree=0),
        "random": RandomBiasField(max_stops=0.25),
        "dark": Corruption(kind="exposure_down"),
        "fgsm": FGSM(epsilon=0.05),
    }
    recorder = recording.evaluate(
        linear_victim(), random_data(6), attacks, Studies(str(tmp_path), {"fields": BiasFields(images=3)})
    )
    controls = {planned.name: planned.control for planned in recorder.plans[0].attacks}
    assert controls == {"sbf": False, "random": True, "dark": True, "fgsm": False}
    (studied,) = read_studies(tmp_path)
    found = {ones[0].about["attack"]: ones for ones in studied.attacked.values()}
    assert found.keys() == attacks.keys() and not found["fgsm"][0].arrays and not found["dark"][0].arrays
    for name, stops in (("sbf", 0.5), ("random", 0.25)):
        for one in found[name]:
            clean, changed = (one.arrays[which].astype(np.float32) for which in ("clean", "changed"))
            assert np.abs(one.arrays["stops"]).max() == pytest.approx(stops, rel=1e-5)
            expected = np.clip(clean * np.exp(one.arrays["stops"] * math.log(2)), 0, 1)
            np.testing.assert_allclose(changed, expected, atol=2e-3)

"""Names of columns: readers and writers meet in them, and files of earlier versions hold them."""

import polars as pl
import pytest

from medrobust.results.columns import (
    COLUMNS,
    SCORE_PATTERNS,
    direction_column,
    judge_column,
    layer_mean_column,
    score_column,
)


def test_columns_of_scores_keep_their_names():
    assert score_column("kd", "bim-hfc") == score_column("kd", "bim-hfc", "adversarial") == "detector_kd_bim-hfc"
    assert score_column("kd", "same", "clean") == "detector_kd_same_clean"
    assert score_column("kd", "same", "noisy") == "detector_kd_same_noisy"
    assert [judge_column("a-b_c", what) for what in ("before", "after", "success")] == [
        "judge_a-b_c_before",
        "judge_a-b_c_after",
        "judge_a-b_c_success",
    ]


@pytest.mark.parametrize(("epsilon", "name"), [(None, "direction_bim"), (1 / 255, "direction_bim_0.00392")])
def test_columns_of_representations_keep_their_names(epsilon, name):
    assert direction_column("bim", epsilon) == name
    assert layer_mean_column("network.layer4.0") == "mean_network_layer4_0"
    assert layer_mean_column("network.layer4.0", clean=True) == "mean_network_layer4_0_clean"


def test_scores_are_no_measurements_and_measurements_are_no_scores():
    names = [score_column("kd", "same", "noisy"), judge_column("other", "after"), "var", layer_mean_column("detector")]
    kept = pl.DataFrame({name: [1.0] for name in names}).select(pl.exclude(list(SCORE_PATTERNS)))
    assert kept.columns == ["var", "mean_detector"]
    assert not any(name.startswith(("detector_", "judge_")) for name in COLUMNS)

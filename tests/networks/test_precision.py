"""Exact float32: torch's settings while it lasts, and afterwards."""

import pytest
import torch

from medrobust.networks.precision import exact_float32


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="torch has these settings from 2.9 on")
def test_settings_are_exact_inside_and_as_they_were_afterwards() -> None:
    places = (torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.mkldnn.matmul)
    kept = torch.backends.mkldnn.matmul.fp32_precision
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    try:
        before = [place.fp32_precision for place in places]
        with exact_float32():
            assert [place.fp32_precision for place in places] == ["ieee"] * 3
        assert [place.fp32_precision for place in places] == before
        with pytest.raises(RuntimeError, match="on purpose"), exact_float32():
            raise RuntimeError("on purpose")
        assert [place.fp32_precision for place in places] == before
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = kept

"""Float32 in all of its digits, without the rounding that torch allows matrix products and convolutions."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def exact_float32() -> Iterator[None]:
    """Compute float32 products without TF32 or bfloat16 inside, and restore torch's settings, also after an error."""
    settings = _settings()
    kept = [getattr(backend, name) for backend, name, _ in settings]
    for backend, name, exact in settings:
        setattr(backend, name, exact)
    try:
        yield
    finally:
        for (backend, name, _), value in zip(settings, kept, strict=True):
            setattr(backend, name, value)


def _settings() -> list[tuple[Any, str, Any]]:
    """Switches of torch that decide how float32 is computed, and their values that keep all of its digits."""
    backends: Any = torch.backends
    if hasattr(backends.cudnn, "conv"):  # from torch 2.9 on; setting the older switches too would be an error
        places = (backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.matmul, backends.mkldnn.conv)
        return [(place, "fp32_precision", "ieee") for place in places]
    return [(place, "allow_tf32", False) for place in (backends.cuda.matmul, backends.cudnn)]

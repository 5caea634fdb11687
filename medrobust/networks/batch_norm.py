"""The running statistics of BatchNorm: held while a batch passes that is not to count, and shared by processes."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm


def tracking_norms(module: nn.Module) -> list[_BatchNorm]:
    """The BatchNorms whose running statistics a forward pass would change: those in training mode that keep some."""
    return [
        norm
        for norm in module.modules()
        if isinstance(norm, _BatchNorm) and norm.training and norm.track_running_stats and norm.running_mean is not None
    ]


@contextmanager
def running_statistics_kept(module: nn.Module) -> Iterator[None]:
    """Let BatchNorm in training mode normalise by the statistics of its batch, and leave its running ones alone.

    Args:
        module: A network; BatchNorm in eval mode goes on using its running statistics.
    """
    norms = tracking_norms(module)
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


def share_buffers(module: nn.Module) -> None:
    """Give all processes the first one's buffers; all of them call this.

    Each process follows the statistics of its own images. DistributedDataParallel shares them only in forward passes
    that come after one with gradients: not in the first training step after a validation.

    Args:
        module: The network, the same in all processes.
    """
    if distributed.is_available() and distributed.is_initialized():
        for buffer in module.buffers():
            distributed.broadcast(buffer, 0)

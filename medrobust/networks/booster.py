"""The multi-scale booster: a block for each level of a feature pyramid that looks further and attends (Shao 2019)."""

import torch
from torch import Tensor, nn
from torch.nn import functional

DILATIONS = (1, 2, 3)
REDUCTION = 4  # of the channels inside the squeeze-excite block


class MultiScaleBooster(nn.Module):
    """Adds to a level of a pyramid what several fields of view see in it (Shao et al. 2019, arXiv:1907.03958).

    A 1 x 1 convolution, and one 3 x 3 convolution that is shared over the dilations 1, 2 and 3, are concatenated. A
    squeeze-excite block weighs their channels, a 1 x 1 convolution fuses them, and a 7 x 7 convolution of their maximum
    and mean over the channels weighs the places. The result is added to the level, whose shape it has.

    Args:
        channels: Channels C of the level ``(N, C, H, W)``.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        joined = channels * (1 + len(DILATIONS))
        self.point = nn.Conv2d(channels, channels, 1)
        self.shared = nn.Conv2d(channels, channels, 3, padding=1)
        self.squeeze = nn.Conv2d(joined, max(1, joined // REDUCTION), 1)
        self.excite = nn.Conv2d(max(1, joined // REDUCTION), joined, 1)
        self.fuse = nn.Conv2d(joined, channels, 1)
        self.places = nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, level: Tensor) -> Tensor:
        """The boosted level, ``(N, C, H, W)``."""
        weight, bias = self.shared.weight, self.shared.bias
        views = [functional.conv2d(level, weight, bias, padding=reach, dilation=reach) for reach in DILATIONS]
        joined = functional.relu(torch.cat([self.point(level), *views], 1))
        attention = self.excite(functional.relu(self.squeeze(joined.mean((2, 3), keepdim=True))))
        fused = self.fuse(joined * attention.sigmoid())
        seen = torch.cat([fused.amax(1, keepdim=True), fused.mean(1, keepdim=True)], 1)
        return level + fused * self.places(seen).sigmoid()

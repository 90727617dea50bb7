"""Anchors: one scale and three ratios on each pyramid level [G10]."""
import torch
from torch import Tensor

from s21k.core.transfer import constant

STRIDES = (4, 8, 16, 32, 64)            # P2..P6
RATIOS = (0.5, 1.0, 2.0)                # height / width


def level_anchors(h: int, w: int, stride: int, scale: float, device: torch.device) -> Tensor:
    """(h * w * 3, 4): row by row, column by column, ratio by ratio; centres at multiples of the stride, offset 0.
    The area of each is (scale * stride)^2. Not rounded (torchvision rounds its base anchors)."""
    ratios = constant(RATIOS, device)
    heights = scale * stride * ratios.sqrt()                             # (3,)
    widths = scale * stride / ratios.sqrt()                              # (3,)
    base = torch.stack([-widths, -heights, widths, heights], dim=1) / 2  # (3, 4)
    y = torch.arange(h, device=device, dtype=torch.float32) * stride
    x = torch.arange(w, device=device, dtype=torch.float32) * stride
    grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
    centres = torch.stack([grid_x, grid_y, grid_x, grid_y], dim=-1)      # (h, w, 4)
    return (centres[:, :, None] + base).reshape(-1, 4)


def pyramid_anchors(pyramid: list[Tensor], scale: float) -> list[Tensor]:
    """One (Hl * Wl * 3, 4) for each level P2..P6."""
    return [level_anchors(*features.shape[-2:], stride, scale, features.device)
            for features, stride in zip(pyramid, STRIDES)]

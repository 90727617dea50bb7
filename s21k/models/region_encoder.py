"""What the two stages share, as one object [P4, P16, P28, P35]: image, boxes -> x_i.

Backbone, FPN, RoIAlign and the RoI head's two fully connected layers [G8]. Stage II starts from
stage I by a strict load of this module's state.
"""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s21k.core.boxes import whole_image
from s21k.core.randomness import derive_seed
from s21k.core.transfer import to_device
from s21k.models.backbones import drop_path_noise
from s21k.models.fpn import FPN
from s21k.models.roi_pool import MAX_LEVEL, MIN_LEVEL, pool_regions, roi_levels

POOL = 7


class RegionEncoder(nn.Module):
    """image_roi_level: which level the entire image is pooled from [G15]; image_roi: its extent [G16]."""

    def __init__(self, backbone: nn.Module, channels: int = 256, dim: int = 1024,
                 image_roi_level: str = "fpn_rule", image_roi: str = "valid") -> None:
        super().__init__()
        self.image_roi_level, self.image_roi = image_roi_level, image_roi
        self.backbone = backbone
        self.fpn = FPN(backbone.channels, channels)
        self.fc1 = nn.Linear(channels * POOL * POOL, dim)
        self.fc2 = nn.Linear(dim, dim)
        for fc in (self.fc1, self.fc2):
            nn.init.xavier_uniform_(fc.weight)
            nn.init.zeros_(fc.bias)

    def pyramid(self, images: Tensor, seeds: list[int] | None = None) -> list[Tensor]:
        """images (B, 3, H, W) -> P2..P6, each (B, channels, H/s, W/s). seeds (B,) drive the drop path in training."""
        return self.fpn(self.backbone(images, drop_path_noise(self.backbone, images, seeds)))

    def regions(self, pyramid: list[Tensor], boxes: list[Tensor], levels: Tensor | None = None) -> Tensor:
        """boxes B times (Ri, 4) -> x (R, dim), the region features of Eqs. 1-3."""
        pooled = pool_regions(pyramid, boxes, POOL, levels)      # (R, channels, 7, 7)
        x = F.relu(self.fc1(pooled.flatten(1)))                  # (R, dim)
        return F.relu(self.fc2(x))                               # (R, dim)

    def images(self, pyramid: list[Tensor], sizes: list[tuple[int, int]], seeds: list[int] | None = None) -> Tensor:
        """The entire image as a special RoI [P2, P13, P18]: sizes B times (h, w) -> x (B, dim)."""
        if self.image_roi == "canvas":
            stride = 2 ** MIN_LEVEL
            h, w = (side * stride for side in pyramid[0].shape[-2:])
            sizes = [(h, w)] * len(sizes)
        whole = whole_image(sizes)                               # (B, 4), on the CPU, as the sizes are
        boxes = list(to_device(whole, pyramid[0].device).split(1))
        if self.image_roi_level == "all_mean":
            everywhere = [torch.full((len(whole),), level) for level in range(MIN_LEVEL, MAX_LEVEL + 1)]
            pooled = sum(pool_regions(pyramid, boxes, POOL, levels) for levels in everywhere) / len(everywhere)
            return F.relu(self.fc2(F.relu(self.fc1(pooled.flatten(1)))))
        return self.regions(pyramid, boxes, self._image_levels(whole, seeds))

    def _image_levels(self, boxes: Tensor, seeds: list[int] | None) -> Tensor:
        """boxes (B, 4) of entire images -> (B,) the level of each; both on the CPU."""
        levels = roi_levels(boxes)
        if self.image_roi_level == "p5":
            return torch.full_like(levels, 5)
        if self.image_roi_level == "random" and self.training and seeds:
            return torch.tensor(
                [derive_seed(seed, "level") % (MAX_LEVEL - MIN_LEVEL + 1) + MIN_LEVEL for seed in seeds])
        return levels

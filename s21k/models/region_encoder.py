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
from s21k.models.roi_pool import MAX_LEVEL, MIN_LEVEL, pool_level, pool_regions, roi_levels

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

    def features(self, images: Tensor, seeds: list[int] | None = None) -> list[Tensor]:
        """images (B, 3, H, W) -> C2..C5 of the backbone. seeds (B,) drive the drop path in training."""
        return self.backbone(images, drop_path_noise(self.backbone, images, seeds))

    def pyramid(self, images: Tensor, seeds: list[int] | None = None) -> list[Tensor]:
        """images (B, 3, H, W) -> P2..P6, each (B, channels, H/s, W/s)."""
        return self.fpn(self.features(images, seeds))

    def regions(self, pyramid: list[Tensor], boxes: list[Tensor]) -> Tensor:
        """boxes B times (Ri, 4) -> x (R, dim), the region features of Eqs. 1-3."""
        return self._two_layers(pool_regions(pyramid, boxes, POOL))

    def images(self, features: list[Tensor], sizes: list[tuple[int, int]], seeds: list[int] | None = None) -> Tensor:
        """The entire image as a special RoI [P2, P13, P18]: C2..C5, sizes B times (h, w) -> x (B, dim); B >= 1.
        The FPN computes the level that an image is pooled from and no other: with one level, most of its work is
        saved. Layers that no image needs have no gradient, and keep their values."""
        if self.image_roi == "canvas":
            stride = 2 ** MIN_LEVEL
            h, w = (side * stride for side in features[0].shape[-2:])
            sizes = [(h, w)] * len(sizes)
        whole = whole_image(sizes)                               # (B, 4), on the CPU, as the sizes are
        if self.image_roi_level != "all_mean":
            return self._two_layers(self._pool_images(features, whole, self._image_levels(whole, seeds)))
        levels = range(MIN_LEVEL, MAX_LEVEL + 1)
        return self._two_layers(sum(self._pool_images(features, whole, torch.full((len(whole),), level))
                                    for level in levels) / len(levels))

    def _two_layers(self, pooled: Tensor) -> Tensor:
        """(R, channels, 7, 7) -> x (R, dim)."""
        return F.relu(self.fc2(F.relu(self.fc1(pooled.flatten(1)))))

    def _pool_images(self, features: list[Tensor], boxes: Tensor, levels: Tensor) -> Tensor:
        """boxes (B, 4) of entire images and the level (B,) of each, both on the CPU -> (B, channels, 7, 7)."""
        device, order, parts = features[0].device, [], []
        for level in levels.unique().tolist():
            rows = (levels == level).nonzero().squeeze(1)                            # the images of this level
            rois = torch.cat([torch.arange(len(rows), dtype=boxes.dtype)[:, None], boxes[rows]], dim=1)
            some, chosen = features, to_device(rows, device)
            if len(rows) < len(boxes):
                some = [c.index_select(0, chosen) if number >= level else c for number, c in enumerate(features, 2)]
            parts.append(pool_level(self.fpn.level(some, level), to_device(rois, device), level, POOL))
            order.append(chosen)
        pooled = torch.cat(parts)                                # level after level; back into the images' order:
        return torch.empty_like(pooled).index_copy(0, torch.cat(order), pooled)

    def _image_levels(self, boxes: Tensor, seeds: list[int] | None) -> Tensor:
        """boxes (B, 4) of entire images -> (B,) the level of each; both on the CPU."""
        levels = roi_levels(boxes)
        if self.image_roi_level == "p5":
            return torch.full_like(levels, 5)
        if self.image_roi_level == "random" and self.training and seeds:
            return torch.tensor(
                [derive_seed(seed, "level") % (MAX_LEVEL - MIN_LEVEL + 1) + MIN_LEVEL for seed in seeds])
        return levels

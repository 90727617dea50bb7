"""Plain twin: plain_level and plain_pool in s21k/models/plain.py; read it first.

RoI pooling from a pyramid: Eq. 1 of the FPN paper chooses the level, RoIAlign reads it.

R regions of all images. Strides are 4, 8, 16, 32 for P2..P5.
"""
import torch
from torch import Tensor
from torchvision.ops import roi_align

from s21k.core import boxes as B
from s21k.models.roi_align import separable_roi_align

MIN_LEVEL, MAX_LEVEL = 2, 5


def roi_levels(boxes: Tensor) -> Tensor:
    """FPN Eq. 1 for boxes (R, 4): floor(4 + log2(sqrt(area) / 224)) within 2..5, int64 (R,). 224 px -> P4, 448 -> P5,
    223 -> P3 [G15]. The epsilon keeps log2 of an empty box finite; in float32 1 + 1e-8 is 1."""
    side = B.area(boxes).clamp(min=0).sqrt()
    level = torch.floor(4 + torch.log2(side / 224 + 1e-8))
    return level.clamp(MIN_LEVEL, MAX_LEVEL).long()


def level_shares(sides: Tensor) -> str:
    """Where Eq. 1 sends square boxes of these sides (n,): "P4 21 %, P5 79 %". Small ones miss the paper's P4 and P5."""
    zero = torch.zeros_like(sides)
    levels = roi_levels(torch.stack([zero, zero, sides, sides], dim=1))
    return ", ".join(f"P{level} {100 * float((levels == level).float().mean()):.0f} %"
                     for level in levels.unique().tolist())


def pool_regions(pyramid: list[Tensor], boxes: list[Tensor], out: int = 7) -> Tensor:
    """pyramid P2.., boxes B times (Ri, 4) -> (R, C, out, out), image after image. Eq. 1 of the FPN paper chooses the
    level of each; one wait for the device: how many regions each level has."""
    flat = torch.cat(boxes)
    image = torch.cat([torch.full_like(b[:, :1], number) for number, b in enumerate(boxes)])
    # Coordinates stay in float32: bfloat16 would round x = 1001 to 1000. Under autocast roi_align takes mixed inputs.
    rois = torch.cat([image, flat], dim=1)                               # (R, 5)
    levels = roi_levels(flat)
    all_levels = torch.arange(MIN_LEVEL, MAX_LEVEL + 1, device=levels.device)
    counts = (levels[:, None] == all_levels).sum(dim=0).tolist()
    by_level = levels.argsort(stable=True)
    parts = [pool_level(features, rois[chosen], level, out)
             for level, features, chosen in zip(range(MIN_LEVEL, MAX_LEVEL + 1), pyramid, by_level.split(counts))]
    pooled = torch.cat(parts)                                            # level after level; back into the given order:
    return torch.empty_like(pooled).index_copy(0, by_level, pooled)


def pool_level(features: Tensor, rois: Tensor, level: int, out: int = 7) -> Tensor:
    """P<level> (B, C, H, W), rois (R, 5): the image's number and its box -> (R, C, out, out).
    aligned=True and samples by the bin's size (sampling_ratio=0): torchvision's pooler has neither by default [G14]."""
    align = separable_roi_align if rois.is_cuda and torch.are_deterministic_algorithms_enabled() else roi_align
    return align(features, rois, out, 1 / 2**level, sampling_ratio=0, aligned=True)

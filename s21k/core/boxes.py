"""Plain twin: plain_iou and plain_whole_image in s21k/models/plain.py; read it first.

Boxes: (x1, y1, x2, y2), float, in pixels of the network's input; width = x2 - x1, no +1.

Sizes are always (h, w). Deltas follow R-CNN: (dx, dy, dw, dh), the centre relative to the
source's side, the sides as logarithms, each times a weight.
"""
import math

import torch
from torch import Tensor

from s21k.core.transfer import constant

RPN_WEIGHTS = (1.0, 1.0, 1.0, 1.0)           # [G11]
REGION_WEIGHTS = (10.0, 10.0, 5.0, 5.0)      # [G13]
LOG_SCALE_CLIP = math.log(1000 / 16)         # a delta may not enlarge a side more than 62.5 times [G13]


def area(boxes: Tensor) -> Tensor:
    """boxes (N, 4) -> (N,)."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of a (N, 4) with b (M, 4) -> (N, M); 0 where both are empty. Without gradient.
    Works in place: at most 16 bytes a pair in float32, the result included."""
    def overlap(low: int, high: int) -> Tensor:
        """Of the intervals between two columns, (N, M)."""
        return torch.minimum(a[:, None, high], b[:, high]).sub_(torch.maximum(a[:, None, low], b[:, low])).clamp_(min=0)

    inter = overlap(0, 2).mul_(overlap(1, 3))                            # (N, M)
    union = (area(a)[:, None] + area(b)).sub_(inter)                     # (N, M)
    # Where there is no overlap the ratio is 0 / union: tiny keeps it from 0 / 0.
    return inter.div_(union.clamp_(min=torch.finfo(union.dtype).tiny))


def _centres(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """boxes (..., 4) -> centres (..., 2), sides (..., 2)."""
    sides = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + 0.5 * sides, sides


def encode(source: Tensor, target: Tensor, weights: tuple[float, float, float, float]) -> Tensor:
    """Deltas (N, 4) that move source (N, 4) onto target (N, 4). Both must have positive sides."""
    source_centre, source_sides = _centres(source)
    target_centre, target_sides = _centres(target)
    shift = (target_centre - source_centre) / source_sides
    scale = torch.log(target_sides / source_sides)
    return torch.cat([shift, scale], dim=-1) * constant(weights, source.device, source.dtype)


def decode(deltas: Tensor, source: Tensor, weights: tuple[float, float, float, float]) -> Tensor:
    """Boxes (N, 4) that deltas (N, 4) make of source (N, 4). The inverse of encode."""
    deltas = deltas / constant(weights, deltas.device, deltas.dtype)
    centre, sides = _centres(source)
    centre = centre + deltas[..., :2] * sides
    sides = sides * torch.exp(deltas[..., 2:].clamp(max=LOG_SCALE_CLIP))
    return torch.cat([centre - 0.5 * sides, centre + 0.5 * sides], dim=-1)


def clip(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """boxes (N, 4) cut to the image: x in [0, w], y in [0, h]."""
    h, w = size
    x, y = boxes[..., 0::2].clamp(0, w), boxes[..., 1::2].clamp(0, h)
    return torch.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], dim=-1)


def whole_image(sizes: list[tuple[int, int]]) -> Tensor:
    """The entire image as a box: the special RoI of Sec. 3.2 [P2, P13, P18]. B times (h, w) -> (B, 4), on the CPU.
    It is [0, 0, w, h] with the true width: [0, 0, 223, 223] would fall to another pyramid
    level [G15]. sizes are the valid areas, not the padded canvas [G16]."""
    return torch.tensor([[0, 0, w, h] for h, w in sizes], dtype=torch.float32).view(-1, 4)

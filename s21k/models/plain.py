"""Scores, post-processing and pooling the obvious way: to be read first, and to test the fast way against.

Nothing in training or evaluation calls these; s21k.explain does. tests/test_plain.py holds each equal to its fast way:

  plain_parts, plain_scores             scores.py: Eqs. 1 to 5 (Sec. 3.2)
  plain_postprocess                     postprocess.py: threshold, NMS per category, the best
  plain_whole_image, plain_level        core/boxes.py, roi_pool.py: the entire image as a region, FPN's rule
  plain_roi_align, plain_pool           roi_pool.py, roi_align.py: RoIAlign
  plain_iou                             core/boxes.py

R  regions             C   categories of the detection data
K  evaluated categories    C^  categories of the classification data
"""
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Pair = tuple[int, int]                                                   # (region, category)


def plain_parts(fg_logits: Tensor, det_logits: Tensor, cls_logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Eqs. 1 to 3: fg_logits (R,), det_logits (R, C), cls_logits (R, C^) -> S_fg, S, S^ of these shapes, float64."""
    s_fg = torch.sigmoid(fg_logits.double())                             # Eq. 1: is there an object
    s = torch.softmax(det_logits.double(), dim=1)                        # Eq. 2: which category of the detection data
    s_hat = torch.softmax(cls_logits.double(), dim=1)                    # Eq. 3: .. of the classification data
    return s_fg, s, s_hat


def plain_scores(fg_logits: Tensor, det_logits: Tensor, cls_logits: Tensor, det_index: Tensor, cls_index: Tensor,
                 fusion: str = "geometric", exponent: float = 2 / 3) -> Tensor:
    """Eqs. 1 to 5 as they are printed, category by category -> (R, K) float64. Arguments as of scores.fuse.
    A category that one classifier knows has that one's score of Eq. 4; one that none knows has 0."""
    s_fg, s, s_hat = plain_parts(fg_logits, det_logits, cls_logits)
    scores = torch.zeros(len(s_fg), len(det_index), dtype=torch.float64, device=s_fg.device)
    for category, (row, row_hat) in enumerate(zip(det_index.tolist(), cls_index.tolist(), strict=True)):
        knows, knows_hat = row >= 0, row_hat >= 0
        det = s_fg * s[:, row] if knows else None                        # Eq. 4: S'_c
        cls = s_fg * s_hat[:, row_hat] if knows_hat else None            # Eq. 4: S^'_c
        if knows and knows_hat:
            scores[:, category] = plain_fusion(det, cls, fusion, exponent)
        elif knows or knows_hat:
            scores[:, category] = det if knows else cls
    return scores


def plain_fusion(det: Tensor, cls: Tensor, fusion: str, exponent: float) -> Tensor:
    """Eq. 5, or what eval.fusion puts in its place, of the two scores of Eq. 4: any shape, both the same."""
    if fusion == "geometric":
        return det**exponent * cls ** (1 - exponent)                     # Eq. 5
    if fusion == "arithmetic":
        return exponent * det + (1 - exponent) * cls
    return {"det_only": det, "cls_only": cls}[fusion]


def _overlap(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    """Areas of the intersection and of the union of two boxes (x1, y1, x2, y2)."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    intersection = width * height if width > 0 and height > 0 else 0.0
    area_a, area_b = (a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1])
    return intersection, area_a + area_b - intersection


def plain_iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two boxes (x1, y1, x2, y2); 0 where both are empty."""
    intersection, union = _overlap(a, b)
    return intersection / union if union > 0 else 0.0


@dataclass
class PlainResult:
    """One image's detections, best first, and what became of every other candidate.
    boxes (N, 4), labels (N,), scores (N,), regions (N,): the region that each detection is. survivors: every pair that
    NMS left, best first; the first N are the detections. removed_by: every removed pair -> the best that removed it."""
    boxes: Tensor
    labels: Tensor
    scores: Tensor
    regions: Tensor
    survivors: list[Pair]
    removed_by: dict[Pair, Pair]


def plain_postprocess(boxes: Tensor, scores: Tensor, threshold: float, iou_threshold: float, max_detections: int,
                      class_agnostic: bool = False) -> PlainResult:
    """boxes (R, 4), scores (R, K): each score above the threshold, NMS per category, the best max_detections (-1: all).
    The order is score, then lower region, then lower category. A candidate goes where a better survivor of its category
    (class_agnostic: of any) overlaps it by IoU > iou_threshold. Sources: P85, G26; NMS as in Girshick et al. (2014)."""
    region, category = (scores > threshold).nonzero().unbind(1)          # in the order of regions, then categories
    best_first = scores[region, category].sort(descending=True, stable=True).indices     # stable: ties keep that order
    corners = boxes.double().tolist()
    survivors: list[Pair] = []
    removed_by: dict[Pair, Pair] = {}
    rivals: dict[int, list[Pair]] = {}                                   # category -> its survivors so far
    for pair in zip(region[best_first].tolist(), category[best_first].tolist(), strict=True):
        better = rivals.setdefault(0 if class_agnostic else pair[1], [])
        for other in better:
            intersection, union = _overlap(corners[pair[0]], corners[other[0]])
            if intersection > iou_threshold * union:                     # not a quotient, which would be rounded
                removed_by[pair] = other
                break
        else:
            better.append(pair)
            survivors.append(pair)
    found = survivors if max_detections < 0 else survivors[:max_detections]
    regions, labels = torch.tensor(found, dtype=torch.int64, device=scores.device).view(-1, 2).unbind(1)
    return PlainResult(boxes[regions], labels, scores[regions, labels], regions, survivors, removed_by)


def plain_whole_image(size: tuple[int, int]) -> list[float]:
    """The special RoI of Sec. 3.2: an entire image of (h, w) as a box [P2, P18]."""
    h, w = size
    return [0.0, 0.0, float(w), float(h)]


def plain_level(box: Sequence[float]) -> int:
    """Which of P2..P5 a box (x1, y1, x2, y2) is pooled from: Eq. 1 of the FPN paper (Lin et al., 2017)."""
    area = (box[2] - box[0]) * (box[3] - box[1])
    if area <= 0:
        return 2
    level = math.floor(4 + math.log2(math.sqrt(area) / 224))             # 224 px, ImageNet's size, goes to P4
    return min(max(level, 2), 5)


def plain_bilinear(features: Tensor, y: float, x: float) -> Tensor:
    """features (C, H, W) at a point between its cells -> (C,): the four cells around it, the nearer the more."""
    _, height, width = features.shape
    if y < -1 or y > height or x < -1 or x > width:
        return torch.zeros(len(features))                                # more than a cell outside
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    down, across = y - top, x - left
    return ((1 - down) * (1 - across) * features[:, top, left] + (1 - down) * across * features[:, top, right]
            + down * (1 - across) * features[:, bottom, left] + down * across * features[:, bottom, right])


def plain_roi_align(features: Tensor, box: Sequence[float], stride: int, out: int = 7) -> Tensor:
    """RoIAlign (He et al., 2017): features (C, H, W) at a stride, one box in pixels of the input -> (C, out, out).
    Each bin is the mean of ceil(its height) x ceil(its width) points on a regular grid [G14]. The half pixel less is
    "aligned": cell 0 of the features has its centre at 0, pixel coordinates have it at 0.5."""
    x1, y1, x2, y2 = (value / stride - 0.5 for value in box)
    bin_h, bin_w = (y2 - y1) / out, (x2 - x1) / out
    num_h, num_w = math.ceil(bin_h), math.ceil(bin_w)
    pooled = torch.zeros(len(features), out, out)
    for row in range(out):
        for column in range(out):
            for i in range(num_h):
                for j in range(num_w):
                    y = y1 + (row + (i + 0.5) / num_h) * bin_h
                    x = x1 + (column + (j + 0.5) / num_w) * bin_w
                    pooled[:, row, column] += plain_bilinear(features, y, x) / (num_h * num_w)
    return pooled


def plain_pool(pyramid: list[Tensor], box: Sequence[float], out: int = 7) -> Tensor:
    """pyramid P2..P5 of one image, each (C, H/s, W/s); one box -> (C, out, out), from the level of FPN's rule."""
    level = plain_level(box)
    return plain_roi_align(pyramid[level - 2], box, 2**level, out)

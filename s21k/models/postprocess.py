"""Plain twin: plain_postprocess in s21k/models/plain.py; read it first.

From the scores of one image's regions to its detections: threshold, NMS per category, the best.

Exact: the result is that of the plain way (every score above the threshold, NMS per category,
the best of all), in the order score, then lower region, then lower category. But NMS of a
candidate depends only on better candidates of its category, so they are walked best first and
the walk ends when enough have survived: at 21,841 categories hardly any are looked at [G26].

The walk needs 100 R candidates at most: a category has R of them, so 100 R span at least 100 categories, and each
one's best survives. They are found without sorting, or keeping, the (R, K) scores: one pass notes the
largest score of each block of 64 categories of a region, and only blocks that reach a cut are opened.

R regions    K categories    n candidates
"""
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from s21k.core.errors import InputError
from s21k.core.structures import Detections, RegionScores

BLOCK = 64
FIRST = 1024                                                             # candidates to begin with
OPEN = 4096                                                              # blocks opened at a time
# One score, computed alone and among others, may differ in its last bits; what decides is the one computed alone.
SLACK = 1 - 1e-5


class Ranking:
    """One image's (region, category) pairs, best first; made once, walked as often as needed."""

    def __init__(self, regions: RegionScores) -> None:
        self.regions = regions
        num_regions, num_categories = regions.shape
        whole = num_categories // BLOCK * BLOCK
        self.blocks = -(-num_categories // BLOCK)                        # of a region
        self.largest = regions.boxes.new_zeros(num_regions, self.blocks, dtype=torch.float32)
        for first, rows in regions.parts() if num_categories else ():
            part = self.largest[first:first + len(rows)]
            part[:, :whole // BLOCK] = rows[:, :whole].unflatten(1, (-1, BLOCK)).amax(2)
            if whole < num_categories:
                part[:, -1] = rows[:, whole:].amax(1)
        self.largest = self.largest.reshape(-1)                          # (R * blocks,)
        if self.largest.isnan().any():
            region = int(self.largest.isnan().nonzero()[0]) // self.blocks
            raise InputError(f"the scores of region {region} are not numbers: the weights are damaged, or the "
                             f"activations overflowed (amp=fp16)")

    def _open(self, blocks: Tensor) -> tuple[Tensor, Tensor]:
        """Blocks (ascending) -> flat positions region * K + category (ascending) and scores of all that is in them."""
        num_categories = self.regions.shape[1]
        region, block = blocks // self.blocks, blocks % self.blocks
        category = block[:, None] * BLOCK + torch.arange(BLOCK, device=blocks.device)                # (b, 64)
        there = category < num_categories
        region, category = region[:, None].expand_as(category)[there], category[there]
        return region * num_categories + category, self.regions.at(region, category)

    def _between(self, blocks: Tensor, low: float, high: float, most: int) -> tuple[float, Tensor, Tensor]:
        """What lies in blocks with low < score < high, best first; of more than 2 * most only the better ones: low has
        then risen."""
        flat, scores = torch.zeros(0, dtype=torch.int64, device=blocks.device), torch.zeros(0, device=blocks.device)
        for some in blocks.split(OPEN):
            more_flat, more = self._open(some)
            inside = (more > low) & (more < high)
            flat, scores = torch.cat([flat, more_flat[inside]]), torch.cat([scores, more[inside]])
            if len(scores) > 2 * most:
                low = float(scores.topk(most).values[-1])
                flat, scores = flat[scores > low], scores[scores > low]
        order = torch.sort(scores, descending=True, stable=True).indices
        return low, flat[order], scores[order]

    def best_first(self, threshold: float) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """region, category, score (n,) each, of all scores above threshold, best first, in growing pieces.

        Equal scores keep their order: lower region, then lower category.
        """
        previous_cut, count = float("inf"), FIRST
        while previous_cut > threshold and len(self.largest):
            # At least `count` blocks reach the cut, so at least as many scores do.
            cut = threshold
            if count < len(self.largest):
                cut = max(threshold, float(self.largest.topk(count).values[-1]))
            blocks = (self.largest >= (cut * SLACK if cut > 0 else cut)).nonzero().squeeze(1)
            cut, flat, scores = self._between(blocks, cut, previous_cut, count)
            yield self._piece(flat, scores)
            if cut > threshold:
                yield from self._ties(blocks, cut)
            previous_cut, count = cut, 4 * count

    def _ties(self, blocks: Tensor, cut: float) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """The scores in blocks that equal the cut, in their order."""
        for some in blocks.split(OPEN):
            flat, scores = self._open(some)
            equal = scores == cut
            if equal.any():
                yield self._piece(flat[equal], scores[equal])

    def _piece(self, flat: Tensor, scores: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """flat = region * K + category (n,) -> region, category, score."""
        positions = flat.cpu().numpy()
        return positions // self.regions.shape[1], positions % self.regions.shape[1], scores.cpu().numpy()


def _overlaps(boxes: np.ndarray, region: int, iou_threshold: float) -> np.ndarray:
    """(R,) bool: which boxes (R, 4) float64 overlap the region's by more than iou_threshold."""
    box = boxes[region]
    sides = np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2])
    inter = np.where((sides > 0).all(axis=1), sides[:, 0] * sides[:, 1], 0.0)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return inter > iou_threshold * (areas + areas[region] - inter)


def walk(pieces: Iterator[tuple[np.ndarray, ...]]) -> Iterator[tuple]:
    """The rows of pieces of columns, one by one; no more than some thousand of them exist as Python objects."""
    for piece in pieces:
        for first in range(0, len(piece[0]), 4096):
            yield from zip(*(column[first:first + 4096].tolist() for column in piece))


def postprocess(ranking: Ranking, threshold: float, iou_threshold: float, max_detections: int,
                class_agnostic: bool = False) -> Detections:
    """Detections of one image: scores > threshold, NMS at IoU > iou_threshold within a category (class_agnostic: among
    all), the best max_detections (-1: all).

    IoUs are float64 of the boxes themselves, with no offset by category that would round them.
    """
    regions = ranking.regions
    num_regions, num_categories = regions.shape
    wanted = num_regions * num_categories if max_detections < 0 else max_detections
    boxes = regions.boxes.double().cpu().numpy()
    # category -> (R,) regions that a better one removed
    fallen: dict[int, np.ndarray] = {}
    overlaps: dict[int, np.ndarray] = {}                                 # region -> (R,) regions that it would remove
    kept: list[tuple[int, int, float]] = []
    for region, category, score in walk(ranking.best_first(threshold)) if wanted else ():
        group = 0 if class_agnostic else category
        gone = fallen.get(group)
        if gone is None:
            gone = fallen[group] = np.zeros(num_regions, dtype=bool)
        if gone[region]:
            continue
        kept.append((region, category, score))
        if region not in overlaps:
            overlaps[region] = _overlaps(boxes, region, iou_threshold)
        gone |= overlaps[region]
        if len(kept) == wanted or (class_agnostic and gone.all()):
            break
    return _detections(regions, kept)


def best_categories(ranking: Ranking, count: int) -> Detections:
    """The best box of each of the `count` best categories, whatever its score and before NMS, best first.

    A category's first pair in the ranking is its best, so at most (count - 1) R + 1 of them are looked at.
    """
    best: dict[int, tuple[int, int, float]] = {}
    for region, category, score in walk(ranking.best_first(-1.0)):
        best.setdefault(category, (region, category, score))
        if len(best) == min(count, ranking.regions.shape[1]):
            break
    return _detections(ranking.regions, list(best.values()))


def _detections(regions: RegionScores, rows: list[tuple[int, int, float]]) -> Detections:
    """rows of (region, category, score)."""
    device = regions.boxes.device
    region, category = (torch.tensor([row[i] for row in rows], dtype=torch.int64, device=device) for i in (0, 1))
    return Detections(regions.boxes[region], torch.tensor([row[2] for row in rows], device=device), category)

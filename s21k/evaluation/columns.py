"""Detections of many images as flat arrays.

N detections, in the order in which they were found or written.
"""
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from s21k.core.masks import Rles
from s21k.evaluation.ground_truth import xyxy_to_xywh
from s21k.evaluation.sorting import stable_order, starts, then_by

if TYPE_CHECKING:                                   # scoring a file imports no torch
    from s21k.core.structures import Detections

# What a metric's `note` said of n images while all their scores were at hand: positions (n,) of the images, and rows
# (n, ..).
Noted = tuple[np.ndarray, np.ndarray]


@dataclass
class DetectionColumns:
    """image, category (N,): ids of a file or, in front of a ground truth, positions in it; -1: a category it does not
    have.

    scores (N,); boxes (N, 4) as [x, y, w, h] in pixels of the image; masks: N or None. areas (N,) of the masks' pixels
    where a file has no boxes (those are then drawn around the masks), else None [E9].
    """
    image: np.ndarray
    category: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray | None = None
    masks: Rles | None = None

    def __len__(self) -> int:
        return len(self.scores)

    @classmethod
    def of(cls, image: int, found: "Detections") -> "DetectionColumns":
        """One image's detections, boxes xyxy in the pixels of its image."""
        return cls(np.full(len(found.scores), image), found.labels.cpu().numpy(), found.scores.cpu().numpy(),
                   xyxy_to_xywh(found.boxes.cpu().numpy()), None, None if found.masks is None else Rles.of(found.masks))

    @classmethod
    def join(cls, parts: "list[DetectionColumns]") -> "DetectionColumns":
        """One after the other. Parts that all have masks, or areas, keep them."""
        def column(name: str) -> np.ndarray:
            return np.concatenate([getattr(p, name) for p in parts])
        if len(parts) == 1:
            return parts[0]
        if not parts:
            return cls(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0), np.zeros((0, 4)))
        return cls(column("image"), column("category"), column("scores"), column("boxes"),
                   None if any(p.areas is None for p in parts) else column("areas"),
                   None if any(p.masks is None for p in parts) else Rles.join([p.masks for p in parts]))

    @cached_property
    def by_score(self) -> np.ndarray:
        """Positions (N,) by falling score; of equals the lower image, then the earlier place. Each metric sorts on from
        here."""
        return stable_order(self.image, -self.scores)

    def take(self, rows: np.ndarray) -> "DetectionColumns":
        """rows: positions (n,)."""
        return DetectionColumns(self.image[rows], self.category[rows], self.scores[rows], self.boxes[rows],
                                None if self.areas is None else self.areas[rows],
                                None if self.masks is None else self.masks.take(rows))


def best_of_each(group: np.ndarray, found: DetectionColumns, most: int) -> np.ndarray:
    """(N,) bool: the `most` best detections of each group (N,) of whole numbers; of equals the first."""
    order = then_by(group, found.by_score)
    kept = np.empty(len(found), dtype=bool)
    kept[order] = np.arange(len(order)) - starts(group[order]) < most
    return kept


def most_of_an_image(found: DetectionColumns) -> int:
    """How many detections the image with most of them has."""
    return int(np.bincount(found.image).max()) if len(found) else 0

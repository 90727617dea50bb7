"""Detections of many images as flat arrays.

N detections, in the order in which they were found or written.
"""
from dataclasses import dataclass

import numpy as np

from s21k.core.masks import Rles
from s21k.core.structures import Detections
from s21k.evaluation.ground_truth import xyxy_to_xywh
from s21k.evaluation.sorting import stable_order, starts

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
    def of(cls, image: int, found: Detections) -> "DetectionColumns":
        """One image's detections, boxes xyxy in the pixels of its image."""
        return cls(np.full(len(found.scores), image), found.labels.cpu().numpy(), found.scores.cpu().numpy(),
                   xyxy_to_xywh(found.boxes.cpu().numpy()), None, None if found.masks is None else Rles.of(found.masks))

    @classmethod
    def join(cls, parts: "list[DetectionColumns]") -> "DetectionColumns":
        """One after the other. Parts that all have masks, or areas, keep them."""
        def column(name: str) -> np.ndarray:
            return np.concatenate([getattr(p, name) for p in parts])
        if not parts:
            return cls(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0), np.zeros((0, 4)))
        return cls(column("image"), column("category"), column("scores"), column("boxes"),
                   None if any(p.areas is None for p in parts) else column("areas"),
                   None if any(p.masks is None for p in parts) else Rles.join([p.masks for p in parts]))

    def take(self, rows: np.ndarray) -> "DetectionColumns":
        """rows: positions (n,)."""
        return DetectionColumns(self.image[rows], self.category[rows], self.scores[rows], self.boxes[rows],
                                None if self.areas is None else self.areas[rows],
                                None if self.masks is None else self.masks.take(rows))


def best_of_each_image(found: DetectionColumns, most: int) -> np.ndarray:
    """Positions, ascending, of the `most` best detections of each image over all categories (-1: all); of equals the
    first."""
    if most < 0 or len(found) == 0 or np.bincount(found.image).max() <= most:
        return np.arange(len(found))
    order = stable_order(-found.scores, found.image)
    return np.sort(order[np.arange(len(order)) - starts(found.image[order]) < most])

"""Plain twin: plain_lvis in s21k/evaluation/plain.py; read it first.

LVIS's average precision [E27-E34, G29]: federated truth, a budget of detections for each image.

An image is judged for a category only where that category has a box in it or was checked to be
absent; of categories that were not boxed completely, unmatched detections are not wrong.
"""
import dataclasses

import numpy as np

from s21k.core.errors import InputError
from s21k.evaluation.average_precision import AveragePrecision, mean
from s21k.evaluation.columns import DetectionColumns, best_of_each, most_of_an_image
from s21k.evaluation.ground_truth import GroundTruth
from s21k.evaluation.sorting import is_in

FREQUENCIES = "rcf"                         # rare, common, frequent [E33]
NO_NEGATIVES = ("no image says by neg_category_ids what it was checked for: detections of categories without a box in "
                "their image count as nothing, and AP is far too high; expected LVIS's own annotations, or --metric "
                "coco")


class LvisAveragePrecision(AveragePrecision):
    """max_detections is of an image over all categories, before anything is dropped [E28]; -1: no cap."""

    def __init__(self, gt: GroundTruth, max_detections: int = 300, kind: str = "box") -> None:
        super().__init__(gt, max_detections, kind)
        if bad := [letter for letter in gt.frequencies if letter not in ("r", "c", "f")]:
            raise InputError(f"{gt.path}: a category has frequency {bad[0]!r}, expected r, c or f [E33]")
        kept = (gt.areas > 0) & np.isfinite(gt.areas)                    # [E29]
        self.gt = dataclasses.replace(gt, image=gt.image[kept], category=gt.category[kept], boxes=gt.boxes[kept],
                                      areas=gt.areas[kept],
                                      crowd=np.zeros(kept.sum(), dtype=bool), ignore=gt.ignore[kept],
                                      masks=None if gt.masks is None else gt.masks.take(np.flatnonzero(kept)))
        # no crowds here; `ignore` is honoured [E6, E32]
        self.crowd, self.ignored = self.gt.crowd, self.gt.ignore
        self.recall_at = (np.iinfo(np.int64).max,)
        self.warnings = [] if len(gt.negative) else [NO_NEGATIVES]

    def _select(self, found: DetectionColumns, cell: np.ndarray) -> np.ndarray:
        """The best of each image; of those, the ones with an area [E29] whose category is judged there [E30].

        category -1 is one that the file does not list: it uses up the budget and is then dropped [E28].
        """
        judged = np.union1d(self._cell(self.gt.image, self.gt.category), self._cell(*self.gt.negative.T))
        kept = (found.category >= 0) & (self.areas_found > 0) & is_in(cell, judged)
        if 0 <= self.max_detections < most_of_an_image(found):
            kept &= best_of_each(found.image, found, self.max_detections)
        return kept

    def _excused(self, cell: np.ndarray) -> np.ndarray:
        """Of a category that was not boxed completely in that image [E31]."""
        return is_in(cell, np.unique(self._cell(*self.gt.not_exhaustive.T)))

    def compute(self) -> dict[str, float]:
        """AP AP50 AP75 APs APm APl APr APc APf AR@300 ARs@300 ARm@300 ARl@300 and AP_<group>, AP50_<group>."""
        results = super().compute()
        names = ("AP", "AP50", "AP75", "APs", "APm", "APl")
        letters = np.array(self.gt.frequencies)
        return ({name: results[name] for name in names}
                | {f"AP{letter}": mean(self.per_category[:, letters == letter]) for letter in FREQUENCIES}
                | {"AR@300": results[f"AR{self.recall_at[0]}"]}
                | {f"AR{size}@300": results[f"AR{size}"] for size in "sml"} | self._group_results())

"""Plain twin: plain_average_precision in s21k/evaluation/plain.py; read it first.

Average precision as COCO defines it [E1-E26], equal to pycocotools. The twin loops over images and categories; here
there is no such loop: at 21,841 categories and ten million detections it would take hours.

A *cell* is one (image, category). Only a detection that overlaps a box of its own cell can be right. Such pairs are
few, and are matched for all cells at once. Every other detection only pushes the right ones down the ranking of its
category: for them a count is enough. So the lists get shorter, each holding positions in the one before:

  found     N detections, as they were given
  source    rows of found that take part, in ranking order: category, then score, then image, then place in the image
  near      places of source whose cell has a box; `cell` and `rank` (place inside the cell) are of these
  paired    places of near that overlap a box of their cell by IoU >= 0.5
  pairs     pair_det (places of paired), pair_box (rows of the truth), pair_iou: P each

N detections    G boxes of the ground truth    K categories    T IoU thresholds    P pairs
"""
from typing import TYPE_CHECKING

import numpy as np

from s21k.core.errors import InputError
from s21k.core.masks import mask_iou
from s21k.core.packed import ranges
from s21k.evaluation.columns import DetectionColumns, Noted, best_of_each, most_of_an_image
from s21k.evaluation.ground_truth import GroundTruth, iou_xywh
from s21k.evaluation.sorting import is_in, running_maximum_from_right, stable_order, starts, then_by

if TYPE_CHECKING:                                   # scoring a file imports no torch
    from s21k.core.structures import Prediction

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)         # [E12]
RECALLS = np.linspace(0.0, 1.0, 101)                # [E23]
AREAS = {"": (0, 1e10), "s": (0, 32**2), "m": (32**2, 96**2), "l": (96**2, 1e10)}      # [E18]
BLOCK = 1 << 16                                     # pairs measured at a time: they stay in a processor's cache


def mean(values: np.ndarray) -> float:
    """Of the entries above -1; -1 where there are none [E21]."""
    return float(values[values > -1].mean()) if (values > -1).any() else -1.0


def place_in_ranking(before: np.ndarray, counts_alone: np.ndarray, right: np.ndarray,
                     category: np.ndarray) -> np.ndarray:
    """How many detections of its category stand at or above each matched one, itself included: (M,), M matched.

    All in ranking order. counts_alone: whether a detection would count if nothing were matched. before: how many of
    the category would count above it then. right: whether its box is one that counts. A matched detection counts if
    it is right, and does not if its box is ignored [E17, E18]. Five detections of one category:

        detection            1        2          3          4          5
        matched to           a box    ignored    nothing    a box      nothing
        counts alone         yes      yes        yes        no: size   yes
        before               0        1                     3
        right - counts alone 0        -1                    +1
        sum so far           0        -1                    0
        place                1        unused                3
    """
    correction = right.astype(np.int64) - counts_alone
    total = np.cumsum(correction)
    first = starts(category)                                             # of each one's category
    return before + counts_alone + total - (total[first] - correction[first])


class AveragePrecision:
    """AP over categories; max_detections is per (image, category) and the last AR's [E11].

    kind "box" or "mask": what IoU is measured on. Areas are those of the detections' boxes, of masks as well [E9].
    """

    areas = AREAS

    def __init__(self, gt: GroundTruth, max_detections: int = 100, kind: str = "box") -> None:
        if np.isnan(gt.areas).any():
            row = int(np.flatnonzero(np.isnan(gt.areas))[0])
            raise InputError(f"{gt.path}: a box of image {gt.image_ids[gt.image[row]]} has no area, which AP "
                             f"needs [E7]")
        if kind == "mask" and gt.masks is None:
            raise ValueError("AP of masks needs a ground truth that was loaded with masks=True")
        self.gt, self.max_detections, self.kind = gt, max_detections, kind
        # a crowd is ignored, and may match again and again
        self.crowd = self.ignored = gt.crowd
        self.recall_at = (1, 10, max_detections)                         # AR of the best so many of each cell [E24]
        self.matched: dict[tuple[float, float], np.ndarray] = {}         # area range -> as _match gives it
        self.parts: list[DetectionColumns] = []

    def update(self, image_id: int, prediction: "Prediction") -> None:
        """One image's detections, boxes in the pixels of the original image."""
        self.add_all(DetectionColumns.of(self.gt.image_position(image_id), prediction.detections))

    def note(self, image_id: int, prediction: "Prediction") -> None:
        """AP needs nothing of an image but its detections."""

    def add_all(self, found: DetectionColumns, noted: Noted | None = None) -> None:
        """Many detections, with positions of images and categories as ids. InputError: a score is not finite, or the AP
        of masks and one is missing."""
        finite = np.isfinite(found.scores)
        if not finite.all():
            image = self.gt.image_ids[found.image[np.flatnonzero(~finite)[0]]]
            raise InputError(f"image {image}: a detection's score is not finite [E10]")
        if self.kind == "mask" and (found.masks is None or len(found.masks) != len(found.scores)):
            raise InputError("AP of masks: a detection has no mask")
        self.parts.append(found)

    # --- the computation -------------------------------------------------------------------------------------------

    def _select(self, found: DetectionColumns, cell: np.ndarray) -> np.ndarray | None:
        """(N,) bool: which detections take part, the best max_detections of each cell [E11]; None: all."""
        if most_of_an_image(found) <= self.max_detections:
            return None
        return best_of_each(cell, found, self.max_detections)            # the place in the image decides ties

    def _excused(self, cell: np.ndarray) -> np.ndarray:
        """(N,) bool: detections that are not wrong even if unmatched. COCO has none."""
        return np.zeros(len(cell), dtype=bool)

    def _cell(self, image: np.ndarray, category: np.ndarray) -> np.ndarray:
        """One number for each (image, category), of category -1, too; image after image, as detections come."""
        return image.astype(np.int64) * (len(self.gt.category_ids) + 1) + category

    def _ranked(self) -> None:
        """Fill found, areas_found, source, near; category and excused are of source, cell and rank of near [E20]."""
        self.found = found = DetectionColumns.join(self.parts)
        self.parts = [found]
        cell = self._cell(found.image, found.category)
        self.areas_found = (found.boxes[:, 2].astype(np.float64) * found.boxes[:, 3] if found.areas is None
                            else found.areas)
        kept = self._select(found, cell)
        order = found.by_score if kept is None else found.by_score[kept[found.by_score]]
        self.source = then_by(found.category, order)                     # rows of found
        self.category, self.excused = found.category[self.source], self._excused(cell)[self.source]
        with_boxes = np.unique(self._cell(self.gt.image, self.gt.category))
        self.near = np.flatnonzero(is_in(cell, with_boxes)[self.source])
        self.cell = cell[self.source[self.near]]
        by_cell = then_by(self.cell)                                     # keeps the order of scores and places
        self.rank = np.empty(len(by_cell), dtype=np.int64)
        self.rank[by_cell] = np.arange(len(by_cell)) - starts(self.cell[by_cell])

    def _pairs(self) -> None:
        """Fill paired, pair_det, pair_box and pair_iou: all detections and boxes of one cell with IoU >= 0.5."""
        gt_cell = self._cell(self.gt.image, self.gt.category)
        by_cell = np.argsort(gt_cell, kind="stable")
        low = np.searchsorted(gt_cell[by_cell], self.cell, "left")
        count = np.searchsorted(gt_cell[by_cell], self.cell, "right") - low
        near = np.repeat(np.arange(len(self.cell)), count)               # each once for every box of its cell
        box = by_cell[ranges(low, count)]
        iou = self._mask_iou(near, box) if self.kind == "mask" else self._box_iou(near, box)
        enough = iou >= min(IOU_THRESHOLDS[0], 1 - 1e-10)
        self.paired, self.pair_det = np.unique(near[enough], return_inverse=True)
        self.pair_box, self.pair_iou = box[enough], iou[enough]

    def _box_iou(self, near: np.ndarray, box: np.ndarray) -> np.ndarray:
        """IoU of pairs (P,): of places of near, and rows of the truth."""
        rows, iou = self.source[self.near], np.empty(len(near))
        for first in range(0, len(near), BLOCK):
            some = slice(first, first + BLOCK)
            boxes = self.found.boxes[rows[near[some]]].astype(np.float64)
            iou[some] = iou_xywh(boxes, self.gt.boxes[box[some]], self.crowd[box[some]])
        return iou

    def _mask_iou(self, near: np.ndarray, box: np.ndarray) -> np.ndarray:
        """IoU of the masks of pairs (P,): every detection of a cell with every object of it, cell after cell."""
        iou = np.zeros(len(near))
        order = np.argsort(self.cell[near], kind="stable")
        cells = self.cell[near[order]]
        begins = np.flatnonzero(np.r_[True, cells[1:] != cells[:-1]]) if len(cells) else []
        for pairs in np.split(order, begins[1:]) if len(cells) else []:
            num_objects = int((near[pairs] == near[pairs[0]]).sum())
            objects = box[pairs[:num_objects]]
            rows = self.source[self.near[near[pairs[::num_objects]]]]
            iou[pairs] = mask_iou([self.found.masks[row] for row in rows],
                                  [self.gt.masks[g].rle() for g in objects], self.crowd[objects]).reshape(-1)
        return iou

    def _match(self, gt_ignored: np.ndarray) -> np.ndarray:
        """Greedy matching [E13-E17] -> (T, paired): the box of each detection, or -1. For one cell and threshold:

            for detection in order of rank:
                for box in its order of preference:         # boxes that count before ignored ones, then by IoU;
                    if box is free or a crowd:              # ties: the last box wins
                        match them, and go on with the next detection

        Cells do not know each other, so the first detections of all cells are decided together (round 0), then the
        second ones (round 1), and so on: as many rounds as one cell has detections with a pair.
        """
        det, box, iou = self.pair_det, self.pair_box, self.pair_iou
        matched = np.full((len(IOU_THRESHOLDS), len(self.paired)), -1, dtype=np.int32)
        if len(det) == 0:
            return matched
        cell = self.cell[self.paired]
        by_rank = stable_order(self.rank[self.paired], cell)
        turn = np.empty(len(by_rank), dtype=np.int64)
        turn[by_rank] = np.arange(len(by_rank)) - starts(cell[by_rank])
        order = np.lexsort((-box, -iou, gt_ignored[box], det, turn[det]))
        det, box, iou = det[order], box[order], iou[order]
        taken = np.zeros((len(IOU_THRESHOLDS), len(gt_ignored)), dtype=bool)
        enough = iou >= np.minimum(IOU_THRESHOLDS, 1 - 1e-10)[:, None]                # (T, P)
        rounds = np.searchsorted(turn[det], np.arange(turn[det[-1]] + 2))             # det[-1] has the last turn
        for begin, end in zip(rounds[:-1], rounds[1:]):
            here, nothing = slice(begin, end), end - begin
            free = enough[:, here] & (~taken[:, box[here]] | self.crowd[box[here]])
            starts_of_pairs = np.flatnonzero(np.r_[True, det[here][1:] != det[here][:-1]])   # of each detection
            ends_of_pairs = np.append(starts_of_pairs[1:], nothing)
            # The first free pair of each detection is its match, if it comes before the next detection's pairs.
            free_pair = np.where(free, np.arange(nothing), nothing)
            first = np.minimum.reduceat(free_pair, starts_of_pairs, axis=1)           # (T, detections of this round)
            at_t, at_det = np.nonzero(first < ends_of_pairs)
            chosen = box[here][first[at_t, at_det]]
            matched[at_t, det[here][starts_of_pairs][at_det]] = chosen
            taken[at_t, chosen] = True
        return matched

    def _curves(self, area: tuple[float, float]) -> tuple[np.ndarray, dict[int, np.ndarray]]:
        """One area range: AP (T, K) and {n: recall (T, K) of the n best detections of each cell}; -1 without boxes
        [E21]."""
        num_categories = len(self.gt.category_ids)
        low, high = area
        gt_ignored = self.ignored | (self.gt.areas < low) | (self.gt.areas > high)
        num_boxes = np.bincount(self.gt.category[~gt_ignored], minlength=num_categories)                 # npig (K,)
        # unmatched, it is wrong [E18]
        counts_alone = ((self.areas_found >= low) & (self.areas_found <= high))[self.source] & ~self.excused
        before = np.cumsum(np.r_[False, counts_alone])                   # in the whole list
        category_start = np.searchsorted(self.category, np.arange(num_categories))
        matched = self.matched[area] = self.matched[area] if area in self.matched else self._match(gt_ignored)
        ap = np.full((len(IOU_THRESHOLDS), num_categories), -1.0)
        recalls = {n: np.full_like(ap, -1.0) for n in self.recall_at}
        has_boxes = num_boxes > 0
        for t in range(len(IOU_THRESHOLDS)):
            hit = np.flatnonzero(matched[t] >= 0)                                      # in ranking order
            right = ~gt_ignored[matched[t][hit]]
            source, rank = self.near[self.paired[hit]], self.rank[self.paired[hit]]
            category = self.category[source]
            before_in_category = before[source] - before[category_start[category]]
            place = place_in_ranking(before_in_category, counts_alone[source], right, category)
            rank, category, place = rank[right], category[right], place[right]
            hits = np.arange(len(rank)) - starts(category) + 1
            precision = hits / (place + np.spacing(1))
            ap[t, has_boxes] = self._interpolate(precision, category, num_boxes)[has_boxes]
            for n, recall in recalls.items():
                num_found = np.bincount(category[rank < n], minlength=num_categories)
                recall[t, has_boxes] = num_found[has_boxes] / num_boxes[has_boxes]
        return ap, recalls

    @staticmethod
    def _interpolate(precision: np.ndarray, category: np.ndarray, num_boxes: np.ndarray) -> np.ndarray:
        """Mean precision at 101 recalls [E22, E23] -> (K,). precision, category: of the right detections, in order.

        Of one category with n boxes: recall r is reached by its hit number ceil(r n), and its precision there is the
        best of that hit and all later ones; 0 where so many were not found. Categories with equal n ask for the same
        hits, so they are done together.
        """
        num_categories = len(num_boxes)
        envelope = running_maximum_from_right(precision, category)
        begin = np.searchsorted(category, np.arange(num_categories))
        num_found = np.bincount(category, minlength=num_categories)
        result = np.zeros(num_categories)
        for n in np.unique(num_boxes[num_boxes > 0]):
            needed = np.searchsorted(np.arange(1, n + 1) / n, RECALLS, side="left")    # hits - 1 for each recall point
            chosen = np.flatnonzero((num_boxes == n) & (num_found > 0))
            for part in np.array_split(chosen, -(-len(chosen) // 4096)) if len(chosen) else []:
                there = needed[None, :] < num_found[part][:, None]
                at = np.where(there, begin[part][:, None] + needed[None, :], 0)
                result[part] = np.where(there, envelope[at], 0.0).mean(axis=1)
        return result

    def compute(self) -> dict[str, float]:
        """AP AP50 AP75 APs APm APl AR1 AR10 AR<max> ARs ARm ARl and AP_<group>, AP50_<group>: fractions, -1 where
        there is no box [E21, E25]."""
        self._ranked()
        self._pairs()
        self.matched = {}
        return self._results()

    def _results(self) -> dict[str, float]:
        results: dict[str, float] = {}
        recall_results: dict[str, float] = {}
        for suffix, area in self.areas.items():
            ap, recalls = self._curves(area)
            results[f"AP{suffix}"] = mean(ap)
            if suffix:
                recall_results[f"AR{suffix}"] = mean(recalls[self.recall_at[-1]])
            else:
                results |= {"AP50": mean(ap[0]), "AP75": mean(ap[5])}
                recall_results |= {f"AR{n}": mean(recall) for n, recall in recalls.items()}
                self.per_category = ap                                                 # (T, K)
        results |= recall_results
        return results | self._group_results()

    def _group_results(self) -> dict[str, float]:
        """AP_<group> and AP50_<group>: means over the categories of each group of one joint run [E34]."""
        return {f"{key}_{name}": mean(self.per_category[rows, members]) for name, members in self.gt.groups.items()
                for key, rows in (("AP", slice(None)), ("AP50", 0))}

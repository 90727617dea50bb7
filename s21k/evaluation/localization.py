"""Plain twin: plain_localization in s21k/evaluation/plain.py; read it first.

Localization accuracy of Sec. 4.3 [P73, P74, P83, E38-E44, G27], for images of one category each.

An answer is right when its category is the image's and its box has IoU > 0.5 with one of the
image's boxes ("over 50%"); at_least: IoU >= 0.5, the rule of ILSVRC's kit and wsolevaluation [E42].
"""
from typing import TYPE_CHECKING

import numpy as np

from s21k.core.errors import InputError
from s21k.core.packed import ranges
from s21k.evaluation.columns import DetectionColumns, Noted
from s21k.evaluation.ground_truth import GroundTruth, iou_xywh, xyxy_to_xywh
from s21k.evaluation.sorting import starts, then_by

if TYPE_CHECKING:                                   # scoring a file imports no torch
    from s21k.core.structures import Prediction

KEYS = ("top1", "top5", "top5_classes", "gt_known", "has_gt_class_det", "cls_top1", "cls_top5")


class LocalizationAccuracy:
    """Counts only: right answers of each kind, for all images and for each group of categories.

    top1              the single best (region, category)
    top5              any of the five best detections after NMS: categories may repeat [P83]
    top5_classes      the best box of each of the five best categories
    gt_known          the best box of the image's own category [P74], however low its score
    has_gt_class_det  the image's category is among the detections kept
    cls_top1, cls_top5   the category alone is right: of the best, of the five best categories
    """

    def __init__(self, gt: GroundTruth, iou_threshold: float = 0.5, at_least: bool = False,
                 leave_out_several: bool = False) -> None:
        """InputError: an image has boxes of more than one category [E44]; leave_out_several: it is not counted."""
        self.gt, self.iou_threshold, self.at_least = gt, iou_threshold, at_least
        usable = np.flatnonzero(~gt.crowd)
        order = usable[np.argsort(gt.image[usable], kind="stable")]
        self.image_category = np.full(len(gt.image_ids), -1, dtype=np.int32)
        self.image_category[gt.image[order]] = gt.category[order]
        several = gt.image[order][self.image_category[gt.image[order]] != gt.category[order]]
        if len(several) and not leave_out_several:
            raise InputError(f"{gt.path}: image {gt.image_ids[several[0]]} has boxes of several categories: "
                             f"localization accuracy needs one")
        self.image_category[several] = -1
        order = order[~np.isin(gt.image[order], several)]
        self.boxes = gt.boxes[order]
        self.offsets = np.searchsorted(gt.image[order], np.arange(len(gt.image_ids) + 1))
        self.group_names = list(gt.groups)
        self.counts = np.zeros((1 + len(gt.groups), len(KEYS)), dtype=np.int64)

    def right_boxes(self, image: int, boxes: np.ndarray) -> np.ndarray:
        """boxes (n, 4) xyxy -> (n,) bool: IoU over the threshold with one of the image's boxes."""
        return self._right_pairs(np.full(len(boxes), image), xyxy_to_xywh(boxes))

    def update(self, image_id: int, prediction: "Prediction") -> None:
        """One image; boxes in the pixels of the original image. Images without boxes are not counted [E38]."""
        self.add_hits(np.array([self.gt.image_position(image_id)]), self.note(image_id, prediction)[None])

    def note(self, image_id: int, prediction: "Prediction") -> np.ndarray:
        """(len(KEYS),) bool: in which way one image is right, of all its scores; nothing of an image without boxes or
        regions."""
        image = self.gt.image_position(image_id)
        truth = int(self.image_category[image])
        if truth < 0 or len(prediction.regions.boxes) == 0:
            return np.zeros(len(KEYS), dtype=bool)
        regions, five, best = prediction.regions, prediction.five_best, prediction.five_categories
        scores = regions.of(truth)
        first = (scores == scores.amax()).nonzero()[0]                   # of equal scores the lower region
        boxes = [boxes.cpu().numpy() for boxes in (best.boxes, regions.boxes[first], five.boxes)]
        right = self.right_boxes(image, np.concatenate(boxes))
        num = len(best.labels)
        of_truth = best.labels.cpu().numpy() == truth
        is_right = {"top1": of_truth[0] and right[0],
                    "top5": (right[num + 1:] & (five.labels.cpu().numpy() == truth)).any(),
                    "top5_classes": (right[:num] & of_truth).any(), "gt_known": right[num],
                    "has_gt_class_det": bool((prediction.detections.labels == truth).any()), "cls_top1": of_truth[0],
                    "cls_top5": of_truth.any()}
        return np.array([is_right[key] for key in KEYS], dtype=bool)

    def add_all(self, found: DetectionColumns, noted: Noted | None = None) -> None:
        """All detections of many images at once, with positions in place of ids. Of equal scores the first in the file
        [E39]. The figures of `note` where nothing was cut off; where there are noted rows, they are taken in place of
        the detections."""
        if noted is not None:
            return self.add_hits(*noted)
        num_images, num_categories = len(self.gt.image_ids), len(self.gt.category_ids)
        order = then_by(found.image, found.by_score)                     # image after image, the best first
        count = np.bincount(found.image, minlength=num_images)
        begin = np.cumsum(count) - count                                 # of each image
        truth = self.image_category[found.image]
        near = np.flatnonzero(((found.category == truth) & (truth >= 0))[order])     # the others cannot be right
        row = order[near]
        image, rank = found.image[row], near - begin[found.image[row]]
        best = starts(image) == np.arange(len(image))                    # the best box of the image's category
        # How many other categories are better: those of all that come before it.
        before = order[ranges(begin[image[best]], rank[best])]
        cells = np.unique(found.image[before].astype(np.int64) * num_categories + found.category[before])
        class_rank = np.bincount(cells // num_categories, minlength=num_images)[image]
        right = np.zeros(len(near), dtype=bool)
        asked = np.flatnonzero(best | (rank < 5))
        right[asked] = self._right_pairs(image[asked], found.boxes[row[asked]].astype(np.float64))
        marks = {"top1": right & (rank == 0), "top5": right & (rank < 5),
                 "top5_classes": right & best & (class_rank < 5),
                 "gt_known": right & best, "has_gt_class_det": np.ones(len(near), dtype=bool), "cls_top1": rank == 0,
                 "cls_top5": best & (class_rank < 5)}
        hits = np.zeros((num_images, len(KEYS)), dtype=bool)
        for column, key in enumerate(KEYS):
            hits[image[marks[key]], column] = True
        self.add_hits(np.arange(len(hits)), hits)

    def add_hits(self, image: np.ndarray, hits: np.ndarray) -> None:
        """Count images at positions (n,) with hits (n, len(KEYS)) bool. Each image is to be counted once."""
        category = self.image_category[image]
        self.counts[0] += hits[category >= 0].sum(axis=0)
        for position, name in enumerate(self.group_names, start=1):
            member = (category >= 0) & self.gt.groups[name][category]
            self.counts[position] += hits[member].sum(axis=0)

    def _right_pairs(self, image: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """boxes (N, 4) [x, y, w, h], each on its image (N,) with at least one true box -> (N,) bool."""
        count = self.offsets[image + 1] - self.offsets[image]
        begin = np.cumsum(count) - count
        within = np.arange(count.sum()) - np.repeat(begin, count)
        iou = iou_xywh(np.repeat(boxes, count, axis=0), self.boxes[np.repeat(self.offsets[image], count) + within])
        best = np.maximum.reduceat(iou, begin) if len(iou) else np.zeros(0)
        return best >= self.iou_threshold if self.at_least else best > self.iou_threshold

    def compute(self) -> dict[str, float]:
        """Shares of the images that have a box: the KEYS and "images"; KEY_<group> for each group. -1 without
        images."""
        seen = self.image_category[self.image_category >= 0]
        results: dict[str, float] = {}
        for position, name in enumerate(["", *self.group_names]):
            total = len(seen) if not name else int(self.gt.groups[name][seen].sum())
            suffix = f"_{name}" if name else ""
            for key, count in zip(KEYS, self.counts[position]):
                results[key + suffix] = float(count / total) if total else -1.0
            results["images" + suffix] = total
        return results


def box_baselines(metric: LocalizationAccuracy) -> dict[str, float]:
    """GT-Known of two baselines that ignore the image, by the metric's own rule, for all and for each group.

    gt_known_whole_image: the box is the image. gt_known_centred_box: it is centred; its width and
    height are those shares of the image's (0.3, 0.325, .. 1) that are best for all images together.
    """
    images = np.flatnonzero(metric.image_category >= 0)
    begin = metric.offsets[images]
    owner = np.repeat(images, metric.offsets[images + 1] - begin)                      # the image of each box
    sides = metric.gt.sizes[owner][:, ::-1].astype(np.float64)                         # (w, h)
    begin = np.searchsorted(owner, images)

    def right(share: tuple[float, float]) -> np.ndarray:
        answer = np.concatenate([sides * (1 - np.array(share)) / 2, sides * share], axis=1)
        best = np.maximum.reduceat(iou_xywh(answer, metric.boxes), begin)
        return best >= metric.iou_threshold if metric.at_least else best > metric.iou_threshold

    shares = [0.3 + 0.025 * i for i in range(29)]
    centred = max((right((w, h)) for w in shares for h in shares), key=lambda hits: hits.sum())
    results = {}
    for name, hits in (("gt_known_whole_image", right((1.0, 1.0))), ("gt_known_centred_box", centred)):
        for group in ["", *metric.group_names]:
            members = hits[metric.gt.groups[group][metric.image_category[images]]] if group else hits
            results[f"{name}_{group}" if group else name] = float(members.mean()) if len(members) else -1.0
    return results

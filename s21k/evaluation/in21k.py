"""The 21,000-category benchmark's report (Sec. 4.3, 4.4) [P44, P83, P85]: AP, federated AP and localization accuracy in
one pass.

Its images are annotated for one category each. The paper's text does not say how AP treats what was found of
other categories [G28]; both readings are reported, and the protocol is printed above the figures.
"""
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from s21k.core.errors import InputError
from s21k.evaluation.average_precision import AREAS, AveragePrecision
from s21k.evaluation.columns import DetectionColumns, Noted, best_of_each, most_of_an_image
from s21k.evaluation.ground_truth import GroundTruth
from s21k.evaluation.localization import LocalizationAccuracy

if TYPE_CHECKING:                                   # scoring a file imports no torch
    from s21k.core.structures import Prediction

PROTOCOL = """AP, AP50, AP75: COCO's definition, boxes, all images, the best {most} detections of each image over all
  categories; detections of a category other than the image's count as wrong. Images are not annotated exhaustively, so
  this is a lower bound.
AP_fed, ..: only detections of the image's own category count: localization and ranking, blind to classification errors.
Localization: IoU {rule} {threshold:g} with a box of the image's category; has_gt_class_det: the category is
  among the detections."""


class BenchmarkPrecision(AveragePrecision):
    """Without size ranges."""
    areas = {"": AREAS[""]}

    def own_category_only(self) -> dict[str, float]:
        """After compute: the same where detections of a category that has no box in their image do not count at all."""
        self.excused = np.ones(len(self.excused), dtype=bool)
        self.excused[self.near] = False
        return self._results()


class In21kReport:
    """AP AP50 AP75, the same with _fed, localization accuracy, and truncated_images: how many had more than
    max_detections."""

    def __init__(self, gt: GroundTruth, max_detections: int = 100, iou_threshold: float = 0.5,
                 at_least: bool = False) -> None:
        if "fed" in gt.groups:
            raise InputError("a group named fed would hide AP_fed")
        self.max_detections = max_detections
        self.localization = LocalizationAccuracy(gt, iou_threshold, at_least)
        self.precision = BenchmarkPrecision(gt, max_detections)
        self.truncated = 0
        self.protocol = PROTOCOL.format(most=max_detections, rule=">=" if at_least else ">", threshold=iou_threshold)

    def update(self, image_id: int, prediction: "Prediction") -> None:
        """One image, as a detector sees it: the image's own category is asked for, however low its score [P74]."""
        position = self.localization.gt.image_position(image_id)
        self.add_all(DetectionColumns.of(position, prediction.detections),
                     (np.array([position]), self.note(image_id, prediction)[None]))

    def note(self, image_id: int, prediction: "Prediction") -> np.ndarray:
        """As LocalizationAccuracy's, of the best max_detections."""
        best = range(min(len(prediction.detections.scores), self.max_detections))
        return self.localization.note(image_id, replace(prediction, detections=prediction.detections.pick(list(best))))

    def add_all(self, found: DetectionColumns, noted: Noted | None = None) -> None:
        """All detections of many images, with positions in place of ids; known categories only. noted: as
        LocalizationAccuracy's."""
        if most_of_an_image(found) > self.max_detections:
            self.truncated += int((np.bincount(found.image) > self.max_detections).sum())
            found = found.take(np.flatnonzero(best_of_each(found.image, found, self.max_detections)))
        self.localization.add_all(found, noted)
        self.precision.add_all(found)

    def compute(self) -> dict[str, float]:
        """Fractions; also AP_<group>, AP50_<group> and <key>_<group>."""
        names = ("AP", "AP50", "AP75")
        exhaustive = self.precision.compute()
        self.per_category = self.precision.per_category
        own_only = self.precision.own_category_only()
        grouped = {key: value for key, value in exhaustive.items() if key.startswith(("AP_", "AP50_"))}
        return ({name: exhaustive[name] for name in names} | {f"{name}_fed": own_only[name] for name in names} | grouped
                | self.localization.compute() | {"truncated_images": self.truncated})

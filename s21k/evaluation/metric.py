"""What evaluate.py asks of a metric. To add one: its class here in evaluation/, and its row in evaluate.METRICS."""
from typing import TYPE_CHECKING, Protocol

import numpy as np

from s21k.evaluation.columns import DetectionColumns, Noted

if TYPE_CHECKING:                                   # scoring a file imports no torch
    from s21k.core.structures import Prediction


class Metric(Protocol):
    """Made with a GroundTruth. Every process calls `note` for its images; one then calls `add_all` and `compute`."""

    def note(self, image_id: int, prediction: "Prediction") -> np.ndarray | None:
        """What must be read while all scores of an image are at hand: a row of numbers, or None."""

    def add_all(self, found: DetectionColumns, noted: Noted | None = None) -> None:
        """The detections of many images, with positions of images and categories in place of ids; and their notes."""

    def compute(self) -> dict[str, float]:
        """name -> fraction, -1 where there is nothing to measure. `<name>_<group>` for the groups of the truth."""

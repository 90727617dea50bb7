"""Recall of the RPN's proposals: the share of the true boxes that one of the best proposals of their image covers.

What no proposal covers cannot be detected. The RPN learns from boxes of the detection data's categories alone.
"""
import numpy as np

from s21k.core.structures import Prediction
from s21k.evaluation.columns import DetectionColumns, Noted
from s21k.evaluation.ground_truth import GroundTruth, iou_xywh, xyxy_to_xywh


class ProposalRecall:
    """most: proposals of an image, the best by objectness. A box may be covered by a proposal that covers others, too;
    crowds are not counted. proposal_recall, and proposal_recall_<group> of boxes of each group's categories."""

    def __init__(self, gt: GroundTruth, most: int = 100, iou_threshold: float = 0.5) -> None:
        self.gt, self.most, self.iou_threshold = gt, most, iou_threshold
        self.members = np.stack([~gt.crowd, *(~gt.crowd & of_group[gt.category] for of_group in gt.groups.values())])
        self.names = ["proposal_recall", *(f"proposal_recall_{name}" for name in gt.groups)]
        self.counts = np.zeros(len(self.members), dtype=np.int64)

    def note(self, image_id: int, prediction: Prediction) -> np.ndarray:
        """(1 + groups,): how many boxes of the image are covered, of all and of each group."""
        rows = np.flatnonzero(self.gt.image == self.gt.image_position(image_id))
        proposals = xyxy_to_xywh(prediction.proposals[:self.most].cpu().numpy())
        covered = np.zeros(len(rows), dtype=bool)
        for place, row in enumerate(rows):
            truth = np.broadcast_to(self.gt.boxes[row], proposals.shape)
            covered[place] = (iou_xywh(proposals, truth) >= self.iou_threshold).any()
        return (self.members[:, rows] & covered).sum(axis=1)

    def update(self, image_id: int, prediction: Prediction) -> None:
        """One image, its proposals in the pixels of the original."""
        self.counts += self.note(image_id, prediction)

    def add_all(self, found: DetectionColumns, noted: Noted | None = None) -> None:
        """The notes of many images; the detections say nothing about proposals."""
        if noted is not None:
            self.counts += noted[1].sum(axis=0)

    def compute(self) -> dict[str, float]:
        """Of an image that could not be read there is no note: its boxes are not covered."""
        return {name: float(found / total) if total else -1.0
                for name, found, total in zip(self.names, self.counts, self.members.sum(axis=1))}

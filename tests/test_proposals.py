"""Recall of the proposals against a plain count, and localization on the images of one category among others."""
import json

import numpy as np
import pytest
import torch

from s21k.core.categories import CategoryMap
from s21k.core.errors import InputError
from s21k.core.structures import DenseScores, Detections, Prediction
from s21k.evaluation.columns import DetectionColumns
from s21k.evaluation.ground_truth import GroundTruth
from s21k.evaluation.localization import LocalizationAccuracy, box_baselines
from s21k.evaluation.plain import plain_iou
from s21k.evaluation.proposals import ProposalRecall


def load(tmp_path, annotations, images=6):
    """A ground truth of (image, category, box [x, y, w, h], crowd); categories 1 and 2, base and novel."""
    content = {"images": [{"id": i, "height": 100, "width": 100} for i in range(images)],
               "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
               "annotations": [{"id": n, "image_id": i, "category_id": c, "bbox": list(map(float, box)), "area": 9.0,
                                "iscrowd": crowd} for n, (i, c, box, crowd) in enumerate(annotations, start=1)]}
    (tmp_path / "gt.json").write_text(json.dumps(content))
    return GroundTruth.load(tmp_path / "gt.json", CategoryMap(["a", "b"], [None] * 2, ["base", "novel"],
                                                              torch.tensor([0, -1]), torch.tensor([0, 1])))


def prediction(proposals):
    nothing = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    return Prediction(DenseScores(torch.zeros(0, 4), torch.zeros(0, 2)), nothing, nothing, nothing, proposals=proposals)


def test_recall_is_the_share_of_boxes_that_a_proposal_covers(tmp_path):
    rng = np.random.default_rng(0)
    boxes = [(int(i), int(c), rng.uniform(10, 50, 4), int(rng.random() < 0.15))
             for i, c in zip(rng.integers(0, 5, 40), rng.integers(1, 3, 40))]
    gt = load(tmp_path, boxes)
    metric, whole, right, total = ProposalRecall(gt, most=12), ProposalRecall(gt, most=12), {}, {}
    ids, rows = [0, 1, 2, 3, 5], []                                      # image 4 could not be read
    for image in ids:
        near = [box for i, _, box, _ in boxes if i == image] or [np.full(4, 20.0)]
        xywh = np.array([near[k % len(near)] * rng.uniform(0.8, 1.25, 4) for k in range(20)])
        corners = torch.tensor(np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], 1))
        metric.update(image, prediction(corners))
        rows.append(whole.note(image, prediction(corners)))
        for i, c, box, crowd in boxes:
            if i == image and not crowd:
                covered = any(plain_iou(p, box) >= 0.5 for p in xywh[:12])
                for key in ("all", c):
                    right[key] = right.get(key, 0) + covered
    for _, c, _, crowd in boxes:
        for key in ("all", c):
            total[key] = total.get(key, 0) + (not crowd)
    expected = {"proposal_recall": right["all"] / total["all"], "proposal_recall_base": right[1] / total[1],
                "proposal_recall_novel": right[2] / total[2]}
    whole.add_all(DetectionColumns.join([]), (np.array(ids), np.stack(rows)))
    assert metric.compute() == expected == whole.compute() and 0.1 < expected["proposal_recall"] < 0.9


def test_proposals_are_moved_into_the_image_with_the_boxes():
    moved = prediction(torch.tensor([[10.0, 20, 30, 40]])).in_image((2.0, 4.0), (50, 50))
    assert moved.proposals.tolist() == [[5, 5, 15, 10]]
    without = Prediction(moved.regions, moved.detections, moved.five_best, moved.five_categories)
    assert without.in_image((1.0, 1.0), (5, 5)).proposals is None


def test_images_of_several_categories_are_left_out_where_asked(tmp_path):
    """Figures and baselines are those of a file with the other images alone."""
    rng = np.random.default_rng(0)
    mixed = [(4, 1, (10, 10, 30, 30), 0), (4, 2, (20, 20, 60, 60), 0), (5, 2, (0, 0, 50, 50), 0),
             (5, 1, (10, 10, 30, 30), 0)]
    alone = [(i, 1 + i % 2, rng.uniform(10, 60, 4), 0) for i in (0, 1, 2, 3, 0)]
    gt = load(tmp_path, [*mixed[:2], *alone, *mixed[2:]])
    with pytest.raises(InputError, match="image 4 has boxes of several categories"):
        LocalizationAccuracy(gt)
    some, only = LocalizationAccuracy(gt, leave_out_several=True), LocalizationAccuracy(load(tmp_path, alone))
    found = DetectionColumns(np.array([0, 1, 2, 3, 4, 5]), np.array([0, 1, 0, 0, 0, 1]), np.linspace(0.9, 0.4, 6),
                             np.array([alone[0][2], alone[1][2], alone[2][2], alone[3][2], [10, 10, 30, 30],
                                       [0, 0, 50, 50]]))
    some.add_all(found)
    only.add_all(found.take(np.arange(4)))
    assert some.compute() == only.compute() and some.compute()["images"] == 4 and some.compute()["top1"] == 0.75
    assert box_baselines(some) == box_baselines(only)

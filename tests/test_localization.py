"""Localization accuracy on images drawn here, and its invariants."""
import json

import numpy as np
import pytest
import torch

from s21k.core.categories import CategoryMap
from s21k.core.errors import InputError
from s21k.core.structures import DenseScores, Prediction
from s21k.evaluation.ground_truth import GroundTruth
from s21k.evaluation.localization import LocalizationAccuracy, box_baselines
from s21k.models.postprocess import Ranking, best_categories, postprocess


def truth(tmp_path, boxes, labels, size=100, groups=("base", "novel", "novel")):
    """One image a list of boxes (xywh), its label; three categories a, b, c."""
    content = {"images": [{"id": i, "width": size, "height": size, "file_name": "x"} for i in range(len(boxes))],
               "categories": [{"id": c + 1, "name": n} for c, n in enumerate("abc")], "annotations": []}
    for i, (image_boxes, label) in enumerate(zip(boxes, labels)):
        for box in image_boxes:
            content["annotations"].append({"id": len(content["annotations"]) + 1, "image_id": i,
                                           "category_id": label + 1, "bbox": box, "area": 1.0})
    path = tmp_path / "gt.json"
    path.write_text(json.dumps(content))
    categories = CategoryMap(list("abc"), [None] * 3, list(groups), torch.arange(3), torch.arange(3))
    return GroundTruth.load(path, categories)


def predict(boxes, scores, threshold=1e-4):
    regions = DenseScores(torch.tensor(boxes, dtype=torch.float32), torch.tensor(scores))
    ranking = Ranking(regions)
    return Prediction(regions, postprocess(ranking, threshold, 0.5, 100), postprocess(ranking, -1.0, 0.5, 5),
                      best_categories(ranking, 5))


GOOD, BAD = [10.0, 10.0, 50.0, 50.0], [60.0, 60.0, 90.0, 90.0]
TRUE_BOX = [10.0, 10.0, 40.0, 40.0]                                           # GOOD as xywh


def test_right_class_and_box_counts_everywhere(tmp_path):
    """P73."""
    metric = LocalizationAccuracy(truth(tmp_path, [[TRUE_BOX]], [0]))
    metric.update(0, predict([GOOD, BAD], [[0.9, 0.1, 0.1], [0.2, 0.1, 0.1]]))
    results = metric.compute()
    assert all(results[key] == 1
               for key in ("top1", "top5", "top5_classes", "gt_known", "cls_top1", "cls_top5", "top1_base"))
    assert results["images"] == 1 and results["top1_novel"] == -1


def test_gt_known_needs_the_box_of_the_true_class_only(tmp_path):
    """P74 on two boxes: class b is far better overall, but the best box of the true class a is right."""
    metric = LocalizationAccuracy(truth(tmp_path, [[TRUE_BOX]], [0]))
    metric.update(0, predict([GOOD, BAD], [[0.30, 0.5, 0.0], [0.2, 0.9, 0.0]]))
    results = metric.compute()
    assert results["gt_known"] == 1 and results["top1"] == 0 and results["cls_top1"] == 0
    assert results["top5_classes"] == 1


def test_gt_known_is_unaffected_by_the_threshold(tmp_path):
    """T9, G27: the true class's scores are far below it."""
    for threshold in (1e-4, 0.5):
        metric = LocalizationAccuracy(truth(tmp_path, [[TRUE_BOX]], [0]))
        metric.update(0, predict([GOOD, BAD], [[1e-6, 0.9, 0.0], [1e-7, 0.9, 0.0]], threshold))
        results = metric.compute()
        assert results["gt_known"] == 1 and results["has_gt_class_det"] == 0


def test_top5_detections_may_find_a_second_box_of_the_class_that_top5_classes_may_not(tmp_path):
    """P83, E41: five detections with repeated classes can be right where the class's best box is wrong."""
    metric = LocalizationAccuracy(truth(tmp_path, [[TRUE_BOX]], [0]))
    metric.update(0, predict([BAD, GOOD], [[0.9, 0.1, 0.1], [0.8, 0.1, 0.1]]))
    results = metric.compute()
    assert results["top5"] == 1 and results["top5_classes"] == 0 and results["gt_known"] == 0


def test_exactly_half_is_not_over_half_but_is_at_least_half(tmp_path):
    """P73, E42: IoU exactly 0.5."""
    gt = truth(tmp_path, [[[0.0, 0.0, 40.0, 40.0]]], [0])
    half = [[0.0, 0.0, 20.0, 40.0]]
    for at_least, expected in ((False, 0), (True, 1)):
        metric = LocalizationAccuracy(gt, at_least=at_least)
        metric.update(0, predict(half, [[0.9, 0.1, 0.1]]))
        assert metric.compute()["top1"] == expected


def test_any_of_several_boxes_will_do_and_images_without_boxes_do_not_count(tmp_path):
    """E38."""
    metric = LocalizationAccuracy(truth(tmp_path, [[[60.0, 60.0, 30.0, 30.0], TRUE_BOX], [], [TRUE_BOX]], [0, 0, 1]))
    metric.update(0, predict([GOOD], [[0.9, 0.1, 0.1]]))
    metric.update(1, predict([GOOD], [[0.9, 0.1, 0.1]]))
    results = metric.compute()                                                  # image 2 was never answered: wrong
    assert results["images"] == 2 and results["top1"] == 0.5


def test_two_categories_in_an_image_are_refused(tmp_path):
    """E44."""
    gt = truth(tmp_path, [[TRUE_BOX, BAD]], [0])
    gt.category[1] = 1
    with pytest.raises(InputError, match="image 0 has boxes of several categories"):
        LocalizationAccuracy(gt)


def test_figures_are_ordered_and_do_not_depend_on_sharding(tmp_path):
    """Top-1 <= top5_classes <= GT-Known always [E41]."""
    rng = np.random.default_rng(0)
    boxes = [[[float(v) for v in (*rng.integers(0, 40, 2), *rng.integers(20, 60, 2))]] for _ in range(40)]
    gt = truth(tmp_path, boxes, rng.integers(0, 3, 40).tolist())
    whole, parts, noted = LocalizationAccuracy(gt), LocalizationAccuracy(gt), []
    for i in range(40):
        x, y, w, h = boxes[i][0]
        near = [[x + d, y, x + w, y + h] for d in rng.integers(-10, 30, 6)]
        prediction = predict(near, rng.random((6, 3)).astype(np.float32).tolist())
        whole.update(i, prediction)
        noted.append(whole.note(i, prediction))
    for part in (range(0, 40, 3), range(2, 40, 3), range(1, 40, 3)):
        parts.add_all(None, (np.array(part), np.array([noted[i] for i in part])))
    results = whole.compute()
    assert results == parts.compute()
    assert 0 < results["top1"] <= results["top5_classes"] <= results["gt_known"] < 1


def test_baselines_on_two_drawn_images(tmp_path):
    """The whole image fits image 0 only; a centred box of 70 % fits both (IoU 0.67 and 0.73)."""
    metric = LocalizationAccuracy(truth(tmp_path, [[[0.0, 0.0, 90.0, 80.0]], [[15.0, 15.0, 60.0, 62.0]]], [0, 1]))
    results = box_baselines(metric)
    assert results["gt_known_whole_image"] == 0.5 and results["gt_known_whole_image_novel"] == 0
    assert results["gt_known_centred_box"] == 1

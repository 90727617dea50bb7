"""The scoring command: the same figures as pycocotools and as evaluate.py's own counting; bad files in one line."""
import json

import numpy as np
import pytest
import torch

from s21k.evaluation.ground_truth import GroundTruth
from s21k.evaluation.localization import LocalizationAccuracy
from s21k.models.postprocess import postprocess
from s21k.structures import Prediction, RegionScores
from tests.test_average_precision import KEYS, pycocotools_stats, random_detections, random_truth
from tests.toy import run


def score(tmp_path, *argv):
    done = run("s21k.evaluation.score", "--annotations", str(tmp_path / "gt.json"), "--out", str(tmp_path / "m.json"), *argv, module=True)
    return done, json.loads((tmp_path / "m.json").read_text()) if done.returncode == 0 else None


def test_json_and_npz_give_pycocotools_figures(tmp_path):
    rng = np.random.default_rng(5)
    truth = random_truth(rng, images=8, categories=5)
    rows = random_detections(rng, truth)
    rows.append({"image_id": 10, "category_id": 999, "bbox": [0, 0, 5, 5], "score": 0.9})          # unknown: dropped (E2)
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    (tmp_path / "d.json").write_text(json.dumps(rows))
    np.savez(tmp_path / "d.npz", **{k: np.array([r[k] for r in rows]) for k in ("image_id", "category_id", "score", "bbox")})
    stats = pycocotools_stats(tmp_path / "gt.json", rows).stats
    (tmp_path / "groups.json").write_text(json.dumps({"base": [1, 4], "novel": [7]}))
    for name in ("d.json", "d.npz"):
        done, results = score(tmp_path, "--metric", "coco", "--detections", str(tmp_path / name), "--groups", str(tmp_path / "groups.json"), "--per-category")
        assert done.returncode == 0, done.stderr
        assert [results[key] for key in KEYS] == pytest.approx(list(stats), abs=1e-9)
        assert {"AP_base", "AP50_novel"} <= results.keys() and len(results["per_category"]) == 5


def test_localization_from_a_file_equals_counting_image_by_image(tmp_path):
    """On an uncapped file of the same detections, exactly; also with ties and several true boxes."""
    rng = np.random.default_rng(1)
    images, categories = 60, 6
    truth = {"images": [{"id": i, "width": 100, "height": 100, "file_name": "x"} for i in range(images)],
             "categories": [{"id": c + 1, "name": str(c)} for c in range(categories)], "annotations": []}
    columns = {"image_id": [], "category_id": [], "score": [], "bbox": []}
    predictions = []
    for i in range(images):
        label = int(rng.integers(0, categories))
        boxes = np.concatenate([rng.integers(0, 40, (3, 2)), rng.integers(20, 50, (3, 2))], 1).astype(float)
        for box in boxes[:rng.integers(0, 3)]:
            truth["annotations"].append({"id": len(truth["annotations"]) + 1, "image_id": i, "category_id": label + 1, "bbox": box.tolist(), "area": 1})
        near = boxes[rng.integers(0, 3, 10)] + rng.integers(-8, 9, (10, 4))
        near = np.concatenate([near[:, :2], near[:, :2] + near[:, 2:].clip(5)], 1)
        scores = (rng.random((10, categories)) * 20).round() / 20 if i % 2 else rng.random((10, categories))
        regions = RegionScores(torch.tensor(near), torch.tensor(scores))
        every = postprocess(regions, -1.0, 0.5, -1)
        predictions.append(Prediction(regions, every, postprocess(regions, -1.0, 0.5, 5)))
        xywh = torch.cat([every.boxes[:, :2], every.boxes[:, 2:] - every.boxes[:, :2]], 1)
        columns["image_id"] += [i] * len(xywh)
        columns["category_id"] += (every.labels + 1).tolist()
        columns["score"] += every.scores.tolist()
        columns["bbox"] += xywh.tolist()
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    np.savez(tmp_path / "d.npz", **{k: np.array(v) for k, v in columns.items()})
    for flags, at_least in (([], False), (["--iou-at-least"], True)):
        metric = LocalizationAccuracy(GroundTruth.load(tmp_path / "gt.json"), at_least=at_least)
        for i, prediction in enumerate(predictions):
            metric.update(i, prediction)
        done, results = score(tmp_path, "--metric", "loc", "--detections", str(tmp_path / "d.npz"), *flags)
        assert done.returncode == 0, done.stderr
        assert results == metric.compute() and 0 < results["top1"] < results["gt_known"] < 1


@pytest.mark.parametrize("content, says", [
    ("{", "cannot be read as JSON"), ("{}", "expected a list"), ('[{"image_id": 10}]', "detection 0 is"),
    ('[{"image_id": 10, "category_id": 1, "score": NaN, "bbox": [0, 0, 1, 1]}]', "detection 0: score is not finite"),
    ('[{"image_id": 10, "category_id": 1, "score": 1, "bbox": [0, 0, 1, "1"]}]', "detection 0 is"),
    ('[{"image_id": 12345, "category_id": 1, "score": 1, "bbox": [0, 0, 1, 1]}]', "on image 12345, which is not in")])
def test_a_malformed_file_is_one_line_naming_the_entry(tmp_path, content, says):
    (tmp_path / "gt.json").write_text(json.dumps(random_truth(np.random.default_rng(0))))
    (tmp_path / "d.json").write_text(content)
    done, _ = score(tmp_path, "--metric", "coco", "--detections", str(tmp_path / "d.json"))
    assert done.returncode == 2 and says in done.stderr and done.stderr.count("\n") == 1


def test_a_pickled_npz_is_refused(tmp_path):
    (tmp_path / "gt.json").write_text(json.dumps(random_truth(np.random.default_rng(0))))
    np.savez(tmp_path / "d.npz", **{k: np.array([{}], dtype=object) for k in ("image_id", "category_id", "score", "bbox")})
    done, _ = score(tmp_path, "--metric", "coco", "--detections", str(tmp_path / "d.npz"))
    assert done.returncode == 2 and "without pickled objects" in done.stderr

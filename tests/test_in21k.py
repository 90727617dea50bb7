"""The benchmark's report: each part against pycocotools or the localization accuracy on its own."""
import json
import subprocess
import sys

import numpy as np
import pytest

from s21k.core.errors import InputError
from s21k.evaluation.columns import DetectionColumns, best_of_each
from s21k.evaluation.detections_file import locate, read_detections
from s21k.evaluation.ground_truth import GroundTruth
from s21k.evaluation.in21k import In21kReport
from s21k.evaluation.localization import KEYS, LocalizationAccuracy
from s21k.evaluation.sorting import index_of, is_in, stable_order, then_by
from tests.bench import scoring
from tests.test_average_precision import pycocotools_stats, random_detections, random_truth
from tests.toy import ROOT, run


def benchmark(seed, per_image):
    """Images of one category each, detections of any, some unknown, ties among the scores."""
    rng = np.random.default_rng(seed)
    truth = random_truth(rng, images=12, categories=5, crowds=False)
    first = {a["image_id"]: a["category_id"] for a in reversed(truth["annotations"])}
    for annotation in truth["annotations"]:
        annotation["category_id"] = first[annotation["image_id"]]
    rows = random_detections(rng, truth, per_image)
    rows += [{"image_id": 10, "category_id": 999, "bbox": [0, 0, 5, 5], "score": 0.95} for _ in range(150)]
    return truth, rows


def best_100(rows):
    """Slowly: the best 100 of each image after unknown categories are dropped; of equals the first in the file."""
    kept = []
    for image in sorted({row["image_id"] for row in rows}):
        mine = [row for row in rows if row["image_id"] == image and row["category_id"] != 999]
        kept += sorted(mine, key=lambda row: -row["score"])[:100]
    return kept


@pytest.mark.parametrize("seed", range(12))
def test_every_part_of_the_report_equals_its_oracle(tmp_path, seed):
    """G28: every detection counts in AP, those of the image's own category alone in AP_fed."""
    truth, rows = benchmark(seed, per_image=300 if seed % 2 else 60)
    path, saved = tmp_path / "gt.json", tmp_path / "d.json"
    path.write_text(json.dumps(truth))
    saved.write_text(json.dumps(rows))
    gt = GroundTruth.load(path)
    found = locate(read_detections(saved), gt)
    report = In21kReport(gt)
    for number in range(3):                              # as several parts of an evaluation
        report.add_all(found.take(np.flatnonzero(found.image % 3 == number)))
    results = report.compute()
    kept = best_100(rows)
    own = {a["image_id"]: a["category_id"] for a in truth["annotations"]}
    for suffix, part in (("", kept), ("_fed", [row for row in kept if own.get(row["image_id"]) == row["category_id"]])):
        expected = pycocotools_stats(path, part).stats
        assert [results[name + suffix] for name in ("AP", "AP50", "AP75")] == pytest.approx(list(expected[:3]),
                                                                                            abs=1e-9)
    saved.write_text(json.dumps(kept))
    alone = LocalizationAccuracy(gt)
    alone.add_all(locate(read_detections(saved), gt))
    assert {key: results[key] for key in (*KEYS, "images")} == alone.compute()
    per_image = np.bincount(found.image)
    assert results["truncated_images"] == (per_image > 100).sum() and (seed % 2 == 0 or results["truncated_images"] > 0)
    done = run("s21k.evaluation.score", "--metric", "in21k", "--annotations", str(path), "--detections", str(saved),
               "--out", str(tmp_path / "m.json"), module=True)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "m.json").read_text()) == pytest.approx(results | {"truncated_images": 0}, abs=1e-12)
    assert "lower bound" in done.stdout and "IoU > 0.5" in done.stdout


def test_stable_order_is_lexsort():
    """Equals keep their place [E11]."""
    rng = np.random.default_rng(0)
    for n in (0, 1, 2, 50, 3000):
        keys = [rng.integers(-5, 5, n), rng.integers(0, 1 << 40, n),
                rng.choice([0.0, -0.0, 0.5, -0.25, 1e-30, -7.0], n), rng.normal(size=n),
                rng.normal(size=n).astype(np.float32), rng.integers(0, 70000, n).astype(np.int32), np.arange(n) // 7,
                np.sort(rng.normal(size=n))]
        for _ in range(30):
            chosen = [keys[i] for i in rng.integers(0, len(keys), rng.integers(1, 4))]
            assert np.array_equal(stable_order(*chosen), np.lexsort(chosen))


def test_sorting_on_keeps_the_order_of_equals_and_the_choice():
    """By the slow way: Python's sort of the positions chosen, which is stable."""
    rng = np.random.default_rng(1)
    extremes = np.array([np.iinfo(np.int64).min, -1, 0, 1, np.iinfo(np.int64).max])
    for key in (rng.integers(0, 4, 60).astype(np.uint8), rng.choice(extremes, 60), rng.integers(-9, 9, 60) * 10**9,
                rng.choice([-1e300, 1e300, 0.1, -0.0, 0.0], 60),
                rng.choice([-2.5, 0.5, -0.0, 0], 60).astype(np.float16)):
        order = rng.permutation(60)[:rng.integers(0, 60)]
        assert then_by(key, order).tolist() == sorted(order.tolist(), key=lambda i: key[i])  # noqa: B023
        assert then_by(key).tolist() == sorted(range(60), key=lambda i: key[i])              # noqa: B023


@pytest.mark.parametrize("ids", [[], [5], [3, 4, 4, 9], [-7, 0, 2**40], [-2**63, 2**63 - 1], [2**63 - 2, 2**63 - 1]])
def test_index_of_is_the_first_place_or_minus_one(ids):
    values = [*ids, *(i + 1 for i in ids if i < 2**63 - 1), *(i - 1 for i in ids if i > -2**63), 0, -2**63, 2**63 - 1]
    expected = [ids.index(value) if value in ids else -1 for value in values]
    found = index_of(np.array(values, dtype=np.int64), np.array(ids, dtype=np.int64))
    assert found.tolist() == expected


def test_the_best_of_each_group_are_those_of_the_slow_way():
    rng = np.random.default_rng(2)
    for most in (1, 3):
        scores, group, image = rng.choice([0.1, 0.5, 0.5, 0.9], 80), rng.integers(0, 9, 80), rng.integers(0, 5, 80)
        found = DetectionColumns(image, group, scores, np.zeros((80, 4)))
        assert found.by_score.tolist() == sorted(range(80), key=lambda i: (-scores[i], image[i], i))  # noqa: B023
        kept = best_of_each(image, found, most)
        for i in range(80):
            better = sum((scores[j], -j) > (scores[i], -i) for j in range(80) if image[j] == image[i])
            assert kept[i] == (better < most)


def test_scoring_a_file_imports_no_torch(tmp_path):
    """It would be the longest part of scoring a small one."""
    truth, rows = benchmark(0, per_image=30)
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    (tmp_path / "d.json").write_text(json.dumps(rows))
    code = ("import sys; from s21k.evaluation.score import main; main(sys.argv[1:]); "
            "print('imported', sorted({'torch', 'torchvision'} & set(sys.modules)))")
    for metric in ("coco", "in21k"):
        argv = ["--annotations", str(tmp_path / "gt.json"), "--detections", str(tmp_path / "d.json")]
        done = subprocess.run([sys.executable, "-c", code, "--metric", metric, *argv], cwd=ROOT, capture_output=True,
                              text=True)
        assert done.returncode == 0 and done.stdout.endswith("imported []\n"), done.stdout + done.stderr


def test_the_bench_scores_beside_its_floor_and_checks_against_pycocotools(tmp_path, capsys, monkeypatch):
    """On a small world: lines as they come, the result as JSON."""
    monkeypatch.chdir(ROOT)
    small = ["--images", "80", "--categories", "25", "--out", str(tmp_path)]
    for part in ("score", "check"):
        scoring.main([part, *small, "--all", "--json", str(tmp_path / f"{part}.result")])
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("about") and [line.split(":")[0] for line in out[2:5]] == ["floor", "detections.npz",
                                                                                      "detections.json"]
    floor, of_npz, _ = json.loads((tmp_path / "score.result").read_text())["lines"]
    assert of_npz["times_the_floor"] > 0 and floor["gigabytes"] > 0
    assert json.loads((tmp_path / "check.result").read_text())["lines"][-1]["largest_difference"] <= 1e-9


def test_is_in_is_isin():
    rng = np.random.default_rng(0)
    for n, m in ((0, 3), (3, 0), (100, 40)):
        values, ascending = rng.integers(0, 60, n), np.unique(rng.integers(0, 60, m))
        assert np.array_equal(is_in(values, ascending), np.isin(values, ascending))


def test_a_detector_is_held_to_the_same_hundred_as_a_file(tmp_path):
    """150 detections, the true category's last: it is not among those kept, however they come."""
    import torch

    from s21k.core.structures import DenseScores, Detections, Prediction
    from s21k.evaluation.columns import DetectionColumns
    truth = {"images": [{"id": 1, "width": 500, "height": 500, "file_name": "a"}],
             "categories": [{"id": c, "name": str(c)} for c in range(1, 3)],
             "annotations": [{"id": 1, "image_id": 1, "category_id": 2, "bbox": [0, 0, 10, 10], "area": 100}]}
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    gt = GroundTruth.load(tmp_path / "gt.json")
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0]]).repeat(150, 1)
    found = Detections(boxes, torch.linspace(1, 0.1, 150), torch.tensor([0] * 149 + [1]))
    one, other = In21kReport(gt), In21kReport(gt)
    one.update(1, Prediction(DenseScores(boxes, torch.rand(150, 2)), found, *[found.pick([0])] * 2))
    other.add_all(DetectionColumns.of(0, found))
    for key in ("has_gt_class_det", "AP", "AP_fed", "truncated_images"):
        assert one.compute()[key] == other.compute()[key], key
    assert one.compute()["has_gt_class_det"] == 0 and one.compute()["truncated_images"] == 1
    gt.groups = {"fed": np.array([True, False])}
    with pytest.raises(InputError, match="fed"):
        In21kReport(gt)

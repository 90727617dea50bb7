"""The scoring command: the same figures as pycocotools and as evaluate.py's own counting; bad files in one line."""
import json

import numpy as np
import pytest
import torch

from s21k.core.errors import InputError
from s21k.core.masks import Rles
from s21k.core.structures import DenseScores, Prediction
from s21k.evaluation import detections_file
from s21k.evaluation.ground_truth import GroundTruth
from s21k.evaluation.localization import LocalizationAccuracy
from s21k.files import json_pieces
from s21k.models.postprocess import Ranking, best_categories, postprocess
from tests.test_average_precision import KEYS, add_masks, pycocotools_stats, random_detections, random_truth
from tests.toy import run


def score(tmp_path, *argv):
    done = run("s21k.evaluation.score", "--annotations", str(tmp_path / "gt.json"), "--out", str(tmp_path / "m.json"),
               *argv, module=True)
    return done, json.loads((tmp_path / "m.json").read_text()) if done.returncode == 0 else None


def test_json_and_npz_give_pycocotools_figures(tmp_path):
    rng = np.random.default_rng(5)
    truth = random_truth(rng, images=8, categories=5)
    rows = random_detections(rng, truth)
    # unknown: dropped [E2]
    rows.append({"image_id": 10, "category_id": 999, "bbox": [0, 0, 5, 5], "score": 0.9})
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    (tmp_path / "d.json").write_text(json.dumps(rows))
    np.savez(tmp_path / "d.npz",
             **{k: np.array([r[k] for r in rows]) for k in ("image_id", "category_id", "score", "bbox")})
    stats = pycocotools_stats(tmp_path / "gt.json", rows).stats
    (tmp_path / "groups.json").write_text(json.dumps({"base": [1, 4], "novel": [7]}))
    for name in ("d.json", "d.npz"):
        done, results = score(tmp_path, "--metric", "coco", "--detections", str(tmp_path / name), "--groups",
                              str(tmp_path / "groups.json"), "--per-category")
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
            truth["annotations"].append({"id": len(truth["annotations"]) + 1, "image_id": i, "category_id": label + 1,
                                         "bbox": box.tolist(), "area": 1})
        near = boxes[rng.integers(0, 3, 10)] + rng.integers(-8, 9, (10, 4))
        near = np.concatenate([near[:, :2], near[:, :2] + near[:, 2:].clip(5)], 1)
        scores = (rng.random((10, categories)) * 20).round() / 20 if i % 2 else rng.random((10, categories))
        regions = DenseScores(torch.tensor(near), torch.tensor(scores))
        ranking = Ranking(regions)
        every = postprocess(ranking, -1.0, 0.5, -1)
        predictions.append(Prediction(regions, every, postprocess(ranking, -1.0, 0.5, 5),
                                      best_categories(ranking, 5)))
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
    ("{", "expected a list"), ("{}", "expected a list"), ('[{"image_id": 10}]', "detection 0 is"),
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
    np.savez(tmp_path / "d.npz",
             **{k: np.array([{}], dtype=object) for k in ("image_id", "category_id", "score", "bbox")})
    done, _ = score(tmp_path, "--metric", "coco", "--detections", str(tmp_path / "d.npz"))
    assert done.returncode == 2 and "without pickled objects" in done.stderr


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("piece", [7, 300, 1 << 24])
@pytest.mark.parametrize("layout", ["compact", "indented", "nested"])
def test_a_json_file_is_read_in_pieces_of_any_size(tmp_path, monkeypatch, piece, layout, kind):
    """The same columns as from the whole text, whatever the spaces and whatever else the entries hold."""
    rng = np.random.default_rng(1)
    truth = random_truth(rng)
    rows = random_detections(rng, truth, per_image=8)
    if kind == "segm":
        add_masks(truth, rows)
    if layout == "nested":
        rows = [row | {"parts": [{"a": 1}, {"b": "}, {"}], "note": "ü}, {"} for row in rows]
    path = tmp_path / "d.json"
    path.write_text(json.dumps(rows, indent=1 if layout == "indented" else None, ensure_ascii=False), encoding="utf-8")
    monkeypatch.setattr(json_pieces, "PIECE", piece)
    found = detections_file.read_detections(path, masks=kind == "segm")
    assert (found.image.tolist() == [r["image_id"] for r in rows]
            and found.category.tolist() == [r["category_id"] for r in rows])
    assert found.scores.tolist() == [r["score"] for r in rows] and found.boxes.tolist() == [r["bbox"] for r in rows]
    if kind == "segm":
        assert [found.masks[i]["counts"].decode()
                for i in range(len(rows))] == [r["segmentation"]["counts"] for r in rows]


ROW = '{"image_id": 10, "category_id": 1, "score": 0.5, "bbox": [0, 0, 1, 1]}'


@pytest.mark.parametrize("piece", [11, 1 << 24])
@pytest.mark.parametrize("text, says", [
    (f"[{ROW}, {ROW}", "detection 1 .*cut off"), (f"[{ROW}, {ROW[:-9]}", "detection 1"),
    (f"[{ROW} {ROW}]", "detection 0"), (f"[{ROW},, {ROW}]", "detection 1"),
    (f"[{ROW}, ]", "detection 0 .*no comma and entry"), (f"[{ROW}] [", "something follows"),
    (f"[{ROW}, 7]", "detection 1 is 7"), ("", "expected a list"),
    (f"[{ROW}, {{\"image_id\": 10, }}]", "detection 1"),
    (f"[{ROW}, {ROW.replace('0.5', '1' + '0' * 400)}]", "detection 1"),
    (f"[{ROW}, {ROW.replace('1]', '1e999]')}]", "detection 1: bbox is not finite"),
    (f"[{ROW}, {ROW.replace('10', 'true')}]", "detection 1"),
    ("[" * 100000, "detection 0")])
def test_what_is_wrong_in_a_json_file_is_said_with_its_place(tmp_path, monkeypatch, piece, text, says):
    path = tmp_path / "d.json"
    path.write_text(text)
    monkeypatch.setattr(json_pieces, "PIECE", piece)
    with pytest.raises(InputError, match=says):
        detections_file.read_detections(path)


def test_an_empty_list_has_no_detections(tmp_path):
    (tmp_path / "d.json").write_text(" [ ] ")
    assert len(detections_file.read_detections(tmp_path / "d.json")) == 0


def test_masks_are_scored_from_json_and_npz_alike(tmp_path):
    rng = np.random.default_rng(2)
    truth = random_truth(rng)
    rows = random_detections(rng, truth)
    add_masks(truth, rows)
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    (tmp_path / "d.json").write_text(json.dumps(rows))
    masks = Rles.of([{"size": r["segmentation"]["size"], "counts": r["segmentation"]["counts"].encode()} for r in rows])
    np.savez(tmp_path / "d.npz", image_id=[r["image_id"] for r in rows], category_id=[r["category_id"] for r in rows],
             score=[r["score"] for r in rows],
             bbox=[r["bbox"] for r in rows], rle_counts=masks.counts.data, rle_offsets=masks.counts.offsets,
             rle_size=masks.sizes)
    stats = pycocotools_stats(tmp_path / "gt.json", rows, "segm").stats
    for name in ("d.json", "d.npz"):
        done, results = score(tmp_path, "--metric", "coco", "--iou-type", "segm", "--detections", str(tmp_path / name))
        assert done.returncode == 0, done.stderr
        assert [results[key] for key in KEYS] == pytest.approx(list(stats), abs=1e-9)
    for bad, says in (({"rle_size": masks.sizes[:-1]}, "rle_size"), ({"rle_size": -masks.sizes}, "rle_size"), (
        {"rle_counts": masks.counts.data[:-1]}, "rising"), ({"rle_size": masks.sizes + 1}, "cover its size")):
        with np.load(tmp_path / "d.npz") as file:
            np.savez(tmp_path / "bad.npz", **({k: file[k] for k in file} | bad))
        done, _ = score(tmp_path, "--metric", "coco", "--iou-type", "segm", "--detections", str(tmp_path / "bad.npz"))
        assert done.returncode == 2 and says in done.stderr and done.stderr.count("\n") == 1


def test_whole_number_scores_are_ranked_as_numbers(tmp_path):
    truth = {"images": [{"id": 1, "width": 50, "height": 50, "file_name": "a"}], "categories": [{"id": 1, "name": "a"}],
             "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10], "area": 100}]}
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    np.savez(tmp_path / "d.npz", image_id=[1, 1], category_id=[1, 1], score=np.array([0, 200], dtype=np.uint8),
             bbox=[[30, 30, 9, 9], [0, 0, 10, 10]])
    assert score(tmp_path, "--metric", "loc", "--detections", str(tmp_path / "d.npz"))[1]["top1"] == 1
    assert score(tmp_path, "--metric", "coco", "--detections", str(tmp_path / "d.npz"))[1]["AR1"] == 1


def test_what_is_no_npz_is_one_line(tmp_path):
    (tmp_path / "gt.json").write_text(json.dumps(random_truth(np.random.default_rng(0))))
    with open(tmp_path / "d.npz", "wb") as file:
        np.save(file, np.zeros(3))
    done, _ = score(tmp_path, "--metric", "coco", "--detections", str(tmp_path / "d.npz"))
    assert done.returncode == 2 and "not a readable .npz" in done.stderr and done.stderr.count("\n") == 1
    done, _ = score(tmp_path, "--metric", "coco", "--detections", str(tmp_path / "nowhere.npz"))
    assert done.returncode == 2 and done.stderr == f"error: {tmp_path / 'nowhere.npz'}: no such file\n"


def test_the_entry_with_the_bad_mask_is_named(tmp_path):
    rng = np.random.default_rng(2)
    truth = random_truth(rng)
    rows = random_detections(rng, truth)
    add_masks(truth, rows)
    rows[7]["segmentation"]["counts"] = "\ud800"
    (tmp_path / "d.json").write_text(json.dumps(rows))
    with pytest.raises(InputError, match="detection 7 is"):
        detections_file.read_detections(tmp_path / "d.json", masks=True)

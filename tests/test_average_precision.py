"""T10: our flat-array AP against pycocotools, every key, on random data with ties, crowds and empty categories."""
import contextlib
import functools
import io
import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from s21k.core.categories import CategoryMap
from s21k.evaluation.average_precision import AREAS, IOU_THRESHOLDS, RECALLS, AveragePrecision, place_in_ranking
from s21k.evaluation.detections_file import locate, read_detections
from s21k.evaluation.ground_truth import GroundTruth
from tests.toy import DATA

KEYS = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]
COCO_MINI = DATA / "coco-mini"


def random_truth(rng, images=6, categories=4, crowds=True):
    content = {"images": [{"id": 10 + i, "width": 400, "height": 300, "file_name": f"{i}.jpg"} for i in range(images)],
               "categories": [{"id": 3 * c + 1, "name": f"c{c}"} for c in range(categories)], "annotations": []}
    for image in content["images"]:
        for _ in range(rng.integers(0, 9)):
            w, h = (int(v) for v in rng.choice([8, 20, 32, 60, 96, 150], 2))
            category = int(rng.integers(0, max(1, categories - 1)))               # the last category stays empty
            content["annotations"].append({
                "id": len(content["annotations"]) + 1, "image_id": image["id"], "category_id": 3 * category + 1,
                "bbox": [int(rng.integers(0, 200)), int(rng.integers(0, 150)), w, h],
                "area": w * h * float(rng.choice([1.0, 0.6])),
                "iscrowd": int(crowds and rng.random() < 0.15)})
    return content


def random_detections(rng, truth, per_image=30):
    rows = []
    for image in truth["images"]:
        boxes = [a for a in truth["annotations"] if a["image_id"] == image["id"]]
        for _ in range(rng.integers(0, per_image)):
            if boxes and rng.random() < 0.7:
                near = boxes[rng.integers(0, len(boxes))]
                box = [v + float(rng.choice([0, 0, 1, 3, 7, -4])) for v in near["bbox"]]
                category = (near["category_id"] if rng.random() < 0.8
                            else int(rng.choice([c["id"] for c in truth["categories"]])))
            else:
                box = [float(v) for v in (*rng.integers(0, 200, 2), *rng.integers(0, 120, 2))]
                category = int(rng.choice([c["id"] for c in truth["categories"]]))
            rows.append({"image_id": image["id"], "category_id": category, "bbox": box,
                         "score": float(rng.choice([0.1, 0.3, 0.5, 0.9, rng.random()]))})
    return rows


def ellipse(box, width=400, height=300):
    """A polygon of 16 corners inside a box, cut at the image."""
    x, y, w, h = box
    angle = np.arange(16) * np.pi / 8
    corners = np.stack([x + w / 2 + w / 2 * np.cos(angle), y + h / 2 + h / 2 * np.sin(angle)],
                       1).clip(0, [width, height])
    return corners.round(2).reshape(-1).tolist()


def add_masks(truth, rows):
    """Segmentations for all: polygons of one part or two, crowds as run lengths; detections as compressed run
    lengths."""
    for annotation in truth["annotations"]:
        outline = ellipse(annotation["bbox"])
        annotation["segmentation"] = [outline]
        if annotation["id"] % 3 == 0:
            annotation["segmentation"] = [outline[:18], outline[14:] + outline[:2]]
        if annotation.get("iscrowd"):
            drawn = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects([outline], 300, 400)))
            changes = np.flatnonzero(np.diff(np.r_[0, drawn.T.reshape(-1)]) != 0)
            annotation["segmentation"] = {"size": [300, 400], "counts": np.diff(np.r_[0, changes, drawn.size]).tolist()}
    for row in rows:
        rle = coco_mask.merge(coco_mask.frPyObjects([ellipse(row["bbox"])], 300, 400))
        row["segmentation"] = {"size": rle["size"], "counts": rle["counts"].decode()}


def pycocotools_stats(path, rows, kind="bbox"):
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(path))
        evaluator = COCOeval(coco, coco.loadRes([dict(row) for row in rows]), kind)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator


def ours(path, rows, shards=1, categories=None, kind="bbox"):
    """Through the file and its reader."""
    gt = GroundTruth.load(path, categories, masks=kind == "segm")
    metric = AveragePrecision(gt, kind={"bbox": "box", "segm": "mask"}[kind])
    saved = path.with_name("detections.json")
    saved.write_text(json.dumps(rows))
    found = locate(read_detections(saved, masks=kind == "segm"), gt)
    for number in range(shards):                         # as several parts of an evaluation
        metric.add_all(found.take(np.flatnonzero(found.image % shards == number)))
    return metric.compute()


def test_the_grids_are_pycocotools():
    """E12, E23: not decimals, to the last bit."""
    from pycocotools.cocoeval import Params
    assert np.array_equal(IOU_THRESHOLDS, Params("bbox").iouThrs) and np.array_equal(RECALLS, Params("bbox").recThrs)
    assert [list(map(float, v)) for v in AREAS.values()] == [list(map(float, a)) for a in Params("bbox").areaRng]


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(80))
def test_every_figure_equals_pycocotools_on_random_data(tmp_path, seed, kind):
    rng = np.random.default_rng(seed)
    truth = random_truth(rng, images=int(rng.integers(1, 8)), categories=int(rng.integers(2, 6)))
    rows = random_detections(rng, truth, per_image=300 if seed % 10 == 0 else 30)
    if not rows:
        rows = [{"image_id": truth["images"][0]["id"], "category_id": 1, "bbox": [0, 0, 5, 5], "score": 0.5}]
    if seed % 4 == 0:
        # unknown: dropped [E2]
        rows += [{"image_id": truth["images"][0]["id"], "category_id": 999, "bbox": [0, 0, 5, 5], "score": 0.4}] * 3
    if kind == "segm":
        add_masks(truth, rows)
        if seed % 2:
            # boxes are then drawn around the masks [E9]
            rows = [{key: value for key, value in row.items() if key != "bbox"} for row in rows]
    path = tmp_path / "gt.json"
    path.write_text(json.dumps(truth))
    stats = pycocotools_stats(path, rows, kind).stats
    results = ours(path, rows, shards=1 + seed % 3, kind=kind)
    assert [results[key] for key in KEYS] == pytest.approx(list(stats), abs=1e-9)


@functools.cache
def full_masks(path):
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_coco_mini_with_perturbed_detections_equals_pycocotools(tmp_path, kind):
    path = COCO_MINI / "annotations" / "instances_val2017.json"
    if not path.is_file():
        pytest.skip("data absent")
    rng = np.random.default_rng(0)
    truth = json.loads(path.read_text())
    rows = []
    for a in truth["annotations"]:
        for _ in range(3):
            box = np.array(a["bbox"]) + rng.normal(0, 0.08, 4) * np.array([a["bbox"][2], a["bbox"][3]] * 2)
            category = a["category_id"] if rng.random() < 0.9 else 1
            row = {"image_id": a["image_id"], "category_id": category, "bbox": box.round(2).tolist(),
                   "score": float(rng.random().__round__(2))}
            if kind == "segm":
                moved = np.roll(coco_mask.decode(full_masks(path).annToRLE(a)), rng.integers(-6, 7, 2), axis=(0, 1))
                rle = coco_mask.encode(np.asfortranarray(moved))
                row["segmentation"] = {"size": rle["size"], "counts": rle["counts"].decode()}
            rows.append(row)
    (tmp_path / "gt.json").write_text(path.read_text())
    results = ours(tmp_path / "gt.json", rows, kind=kind)
    assert [results[key] for key in KEYS] == pytest.approx(list(pycocotools_stats(path, rows, kind).stats), abs=1e-9)
    assert results["AP50"] > 0.3


def test_groups_are_means_over_their_categories_of_one_run(tmp_path):
    import torch
    rng = np.random.default_rng(3)
    truth = random_truth(rng, images=8, categories=4)
    rows = random_detections(rng, truth)
    path = tmp_path / "gt.json"
    path.write_text(json.dumps(truth))
    # the evaluation order is the categories JSON's
    order = [2, 0, 3, 1]
    categories = CategoryMap([f"c{c}" for c in order], [None] * 4, ["novel", "base", "novel", "base"], torch.arange(4),
                             torch.arange(4))
    results = ours(path, rows, categories=categories)
    precision = pycocotools_stats(path, rows).eval["precision"][:, :, :, 0, 2]                # (T, 101, K)
    for group, members in (("base", [0, 1]), ("novel", [2, 3])):
        part = precision[:, :, members]
        assert results[f"AP_{group}"] == pytest.approx(part[part > -1].mean(), abs=1e-9)
        assert results[f"AP50_{group}"] == pytest.approx(part[0][part[0] > -1].mean(), abs=1e-9)


def test_no_detections_give_zero_where_there_is_truth_and_minus_one_where_not(tmp_path):
    """E5, E21."""
    truth = random_truth(np.random.default_rng(0))
    path = tmp_path / "gt.json"
    path.write_text(json.dumps(truth))
    assert ours(path, [])["AP"] == 0
    path.write_text(json.dumps(truth | {"annotations": []}))
    assert ours(path, [])["AP"] == -1


def test_the_place_in_the_ranking_on_the_five_detections_of_its_docstring():
    """Matched: 1 to a box, 2 to an ignored one, 4 to a box; 4 is of another size and counts only as it is right."""
    place = place_in_ranking(np.array([0, 1, 3]), np.array([True, True, False]), np.array([True, False, True]),
                             np.array([0, 0, 0]))
    assert place[[0, 2]].tolist() == [1, 3]
    # A category before it whose corrections add up to -1: they are no matter of the next one.
    after = place_in_ranking(np.array([0, 1, 0, 1, 3]), np.array([True, True, True, True, False]),
                             np.array([True, False, True, False, True]), np.array([4, 4, 7, 7, 7]))
    assert after[[0, 2, 4]].tolist() == [1, 1, 3]

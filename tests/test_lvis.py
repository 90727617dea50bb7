"""LVIS AP against the lvis package, every figure, on real annotations and on random ones."""
import json
import logging
import tempfile
from dataclasses import replace

import numpy as np
import pytest

np.float = float                            # lvis 0.5.3 asks for the name that numpy dropped [E27]; no other effect
from lvis import LVIS, LVISEval, LVISResults  # noqa: E402
from pycocotools import mask as coco_mask  # noqa: E402

from s21k.core.masks import parse_outline
from s21k.evaluation.detections_file import locate, read_detections
from s21k.evaluation.ground_truth import GroundTruth
from s21k.evaluation.lvis import LvisAveragePrecision
from tests.test_average_precision import add_masks, random_detections, random_truth
from tests.toy import DATA

KEYS = ["AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf", "AR@300", "ARs@300", "ARm@300", "ARl@300"]
REAL = DATA / "lvis" / "lvis_v0.5_val_100.json"
logging.disable(logging.WARNING)


def theirs(path, rows, max_dets, kind="bbox"):
    gt = LVIS(str(path))
    evaluator = LVISEval(gt, LVISResults(gt, [dict(r) for r in rows], max_dets), kind)
    evaluator.run()
    return evaluator.results


def ours(path, rows, max_dets, shards=1, kind="bbox"):
    """rows through a file and its reader; path's detections lie beside the test's own files."""
    masks = kind == "segm"
    gt = GroundTruth.load(path, masks=masks)
    with tempfile.NamedTemporaryFile("w", suffix=".json") as saved:
        json.dump(rows, saved)
        saved.flush()
        found = locate(read_detections(saved.name, masks), gt, keep_unknown=True)
    metric = LvisAveragePrecision(gt, max_dets, "mask" if masks else "box")
    for number in range(shards):                         # as several parts of an evaluation
        metric.add_all(found.take(np.flatnonzero(found.image % shards == number)))
    return metric.compute()


def federated(rng, truth):
    """Frequencies, and lists of categories known to be absent or incompletely boxed."""
    ids = [c["id"] for c in truth["categories"]]
    for category in truth["categories"]:
        category["frequency"] = str(rng.choice(list("rcf")))
    for image in truth["images"]:
        image["neg_category_ids"] = [i for i in ids if rng.random() < 0.3]
        image["not_exhaustive_category_ids"] = [i for i in ids if rng.random() < 0.3]
    for annotation in truth["annotations"]:
        annotation.pop("iscrowd")
        if rng.random() < 0.1:
            annotation["ignore"] = 1
        if rng.random() < 0.1:
            annotation["area"] = 0
    return truth


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(80))
def test_every_figure_equals_lvis_on_random_data(tmp_path, seed, kind):
    """G29, E28-E33: also with unknown categories that use up the budget, and more detections than it allows."""
    rng = np.random.default_rng(seed)
    truth = federated(rng, random_truth(rng, images=int(rng.integers(1, 8)), categories=int(rng.integers(2, 7))))
    rows = random_detections(rng, truth, per_image=[30, 30, 500][seed % 3])
    rows += [{"image_id": truth["images"][0]["id"], "category_id": 999, "bbox": [0, 0, 5, 5],
              "score": float(rng.random())} for _ in range(5)]
    if kind == "segm":
        add_masks(truth, rows)
        if seed % 2:
            rows = [{key: value for key, value in row.items() if key != "bbox"} for row in rows]
    path = tmp_path / "gt.json"
    path.write_text(json.dumps(truth))
    for max_dets in (300, 10, -1) if kind == "bbox" else (10,):
        expected, results = theirs(path, rows, max_dets, kind), ours(path, rows, max_dets, 1 + seed % 3, kind)
        assert [results[key] for key in KEYS] == pytest.approx([expected[key] for key in KEYS], abs=1e-9), max_dets


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_real_annotations_with_perturbed_detections_equal_lvis(kind):
    if not REAL.is_file():
        pytest.skip("data absent")
    rng = np.random.default_rng(0)
    truth = json.loads(REAL.read_text())
    ids = [c["id"] for c in truth["categories"]]
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    rows = []
    for a in truth["annotations"]:
        for _ in range(4):
            box = np.array(a["bbox"]) + rng.normal(0, 0.08, 4) * np.array([a["bbox"][2], a["bbox"][3]] * 2)
            category = a["category_id"] if rng.random() < 0.8 else int(rng.choice(ids))
            rows.append({"image_id": a["image_id"], "category_id": category, "bbox": box.round(2).tolist(),
                         "score": float(round(rng.random(), 2))})
            if kind == "segm":
                moved = np.roll(coco_mask.decode(replace(parse_outline(
                    a["segmentation"]), size=sizes[a["image_id"]]).rle()), rng.integers(-4, 5, 2), axis=(0, 1))
                rle = coco_mask.encode(np.asfortranarray(moved))
                rows[-1]["segmentation"] = {"size": rle["size"], "counts": rle["counts"].decode()}
    expected, results = theirs(REAL, rows, 300, kind), ours(REAL, rows, 300, kind=kind)
    assert [results[key] for key in KEYS] == pytest.approx([expected[key] for key in KEYS], abs=1e-9)
    assert results["AP50"] > 0.3

"""Results files as people have them: unknown categories, no file names, LVIS's rules on other files, a wrong field."""

import json

import numpy as np
import pytest

from s21k.core.errors import InputError
from s21k.evaluation.detections_file import locate, read_detections
from s21k.evaluation.ground_truth import GroundTruth
from s21k.evaluation.lvis import NO_NEGATIVES
from tests.test_average_precision import (
    KEYS,
    add_masks,
    pycocotools_stats,
    random_detections,
    random_truth,
)
from tests.toy import run


def score(tmp_path, truth, rows, metric="coco", *more):
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    (tmp_path / "d.json").write_text(rows if isinstance(rows, str) else json.dumps(rows))
    (tmp_path / "m.json").unlink(missing_ok=True)
    done = run(
        "s21k.evaluation.score",
        "--metric",
        metric,
        "--annotations",
        str(tmp_path / "gt.json"),
        "--detections",
        str(tmp_path / "d.json"),
        "--out",
        str(tmp_path / "m.json"),
        *more,
        module=True,
    )
    return done, json.loads((tmp_path / "m.json").read_text()) if done.returncode == 0 else None


def one_of_each(images=4):
    """One box an image, of category 1 or 2, and a perfect detection of each."""
    truth = {
        "images": [{"id": i} for i in range(1, images + 1)],
        "categories": [{"id": 1, "name": "a", "frequency": "f"}, {"id": 2, "name": "b", "frequency": "f"}],
        "annotations": [
            {"id": i, "image_id": i, "category_id": 1 + i % 2, "bbox": [5, 5, 20, 20], "area": 400, "iscrowd": 0}
            for i in range(1, images + 1)
        ],
    }
    return truth, [
        {"image_id": r["image_id"], "category_id": r["category_id"], "bbox": r["bbox"], "score": 0.5}
        for r in truth["annotations"]
    ]


@pytest.mark.parametrize("metric", ["coco", "lvis", "loc", "in21k"])
@pytest.mark.parametrize("ids", [[101, 102, 103, 104], [-1, -1, -1, -1], [2**62] * 4])
def test_detections_of_unknown_categories_only_are_refused(tmp_path, metric, ids):
    truth, rows = one_of_each()
    done, _ = score(tmp_path, truth, [row | {"category_id": i} for row, i in zip(rows, ids)], metric)
    assert (
        done.returncode == 2
        and f"4 of 4 detections are of categories that the annotations do not list (first: {ids[0]})" in done.stderr
        and done.stderr.count("\n") == 1
    )


@pytest.mark.parametrize("metric", ["coco", "lvis", "loc", "in21k"])
def test_some_detections_of_unknown_categories_are_counted_and_score_as_before(tmp_path, metric):
    truth, rows = one_of_each()
    _, before = score(tmp_path, truth, rows, metric)
    done, after = score(
        tmp_path, truth, [*rows, rows[0] | {"category_id": 7}, rows[1] | {"category_id": 0, "score": 0.9}], metric
    )
    assert (
        done.stdout.count("note: 2 of 6 detections are of categories that the annotations do not list (first: 7)") == 1
        and after == before
    )
    assert (
        "detections are of" not in score(tmp_path, truth, rows, metric)[0].stdout
        and score(tmp_path, truth, [], metric)[0].returncode == 0
    )


def test_unknown_images_are_counted_and_the_first_is_named(tmp_path):
    truth, rows = one_of_each()
    done, _ = score(tmp_path, truth, [*rows, rows[0] | {"image_id": 9}, rows[0] | {"image_id": 8}])
    assert (
        done.returncode == 2
        and "2 of 6 detections are on images that the annotations do not list (first: 9): detection 4 is on image 9"
        in done.stderr
    )
    npz = {"image_id": [1, 2], "category_id": [5, 6], "score": [0.1, 0.2], "bbox": np.zeros((2, 4))}
    np.savez(tmp_path / "d.npz", **{k: np.array(v) for k, v in npz.items()})
    with pytest.raises(InputError, match="2 of 2 detections are of categories .*first: 5"):
        locate(read_detections(tmp_path / "d.npz"), GroundTruth.load(tmp_path / "gt.json"))


# --- file names ---


@pytest.mark.parametrize(
    "metric, kind", [("coco", "bbox"), ("coco", "segm"), ("lvis", "bbox"), ("lvis", "segm"), ("in21k", "bbox")]
)
@pytest.mark.parametrize("name", [None, "", 7, "\u00fc.jpg"])
def test_figures_do_not_need_file_names_and_do_not_depend_on_them(tmp_path, metric, kind, name):
    """Nor on an image's size, where no mask has to be drawn."""
    rng = np.random.default_rng(3)
    truth = random_truth(rng, images=12)
    rows = random_detections(rng, truth)
    add_masks(truth, rows)
    for category in truth["categories"]:
        category["frequency"] = "rcf"[category["id"] % 3]
    for image in truth["images"]:
        image["neg_category_ids"] = [1, 4]
    if metric == "in21k":  # one category an image
        for row in truth["annotations"]:
            row |= {"category_id": 1 + 3 * (row["image_id"] % 3), "iscrowd": 0}
    more = ("--iou-type", kind, "--per-category")
    _, before = score(tmp_path, truth, rows, metric, *more)
    for image in truth["images"]:
        image["file_name"] = name
        if name is None:
            del image["file_name"]
        if kind == "bbox":
            image |= {"width": None, "height": "unknown"} if name == 7 else {}
    done, after = score(tmp_path, truth, rows, metric, *more)
    assert done.returncode == 0 and after == before and len(after) > 10, done.stderr


def test_images_of_an_id_alone_score_as_pycocotools_does(tmp_path):
    truth, rows = one_of_each()
    done, results = score(tmp_path, truth, rows)
    assert done.returncode == 0 and [results[key] for key in KEYS] == pytest.approx(
        list(pycocotools_stats(tmp_path / "gt.json", rows).stats), abs=1e-9
    )
    add_masks(truth, rows)
    done, _ = score(tmp_path, truth, rows, "coco", "--iou-type", "segm")
    assert (
        done.returncode == 2 and "images[0] has no height, expected int" in done.stderr
    )  # its polygons have to be drawn


# --- LVIS's rules ---


@pytest.mark.parametrize(
    "lists", [{}, {"neg_category_ids": []}, {"neg_category_ids": [99]}, {"not_exhaustive_category_ids": [1, 2]}]
)
def test_lvis_rules_on_a_file_that_says_nothing_of_absent_categories_are_warned_of(tmp_path, lists):
    """In the output and in the figures' file: every false detection is forgiven there."""
    truth, rows = one_of_each()
    for image in truth["images"]:
        image |= lists
    wrong = [row | {"category_id": 3 - row["category_id"], "score": 0.9} for row in rows]
    done, results = score(tmp_path, truth, rows + wrong, "lvis")
    assert (
        done.returncode == 0 and results["warnings"] == [NO_NEGATIVES] and results["AP"] == pytest.approx(1.0, abs=1e-6)
    )
    assert (
        done.stdout.count("note: ") == 1 and "no image says by neg_category_ids what it was checked for" in done.stdout
    )
    _, coco = score(tmp_path, truth, rows + wrong, "coco")
    assert coco["AP"] < 0.6 and "warnings" not in coco
    for image in truth["images"]:
        image |= {"neg_category_ids": [1, 2], "not_exhaustive_category_ids": []}
    done, results = score(tmp_path, truth, rows + wrong, "lvis")
    assert (
        "warnings" not in results and "note" not in done.stdout and results["AP"] == pytest.approx(coco["AP"], abs=1e-9)
    )


# --- a wrong field ---

ROW = {"image_id": 1, "category_id": 1, "score": 0.5, "bbox": [5, 5, 20, 20]}


@pytest.mark.parametrize(
    "change, says",
    [
        ({"category_id": 1.0}, "category_id is 1.0, expected a whole number"),
        ({"score": "0.9"}, "score is '0.9', expected a number"),
        ({"image_id": "1"}, "image_id is '1', expected a whole number"),
        ({"image_id": None}, "image_id is None"),
        ({"score": True}, "score is True"),
        ({"bbox": [1, 2, 3]}, "bbox is [1, 2, 3], expected [x, y, w, h]"),
        ({"bbox": "1 2 3 4"}, "bbox is '1 2 3 4'"),
        ({"bbox": [1, 2, 3, None]}, "bbox is [1, 2, 3, None]"),
        ({"category_id": 2**70}, "category_id is too large"),
        ({"category_id": "\u00fc" * 5000}, "category_id is '\u00fc\u00fc"),
        ({"bbox": [[1, 2, 3, 4]]}, "bbox is [[1, 2, 3, 4]]"),
        ({"score": [0.5]}, "score is [0.5], expected a number"),
    ],
)
def test_the_wrong_field_is_named_and_no_other(tmp_path, change, says):
    truth, _ = one_of_each()
    done, _ = score(tmp_path, truth, [ROW, ROW, ROW | change, ROW | {"score": None}])
    assert (
        done.returncode == 2
        and f"detection 2 is wrong: {says}" in done.stderr
        and done.stderr.count("\n") == 1
        and len(done.stderr) < 300 + len(str(tmp_path))
    )
    assert not any(f"{key}" in done.stderr.partition("wrong: ")[2] for key in ROW.keys() - change.keys())


@pytest.mark.parametrize("missing", ["image_id", "category_id", "score", "bbox"])
def test_a_missing_field_is_named(tmp_path, missing):
    truth, _ = one_of_each()
    done, _ = score(tmp_path, truth, [ROW, {k: v for k, v in ROW.items() if k != missing}])
    assert done.returncode == 2 and f"detection 1 is without {missing}" in done.stderr


def test_a_large_score_before_a_wrong_entry_is_not_blamed(tmp_path):
    truth, _ = one_of_each()
    done, _ = score(tmp_path, truth, [ROW | {"score": 10**30, "bbox": [0, 0, 10**40, 1]}, ROW | {"category_id": 1.5}])
    assert "detection 1 is wrong: category_id is 1.5" in done.stderr
    add_masks(truth, rows := [dict(ROW)])
    for wrong in ("x", {"size": [300, 400]}, {"size": [300], "counts": "a"}, None):
        done, _ = score(
            tmp_path,
            truth | {"images": [{"id": i, "height": 300, "width": 400} for i in range(1, 5)]},
            [rows[0], rows[0] | {"segmentation": wrong}],
            "coco",
            "--iou-type",
            "segm",
        )
        assert done.returncode == 2 and "detection 1 is wrong: segmentation is" in done.stderr


@pytest.mark.parametrize("ids, first, count", [([1, 9], "9", 1), (["1", 2, 77], "1", 2), ([None] * 3, "None", 3)])
def test_unknown_ids_of_groups_are_reported_as_all_unknown_ids_are(tmp_path, ids, first, count):
    truth, rows = one_of_each()
    (tmp_path / "g.json").write_text(json.dumps({"base": [1], "\u00fc": ids}))
    done, _ = score(tmp_path, truth, rows, "coco", "--groups", str(tmp_path / "g.json"))
    line = f"{count} of {len(ids)} ids are of categories that the annotations do not list (first: {first})"
    assert done.returncode == 2 and line in done.stderr and done.stderr.count("\n") == 1

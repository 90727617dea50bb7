"""Each plain twin equals its fast way on 200 random cases: ties, nothing at all, categories known to both."""
import ast
from pathlib import Path

import numpy as np
import pytest
import torch

from s21k.core import boxes as B
from s21k.core.structures import BACKGROUND, DenseScores, Detections, Prediction
from s21k.evaluation import plain as plain_evaluation
from s21k.evaluation.average_precision import AREAS, IOU_THRESHOLDS, AveragePrecision
from s21k.evaluation.columns import DetectionColumns
from s21k.evaluation.ground_truth import GroundTruth, xyxy_to_xywh
from s21k.evaluation.localization import LocalizationAccuracy
from s21k.evaluation.lvis import LvisAveragePrecision
from s21k.evaluation.plain import Found, PlainImage, Truth
from s21k.models import plain
from s21k.models.fused_scores import FusedScores
from s21k.models.postprocess import Ranking, best_categories, postprocess
from s21k.models.roi_align import separable_roi_align
from s21k.models.roi_pool import pool_level, pool_regions, roi_levels
from s21k.models.scores import FUSIONS
from tests.test_floors import FILES_OF_CODE, ROOT, imports

CASES = 200


def random_boxes(g, count, size=60.0):
    """(count, 4) xyxy: some whole numbers, some repeated, some empty."""
    corner = torch.rand(count, 2, generator=g) * size * 0.6
    boxes = torch.cat([corner, corner + torch.rand(count, 2, generator=g) * size * 0.6], 1)
    boxes = torch.where(torch.rand(count, 1, generator=g) < 0.3, boxes.round(), boxes)
    return boxes[torch.randint(0, max(count, 1), (count,), generator=g)] if count % 3 == 1 else boxes


# --- models ---

def random_scores(seed):
    """Arguments of FusedScores: R and K from 0, each category known to both classifiers, to one or to none."""
    g = torch.Generator().manual_seed(seed)
    r, c, c_hat = (int(torch.randint(low, 9, (1,), generator=g)) for low in (0, 1, 1))
    k = int(torch.randint(0, min(c, c_hat) + 1, (1,), generator=g))
    knows, knows_hat = torch.rand(k, generator=g) < 0.6, torch.rand(k, generator=g) < 0.6
    det_index = torch.where(knows, torch.randperm(c, generator=g)[:k], -1)
    cls_index = torch.where(knows_hat, torch.randperm(c_hat, generator=g)[:k], -1)
    logits = [4 * torch.randn(r, n, generator=g) for n in (1, c, c_hat)]
    if seed % 7 == 0:                                                    # there is no g-hat
        logits[2], cls_index = logits[2][:, :0], torch.full((k,), -1)
    return logits[0].squeeze(1), logits[1], logits[2], det_index, cls_index


@pytest.mark.parametrize("fusion", FUSIONS)
def test_plain_scores_equal_the_fused_ones(fusion):
    for seed in range(CASES):
        case = random_scores(seed)
        exponent = (2 / 3, 0.25, 1.0)[seed % 3]
        expected = plain.plain_scores(*case, fusion, exponent)
        fast = FusedScores(torch.zeros(len(case[0]), 4), *case, fusion, exponent).rows(0, len(case[0]))
        torch.testing.assert_close(fast.double(), expected, rtol=2e-5, atol=1e-12)


def test_plain_postprocessing_finds_what_the_walk_finds():
    """Its regions, and for every other candidate a better survivor of its category that overlaps it."""
    for seed in range(CASES):
        g = torch.Generator().manual_seed(seed)
        r, k = (int(torch.randint(low, high, (1,), generator=g)) for low, high in ((0, 25), (1, 90 if seed % 5 else 4)))
        boxes, scores = random_boxes(g, r), torch.rand(r, k, generator=g) ** 3
        scores = (scores * 8).round() / 8 if seed % 2 else scores        # ties, and many zeros
        most, class_agnostic = (100, 5, -1)[seed % 3], seed % 4 == 0
        result = plain.plain_postprocess(boxes, scores, 0.01, 0.5, most, class_agnostic)
        found = postprocess(Ranking(DenseScores(boxes, scores)), 0.01, 0.5, most, class_agnostic)
        assert torch.equal(result.boxes, found.boxes) and torch.equal(result.labels, found.labels)
        assert torch.equal(result.scores, found.scores) and torch.equal(boxes[result.regions], found.boxes)
        assert len(result.survivors) + len(result.removed_by) == int((scores > 0.01).sum())
        for pair, better in result.removed_by.items():
            assert scores[better] >= scores[pair] and better in result.survivors
            assert class_agnostic or better[1] == pair[1]
            assert plain.plain_iou(boxes[pair[0]].tolist(), boxes[better[0]].tolist()) > 0.5 - 1e-12


def test_plain_iou_equals_the_matrix():
    g = torch.Generator().manual_seed(0)
    a, b = random_boxes(g, CASES).double(), random_boxes(g, CASES).double()
    b[:20] = a[:20]
    expected = [plain.plain_iou(x, y) for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    torch.testing.assert_close(B.iou(a, b).diagonal(), torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)


def test_the_plain_whole_image_and_level_are_those_of_the_pooler():
    g = torch.Generator().manual_seed(0)
    sizes = (torch.rand(CASES, 2, generator=g) * 1200).long().tolist() + [[224, 224], [223, 224], [448, 448], [0, 5]]
    boxes = B.whole_image([tuple(size) for size in sizes])
    assert boxes.tolist() == [plain.plain_whole_image(size) for size in sizes]
    assert roi_levels(boxes).tolist() == [plain.plain_level(box) for box in boxes.tolist()]


def test_plain_pooling_equals_both_fast_ways():
    """Boxes inside, partly outside and empty, of every level."""
    for seed in range(CASES):
        g = torch.Generator().manual_seed(seed)
        out, stride = 1 + seed % 3, 2 ** (2 + seed % 4)
        h, w = (int(n) for n in torch.randint(1, 7, (2,), generator=g))
        features = torch.randn(2, h, w, generator=g)
        box = (random_boxes(g, 1, 7.0)[0] - 1) * stride
        expected = plain.plain_roi_align(features, box.tolist(), stride, out)
        pooled = pool_level(features[None], torch.cat([torch.zeros(1), box])[None], 2 + seed % 4, out)
        torch.testing.assert_close(pooled[0], expected, rtol=1e-4, atol=1e-4)
        product = separable_roi_align(features[None], torch.cat([torch.zeros(1), box])[None], out, 1 / stride)
        torch.testing.assert_close(product[0], expected, rtol=1e-4, atol=1e-4)
    pyramid = [torch.randn(1, 256 // 2**level, 256 // 2**level, generator=g) for level in range(2, 6)]
    for box in ([3.0, 5.0, 60.0, 90.0], [0.0, 0.0, 250.0, 255.0]):
        pooled = pool_regions([level[None] for level in pyramid], [torch.tensor([box])], out=2)
        torch.testing.assert_close(pooled[0], plain.plain_pool(pyramid, box, out=2), rtol=1e-4, atol=1e-4)


# --- evaluation ---

def random_images(seed, lvis):
    """A few images of up to 4 categories: crowds, empty boxes, ties of scores and of IoUs, images with nothing."""
    rng = np.random.default_rng(seed)
    num_categories, images = int(rng.integers(1, 5)), []
    for _ in range(rng.integers(1, 4)):
        truths, found = [], []
        for _ in range(rng.integers(0, 6)):
            sides = rng.choice([0, 10, 30, 50], 2, p=[0.05, 0.35, 0.3, 0.3])
            box = [float(v) for v in (*rng.integers(0, 40, 2), *sides)]
            marked = rng.random() < 0.2
            truths.append(Truth(int(rng.integers(num_categories)), box, box[2] * box[3] * float(rng.choice([1, 0.6])),
                                bool(marked and not lvis), bool(marked and lvis)))
        for _ in range(rng.integers(0, 15)):
            near = Truth(0, [5.0, 5.0, 30.0, 30.0], 1)
            if truths and rng.random() < 0.8:
                near = truths[rng.integers(len(truths))]
            box = [float(v + rng.choice([0, 0, 1, 3, -4])) for v in near.box]
            unknown = lvis and rng.random() < 0.1
            category = -1 if unknown else near.category if rng.random() < 0.8 else int(rng.integers(num_categories))
            found.append(Found(category, float(rng.choice([0.1, 0.5, 0.9, rng.random()])), box))
        listed = [set(np.flatnonzero(rng.random(num_categories) < 0.4).tolist()) if lvis else set() for _ in range(2)]
        images.append(PlainImage(found, truths, *listed))
    return images, num_categories


def rows_of(images, name, fields):
    """Columns of what each image has: the image's position, then the fields, boxes (n, 4)."""
    rows = [(i, row) for i, image in enumerate(images) for row in getattr(image, name)]
    columns = [np.array([i for i, _ in rows], dtype=np.int64)]
    for field, dtype in fields:
        column = np.array([getattr(row, field) for _, row in rows], dtype=dtype)
        columns.append(column.reshape(-1, 4) if field == "box" else column)
    return columns


def as_truth(images, num_categories):
    """GroundTruth of PlainImages, image i with id i."""
    fields = ("category", np.int64), ("box", np.float64), ("area", np.float64), ("crowd", bool), ("ignored", bool)
    columns = rows_of(images, "truths", fields)

    def pairs(name):
        listed = [(i, c) for i, image in enumerate(images) for c in sorted(getattr(image, name))]
        return np.array(listed, dtype=np.int64).reshape(-1, 2)

    return GroundTruth("drawn", np.arange(len(images)), np.full((len(images), 2), 100), np.arange(num_categories) + 1,
                       [f"c{c}" for c in range(num_categories)], {}, *columns, None, ["f"] * num_categories,
                       pairs("negative"), pairs("not_exhaustive"))


def as_columns(images):
    fields = ("category", np.int64), ("score", np.float64), ("box", np.float64)
    return DetectionColumns(*rows_of(images, "found", fields))


@pytest.mark.parametrize("lvis", [False, True])
def test_plain_average_precision_equals_the_flat_arrays(lvis):
    """E11 to E32, at three of the ten IoU thresholds and in two size ranges."""
    for seed in range(CASES):
        images, num_categories = random_images(seed, lvis)
        most = (100, 2, -1 if lvis else 1)[seed % 3]
        metric = (LvisAveragePrecision if lvis else AveragePrecision)(as_truth(images, num_categories), most)
        metric.add_all(as_columns(images))
        metric._ranked()
        metric._pairs()
        area = AREAS["s" if seed % 2 else ""]
        ap, _ = metric._curves(area)
        for t in (0, 5, 9):
            twin = plain_evaluation.plain_lvis if lvis else plain_evaluation.plain_average_precision
            expected = twin(images, num_categories, float(IOU_THRESHOLDS[t]), area, most)
            assert ap[t].tolist() == pytest.approx(expected, abs=1e-12), (seed, t)


def test_plain_localization_accuracy_equals_the_counts():
    """Of all scores (`note`), and of a file of detections (`add_all`)."""
    for seed in range(CASES):
        g = torch.Generator().manual_seed(seed)
        r, k = 1 + seed % 7, 1 + seed % 8
        boxes, scores = random_boxes(g, r), torch.rand(r, k, generator=g)
        scores = (scores * 4).round() / 4 if seed % 2 else scores        # ties
        truth = int(torch.randint(0, k, (1,), generator=g))
        near = boxes[torch.randint(0, r, (1 + seed % 2,), generator=g)]
        true_boxes = xyxy_to_xywh(near + torch.tensor([0.0, 0, 5, 5])).tolist()
        corners = xyxy_to_xywh(boxes.numpy()).tolist()
        order = sorted((-score, region, c) for region, row in enumerate(scores.tolist()) for c, score in enumerate(row))
        ranked = [Found(c, -score, corners[region]) for score, region, c in order]
        ranking = Ranking(DenseScores(boxes, scores))
        five = postprocess(ranking, -1.0, 0.5, 5)
        columns = five.labels.tolist(), five.scores.tolist(), xyxy_to_xywh(five.boxes.numpy()).tolist()
        after_nms = [Found(*row) for row in zip(*columns, strict=True)]
        gt = as_truth([PlainImage([], [Truth(truth, box, 1.0) for box in true_boxes])], k)
        nothing = Detections(boxes[:0], scores[:0, 0], torch.zeros(0, dtype=torch.int64))
        by_scores, by_file = LocalizationAccuracy(gt), LocalizationAccuracy(gt)
        by_scores.update(0, Prediction(ranking.regions, nothing, five, best_categories(ranking, 5)))
        by_file.add_all(as_columns([PlainImage(ranked, [])]))
        for metric, best in ((by_scores, after_nms), (by_file, ranked[:5])):
            expected, results = plain_evaluation.plain_localization(ranked, best, truth, true_boxes), metric.compute()
            assert {key: results[key] for key in expected} == expected, seed


# --- where they are named and used ---

def test_only_explain_calls_the_twins():
    """Training and evaluation go the fast way."""
    for path in FILES_OF_CODE:
        uses = {"s21k.models.plain", "s21k.evaluation.plain"} & set(imports(path))
        explains = path in (ROOT / "s21k" / "explain.py", ROOT / "s21k" / "evidence.py")
        assert not uses or explains, f"{path} imports {uses}"


@pytest.mark.parametrize("module", ["core/boxes", "models/fused_scores", "models/postprocess", "models/roi_pool",
                                    "models/roi_align", "evaluation/average_precision", "evaluation/lvis",
                                    "evaluation/localization"])
def test_a_fast_file_names_its_twin_first(module):
    doc = ast.get_docstring(ast.parse((ROOT / "s21k" / f"{module}.py").read_text()))
    assert doc.startswith("Plain twin: ") and "plain.py" in doc.splitlines()[0]


def test_a_twin_is_short():
    for module in (plain, plain_evaluation):
        for node in ast.walk(ast.parse(Path(module.__file__).read_text())):
            assert not isinstance(node, ast.FunctionDef) or node.end_lineno - node.lineno < 40, node.name


def test_background_is_no_category_of_the_twins():
    """Eq. 1 replaces a background class: a region's scores over all categories sum to S_fg."""
    fg, det, cls, _, _ = random_scores(3)
    index = torch.arange(det.shape[1])
    scores = plain.plain_scores(fg, det, cls, index, torch.full_like(index, -1))
    torch.testing.assert_close(scores.sum(1), torch.sigmoid(fg.double()))
    assert BACKGROUND not in index

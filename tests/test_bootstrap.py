"""Figures on draws of the images, against the same metrics on data in which images drawn twice are there twice."""
import numpy as np
import pytest

from s21k.evaluation.average_precision import AveragePrecision
from s21k.evaluation.bootstrap import ResampledPrecision, draw_weights, localization_draws, recall_draws
from s21k.evaluation.columns import DetectionColumns
from s21k.evaluation.ground_truth import GroundTruth
from s21k.evaluation.localization import KEYS, LocalizationAccuracy
from s21k.evaluation.proposals import ProposalRecall

IMAGES, CATEGORIES = 12, 4


def truth(image, category, boxes, crowd, images=IMAGES):
    """A ground truth of these boxes (G, 4); the first half of the categories is base."""
    base = np.arange(CATEGORIES) < CATEGORIES // 2
    return GroundTruth("x", np.arange(images), np.full((images, 2), 100), np.arange(CATEGORIES),
                       [str(c) for c in range(CATEGORIES)], {"base": base, "novel": ~base}, image, category, boxes,
                       boxes[:, 2] * boxes[:, 3], crowd, crowd, None, [None] * CATEGORIES, np.zeros((0, 2), int),
                       np.zeros((0, 2), int))


@pytest.fixture
def world():
    """Boxes and detections: some are right, some beside an object, some of another category; equal scores, crowds."""
    rng = np.random.default_rng(0)
    image = np.sort(rng.integers(0, IMAGES, 40))
    category, boxes = rng.integers(0, CATEGORIES, 40), rng.uniform(5, 40, (40, 4))
    gt = truth(image, category, boxes, rng.random(40) < 0.1)
    near = rng.integers(0, 40, 150)
    found = DetectionColumns(image[near], np.where(rng.random(150) < 0.7, category[near], rng.integers(0, 4, 150)),
                             rng.random(150).round(2), boxes[near] * rng.uniform(0.8, 1.2, (150, 4)))
    found = found.take(np.argsort(found.image, kind="stable"))
    # equal scores of different images only: copies of an image would interleave its own
    found.scores += 0.0001 * (np.arange(150) - np.searchsorted(found.image, found.image))
    return gt, found


def repeated(gt, found, weights):
    """The same with image i weights[i] times, copies side by side."""
    source = np.repeat(np.arange(IMAGES), weights)
    boxes = [np.flatnonzero(gt.image == i) for i in source]
    rows = [np.flatnonzero(found.image == i) for i in source]
    copies = truth(np.repeat(np.arange(IMAGES), [len(b) for b in boxes]), gt.category[np.concatenate(boxes)],
                   gt.boxes[np.concatenate(boxes)], gt.crowd[np.concatenate(boxes)])
    drawn = found.take(np.concatenate(rows))
    drawn.image = np.repeat(np.arange(IMAGES), [len(r) for r in rows])
    return copies, drawn, source


def test_a_draw_takes_as_many_images_as_there_are():
    weights = draw_weights(50, draws=2000)
    assert weights.shape == (2000, 50) and (weights.sum(axis=1) == 50).all()
    assert np.array_equal(weights, draw_weights(50, draws=2000)) and not np.array_equal(weights[0], weights[1])
    # each is left out with probability (1 - 1/50)^50
    assert (weights == 0).mean() == pytest.approx(0.98**50, abs=0.01)
    assert weights.mean(axis=0) == pytest.approx(np.ones(50), abs=0.15)


def test_ap50_of_a_draw_is_that_of_the_images_in_it(world):
    gt, found = world
    # equal scores of different images stand in the images' order, in both
    weights = draw_weights(IMAGES, draws=30)
    metric = ResampledPrecision(gt)
    metric.add_all(found)
    whole = metric.compute()
    drawn = metric.draws(np.vstack([np.ones(IMAGES, int), weights]))
    for key in ("AP50", "AP50_base", "AP50_novel"):
        assert drawn[key][0] == pytest.approx(whole[key], abs=1e-12)
    different = 0
    for d, row in enumerate(weights, start=1):
        copies, some, _ = repeated(gt, found, row)
        plain = AveragePrecision(copies)
        plain.add_all(some)
        expected = plain.compute()
        for key in ("AP50", "AP50_base", "AP50_novel"):
            assert drawn[key][d] == pytest.approx(expected[key], abs=1e-12)
            different += abs(expected[key] - whole[key]) > 0.01
    assert different > 30


def test_accuracy_and_recall_of_a_draw_are_those_of_the_images_in_it(world):
    gt, _ = world
    rng, weights = np.random.default_rng(1), draw_weights(IMAGES, draws=20)
    hits = rng.random((IMAGES, len(KEYS))) < 0.5
    metric = LocalizationAccuracy(gt, leave_out_several=True)
    metric.image_category = rng.integers(-1, CATEGORIES, IMAGES)
    recall = ProposalRecall(gt)
    covered = [[rng.integers(0, 1 + (gt.image[of] == i).sum()) for of in recall.members] for i in range(IMAGES)]
    drawn = localization_draws(metric, hits, weights), recall_draws(recall, np.array(covered), weights)
    for d, row in enumerate(weights):
        source = np.repeat(np.arange(IMAGES), row)
        for name in ("", "base", "novel"):
            suffix = f"_{name}" if name else ""
            of = [i for i in source if metric.image_category[i] >= 0
                  and (not name or gt.groups[name][metric.image_category[i]])]
            expected = np.mean([hits[i, KEYS.index("gt_known")] for i in of]) if of else -1
            assert drawn[0][f"gt_known{suffix}"][d] == pytest.approx(expected)
            n = ["", "base", "novel"].index(name)
            boxes = sum(int((gt.image[recall.members[n]] == i).sum()) for i in source)
            expected = sum(covered[i][n] for i in source) / boxes
            assert drawn[1][f"proposal_recall{suffix}"][d] == pytest.approx(expected)

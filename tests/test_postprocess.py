"""Exact post-processing against the plain dense way."""
import pytest
import torch

from s21k.models.postprocess import postprocess
from s21k.structures import RegionScores


def slow_postprocess(boxes, scores, threshold, iou_threshold, most):
    """Every score above the threshold, best first (ties: lower region, then category), greedy NMS per category."""
    candidates = [(-float(scores[r, c]), r, c) for r in range(len(boxes)) for c in range(scores.shape[1]) if scores[r, c] > threshold]
    kept = []
    for score, r, c in sorted(candidates):
        overlap = False
        for _, r2, c2 in kept:
            if c2 == c:
                x1, y1 = max(boxes[r][0], boxes[r2][0]), max(boxes[r][1], boxes[r2][1])
                x2, y2 = min(boxes[r][2], boxes[r2][2]), min(boxes[r][3], boxes[r2][3])
                inter = max(0.0, x2 - x1) * max(0.0, y2 - y1)
                area = lambda b: (b[2] - b[0]) * (b[3] - b[1])
                overlap |= inter > iou_threshold * (area(boxes[r]) + area(boxes[r2]) - inter)
        if not overlap:
            kept.append((score, r, c))
    kept = kept if most < 0 else kept[:most]
    return [(r, c) for _, r, c in kept]


def case(seed):
    g = torch.Generator().manual_seed(seed)
    r, k = [(1, 1), (12, 1), (30, 5), (8, 40), (0, 3), (25, 3)][seed % 6]
    corner = torch.rand(r, 2, generator=g) * 40
    boxes = torch.cat([corner, corner + 5 + torch.rand(r, 2, generator=g) * 30], 1)
    scores = torch.rand(r, k, generator=g)
    if seed % 3 == 0:
        scores = (scores * 4).round() / 4                                # many ties
    if seed % 4 == 1 and r:
        boxes = boxes[torch.randint(0, max(1, r // 3), (r,), generator=g)]       # repeated boxes
    return boxes, scores


@pytest.mark.parametrize("threshold", [-1.0, 1e-4, 0.5])
@pytest.mark.parametrize("most", [-1, 5, 20])
def test_detections_and_their_order_equal_the_dense_way(threshold, most):
    """T6."""
    for seed in range(24):
        boxes, scores = case(seed)
        found = postprocess(RegionScores(boxes, scores), threshold, 0.5, most)
        expected = slow_postprocess(boxes.double().tolist(), scores, threshold, 0.5, most)
        assert [scores[r, c].item() for r, c in expected] == found.scores.tolist()
        assert [c for _, c in expected] == found.labels.tolist()
        assert [boxes[r].tolist() for r, _ in expected] == found.boxes.tolist()


def test_nms_at_class_21840_equals_nms_at_class_0():
    """T6, G26: two boxes of true IoU 0.636 far from the origin; an offset by class in float32 would measure 0.5."""
    boxes = torch.tensor([[1300.0, 1300.0, 1312.6, 1312.6], [1302.8, 1300.0, 1315.4, 1312.6], [10.0, 10.0, 30.0, 30.0]])
    results = []
    for label in (0, 21840):
        scores = torch.zeros(3, 21841)
        scores[:, label] = torch.tensor([0.9, 0.8, 0.7])
        found = postprocess(RegionScores(boxes, scores), 1e-4, 0.5, 100)
        assert (found.labels == label).all()
        results.append(found.scores.tolist())
    assert results[0] == results[1] == pytest.approx([0.9, 0.7])


def test_more_candidates_than_the_first_block_are_all_considered():
    """One category whose 3,000 best candidates are one box, then another category: the second must be found."""
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0]]).repeat(3000, 1)
    boxes[-1] = torch.tensor([50.0, 50.0, 60.0, 60.0])
    scores = torch.stack([torch.linspace(0.9, 0.5, 3000), torch.full((3000,), 0.1)], 1)
    found = postprocess(RegionScores(boxes, scores), 1e-4, 0.5, 100)
    assert found.labels.tolist() == [0, 0, 1, 1]

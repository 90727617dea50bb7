"""Exact post-processing against the plain dense way (s21k/models/plain.py)."""
import pytest
import torch

from s21k.core.errors import InputError
from s21k.core.structures import DenseScores
from s21k.models import postprocess as walk
from s21k.models.fused_scores import FusedScores
from s21k.models.plain import plain_postprocess
from s21k.models.postprocess import Ranking, best_categories, postprocess


def case(seed):
    """Boxes and fused or unfused scores: ties, repeated boxes, none at all, one category, thousands."""
    g = torch.Generator().manual_seed(seed)
    r, k = [(1, 1), (12, 1), (30, 5), (8, 140), (0, 3), (25, 3), (6, 2500), (40, 65)][seed % 8]
    corner = torch.rand(r, 2, generator=g) * 40
    boxes = torch.cat([corner, corner + 5 + torch.rand(r, 2, generator=g) * 30], 1)
    fg, det, cls = torch.randn(r, generator=g), torch.randn(r, k, generator=g) * 3, torch.randn(r, k, generator=g) * 3
    if seed % 3 == 0:
        fg, det, cls = fg.round(), det.round(), cls.round()              # many ties
    if seed % 4 == 1 and r:
        same = torch.randint(0, max(1, r // 3), (r,), generator=g)       # repeated boxes, and repeated regions
        boxes, fg, det, cls = boxes[same], fg[same], det[same], cls[same]
    if seed % 5 == 0:
        return boxes, DenseScores(boxes, (torch.rand(r, k, generator=g) * 4).round() / 4)
    det_index = torch.where(torch.rand(k, generator=g) < (0.0, 0.5, 1.0)[seed % 3], torch.randperm(k, generator=g), -1)
    cls_index = (torch.where((torch.rand(k, generator=g) < 0.7) & (det_index >= 0), -1, torch.arange(k)) if seed % 2
                 else torch.arange(k))
    return boxes, FusedScores(boxes, fg, det, cls, det_index, cls_index)


@pytest.mark.parametrize("seed", range(200))
def test_detections_and_their_order_equal_the_dense_way(monkeypatch, seed):
    """T6, G26. On every second case the walk goes in tiny pieces."""
    if seed % 2:
        monkeypatch.setattr(walk, "FIRST", 2)
        monkeypatch.setattr(walk, "OPEN", 3)
    boxes, regions = case(seed)
    scores = regions.rows(0, len(boxes))
    ranking = Ranking(regions)
    for threshold, most, class_agnostic in ((0.0, 20, False), (1e-4, 100, False), (1e-4, 5, True),
                                            (-1.0, 5, False)) + ((1e-4, -1, False),) * (scores.numel() < 5000):
        found = postprocess(ranking, threshold, 0.5, most, class_agnostic)
        expected = plain_postprocess(boxes, scores, threshold, 0.5, most, class_agnostic)
        assert expected.scores.tolist() == found.scores.tolist()
        assert expected.labels.tolist() == found.labels.tolist()
        assert expected.boxes.tolist() == found.boxes.tolist()


@pytest.mark.parametrize("seed", range(40))
def test_each_of_the_best_categories_comes_with_its_best_box(monkeypatch, seed):
    """Of all scores the largest, of equals the lower region, then the lower category [P83]; also in tiny pieces."""
    if seed % 2:
        monkeypatch.setattr(walk, "FIRST", 2)
    boxes, regions = case(seed)
    rows = regions.rows(0, len(boxes)).tolist()
    best = {}
    for score, region, category in sorted((-s, r, c) for r, row in enumerate(rows) for c, s in enumerate(row)):
        best.setdefault(category, (region, category, -score))
    found = best_categories(Ranking(regions), 5)
    assert list(zip(found.boxes.tolist(), found.labels.tolist(), found.scores.tolist(), strict=True)) == [
        (boxes[region].tolist(), category, score) for region, category, score in list(best.values())[:5]]


def test_scores_asked_for_alone_are_those_of_whole_rows():
    for seed in range(40):
        boxes, regions = case(seed)
        rows = regions.rows(0, len(boxes))
        region, category = torch.meshgrid(*(torch.arange(n) for n in regions.shape), indexing="ij")
        torch.testing.assert_close(regions.at(region.flatten(), category.flatten()), rows.flatten(), rtol=1e-6, atol=0)
        assert torch.equal(torch.cat([torch.zeros(0, regions.shape[1]), *(part for _, part in regions.parts())]), rows)


@pytest.mark.parametrize("equal", [True, False])
@pytest.mark.parametrize("class_agnostic", [True, False])
def test_the_hardest_cases_need_little_memory(monkeypatch, equal, class_agnostic):
    """300 times the same box at 5,000 categories, all scores above the threshold: only some thousand pairs exist at a
    time."""
    seen = []
    walk_pieces = walk.walk

    def watched(pieces):
        def sizes():
            for piece in pieces:
                seen.append(len(piece[0]))
                yield piece
        return walk_pieces(sizes())
    monkeypatch.setattr(walk, "walk", watched)
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0]]).repeat(300, 1)
    scores = (torch.full((300, 5000), 0.25) if equal
              else torch.rand(300, 5000, generator=torch.Generator().manual_seed(0)))
    found = postprocess(Ranking(DenseScores(boxes, scores)), 1e-4, 0.5, 100, class_agnostic)
    if class_agnostic:
        assert len(found.scores) == 1 and found.scores[0] == scores.max()
    else:
        assert len(found.scores) == 100 and len(set(found.labels.tolist())) == 100
        assert found.labels.tolist() == list(range(100)) if equal else found.scores[0] == scores.max()
    assert sum(seen) < 300_000                                           # of 1.5 million


def test_scores_that_are_no_numbers_are_an_error_not_a_loss():
    scores = torch.full((20, 300), 0.001)
    scores[3, 7], scores[5] = 0.9, float("nan")
    with pytest.raises(InputError, match="region 5"):
        Ranking(DenseScores(torch.rand(20, 4), scores))


def test_nms_at_class_21840_equals_nms_at_class_0():
    """T6, G26: two boxes of true IoU 0.636 far from the origin; an offset by class in float32 would measure 0.5."""
    boxes = torch.tensor([[1300.0, 1300.0, 1312.6, 1312.6], [1302.8, 1300.0, 1315.4, 1312.6], [10.0, 10.0, 30.0, 30.0]])
    results = []
    for label in (0, 21840):
        scores = torch.zeros(3, 21841)
        scores[:, label] = torch.tensor([0.9, 0.8, 0.7])
        found = postprocess(Ranking(DenseScores(boxes, scores)), 1e-4, 0.5, 100)
        assert (found.labels == label).all()
        results.append(found.scores.tolist())
    assert results[0] == results[1] == pytest.approx([0.9, 0.7])


def test_more_candidates_than_the_first_block_are_all_considered():
    """One category whose 3,000 best candidates are one box, then another category: the second must be found."""
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0]]).repeat(3000, 1)
    boxes[-1] = torch.tensor([50.0, 50.0, 60.0, 60.0])
    scores = torch.stack([torch.linspace(0.9, 0.5, 3000), torch.full((3000,), 0.1)], 1)
    found = postprocess(Ranking(DenseScores(boxes, scores)), 1e-4, 0.5, 100)
    assert found.labels.tolist() == [0, 0, 1, 1]


def test_an_overlap_of_exactly_the_threshold_removes_nothing():
    """G26: IoU 0.5 stays at 0.5 and goes just below; and only within a category."""
    boxes = torch.tensor([[0.0, 0.0, 40.0, 40.0], [0.0, 0.0, 20.0, 40.0]])
    scores = torch.tensor([[0.9, 0.0], [0.8, 0.7]])
    ranking = Ranking(DenseScores(boxes, scores))
    assert postprocess(ranking, 0.0, 0.5, 100).labels.tolist() == [0, 0, 1]
    assert postprocess(ranking, 0.0, 0.4999, 100).labels.tolist() == [0, 1]


def test_a_score_of_exactly_the_threshold_is_no_detection():
    """P85, G26."""
    scores = torch.tensor([[0.25, 0.5], [0.125, 0.25]])
    found = postprocess(Ranking(DenseScores(torch.tensor([[0.0, 0.0, 9.0, 9.0], [20.0, 0.0, 30.0, 9.0]]), scores)),
                        0.25, 0.5, 100)
    assert found.scores.tolist() == [0.5] and found.labels.tolist() == [1]

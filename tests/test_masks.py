"""Masks: packed, placed, rasterised, pasted, coded; against slow loops, pycocotools and torch's grid_sample."""
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pycocotools import mask as coco_mask

from s21k.core.mask_tensors import Masks, paste
from s21k.core.masks import Outline, PackedOutlines, Rles, broken_counts, parse_outline
from s21k.core.packed import Packed
from s21k.core.structures import Target
from s21k.data.augment_stage2 import JitterParams, LargeScaleJitter, flip_target, move_target

SIZE = (60, 80)


def star(seed, corners=9):
    """A star-shaped polygon inside SIZE."""
    rng = np.random.default_rng(seed)
    angle = np.sort(rng.uniform(0, 2 * np.pi, corners))
    radius = rng.uniform(8, 25, corners)
    return np.stack([40 + radius * np.cos(angle), 30 + radius * np.sin(angle)], 1).reshape(-1)


def inside(polygon, x, y):
    """The even-odd rule, slowly."""
    points, result = polygon.reshape(-1, 2), False
    for (x1, y1), (x2, y2) in zip(points, np.roll(points, -1, axis=0)):
        if (y1 > y) != (y2 > y) and x < x1 + (y - y1) / (y2 - y1) * (x2 - x1):
            result = not result
    return result


def as_rle(outline):
    return Outline(outline.size, (), outline.rle()["counts"])


def test_outlines_come_back_from_the_packed_form():
    outlines = [Outline(SIZE, (star(0), star(1))), as_rle(Outline(SIZE, (star(2),))), Outline((30, 20), (star(3),))]
    packed = PackedOutlines(outlines)
    for order in ([0, 1, 2], [2, 0], []):
        taken = packed.take(np.array(order, dtype=int))
        assert len(taken) == len(order)
        for i, place in enumerate(order):
            assert taken[i].size == outlines[place].size and taken[i].counts == outlines[place].counts
            assert all(np.array_equal(a, b) for a, b in zip(taken[i].polygons, outlines[place].polygons, strict=True))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", ["polygon", "rle"])
def test_a_crop_is_the_object_seen_at_each_cells_centre(seed, kind):
    """A moved and mirrored object in a box, 28 x 28; cells on the outline may fall on either side."""
    outline = Outline(SIZE, (star(seed),))
    masks = Masks((outline if kind == "polygon" else as_rle(outline),)).moved((2.0, 1.5), (-10.0, 4.0)).moved(
        (-1.0, 1.0), (150.0, 0.0))
    box = [20.0, 10.0, 120.0, 80.0]
    crop = masks.crop(0, box, 28)
    wrong = 0
    for row in range(28):
        for column in range(28):
            x, y = box[0] + (column + 0.5) / 28 * 100, box[1] + (row + 0.5) / 28 * 70
            wrong += inside(star(seed), (150 - x + 10) / 2, (y - 4) / 1.5) != bool(crop[row, column])
    assert 0.1 < crop.float().mean() < 0.9
    assert wrong <= (28 if kind == "polygon" else 45)                    # of 784, an outline of about 100 cells


def test_a_square_on_the_grid_is_exact():
    square = np.array([10.0, 10, 20, 10, 20, 20, 10, 20])
    expected = torch.zeros(4, 4, dtype=torch.bool)
    expected[1:3, 1:3] = True
    for outline in (Outline((40, 40), (square,)), as_rle(Outline((40, 40), (square,)))):
        assert torch.equal(Masks((outline,)).crop(0, [5, 5, 25, 25], 4), expected)


def test_jitter_moves_masks_as_it_moves_the_picture():
    """The mask drawn into the image, jittered, equals the jittered mask rasterised over the whole result."""
    from PIL import Image
    polygon = star(4)
    drawn = coco_mask.decode(Outline(SIZE, (polygon,)).rle())
    image = Image.fromarray(np.stack([drawn * 255] * 3, axis=2))
    ys, xs = np.nonzero(drawn)
    box = torch.tensor([[float(xs.min()), float(ys.min()), float(xs.max() + 1), float(ys.max() + 1)]])
    for flip in (False, True):
        jitter = LargeScaleJitter(96, (0.5, 2.0))
        tensor, target, _ = jitter(image, SIZE, Target(box, torch.tensor([0]), Masks((Outline(SIZE, (polygon,)),))),
                                   JitterParams(1.6, 0.4, 0.3, flip))
        h, w = tensor.shape[1:]
        seen = tensor[0] > 127
        whole = target.masks.crop(0, [0.0, 0.0, float(w), float(w)], w)[:h]          # crops are square
        assert (whole[:, :w] != seen).float().mean() < 0.02 and seen.float().mean() > 0.2
        ys, xs = seen.nonzero().T
        assert target.boxes[0].tolist() == pytest.approx(
            [int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1], abs=2.5)


def test_a_cut_box_is_drawn_anew_around_what_is_left_of_the_mask():
    """An L: cut so that only its upper bar is left, the box shrinks to that bar. A box that is not cut stays as
    annotated."""
    bar = np.array([10.0, 10, 50, 10, 50, 20, 20, 20, 20, 50, 10, 50])
    target = Target(torch.tensor([[9.0, 9.0, 51.0, 51.0]]), torch.tensor([3]), Masks((Outline(SIZE, (bar,)),)))
    moved = move_target(target, (1.0, 1.0), (25.0, 0.0), (60, 40))
    assert moved.boxes.tolist() == [[0.0, 10.0, 25.0, 20.0]]                          # without the mask: to 51
    assert move_target(target, (1.0, 1.0), (0.0, 0.0), (60, 80)).boxes.tolist() == [[9.0, 9.0, 51.0, 51.0]]
    gone = move_target(target, (1.0, 1.0), (25.0, 25.0), (30, 30))
    # the box reaches in, the object does not
    assert len(gone.boxes) == len(gone.labels) == len(gone.masks) == 0
    mirrored = flip_target(moved, 40)
    assert (mirrored.boxes.tolist() == [[15.0, 10.0, 40.0, 20.0]]
            and mirrored.masks.crop(0, [15.0, 10.0, 40.0, 20.0], 4).all())


def test_pasting_equals_grid_sample_over_the_whole_picture():
    generator = torch.Generator().manual_seed(0)
    for box in ([-30.0, -20.0, -5.0, -4.0], [10.3, 5.7, 60.2, 50.9], [-8.0, -3.0, 30.0, 40.0], [70.0, 20.0, 95.5, 70.0],
                [20.0, 20.0, 20.4, 20.3]):
        probability = torch.rand(28, 28, generator=generator)
        y, x = torch.meshgrid(torch.arange(60) + 0.5, torch.arange(80) + 0.5, indexing="ij")
        grid = torch.stack([(x - box[0]) / (box[2] - box[0]) * 2 - 1, (y - box[1]) / (box[3] - box[1]) * 2 - 1], dim=-1)
        expected = F.grid_sample(probability[None, None], grid[None], align_corners=False)[0, 0]
        expected[(x < box[0].__floor__()) | (x > box[2].__ceil__()) | (y < box[1].__floor__())
                 | (y > box[3].__ceil__())] = 0
        found = torch.from_numpy(coco_mask.decode(paste(probability, box, SIZE)))
        sure = (expected - 0.5).abs() > 1e-4
        assert torch.equal(found[sure] == 1, expected[sure] >= 0.5)


def test_pasting_is_not_rounded_under_autocast():
    probability = torch.rand(28, 28, generator=torch.Generator().manual_seed(1))
    alone = paste(probability, [3.3, 4.1, 70.7, 55.2], SIZE)
    with torch.autocast("cpu", torch.bfloat16):
        assert paste(probability, [3.3, 4.1, 70.7, 55.2], SIZE) == alone


def slow_runs(raw):
    """Compressed counts by the book: 5 bits a byte, lowest first, 32: more follow, the last one's 16: the sign."""
    runs, at = [], 0
    while at < len(raw):
        value, place, more = 0, 0, True
        while more:
            c = raw[at] - 48
            value |= (c & 31) << 5 * place
            more = bool(c & 32)
            at, place = at + 1, place + 1
            if not more and c & 16:
                value -= 1 << 5 * place
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
    return runs


def test_broken_run_lengths_are_found_and_whole_ones_are_not():
    rng = np.random.default_rng(0)
    raws, sizes, expected = [], [], []
    for i in range(400):
        h, w = rng.integers(1, 60, 2).tolist()
        raw = coco_mask.encode(
            np.asfortranarray((rng.random((h, w)) < rng.choice([0.02, 0.5, 1.0, 0.0])).astype(np.uint8)))["counts"]
        if i % 2:
            at = rng.integers(len(raw))
            raw = raw[:at] + bytes([48 + int(rng.integers(0, 64))]) + raw[at + 1:]
        if i % 7 == 0:
            raw = raw[:-1]
        ended = len(raw) > 0 and not (raw[-1] - 48) & 32
        runs = slow_runs(raw) if ended else []
        raws.append(raw)
        sizes.append((h, w))
        expected.append(not ended or min(runs) < 0 or sum(runs) != h * w)
    found = broken_counts(Packed(raws), np.array(sizes))
    assert found.tolist() == expected and 50 < sum(expected) < 250
    assert broken_counts(Packed([b"", b"\xff", b"o" * 30]), np.array([(1, 1)] * 3)).all()


@pytest.mark.parametrize("segmentation, says", [
    (None, "expected polygons"), ([], "expected polygons"), ([[1, 2, 3, 4]], "three corners"),
    ([[1, 2, 3, 4, 5, "6"]], "three corners"),
    ([[0, 0, 1, 0, 1, float("nan")]], "not finite"), ([[0, 0, 1, 0, 1, 2**70]], "far outside"),
    ({"size": 5, "counts": [4800]}, "size"), ({"size": [60, 80], "counts": [9]}, "sum"),
    ({"size": [60, 80], "counts": "é"}, "run lengths"), ({"size": [60, 80], "counts": 7}, "run lengths")])
def test_a_wrong_segmentation_is_said(segmentation, says):
    with pytest.raises(ValueError, match=says):
        parse_outline(segmentation)


def test_run_lengths_of_another_picture_are_found():
    """A size that is not the image's; counts that do not cover it, or are cut off."""
    drawn = [coco_mask.encode(np.asfortranarray(coco_mask.decode(Outline(SIZE, (star(i),)).rle()))) for i in range(3)]
    forms = [{"size": list(SIZE), "counts": drawn[0]["counts"].decode()},
             {"size": list(SIZE), "counts": drawn[1]["counts"].decode()[:-1]},
             {"size": [3, 3], "counts": [9]}, [star(2).tolist()], {"size": list(SIZE), "counts": "1!"}]
    packed = PackedOutlines([parse_outline(form) for form in forms])
    assert packed.place(np.array([SIZE] * 5)).tolist() == [False, True, True, False, True]
    assert packed[3].size == SIZE and np.array_equal(coco_mask.decode(packed[0].rle()), coco_mask.decode(drawn[0]))


def test_packed_outlines_join():
    outlines = [Outline(SIZE, (star(0), star(1))), as_rle(Outline(SIZE, (star(2),))), Outline((30, 20), (star(3),))]
    joined = PackedOutlines.join([PackedOutlines(outlines[:1]), PackedOutlines([]), PackedOutlines(outlines[1:])])
    for a, b in zip([joined[i] for i in range(3)], outlines):
        assert (a.size == b.size and a.counts == b.counts
                and all(np.array_equal(x, y) for x, y in zip(a.polygons, b.polygons, strict=True)))


def placed(form):
    packed = PackedOutlines([parse_outline(form)])
    assert not packed.place(np.array([SIZE])).any()
    return packed[0]


def test_all_three_forms_of_a_segmentation_are_the_same_mask():
    polygon = star(1)
    drawn = coco_mask.decode(Outline(SIZE, (polygon,)).rle())
    flat = np.r_[0, drawn.T.reshape(-1), 2]
    changes = np.flatnonzero(np.diff(np.r_[0, drawn.T.reshape(-1)]) != 0)
    runs = np.diff(np.r_[0, changes, drawn.size]).tolist()
    assert flat.sum() == drawn.sum() + 2
    for form in ([polygon.tolist()], {"size": list(SIZE), "counts": runs},
                 {"size": list(SIZE), "counts": coco_mask.encode(np.asfortranarray(drawn))["counts"].decode()}):
        assert np.array_equal(coco_mask.decode(placed(form).rle()), drawn)


def test_masks_of_detections_join_and_measure():
    drawn = [coco_mask.decode(Outline(SIZE, (star(i),)).rle()) for i in range(4)]
    rles = [coco_mask.encode(np.asfortranarray(d)) for d in drawn]
    joined = Rles.join([Rles.of(rles[:1]), Rles.of([]), Rles.of(rles[1:])])
    assert len(joined) == 4 and [joined[i]["counts"] for i in range(4)] == [r["counts"] for r in rles]
    areas, boxes = joined.take(np.array([2, 0])).areas_and_boxes()
    assert areas.tolist() == [drawn[2].sum(), drawn[0].sum()]
    ys, xs = np.nonzero(drawn[0])
    assert boxes[1].tolist() == [xs.min(), ys.min(), xs.max() + 1 - xs.min(), ys.max() + 1 - ys.min()]

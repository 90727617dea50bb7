import torch
from torchvision.ops.poolers import LevelMapper

from s21k.models.plain import plain_roi_align
from s21k.models.roi_pool import level_shares, pool_level, pool_regions, roi_levels


def square(side):
    return torch.tensor([[0.0, 0.0, float(side), float(side)]])


def test_the_level_table_of_the_fpn_paper():
    """T4, G15: 224 px pools from P4, one pixel less from P3, 448 and more from P5."""
    table = {50: 2, 111: 2, 112: 3, 223: 3, 224: 4, 447: 4, 448: 5, 1024: 5, 4000: 5}
    assert {side: int(roi_levels(square(side))) for side in table} == table


def test_levels_equal_torchvisions_mapper():
    sides = torch.rand(500, 2) * 900 + 1
    boxes = torch.cat([torch.zeros(500, 2), sides], 1)
    mapper = LevelMapper(2, 5, eps=1e-8)
    assert torch.equal(roi_levels(boxes), mapper([boxes]) + 2)


def test_most_jittered_pictures_pool_from_p5_at_the_papers_size():
    """G15: U(0.1, 2) at 1024 px; the 224 of stage I pools from P4."""
    sides = 1024 * torch.linspace(0.1, 2.0, 1000).clamp(max=1.0)
    assert level_shares(sides) == "P2 0 %, P3 6 %, P4 12 %, P5 82 %"
    assert level_shares(torch.tensor([224.0])) == "P4 100 %"


def test_pooling_a_5_by_5_map_drawn_here():
    """G14: features[y, x] = x at stride 4; an aligned box over columns 1 to 3 (pixels 4 to 16) has the means 1.5, 2,
    2.5 - 0.5."""
    features = torch.arange(5.0).repeat(5, 1)[None, None]                    # 5 x 5: each row is 0 1 2 3 4
    pooled = pool_level(features, torch.tensor([[0.0, 4.0, 4.0, 16.0, 16.0]]), level=2, out=3)
    # The box spans 0.5 .. 3.5 in feature coordinates (aligned): three bins of width 1 with centres 1, 2, 3.
    torch.testing.assert_close(pooled[0, 0], torch.tensor([[1.0, 2.0, 3.0]]).repeat(3, 1))


def test_pooling_equals_a_slow_loop_on_every_level():
    """G14."""
    g = torch.Generator().manual_seed(0)
    pyramid = [torch.randn(2, 3, 256 // 2**k, 256 // 2**k, generator=g) for k in range(2, 6)]
    boxes = [torch.tensor([[3.0, 5.0, 60.0, 90.0], [10.0, 20.0, 200.0, 180.0]]),
             torch.tensor([[0.0, 0.0, 250.0, 255.0], [-5.0, 30.0, 20.0, 44.0]])]
    pooled = pool_regions(pyramid, boxes, out=7)
    levels = roi_levels(torch.cat(boxes))
    assert len(set(levels.tolist())) > 2
    for i, (image, box) in enumerate([(0, b) for b in boxes[0]] + [(1, b) for b in boxes[1]]):
        level = int(levels[i])
        expected = plain_roi_align(pyramid[level - 2][image], box.tolist(), 2**level)
        torch.testing.assert_close(pooled[i], expected, rtol=1e-4, atol=1e-4)


def test_no_regions_are_pooled_to_nothing():
    pyramid = [torch.randn(1, 3, 8, 8)] * 4
    assert pool_regions(pyramid, [torch.zeros(0, 4)]).shape == (0, 3, 7, 7)


def test_coordinates_are_not_rounded_under_mixed_precision():
    """bfloat16 has 8 bits: as a coordinate 1001 would become 1000."""
    g = torch.Generator().manual_seed(0)
    pyramid = [torch.randn(1, 4, 1024 // 2**k, 1024 // 2**k, generator=g) for k in range(2, 6)]
    box = [torch.tensor([[1001.0, 1001.0, 1013.0, 1013.0]])]
    exact = pool_regions(pyramid, box)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = pool_regions([level.bfloat16() for level in pyramid], box)
    assert mixed.dtype == torch.bfloat16 and (mixed.float() - exact).norm() < 0.01 * exact.norm()

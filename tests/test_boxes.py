import math

import torch
import torchvision
from torchvision.models.detection._utils import BoxCoder

from s21k.core import boxes as B


def random_boxes(n, seed=0):
    g = torch.Generator().manual_seed(seed)
    corner = torch.rand(n, 2, generator=g) * 80
    return torch.cat([corner, corner + 1 + torch.rand(n, 2, generator=g) * 40], 1)


def test_iou_equals_torchvision():
    a, b = random_boxes(50), random_boxes(30, 1)
    torch.testing.assert_close(B.iou(a, b), torchvision.ops.box_iou(a, b))


def test_iou_of_empty_boxes_is_zero_not_nan():
    empty = torch.tensor([[3.0, 3.0, 3.0, 3.0]])
    assert B.iou(empty, empty).item() == 0
    assert B.iou(torch.zeros(0, 4), random_boxes(3)).shape == (0, 3)


def test_encode_and_decode_equal_torchvisions_coder():
    source, target = random_boxes(40), random_boxes(40, 1)
    for weights in (B.RPN_WEIGHTS, B.REGION_WEIGHTS):
        coder = BoxCoder(weights)
        deltas = B.encode(source, target, weights)
        torch.testing.assert_close(deltas, coder.encode([target], [source])[0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(B.decode(deltas, source, weights), coder.decode(deltas, [source]).squeeze(1),
                                   rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(B.decode(deltas, source, weights), target, rtol=1e-4, atol=1e-3)


def test_deltas_are_weighted_as_in_faster_rcnn():
    """G11, G13: a shift by a whole width and a doubled width are 1 and log 2, times 1 for anchors, times 10 and 5 for
    regions."""
    source, target = torch.tensor([[0.0, 0.0, 10.0, 10.0]]), torch.tensor([[5.0, 0.0, 25.0, 10.0]])
    torch.testing.assert_close(B.encode(source, target, B.RPN_WEIGHTS), torch.tensor([[1.0, 0.0, math.log(2), 0.0]]))
    torch.testing.assert_close(B.encode(source, target, B.REGION_WEIGHTS),
                               torch.tensor([[10.0, 0.0, 5 * math.log(2), 0.0]]))


def test_a_huge_delta_enlarges_a_side_62_5_times_at_most():
    """G13."""
    box = B.decode(torch.tensor([[0.0, 0.0, 50.0, 0.0]]), torch.tensor([[0.0, 0.0, 10.0, 10.0]]), B.RPN_WEIGHTS)
    assert abs((box[0, 2] - box[0, 0]).item() - 625) < 0.1


def test_clip_equals_torchvision():
    """G23."""
    boxes = random_boxes(20) * 3 - 60
    torch.testing.assert_close(B.clip(boxes, (50, 70)), torchvision.ops.clip_boxes_to_image(boxes, (50, 70)))


def test_the_whole_image_is_its_true_width_and_height():
    """P2, G15: [0, 0, w, h], not [0, 0, w - 1, h - 1]; sizes are (h, w)."""
    box = B.whole_image([(224, 320)])
    assert box.tolist() == [[0, 0, 320, 224]]

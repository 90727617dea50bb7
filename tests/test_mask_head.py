"""The mask head against torchvision's, and its loss against a slow loop."""
import math

import numpy as np
import pytest
import torch
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor

from s21k.core.mask_tensors import Masks
from s21k.core.masks import Outline
from s21k.core.structures import BACKGROUND, Regions, Target
from s21k.models.mask_head import MaskHead
from s21k.models.roi_pool import pool_regions

SIZE = (64, 64)


def pyramid(channels=8, batch=2):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(batch, channels, 64 // s, 64 // s, generator=generator) for s in (4, 8, 16, 32, 64)]


def rectangle(x1, y1, x2, y2):
    return Outline(SIZE, (np.array([x1, y1, x2, y1, x2, y2, x1, y2], dtype=float),))


def test_logits_equal_torchvisions_with_copied_weights():
    """P39, G2."""
    torch.manual_seed(0)
    ours, trunk, predictor = MaskHead(8), MaskRCNNHeads(8, (8, 8, 8, 8), 1), MaskRCNNPredictor(8, 8, 1)
    with torch.no_grad():
        for mine, theirs in zip([*ours.convs, ours.deconv, ours.predictor],
                                [*(block[0] for block in trunk), predictor.conv5_mask, predictor.mask_fcn_logits],
                                strict=True):
            mine.bias.uniform_(-0.2, 0.2)
            if mine is ours.predictor:
                mine.weight.normal_()
            theirs.weight.copy_(mine.weight)
            theirs.bias.copy_(mine.bias)
    levels, boxes = pyramid(), [torch.tensor([[3.0, 4.0, 40.0, 50.0]]),
                                torch.tensor([[0.0, 0.0, 64.0, 64.0], [5.0, 9.0, 12.0, 20.0]])]
    expected = predictor(trunk(pool_regions(levels, boxes, 14))).squeeze(1)
    assert expected.shape == (3, 28, 28) and expected.std() > 0.1
    torch.testing.assert_close(ours(levels, boxes), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.predict([level[1:] for level in levels], boxes[1]), expected[1:].sigmoid(),
                               rtol=1e-4, atol=1e-5)


def test_the_loss_is_the_mean_cross_entropy_over_the_cells_of_positive_regions():
    """P39, G2."""
    torch.manual_seed(1)
    head, levels = MaskHead(8), pyramid()
    torch.nn.init.normal_(head.predictor.weight)
    targets = [Target(torch.tensor([[8.0, 8.0, 40.0, 40.0], [0.0, 0.0, 20.0, 60.0]]), torch.tensor([0, 1]),
                      Masks((rectangle(8, 8, 24, 40), rectangle(0, 0, 20, 60)))),
               Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), Masks(()))]
    boxes = torch.tensor([[0.0, 0.0, 56.0, 56.0], [10.0, 10.0, 24.0, 38.0], [30.0, 30.0, 50.0, 50.0]])
    regions = [Regions(boxes, torch.tensor([0, 1, BACKGROUND]), boxes, torch.tensor([0, 1, -1]), 2),
               Regions(boxes[:1], torch.tensor([BACKGROUND]), boxes[:1], torch.tensor([-1]), 0)]
    loss = head.losses(levels, regions, targets)["mask"]
    logits = head(levels, [boxes[:2], boxes[:0]])
    total = 0.0
    for r, (x1, y1, x2, y2) in enumerate([(8, 8, 24, 40), (0, 0, 20, 60)]):
        for row in range(28):
            for column in range(28):
                side_x, side_y = (boxes[r, 2] - boxes[r, 0]) / 28, (boxes[r, 3] - boxes[r, 1]) / 28
                x, y = boxes[r, 0] + (column + 0.5) * side_x, boxes[r, 1] + (row + 0.5) * side_y
                probability = 1 / (1 + math.exp(-float(logits[r, row, column].detach())))
                total -= math.log(probability if x1 < x < x2 and y1 < y < y2 else 1 - probability)
    assert float(loss.detach()) == pytest.approx(total / (2 * 28 * 28), rel=1e-4)
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.parameters())


def test_without_positive_regions_the_loss_is_zero_and_tied_to_the_graph():
    head, levels = MaskHead(8), pyramid(batch=1)
    regions = [Regions(torch.tensor([[0.0, 0.0, 9.0, 9.0]]), torch.tensor([BACKGROUND]), torch.zeros(1, 4),
                       torch.tensor([-1]), 0)]
    loss = head.losses(levels, regions,
                       [Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), Masks(()))])["mask"]
    loss.backward()
    assert float(loss.detach()) == 0 and all(p.grad is not None and p.grad.abs().sum() == 0 for p in head.parameters())

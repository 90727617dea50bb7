"""FPN and RPN against torchvision with copied weights and equal anchors."""
from collections import OrderedDict

import torch
import torch.nn.functional as F
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from s21k.core.config import load_config
from s21k.core.structures import Target
from s21k.models.anchors import STRIDES, level_anchors, pyramid_anchors
from s21k.models.detector import build_detector
from s21k.models.fpn import FPN
from s21k.models.rpn import RPN


def test_anchors_have_the_area_of_their_scale_and_three_ratios():
    """G10, by hand for the first place of P2: 32 x 32 in area, height / width 0.5, 1, 2, centred at (0, 0)."""
    anchors = level_anchors(2, 3, 4, 8.0, torch.device("cpu"))
    assert anchors.shape == (18, 4)
    w, h = anchors[:3, 2] - anchors[:3, 0], anchors[:3, 3] - anchors[:3, 1]
    torch.testing.assert_close(w * h, torch.full((3,), 1024.0))
    torch.testing.assert_close(h / w, torch.tensor([0.5, 1.0, 2.0]))
    torch.testing.assert_close((anchors[:3, :2] + anchors[:3, 2:]), torch.zeros(3, 2))
    # next column, then next row
    assert anchors[3].tolist() == (anchors[0] + torch.tensor([4.0, 0, 4, 0])).tolist()
    assert anchors[9].tolist() == (anchors[0] + torch.tensor([0.0, 4, 0, 4])).tolist()


def test_anchors_equal_torchvisions_but_for_its_rounding():
    features = [torch.zeros(1, 1, 256 // s, 320 // s) for s in STRIDES]
    generator = AnchorGenerator(tuple((8 * s,) for s in STRIDES), ((0.5, 1.0, 2.0),) * 5)
    theirs = generator(ImageList(torch.zeros(1, 3, 256, 320), [(256, 320)]), features)[0]
    ours = torch.cat(pyramid_anchors(features, 8.0))
    assert (ours - theirs).abs().max() <= 0.5


def test_fpn_equals_torchvision():
    """G10."""
    ours = FPN([8, 16, 32, 64], 24)
    theirs = FeaturePyramidNetwork([8, 16, 32, 64], 24, extra_blocks=LastLevelMaxPool())
    state = {}
    for i in range(4):
        for part in ("weight", "bias"):
            state[f"inner_blocks.{i}.0.{part}"] = ours.lateral[i].state_dict()[part]
            state[f"layer_blocks.{i}.0.{part}"] = ours.output[i].state_dict()[part]
    theirs.load_state_dict(state)
    levels = [torch.randn(2, c, s, s + 3) for c, s in ((8, 33), (16, 17), (32, 9), (64, 5))]
    for a, b in zip(ours(levels), theirs(OrderedDict((str(i), level) for i, level in enumerate(levels))).values()):
        torch.testing.assert_close(a, b)


def test_a_copied_output_layer_is_that_of_its_level_everywhere():
    """G15: stage2.copy_fpn_output; the layers stay apart afterwards, and the lateral ones as they were."""
    fpn = FPN([8, 16, 32, 64], 24)
    lateral, p3 = fpn.lateral[1].weight.clone(), fpn.output[1].weight.clone()
    assert not torch.equal(fpn.output[0].weight, p3)
    fpn.copy_output(3)
    assert all(torch.equal(conv.weight, p3) and torch.equal(conv.bias, fpn.output[1].bias) for conv in fpn.output)
    assert torch.equal(fpn.lateral[1].weight, lateral)
    with torch.no_grad():
        fpn.output[0].weight.zero_()
    assert torch.equal(fpn.output[1].weight, p3)


class OurAnchors(torch.nn.Module):
    """torchvision's network with our (not rounded) anchors."""

    def num_anchors_per_location(self):
        return [3] * 5

    def forward(self, images, features):
        anchors = torch.cat(pyramid_anchors(features, 8.0))
        return [anchors] * len(images.image_sizes)


def pair(batch=256):
    torch.manual_seed(0)
    ours = RPN(16, 8.0, batch, (200, 100), (150, 80))
    for conv in (ours.conv, ours.objectness, ours.deltas):
        torch.nn.init.normal_(conv.weight, std=0.1)
    head = RPNHead(16, 3)
    head.load_state_dict({"conv.0.0.weight": ours.conv.weight, "conv.0.0.bias": ours.conv.bias,
                          "cls_logits.weight": ours.objectness.weight,
                          "cls_logits.bias": ours.objectness.bias, "bbox_pred.weight": ours.deltas.weight,
                          "bbox_pred.bias": ours.deltas.bias})
    theirs = RegionProposalNetwork(OurAnchors(), head, 0.7, 0.3, batch, 0.5, {"training": 200, "testing": 100},
                                   {"training": 150, "testing": 80}, 0.7)
    # we drop what is clipped to nothing; its own default is 1e-3
    theirs.min_size = 1e-6
    features = [torch.randn(2, 16, 128 // s, 192 // s) for s in STRIDES]
    return ours, theirs, features


def test_proposals_equal_torchvisions():
    """G11."""
    ours, theirs, features = pair()
    sizes = [(128, 192), (100, 150)]
    for mode in (True, False):
        ours.train(mode)
        theirs.train(mode)
        mine, _ = ours(features, sizes)
        if mode:
            # torchvision wants targets in training: take its parts
            images, named = ImageList(torch.zeros(2, 3, 128, 192), sizes), features
            logits, deltas = theirs.head(named)
            anchors = theirs.anchor_generator(images, named)
            counts = [level[0].numel() for level in logits]
            from torchvision.models.detection.rpn import concat_box_prediction_layers
            flat_logits, flat_deltas = concat_box_prediction_layers(logits, deltas)
            decoded = theirs.box_coder.decode(flat_deltas.detach(), anchors).view(2, -1, 4)
            other, _ = theirs.filter_proposals(decoded, flat_logits, sizes, counts)
        else:
            other, _ = theirs(ImageList(torch.zeros(2, 3, 128, 192), sizes),
                              OrderedDict((str(i), f) for i, f in enumerate(features)))
        for a, b in zip(mine, other):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)


def test_losses_equal_torchvisions_with_every_anchor_sampled():
    """Sampling all makes the choice of anchors equal. Where the rules differ [G11] the difference is computed here:
    torchvision divides by the anchors found and smooths the L1 below 1/9; we divide by batch x images."""
    ours, theirs, features = pair(batch=100_000)
    targets = [Target(torch.tensor([[10.0, 20.0, 60.0, 90.0], [100.0, 30.0, 140.0, 60.0]]), torch.tensor([0, 1])),
               Target(torch.tensor([[5.0, 5.0, 100.0, 80.0]]), torch.tensor([2]))]
    sizes = [(128, 192)] * 2
    _, losses = ours.train()(features, sizes, targets, [1, 2])
    theirs.train()
    _, other = theirs(ImageList(torch.zeros(2, 3, 128, 192), sizes),
                      OrderedDict((str(i), f) for i, f in enumerate(features)),
                      [{"boxes": t.boxes} for t in targets])
    anchors = theirs.anchor_generator(ImageList(torch.zeros(2, 3, 128, 192), sizes), features)
    labels, matched = theirs.assign_targets_to_anchors(anchors, [{"boxes": t.boxes} for t in targets])
    found = sum(int((label >= 0).sum()) for label in labels)
    torch.testing.assert_close(losses["rpn_objectness"] * 100_000 * 2 / found, other["loss_objectness"], rtol=1e-4,
                               atol=1e-5)
    logits, deltas = ours.head(features)
    wanted = theirs.box_coder.encode(matched, anchors)
    l1 = sum(F.l1_loss(d[label == 1], w[label == 1], reduction="sum")
             for d, w, label in zip(torch.cat(deltas, 1), wanted, labels))
    torch.testing.assert_close(losses["rpn_box"], l1 / (100_000 * 2), rtol=1e-4, atol=1e-6)


def test_the_bound_of_the_rescue_is_a_key_of_the_configuration():
    """G11: an object that only small overlaps touch has positive anchors without the bound, and none with
    mmdetection's."""
    pulled_up = {}
    for bound in (0.0, 0.3):
        ours = build_detector(load_config(["toy", f"model.rpn_rescue_iou={bound}"])).rpn
        anchors = torch.cat(pyramid_anchors([torch.zeros(1, 16, 128 // s, 192 // s) for s in STRIDES], 4.0))
        logits, deltas = torch.zeros(1, len(anchors), requires_grad=True), torch.zeros(1, len(anchors), 4)
        target = Target(torch.tensor([[40.0, 40.0, 43.0, 43.0]]), torch.tensor([0]))         # 3 px: best IoU 9 / 256
        ours.losses(anchors, logits, deltas, [target], [0])["rpn_objectness"].backward()
        pulled_up[bound] = int((logits.grad < 0).sum())
    assert pulled_up[0.0] > 0 and pulled_up[0.3] == 0


def test_half_of_the_sampled_anchors_hold_an_object_at_most():
    """G11, on logits of zero: the gradient pulls up the sampled anchors that hold an object, pulls down the other
    sampled ones."""
    ours, _, features = pair(batch=8)
    anchors = torch.cat(pyramid_anchors(features, 8.0))
    logits, deltas = torch.zeros(1, len(anchors),
                                 requires_grad=True), torch.zeros(1, len(anchors), 4, requires_grad=True)
    target = Target(anchors[::500][:10], torch.zeros(10, dtype=torch.int64))
    ours.losses(anchors, logits, deltas, [target], [0])["rpn_objectness"].backward()
    assert int((logits.grad < 0).sum()) == int((logits.grad > 0).sum()) == 4

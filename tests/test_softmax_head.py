"""The plain C + 1 head of fine-tuning against torchvision's Faster R-CNN loss and a slow loop (Table 5) [G31]."""
import pytest
import torch
import torch.nn.functional as F
from torchvision.models.detection.roi_heads import fastrcnn_loss

from s21k.core import boxes as B
from s21k.core.config import load_config
from s21k.core.errors import InputError
from s21k.core.structures import BACKGROUND
from s21k.models.assign import sample_regions
from s21k.models.detector import build_detector
from s21k.models.softmax_head import SoftmaxHead
from tests.test_detector import batch
from tests.toy import SMALL


def sampled():
    torch.manual_seed(0)
    det = batch(2, objects=3)
    proposals = [torch.cat([t.boxes + 2, torch.rand(20, 2).repeat(1, 2) * 30 + torch.tensor([0.0, 0, 12, 12])])
                 for t in det.targets]
    return sample_regions(proposals, det.targets, [1, 2], 16)


def test_the_category_loss_is_torchvisions():
    """G31. Its classes are one higher, background is its 0; its mean is over all sampled regions, too."""
    regions, head = sampled(), SoftmaxHead(32, 5)
    x = torch.randn(sum(len(r.labels) for r in regions), 32) * 5
    logits, deltas = head(x)
    labels = torch.cat([r.labels for r in regions])
    theirs, _ = fastrcnn_loss(logits.roll(1, dims=1), deltas.repeat(1, 6), [labels + 1], [torch.zeros(len(labels), 4)])
    ours = head.region_losses(x, regions)
    torch.testing.assert_close(ours["region_score"], theirs)
    objects = labels != BACKGROUND
    wanted = B.encode(torch.cat([r.boxes for r in regions])[objects], torch.cat([r.gt_boxes for r in regions])[objects],
                      B.REGION_WEIGHTS)
    torch.testing.assert_close(ours["region_box"], F.l1_loss(deltas[objects], wanted, reduction="sum") / len(labels))
    assert objects.any() and not objects.all()


def test_scores_are_the_softmax_without_background():
    head = SoftmaxHead(32, 3)
    x, boxes = torch.randn(4, 32), torch.tensor([[0.0, 0, 10, 10]] * 4)
    probabilities = head(x)[0].softmax(1)
    scores = head.region_scores(x, boxes, (20, 20), torch.tensor([2, -1, 0]), torch.full((3,), -1)).rows(0, 4)
    torch.testing.assert_close(scores, torch.stack([probabilities[:, 2], torch.zeros(4), probabilities[:, 0]], dim=1))
    assert (scores.sum(1) + probabilities[:, 3] + probabilities[:, 1]).allclose(torch.ones(4))


def test_it_takes_the_place_of_the_decoupled_head_and_trains():
    model = build_detector(load_config(["toy", *SMALL, "model.head=softmax", "data.cls=null"]))
    losses = model(batch(2), None)
    sum(losses.values()).backward()
    assert model.box_head.det_classifier.weight.grad.abs().sum() > 0 and not hasattr(model.box_head, "foreground")
    with pytest.raises(InputError, match="softmax has no g-hat"):
        build_detector(load_config(["toy", *SMALL, "model.head=softmax"]))


def test_fine_tuning_inherits_by_the_table(tmp_path):
    """Rows of Table 5 [P49, G31]: the backbone alone, or backbone, FPN, RoI head and RPN of a stage-II model; never
    category rows or boxes."""
    source = build_detector(load_config(["toy", *SMALL]))
    model = build_detector(load_config(["toy", *SMALL, "model.head=softmax", "data.cls=null"]))
    fresh = {k: v.clone() for k, v in model.state_dict().items()}
    taken, random = model.inherit(source.state_dict(), "backbone")
    assert taken == ["backbone"] and random == ["category layer", "box regression", "FPN", "RoI head, first layer",
                                                "RoI head, second layer", "RPN"]
    changed = {k.split(".")[0] + "." + k.split(".")[1]
               for k, v in model.state_dict().items() if not torch.equal(v, fresh[k])}
    assert changed == {"encoder.backbone"}
    taken, random = model.inherit(source.state_dict())
    assert (taken == ["backbone", "FPN", "RoI head, first layer", "RoI head, second layer", "RPN"]
            and random == ["category layer", "box regression"])
    for key, value in model.state_dict().items():
        same = (torch.equal(value, source.state_dict()[key])
                if key in source.state_dict() and source.state_dict()[key].shape == value.shape else False)
        assert same or key.startswith("box_head.") , key
    assert torch.equal(model.box_head.box_regressor.weight, fresh["box_head.box_regressor.weight"])

"""The baselines against their definitions, in plain loops; and that each trains what it says."""
import math

import numpy as np
import pytest
import torch

from s21k.core.config import load_config
from s21k.core.randomness import set_seed
from s21k.models.baselines import SigmoidHead, SoftmaxLabelHead, cam_box, cam_maps, chosen_boxes
from s21k.models.classifier import build_classifier
from s21k.models.detector import build_detector
from tests.toy import SMALL, batch


def make(kind):
    set_seed(0, "test")
    return build_detector(load_config(["toy", *SMALL, f"stage2.baseline={kind}"]))


def test_detics_loss_is_the_sum_of_binary_cross_entropies_over_categories():
    head, x, labels = SigmoidHead(8, 3, 5), torch.randn(4, 8) * 3, torch.tensor([0, 4, 2, 2])
    # one category of five is the prior
    logits = head.classify(x).double() - math.log(4)
    slow = 0.0
    for row, label in zip(logits, labels.tolist()):
        for c, z in enumerate(row.tolist()):
            p = 1 / (1 + math.exp(-z))
            slow -= math.log(p if c == label else 1 - p)
    assert head.image_losses(x, labels)["image_category"].item() == pytest.approx(slow / 4, rel=1e-5)


def test_detics_scores_are_foreground_times_sigmoid_and_fuse_with_g():
    head, x, boxes = SigmoidHead(8, 3, 5), torch.randn(4, 8), torch.tensor([[0.0, 0, 9, 9]] * 4)
    fg, det, _ = head(x)
    scores = head.region_scores(x, boxes, (20, 20), torch.tensor([1, -1]), torch.tensor([0, 4])).rows(0, 4)
    s_fg, s, s_hat = torch.sigmoid(fg), det.softmax(1), torch.sigmoid(head.classify(x) - math.log(4))
    torch.testing.assert_close(scores[:, 1], s_fg * s_hat[:, 4])
    torch.testing.assert_close(scores[:, 0], s_fg * s[:, 1] ** (2 / 3) * s_hat[:, 0] ** (1 / 3))


def test_one_softmax_over_c_plus_one_has_the_form_of_eq_4():
    head, x = SoftmaxLabelHead(8, 3, 5), torch.randn(6, 8) * 2
    background, logits = head.foreground(x), head.det_classifier(x)
    joint = torch.cat([logits, background], dim=1).softmax(1)                            # C + 1, background last
    fg, det, _ = head(x)
    torch.testing.assert_close(torch.sigmoid(fg)[:, None] * det.softmax(1), joint[:, :3])
    torch.testing.assert_close(1 - torch.sigmoid(fg), joint[:, 3])
    boxes = torch.tensor([[0.0, 0, 9, 9]] * 6)
    scores = head.region_scores(x, boxes, (20, 20), torch.tensor([-1]), torch.tensor([2])).rows(0, 6)
    torch.testing.assert_close(scores[:, 0], (1 - joint[:, 3]) * head.classify(x).softmax(1)[:, 2])


@pytest.mark.parametrize("kind", ["max_size", "max_score", "image"])
def test_each_chooses_the_region_it_is_named_after(kind):
    model, cls = make(kind), batch(3, objects=1, seed=1)
    from s21k.files.images import normalize
    pyramid = model.encoder.pyramid(normalize(cls.images, cls.sizes), cls.seeds)
    chosen = chosen_boxes(kind, model, pyramid, cls)
    proposals, _ = model.rpn(pyramid, cls.sizes)
    for i, (box, boxes) in enumerate(zip(chosen, proposals)):
        if kind == "image":
            assert box.tolist() == [[0, 0, 64, 64]]
        elif kind == "max_size":
            areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in boxes.tolist()]
            assert box[0].tolist() == boxes[int(np.argmax(areas))].tolist()
        else:
            x = model.encoder.regions([level[i:i + 1] for level in pyramid], [boxes])
            best = int(model.box_head.classify(x)[:, cls.image_labels()[i]].argmax())
            assert box[0].tolist() == boxes[best].tolist()


@pytest.mark.parametrize("kind", ["max_size", "max_score", "image", "softmax"])
def test_the_labels_reach_the_encoder_and_g_hat_but_not_the_rpn(kind):
    model = make(kind)
    losses = model(batch(2), batch(6, objects=1, seed=1))
    losses["image_category"].backward()
    touched = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert "box_head.cls_classifier.weight" in touched and "encoder.fc1.weight" in touched
    assert not any(n.startswith(("rpn.", "box_head.foreground", "box_head.det_classifier", "box_head.box_regressor"))
                   for n in touched)


def test_a_class_activation_map_averages_to_the_logit():
    """Zhou et al. (2016), Eq. 2."""
    classifier = build_classifier(load_config(["toy", *SMALL, "no_reform"]).model, 4, 0.0).eval()
    images = torch.randn(2, 3, 64, 64)
    maps, logits = cam_maps(classifier, images)
    torch.testing.assert_close(logits, classifier(images), rtol=1e-4, atol=1e-5)
    assert maps.shape == (2, 4, 2, 2)


def test_the_cams_box_is_around_the_largest_part():
    activation = torch.zeros(10, 10)
    activation[1:3, 1:3] = 1.0                                                            # a small part,
    activation[5:9, 4:9] = 0.9                                                            # and a larger one
    activation[0, 9] = 0.3                                                                # below the threshold
    assert cam_box(activation, 0.5, (10, 10)) == [4, 5, 9, 9]
    assert cam_box(activation, 0.95, (10, 10)) == [1, 1, 3, 3]
    assert cam_box(torch.zeros(4, 4), 0.5, (8, 8)) == [0, 0, 8, 8]

"""For comparison only: what a reader would ask about, on the same encoder, RPN and heads (s21k.experiments).

  max_size, max_score, image   Detic's image losses (Zhou et al., 2022): g-hat learns, by binary cross-entropy, from the
                               largest proposal of a labelled image, from the one that scores its label highest, or
                               from the entire image
  softmax                      one softmax over C + 1 in place of f and g, beside the paper's g-hat
  CAM                          class activation maps of the pooled classifier (Zhou et al., 2016): no boxes in training
                               at all

B labelled images    R regions    C, C^ categories    K evaluated categories
"""
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s21k.core import boxes as B
from s21k.core.structures import Batch, RegionScores
from s21k.core.transfer import to_device
from s21k.models.box_head import BoxHead

NUM_PROPOSALS = 128                                 # of a labelled image, the best by objectness (Detic's WS_NUM_PROPS)


class SigmoidHead(BoxHead):
    """f, g and boxes as ours; g-hat's categories are independent, as Detic's: S^_c = sigmoid(g-hat_c - log(C^ - 1)).
    The constant is the prior of one category in C^, as Detic has one in its bias. Stage I's g-hat is that of a softmax:
    without it this loss would start at ten times ours (24 against 2.5 on 40 classes), with it at less than twice."""

    def sigmoid_logits(self, x: Tensor) -> Tensor:
        """x (R, d) -> (R, C^)."""
        logits = self.classify(x)
        return logits - math.log(max(logits.shape[1] - 1, 1))

    def image_losses(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.sigmoid_logits(x)
        wanted = F.one_hot(labels, logits.shape[1]).float()
        loss = F.binary_cross_entropy_with_logits(logits, wanted, reduction="sum")
        return {"image_category": loss / max(len(labels), 1)}

    def region_scores(self, x: Tensor, boxes: Tensor, size: tuple[int, int], det_index: Tensor, cls_index: Tensor,
                      fusion: str = "geometric", exponent: float = 2 / 3) -> RegionScores:
        scores = super().region_scores(x, boxes, size, det_index, cls_index, fusion, exponent)
        fg_logits, _, _ = self(x)
        scores.cls_logits, scores.cls_norm = F.logsigmoid(self.sigmoid_logits(x)), -F.logsigmoid(fg_logits)
        return scores


class SoftmaxLabelHead(BoxHead):
    """One softmax over C + 1, whose foreground probability takes the place of S_fg, also for g-hat's categories.
    With logits z_1 .. z_C and z_0 of the background it is sigmoid(logsumexp(z_1..C) - z_0) times softmax(z_1..C): the
    same form as Eq. 4, but f is no classifier of its own."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        background, det_logits, deltas = super().forward(x)
        return det_logits.logsumexp(dim=1) - background, det_logits, deltas


def chosen_boxes(kind: str, detector: nn.Module, pyramid: list[Tensor], cls: Batch) -> list[Tensor]:
    """The one region of each labelled image that g-hat learns from: B times (1, 4), without gradient."""
    whole = list(to_device(B.whole_image(cls.sizes), pyramid[0].device).split(1))
    if kind == "image":
        return whole
    with torch.no_grad():
        proposals, _ = detector.rpn([level.detach() for level in pyramid], cls.sizes)
        proposals = [boxes[:NUM_PROPOSALS] if len(boxes) else image for boxes, image in zip(proposals, whole)]
        if kind == "max_size":
            return [boxes[B.area(boxes).argmax()][None] for boxes in proposals]
        logits = detector.box_head.classify(detector.encoder.regions(pyramid, proposals))                # (R, C^)
        per_image = logits.split([len(boxes) for boxes in proposals])
        return [boxes[rows[:, label].argmax()][None]
                for boxes, rows, label in zip(proposals, per_image, cls.image_labels().tolist())]


@torch.no_grad()
def cam_maps(classifier: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """images (B, 3, H, W) normalised, a PooledClassifier -> maps (B, C^, H/32, W/32), logits (B, C^).
    A map is a class's last weights times the features at each place; its mean plus the bias is the logit."""
    features = classifier.backbone(images, None)[-1]                                                     # (B, c5, h, w)
    maps = torch.einsum("bchw,kc->bkhw", features, classifier.cls_classifier.weight)
    return maps, maps.mean(dim=(2, 3)) + classifier.cls_classifier.bias


def cam_box(activation: Tensor, threshold: float, size: tuple[int, int]) -> list[float]:
    """activation (h, w) of one class -> [x1, y1, x2, y2] in an image of size (h, w): around the largest connected part
    of the upsampled map that reaches threshold times its range above its minimum."""
    scaled = F.interpolate(activation[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]
    low, high = scaled.min(), scaled.max()
    mask = scaled >= low + threshold * (high - low)
    # Parts: every pixel takes the largest number among its neighbours in the mask until nothing changes.
    labels = torch.where(mask, torch.arange(1, mask.numel() + 1).view(size).float(), 0.0)
    while True:
        grown = F.max_pool2d(labels[None, None], 3, stride=1, padding=1)[0, 0] * mask
        if torch.equal(grown, labels):
            break
        labels = grown
    numbers, counts = labels[mask].unique(return_counts=True)
    ys, xs = torch.nonzero(labels == numbers[counts.argmax()], as_tuple=True)
    return [float(xs.min()), float(ys.min()), float(xs.max() + 1), float(ys.max() + 1)]

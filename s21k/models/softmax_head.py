"""The plain head of Faster R-CNN: one softmax over C categories and background (Table 5's fine-tuning) [P49, P90, G31].

The same interface as box_head.BoxHead, without image labels: no g-hat, and the background is category C here, the one
place in this code where it is one. Boxes stay class-agnostic.

R regions    d  size of x    C  detection categories
"""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s21k.core import boxes as B
from s21k.core.distributed import mean_over_ranks
from s21k.core.structures import BACKGROUND, DenseScores, Regions, RegionScores, object_rows
from s21k.core.transfer import to_device


class SoftmaxHead(nn.Module):
    NEW = ("category layer", "box regression")  # never inherited
    cls_classifier = None                       # there is none to inherit or to train

    def __init__(self, dim: int, num_det: int) -> None:
        super().__init__()
        self.det_classifier = nn.Linear(dim, num_det + 1)
        self.box_regressor = nn.Linear(dim, 4)
        for layer, std in ((self.det_classifier, 0.01), (self.box_regressor, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (R, d) -> logits (R, C + 1), deltas (R, 4), in float32 also under autocast."""
        with torch.autocast(x.device.type, enabled=False):
            return self.det_classifier(x.float()), self.box_regressor(x.float())

    def region_losses(self, x: Tensor, regions: list[Regions]) -> dict[str, Tensor]:
        """As BoxHead's: cross-entropy over C + 1 and L1, both divided by the number of sampled regions."""
        labels = torch.cat([r.labels for r in regions])                                      # (R,)
        objects = object_rows(regions, x.device)
        logits, deltas = self(x)
        normalizer = mean_over_ranks(to_device(len(labels), x.device, torch.float32)).clamp(min=1)
        score = F.cross_entropy(logits, labels.masked_fill(labels == BACKGROUND, logits.shape[1] - 1),
                                reduction="sum") / normalizer
        source, truth = (torch.cat(boxes)[objects]
                         for boxes in ([r.boxes for r in regions], [r.gt_boxes for r in regions]))
        box = F.l1_loss(deltas[objects], B.encode(source, truth, B.REGION_WEIGHTS), reduction="sum") / normalizer
        return {"region_score": score, "region_box": box}

    def region_scores(self, x: Tensor, boxes: Tensor, size: tuple[int, int], det_index: Tensor, cls_index: Tensor,
                      fusion: str = "geometric", exponent: float = 2 / 3) -> RegionScores:
        """As BoxHead's. A category that the detection data does not know has score 0; there is nothing to fuse."""
        logits, deltas = self(x)
        decoded = B.clip(B.decode(deltas, boxes, B.REGION_WEIGHTS), size)
        scores = logits.softmax(1)[:, det_index.clamp(min=0)]                                # (R, K)
        return DenseScores(decoded, torch.where(det_index >= 0, scores, 0.0))

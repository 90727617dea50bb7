"""The decoupled head (Sec. 3.2): f, g, g-hat and class-agnostic boxes, all linear on x_i [P20-P23].

R regions    d  size of x    C  detection categories    C^  classification categories
"""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s21k.core import boxes as B
from s21k.core.distributed import mean_over_ranks
from s21k.core.structures import BACKGROUND, Regions, RegionScores, object_rows
from s21k.core.transfer import to_device
from s21k.models.fused_scores import FusedScores
from s21k.models.scores import image_nll, region_bce, region_nll


class BoxHead(nn.Module):
    """loss_reading, loss_norm: the two open choices of P25 [G3]. num_cls None: no g-hat.

    novel_rows (n,): the rows of g-hat of categories that have no boxes, where f shall not learn from what g-hat takes
    for one of them with a probability of ignore_novel_above or more. Ours, off by default (None) [G6].
    """
    NEW = ("f", "g", "box regression")                  # never inherited [P29]

    def __init__(self, dim: int, num_det: int, num_cls: int | None, loss_reading: str = "nll",
                 loss_norm: str = "all", ignore_novel_above: float = 0.0) -> None:
        super().__init__()
        self.loss_reading, self.loss_norm = loss_reading, loss_norm
        self.novel_rows: Tensor | None = None
        self.ignore_novel_above = ignore_novel_above
        self.foreground = nn.Linear(dim, 1)                                                  # f, Eq. 1
        self.det_classifier = nn.Linear(dim, num_det)                                        # g, Eq. 2
        self.cls_classifier = None if num_cls is None else nn.Linear(dim, num_cls)           # g-hat, Eq. 3
        # Class-agnostic: categories without boxes have none to learn from [G1].
        self.box_regressor = nn.Linear(dim, 4)
        for layer, std in ((self.foreground, 0.01), (self.det_classifier, 0.01), (self.cls_classifier, 0.01),
                           (self.box_regressor, 0.001)):
            if layer is not None:
                nn.init.normal_(layer.weight, std=std)
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (R, d) -> f (R,), g (R, C), deltas (R, 4), also under autocast in float32: nothing is rounded."""
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            return self.foreground(x).squeeze(1), self.det_classifier(x), self.box_regressor(x)

    def classify(self, x: Tensor) -> Tensor:
        """x (R, d) -> g-hat (R, C^), in float32."""
        with torch.autocast(x.device.type, enabled=False):
            return x.new_zeros(len(x), 0) if self.cls_classifier is None else self.cls_classifier(x.float())

    def region_losses(self, x: Tensor, regions: list[Regions]) -> dict[str, Tensor]:
        """x (R, d) of the sampled regions of B images -> {"region_score", "region_box"}.
        f and g see detection data only [P26, P27]. Every sum is divided by the number of sampled
        regions, averaged over the processes, so that N of them give one's gradients [G3, G13]."""
        labels = torch.cat([r.labels for r in regions])                                      # (R,)
        objects = object_rows(regions, x.device)                        # (n,) which of them hold one
        fg_logits, det_logits, deltas = self(x)
        counts = mean_over_ranks(to_device([len(labels), len(objects)], x.device, torch.float32))
        normalizer, num_objects = counts.clamp(min=1).unbind()
        scored = fg_logits, det_logits, labels
        if self.novel_rows is not None:
            clear = ~self.unclear_background(x, labels)
            scored = fg_logits[clear], det_logits[clear], labels[clear]
        if self.loss_reading == "bce_product":
            score = region_bce(*scored, normalizer)
        else:
            score = region_nll(*scored, normalizer, num_objects if self.loss_norm == "fg" else None)
        source = torch.cat([r.boxes for r in regions])[objects]
        wanted = B.encode(source, torch.cat([r.gt_boxes for r in regions])[objects], B.REGION_WEIGHTS)
        box = F.l1_loss(deltas[objects].float(), wanted, reduction="sum") / normalizer
        return {"region_score": score, "region_box": box}

    @torch.no_grad()
    def unclear_background(self, x: Tensor, labels: Tensor) -> Tensor:
        """x (R, d), labels (R,) -> (R,) bool: background that may be an object nobody drew a box around [G6]."""
        novel = self.classify(x).softmax(dim=1)[:, self.novel_rows]
        return (labels == BACKGROUND) & (novel >= self.ignore_novel_above).any(dim=1)

    def image_losses(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """x (B, d) of whole-image RoIs, labels (B,) -> {"image_category"}: g-hat alone [P19, P26, G5]."""
        return {"image_category": image_nll(self.classify(x), labels)}

    def region_scores(self, x: Tensor, boxes: Tensor, size: tuple[int, int], det_index: Tensor, cls_index: Tensor,
                      fusion: str = "geometric", exponent: float = 2 / 3) -> RegionScores:
        """One image at test time: x (R, d), proposals (R, 4), valid (h, w) -> boxes (R, 4), scores of K categories."""
        fg_logits, det_logits, deltas = self(x)
        decoded = B.clip(B.decode(deltas.float(), boxes, B.REGION_WEIGHTS), size)
        return FusedScores(decoded, fg_logits, det_logits, self.classify(x), det_index, cls_index, fusion, exponent)

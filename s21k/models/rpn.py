"""Region proposal network (Ren et al., 2015) on a pyramid: objectness, deltas, losses, proposals.

B images    N anchors of an image over all levels    T pixels of a level x 3 anchors
"""
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import batched_nms

from s21k.core import boxes as B
from s21k.core.randomness import derive_seed
from s21k.core.structures import BACKGROUND, Target
from s21k.models.anchors import RATIOS, pyramid_anchors
from s21k.models.assign import match, subsample

NMS_THRESHOLD = 0.7                     # [G11]
LOW, HIGH = 0.3, 0.7                    # [G11]


class RPN(nn.Module):
    """pre_nms, post_nms: (training, test); batch: sampled anchors an image; rescue_iou: of `match` [G11]."""

    def __init__(self, channels: int, anchor_scale: float = 8.0, batch: int = 256,
                 pre_nms: tuple[int, int] = (2000, 1000), post_nms: tuple[int, int] = (1000, 1000),
                 rescue_iou: float = 0.0) -> None:
        super().__init__()
        self.anchor_scale, self.batch, self.pre_nms, self.post_nms = anchor_scale, batch, pre_nms, post_nms
        self.rescue_iou = rescue_iou
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.objectness = nn.Conv2d(channels, len(RATIOS), 1)
        self.deltas = nn.Conv2d(channels, 4 * len(RATIOS), 1)
        for conv in (self.conv, self.objectness, self.deltas):
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.bias)

    def head(self, pyramid: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """P2..P6 -> for each level objectness logits (B, T) and deltas (B, T, 4), in the anchors' order."""
        logits, deltas = [], []
        for features in pyramid:
            hidden = F.relu(self.conv(features))
            logits.append(self.objectness(hidden).permute(0, 2, 3, 1).flatten(1).float())
            deltas.append(self.deltas(hidden).permute(0, 2, 3, 1).reshape(len(features), -1, 4).float())
        return logits, deltas

    def forward(self, pyramid: list[Tensor], sizes: list[tuple[int, int]], targets: list[Target] | None = None,
                seeds: list[int] | None = None) -> tuple[list[Tensor], dict[str, Tensor]]:
        """sizes: valid areas (h, w). With targets (and the images' seeds) also the two losses.
        Returns proposals B times (Ri, 4), best first, without gradient, and {"rpn_objectness", "rpn_box"}."""
        anchors = pyramid_anchors(pyramid, self.anchor_scale)            # 5 times (T, 4)
        logits, deltas = self.head(pyramid)
        losses = {} if targets is None else self.losses(
            torch.cat(anchors), torch.cat(logits, 1), torch.cat(deltas, 1), targets, seeds)
        with torch.no_grad():
            proposals = self.propose(anchors, logits, deltas, sizes)
        return proposals, losses

    def losses(self, anchors: Tensor, logits: Tensor, deltas: Tensor, targets: list[Target],
               seeds: list[int]) -> dict[str, Tensor]:
        """anchors (N, 4), logits (B, N), deltas (B, N, 4): cross-entropy and L1 over the sampled anchors.
        Both are divided by batch * B, the number asked for, not the number found [G11]."""
        objectness, box = logits.sum() * 0, deltas.sum() * 0             # keeps the graph if nothing is sampled
        matches = [match(target.boxes, anchors, LOW, HIGH, rescue=True, rescue_above=self.rescue_iou)
                   for target in targets]
        sampled = subsample(matches, self.batch, 0.5, [derive_seed(seed, "anchors") for seed in seeds])
        for image_logits, image_deltas, target, owner, (positive, negative) in zip(
                logits, deltas, targets, matches, sampled):
            chosen = torch.cat([positive, negative])
            labels = (owner[chosen] != BACKGROUND).float()
            wanted = B.encode(anchors[positive], target.boxes[owner[positive]], B.RPN_WEIGHTS)
            objectness = objectness + F.binary_cross_entropy_with_logits(image_logits[chosen], labels, reduction="sum")
            box = box + F.l1_loss(image_deltas[positive], wanted, reduction="sum")
        normalizer = self.batch * len(targets)
        return {"rpn_objectness": objectness / normalizer, "rpn_box": box / normalizer}

    def propose(self, anchors: list[Tensor], logits: list[Tensor], deltas: list[Tensor],
                sizes: list[tuple[int, int]]) -> list[Tensor]:
        """The best anchors of each level, moved by their deltas, clipped, NMS within a level, the best of all."""
        pre_nms, post_nms = (setting[0 if self.training else 1] for setting in (self.pre_nms, self.post_nms))
        boxes, scores, levels = [], [], []
        for level, (level_anchors, level_logits, level_deltas) in enumerate(zip(anchors, logits, deltas)):
            best, chosen = level_logits.topk(min(pre_nms, level_logits.shape[1]), dim=1)         # (B, n)
            picked = level_deltas.gather(1, chosen[..., None].expand(-1, -1, 4))                 # (B, n, 4)
            boxes.append(B.decode(picked, level_anchors[chosen], B.RPN_WEIGHTS))
            scores.append(best)
            levels.append(torch.full_like(chosen, level))
        all_scores, all_levels = torch.cat(scores, 1), torch.cat(levels, 1)                      # (B, n)
        all_boxes = torch.stack([B.clip(image_boxes, size) for image_boxes, size in zip(torch.cat(boxes, 1), sizes)])
        # An anchor in the padding is clipped to nothing; non-finite boxes come of a diverged model only.
        sides = all_boxes[..., 2:] - all_boxes[..., :2]
        usable = (sides > 0).all(-1) & all_boxes.isfinite().all(-1) & all_scores.isfinite()      # (B, n)
        usable_first = (~usable).byte().argsort(dim=1, stable=True)
        proposals = []
        # One wait for the device for all images, then one in each image's NMS.
        for image, (rows, count) in enumerate(zip(usable_first, usable.sum(dim=1).tolist())):
            rows = rows[:count]
            image_boxes = all_boxes[image, rows]
            kept = batched_nms(image_boxes, all_scores[image, rows], all_levels[image, rows], NMS_THRESHOLD)
            proposals.append(image_boxes[kept[:post_nms]])
        return proposals

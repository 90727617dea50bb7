"""Which object an anchor or a proposal stands for, and which of them are trained on.

M objects    N anchors or proposals of one image    R sampled regions
"""
import torch
from torch import Tensor

from s21k import boxes as B
from s21k.randomness import derive_seed, uniform
from s21k.structures import BACKGROUND, IGNORE, Regions, Target


def match(iou: Tensor, low: float, high: float, rescue: bool, rescue_above: float = 0.0) -> Tensor:
    """iou (M, N) -> (N,): the object with the largest IoU if it is >= high, BACKGROUND (-1) if
    it is < low, IGNORE (-2) between. rescue: an object's best candidates are objects, too, if
    their IoU with it is >= rescue_above.
    """
    m, n = iou.shape
    if m == 0:
        return torch.full((n,), BACKGROUND, dtype=torch.int64, device=iou.device)
    best, match_index = iou.max(dim=0)                                   # (N,)
    result = torch.where(best >= high, match_index, torch.full_like(match_index, IGNORE))
    result = torch.where(best < low, torch.full_like(match_index, BACKGROUND), result)
    if rescue:
        # An object that no anchor touches has best IoU 0; rescuing "all anchors with IoU == best"
        # would then turn every untouched anchor positive.
        best_of_object = iou.max(dim=1, keepdim=True).values             # (M, 1)
        rescued = ((iou == best_of_object) & (best_of_object > 0) & (best_of_object >= rescue_above)).any(dim=0)
        result = torch.where(rescued, match_index, result)
    return result


def subsample(matches: Tensor, count: int, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """matches (N,) as of `match` -> positions of chosen positives and negatives.

    At most count * fraction positives; negatives fill up to count (P62: the usual rule, G11, G13).
    The choice is by the smallest of N numbers made of seed: the same on any device, and for
    any number of processes.
    """
    noise = uniform(derive_seed(seed, "subsample"), len(matches), matches.device)
    positives, negatives = (matches >= 0).nonzero().squeeze(1), (matches == BACKGROUND).nonzero().squeeze(1)
    num_positive = min(len(positives), int(count * fraction))
    num_negative = min(len(negatives), count - num_positive)
    return (positives[noise[positives].topk(num_positive, largest=False).indices],
            negatives[noise[negatives].topk(num_negative, largest=False).indices])


def sample_regions(proposals: list[Tensor], targets: list[Target], seeds: list[int],
                   count: int = 512, fraction: float = 0.25) -> list[Regions]:
    """Regions to train the heads on (G13): at most `count` an image, positives first.

    proposals B times (Ri, 4). The objects themselves join the proposals; a region with IoU >= 0.5
    takes the object's category, every other is BACKGROUND.
    """
    sampled = []
    for boxes, target, seed in zip(proposals, targets, seeds):
        boxes = torch.cat([boxes, target.boxes])                         # (N, 4)
        matches = match(B.iou(target.boxes, boxes), 0.5, 0.5, rescue=False)
        positives, negatives = subsample(matches, count, fraction, derive_seed(seed, "regions"))
        objects = matches[positives]
        nothing = torch.full_like(negatives, BACKGROUND)
        sampled.append(Regions(
            boxes=boxes[torch.cat([positives, negatives])],
            labels=torch.cat([target.labels[objects], nothing]),
            gt_boxes=torch.cat([target.boxes[objects], boxes[negatives]]),
            gt_index=torch.cat([objects, nothing])))
    return sampled

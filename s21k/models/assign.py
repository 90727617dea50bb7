"""Which object an anchor or a proposal is matched to, and which of them are trained on.

M objects    N anchors or proposals of one image    R sampled regions
"""
from collections.abc import Iterable

import torch
from torch import Tensor

from s21k.core import boxes as B
from s21k.core.randomness import derive_seed, uniform
from s21k.core.structures import BACKGROUND, IGNORE, Regions, Target

PAIRS = 1 << 23                         # IoUs that exist at a time: 134 MB while they are computed


def match(objects: Tensor, candidates: Tensor, low: float, high: float, rescue: bool,
          rescue_above: float = 0.0) -> Tensor:
    """Boxes (M, 4) and (N, 4) -> (N,): the object with the largest IoU if it is >= high, BACKGROUND (-1) if
    it is < low, IGNORE (-2) between. rescue: an object's best candidates are objects, too, if
    their IoU with it is >= rescue_above."""
    step = max(1, PAIRS // max(len(candidates), 1))
    parts = (B.iou(some, candidates) for some in objects.split(step) if len(some))
    return match_iou(parts, len(candidates), objects.device, low, high, rescue, rescue_above)


def match_iou(parts: Iterable[Tensor], n: int, device: torch.device, low: float, high: float, rescue: bool,
              rescue_above: float = 0.0) -> Tensor:
    """The same of IoUs (M, N), given some objects at a time."""
    best = torch.zeros(n, device=device)                                 # (N,) the largest IoU so far
    match_index = torch.zeros(n, dtype=torch.int64, device=device)       # (N,) and its object
    rescued = torch.zeros(n, dtype=torch.bool, device=device)
    first = 0
    for iou in parts:                                                    # (m, N)
        largest, index = iou.max(dim=0)
        better = largest > best                                          # ties: the first object
        best, match_index = torch.where(better, largest, best), torch.where(better, index + first, match_index)
        if rescue:
            # Of an object that no anchor touches the best IoU is 0: "IoU == best" would rescue every untouched anchor.
            best_of_object = iou.amax(dim=1, keepdim=True)               # (m, 1)
            enough = (best_of_object > 0) & (best_of_object >= rescue_above)
            rescued |= ((iou == best_of_object) & enough).any(dim=0)
        first += len(iou)
    result = torch.where(best >= high, match_index, torch.full_like(match_index, IGNORE))
    result = torch.where(best < low, torch.full_like(match_index, BACKGROUND), result)
    return torch.where(rescued, match_index, result)


def subsample(matches: list[Tensor], count: int, fraction: float, seeds: list[int]) -> list[tuple[Tensor, Tensor]]:
    """matches (N,) of each image, as of `match` -> positions of its chosen positives and negatives.

    At most count * fraction positives; negatives fill up to count [P62: the usual rule, G11, G13].
    The choice is by the smallest of N numbers made of an image's seed: the same on any device, and for
    any number of processes. One wait for the device: how many of each kind there are.
    """
    most = int(count * fraction)
    chosen, found = [], []
    for image_matches, seed in zip(matches, seeds):
        noise = uniform([derive_seed(seed, "subsample")], len(image_matches), image_matches.device)[0]
        for eligible, wanted in ((image_matches >= 0, most), (image_matches == BACKGROUND, count)):
            order = noise.masked_fill(~eligible, 2.0)                    # those that are not come last
            chosen.append(order.topk(min(wanted, len(order)), largest=False).indices)
            found.append(eligible.sum())
    counts = torch.stack(found).tolist() if found else []
    result = []
    for positives, negatives, num_positive, num_negative in zip(chosen[::2], chosen[1::2], counts[::2], counts[1::2]):
        positives = positives[:num_positive]
        result.append((positives, negatives[:min(num_negative, count - len(positives))]))
    return result


def sample_regions(proposals: list[Tensor], targets: list[Target], seeds: list[int],
                   count: int = 512, fraction: float = 0.25) -> list[Regions]:
    """Regions to train the heads on [G13]: at most `count` an image, positives first.
    proposals B times (Ri, 4). The objects themselves join the proposals; a region with IoU >= 0.5
    takes the object's category, every other is BACKGROUND."""
    candidates = [torch.cat([boxes, target.boxes]) for boxes, target in zip(proposals, targets)]  # B times (N, 4)
    matches = [match(target.boxes, boxes, 0.5, 0.5, rescue=False) for boxes, target in zip(candidates, targets)]
    chosen = subsample(matches, count, fraction, [derive_seed(seed, "regions") for seed in seeds])
    sampled = []
    for boxes, target, image_matches, (positives, negatives) in zip(candidates, targets, matches, chosen):
        objects = image_matches[positives]
        nothing = torch.full_like(negatives, BACKGROUND)
        sampled.append(Regions(
            boxes=boxes[torch.cat([positives, negatives])],
            labels=torch.cat([target.labels[objects], nothing]),
            gt_boxes=torch.cat([target.boxes[objects], boxes[negatives]]),
            gt_index=torch.cat([objects, nothing]),
            num_objects=len(positives)))
    return sampled

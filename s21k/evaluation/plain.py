"""Average precision and localization accuracy the obvious way: to be read first, and to test the fast way against.

Nothing in evaluation calls these. tests/test_plain.py holds each equal to its fast way:

  plain_average_precision, plain_lvis   average_precision.py (COCO: Lin et al., 2014), lvis.py (Gupta et al., 2019)
  plain_localization                    localization.py (Sec. 4.3)

Boxes are [x, y, w, h], as in COCO's files. E-numbers: the rules of the evaluation, as in average_precision.py.
"""
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

RECALLS = np.linspace(0, 1, 101)                    # E23


class Found(NamedTuple):
    """A detection."""
    category: int
    score: float
    box: Sequence[float]


class Truth(NamedTuple):
    """A box to be found. crowd: may match again and again; ignored: counts neither as found nor as missed."""
    category: int
    box: Sequence[float]
    area: float
    crowd: bool = False
    ignored: bool = False


@dataclass
class PlainImage:
    """One image: what was found, in the order in which it was written, and what is there.

    LVIS only: negative, categories checked to be absent; not_exhaustive, categories of which not all boxes are drawn.
    """
    found: list[Found]
    truths: list[Truth]
    negative: set[int] = field(default_factory=set)
    not_exhaustive: set[int] = field(default_factory=set)


def plain_iou(a: Sequence[float], b: Sequence[float], crowd: bool = False) -> float:
    """Intersection over union of two boxes; with a crowd b, over the area of a [E14, E17]."""
    w = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    h = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    if w <= 0 or h <= 0:
        return 0.0
    return w * h / (a[2] * a[3] if crowd else a[2] * a[3] + b[2] * b[3] - w * h)


def plain_match(found: list[Found], truths: list[Truth], threshold: float,
                area: tuple[float, float] = (0, 1e10), excused: bool = False) -> list[tuple[float, str]]:
    """COCO's greedy matching of one image and category [E13-E18]: each detection's score, and right, wrong or ignored.

    found: best first. area: truths, and unmatched detections, of another size are ignored; excused: unmatched ones
    always are.
    """
    low, high = area
    ignored = [truth.crowd or truth.ignored or not low <= truth.area <= high for truth in truths]
    taken: set[int] = set()
    results = []
    for _, score, box in found:
        best, match = min(threshold, 1 - 1e-10), -1
        for t in sorted(range(len(truths)), key=lambda t: ignored[t]):   # truths that count come first
            if t in taken and not truths[t].crowd:
                continue
            if match >= 0 and ignored[t] and not ignored[match]:
                break                                                    # nothing ignored beats one that counts
            iou = plain_iou(box, truths[t].box, truths[t].crowd)
            if iou >= best:                                              # ties: the last one wins
                best, match = iou, t
        if match >= 0:
            taken.add(match)
            results.append((score, "ignored" if ignored[match] else "right"))
        else:
            inside = low <= box[2] * box[3] <= high
            results.append((score, "wrong" if inside and not excused else "ignored"))
    return results


def plain_precision(results: list[tuple[float, str]], num_truths: int) -> float:
    """The area under one category's precision-recall curve [E20-E23]: all images' results -> the mean of 101 points.

    Ranked by score; the precision at a recall is the best one at that recall or above. -1: there is nothing to find.
    """
    if num_truths == 0:
        return -1.0
    counted = [verdict for _, verdict in sorted(results, key=lambda row: -row[0]) if verdict != "ignored"]
    recall, precision = [], []
    right = 0
    for place, verdict in enumerate(counted, start=1):
        right += verdict == "right"
        recall.append(right / num_truths)
        precision.append(right / (place + np.spacing(1)))
    for place in reversed(range(len(precision) - 1)):
        precision[place] = max(precision[place], precision[place + 1])   # the envelope
    points = []
    for wanted in RECALLS:
        reached = [p for r, p in zip(recall, precision, strict=True) if r >= wanted]
        points.append(reached[0] if reached else 0.0)
    return float(np.mean(points))


def plain_average_precision(images: list[PlainImage], num_categories: int, threshold: float,
                            area: tuple[float, float] = (0, 1e10), max_detections: int = 100) -> list[float]:
    """COCO's AP of each category at one IoU threshold [E11-E23]: the best max_detections of each image and category."""
    precisions = []
    for category in range(num_categories):
        results, num_truths = [], 0
        for image in images:
            truths = [truth for truth in image.truths if truth.category == category]
            found = sorted((f for f in image.found if f.category == category), key=lambda f: -f.score)[:max_detections]
            results += plain_match(found, truths, threshold, area, category in image.not_exhaustive)
            num_truths += sum(not t.crowd and not t.ignored and area[0] <= t.area <= area[1] for t in truths)
        precisions.append(plain_precision(results, num_truths))
    return precisions


def plain_lvis(images: list[PlainImage], num_categories: int, threshold: float, area: tuple[float, float] = (0, 1e10),
               max_detections: int = 300) -> list[float]:
    """LVIS's AP of each category [E28-E32]: as COCO's, of what an image is judged for.

    The best max_detections of an image over all categories (-1: all), unknown ones (-1) included, are left. Those count
    that have an area and a category that has a box in the image or was checked to be absent. There are no crowds, and a
    truth without an area is none [E29].
    """
    judged_images = []
    for image in images:
        truths = [truth._replace(crowd=False) for truth in image.truths if truth.area > 0]
        judged = {truth.category for truth in truths} | image.negative
        best = sorted(image.found, key=lambda f: -f.score)
        best = best if max_detections < 0 else best[:max_detections]
        found = [f for f in best if f.category in judged and f.box[2] * f.box[3] > 0]
        judged_images.append(PlainImage(found, truths, image.negative, image.not_exhaustive))
    everything = max((len(image.found) for image in judged_images), default=0)
    return plain_average_precision(judged_images, num_categories, threshold, area, everything)


def plain_localization(ranked: list[Found], five: list[Found], category: int, boxes: list[Sequence[float]],
                       threshold: float = 0.5) -> dict[str, bool]:
    """Sec. 4.3's localization accuracy of one image of one category that has these boxes [P73, P74, P83, E38-E44].

    ranked: every (region, category), best first; five: the five best detections after NMS. An answer is right when its
    category is the image's and its box has IoU > threshold with one of the image's boxes.
    """
    def is_right(answer: Found) -> bool:
        return answer.category == category and any(plain_iou(answer.box, box) > threshold for box in boxes)

    best_of: dict[int, Found] = {}                                       # each category's best box, best category first
    for answer in ranked:
        best_of.setdefault(answer.category, answer)
    return {"top1": any(map(is_right, ranked[:1])), "top5": any(map(is_right, five)),
            "top5_classes": any(map(is_right, list(best_of.values())[:5])), "gt_known": category in best_of
            and is_right(best_of[category])}

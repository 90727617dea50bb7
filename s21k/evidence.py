"""What the detections of one photo were made of, the plain way, and drawings of it: for s21k.explain.

R regions    C, C^ categories of the detection and the classification data    K evaluated categories
"""
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from s21k.core.errors import InputError
from s21k.draw import color_of_place, contact_sheet, draw_regions, draw_tagged, enlarged, faded, heat, with_legend
from s21k.models.plain import Pair, PlainResult, plain_postprocess
from s21k.models.roi_pool import MAX_LEVEL, MIN_LEVEL, roi_levels
from s21k.photos import Opened, photo_batch
from s21k.training.amp import autocast

MOST_CANDIDATES = 3_000_000                         # pairs above the threshold; the plain way holds each as an object
SHORTER_SIDE = 480                                  # smaller photos are enlarged to it: many boxes need room
IN_LEGEND = 12                                      # boxes that are named below the drawing
LEVELS = range(MIN_LEVEL, MAX_LEVEL + 1)
LEVEL_COLORS = dict(zip(LEVELS, ((66, 165, 245), (102, 187, 106), (255, 202, 40), (239, 83, 80)), strict=True))


@dataclass
class Evidence:
    """All that one photo's detections were made of, on the CPU.

    proposals (R, 4), the RPN's best first, and boxes (R, 4), after regression: in the photo's pixels; levels (R,) that
    the proposals were pooled from; fg (R,), det (R, C), cls (R, C^) logits; scores (R, K) as the detector ranks them;
    result: of NMS in the network's pixels, its boxes in the photo's; input_size: the network's (h, w).
    """
    proposals: Tensor
    levels: Tensor
    boxes: Tensor
    fg: Tensor
    det: Tensor
    cls: Tensor
    scores: Tensor
    result: PlainResult
    input_size: tuple[int, int]


def look(opened: Opened, image: Image.Image) -> Evidence:
    """One photo through the detector. InputError: scores that are no numbers, or far too many above eval.threshold."""
    batch, test, head = photo_batch(opened, image), opened.cfg.eval, opened.detector.box_head
    known = opened.categories.to(opened.device)
    with torch.no_grad(), autocast(opened.cfg.amp, opened.device):
        _, proposals, x = next(opened.detector.region_features(batch))
        fg, det, _ = head(x)
        regions = head.region_scores(x, proposals, batch.sizes[0], known.det_index, known.cls_index, test.fusion,
                                     test.fusion_exponent)
        cls = head.classify(x)
        every = torch.arange(len(known), device=opened.device)
        rows = [regions.at(torch.full_like(every, region), every) for region in range(len(proposals))]
    scores = torch.stack(rows).cpu() if rows else torch.zeros(0, len(known))
    if scores.isnan().any():
        raise InputError("scores are not numbers: the weights are damaged, or the activations overflowed (amp=fp16)")
    if (count := int((scores > test.threshold).sum())) > MOST_CANDIDATES:
        raise InputError(f"eval.threshold={test.threshold:g}: {count} scores are above it, expected at most "
                         f"{MOST_CANDIDATES} to explain them one by one; a higher one leaves fewer")
    boxes = regions.boxes.cpu()
    result = plain_postprocess(boxes, scores, test.threshold, test.nms, test.max_detections, test.class_agnostic_nms)
    divisor = torch.tensor([*batch.scales[0], *batch.scales[0]])
    result.boxes = result.boxes / divisor
    proposals = proposals.cpu()
    return Evidence(proposals / divisor, roi_levels(proposals), boxes / divisor, fg.cpu(), det.cpu(), cls.cpu(), scores,
                    result, batch.sizes[0])


def draw_evidence(image: Image.Image, evidence: Evidence, names: list[str], shown: list[Pair],
                  asked: list[Pair]) -> dict[str, Image.Image]:
    """Drawings by name: proposals coloured by S_fg, by pyramid level, and detections with the boxes that they removed.
    shown: (region, category) of the detections, best first; asked: others that lost, and are drawn beside them."""
    photo, factor = enlarged(image, SHORTER_SIDE)
    s_fg = torch.sigmoid(evidence.fg.double())
    least_first = s_fg.argsort().tolist()                                # the likeliest object lies on top
    proposals = (evidence.proposals[least_first] * factor).tolist()
    by_score = draw_regions(faded(photo), proposals, [heat(s_fg[region].item()) for region in least_first])
    levels = evidence.levels[least_first].tolist()
    by_level = draw_regions(faded(photo), proposals, [LEVEL_COLORS[level] for level in levels])
    thick = shown + asked
    color = {pair: color_of_place(place) for place, pair in enumerate(thick)}
    removed = [(pair, better) for pair, better in evidence.result.removed_by.items() if better in color]
    boxes = (evidence.boxes * factor).tolist()
    kept = draw_regions(photo, [boxes[region] for (region, _), _ in removed], [color[better] for _, better in removed])
    place = {pair: str(place) for place, pair in enumerate(evidence.result.survivors, start=1)}
    tags = [place.get(pair, "lost") for pair in thick]
    kept = draw_tagged(kept, [boxes[region] for region, _ in thick], [color[pair] for pair in thick], tags)
    meanings = [(color[pair], f"{tag}: {names[pair[1]]} {float(evidence.scores[pair]):.2g}")
                for pair, tag in zip(thick, tags, strict=True)]
    hidden = len(meanings) - IN_LEGEND
    meanings[IN_LEGEND:] = [(None, f"and {hidden} more")] if hidden > 0 else []
    counts = [(LEVEL_COLORS[level], f"P{level}: {levels.count(level)}") for level in LEVELS]
    removed_text = f"thin: {len(removed)} worse boxes, in the colour of the one that removed them"
    drawings = {"proposals": with_legend(by_score, [(heat(v), f"S_fg {v:g}") for v in (0, 0.25, 0.5, 0.75, 1)]),
                "levels": with_legend(by_level, counts),
                "kept": with_legend(kept, [*meanings, (None, removed_text)])}
    captions = ["proposals, coloured by S_fg (Eq. 1)", "the same, by pyramid level (FPN's rule)",
                "kept and removed (NMS)"]
    return drawings | {"explained": contact_sheet(list(drawings.values()), columns=3, captions=captions)}

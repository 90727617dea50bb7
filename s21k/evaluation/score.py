"""Score a saved detections file against an annotation file.

    python -m s21k.evaluation.score --metric coco --annotations gt.json --detections dets.npz --out metrics.json

--metric coco   average precision as COCO defines it: AP AP50 AP75 APs APm APl AR1 AR10 AR100 ARs ARm ARl
--metric lvis   as LVIS defines it: AP AP50 AP75 APs APm APl APr APc APf AR@300 ARs@300 ARm@300 ARl@300
--metric loc    localization accuracy of images of one category: top1 top5 top5_classes gt_known has_gt_class_det
                cls_top1 cls_top5 images
--metric in21k  the 21,000-category benchmark: the best 100 detections of each image; AP AP50 AP75, AP_fed AP50_fed
                AP75_fed (own category only), the figures of loc, truncated_images
--groups G      JSON {"base": [category ids], "novel": [..]}: AP_<group> AP50_<group>, or <key>_<group>
--max-dets N    coco: of each (image, category), the best N (100); lvis: of each image (300), -1 for all;
                in21k: of each image (100)
--iou-type segm  IoU of masks in place of boxes; coco and lvis
--iou-threshold T (0.5), --iou-at-least (>= instead of >): loc and in21k
--per-category  adds {"per_category": {category id: [AP, AP50]}}; not with loc

Detections: COCO's results JSON, or an .npz with image_id, category_id, score (N,) and bbox (N, 4) [x, y, w, h]; for
masks also rle_counts (uint8, all of them one after the other), rle_offsets (N + 1,), rle_size (N, 2). What it costs:
ten million boxes take one core 7 seconds from .npz (0.3 GB) and 22 from JSON (1 GB, read in pieces). Values are
fractions; -1 where there is nothing to find.
"""
import argparse
import json
from pathlib import Path

import numpy as np

from s21k.core.errors import InputError, note, run_command, unlisted
from s21k.evaluation.average_precision import AveragePrecision
from s21k.evaluation.detections_file import locate, read_detections
from s21k.evaluation.ground_truth import GroundTruth
from s21k.evaluation.in21k import In21kReport
from s21k.evaluation.localization import LocalizationAccuracy
from s21k.evaluation.lvis import LvisAveragePrecision


def read_groups(path: Path, gt: GroundTruth) -> dict[str, np.ndarray]:
    """name -> (K,) bool. InputError: not of the form {"name": [ids]}, or an id that gt does not have."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"--groups {path}: cannot be read ({error})") from None
    if not isinstance(content, dict) or not all(isinstance(ids, list) for ids in content.values()):
        raise InputError(f'--groups {path}: expected {{"name": [category ids], ..}}')
    known = set(gt.category_ids.tolist())
    for name, ids in content.items():
        wrong = np.array([not isinstance(i, int) or i not in known for i in ids], dtype=bool)
        if line := unlisted(wrong, ids, "ids", "of categories"):
            raise InputError(f"--groups {path}: {name}: {line}, which are those of {gt.path}")
    return {name: np.isin(gt.category_ids, ids) for name, ids in content.items()}


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m s21k.evaluation.score")
    parser.add_argument("--metric", choices=("coco", "lvis", "loc", "in21k"), required=True)
    parser.add_argument("--iou-type", choices=("bbox", "segm"), default="bbox")
    parser.add_argument("--annotations", type=Path, required=True)
    parser.add_argument("--detections", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--groups", type=Path)
    parser.add_argument("--max-dets", type=int)
    parser.add_argument("--iou-threshold", type=float, default=0.5)
    parser.add_argument("--iou-at-least", action="store_true")
    parser.add_argument("--per-category", action="store_true")
    a = parser.parse_args(argv)
    max_dets = {"coco": 100, "lvis": 300, "loc": 1, "in21k": 100}[a.metric] if a.max_dets is None else a.max_dets
    if not (max_dets >= 1 or (a.metric == "lvis" and max_dets == -1)) or not 0 <= a.iou_threshold <= 1:
        raise InputError("expected --max-dets of at least 1 (lvis: or -1), --iou-threshold between 0 and 1")
    masks = a.iou_type == "segm"
    if masks and a.metric not in ("coco", "lvis"):
        raise InputError(f"--iou-type segm: --metric {a.metric} is of boxes")
    gt = GroundTruth.load(a.annotations, masks=masks, with_crowds=a.metric == "lvis")
    if a.groups:
        gt.groups = read_groups(a.groups, gt)
    detections = locate(read_detections(a.detections, masks), gt, keep_unknown=a.metric == "lvis")
    if a.metric == "coco":
        metric = AveragePrecision(gt, max_dets, "mask" if masks else "box")
        print(f"AP as COCO defines it, {len(gt.image_ids)} images, {len(gt.category_ids)} categories, best {max_dets} "
              f"of each image and category")
    elif a.metric == "lvis":
        metric = LvisAveragePrecision(gt, max_dets, "mask" if masks else "box")
        print(f"AP as LVIS defines it, {len(gt.image_ids)} images, {len(gt.category_ids)} categories, best {max_dets} "
              f"of each image (-1: all)")
    elif a.metric == "in21k":
        metric = In21kReport(gt, max_dets, a.iou_threshold, a.iou_at_least)
        print(f"{len(gt.image_ids)} images, {len(gt.category_ids)} categories\n{metric.protocol}")
    else:
        metric = LocalizationAccuracy(gt, a.iou_threshold, a.iou_at_least)
        print(f"localization accuracy, IoU {'>=' if a.iou_at_least else '>'} {a.iou_threshold}")
    metric.add_all(detections)
    results: dict = metric.compute()
    warnings = getattr(metric, "warnings", [])
    for warning in warnings:
        note(f"{a.annotations}: {warning}")
    for key, value in results.items():
        print(f"  {key:<20} "
              f"{value if key.startswith(('images', 'truncated')) else round(100 * value, 2) if value >= 0 else '-'}")
    if a.per_category and a.metric != "loc":
        ap = metric.per_category
        results["per_category"] = {str(i): [float(ap[:, k].mean()), float(ap[0, k])]
                                   for k, i in enumerate(gt.category_ids.tolist())}
    results |= {"warnings": warnings} if warnings else {}
    if a.out:
        try:
            a.out.write_text(json.dumps(results, indent=1))
        except OSError as error:
            raise InputError(f"--out {a.out}: cannot be written ({error})") from None


if __name__ == "__main__":
    run_command(main, __doc__)

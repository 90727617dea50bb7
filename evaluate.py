"""Detect on the evaluation images and score: localization accuracy and average precision.

    python evaluate.py r18 tiny                            one process
    torchrun --nproc-per-node=8 evaluate.py r18 tiny       eight; the same figures

Words as for training. Reads runs/<words>/stage2.pt (or eval.checkpoint=PATH); writes metrics.json,
detections.json and .npz, and pictures/ into the same folder.
"""
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from s21k.categories import CategoryMap
from s21k.config import load_config
from s21k.data.detection import DetectionData
from s21k.data.loaders import eval_batches
from s21k.distributed import gather_objects, print0, start_distributed, stop_distributed
from s21k.draw import contact_sheet, draw_boxes
from s21k.errors import InputError, note, run_command
from s21k.evaluation.average_precision import AveragePrecision
from s21k.evaluation.columns import DetectionColumns
from s21k.evaluation.ground_truth import GroundTruth
from s21k.evaluation.in21k import In21kReport
from s21k.evaluation.localization import LocalizationAccuracy, box_baselines
from s21k.evaluation.lvis import LvisAveragePrecision
from s21k.image_files import check_images
from s21k.images import read_image
from s21k.models.detector import restore_detector
from s21k.plan import plan_evaluation
from s21k.structures import Detections
from s21k.training.checkpoint import read
from s21k.training.run import AMP, settle, trained

METRICS = {"localization": LocalizationAccuracy, "box_ap": AveragePrecision, "in21k": In21kReport, "lvis_box_ap": LvisAveragePrecision,
           "mask_ap": partial(AveragePrecision, kind="mask"), "lvis_mask_ap": partial(LvisAveragePrecision, kind="mask")}
PREFIXES = {"mask_ap": "mask_", "lvis_box_ap": "lvis_", "lvis_mask_ap": "lvis_mask_"}      # of the keys in metrics.json


def with_ids(found: DetectionColumns, category_ids: np.ndarray) -> DetectionColumns:
    """Categories as ids of the annotation file; one that the file lacks has no id there, and goes."""
    known = np.flatnonzero(category_ids[found.category] >= 0)
    found = found.take(known)
    return replace(found, category=category_ids[found.category])


def write_detections(folder: Path, parts: list[DetectionColumns]) -> None:
    """detections.npz (columns, exact) and detections.json (COCO's results format, boxes to 0.01 pixel), in ascending image id."""
    found = DetectionColumns.join(sorted(parts, key=lambda part: part.image[0] if len(part) else -1))
    columns = {"image_id": found.image, "category_id": found.category, "score": found.scores, "bbox": found.boxes}
    if found.masks is not None:
        columns |= {"rle_counts": found.masks.counts.data, "rle_offsets": found.masks.counts.offsets, "rle_size": found.masks.sizes}
    np.savez(folder / "detections.npz", **columns)
    with open(folder / "detections.json", "w") as file:                  # some rows at a time: there may be ten million
        for first in range(0, max(len(found), 1), 10000):
            some = slice(first, min(first + 10000, len(found)))
            rows = [{"image_id": image, "category_id": category, "bbox": [round(v, 2) for v in box], "score": score}
                    for image, category, score, box in zip(*(column[some].tolist() for column in (found.image, found.category, found.scores, found.boxes)))]
            for number, row in enumerate(rows if found.masks is not None else [], start=first):
                row["segmentation"] = {"size": found.masks[number]["size"], "counts": found.masks[number]["counts"].decode()}
            file.write(("[" if first == 0 else ", ") + json.dumps(rows)[1:-1])
        file.write("]")


def draw_pictures(folder: Path, shown: dict[int, Detections], data: DetectionData, gt: GroundTruth, categories: CategoryMap) -> None:
    """pictures/<image id>.png, ground truth beside the best detections, and contact_sheet.png of them all."""
    folder.mkdir(exist_ok=True)
    several = len(set(categories.groups)) > 1
    names = [f"{name} ({group})" if several and group != "base" else name for name, group in zip(categories.names, categories.groups)]
    tiles = []
    for image_id, detections in sorted(shown.items()):
        position = gt.image_position(image_id)
        image = read_image(data.path(position), expected=data.size(position))
        mine = gt.image == position
        truth = gt.boxes[mine].copy()
        truth[:, 2:] += truth[:, :2]
        good = detections.scores >= max(0.05, 0.5 * float(detections.scores[0])) if len(detections.scores) else detections.scores > 0
        best = detections.pick(good.nonzero().squeeze(1).tolist()[:3])
        outlines = None if gt.masks is None else [gt.masks[i].rle() for i in np.flatnonzero(mine).tolist()]
        pair = [draw_boxes(image, truth, [names[c] for c in gt.category[mine]], None, outlines),
                draw_boxes(image, best.boxes.cpu().numpy(), [names[i] for i in best.labels.tolist()], best.scores.tolist(), best.masks)]
        tiles.append(contact_sheet(pair, columns=2, captions=["ground truth", "detections"]))
        tiles[-1].save(folder / f"{image_id}.png")
    if tiles:
        contact_sheet(tiles, columns=3).save(folder / "contact_sheet.png")


def print_table(results: dict[str, float], groups: list[str]) -> None:
    """The figures as per cent, a line a metric, a column a group."""
    columns = ["", *groups]
    print0(f"{'metric':<22}{'all':>6}" + "".join(f"{name:>10}" for name in groups))
    keys = [key for key in results if not any(key.endswith(f"_{group}") for group in groups)]
    for key in keys:
        row = [results.get(f"{key}_{group}" if group else key) for group in columns]
        shown = ["" if v is None else f"{v:d}" if key.startswith(("images", "truncated")) else f"{100 * v:.1f}" if v >= 0 else "-" for v in row]
        print0(f"{key:<22}" + f"{shown[0]:>6}" + "".join(f"{v:>10}" for v in shown[1:]))


@torch.no_grad()
def main(words: list[str]) -> None:
    cfg = load_config([word for word in words if word != "--plan"])
    if "--plan" in words:
        return plan_evaluation(cfg)
    test, where = cfg.eval, cfg.data.eval
    if where is None:
        raise InputError("data.eval: missing, expected annotations, images and categories to evaluate on")
    if unknown := [name for name in test.metrics if name not in METRICS]:
        raise InputError(f"eval.metrics: {unknown[0]!r} is none of {', '.join(METRICS)}")
    world = start_distributed(cfg.timeout)
    settle(cfg, world, one_size=False)
    root = Path(cfg.data.root)
    categories = CategoryMap.load(root / where.categories)
    if "in21k" in test.metrics and {"localization", "box_ap"} & set(test.metrics):
        raise InputError("eval.metrics: in21k reports localization and AP itself, by the benchmark's rules: expected it without localization and box_ap")
    of_masks = [name for name in test.metrics if "mask" in name]
    if of_masks and not cfg.model.with_masks:
        raise InputError(f"eval.metrics: {of_masks[0]} needs model.with_masks=true")
    gt = GroundTruth.load(root / where.annotations, categories, masks=bool(of_masks))
    data = DetectionData(root / where.annotations, root / where.images)
    check_images("data.eval.images", data.sample())
    if absent := int((gt.category_ids < 0).sum()):
        print0(f"{absent} of the {len(categories)} categories are not in {where.annotations}: they have no boxes to find there")
    detector = restore_detector(cfg, read(trained(cfg)), categories).to(world.device)
    categories = categories.to(world.device)
    metrics = {name: METRICS[name](gt) for name in test.metrics}

    pictured = set(gt.image_ids[np.linspace(0, len(gt.image_ids) - 1, min(test.pictures, len(gt.image_ids))).round().astype(int)].tolist())
    columns: list[DetectionColumns] = []
    shown: dict[int, Detections] = {}
    unreadable: list[str] = []
    for batch in eval_batches(cfg, data, world):
        batch = batch.to(world.device)
        with torch.autocast(world.device.type, AMP[cfg.amp], enabled=cfg.amp != "off"):
            for image_id, scale, fault, prediction in zip(batch.image_ids, batch.scales, batch.faults, detector.predict(batch, categories, test)):
                if fault:                                                # it counts with no detections: everything on it is missed
                    unreadable += fault
                    continue
                prediction = prediction.in_picture(scale, data.size(gt.image_position(image_id)))
                for metric in metrics.values():
                    metric.update(image_id, prediction)
                columns.append(with_ids(DetectionColumns.of(image_id, prediction.detections), gt.category_ids))
                if image_id in pictured:
                    shown[image_id] = prediction.detections.to(torch.device("cpu"))

    gathered = gather_objects(({name: metric.state() for name, metric in metrics.items()}, columns, shown, unreadable))
    if world.rank == 0:
        for states, other_columns, other_shown, other_unreadable in gathered[1:]:
            unreadable += other_unreadable
            for name, metric in metrics.items():
                metric.merge(states[name])
            columns += other_columns
            shown |= other_shown
        results = {}
        for name, metric in metrics.items():
            results |= {PREFIXES.get(name, "") + key: value for key, value in metric.compute().items()}
            if name in ("localization", "in21k"):
                results |= box_baselines(metric if name == "localization" else metric.localization)
        warnings = list(dict.fromkeys(line for metric in metrics.values() for line in getattr(metric, "warnings", [])))
        for line in warnings:
            note(f"{where.annotations}: {line}")
        folder = Path(cfg.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "metrics.json").write_text(
            json.dumps(results | ({"warnings": warnings} if warnings else {}), indent=1)
        )
        write_detections(folder, columns)
        draw_pictures(folder / "pictures", shown, data, gt, categories)
        print0(f"{len(gt.image_ids)} images, {len(categories)} categories; in per cent; localization: IoU > 0.5; AP as COCO defines it")
        if unreadable:
            print0(f"{len(unreadable)} pictures cannot be read and count with no detections; the first: {unreadable[0]}")
        for metric in metrics.values():
            if isinstance(metric, In21kReport):
                print0(metric.protocol)
        print_table(results, list(gt.groups))
        print0(f"written: {folder / 'metrics.json'}, detections.json, detections.npz, pictures/")
    stop_distributed()


if __name__ == "__main__":
    run_command(main, __doc__)

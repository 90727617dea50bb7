"""Detect on the evaluation images and score: localization accuracy and average precision.

    python evaluate.py r18 tiny                            one process
    torchrun --nproc-per-node=8 evaluate.py r18 tiny       eight; the same figures

Words as for training. Reads runs/<words>/stage2.pt (or eval.checkpoint=PATH); writes metrics.json,
detections.json and .npz, and pictures/ into the same folder. What is found is kept in parts/ on the way: an evaluation
that was interrupted continues with the same words.
"""
import dataclasses
import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from s21k.core.categories import CategoryMap
from s21k.core.config import Config, load_config
from s21k.core.distributed import World, on_all_ranks, print0, start_distributed, stop_distributed
from s21k.core.errors import InputError, note, run_command
from s21k.core.transfer import model_to
from s21k.data.detection import DetectionData
from s21k.data.loaders import eval_batches
from s21k.draw import Drawn, compare, contact_sheet
from s21k.evaluation.average_precision import AveragePrecision
from s21k.evaluation.columns import DetectionColumns
from s21k.evaluation.detections_file import with_ids, write_detections
from s21k.evaluation.ground_truth import GroundTruth
from s21k.evaluation.in21k import In21kReport
from s21k.evaluation.localization import LocalizationAccuracy, box_baselines
from s21k.evaluation.lvis import LvisAveragePrecision
from s21k.evaluation.metric import Metric
from s21k.evaluation.parts import IMAGE_ROWS, PartWriter, finished_images, open_parts, read_parts, wait_for_all
from s21k.evaluation.proposals import ProposalRecall
from s21k.files.image_files import check_images
from s21k.files.images import read_image
from s21k.models.detector import Detector, restore_detector
from s21k.plan import plan_evaluation
from s21k.training.amp import autocast, note_precision, resolve_amp
from s21k.training.checkpoint import read, unfinished
from s21k.training.run import set_backend_flags, trained
from s21k.training.step_monitor import too_many_faults

# A word of eval.metrics -> how its metric is made of the ground truth, and the prefix of its keys in metrics.json.
METRICS: dict[str, tuple[Callable[[GroundTruth], Metric], str]] = {
    "localization": (LocalizationAccuracy, ""),
    "localization_one_category": (partial(LocalizationAccuracy, leave_out_several=True), ""),
    "box_ap": (AveragePrecision, ""),
    "mask_ap": (partial(AveragePrecision, kind="mask"), "mask_"),
    "lvis_box_ap": (LvisAveragePrecision, "lvis_"),
    "lvis_mask_ap": (partial(LvisAveragePrecision, kind="mask"), "lvis_mask_"),
    "in21k": (In21kReport, ""),
    "proposal_recall": (ProposalRecall, "")}


def draw_images(folder: Path, found: DetectionColumns, count: int, data: DetectionData, gt: GroundTruth,
                categories: CategoryMap) -> None:
    """pictures/<image id>.png of `count` images, true boxes dashed, the best detections solid; and contact_sheet.png of
    them all.

    found: image is an id, category a position."""
    folder.mkdir(exist_ok=True)
    names, tiles = categories.titles(), []
    for position in np.linspace(0, len(gt.image_ids) - 1, min(count, len(gt.image_ids))).round().astype(int).tolist():
        image_id = int(gt.image_ids[position])
        try:
            image = read_image(data.path(position), expected=data.size(position))
        except InputError:
            continue                                                     # it is in the list of faults
        mine = gt.image == position
        rows = np.arange(*np.searchsorted(found.image, [image_id, image_id + 1]))                # best first
        scores = found.scores[rows]
        best = rows[scores >= max(0.05, 0.5 * float(scores[0]))][:3] if len(rows) else rows
        masks = None if found.masks is None else [found.masks[i] for i in best.tolist()]
        truth = Drawn(corners(gt.boxes[mine]), [names[c] for c in gt.category[mine]])
        detections = Drawn(corners(found.boxes[best]), [names[i] for i in found.category[best]],
                           found.scores[best].tolist(), masks)
        compare(image, truth, detections, side=640).save(folder / f"{image_id}.png")
        tiles.append(compare(image, truth, detections, side=300))
    if tiles:
        contact_sheet(tiles, columns=4).save(folder / "contact_sheet.png")


def corners(boxes: np.ndarray) -> np.ndarray:
    """[x, y, w, h] (n, 4) -> [x1, y1, x2, y2]."""
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def print_table(results: dict[str, float], groups: list[str]) -> None:
    """The figures as per cent, a line a metric, a column a group."""
    columns = ["", *groups]
    print0(f"{'metric':<22}{'all':>6}" + "".join(f"{name:>10}" for name in groups))
    keys = [key for key in results if not any(key.endswith(f"_{group}") for group in groups)]
    for key in keys:
        row = [results.get(f"{key}_{group}" if group else key) for group in columns]
        shown = ["" if v is None else f"{v:d}" if key.startswith(("images", "truncated")) else f"{100 * v:.1f}"
                 if v >= 0 else "-" for v in row]
        print0(f"{key:<22}" + f"{shown[0]:>6}" + "".join(f"{v:>10}" for v in shown[1:]))


@dataclasses.dataclass
class Task:
    """What is evaluated on, and how: the same on every process."""
    categories: CategoryMap
    gt: GroundTruth
    data: DetectionData
    metrics: dict[str, Metric]              # by their words
    checkpoint: Path


def check_words(cfg: Config) -> None:
    """InputError: words that cannot be evaluated together."""
    names = cfg.eval.metrics
    if cfg.data.eval is None:
        raise InputError("data.eval: missing, expected annotations, images and categories to evaluate on")
    if unknown := [name for name in names if name not in METRICS]:
        raise InputError(f"eval.metrics: {unknown[0]!r} is none of {', '.join(METRICS)}")
    if "in21k" in names and {"localization", "localization_one_category", "box_ap"} & set(names):
        raise InputError("eval.metrics: in21k reports localization and AP itself, by the benchmark's rules: expected "
                         "it without localization and box_ap")
    if (of_masks := [name for name in names if "mask" in name]) and not cfg.model.with_masks:
        raise InputError(f"eval.metrics: {of_masks[0]} needs model.with_masks=true")


def open_task(cfg: Config) -> Task:
    """Read the categories, the ground truth and the list of images."""
    root, where = Path(cfg.data.root), cfg.data.eval
    categories = CategoryMap.load(root / where.categories)
    gt = GroundTruth.load(root / where.annotations, categories, masks=any("mask" in name for name in cfg.eval.metrics))
    if absent := int((gt.category_ids < 0).sum()):
        print0(f"{absent} of the {len(categories)} categories are not in {where.annotations}: they have no boxes to "
               f"find there")
    data = DetectionData(root / where.annotations, root / where.images)
    check_images("data.eval.images", data.sample())
    return Task(categories, gt, data, {name: METRICS[name][0](gt) for name in cfg.eval.metrics}, trained(cfg))


def all_that_matters(cfg: Config, task: Task) -> dict:
    """What the detections depend on, for an evaluation that is continued."""
    test = {key: value for key, value in dataclasses.asdict(cfg.eval).items() if key != "pictures"}
    stamp = task.checkpoint.stat()
    return {"checkpoint": [str(task.checkpoint), stamp.st_size, stamp.st_mtime_ns], "data": task.data.fingerprint(),
            "eval": test, "categories": task.categories.keys(),
            "rows": [task.categories.det_index.tolist(), task.categories.cls_index.tolist()],
            "model": dataclasses.asdict(cfg.model), "amp": cfg.amp}


def detect(cfg: Config, world: World, task: Task, detector: Detector, folder: Path) -> None:
    """This process's images, into parts. InputError: too many of them cannot be read."""
    finished = finished_images(folder)
    if finished:
        print0(f"continuing: {len(finished)} of {len(task.data)} images are in {folder}")
    parts, faults, seen = PartWriter(folder, world.rank), [], 0
    categories = task.categories.to(world.device)
    for batch in eval_batches(cfg, task.data, world, finished):
        batch = batch.to(world.device)
        with autocast(cfg.amp, world.device):
            predictions = detector.predict(batch, categories, cfg.eval)
            for image_id, scale, fault, prediction in zip(batch.image_ids, batch.scales, batch.faults, predictions):
                seen += 1
                if fault:
                    # it counts with no detections: everything on it is missed
                    faults += fault
                    if too_many_faults(len(faults), seen, cfg.data.max_faults):
                        raise InputError(f"{len(faults)} of {seen} images cannot be read, more than "
                                         f"data.max_faults={cfg.data.max_faults} allows; the first: {faults[0]}")
                    continue
                if image_id in finished:                                 # in a batch with some that are not
                    continue
                prediction = prediction.in_image(scale, task.data.size(task.gt.image_position(image_id)))
                noted = {name: metric.note(image_id, prediction) for name, metric in task.metrics.items()}
                parts.add(image_id, DetectionColumns.of(image_id, prediction.detections),
                          {n: row for n, row in noted.items() if row is not None})
        parts.flush()
    parts.done(faults)


def score(task: Task, folder: Path) -> tuple[dict[str, float], DetectionColumns]:
    """The figures, and all detections in ascending image id, category a position. Reads the parts, and writes what the
    metrics noted of each image beside their folder."""
    image_ids, found, noted = read_parts(folder)
    np.savez(folder.parent / IMAGE_ROWS, image_id=image_ids, **noted)
    images = np.searchsorted(task.gt.image_ids, image_ids)
    in_positions = dataclasses.replace(found, image=np.searchsorted(task.gt.image_ids, found.image))
    results: dict[str, float] = {}
    for name, metric in task.metrics.items():
        metric.add_all(in_positions, (images, noted[name]) if name in noted else None)
        results |= {METRICS[name][1] + key: value for key, value in metric.compute().items()}
        if isinstance(metric, (LocalizationAccuracy, In21kReport)):
            results |= box_baselines(metric.localization if isinstance(metric, In21kReport) else metric)
    return results, found


def report(cfg: Config, task: Task, folder: Path, results: dict[str, float], found: DetectionColumns,
           unreadable: list[str]) -> None:
    """Write metrics.json, the detections and the images; print the table."""
    gt = task.gt
    warnings = list(dict.fromkeys(line for metric in task.metrics.values() for line in getattr(metric, "warnings", [])))
    for line in warnings:
        note(f"{cfg.data.eval.annotations}: {line}")
    (folder / "metrics.json").write_text(json.dumps(results | ({"warnings": warnings} if warnings else {}), indent=1))
    write_detections(folder, with_ids(found, gt.category_ids))
    draw_images(folder / "pictures", found, cfg.eval.pictures, task.data, gt, task.categories)
    print0(f"{len(gt.image_ids)} images, {len(task.categories)} categories; in per cent; localization: IoU > 0.5; AP "
           f"as COCO defines it, in rows that begin with lvis_ as LVIS does")
    if unreadable:
        print0(f"{len(unreadable)} images cannot be read and count with no detections; the first: {unreadable[0]}")
    for metric in task.metrics.values():
        if isinstance(metric, In21kReport):
            print0(metric.protocol)
    print_table(results, list(gt.groups))
    print0(f"written: {folder / 'metrics.json'}, detections.json, detections.npz, pictures/")


@torch.no_grad()
def main(words: list[str]) -> None:
    cfg = load_config([word for word in words if word != "--plan"])
    if "--plan" in words:
        return plan_evaluation(cfg)
    check_words(cfg)
    world = start_distributed(cfg.timeout)
    cfg = resolve_amp(cfg, world)
    set_backend_flags(cfg, world, one_size=False)
    folder, task = Path(cfg.output_dir), on_all_ranks(lambda: open_task(cfg))
    content = on_all_ranks(lambda: read(task.checkpoint))
    note_precision(cfg, content.get("config", {}), task.checkpoint)
    if line := unfinished(content, task.checkpoint):
        print0(f"warning: {line}")
    detector = model_to(on_all_ranks(lambda: restore_detector(cfg, content, task.categories)), world.device)
    on_all_ranks(lambda: open_parts(folder / "parts", all_that_matters(cfg, task), world.rank))
    # from here on no process waits for a message of another
    stop_distributed()
    detect(cfg, world, task, detector, folder / "parts")
    if world.rank == 0:
        unreadable = wait_for_all(folder / "parts", world.size)
        if len(unreadable) == len(task.data):
            raise InputError(f"none of the {len(task.data)} images can be read; the first: {unreadable[0]}")
        results, found = score(task, folder / "parts")
        report(cfg, task, folder, results, found, unreadable)
        shutil.rmtree(folder / "parts")


if __name__ == "__main__":
    run_command(main, __doc__)

"""Why the method works or not, of a trained run: python -m s21k.why r18 tiny40 [seed=0] [--out .github/pictures]

On the evaluation pictures (one category each): what S_fg and the category's score are for regions of every overlap with the truth (P31), of base and
novel categories; which base categories the novel ones are taken for; the pictures of failures. Writes why.json into the run's folder,
foreground.svg and failures.png into --out.
"""
import argparse
import json
from collections import Counter
from pathlib import Path

import torch
from PIL import Image

from s21k.boxes import REGION_WEIGHTS, clip, decode, iou
from s21k.categories import CategoryMap
from s21k.config import load_config
from s21k.data.detection import DetectionData
from s21k.data.loaders import eval_batches
from s21k.distributed import World
from s21k.draw import contact_sheet, draw_boxes
from s21k.errors import run_command
from s21k.evaluation.ground_truth import GroundTruth
from s21k.images import normalize, read_image
from s21k.models.detector import restore_detector
from s21k.plot import line_plot
from s21k.training.checkpoint import read
from s21k.training.run import trained

BINS = 10                                           # of the overlap, from 0 to 1


@torch.no_grad()
def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m s21k.why")
    parser.add_argument("words", nargs="+")
    parser.add_argument("--out", type=Path, default=Path(".github/pictures"))
    a = parser.parse_args(argv)
    cfg = load_config(a.words)
    root, where = Path(cfg.data.root), cfg.data.eval
    categories = CategoryMap.load(root / where.categories)
    gt, data = GroundTruth.load(root / where.annotations, categories), DetectionData(root / where.annotations, root / where.images)
    detector = restore_detector(cfg, read(trained(cfg)), categories)
    sums = {(group, what): torch.zeros(2, BINS) for group in ("base", "novel") for what in ("S_fg", "category")}     # sum, count
    taken_for, failures = Counter(), []
    for batch in eval_batches(cfg, data, World(0, 1, torch.device("cpu"))):
        pyramid = detector.encoder.pyramid(normalize(batch.images, batch.sizes))
        proposals, _ = detector.rpn(pyramid, batch.sizes)
        predictions = detector.predict(batch, categories, cfg.eval)
        for i, (size, target, image_id, prediction) in enumerate(zip(batch.sizes, batch.targets, batch.image_ids, predictions)):
            x = detector.encoder.regions([level[i:i + 1] for level in pyramid], [proposals[i]])
            fg, _, deltas = detector.box_head(x)
            boxes = clip(decode(deltas, proposals[i], REGION_WEIGHTS), size)
            overlap = iou(boxes, target.boxes).max(dim=1).values                                  # (R,)
            category = int(gt.category[gt.image == gt.image_position(image_id)][0])
            group, place = categories.groups[category], (overlap * BINS).long().clamp(max=BINS - 1)
            given = detector.box_head.classify(x).softmax(1)[:, categories.cls_index[category]]   # Eq. 3 of the true category
            for what, values in (("S_fg", torch.sigmoid(fg)), ("category", given)):
                sums[group, what] += torch.stack([torch.bincount(place, values, BINS), torch.bincount(place, minlength=BINS)])
            best = prediction.detections
            if len(best.scores):
                label = int(best.labels[0])
                right = float(iou(best.boxes[:1], target.boxes).max()) > 0.5
                if group == "novel" and label != category:
                    taken_for[categories.names[category], categories.names[label], categories.groups[label]] += 1
                if not (right and label == category):
                    failures.append((image_id, label, best.boxes[0] / batch.scales[i][0], float(best.scores[0]), "category" if label != category else "box"))
    center = [(n + 0.5) / BINS for n in range(BINS)]
    curves = {f"{what}, {group}": [float(s / n) if n >= 20 else None for s, n in total.T] for (group, what), total in sums.items()}
    line_plot(a.out / "foreground.svg", "Only tight boxes are foreground (P31)", "IoU of the region with the truth", "mean score", center, curves)
    tiles = []
    for image_id, label, box, score, what in failures[::max(1, len(failures) // 24)][:24]:
        position = gt.image_position(image_id)
        image, mine = read_image(data.root / data.file_names[position]), gt.image == position
        truth = gt.boxes[mine].copy()
        truth[:, 2:] += truth[:, :2]
        side = (192, 192 * image.height // image.width)
        grown, factor = image.resize(side, Image.Resampling.BICUBIC), 192 / image.width
        pair = [draw_boxes(grown, truth * factor, [categories.names[c].split(",")[0] for c in gt.category[mine]], None, None),
                draw_boxes(grown, (box * factor).numpy()[None], [categories.names[label].split(",")[0]], [score], None)]
        tiles.append(contact_sheet(pair, columns=2, captions=["ground truth", f"wrong {what}"]))
    contact_sheet(tiles, columns=4).save(a.out / "failures.png")
    wrong = Counter(what for *_, what in failures)
    groups = Counter()
    for (_, _, group), count in taken_for.items():
        groups[group] += count
    result = {"curves": {"iou": center, **curves}, "failures": dict(wrong), "novel taken for": dict(groups),
              "most common": [{"novel": n, "taken for": o, "group": g, "times": c} for (n, o, g), c in taken_for.most_common(12)]}
    (Path(cfg.output_dir) / "why.json").write_text(json.dumps(result, indent=1))
    print(f"of {len(gt.image_ids)} pictures {len(failures)} fail: {wrong['category']} by the category, {wrong['box']} by the box alone")
    print(f"novel ones with a wrong category are taken for: {dict(groups)}; most often: "
          + ", ".join(f"{n.split(',')[0]} for {o.split(',')[0]} ({g}, {c} x)" for (n, o, g), c in taken_for.most_common(6)))
    for name, curve in curves.items():
        print(f"{name:<18} by IoU: " + " ".join("  -  " if v is None else f"{v:.3f}" for v in curve))


if __name__ == "__main__":
    run_command(main, __doc__)

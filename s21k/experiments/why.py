"""Why the method works or not, of a trained run: python -m s21k.experiments.why r18 tiny40 [seed=0] [--out
.github/pictures]

On the evaluation images of one category: what S_fg and g-hat's score of the true category are for proposals of every
overlap with the truth [P31], of base and novel categories, and how often the tighter of two proposals scores higher;
which categories the novel ones are taken for; the images of failures. Writes why.json into the run's folder,
foreground.svg and failures.jpg into --out.
"""
import argparse
import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from s21k.core.boxes import area, iou, whole_image
from s21k.core.categories import CategoryMap
from s21k.core.config import Config, load_config
from s21k.core.distributed import World
from s21k.core.errors import run_command
from s21k.data.detection import DetectionData
from s21k.data.loaders import eval_batches
from s21k.draw import contact_sheet, draw_boxes
from s21k.evaluation.ground_truth import GroundTruth
from s21k.evaluation.localization import LocalizationAccuracy
from s21k.experiments.plot import line_plot
from s21k.files.images import normalize, read_image
from s21k.models.detector import Detector, restore_detector
from s21k.training.checkpoint import read
from s21k.training.run import trained

BINS = 10                                           # of the overlap, from 0 to 1
FEWEST = 20                                         # proposals of a bin that is shown
# overlaps that differ by less are not told apart; those below are beside the object
APART, LEAST = 0.2, 0.3
SIDE = 128                                          # of an image on the sheet


class Failure(NamedTuple):
    """An image whose best detection is wrong: its id, the category found, the box in original pixels, its score, what
    is wrong."""
    image_id: int
    label: int
    box: Tensor
    score: float
    what: str


class Curve:
    """The mean score of proposals by their overlap with the truth, and how often the tighter of two of one image, both
    on the object, scores higher."""

    def __init__(self) -> None:
        self.sums, self.pairs = torch.zeros(2, BINS, dtype=torch.float64), torch.zeros(2)

    def add(self, scores: Tensor, overlap: Tensor) -> None:
        """scores, overlap (R,) of one image. Of equal scores half a pair is right."""
        place = (overlap * BINS).long().clamp(max=BINS - 1)
        self.sums += torch.stack([torch.bincount(place, scores.double(), BINS), torch.bincount(place, minlength=BINS)])
        tighter = (overlap[:, None] >= overlap[None] + APART) & (overlap[None] >= LEAST)             # (R, R)
        right = (scores[:, None] > scores[None]).float() + 0.5 * (scores[:, None] == scores[None])
        self.pairs += torch.stack([right[tighter].sum(), tighter.sum()])

    def means(self) -> list[float | None]:
        return [float(s / n) if n >= FEWEST else None for s, n in self.sums.T]

    def ordered(self) -> float | None:
        """Share of the pairs, both on the object (LEAST) and APART, in which the tighter one scores higher; chance is
        0.5."""
        return float(self.pairs[0] / self.pairs[1]) if self.pairs[1] else None


def corners(boxes: np.ndarray) -> Tensor:
    """[x, y, w, h] (n, 4) -> [x1, y1, x2, y2]."""
    return torch.tensor(np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1), dtype=torch.float32)


@torch.no_grad()
def look(cfg: Config, detector: Detector, data: DetectionData, gt: GroundTruth,
         categories: CategoryMap) -> tuple[dict[str, Curve], Counter, list[Failure], dict[str, list]]:
    """Curves by "score, group"; how often a novel category is taken for (category, category, its group); the failures;
    and means of

    - "entire image, <group>": how often g-hat is right about it, as in stage I. What is lost there is forgotten, the
    rest is lost on regions.
    - "largest proposal", "best-scored proposal": what Detic's losses would choose; its IoU with the entire image, and
    with the truth.
    - "box by f", "box by f and category": the box with the highest S_fg, and with the highest final score of the true
    category (the one
      of GT-Known): how often its IoU with the truth is above 0.5, and above 0.7.
    """
    curves, taken_for, failures, means = defaultdict(Curve), Counter(), [], defaultdict(list)
    image_category = LocalizationAccuracy(gt, leave_out_several=True).image_category
    for batch in eval_batches(cfg, data, World(0, 1, torch.device("cpu"))):
        features = detector.encoder.features(normalize(batch.images, batch.sizes))
        pyramid = detector.encoder.fpn(features)
        proposals, _ = detector.rpn(pyramid, batch.sizes)
        for i, prediction in enumerate(detector.predict(batch, categories, cfg.eval)):
            image_id, to_network = batch.image_ids[i], torch.tensor([*batch.scales[i]] * 2)
            position = gt.image_position(image_id)
            category = int(image_category[position])
            if category < 0:                                             # several categories, or none
                continue
            # also boxes of less than a pixel
            truth = corners(gt.boxes[gt.image == position]) * to_network
            group = categories.groups[category]
            levels = [level[i:i + 1] for level in pyramid]
            x = detector.encoder.images([c[i:i + 1] for c in features], [batch.sizes[i]])
            entire = detector.box_head.classify(x)[0, categories.cls_index]
            means[f"entire image, {group}"].append([float(entire.argmax() == category)])
            x = detector.encoder.regions(levels, [proposals[i]])
            overlap = iou(proposals[i], truth).max(dim=1).values                              # (R,)
            logits = detector.box_head.classify(x)                                                   # (R, C^)
            row = categories.cls_index[category]
            g_hat, s_hat = logits[:, row], logits.softmax(1)[:, row]                                 # Eq. 3
            for name, order in (("largest proposal", area(proposals[i])), ("best-scored proposal", g_hat)):
                chosen = proposals[i][order.argmax()][None]
                means[name].append([float(iou(chosen, whole_image([batch.sizes[i]]).to(x.device))),
                                    float(iou(chosen, truth).max())])
            s_fg, final = torch.sigmoid(detector.box_head(x)[0]), prediction.regions                 # Eq. 1
            score = final.at(torch.arange(len(x)), torch.full((len(x),), category))
            for name, order in (("box by f", s_fg), ("box by f and category", score)):
                chosen = float(iou(final.boxes[order.argmax()][None], truth).max())
                means[name].append([chosen > 0.5, chosen > 0.7])
            curves[f"S_fg, {group}"].add(s_fg, overlap)
            curves[f"g-hat, {group}"].add(s_hat, overlap)
            best = prediction.detections
            if len(best.scores) == 0:
                continue
            label, tight = int(best.labels[0]), float(iou(best.boxes[:1], truth).max()) > 0.5
            if group == "novel" and label != category:
                taken_for[categories.names[category], categories.names[label], categories.groups[label]] += 1
            if label != category or not tight:
                failures.append(Failure(image_id, label, best.boxes[0] / to_network, float(best.scores[0]),
                                        "category" if label != category else "box"))
    shares = {name: torch.tensor(values).float().mean(0).tolist() for name, values in sorted(means.items())}
    return curves, taken_for, failures, shares


def sheet(failures: list[Failure], data: DetectionData, gt: GroundTruth, categories: CategoryMap) -> Image.Image:
    """Some failures, evenly chosen, each beside its ground truth."""
    tiles, names = [], [name.split(",")[0] for name in categories.names]
    for failure in failures[::max(1, len(failures) // 16)][:16]:
        position = gt.image_position(failure.image_id)
        image, mine = read_image(data.path(position)), gt.image == position
        factor = SIDE / image.width
        grown = image.resize((SIDE, round(image.height * factor)), Image.Resampling.BICUBIC)
        pair = [draw_boxes(grown, (corners(gt.boxes[mine]) * factor).numpy(), [names[c] for c in gt.category[mine]],
                           None, None),
                draw_boxes(grown, (failure.box * factor).numpy()[None], [names[failure.label]], [failure.score], None)]
        tiles.append(contact_sheet(pair, columns=2, captions=["ground truth", f"wrong {failure.what}"]))
    return contact_sheet(tiles, columns=4)


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m s21k.experiments.why")
    parser.add_argument("words", nargs="+")
    parser.add_argument("--out", type=Path, default=Path(".github/pictures"))
    a = parser.parse_args(argv)
    cfg = load_config(a.words)
    root, where = Path(cfg.data.root), cfg.data.eval
    categories = CategoryMap.load(root / where.categories)
    gt = GroundTruth.load(root / where.annotations, categories)
    data = DetectionData(root / where.annotations, root / where.images)
    detector = restore_detector(cfg, read(trained(cfg)), categories)
    curves, taken_for, failures, means = look(cfg, detector, data, gt, categories)

    a.out.mkdir(parents=True, exist_ok=True)
    center = [(n + 0.5) / BINS for n in range(BINS)]
    shown = {name: curve.means() for name, curve in curves.items()}
    line_plot(a.out / "foreground.svg", "Scores of proposals by their overlap [P31]",
              "IoU of the proposal with the truth", "mean score", center, shown)
    if failures:
        sheet(failures, data, gt, categories).save(a.out / "failures.jpg", quality=85)
    wrong, groups = Counter(failure.what for failure in failures), Counter()
    for (_, _, group), count in taken_for.items():
        groups[group] += count
    result = {"curves": {"iou": center, **shown}, "ordered": {name: curve.ordered() for name, curve in curves.items()},
              "means": means, "failures": dict(wrong), "novel taken for": dict(groups),
              "most common": [{"novel": n, "taken for": o, "group": g, "times": c}
                              for (n, o, g), c in taken_for.most_common(12)]}
    (Path(cfg.output_dir) / "why.json").write_text(json.dumps(result, indent=1))
    seen = int((LocalizationAccuracy(gt, leave_out_several=True).image_category >= 0).sum())
    print(f"of {seen} images of one category {len(failures)} fail: {wrong['category']} by the category, {wrong['box']} "
          f"by the box alone")
    print(f"novel ones with a wrong category are taken for: {dict(groups)}; most often: "
          + ", ".join(f"{n.split(',')[0]} -> {o.split(',')[0]} ({g}, {c} x)"
                      for (n, o, g), c in taken_for.most_common(6)))
    for name, values in means.items():
        form = {"entire": "g-hat's top-1 {:.3f}", "box": "IoU above 0.5 {:.3f}, above 0.7 {:.3f}"}.get(
            name.split()[0], "mean IoU with the entire image {:.3f}, with the truth {:.3f}")
        print(f"{name:<22} {form.format(*values)}")
    for name, curve in curves.items():
        print(f"{name:<16} the tighter of two scores higher: {100 * (curve.ordered() or 0):.1f} %; mean by IoU: "
              + " ".join("  -  " if v is None else f"{v:.3f}" for v in curve.means()))


if __name__ == "__main__":
    run_command(main, __doc__)

"""What 21,841 categories cost an image beside 100: detection, and what the localization metric notes of it.

    python -m tests.bench.vocabulary [--images 5] [--regions 1000] [--det 365] [--all] [--json PATH]

Detectors of random weights (the toy world's: ResNet-18, 96 px) take turns on the same images; g knows --det of the
categories, as with Objects365 (--all: also half of them), g-hat all. In the same turns the matrix products that make
the logits of g-hat and of both. The goal: beyond 100 categories no more than 1.5 times the product of g-hat.
"""
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from s21k.core.categories import CategoryMap
from s21k.core.config import load_config
from s21k.evaluation.ground_truth import GroundTruth
from s21k.evaluation.localization import LocalizationAccuracy
from s21k.models.detector import build_detector
from tests.bench.timing import Bench, alternate, peak_bytes, shown
from tests.toy import batch

MINUTES = (1, 3)
FEW, MANY, SIZE = 100, 21841, 96


def truth_of(num: int) -> GroundTruth:
    """One image with one box, of the last of so many categories."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "truth.json"
        path.write_text(json.dumps({
            "images": [{"id": 0, "width": SIZE, "height": SIZE, "file_name": "a.png"}],
            "categories": [{"id": i, "name": str(i)} for i in range(num)],
            "annotations": [{"id": 1, "image_id": 0, "category_id": num - 1, "bbox": [9, 9, 40, 40], "area": 1600}]}))
        return GroundTruth.load(path)


def evaluation(num: int, num_det: int, regions: int) -> tuple[Callable, torch.nn.Module]:
    """What evaluate.py does with an image: detect, and note what the metric needs of all scores; and the box head."""
    torch.manual_seed(0)
    cfg = load_config(["toy", f"data.det.classes={num_det}", f"data.cls.classes={num}",
                       f"model.rpn_proposals=[{regions},{regions}]", f"model.rpn_pre_nms=[{regions},{regions}]"])
    detector = build_detector(cfg).eval()
    rows = torch.arange(num)
    categories = CategoryMap([str(i) for i in range(num)], [None] * num, ["all"] * num,
                             torch.where(rows < num_det, rows, -1), rows)
    metric, images = LocalizationAccuracy(truth_of(num)), batch(1, size=SIZE)

    def run() -> None:
        for prediction in detector.predict(images, categories, cfg.eval):
            metric.note(0, prediction.in_image((1.0, 1.0), (SIZE, SIZE)))
    return run, detector.box_head


@torch.no_grad()
def main() -> None:
    bench = Bench(__doc__, MINUTES)
    bench.parser.add_argument("--images", type=int, default=5, help="turns of each contender")
    bench.parser.add_argument("--regions", type=int, default=1000)
    bench.parser.add_argument("--det", type=int, default=365, help="categories that g knows")
    a = bench.begin()
    few, _ = evaluation(FEW, FEW // 2, a.regions)
    for num_det in (a.det, MANY // 2) if a.all else (a.det,):
        many, head = evaluation(MANY, num_det, a.regions)
        x = torch.randn(a.regions, head.cls_classifier.in_features)
        seconds = alternate({"few": few, "many": many, "product": lambda x=x, head=head: head.cls_classifier(x),
                             "both": lambda x=x, head=head: (head.cls_classifier(x), head.det_classifier(x))}, a.images)
        least = {name: min(times) for name, times in seconds.items()}
        beyond = least["many"] - least["few"]
        bench.line(f"{a.regions} regions, g of {num_det} categories: an image {shown(seconds['few'])} with {FEW}, "
                   f"{shown(seconds['many'])} with {MANY}; product of g-hat {shown(seconds['product'])}", **seconds)
        bench.line(f"  beyond {FEW} categories, of the shortest times: {beyond / least['product']:.2f} x the product "
                   f"of g-hat, {beyond / least['both']:.2f} x those of g and g-hat; {peak_bytes(many) / 1e6:.0f} MB",
                   ratio=beyond / least["product"], ratio_both=beyond / least["both"])


if __name__ == "__main__":
    main()

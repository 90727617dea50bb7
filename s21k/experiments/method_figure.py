"""The method in one figure. Names are looked up in the code; what stage II inherits is asked of Detector.inherit.

    python -m s21k.experiments.method_figure [--out FILE.svg]     (.github/pictures/method.svg)
"""
import argparse
import operator
import textwrap
from fractions import Fraction
from pathlib import Path

import torch

from s21k.core.config import EvalConfig, ModelConfig, Stage2Config, load_config
from s21k.core.errors import run_command
from s21k.experiments.diagram import Sheet
from s21k.models.assign import sample_regions
from s21k.models.classifier import build_classifier
from s21k.models.detector import INHERITED, Detector, build_detector

PICTURE = Path(__file__).resolve().parent.parent.parent / ".github" / "pictures" / "method.svg"
# Which parts the gradient of each loss reaches (tests/test_method_figure.py computes it), and what each is called.
REACHES = {"image_category": ("cls_classifier", "encoder"), "region_score": ("foreground", "det_classifier", "encoder"),
           "region_box": ("box_regressor", "encoder"), "mask": ("mask_head", "fpn", "backbone"),
           "rpn_objectness": ("rpn", "fpn", "backbone"), "rpn_box": ("rpn", "fpn", "backbone")}
PARTS = {"backbone": "encoder.backbone", "fpn": "encoder.fpn", "fc1": "encoder.fc1", "fc2": "encoder.fc2", "rpn": "rpn",
         "encoder": "encoder", "foreground": "box_head.foreground", "det_classifier": "box_head.det_classifier",
         "cls_classifier": "box_head.cls_classifier", "box_regressor": "box_head.box_regressor",
         "mask_head": "mask_head"}
SHORT = {"cls_classifier": "ĝ", "foreground": "f", "det_classifier": "g", "box_regressor": "boxes", "rpn": "RPN",
         "fpn": "FPN", "mask_head": "masks"}


class Figure(Sheet):
    """Boxes that stand for parts of the code."""

    def __init__(self) -> None:
        super().__init__()
        cfg = load_config(["toy", "model.with_masks=true"])
        with torch.device("meta"):                                               # nothing is computed
            classifier = build_classifier(cfg.model, cfg.data.cls.classes, 0.0)
            self.detector = build_detector(cfg)
            taken, _ = self.detector.inherit(classifier.state_dict())
        self.inherited = {place for name, place, _ in INHERITED if name in taken}

    def part(self, x: float, y: float, w: float, h: float, name: str, text: str = "") -> None:
        """A part of the detector, in the colour of its origin, with more text. AttributeError: it has no such part."""
        operator.attrgetter(PARTS[name])(self.detector)
        kind = "inherited" if any(place.startswith(PARTS[name]) for place in self.inherited) else "new"
        self.box(x, y, w, h, kind, *f"`{name}`{text}".split("\n"))

    def loss(self, x: float, y: float, w: float, names: list[str], *lines: str) -> None:
        """A loss, or several alike, with what their gradient reaches."""
        reached = "reaches " + ", ".join(SHORT.get(part, part) for part in REACHES[names[0]])
        self.box(x, y, w, 86, "loss", *(f"`{name}`" for name in names), *lines, *textwrap.wrap(reached, int(w / 7)))

    def encoder(self, x: float, w: float, *columns: tuple[float, float, str, str]) -> None:
        """RegionEncoder over the columns (x, width, two lines on its RoIs)."""
        self.box(x, 168, w, 212, "around")
        self.text(x + w / 2, 187, f"`{type(self.detector.encoder).__name__}`", "middle", "strong")
        self.part(x + 8, 196, w - 16, 28, "backbone", ": ResNet or Swin")
        self.part(x + 8, 240, w - 16, 28, "fpn", ": pyramid P2 to P6")
        self.part(x + 8, 342, w - 16, 28, "fc1", ", `fc2`")
        for left, width, *lines in columns:
            self.box(left, 284, width, 42, "panel", *lines)
            self.down(left + width / 2, 155, 168, 224, 240, 268, 284, 326, 342)


def draw_stages(figure: Figure) -> None:
    """Both stages side by side."""
    stage2, model = Stage2Config, ModelConfig
    both = "each step sees both kinds of images; those with one label do not teach f, and no box is invented for them"
    for x, w, title, less in ((10, 240, "Stage I: `train_stage1.py`", "a classifier shaped like a detector"),
                              (306, 684, "Stage II: `train_stage2.py`", both)):
        figure.box(x, 10, w, 574, "panel")
        figure.text(x + 12, 32, title, kind="strong", size=15)
        figure.text(x + 12, 50, less, kind="less")
    for x, count in ((130, "images"), (389, f"{stage2.cls_per_det} images")):
        figure.image(x - 42, 62, (0, 0, 84, 56))
        figure.text(x, 135, f"{count} with one", "middle")
        figure.text(x, 151, "label each", "middle")
        figure.text(x + 7, 396, "x of entire image")
        figure.down(x, 370, 412, 466, 484)
    figure.image(606, 62, (10, 10, 28, 28), (41, 17, 34, 32))
    figure.text(648, 135, "1 image", "middle")
    figure.text(648, 151, "with boxes", "middle")
    whole = ("RoIAlign on the", "entire image")
    figure.encoder(18, 224, (26, 208, *whole))
    figure.encoder(314, 522, (322, 134, *whole), (468, 360, "RoIAlign on every sampled region", "of images with boxes"))
    figure.text(655, 396, f"x of every region, for `{type(figure.detector.box_head).__name__}`")
    for x, w in ((26, 208), (322, 134)):
        figure.part(x, 412, w, 54, "cls_classifier", "\nĝ → Ŝ_{c}  (Eq. 3)\nwhich of Ĉ?")
    for x, name, text in ((468, "foreground", "\nf → S_{fg}  (Eq. 1)\nan object?"),
                          (591, "det_classifier", "\ng → S_{c}  (Eq. 2)\nwhich of C?"),
                          (714, "box_regressor", "\none box for\nall categories")):
        figure.part(x, 412, 114, 54, name, text)
        figure.arrow((648, 370), (648, 402), (x + 57, 402), (x + 57, 412))
        figure.down(x + 57, 466, 484)
    figure.box(26, 484, 208, 86, "loss", "`loss`", "−log Ŝ_{c}  (Eq. 3)", "reaches ĝ, encoder")
    figure.loss(322, 484, 134, ["image_category"], "λ · −log Ŝ_{c}  (Eq. 3)", f"λ = {stage2.image_loss_weight}")
    negative_log = "object: −log(S_{fg} · S_{c})  (Eq. 4)", "background: −log(1 − S_{fg})"
    figure.loss(468, 484, 237, ["region_score"], *negative_log)
    figure.loss(714, 484, 114, ["region_box"], "objects only")
    figure.loss(852, 62, 130, ["rpn_objectness", "rpn_box"])
    figure.part(852, 228, 130, 40, "rpn", "\nproposals")
    figure.box(852, 284, 130, 42, "panel", f"`{sample_regions.__name__}`", f"{model.regions_per_image} an image")
    figure.part(852, 412, 130, 54, "mask_head", "\nmasks of objects\n(optional)")
    figure.loss(852, 484, 130, ["mask"], "objects only")
    figure.down(917, 268, 284, 326, 412, 466, 484)
    for corners in (((917, 228), (917, 148)), ((828, 254), (852, 254)), ((852, 305), (828, 305))):
        figure.arrow(*corners)
    for x, end, y in ((242, 314, 290), (234, 322, 439)):
        figure.arrow((x, y), (end, y), kind="inherit")
        figure.text(278, y - 10, f"`{Detector.inherit.__name__}`", "middle")


def draw_test(figure: Figure) -> None:
    """Detection, below the stages, and the legend."""
    figure.box(10, 598, 980, 200, "panel")
    figure.text(22, 620, "Test: `evaluate.py`", kind="strong", size=15)
    method = f"`{Detector.__name__}.{Detector.predict.__name__}`"
    figure.text(184, 620, f"{method}; the {EvalConfig.max_detections} best detections of an image", kind="less")
    figure.image(26, 642, (3, 4, 34, 44), (11, 11, 27, 27), (40, 16, 37, 34), (20, 3, 61, 50))
    figure.text(68, 716, "every proposal", "middle")
    figure.text(68, 732, "of the RPN", "middle")
    figure.arrow((110, 670), (134, 670))
    figure.part(134, 642, 140, 56, "encoder", f"\n`{type(figure.detector.encoder).__name__}`")
    for y, name, text in ((642, "foreground", ": f → S_{fg}"), (678, "det_classifier", ": g → S_{c}"),
                          (714, "cls_classifier", ": ĝ → Ŝ_{c}"), (756, "box_regressor", ": the box")):
        figure.part(312, y, 190, 28, name, text)
        figure.arrow((274, 670), (292, 670), (292, y + 14), (312, y + 14))
    a = Fraction(EvalConfig.fusion_exponent).limit_denominator(9)
    fused = f"S_{{fg}} · S_{{c}}^{{{a}}} · Ŝ_{{c}}^{{{1 - a}}}"
    figure.box(540, 638, 436, 108, "panel")
    for y, who, formula, source in ((656, "g and ĝ know the category", fused, "5"),
                                    (692, "only g knows it", "S_{fg} · S_{c}", "4"),
                                    (728, "only ĝ knows it: it never had a box", "S_{fg} · Ŝ_{c}", "4")):
        figure.text(552, y + 4, who)
        figure.text(794, y + 4, formula, size=14)
        figure.text(966, y + 4, f"Eq. {source}", "end", "less")
        figure.arrow((502, y), (520, y), (520, 692), (540, 692))
    figure.text(552, 774, "the same for every category, also for those that never had a box")
    figure.arrow((502, 770), (540, 770))
    for x, kind, text in ((22, "inherited", "inherited from stage I"), (200, "new", "new in stage II"),
                          (332, "loss", "loss, and the parts that its gradient reaches"), (650, "roi", "RoI")):
        figure.box(x, 810, 22, 14, kind)
        figure.text(x + 28, 822, text, kind="less")
    figure.text(976, 822, "C categories have boxes, Ĉ have labels", "end", "less")


def draw() -> str:
    """The whole SVG file."""
    figure = Figure()
    draw_stages(figure)
    draw_test(figure)
    return figure.drawing(1000, 838)


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m s21k.experiments.method_figure")
    parser.add_argument("--out", type=Path, default=PICTURE)
    out = parser.parse_args(argv).out
    out.write_text(draw(), encoding="utf-8")
    print(f"written: {out}")


if __name__ == "__main__":
    run_command(main, __doc__)

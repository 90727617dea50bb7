"""The experiments as data: for each small world its rows, the figures that are shown, and the paper's claims.

A row is the words that it adds to its world's own. Rows that change nothing of stage I share it; rows that change the
evaluation alone use the trained model of "full".
"""
from dataclasses import dataclass, field
from typing import NamedTuple

METHOD = {"full": [], "no_reform": ["no_reform"], "no_stage1": ["no_stage1"], "det_only": ["det_only"],
          "max_size": ["stage2.baseline=max_size"], "max_score": ["stage2.baseline=max_score"],
          "image": ["stage2.baseline=image"], "softmax": ["stage2.baseline=softmax"], "cam": ["no_reform"]}
FUSION = {"g alone": ["eval.fusion=det_only"], "g-hat alone": ["eval.fusion=cls_only"],
          "exponent 1/2": ["eval.fusion_exponent=0.5"], "exponent 1/3": ["eval.fusion_exponent=0.3333"],
          "arithmetic": ["eval.fusion=arithmetic"]}
# How many of the objects on the images with boxes are novel and have no box; "full" has 25 %. In the last row f does
# not learn from background that g-hat takes for a novel category: ours, not the paper's [G6].
UNLABELLED = {"novel 0 %": ["data.det.images=scenes/det_00"], "novel 50 %": ["data.det.images=scenes/det_50"],
              "novel 50 %, ignored": ["data.det.images=scenes/det_50", "stage2.ignore_novel_above=0.5"]}
# Explanations of what "full" lacks beside "no_reform", tried: stage I trains one output layer of the FPN, or reads one
# level, and images of stage II read two (G15); g-hat (G7), or FPN and RoI head, come with stage I's fit.
WHY = {"output layer copied": ["stage2.copy_fpn_output=p2"],
       "g-hat starts anew": ["stage2.load_image_classifier=false"], "backbone alone": ["stage2.inherit=backbone"],
       "mean of levels": ["model.image_roi_level=all_mean"]}
MEANING = {"full": "the method", "no_reform": "\"-reform.\": stage I pools, stage II takes its backbone",
           "no_stage1": "\"-stage I\": stage II from random weights", "det_only": "stage II without labelled images",
           "max_size": "Detic's max-size loss", "max_score": "Detic's max-score loss", "image": "Detic's image loss",
           "softmax": "one softmax over C + 1 beside g-hat", "cam": "class activation maps, no boxes in training",
           "g alone": "full, base categories scored by g", "g-hat alone": "full, base categories scored by g-hat",
           "exponent 1/2": "full, Eq. 5 with 1/2, 1/2", "exponent 1/3": "full, Eq. 5 with 1/3, 2/3",
           "arithmetic": "full, 2/3 and 1/3 of the scores added",
           "output layer copied": "full, every output layer of the FPN starts as stage I's of P2",
           "g-hat starts anew": "full, g-hat's layer starts from random weights",
           "backbone alone": "full, stage II takes the backbone of stage I alone, as no_reform does",
           "mean of levels": "full, the entire image is read from the mean of P2 to P5, in both stages",
           "novel 0 %": "full, no novel object on images with boxes",
           "novel 50 %": "full, half of the objects on images with boxes novel, without boxes",
           "novel 50 %, ignored": "the same, background that g-hat takes for a novel category left out of f's loss"}

# Choice -> the words it adds; the first of each group is our default. The level of the whole image is a choice of stage
# I, too; DET_ONLY is the folder of that row, whose RPN is trained: "warm" rows start from it, all alike (f, g and boxes
# anew).
SHORT, LEVELS = ["stage2.iterations=300"], ["stage1.epochs=2", "stage2.iterations=300"]
WARM = [*SHORT, "stage2.init=DET_ONLY/stage2.pt"]
CHOICES = {"default, short": SHORT, "lambda 0.01": [*SHORT, "stage2.image_loss_weight=0.01"],
           "lambda 1": [*SHORT, "stage2.image_loss_weight=1"],
           "loss on the product": [*SHORT, "stage2.loss_reading=bce_product"],
           "category loss over foreground": [*SHORT, "stage2.loss_norm=fg"],
           "g-hat starts anew": [*SHORT, "stage2.load_image_classifier=false"],
           "det:cls 1:1": [*SHORT, "stage2.cls_per_det=1"], "det:cls 1:6": [*SHORT, "stage2.cls_per_det=6"],
           "learning rate 1e-3": [*SHORT, "stage2.lr=1e-3"],
           "rescue from IoU 0.3": [*SHORT, "model.rpn_rescue_iou=0.3"],
           "output layer copied": [*SHORT, "stage2.copy_fpn_output=p2"], "level: FPN's rule": LEVELS,
           "level: P5": [*LEVELS, "model.image_roi_level=p5"],
           "level: mean of all": [*LEVELS, "model.image_roi_level=all_mean"],
           "level: random": [*LEVELS, "model.image_roi_level=random"], "warm: ours": WARM,
           "warm: image": [*WARM, "stage2.baseline=image"], "warm: max_size": [*WARM, "stage2.baseline=max_size"],
           "warm: max_score": [*WARM, "stage2.baseline=max_score"], "short, g alone": [*SHORT, "eval.fusion=det_only"],
           "short, g-hat alone": [*SHORT, "eval.fusion=cls_only"]}

# A figure of metrics.json -> its title. The first ones are also known by group: AP50_novel.
GROUPED = {"top1": "Top-1", "gt_known": "GT-Known", "top5": "Top-5", "AP50": "AP50",
           "proposal_recall": "recall of proposals"}
TITLES = GROUPED | {"APs": "AP, small", "APm": "AP, medium", "APl": "AP, large"}


@dataclass(frozen=True)
class SmallWorld:
    """name: of its results file and, unless there is a backbone's word, of its configuration; tables: the figures of
    each."""
    name: str
    base: list[str]
    rows: dict[str, list[str]]
    tables: tuple[tuple[str, ...], ...]
    choices: dict[str, list[str]] = field(default_factory=dict)


WORLDS = {world.name: world for world in (
    SmallWorld("tiny40", ["r18", "tiny40"], METHOD | FUSION, (("top1", "gt_known"), ("top5", "AP50")), CHOICES),
    SmallWorld("scenes", ["scenes"], METHOD | FUSION | UNLABELLED | WHY,
               (("AP50", "proposal_recall"), ("top1", "gt_known"), ("APs", "APm", "APl"))))}


class Claim(NamedTuple):
    """row is better than other, by the figures of each world in which both are rows."""
    text: str
    row: str
    other: str
    tiny40: tuple[str, ...]
    scenes: tuple[str, ...]


BOTH = ("AP50_base", "AP50_novel", "gt_known", "top1")
NOVEL = ("AP50_novel", "gt_known_novel", "top1_novel")
FOUND = ("AP50_novel", "gt_known_novel", "proposal_recall_novel", "AP50_base")
CLAIMS = (
    Claim("knowledge of a thoroughly trained classifier helps (Sec. 4.2, 4.3)", "full", "no_stage1",
          ("top1", "gt_known", "AP50_base", "AP50_novel"), BOTH),
    Claim("the reformulated stage I transfers better than a plain one (Tables 2, 3)", "full", "no_reform",
          ("top1", "gt_known", "AP50_base", "AP50_novel"), BOTH),
    Claim("labelled images help in stage II, too (as in Table 5)", "full", "det_only",
          ("top1_base", "top1_novel", "AP50_base", "AP50_novel"), (*BOTH, "proposal_recall_novel")),
    Claim("Eq. 5 beats g alone where both know a category [P33]", "full", "g alone",
          ("top1", "AP50_base"), ("AP50_base", "top1_base", "top1")),
    Claim("Eq. 5 beats g-hat alone where both know a category [P33]", "full", "g-hat alone",
          ("top1", "AP50_base"), ("AP50_base", "top1_base", "top1")),
    Claim("f decoupled beats one softmax over C + 1 on novel categories [P31]", "full", "softmax",
          ("gt_known_novel", "top1_novel", "AP50_novel"), NOVEL),
    Claim("the entire image teaches more than the largest proposal [P3; Detic's losses]", "image", "max_size",
          ("top1", "gt_known", "AP50_novel"), NOVEL),
    Claim("the entire image teaches more than the best-scored proposal [P3; Detic's losses]", "image", "max_score",
          ("top1", "gt_known", "AP50_novel"), NOVEL),
    Claim("softmax beats sigmoid on the entire image", "full", "image", ("top1", "gt_known", "AP50_novel"), NOVEL),
    Claim("the whole method beats Detic's max-size loss", "full", "max_size",
          ("top1", "gt_known", "AP50_novel"), NOVEL),
    Claim("boxes of some categories localize the others better than class activation maps", "full", "cam",
          ("gt_known_novel", "top1_novel"), ("gt_known_novel", "top1_novel")),
    Claim("novel objects without boxes cost, half of all: f learns that they are background (not asked by the paper)",
          "novel 0 %", "novel 50 %", (), FOUND),
    Claim("novel objects without boxes cost, a quarter of all (not asked by the paper)", "novel 0 %", "full", (),
          FOUND),
    Claim("it helps that f ignores background which g-hat takes for a novel category (ours)", "novel 50 %, ignored",
          "novel 50 %", (), FOUND))

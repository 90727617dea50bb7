"""Stage II: boxes and image labels trained together, and detection with both (Fig. 2b).

One forward pass of the backbone serves both kinds of images; the RPN and the box losses see only those with boxes
[G12], the whole-image RoI only those with a label: no multi-instance learning, no pseudo boxes [P3].
"""
import dataclasses
import operator
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from s21k.core.categories import CategoryMap
from s21k.core.config import Config, EvalConfig
from s21k.core.errors import InputError
from s21k.core.structures import Batch, Prediction
from s21k.files.images import normalize
from s21k.models.assign import sample_regions
from s21k.models.backbones import build_backbone
from s21k.models.baselines import SigmoidHead, SoftmaxLabelHead, chosen_boxes
from s21k.models.box_head import BoxHead
from s21k.models.mask_head import MaskHead
from s21k.models.postprocess import Ranking, best_categories, postprocess
from s21k.models.region_encoder import RegionEncoder
from s21k.models.rpn import RPN
from s21k.models.softmax_head import SoftmaxHead


class Detector(nn.Module):
    """Faster R-CNN with an FPN, its category classifier decoupled into f, g and g-hat; with a mask head, Mask R-CNN."""

    def __init__(self, encoder: RegionEncoder, rpn: RPN, box_head: BoxHead | SoftmaxHead, mask_head: MaskHead | None,
                 regions_per_image: int, chooses: str | None = None) -> None:
        """chooses: a baseline's region of a labelled image (baselines.chosen_boxes); None: all of it, the method."""
        super().__init__()
        self.chooses = chooses
        self.encoder, self.rpn, self.box_head, self.mask_head = encoder, rpn, box_head, mask_head
        self.regions_per_image = regions_per_image

    def forward(self, det: Batch, cls: Batch | None) -> dict[str, Tensor]:
        """Losses of one step, unweighted scalars, by name. Both batches are on one canvas size.
        {"rpn_objectness", "rpn_box", "region_score", "region_box", and with a mask head "mask"} of det,
        {"image_category"} of cls."""
        images, sizes, seeds = det.images, det.sizes, det.seeds
        if cls is not None:
            images, sizes, seeds = torch.cat([images, cls.images]), sizes + cls.sizes, seeds + cls.seeds
        features = self.encoder.features(normalize(images, sizes), seeds)            # C2..C5 of all images
        det_pyramid = self.encoder.fpn([c[:len(det)] for c in features])             # P2..P6

        proposals, losses = self.rpn(det_pyramid, det.sizes, det.targets, det.seeds)
        regions = sample_regions(proposals, det.targets, det.seeds, self.regions_per_image)
        x = self.encoder.regions(det_pyramid, [r.boxes for r in regions])            # (R, d)
        losses |= self.box_head.region_losses(x, regions)
        if self.mask_head is not None:
            losses |= self.mask_head.losses(det_pyramid, regions, det.targets)
        if cls is not None:
            x = self.image_features([c[len(det):] for c in features], cls)           # (B, d), one RoI each [P18]
            losses |= self.box_head.image_losses(x, cls.image_labels())
        return losses

    def image_features(self, features: list[Tensor], cls: Batch) -> Tensor:
        """C2..C5 -> x (B, d) that g-hat learns from: of the entire image [P18], or of what a baseline chooses in its
        place."""
        if self.chooses is None:
            return self.encoder.images(features, cls.sizes, cls.seeds)
        pyramid = self.encoder.fpn(features)                                         # P2..P6
        return self.encoder.regions(pyramid, chosen_boxes(self.chooses, self, pyramid, cls))

    @torch.no_grad()
    def region_features(self, batch: Batch) -> Iterator[tuple[list[Tensor], Tensor, Tensor]]:
        """Of each image at test time: its P2..P6, each (1, C, H/s, W/s), proposals (R, 4) and their x (R, d)."""
        pyramid = self.encoder.pyramid(normalize(batch.images, batch.sizes))         # P2..P6
        proposals, _ = self.rpn(pyramid, batch.sizes)                                # B times (R, 4)
        for i, boxes in enumerate(proposals):
            levels = [level[i:i + 1] for level in pyramid]
            yield levels, boxes, self.encoder.regions(levels, [boxes])

    @torch.no_grad()
    def predict(self, batch: Batch, categories: CategoryMap, test: EvalConfig) -> Iterator[Prediction]:
        """One Prediction an image, in network pixels; of the (R, K) scores some rows exist at a time.
        categories (on the model's device) say which rows of g and g-hat to use: the classification
        branch is gone, except g-hat's linear layer [P32]."""
        for size, (levels, proposals, x) in zip(batch.sizes, self.region_features(batch), strict=True):
            regions = self.box_head.region_scores(x, proposals, size, categories.det_index, categories.cls_index,
                                                  test.fusion, test.fusion_exponent)
            ranking = Ranking(regions)
            found = postprocess(ranking, test.threshold, test.nms, test.max_detections, test.class_agnostic_nms)
            # Top-5 has no threshold [P83]; where five are above it, they are the first of those found.
            five = (found.pick(list(range(5))) if len(found.scores) >= 5
                    else postprocess(ranking, -1.0, test.nms, 5, test.class_agnostic_nms))
            yield Prediction(regions, found, five, best_categories(ranking, 5), None if self.mask_head is None
                             else self.mask_head.predict(levels, found.boxes), proposals)

    def inherit(self, state: dict[str, Tensor], only: str = "all",
                load_image_classifier: bool = True) -> tuple[list[str], list[str]]:
        """Take over the parts of a checkpoint's state that this detector has, each strictly [P1, P5; INHERITED].

        only: "backbone" takes no more than that. Returns the names of the parts taken, and of those that stay random;
        InputError when none is there, or when one does not fit.
        """
        taken, random = [], [*self.box_head.NEW] + ["mask head"] * (self.mask_head is not None)
        for part, place, prefixes in INHERITED:
            module = operator.attrgetter(place)(self)
            if module is None:                                               # this detector has no such part
                continue
            wanted = only == "all" or part == "backbone"
            if part == "g-hat":                                              # "-reform." has one for other features
                wanted = wanted and load_image_classifier and "encoder.fc1.weight" in state
            found = False
            for prefix in prefixes if wanted else ():
                found |= load_part(module, prefix, state)
            if found:
                taken.append(part)
            else:
                random.append(part)
        if not taken:
            raise InputError(f"the checkpoint holds no part of this detector; its keys start {sorted(state)[:3]}")
        return taken, random


# What stage II starts from, part by part: its place in the detector, and the names it has in a checkpoint of stage I,
# of "-reform." [P67: a backbone, and a linear layer on other features], and of stage II. f, g, box regression and masks
# are always new [P29]. "Ours" inherits backbone, FPN, RoI head [P35] and g-hat [G7]. Table 5 [G31]: "IN-21K" the
# backbone alone (stage2.inherit=backbone), "IN-21K -> O365" and "Ours" also FPN, RoI head and RPN of their stage II.
INHERITED = (("backbone", "encoder.backbone", ("encoder.backbone.", "backbone.")),
             ("FPN", "encoder.fpn", ("encoder.fpn.",)),
             ("RoI head, first layer", "encoder.fc1", ("encoder.fc1.",)),
             ("RoI head, second layer", "encoder.fc2", ("encoder.fc2.",)),
             ("RPN", "rpn", ("rpn.",)),
             ("g-hat", "box_head.cls_classifier", ("cls_classifier.", "box_head.cls_classifier.")))


def load_part(module: nn.Module, prefix: str, state: dict[str, Tensor]) -> bool:
    """Load the entries of state below prefix into module, strictly. False where there are none."""
    part = {key[len(prefix):]: value for key, value in state.items() if key.startswith(prefix)}
    if not part:
        return False
    try:
        module.load_state_dict(part, strict=True)
    except RuntimeError as error:
        raise InputError(f"the checkpoint's {prefix}* does not fit the model: {str(error):.300}") from None
    return True


# of stage2.baseline
HEADS = {"none": BoxHead, "max_size": SigmoidHead, "max_score": SigmoidHead, "image": SigmoidHead,
         "softmax": SoftmaxLabelHead}


def novel_rows(cfg: Config) -> Tensor:
    """(n,): the rows of g-hat that g has no row for, by data.eval.categories. InputError: there is none."""
    categories = CategoryMap.load(Path(cfg.data.root) / cfg.data.eval.categories)
    rows = categories.cls_index[(categories.det_index < 0) & (categories.cls_index >= 0)]
    if len(rows) == 0:
        raise InputError(f"stage2.ignore_novel_above: {cfg.data.eval.categories} has no category that g-hat alone "
                         f"knows, expected 0")
    return rows


def build_head(cfg: Config) -> BoxHead | SoftmaxHead:
    """The head of a configuration. InputError: image labels, and no g-hat to train with them; or no g-hat, or no
    categories, to ignore novel ones by."""
    num_det = cfg.data.det.classes
    if cfg.stage2.ignore_novel_above > 0 and (cfg.data.cls is None or cfg.data.eval is None):
        raise InputError("stage2.ignore_novel_above needs data.cls, for g-hat, and data.eval, for its categories; "
                         "expected 0")
    if cfg.model.head == "decoupled":
        return HEADS[cfg.stage2.baseline](cfg.model.region_dim, num_det, cfg.data.cls.classes if cfg.data.cls else None,
                                          cfg.stage2.loss_reading, cfg.stage2.loss_norm, cfg.stage2.ignore_novel_above)
    if cfg.data.cls is not None:
        raise InputError("model.head=softmax has no g-hat, expected data.cls: null with it")
    return SoftmaxHead(cfg.model.region_dim, num_det)


def build_detector(cfg: Config) -> Detector:
    """The detector of a configuration: C and C^ from its data section."""
    if cfg.data.det is None:
        raise InputError("data.det: missing, and a detector needs images with boxes")
    model = cfg.model
    norm = {"frozen_bn": "frozen_bn", "sync_bn": "bn", "gn": "gn"}[model.norm]
    backbone = build_backbone(model.backbone, norm, cfg.stage2.drop_path, model.checkpoint_activations)
    if cfg.stage2.init == "scratch" and any(isinstance(module, FrozenBatchNorm2d) for module in backbone.modules()):
        raise InputError("stage2.init=scratch with model.norm=frozen_bn: frozen BN cannot train random weights, "
                         "expected model.norm=sync_bn or gn [G17]")
    encoder = RegionEncoder(backbone, model.fpn_channels, model.region_dim, model.image_roi_level, model.image_roi)
    rpn = RPN(model.fpn_channels, model.anchor_scale, model.rpn_batch, model.rpn_pre_nms, model.rpn_proposals,
              model.rpn_rescue_iou)
    box_head = build_head(cfg)
    return Detector(encoder, rpn, box_head, MaskHead(model.fpn_channels) if model.with_masks else None,
                    model.regions_per_image,
                    cfg.stage2.baseline if cfg.stage2.baseline in ("max_size", "max_score", "image") else None)


def restore_detector(cfg: Config, content: dict, categories: CategoryMap) -> Detector:
    """The trained detector of a checkpoint's content, in eval mode. InputError: the categories JSON speaks of rows that
    the checkpoint's classifiers do not have, or the weights do not fit the configuration."""
    if "categories" not in content:
        raise InputError("the checkpoint is not one of stage II: it has no model and categories")
    trained, now = content["config"].get("model"), dataclasses.asdict(cfg.model)
    trained = trained if isinstance(trained, dict) else {}
    free = {"rpn_pre_nms", "rpn_proposals", "checkpoint_activations"}    # these may differ at test time
    for key in sorted((trained.keys() & now.keys()) - free):
        if trained[key] != now[key]:
            raise InputError(f"the checkpoint was trained with model.{key}={trained[key]}, the configuration says "
                             f"{now[key]}")
    stage2 = content["config"].get("stage2")
    if isinstance(stage2, dict) and stage2.get("baseline", "none") != cfg.stage2.baseline:
        raise InputError(f"the checkpoint was trained with stage2.baseline={stage2.get('baseline')}, the configuration "
                         f"says {cfg.stage2.baseline}")
    for key, value in content["model"].items():
        if value.is_floating_point() and not value.isfinite().all():
            raise InputError(f"the checkpoint's {key} is not finite: its training diverged")
    rows = content["categories"]
    categories.check_rows(rows.get("det", []), rows.get("cls", []))
    detector = build_detector(cfg)
    load_part(detector, "", content["model"])
    return detector.eval()

"""The configuration: frozen dataclasses, and an experiment as a list of small YAML files.

    load_config(["r18", "tiny", "no_reform", "stage2.lr=3e-4"])

A word is a file in s21k/configs or a path to a YAML file; key=value overrides (s21k/core/words.py has the
rules). Unknown keys, wrong types and values out of range are refused before any data is read.
The default of each key gives its source; audit.md has the P- and G-numbers.
"""
import dataclasses
import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml

from s21k.core.errors import InputError
from s21k.core.trees import Between, build, leaves
from s21k.core.words import add_words, known_words, word_to_tree

# Keys that do not change what a training run computes: they name no folder and may differ on continuing.
NEUTRAL = ("output_dir", "parent_dir", "timeout", "eval.", "data.root", "data.workers", "data.max_faults", "data.eval.",
           "data.det.expected", "data.cls.expected", "model.checkpoint_activations", "stage1.save_every",
           "stage1.log_every", "stage1.validate_every", "stage2.save_every", "stage2.log_every")
# Keys that change stage II alone: runs that differ in these share their stage I.
STAGE2_ONLY = ("stage2.", "model.rpn_", "data.det.")

# Numbers and their limits.
Count, AtLeastOne, Side = Annotated[int, Between(0)], Annotated[int, Between(1)], Annotated[int, Between(32)]
Amount, Share = Annotated[float, Between(0)], Annotated[float, Between(0, 1)]
DropRate = Annotated[float, Between(0, 0.99)]


@dataclass(frozen=True)
class DetectionDataConfig:
    annotations: str                        # COCO-format JSON, or a table of s21k.prepare; relative to data.root
    images: str                             # folder of the images
    classes: AtLeastOne                     # C, checked against the JSON
    repeat_threshold: Share = 0.0           # repeat-factor sampling [P90, G23]; 0: every image once an epoch
    expected: int | None = None             # images of the whole distribution, for --plan where they are absent


@dataclass(frozen=True)
class ClassificationDataConfig:
    train: str                              # a folder with one folder per class, a list "path<TAB>class", or an index
    classes: AtLeastOne                     # C^, checked against the data
    val: str | None = None                  # the same; None: stage I prints no accuracy
    expected: int | None = None             # as above


@dataclass(frozen=True)
class EvaluationDataConfig:
    annotations: str                        # COCO-format JSON with the boxes to be found
    images: str
    categories: str                         # the categories JSON: rows of g and g-hat, groups


@dataclass(frozen=True)
class DataConfig:
    root: str = "data"
    workers: Count | None = None            # loader processes of each stream; None: by cores and processes, 8 at most
    max_faults: Share = 0.01                # share of unreadable images that stops training; ten are tolerated
    det: DetectionDataConfig | None = None
    cls: ClassificationDataConfig | None = None
    eval: EvaluationDataConfig | None = None


@dataclass(frozen=True)
class ModelConfig:
    backbone: str = "resnet50"              # a row of BACKBONES, models/backbones.py
    norm: Literal["frozen_bn", "sync_bn", "gn"] = "frozen_bn"   # of stage II's ResNet; stage I: gn or trained BN [G17]
    reformulated: bool = True               # False: "Ours (-reform.)", average pooling and a linear head [P67, P76]
    fpn_channels: AtLeastOne = 256          # [G10]
    region_dim: AtLeastOne = 1024           # d of Eqs. 1-3 [G8]
    image_roi_level: Literal["fpn_rule", "p5", "all_mean", "random"] = "fpn_rule"   # of the whole image [G15]
    image_roi: Literal["valid", "canvas"] = "valid"             # "entire image" without or with the padding [G16]
    checkpoint_activations: bool = False    # compute the backbone's activations twice and store them once [G19]
    anchor_scale: Annotated[float, Between(1e-3)] = 8.0  # anchor side / stride: 32, 64, .. 512 on P2..P6 [G10]
    rpn_batch: AtLeastOne = 256             # sampled anchors an image, half positive at most [G11]
    rpn_rescue_iou: Share = 0.0             # an object's best anchors are its own from this IoU on; 0 as detectron2,
                                            # mmdetection (the authors' detector) has 0.3 [G11]
    rpn_pre_nms: tuple[int, int] = (2000, 1000)     # best anchors a level before NMS: training, test [G11]
    rpn_proposals: tuple[int, int] = (1000, 1000)   # proposals an image after NMS: training, test [G11]
    regions_per_image: AtLeastOne = 512     # sampled regions, a quarter positive at most [G13]
    head: Literal["decoupled", "softmax"] = "decoupled"         # f, g, g-hat; or the usual C + 1, for fine-tuning [G31]
    with_masks: bool = False                # Mask R-CNN's mask head [P39, G2]; the boxes' JSON needs segmentations


@dataclass(frozen=True)
class Stage1Config:
    init: str | None = None                 # public weights for the backbone (models/pretrained.py); None: random
    recipe: Literal["imagenet1k", "imagenet21k"] = "imagenet1k"     # which of the backbone's: s21k/core/words.py
    size: Side = 224                        # [P11]
    batch: AtLeastOne = 256                 # images a step over all processes [G24]
    epochs: Amount = 100.0                  # [P15, P50, P53]
    optimizer: Literal["sgd", "adamw"] = "sgd"                  # [P50, P52]
    lr: Amount = 0.1                        # of the batch that rates_per names [P50, G24]
    min_lr: Amount = 0.0                    # the last rate, likewise [G24]
    rates_per: Count = 0                    # lr, min_lr are of a step of so many images (`rate`); 0: of any batch [G24]
    momentum: Annotated[float, Between(0, 0.9999)] = 0.9  # of SGD [G24]
    weight_decay: Amount = 1e-4             # [P50]
    warmup_epochs: Amount = 5.0             # [G24]
    clip_norm: Amount = 0.0                 # 0: no clipping [G24]
    crop_scale: tuple[float, float] = (0.08, 1.0)   # area of the random crop [P51]
    color_jitter: Share = 0.4               # brightness, contrast, saturation [P51]
    val_crop: Annotated[float, Between(0.1, 1)] = 0.875     # the share of a validation image: 224 of 256 [G24]
    rand_augment: bool = False              # data/rand_augment.py, in place of the colour jitter [P52, G24]
    erasing: Share = 0.0                    # probability of random erasing [P52]
    mixup: Amount = 0.0                     # alpha; 0: off [P52]
    cutmix: Amount = 0.0                    # alpha; 0: off [P52]
    label_smoothing: Share = 0.0            # [G24]
    drop_path: DropRate = 0.0               # stochastic depth of Swin's last block [P52, G22]
    validate_every: AtLeastOne = 1          # epochs
    save_every: AtLeastOne = 1000           # steps
    log_every: AtLeastOne = 20              # steps

    def rate(self, published: float) -> float:
        """A published learning rate at this batch."""
        return published * self.batch / self.rates_per if self.rates_per else published


@dataclass(frozen=True)
class Stage2Config:
    # a checkpoint, or public weights for the backbone; None: this run's own stage I; "scratch": none, "-stage I" [P68]
    init: str | None = None
    inherit: Literal["all", "backbone"] = "all"     # what is taken of init; backbone: "IN-21K" of Table 5 [G31]
    copy_fpn_output: Literal["none", "p2", "p3", "p4", "p5"] = "none"   # stage I's output layer, to all levels [G15]
    load_image_classifier: bool = True      # of stage I: "except for the last layer" can be read both ways [P30, G7]
    size: Side = 1024                       # [P54]
    scale: tuple[float, float] = (0.1, 2.0)         # large-scale jitter [P55]
    det_batch: AtLeastOne = 16              # images with boxes a step, all processes; the paper gives none [P62, G18]
    cls_per_det: Count = 3                  # "1:3 in each iteration" [P57]; 0: detection data only
    accumulate: AtLeastOne = 1              # a step's images in this many parts, one after the other [G19]
    iterations: AtLeastOne = 270_000        # 3x schedule [P58, G20]
    lr: Amount = 3e-4                       # searched in 3e-4, 1e-3, 3e-3 [P59, G18]
    weight_decay: Amount = 0.05             # P60; with AdamW [G18]
    warmup: Count = 1000                    # steps [G21]
    milestones: tuple[float, ...] = (7 / 9, 25 / 27)    # lr x 0.1 at these shares of the iterations [G20]
    clip_norm: Amount = 1.0                 # [G21]
    image_loss_weight: Amount = 0.1         # lambda, searched in 0.01, 0.1, 1.0 [P61, G4]
    loss_reading: Literal["nll", "bce_product"] = "nll"     # "performed on this final score" [P25, G3]
    loss_norm: Literal["all", "fg"] = "all"                 # the category term over all or foreground regions [G3]
    # ours, not the paper's: background regions that g-hat gives to a category without boxes, by at least this
    # probability, are left out of f's loss; 0: none are [G6]
    ignore_novel_above: Share = 0.0
    baseline: Literal["none", "max_size", "max_score", "image", "softmax"] = "none"    # to compare: models/baselines.py
    drop_path: DropRate = 0.0               # [G22]
    save_every: AtLeastOne = 1000           # steps
    log_every: AtLeastOne = 20              # steps


@dataclass(frozen=True)
class EvalConfig:
    checkpoint: str | None = None           # None: stage2.pt of the run
    resize: tuple[int, int] = (800, 1333)   # shortest edge, and the most for the longest [P12, G25]
    batch: AtLeastOne = 1                   # images of one forward pass
    fusion: Literal["geometric", "det_only", "cls_only", "arithmetic"] = "geometric"    # Eq. 5 [P33, G9]
    fusion_exponent: Share = 2 / 3          # of the detection score in Eq. 5 [P33]
    threshold: Annotated[float, Between(-1, 1)] = 1e-4  # [P85, G26]
    nms: Share = 0.5                        # IoU above which the worse box of one category goes [G26]
    class_agnostic_nms: bool = False        # True: a box removes the worse ones of every category
    max_detections: Annotated[int, Between(-1)] = 100  # an image; -1: all [P85, G26]
    metrics: tuple[str, ...] = ("localization", "box_ap")       # names of evaluate.METRICS
    pictures: Count = 12                    # drawn beside the ground truth


@dataclass(frozen=True)
class Config:
    seed: Count = 0
    amp: Literal["auto", "off", "bf16", "fp16"] = "auto"    # [P62, G21] training/amp.py says what auto becomes
    timeout: Annotated[float, Between(1)] = 600.0   # seconds that a process waits for another, or for data
    deterministic: bool | None = None       # bit-equal restarts; None: yes on CPU, no on CUDA, where it costs speed
    output_dir: str = ""                    # "": runs/<words>
    parent_dir: str = ""                    # where stage I of the same words without stage-II changes lies
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    stage1: Stage1Config = field(default_factory=Stage1Config)
    stage2: Stage2Config = field(default_factory=Stage2Config)
    eval: EvalConfig = field(default_factory=EvalConfig)


def _check_values(config: Config) -> None:
    """InputError for values that do not go together, or a pair that is upside down."""
    flat = leaves(dataclasses.asdict(config))
    for name in ("model.rpn_pre_nms", "model.rpn_proposals"):
        if min(flat[name]) < 1:
            raise InputError(f"{name}: expected numbers of at least 1, found {list(flat[name])}")
    milestones = config.stage2.milestones
    if not all(0 < share <= 1 for share in milestones) or list(milestones) != sorted(milestones):
        raise InputError(f"stage2.milestones: expected rising shares of the iterations in (0, 1], found "
                         f"{list(milestones)}")
    if config.stage1.crop_scale[1] > 1:
        raise InputError(f"stage1.crop_scale: expected shares of the image, at most 1, found "
                         f"{list(config.stage1.crop_scale)}")
    if config.stage2.det_batch % config.stage2.accumulate:
        raise InputError(f"stage2.accumulate: {config.stage2.det_batch} images do not divide into "
                         f"{config.stage2.accumulate} parts")
    if config.stage2.copy_fpn_output != "none" and config.stage2.init == "scratch":
        raise InputError("stage2.copy_fpn_output with stage2.init=scratch: no stage I has trained an output layer, "
                         "expected none")
    if config.model.checkpoint_activations and config.model.norm == "sync_bn":
        raise InputError("model.checkpoint_activations with model.norm=sync_bn: BN would count each batch twice")
    for name in ("stage1.crop_scale", "stage2.scale", "eval.resize"):
        low, high = flat[name]
        if not 0 < low <= high:
            raise InputError(f"{name}: expected 0 < low <= high, found {list(flat[name])}")


def _is_neutral(key: str) -> bool:
    return any(key == name or (name.endswith(".") and key.startswith(name)) for name in NEUTRAL)


def _folder(words: list[str], config: Config) -> str:
    """runs/<stems of the words joined by ->[-<6 hex of the overrides that change training, by their final values>]."""
    stems = [Path(word).stem for word in words if "=" not in word]
    final = leaves(dataclasses.asdict(config))
    keys = {key for word in words if "=" in word for key in leaves(word_to_tree(word)) if not _is_neutral(key)}
    if keys:
        values = "\n".join(f"{key}={final.get(key)!r}" for key in sorted(keys))
        stems.append(hashlib.sha256(values.encode()).hexdigest()[:6])
    return str(Path("runs") / "-".join(stems))


def load_config(words: list[str]) -> Config:
    """The sum of the words, typed and checked. InputError says which word, key or value is wrong."""
    if not any("=" not in word for word in words):
        raise InputError(f"no word given, expected at least one of {', '.join(known_words())}, or a YAML file")
    config = build(Config, add_words(words))
    _check_values(config)
    # Stage I does not depend on words that only change stage II: its folder is that of the others.
    stage1_words = [word for word in words
                    if not all(key.startswith(STAGE2_ONLY) for key in leaves(word_to_tree(word)))]
    return dataclasses.replace(config, output_dir=config.output_dir or _folder(words, config),
                               parent_dir=config.parent_dir or _folder(stage1_words, config))


def save_config(config: Config, path: Path) -> None:
    """The whole resolved configuration as YAML: given as the only word, it is the same experiment."""
    path.write_text(yaml.safe_dump(_plain(dataclasses.asdict(config)), sort_keys=False))


def _plain(value: Any) -> Any:
    """A tree with lists in place of tuples, as YAML has it."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return list(value) if isinstance(value, tuple) else value


def training_view(config: Config | dict[str, Any]) -> dict[str, Any]:
    """The keys that change what a training run computes, flat, of a configuration or of its tree."""
    tree = config if isinstance(config, dict) else dataclasses.asdict(config)
    return {key: value for key, value in leaves(_plain(tree)).items() if not _is_neutral(key)}


def training_difference(config: Config, before: dict[str, Any], ignore: str | tuple[str, ...]) -> list[str]:
    """Keys that change training, do not start with `ignore`, and differ from a resolved configuration (a tree)."""
    new = training_view(config)
    plain = training_view(Config())  # a key that came after the run had its default there
    old = {key: plain[key] for key in new.keys() & plain.keys()} | training_view(before)
    return [f"{key} ({old.get(key)} before, now {new.get(key)})" for key in sorted({*old, *new})
            if not key.startswith(ignore) and old.get(key) != new.get(key)]

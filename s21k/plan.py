"""--plan: what a command would do, before it does anything: data, steps, learning rates, parameters, what is inherited,
memory, and what is missing on disk. Nothing is written; of each data set some images are opened.
"""
import contextlib
import operator
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from s21k.core.categories import CategoryMap
from s21k.core.config import Config
from s21k.core.errors import InputError
from s21k.data.classification import ClassificationData
from s21k.data.first_look import look_ahead
from s21k.data.loaders import open_classification, open_detection
from s21k.models.classifier import build_classifier
from s21k.models.detector import INHERITED, build_detector
from s21k.models.mask_head import POOL as MASK_POOL
from s21k.models.region_encoder import RegionEncoder
from s21k.models.roi_pool import level_shares
from s21k.training.checkpoint import check_categories, is_ours, latest
from s21k.training.run import initial_state, trained

T = TypeVar("T")
GB = 2**30
BF16 = 0.6   # of float32's activations that bf16 keeps: on an H100, Swin-B 0.60, ResNet-50 0.53 (norms stay in float32)
RATE = 4e13  # FLOP/s that a GPU is assumed to sustain in bf16: an eighth of an A100's peak


def _count(n: float) -> str:
    return f"{n / 1e6:.2f} M" if n >= 1e6 else f"{n:.0f}"


class Plan:
    """Lines to print; what is missing is collected for the end."""

    def __init__(self, cfg: Config) -> None:
        self.cfg, self.lines, self.missing = cfg, [], []
        self.class_names: list[str] | None = None                        # of the labelled images, once they are open

    def say(self, what: str, text: str) -> None:
        self.lines.append(f"{what + ':' if what else '':<22}{text}")

    def there(self, part: str, names: tuple[str, ...]) -> bool:
        """Whether data.<part>'s paths exist; the others are missing."""
        section = getattr(self.cfg.data, part)
        absent = [name for name in names if not (Path(self.cfg.data.root) / getattr(section, name)).exists()]
        self.missing += [f"data.{part}.{name}: {Path(self.cfg.data.root) / getattr(section, name)}" for name in absent]
        return not absent

    def stream(self, what: str, opened, part: str, names: tuple[str, ...]) -> int | None:
        """Open one data set, or say that it is missing; the number of its images, if only as expected."""
        expected, classes = getattr(self.cfg.data, part).expected, getattr(self.cfg.data, part).classes
        if not self.there(part, names):
            self.say(what, f"not there; {classes} categories" + (f", {expected} images expected" if expected else ""))
        elif (data := self.look_at(opened)) is None:
            self.say(what, "cannot be used")
        else:
            self.class_names = data.class_names if isinstance(data, ClassificationData) else self.class_names
            self.say(what, f"{len(data)} images, {classes} categories"
                     + (f" (whole: {expected})" if expected not in (None, len(data)) else ""))
            return len(data)
        return expected

    def look_at(self, opened: Callable[[], T]) -> T | None:
        """What is opened; None where it cannot be used: why, is among what is missing."""
        try:
            return opened()
        except InputError as error:
            self.missing.append(str(error))

    def seen(self, images: int, of: int | None) -> str:
        return f"{_count(images)} images" + (f" ({images / of:.2f} epochs of {of})" if of else "")

    def parameters(self, model: nn.Module, parts: dict[str, nn.Module | None], moments: int) -> int:
        """The number in each part. Returns the bytes of weights, gradients and the optimizer's moments in float32."""
        sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items() if part is not None}
        total = sum(p.numel() for p in model.parameters())
        self.say("parameters", f"{_count(total)}: " + ", ".join(f"{name} {_count(n)}" for name, n in sizes.items()))
        return total * 4 * (2 + moments)

    def show(self) -> None:
        print("\n".join([*self.lines, *(f"{'missing:':<22}{text}" for text in self.missing or ["nothing"])]))


def saved_bytes(run: Callable, layers: nn.Module, size: int) -> int:
    """Bytes that run(images), of these layers, keeps of one size x size image for the backward pass, float32, counted
    on shapes."""
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[id(tensor.untyped_storage())] = tensor  # a tensor that two operations keep is there once
        return tensor

    weights = {id(p.untyped_storage()) for p in layers.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run(torch.zeros(1, 3, size, size, device="meta"))
    return sum(t.untyped_storage().nbytes() for key, t in kept.items() if key not in weights)


def forward_flops(*runs: tuple[Callable, tuple[int, ...]]) -> int:
    """Floating-point operations (a multiplication and an addition are two) of the convolutions and matrix products of
    each (function, shape of its input): counted by torch, nothing is computed."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        for function, shape in runs:
            function(torch.zeros(shape, device="meta"))
    return counter.get_total_flops()


def _work(plan: Plan, images: list[tuple[str, float, int]]) -> None:
    """images: what they are, how many, FLOPs of one forward. Training costs three forwards: the backward has two
    products for each (and with model.checkpoint_activations one forward more)."""
    total = sum(3 * count * flops for _, count, flops in images)
    each = ", ".join(f"{3 * flops / 1e9:.1f} GFLOPs an image {name}" for name, _, flops in images)
    plan.say("work", f"{each}: {total / 1e18:.1f} EFLOPs in all, {total / RATE / 3600:.0f} GPU-hours at "
             f"{RATE / 1e12:.0f} TFLOP/s (an assumption)")


def entire_image(encoder: RegionEncoder) -> Callable:
    """What the encoder does with images that have a label: images (B, 3, H, W) -> x (B, dim)."""
    return lambda images: encoder.images(encoder.features(images), [tuple(images.shape[2:])] * len(images))


def _memory(plan: Plan, fixed: int, size: int, kinds: dict[str, tuple[int, int]]) -> None:
    """A table by number of processes. kinds: of each kind of image, how many are in one part of a step, over all
    processes, and the bytes that one keeps; fixed: bytes of each process that do not depend on them."""
    at_once = [count for count, _ in kinds.values()]
    kept = sum(count * one for count, one in kinds.values())
    each = ", ".join(f"{one / GB:.2f} GB an image {name}" for name, (_, one) in kinds.items())
    plan.say("memory", f"weights, gradients and optimizer {fixed / GB:.1f} GB; activations of backbone and FPN, of "
             f"{size} px in float32: {each}; about 0.6 of it in bf16; model.checkpoint_activations=true lowers them")
    plan.say("  processes", f"{'images of each':<16}{'float32':>12}{'bf16':>12}")
    for processes in (1, 2, 4, 8, 16):
        if any(count % processes for count in at_once):
            plan.say(f"  {processes}", f"{' + '.join(map(str, at_once))} images cannot be shared evenly")
            continue
        shown = " + ".join(str(count // processes) for count in at_once)
        whole, half = ((fixed + share * kept / processes) / GB for share in (1, BF16))
        plan.say(f"  {processes}", f"{shown:<16}{whole:>9.1f} GB{half:>9.1f} GB")


def plan_stage1(cfg: Config) -> None:
    """What train_stage1.py would do."""
    if cfg.data.cls is None:
        raise InputError("data.cls: null, and stage I needs images with labels")
    plan, s = Plan(cfg), cfg.stage1
    plan.say("stage I", f"{cfg.model.backbone}, "
                        f"{'one whole-image RoI' if cfg.model.reformulated else 'average pooling (-reform.)'} -> "
                        f"{cfg.output_dir}/stage1.pt")
    n = plan.stream("labelled images", lambda: open_classification(cfg, "train"), "cls", ("train",))
    if cfg.data.cls.val and plan.there("cls", ("val",)):
        plan.look_at(lambda: open_classification(cfg, "val", plan.class_names))
    for part in ("det", "eval"):
        plan.look_at(lambda part=part: look_ahead(cfg, part, tell=lambda line: None))
    if n:
        per_epoch = max(1, n // s.batch)
        total = max(1, round(s.epochs * per_epoch))
        plan.say("steps",
                 f"{total} of {s.batch} images, {s.epochs:g} epochs of {per_epoch}: {plan.seen(total * s.batch, n)}")
        plan.say("learning rate", f"{s.optimizer} {s.rate(s.lr):g}, linear in {round(s.warmup_epochs * per_epoch)} "
                                  f"steps, then half a cosine to {s.rate(s.min_lr):g}")
    else:
        plan.say("steps", f"{s.epochs:g} epochs of batches of {s.batch}; how many images there are is not known")
    plan.say("whole-image RoI", f"{s.size} px, by FPN's rule {level_shares(torch.tensor([float(s.size)]))}; "
             f"model.image_roi_level={cfg.model.image_roi_level}")
    with torch.device("meta"):
        model = build_classifier(cfg.model, cfg.data.cls.classes, s.drop_path)
    encoder = getattr(model, "encoder", None)
    parts = {"backbone": model.backbone, "FPN": encoder and encoder.fpn,
             "RoI head": encoder and nn.ModuleList([encoder.fc1, encoder.fc2]), "g-hat": model.cls_classifier}
    fixed = plan.parameters(model, parts, 2 if s.optimizer == "adamw" else 1)
    trunk = model.backbone if encoder is None else entire_image(encoder)
    _memory(plan, fixed, s.size, {"with a label": (s.batch, saved_bytes(trunk, model, s.size))})
    if n:
        _work(plan, [("with a label", total * s.batch, forward_flops(
            (trunk, (1, 3, s.size, s.size)), (model.cls_classifier, (1, model.cls_classifier.in_features))))])
    plan.say("starts from", s.init or "random weights")
    if s.init and not Path(s.init).is_file():
        plan.missing.append(f"stage1.init {s.init}: no such file")
    plan.show()


def plan_stage2(cfg: Config) -> None:
    """What train_stage2.py would do."""
    plan, s = Plan(cfg), cfg.stage2
    with torch.device("meta"):
        detector = build_detector(cfg)
    plan.say("stage II", f"{cfg.model.backbone}, {cfg.model.head} head{' and masks' if cfg.model.with_masks else ''} "
             f"-> {cfg.output_dir}/stage2.pt")
    num_det = plan.stream("images with boxes", lambda: open_detection(cfg), "det", ("annotations", "images"))
    per_step, num_cls = 0, None
    if cfg.data.cls is not None:
        num_cls = plan.stream("labelled images", lambda: open_classification(cfg, "train"), "cls", ("train",))
        per_step = s.det_batch * s.cls_per_det
    plan.look_at(lambda: look_ahead(cfg, "eval", tell=lambda line: None))
    plan.say("steps", f"{s.iterations} of {s.det_batch} + {per_step} images: with boxes "
             f"{plan.seen(s.iterations * s.det_batch, num_det)}"
             + (f", with labels {plan.seen(s.iterations * per_step, num_cls)}" if per_step else ", none with labels"))
    milestones = ", ".join(str(round(share * s.iterations)) for share in s.milestones)
    plan.say("learning rate", f"AdamW {s.lr:g}, linear in {s.warmup} steps, x 0.1 at {milestones}; weight decay "
             f"{s.weight_decay:g}; lambda {s.image_loss_weight:g}")
    sides = s.size * torch.linspace(*s.scale, 1000).clamp(max=1.0)
    plan.say("whole-image RoI", f"jitter {s.scale[0]:g} to {s.scale[1]:g} of {s.size} px, of a square image by FPN's "
             f"rule {level_shares(sides)}")
    encoder, head = detector.encoder, detector.box_head
    layers = {"f": getattr(head, "foreground", None), "g" if cfg.model.head == "decoupled"
              else "C + 1": head.det_classifier, "g-hat": head.cls_classifier, "boxes": head.box_regressor}
    fixed = plan.parameters(detector,
                            {"backbone": encoder.backbone, "FPN": encoder.fpn, "RPN": detector.rpn,
                             "RoI head": nn.ModuleList([encoder.fc1, encoder.fc2]), **layers,
                             "masks": detector.mask_head}, 2)
    labelled = entire_image(encoder) if detector.chooses is None else encoder.pyramid
    kinds = {"with boxes": (s.det_batch // s.accumulate, saved_bytes(encoder.pyramid, encoder, s.size))}
    if per_step:
        kinds["of full size with a label"] = (per_step // s.accumulate, saved_bytes(labelled, encoder, s.size))
    _memory(plan, fixed, s.size, kinds)
    image, regions, size_of_x = (1, 3, s.size, s.size), cfg.model.regions_per_image, encoder.fc1.in_features
    det = [(lambda x: detector.rpn.head(encoder.pyramid(x)), image),
           (nn.Sequential(encoder.fc1, encoder.fc2, head.det_classifier), (regions, size_of_x))]
    if (mask := detector.mask_head) is not None:
        # on the regions that hold an object, a quarter at most
        det.append((nn.Sequential(*mask.convs, mask.deconv, mask.predictor),
                    (regions // 4, cfg.model.fpn_channels, MASK_POOL, MASK_POOL)))
    work = [("with boxes", s.iterations * s.det_batch, forward_flops(*det))]
    if per_step:
        cls = (labelled, image), (head.cls_classifier, (1, head.cls_classifier.in_features))
        work.append(("with a label", s.iterations * per_step, forward_flops(*cls)))
    _work(plan, work)
    try:
        if latest(Path(cfg.output_dir) / "stage2.pt"):
            plan.say("inherits", f"continues {latest(Path(cfg.output_dir) / 'stage2.pt')}")
        elif s.init == "scratch":
            plan.say("inherits", "nothing (-stage I)")
        else:
            source, content = initial_state(cfg)
            if is_ours(content):
                if cfg.data.cls is not None and (Path(cfg.data.root) / cfg.data.cls.train).exists():
                    check_categories(content["categories"], {"cls": open_classification(cfg, "train").class_names},
                                     source)
                taken, random = build_detector(cfg).inherit(content["model"], s.inherit, s.load_image_classifier)
                plan.say("inherits", f"from {source}: {', '.join(taken)}; random: {', '.join(random)}")
            else:
                plan.say("inherits", f"the backbone, of public weights {source}")
    except InputError as error:
        plan.missing.append(str(error))
        parts = [part for part, place, _ in INHERITED
                 if (s.inherit == "all" and cfg.model.reformulated or part == "backbone")
                 and operator.attrgetter(place)(detector) is not None]
        plan.say("inherits", f"what its start has of: {', '.join(parts)}; never: "
                 f"{', '.join([*head.NEW, *['mask head'] * cfg.model.with_masks])}")
    plan.show()


def plan_evaluation(cfg: Config) -> None:
    """What evaluate.py would do."""
    plan, test, where = Plan(cfg), cfg.eval, cfg.data.eval
    plan.say("evaluation", f"{', '.join(test.metrics)} -> {cfg.output_dir}/metrics.json")
    if where is not None and plan.there("eval", ("annotations", "images", "categories")):
        plan.look_at(lambda: look_ahead(cfg, "eval"))
    with contextlib.suppress(InputError):                                # it is among the missing
        categories = CategoryMap.load(Path(cfg.data.root) / where.categories) if where else None
        if categories is not None:
            det, cls = categories.det_index >= 0, categories.cls_index >= 0
            plan.say("categories", f"{len(categories)}: {int((det & cls).sum())} known to g and g-hat (Eq. 5), "
                     f"{int((det & ~cls).sum())} to g alone, {int((cls & ~det).sum())} to g-hat alone")
    plan.say("detections", f"score above {test.threshold:g}, NMS at {test.nms:g}, the best {test.max_detections} of an "
             f"image; fusion {test.fusion}, exponent {test.fusion_exponent:.3g}")
    plan.say("images", f"shorter side {test.resize[0]}, longer at most {test.resize[1]}; {test.batch} at a time")
    if checkpoint := plan.look_at(lambda: trained(cfg)):
        plan.say("checkpoint", str(checkpoint))
    plan.show()

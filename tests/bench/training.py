"""Speed and memory of training, each part beside its peers in one run.

    python -m tests.bench.training [backbones] [step] [loader] [memory] [profile] [--all] [--json PATH]

backbones  forward and backward of ResNet-50 and Swin-T at 224 and 512 px, with torchvision's and timm's
step       a whole stage-II step (ResNet-50, 512 px) with torchvision's Faster R-CNN on the same weights, images and
           sampled regions; then with three labelled images for each image with boxes
loader     large-scale jitter from JPEG files, beside decoding alone
memory     peak memory of a Swin-B stage-II step, without and with model.checkpoint_activations
profile    where the time of the step goes
By default the first three, each timed three times (--all: all, seven times). Two threads on CPU; on a CUDA device,
that.
"""
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import timm
import torch
import torchvision
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.ops import FrozenBatchNorm2d

from s21k.core.config import load_config
from s21k.data.augment_stage2 import LargeScaleJitter
from s21k.data.detection import DetectionData
from s21k.data.loaders import JitterStream
from s21k.files.images import read_image
from s21k.models import detector as our_detector
from s21k.models.detector import build_detector
from s21k.models.resnet import resnet50
from s21k.models.swin import swin_t
from tests.bench.timing import Bench, alternate, peak_bytes, shown
from tests.toy import DATA, batch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
MINUTES = (4, 20)


def finished(run: Callable) -> Callable:
    """A call that returns when the device has done it."""
    def whole() -> None:
        run()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
    return whole


def backward_of(model: torch.nn.Module, images: torch.Tensor) -> Callable:
    """Forward and backward of the last features, whatever form they have."""
    model = model.to(DEVICE).train()

    def run() -> None:
        out = model(images)
        (out[-1] if isinstance(out, (list, tuple)) else out).square().mean().backward()
        model.zero_grad(set_to_none=True)
    return finished(run)


def without_drop_path(model: torch.nn.Module) -> torch.nn.Module:
    for module in model.modules():
        if isinstance(module, torchvision.ops.StochasticDepth):
            module.p = 0.0
    return model


def repeats(bench: Bench) -> int:
    return 7 if bench.options.all else 3


def backbones(bench: Bench) -> None:
    for size, count in ((224, 8), (512, 2)):
        images = torch.randn(count, 3, size, size, device=DEVICE)
        theirs = torchvision.models.resnet50(weights=None)
        features = torch.nn.Sequential(*list(theirs.children())[:-2])
        bench.compare(f"ResNet-50, {count} images of {size} px", backward_of(resnet50(), images),
                      {"torchvision": backward_of(features, images),
                       "timm": backward_of(timm.create_model("resnet50", num_classes=0, global_pool=""), images)},
                      repeats(bench))
        peers = {"torchvision": backward_of(without_drop_path(torchvision.models.swin_t(weights=None)).features,
                                            images)}
        peers["timm"] = backward_of(timm.create_model("swin_tiny_patch4_window7_224", num_classes=0, global_pool="",
                                                      img_size=size, drop_path_rate=0.0), images)
        bench.compare(f"Swin-T, {count} images of {size} px", backward_of(swin_t(), images), peers,
                      repeats(bench))


def config(*words: str):
    return load_config(["r50", "toy", "model.backbone=resnet50", "model.norm=frozen_bn", "model.fpn_channels=256",
                        "model.region_dim=1024",
                        "model.anchor_scale=8", "model.rpn_batch=256", "model.rpn_pre_nms=[2000,1000]",
                        "model.rpn_proposals=[1000,1000]",
                        "model.regions_per_image=512", "stage2.init=x", "data.det.classes=80", "data.cls.classes=1000",
                        *words])


def stepping(model: torch.nn.Module, losses_of: Callable) -> Callable:
    """A training step without the loader: losses, backward, clip, AdamW."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)

    def run() -> None:
        sum(losses_of().values()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return finished(run)


def torchvisions_copy(ours: torch.nn.Module, size: int) -> FasterRCNN:
    """torchvision's Faster R-CNN with our weights in backbone, FPN and RPN; every layer trains, nothing is resized."""
    trunk = torchvision.models.resnet50(weights=None, norm_layer=FrozenBatchNorm2d)
    trunk.load_state_dict(ours.encoder.backbone.state_dict(), strict=False)
    backbone = _resnet_fpn_extractor(trunk, 5)
    for i in range(4):
        backbone.fpn.inner_blocks[i][0].load_state_dict(ours.encoder.fpn.lateral[i].state_dict())
        backbone.fpn.layer_blocks[i][0].load_state_dict(ours.encoder.fpn.output[i].state_dict())
    anchors = AnchorGenerator(tuple((s,) for s in (32, 64, 128, 256, 512)), ((0.5, 1.0, 2.0),) * 5)
    theirs = FasterRCNN(backbone, num_classes=81, rpn_anchor_generator=anchors, min_size=size, max_size=size,
                        rpn_pre_nms_top_n_train=2000,
                        rpn_post_nms_top_n_train=1000, box_batch_size_per_image=512)
    theirs.rpn.head.conv[0][0].load_state_dict(ours.rpn.conv.state_dict())
    theirs.rpn.head.cls_logits.load_state_dict(ours.rpn.objectness.state_dict())
    theirs.rpn.head.bbox_pred.load_state_dict(ours.rpn.deltas.state_dict())
    return theirs.to(DEVICE).train()


def step(bench: Bench, num_images: int = 2, size: int = 512) -> None:
    det, cls = batch(num_images, objects=8, size=size).to(DEVICE), batch(3 * num_images, objects=1, size=size,
                                                                         first_seed=50).to(DEVICE)
    det.masks = [None] * len(det)
    torch.manual_seed(0)
    ours = build_detector(config()).to(DEVICE).train()
    theirs = torchvisions_copy(ours, size)
    # Both heads get the regions that ours samples in a first pass.
    sample, drawn = our_detector.sample_regions, []
    our_detector.sample_regions = lambda *args: drawn.append(sample(*args)) or drawn[-1]
    with torch.no_grad():
        ours(det, None)
    fixed = drawn[0]
    our_detector.sample_regions = lambda *args: fixed
    bench.line(f"{num_images} images of {size} px, {sum(len(r.boxes) for r in fixed)} sampled regions, "
               f"{sum(int((r.labels >= 0).sum()) for r in fixed)} of them objects")

    def chosen(proposals, targets):
        coder = theirs.roi_heads.box_coder
        deltas = coder.encode([r.gt_boxes for r in fixed], [r.boxes for r in fixed])
        return [r.boxes for r in fixed], None, [r.labels + 1 for r in fixed], deltas
    theirs.roi_heads.select_training_samples = chosen
    images = [image.float() / 255 for image in det.images]
    targets = [{"boxes": t.boxes, "labels": t.labels + 1} for t in det.targets]
    bench.compare("stage-II step, images with boxes alone", stepping(ours, lambda: ours(det, None)),
                  {"torchvision": stepping(theirs, lambda: theirs(images, targets))}, repeats(bench))
    seconds = alternate({"boxes alone": stepping(ours, lambda: ours(det, None)),
                         "with 3 labelled images each": stepping(ours, lambda: ours(det, cls))}, repeats(bench))
    alone, joined = (statistics.median(times) for times in seconds.values())
    bench.line("stage-II step: " + ", ".join(f"{name} {shown(times)}" for name, times in seconds.items())
               + f": x {joined / alone:.2f} for x 4 images", **seconds)
    our_detector.sample_regions = sample


def loader(bench: Bench) -> None:
    """One core: images of coco-mini, 1,024 px, scale 0.1 to 2. Of each image the shortest of some times, decoding and
    the whole in turn: what else runs on the machine disturbs such short calls, and seldom all of them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = DATA / "coco-mini"
    data = DetectionData(folder / "annotations" / "instances_train2017.json", folder / "train2017")
    stream = JitterStream(data, "det", 0, LargeScaleJitter(1024, (0.1, 2.0)))

    calls = {"decoding alone": lambda i: read_image(data.path(i)),
             "decoding and large-scale jitter": lambda i: stream[(i, i)]}
    least = {name: [float("inf")] * len(data) for name in calls}
    for _ in range(repeats(bench) + 2):
        for i in range(len(data)):
            for name, call in calls.items():
                began = time.process_time()                              # of this process: one thread, the files cached
                call(i)
                least[name][i] = min(least[name][i], time.process_time() - began)
    torch.set_num_threads(threads)
    decoding, whole = (sum(times) / len(data) for times in least.values())
    bench.line(f"loader, one core, {len(data)} images: decoding alone {1000 * decoding:.2f} ms of CPU time an image, "
               f"with large-scale jitter {1000 * whole:.2f} ms: {100 * decoding / whole:.0f} %", decoding=decoding,
               whole=whole)


def memory(bench: Bench) -> None:
    """Each in a process of its own."""
    for value in ("false", "true"):
        code = f"from tests.bench.training import step_bytes; print(step_bytes({value!r}))"
        done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        bench.line(f"Swin-B stage-II step, 1 + 3 images of 512 px, checkpoint_activations={value}: "
                   f"{int(done.stdout) / 2**30:.2f} GiB beyond the model (gradients included)", bytes=int(done.stdout))


def step_bytes(checkpoint: str) -> int:
    torch.manual_seed(0)
    detector = build_detector(config("swin_b", "model.norm=gn", "model.backbone=swin_b",
                                     f"model.checkpoint_activations={checkpoint}")).to(DEVICE).train()
    det, cls = batch(1, objects=8, size=512).to(DEVICE), batch(3, objects=1, size=512, first_seed=50).to(DEVICE)

    def run() -> None:
        sum(detector(det, cls).values()).backward()
    if DEVICE.type == "cuda":
        finished(run)()
        return torch.cuda.max_memory_allocated()
    return peak_bytes(run)


def profile(bench: Bench) -> None:
    det = batch(2, objects=8, size=512).to(DEVICE)
    detector = build_detector(config()).to(DEVICE).train()
    run = stepping(detector, lambda: detector(det, None))
    run()
    with torch.profiler.profile() as prof:
        run()
    bench.line(prof.key_averages().table(sort_by="self_cpu_time_total", row_limit=14, max_name_column_width=40))


PARTS = {"backbones": backbones, "step": step, "loader": loader, "memory": memory, "profile": profile}

if __name__ == "__main__":
    if DEVICE.type == "cpu":
        torch.set_num_threads(2)
    of_training = Bench(__doc__, MINUTES, PARTS, default=3)
    for part in of_training.begin().parts:
        PARTS[part](of_training)

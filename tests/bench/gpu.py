"""All that needs a GPU, in one command of at most nine minutes on one H100.

    python -m tests.bench.gpu --out runs/gpu

Writes results.json and table.md into --out after each item, so that what is done is kept when a later item fails. An
item that cannot run is skipped with its reason. Needs torch, torchvision, timm and the repository; all data is
synthetic.

    --only NAME ..   some of the items        --small   tiny sizes, also without a GPU: to try this script itself
"""
import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STUBS = Path(tempfile.mkdtemp(prefix="stubs"))
if importlib.util.find_spec("pycocotools") is None:
    # only masks need it: here and in the commands that are started
    (STUBS / "pycocotools").mkdir()
    for name in ("__init__.py", "mask.py"):
        (STUBS / "pycocotools" / name).write_text("")
    sys.path.insert(0, str(STUBS))

import torch  # noqa: E402
from torch import nn  # noqa: E402

from s21k.core.categories import CategoryMap  # noqa: E402
from s21k.core.config import EvalConfig, load_config  # noqa: E402
from s21k.core.randomness import set_seed  # noqa: E402
from s21k.core.transfer import model_to  # noqa: E402
from s21k.files.images import normalize  # noqa: E402
from s21k.models.classifier import build_classifier  # noqa: E402
from s21k.models.detector import build_detector  # noqa: E402
from s21k.plan import entire_image, forward_flops  # noqa: E402
from s21k.prepare.shapes import write_world  # noqa: E402
from tests.toy import SMALL, batch  # noqa: E402

MINUTES = (9, 9)                                             # on an H100; without a GPU it says so and ends
BUDGET = 520.0                                               # seconds: no item is begun after that
BF16_PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12}     # FLOP/s, dense, as published
CASES = ["seed=0", "model.norm=frozen_bn", "model.norm=sync_bn stage2.init=scratch",
         "model.backbone=swin_t stage2.drop_path=0.3",
         "model.image_roi_level=all_mean", "model.image_roi_level=random", "stage2.loss_reading=bce_product",
         "stage2.baseline=max_size",
         "stage2.baseline=max_score", "stage2.baseline=image", "stage2.baseline=softmax"]


class Bench:
    """Where it runs, and how large."""

    def __init__(self, small: bool) -> None:
        self.small = small
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.name = torch.cuda.get_device_name() if self.device.type == "cuda" else "CPU"
        self.peak = next((peak for key, peak in BF16_PEAK.items() if key in self.name), None)

    def size(self, full: int, tiny: int) -> int:
        return tiny if self.small else full

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def seconds(self, run: Callable, repeats: int = 10) -> float:
        """Median of a call, after two that are not counted."""
        repeats = self.size(repeats, 1)
        times = []
        for number in range(repeats + 2):
            self.wait()
            began = time.perf_counter()
            run()
            self.wait()
            times += [time.perf_counter() - began] * (number >= 2)
        return statistics.median(times)

    def peak_memory(self, run: Callable) -> float:
        """GiB that a call reaches, the model included."""
        if self.device.type != "cuda":
            return 0.0
        torch.cuda.reset_peak_memory_stats()
        run()
        self.wait()
        return torch.cuda.max_memory_allocated() / 2**30

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=not self.small)


def full_scale(*more: str):
    """The paper's sizes, on classes of setups 1 and 2."""
    return load_config(["r50", "s2", "stage2.init=x", *more])


def training_step(bench: Bench, model: nn.Module, losses: Callable) -> Callable:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)

    def run() -> None:
        with bench.autocast():
            loss = losses()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return run


def without_masks(b):
    b.masks = [None] * len(b)
    return b


# --- the items: each returns what goes into the table -----------------------------------------------------------------

def same_as_cpu(bench: Bench) -> dict:
    """Losses and gradients of a step in float32, as each stage lays the model out: the largest difference, relative to
    the largest gradient."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    worst = {}

    def stage2(words: str, device: torch.device) -> tuple[nn.Module, dict]:
        model = build_detector(load_config(["toy", *SMALL, *words.split()])).to(device)
        return model, model(without_masks(batch(2, objects=3)).to(device),
                            without_masks(batch(6, objects=1, seed=1)).to(device))

    def stage1(words: str, device: torch.device) -> tuple[nn.Module, dict]:
        model = model_to(build_classifier(load_config(["toy", *SMALL, *words.split()]).model, 8, 0.0), device)
        labelled = batch(6, objects=1, seed=1).to(device)
        logits = model(normalize(labelled.images), labelled.seeds)
        return model, {"loss": nn.functional.cross_entropy(logits, torch.arange(6, device=device))}

    cases = [(words, stage2) for words in CASES]
    cases += [(f"{words} (stage I)", stage1)
              for words in ("seed=0", "model.backbone=resnet50", "model.backbone=swin_t")]
    for name, step in cases:
        found = []
        for device in (torch.device("cpu"), bench.device):
            set_seed(0, "weights")
            model, losses = step(name.removesuffix(" (stage I)"), device)
            sum(losses.values()).backward()
            found.append(({k: float(v.detach()) for k, v in losses.items()},
                          [p.grad.cpu() for p in model.parameters() if p.grad is not None]))
        (one, first), (two, second) = found
        largest = max(float(g.abs().max()) for g in first)
        gradients = max(float((a - b).abs().max()) for a, b in zip(first, second)) / largest
        losses = max(abs(one[k] - two[k]) / max(abs(one[k]), 1e-6) for k in one)
        worst[name] = f"losses {losses:.1e}, gradients {gradients:.1e}"
        assert losses < 1e-3 and gradients < 1e-2, f"{name}: {worst[name]}"
    return worst


def waits_of_a_step(bench: Bench) -> dict:
    """What torch's own debug mode counts in a stage-II step of 2 + 6 images."""
    import warnings
    if bench.device.type != "cuda":
        return {"skipped": "no CUDA device"}
    model = build_detector(load_config(["toy", *SMALL])).to(bench.device)
    det, cls = (without_masks(b).to(bench.device) for b in (batch(2), batch(6, objects=1, seed=1)))
    sum(model(det, cls).values()).backward()
    bench.wait()
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sum(model(det, cls).values()).backward()
    torch.cuda.set_sync_debug_mode("default")
    return {"synchronizing calls": sum("synchroniz" in str(w.message) for w in caught)}


def command(*argv: str, processes: int = 0) -> str:
    start = [sys.executable,
             *(["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes else [])]
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(STUBS), str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([*start, *argv], cwd=ROOT, env=env, capture_output=True, text=True, timeout=240)
    if done.returncode:
        raise RuntimeError(f"{argv[0]}: exit code {done.returncode}: {done.stderr[-600:]}")
    return done.stdout


def toy_words(bench: Bench, folder: Path, *more: str) -> list[str]:
    """A world of 8 categories, drawn once."""
    if not (folder / "shapes").exists():
        write_world(folder / "shapes", 8, bench.size(60, 4), bench.size(200, 6), bench.size(20, 2), 64, seed=0,
                    processes=os.cpu_count())
    return ["toy", f"data.root={folder}", "data.det.classes=4", "data.cls.classes=8",
            f"stage1.epochs={bench.size(12, 1)}", "stage1.batch=16", "eval.pictures=0",
            f"stage2.iterations={bench.size(250, 2)}", "stage1.validate_every=1000", *more]


def precisions(bench: Bench, folder: Path) -> dict:
    """The same tiny world in three precisions, trained side by side."""
    toy_words(bench, folder)                                 # draws the world

    def train(amp: str) -> str:
        words = toy_words(bench, folder, f"amp={amp}", f"output_dir={folder / amp}", "data.workers=2")
        for script in ("train_stage1.py", "train_stage2.py", "evaluate.py"):
            command(script, *words)
        figures = json.loads((folder / amp / "metrics.json").read_text())
        return ", ".join(f"{key} {100 * figures[key]:.1f}" for key in ("top1", "gt_known", "AP50"))

    names = ("off", "bf16", "fp16") if bench.device.type == "cuda" else ("off",)
    with ThreadPoolExecutor() as threads:
        return dict(zip(names, threads.map(train, names)))


def one_rank_and_continued(bench: Bench, folder: Path) -> dict:
    """nccl with one rank; with deterministic=true a run that is stopped and continued ends with the weights of an
    unbroken one."""
    words = toy_words(bench, folder, "deterministic=true", "stage2.init=scratch", "stage2.iterations=12",
                      "stage2.save_every=6")
    command("train_stage2.py", *words, f"output_dir={folder / 'whole'}", processes=1)
    command("train_stage2.py", *words, f"output_dir={folder / 'twice'}")
    # as if killed after step 6
    os.replace(folder / "twice" / "stage2.previous.pt", folder / "twice" / "stage2.pt")
    command("train_stage2.py", *words, f"output_dir={folder / 'twice'}")
    one, two = (torch.load(folder / name / "stage2.pt", weights_only=True, map_location="cpu")["model"]
                for name in ("whole", "twice"))
    return {"unbroken (nccl, one rank) and continued": "bit-equal" if all(torch.equal(one[k], two[k]) for k in one)
            else "DIFFERENT"}


def stage2_steps(bench: Bench) -> dict:
    """Images/s, share of the bf16 peak, peak memory; torchvision's Faster R-CNN on the images with boxes alone."""
    found = {}
    size = bench.size(1024, 64)
    for backbone in ("resnet50", "swin_b"):
        cfg = (full_scale(f"model.backbone={backbone}", "stage2.drop_path=0.2") if not bench.small
               else load_config(["toy", *SMALL]))
        model = build_detector(cfg).to(bench.device).train()
        with torch.device("meta"):
            counted = build_detector(cfg)
        image, regions = (1, 3, size, size), cfg.model.regions_per_image
        det_flops = forward_flops((lambda x: counted.rpn.head(counted.encoder.pyramid(x)), image),
                                  (nn.Sequential(counted.encoder.fc1, counted.encoder.fc2),
                                   (regions, counted.encoder.fc1.in_features)))
        cls_flops = forward_flops((entire_image(counted.encoder), image))
        for boxes in (1, 2, 4):
            det, cls = (without_masks(b).to(bench.device)
                        for b in (batch(boxes, objects=2 if bench.small else 8, size=size),
                                  batch(3 * boxes, objects=1, size=size, first_seed=50)))
            run = training_step(bench, model, lambda det=det, cls=cls: sum(model(det, cls).values()))
            try:
                seconds, memory = bench.seconds(run, 6), bench.peak_memory(run)
            except torch.OutOfMemoryError:
                found[f"{backbone}, {boxes} + {3 * boxes} images"] = "out of memory"
                break
            rate = 3 * (boxes * det_flops + 3 * boxes * cls_flops) / seconds
            share = f"{100 * rate / bench.peak:.0f} % of the bf16 peak, " if bench.peak else ""
            found[f"{backbone}, {boxes} + {3 * boxes} "
                  f"images"] = f"{4 * boxes / seconds:.1f} images/s, {share}{memory:.1f} GiB"
    found["torchvision's Faster R-CNN R50 and ours, 4 images with boxes"] = beside_torchvision(bench, size)
    return found


def beside_torchvision(bench: Bench, size: int) -> str:
    from torchvision.models.detection import fasterrcnn_resnet50_fpn
    if bench.small:
        return "skipped: --small"
    det = without_masks(batch(4, objects=8, size=size)).to(bench.device)
    ours = build_detector(full_scale()).to(bench.device).train()
    mine = bench.seconds(training_step(bench, ours, lambda: sum(ours(det, None).values())), 6)
    theirs = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=81, trainable_backbone_layers=5,
                                     min_size=size, max_size=size,
                                     rpn_post_nms_top_n_train=1000).to(bench.device).train()
    images, targets = [image.float() / 255 for image in det.images], [{"boxes": t.boxes, "labels": t.labels + 1}
                                                                      for t in det.targets]
    peer = bench.seconds(training_step(bench, theirs, lambda: sum(theirs(images, targets).values())), 6)
    return f"{1000 * peer:.0f} ms and {1000 * mine:.0f} ms a step: {peer / mine:.2f} x"


def stage1_steps(bench: Bench) -> dict:
    """Our classifier on a whole-image RoI beside timm's pooled one; and the convolutions in channels-last."""
    import timm
    found, count, size = {}, bench.size(128, 2), bench.size(224, 64)
    images = torch.randn(count, 3, size, size, device=bench.device)
    labels = torch.randint(0, 1000, (count,), device=bench.device)

    def rate(model: nn.Module, images: torch.Tensor) -> float:
        return count / bench.seconds(training_step(bench, model,
                                                   lambda: nn.functional.cross_entropy(model(images).float(), labels)))

    for backbone, peer in (("resnet50", "resnet50"), ("swin_t", "swin_tiny_patch4_window7_224")):
        cfg = full_scale(f"model.backbone={backbone}").model
        ours = build_classifier(cfg, 1000, 0.0).to(bench.device).train()
        # as in training, where normalize gives contiguous images
        mine, last = rate(ours, images), rate(ours.to(memory_format=torch.channels_last), images)
        extra = {} if backbone == "resnet50" else {"img_size": size}
        theirs = timm.create_model(peer, num_classes=1000, **extra).to(bench.device).train()
        peer = rate(theirs, images)
        peer_last = rate(theirs.to(memory_format=torch.channels_last),
                         images.contiguous(memory_format=torch.channels_last))
        found[f"{backbone}, {count} x {size} px"] = (
            f"ours {mine:.0f} images/s, channels-last {last:.0f}; "
            f"timm (no FPN, no RoI head) {peer:.0f}, channels-last {peer_last:.0f}")
    return found


def channels_last_in_stage2(bench: Bench) -> dict:
    """ResNet-50, 2 + 6 images of 1,024 px."""
    cfg, size = (load_config(["toy", *SMALL]), 64) if bench.small else (full_scale(), 1024)
    det, cls = (without_masks(b).to(bench.device)
                for b in (batch(2, size=size), batch(6, objects=1, size=size, first_seed=50)))
    model, found = build_detector(cfg).to(bench.device).train(), {}
    for name, form in (("NCHW", torch.contiguous_format), ("channels-last", torch.channels_last)):
        model.to(memory_format=form)
        step = training_step(bench, model, lambda: sum(model(det, cls).values()))
        found[name] = f"{1000 * bench.seconds(step, 6):.1f} ms a step"
    return found


def cost_of_deterministic(bench: Bench) -> dict:
    """A stage-II step of ResNet-50, 1 + 3 images of 1,024 px."""
    cfg, size = (load_config(["toy", *SMALL]), 64) if bench.small else (full_scale(), 1024)
    det, cls = (without_masks(b).to(bench.device)
                for b in (batch(1, size=size), batch(3, objects=1, size=size, first_seed=50)))
    model, found = build_detector(cfg).to(bench.device).train(), {}
    for wanted in (False, True):
        torch.use_deterministic_algorithms(wanted)
        run = training_step(bench, model, lambda: sum(model(det, cls).values()))
        found[f"deterministic={str(wanted).lower()}"] = (
            f"{1000 * bench.seconds(run, 6):.1f} ms a step, {bench.peak_memory(run):.1f} GiB")
    torch.use_deterministic_algorithms(False)
    return found


def many_categories(bench: Bench) -> dict:
    """Post-processing alone, and whole images of 800 x 1,333 px, at 21,841 categories."""
    from tests.bench.postprocessing import make, ours
    count = bench.size(21841, 100)
    case = tuple(t.to(bench.device) for t in make("peaked, 70 k", bench.size(1000, 50), count))
    found = {"post-processing": f"{1000 * bench.seconds(lambda: ours(case, 1e-4)):.1f} ms"}
    cfg = (load_config(["toy", *SMALL, f"data.cls.classes={count}"]) if bench.small
           else full_scale(f"data.cls.classes={count}"))
    model = model_to(build_detector(cfg), bench.device).eval()
    categories = CategoryMap([str(i) for i in range(count)], [None] * count, ["all"] * count, torch.full((count,), -1),
                             torch.arange(count)).to(bench.device)
    images = without_masks(batch(1, size=bench.size(1024, 64))).to(bench.device)

    def detect() -> None:
        with torch.no_grad(), bench.autocast():
            list(model.predict(images, categories, EvalConfig()))
    found["an image of 1,024 px"] = f"{1 / bench.seconds(detect):.1f} images/s"
    return found


def input_pipeline(bench: Bench) -> dict:
    """normalize of 64 images of 1,024 px, and what a loader process feeds."""
    images = batch(bench.size(64, 2), objects=1, size=bench.size(1024, 64)).to(bench.device)
    found = {"normalize": f"{1000 * bench.seconds(lambda: normalize(images.images, images.sizes)):.2f} ms"}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "loaders.json"
        command("-m", "tests.bench.loaders", "--images", str(bench.size(300, 20)), "--json", str(path))
        lines = [row["line"] for row in json.loads(path.read_text())["lines"]]
    return found | {line[:30].strip(): line[30:].strip() for line in lines}


ITEMS: dict[str, Callable] = {f.__name__: f for f in (same_as_cpu, waits_of_a_step, stage2_steps, stage1_steps,
                                                      cost_of_deterministic, channels_last_in_stage2,
                                                      many_categories, precisions, one_rank_and_continued,
                                                      input_pipeline)}


def save(out: Path, about: dict, results: dict) -> None:
    (out / "results.json").write_text(json.dumps(about | {"items": results}, indent=1))
    rows = [f"| {item} | {key} | {value} |" for item, found in results.items()
            for key, value in found.items() if key != "seconds"]
    (out / "table.md").write_text("\n".join([", ".join(f"{k} {v}" for k, v in about.items()), "",
                                             "| item | case | result |", "|---|---|---|", *rows, ""]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"))
    parser.add_argument("--only", nargs="*", choices=ITEMS, default=list(ITEMS))
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--all", action="store_true", help="as without: it has one size")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the results there, too")
    a = parser.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    bench, began, results = Bench(a.small), time.monotonic(), {}
    about = {"device": bench.name, "torch": torch.__version__, "python": sys.version.split()[0]}
    with tempfile.TemporaryDirectory() as folder:
        for name in a.only:
            item, at = ITEMS[name], time.monotonic()
            try:
                if bench.device.type != "cuda" and not a.small:
                    results[name] = {"skipped": "no CUDA device"}
                elif at - began > BUDGET:
                    results[name] = {"skipped": f"{BUDGET:.0f} seconds are over"}
                else:
                    results[name] = item(bench, Path(folder)) if item.__code__.co_argcount == 2 else item(bench)
            except Exception as error:                       # the other items still run
                traceback.print_exc()
                results[name] = {"failed": f"{type(error).__name__}: {str(error).splitlines()[0]:.200}" if str(error)
                                 else type(error).__name__}
            results[name] = results[name] | {"seconds": round(time.monotonic() - at, 1)}
            if bench.device.type == "cuda":
                torch.cuda.empty_cache()
            save(a.out, about, results)
            if a.json:
                a.json.parent.mkdir(parents=True, exist_ok=True)
                a.json.write_text((a.out / "results.json").read_text())
            print(f"{name}: {json.dumps(results[name])}", flush=True)
    print(f"written: {a.out / 'results.json'}, {a.out / 'table.md'}")


if __name__ == "__main__":
    main()

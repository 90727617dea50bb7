"""What feeding a GPU costs: images a second of one core for each recipe, and how a batch leaves a loader process.

    python -m tests.bench.loaders [--images 200] [--all] [--json PATH]

Synthetic JPEG files of 500 x 375 px (ImageNet's mean size) are written to a temporary folder; --all: five times as
many.

- images/s of one core, by CPU time: decoding alone; stage I of ResNet (crop, flip, colour jitter) and of Swin (crop,
  flip, RandAugment, erasing), each beside timm's transforms of the same recipe on the same files, in turn; stage II's
  large-scale jitter to 1,024 px;
- how a batch of 128 travels from a loader process: file descriptors in both processes, and CPU time of the main
  process, for a Batch of three tensors, and for the layout before it, two tensors more for each image.
"""
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import timm.data.auto_augment
import torch
from PIL import Image, ImageOps

from s21k.core.config import load_config
from s21k.core.structures import Batch, Sample, Target
from s21k.data.augment_stage1 import TrainAugment
from s21k.data.augment_stage2 import LargeScaleJitter
from s21k.data.classification import ClassificationData
from s21k.data.loaders import JitterStream, LabelStream, collate
from s21k.files.images import read_image
from tests.bench.timing import Bench

MINUTES = (1, 4)
BATCH, BATCHES, TURNS = 128, 12, 3


def write_images(root: Path, count: int) -> ClassificationData:
    """Noise at several scales: files of about 40 KB, as photos have."""
    rng = np.random.default_rng(0)
    for i in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((500, 375),
                                                                                           Image.Resampling.BICUBIC)
        noise = rng.normal(0, 12, (375, 500, 3))
        path = root / f"class{i % 4}" / f"{i}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray((np.asarray(coarse) + noise).clip(0, 255).astype(np.uint8)).save(path, quality=85)
    return ClassificationData(root)


def posterize(image: Image.Image, bits: int, **_: object) -> Image.Image:
    """timm asks for 0 bits, too, which newer versions of Pillow refuse: the image is black."""
    return ImageOps.posterize(image, bits) if bits else Image.new("RGB", image.size)


timm.data.auto_augment.NAME_TO_OP["PosterizeIncreasing"] = posterize


def timms(data: ClassificationData, recipe: str, s) -> Callable[[int], object]:
    """timm's transforms of a recipe, to uint8 as ours: normalization is the GPU's there, too."""
    more = ({"auto_augment": "rand-m9-mstd0.5-inc1", "re_prob": s.erasing, "re_mode": "pixel"} if recipe == "swin_t"
            else {"color_jitter": s.color_jitter})
    transform = timm.data.create_transform(s.size, is_training=True, scale=s.crop_scale, interpolation="bicubic",
                                           normalize=False, use_prefetcher=recipe != "swin_t", **more)

    def read(i: int) -> object:
        with Image.open(data.source(i)) as image:
            return transform(image.convert("RGB"))
    return read


def rates(bench: Bench, data: ClassificationData) -> None:
    jitter = JitterStream(data, "cls", 0, LargeScaleJitter(1024, (0.1, 2.0)))
    timed(bench, {"decoding alone": lambda i: read_image(data.source(i)),
                  "stage II, large-scale jitter": lambda i: jitter[(i, i)]}, len(data))
    for name, recipe in (("stage I, ResNet's recipe", "r50"), ("stage I, Swin's recipe", "swin_t")):
        s = load_config([recipe, "s2"]).stage1
        stream = LabelStream(data, "stage1", 0,
                             TrainAugment(s.size, s.crop_scale, s.color_jitter, s.rand_augment, s.erasing))
        timed(bench, {name: lambda i, stream=stream: stream[(i, i)],
                      "  timm's, the same images": timms(data, recipe, s)}, len(data))


def timed(bench: Bench, contenders: dict[str, Callable[[int], object]], count: int) -> None:
    """In turn; of each the shortest of TURNS, in CPU time: other work on the machine does not count."""
    least = dict.fromkeys(contenders, float("inf"))
    for run in contenders.values():
        for i in range(8):
            run(i)
    for _ in range(TURNS):
        for name, run in contenders.items():
            began = time.process_time()
            for i in range(count):
                run(i)
            least[name] = min(least[name], time.process_time() - began)
    for name, seconds in least.items():
        bench.line(f"{name:<30}{count / seconds:8.0f} images/s of one core", rate=count / seconds)


def samples(index: int) -> Batch:
    target = Target(torch.tensor([[0.0, 0.0, 224.0, 224.0]]), torch.tensor([1]))
    return collate([Sample(torch.zeros(3, 224, 224, dtype=torch.uint8), target, i, (1.0, 1.0), i)
                    for i in range(BATCH)], canvas=224)


def old_samples(index: int) -> tuple[Batch, list[Target]]:
    batch = samples(index)
    return batch, [Target(t.boxes.clone(), t.labels.clone()) for t in batch.targets]


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def transport(bench: Bench, name: str, make) -> None:
    """One loader process that makes batches at once, and a main process that takes them slowly."""
    class Source(torch.utils.data.Dataset):
        def __getitem__(self, index):
            return make(index)

        def __len__(self):
            return BATCHES

    before = descriptors(os.getpid())
    batches = iter(torch.utils.data.DataLoader(Source(), batch_size=None, num_workers=1))
    most_worker = most_main = 0
    kept, used = [], 0.0
    for _ in range(BATCHES):
        began = time.process_time()
        kept.append(next(batches))
        used += time.process_time() - began
        kept = kept[-2:]
        worker = multiprocessing.active_children()[0].pid
        # as a step would: the loader process runs ahead
        time.sleep(0.15)
        most_worker = max(most_worker, descriptors(worker))
        most_main = max(most_main, descriptors(os.getpid()) - before)
    bench.line(f"{name:<30}{most_worker:5d} descriptors in the loader process, {most_main:5d} more in the main one, "
               f"{1000 * used / BATCHES:6.1f} ms of the main process a batch of {BATCH}", seconds=used / BATCHES)


def main() -> None:
    bench = Bench(__doc__, MINUTES)
    bench.parser.add_argument("--images", type=int, default=200)
    a = bench.begin()
    torch.set_num_threads(1)
    transport(bench, "three tensors a batch", samples)
    transport(bench, "two more for each image", old_samples)
    with tempfile.TemporaryDirectory() as folder:
        rates(bench, write_images(Path(folder), (5 if a.all else 1) * a.images))


if __name__ == "__main__":
    main()

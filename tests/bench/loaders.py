"""What feeding a GPU costs: python -m tests.bench.loaders [--images 400]

Two minutes on one core. Synthetic JPEG files of 500 x 375 px (ImageNet's mean size) are written to a temporary folder.

- images/s of one core for each recipe: stage I of ResNet (crop, flip, colour jitter) and of Swin (crop, flip,
RandAugment, erasing), stage II's
  large-scale jitter to 1,024 px;
- how a batch of 128 travels from a loader process: file descriptors in both processes, and CPU time of the main
process, for a
  Batch of three tensors, and for the layout before it, two tensors more for each image.
"""
import argparse
import multiprocessing
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from s21k.core.config import load_config
from s21k.core.structures import Batch, Sample, Target
from s21k.data.augment_stage1 import TrainAugment
from s21k.data.augment_stage2 import LargeScaleJitter
from s21k.data.classification import ClassificationData
from s21k.data.loaders import JitterStream, LabelStream, collate

BATCH, BATCHES = 128, 12


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


def rates(data: ClassificationData) -> None:
    for name, words in (("stage I, ResNet's recipe", ["r50", "s2"]), ("stage I, Swin's recipe", ["swin_t", "s2"])):
        s = load_config(words).stage1
        stream = LabelStream(data, "stage1", 0,
                             TrainAugment(s.size, s.crop_scale, s.color_jitter, s.rand_augment, s.erasing))
        timed(name, stream, len(data))
    timed("stage II, large-scale jitter", JitterStream(data, "cls", 0, LargeScaleJitter(1024, (0.1, 2.0))),
          len(data) // 2)


def timed(name: str, stream: LabelStream | JitterStream, count: int) -> None:
    for i in range(8):
        stream[(i, i)]
    began = time.perf_counter()
    for i in range(count):
        stream[(i, i)]
    print(f"{name:<30}{count / (time.perf_counter() - began):8.0f} images/s of one core", flush=True)


def samples(index: int) -> Batch:
    target = Target(torch.tensor([[0.0, 0.0, 224.0, 224.0]]), torch.tensor([1]))
    return collate([Sample(torch.zeros(3, 224, 224, dtype=torch.uint8), target, i, (1.0, 1.0), i)
                    for i in range(BATCH)], canvas=224)


def old_samples(index: int) -> tuple[Batch, list[Target]]:
    batch = samples(index)
    return batch, [Target(t.boxes.clone(), t.labels.clone()) for t in batch.targets]


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def transport(name: str, make) -> None:
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
        most_worker, most_main = max(most_worker,
                                     descriptors(worker)), max(most_main, descriptors(os.getpid()) - before)
    print(f"{name:<30}{most_worker:5d} descriptors in the loader process, {most_main:5d} more in the main one, "
          f"{1000 * used / BATCHES:6.1f} ms of the main process a batch of {BATCH}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=400)
    a = parser.parse_args()
    torch.set_num_threads(1)
    transport("three tensors a batch", samples)
    transport("two more for each image", old_samples)
    with tempfile.TemporaryDirectory() as folder:
        rates(write_images(Path(folder), a.images))


if __name__ == "__main__":
    main()

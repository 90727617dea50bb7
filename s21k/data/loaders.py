"""From a configuration to batches: one loader for each stream, two endless ones in stage II."""
import os
import signal
from collections.abc import Container, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from s21k.core.config import Config
from s21k.core.distributed import World
from s21k.core.errors import InputError
from s21k.core.randomness import derive_seed, seeded
from s21k.core.structures import BACKGROUND, Batch, Sample, Target
from s21k.data.augment_stage1 import TrainAugment, ValidateResize
from s21k.data.augment_stage2 import LargeScaleJitter, ResizeShortestEdge
from s21k.data.classification import ClassificationData
from s21k.data.detection import DetectionData
from s21k.data.first_look import first_look
from s21k.data.samplers import EpochShuffle, RankSampler, repeat_factors

ATTEMPTS = 10                                       # images tried for one place of a stream


class Stream(Dataset):
    """(position, image) -> Sample; the augmentation's chance comes from (seed, name, position).

    An image that cannot be read gives its place to another of the same data, with that one's own label; which, follows
    from (seed, name, position) as well. InputError: ATTEMPTS of them in a row could not be read.
    """

    def __init__(self, data: ClassificationData | DetectionData, name: str, seed: int) -> None:
        self.data, self.name, self.seed = data, name, seed

    def __getitem__(self, place: tuple[int, int]) -> Sample:
        position, index = place
        seed, faults = derive_seed(self.seed, self.name, position), []
        while True:
            try:
                with seeded(seed):
                    return replace(self.sample(index, seed), faults=tuple(faults))
            except InputError as error:
                faults.append(str(error))
                if len(faults) == ATTEMPTS:
                    raise InputError(f"{ATTEMPTS} images of the {self.name} data in a row cannot be read; the first: "
                                     f"{faults[0]}") from None
                index = derive_seed(self.seed, self.name, position, "instead", len(faults)) % len(self.data)

    def sample(self, index: int, seed: int) -> Sample:
        raise NotImplementedError


class LabelStream(Stream):
    """Classification images for stage I: augmented to a fixed size."""

    def __init__(self, data: ClassificationData, name: str, seed: int, augment: TrainAugment | ValidateResize) -> None:
        super().__init__(data, name, seed)
        self.augment = augment

    def sample(self, index: int, seed: int) -> Sample:
        image, label = self.data.read(index)
        tensor = self.augment(image)
        return Sample(tensor, _whole(tensor, label), index, (1.0, 1.0), seed)


class ValidationStream(LabelStream):
    """The same, for measuring: an image that cannot be read is black and has no label, so that no answer to it is
    right."""

    def __getitem__(self, index: int) -> Sample:
        try:
            return self.sample(index, 0)
        except InputError as error:
            nothing = torch.zeros(3, self.augment.size, self.augment.size, dtype=torch.uint8)
            return Sample(nothing, _whole(nothing, BACKGROUND), index, (1.0, 1.0), 0, (str(error),))


class JitterStream(Stream):
    """Images of either kind for stage II: large-scale jitter, the same for both [P17]."""

    def __init__(self, data: ClassificationData | DetectionData, name: str, seed: int,
                 jitter: LargeScaleJitter) -> None:
        super().__init__(data, name, seed)
        self.jitter = jitter

    def sample(self, index: int, seed: int) -> Sample:
        draw = self.jitter.draw()
        image, known = self.data.read(index, self.jitter.needed_side(draw))
        if isinstance(known, Target):
            tensor, target, scale = self.jitter(image, self.data.size(index), known, draw)
            return Sample(tensor, target, int(self.data.image_ids[index]), scale, seed)
        nothing = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
        tensor, _, scale = self.jitter(image, (image.height, image.width), nothing, draw)
        return Sample(tensor, _whole(tensor, known), index, scale, seed)


class TestStream(Stream):
    """Detection images as they are, at the test size; one that cannot be read is black, and says so: nothing is to be
    found on it."""

    def __init__(self, data: DetectionData, resize: ResizeShortestEdge) -> None:
        super().__init__(data, "test", 0)
        self.resize = resize

    def __getitem__(self, index: int) -> Sample:
        faults: tuple[str, ...] = ()
        try:
            image, target = self.data.read(index)
        except InputError as error:
            image, faults = Image.new("RGB", self.data.size(index)[::-1]), (str(error),)
            target = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
        tensor, target, scale = self.resize(image, self.data.size(index), target)
        return Sample(tensor, target, int(self.data.image_ids[index]), scale, 0, faults)


def _whole(image: torch.Tensor, label: int) -> Target:
    """An image-level label: one object, the entire image [P18]."""
    h, w = image.shape[-2:]
    return Target(torch.tensor([[0.0, 0.0, float(w), float(h)]]), torch.tensor([label]))


def collate(samples: list[Sample], canvas: int | None = None) -> Batch:
    """Samples on one canvas, padded right and below: canvas x canvas, or (None) the largest side, rounded up to 32."""
    sizes = [tuple(s.image.shape[-2:]) for s in samples]
    if canvas is None:
        h, w = (-(-max(size[i] for size in sizes) // 32) * 32 for i in (0, 1))
    else:
        h = w = canvas
    images = torch.zeros(len(samples), h, w, 3, dtype=torch.uint8).permute(0, 3, 1, 2)      # pixel by pixel, as decoded
    for place, sample, (sh, sw) in zip(images, samples, sizes):
        place[:, :sh, :sw] = sample.image
    return Batch.pack(images, sizes, [s.target for s in samples], [s.image_id for s in samples],
                      [s.scale for s in samples], [s.seed for s in samples], [s.faults for s in samples])


def _endless(stream: Stream, name: str, cfg: Config, world: World, batch: int, first: int, canvas: int, workers: int,
             factors: np.ndarray | None = None) -> Iterator[Batch]:
    if batch % world.size:
        key = "stage1.batch" if name == "stage1" else "stage2.det_batch"
        raise InputError(f"{name}: {batch} images a step cannot be shared evenly by {world.size} processes, expected a "
                         f"{key} that is a multiple of {world.size} (times stage2.accumulate), or fewer processes")
    share = RankSampler(EpochShuffle(len(stream.data), cfg.seed, name, factors), first, batch, world.rank, world.size)
    return iter(_loader(cfg, world, stream, workers, batch_size=share.local, sampler=share,
                        collate_fn=partial(collate, canvas=canvas)))


def loader_workers(cfg: Config, share: float = 1.0) -> int:
    """Loader processes of a stream that has this share of a process's images: data.workers, or as many as there are
    cores, 8 at most."""
    if cfg.data.workers is not None:
        return cfg.data.workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, round(share * min(8, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))))


def _loader(cfg: Config, world: World, stream: Dataset, workers: int, **options) -> DataLoader:
    """RuntimeError: a batch takes longer than cfg.timeout (errors.run_command says so in one line)."""
    return DataLoader(stream, num_workers=workers, timeout=cfg.timeout if workers else 0,
                      pin_memory=world.device.type == "cuda", worker_init_fn=_apart, **options)


def _apart(number: int) -> None:
    """A loader process leaves it to the main one to save and end on a signal: torchrun, a shell and most schedulers
    send theirs to the whole group, so it has a group of its own. The main process can still end it."""
    os.setpgrp()
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.set_wakeup_fd(-1)                            # the main process's (training/step_monitor.py)


def open_classification(cfg: Config, part: str, class_names: list[str] | None = None) -> ClassificationData:
    """data.cls.train or data.cls.val, its number of classes checked against the configuration."""
    if cfg.data.cls is None:
        raise InputError("data.cls: missing, expected the classification data")
    data = ClassificationData(Path(cfg.data.root) / getattr(cfg.data.cls, part), class_names)
    if len(data.class_names) != cfg.data.cls.classes:
        raise InputError(f"data.cls.classes is {cfg.data.cls.classes}, but {getattr(cfg.data.cls, part)} has "
                         f"{len(data.class_names)} classes")
    first_look(data, f"data.cls.{part}")
    return data


def open_detection(cfg: Config) -> DetectionData:
    """data.det, its number of categories checked against the configuration."""
    det = cfg.data.det
    if det is None:
        raise InputError("data.det: missing, expected the detection data")
    data = DetectionData(Path(cfg.data.root) / det.annotations, Path(cfg.data.root) / det.images,
                         masks=cfg.model.with_masks)
    if len(data.category_names) != det.classes:
        raise InputError(f"data.det.classes is {det.classes}, but {det.annotations} has {len(data.category_names)} "
                         f"categories")
    if len(data.boxes) == 0:
        raise InputError(f"data.det.annotations {det.annotations}: no boxes in it, expected some to train on")
    first_look(data, "data.det.images")
    return data


def stage1_batches(cfg: Config, data: ClassificationData, world: World, first: int) -> Iterator[Batch]:
    """Endless augmented batches of stage I from step `first` on: this process's stage1.batch / processes images."""
    s = cfg.stage1
    augment = TrainAugment(s.size, s.crop_scale, s.color_jitter, s.rand_augment, s.erasing)
    return _endless(LabelStream(data, "stage1", cfg.seed, augment), "stage1", cfg, world, s.batch, first, s.size,
                    loader_workers(cfg))


def validation_batches(cfg: Config, data: ClassificationData, world: World) -> DataLoader:
    """Every validation image once, over all processes, without padding or repeats."""
    stream = ValidationStream(data, "validation", cfg.seed, ValidateResize(cfg.stage1.size, cfg.stage1.val_crop))
    return _loader(cfg, world, stream, loader_workers(cfg), batch_size=64,
                   sampler=range(world.rank, len(data), world.size),
                   collate_fn=partial(collate, canvas=cfg.stage1.size))


def stage2_batches(cfg: Config, data: ClassificationData | DetectionData, name: str, world: World, batch: int,
                   first: int) -> Iterator[Batch]:
    """Endless jittered batches of one of stage II's streams ("det" or "cls"): batch images a micro-step, all
    processes."""
    stream = JitterStream(data, name, cfg.seed, LargeScaleJitter(cfg.stage2.size, cfg.stage2.scale))
    factors = None
    if isinstance(data, DetectionData) and cfg.data.det.repeat_threshold > 0:
        factors = repeat_factors(data.labels, data.offsets, cfg.data.det.repeat_threshold)
    of_det = 1 / (1 + cfg.stage2.cls_per_det) if cfg.data.cls else 1.0
    workers = loader_workers(cfg, of_det if name == "det" else 1 - of_det)
    return _endless(stream, name, cfg, world, batch, first, cfg.stage2.size, workers, factors)


def eval_batches(cfg: Config, data: DetectionData, world: World, finished: Container[int] = ()) -> DataLoader:
    """Every evaluation image once, over all processes, without repeats, at the test size; finished: ids of images to
    leave out.

    Only images of one canvas share a batch, so that an image's padding, and with it its scores, do not depend on its
    neighbours. The batches are the same for any number of processes: what rounding depends on a batch does not change.
    """
    resize = ResizeShortestEdge(*cfg.eval.resize)
    by_canvas: dict[tuple[int, ...], list[int]] = {}
    for index in range(len(data)):
        by_canvas.setdefault(tuple(-(-side // 32) for side in resize.new_size(data.size(index))), []).append(index)
    batches = [group[i:i + cfg.eval.batch] for group in by_canvas.values()
               for i in range(0, len(group), cfg.eval.batch)]
    batches = [batch for batch in batches
               if not all(int(data.image_ids[i]) in finished for i in batch)][world.rank::world.size]
    return _loader(cfg, world, TestStream(data, resize), loader_workers(cfg), batch_sampler=batches, collate_fn=collate)

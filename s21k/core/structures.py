"""What passes between the packages: small dataclasses of tensors.

B  images    M  objects of an image    R  regions    N  detections    K  evaluated categories

Labels are 0..C-1; BACKGROUND and IGNORE are no categories (Eq. 1 replaces a background class).
"""
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from s21k.core.mask_tensors import Masks, paste
from s21k.core.transfer import to_device

BACKGROUND = -1
IGNORE = -2


@dataclass
class Target:
    """What is known of one image. boxes (M, 4) float, labels (M,) int64. An image with only an image-level label has
    one object whose box is the whole valid area [P2, P18]. masks: of the M objects, where they were asked for."""
    boxes: Tensor
    labels: Tensor
    masks: Masks | None = None

    def pick(self, kept: Tensor) -> "Target":
        """The objects of kept (M,) bool."""
        return Target(self.boxes[kept], self.labels[kept], None if self.masks is None else self.masks.pick(kept))


@dataclass
class Sample:
    """One image as a data set gives it; Batch says what the fields are. image (3, h, w) uint8, no padding.
    faults: why other images of its place in the stream could not be read."""
    image: Tensor
    target: Target
    image_id: int
    scale: tuple[float, float]
    seed: int
    faults: tuple[str, ...] = ()


@dataclass
class Batch:
    """B images on one canvas, content at the top left, padding right and below.

    images (B, 3, H, W) uint8 RGB (images.normalize makes the network's input of them);
    sizes  B times (h, w), the valid area; image_ids B ids of the data set;
    boxes  (A, 4), labels (A,): the objects of all images, image after image; counts: how many each has; masks: B Masks,
           or None each where they were not asked for. Three tensors in all, however many images: each one that crosses
           from a loader process costs a file descriptor, and a copy to the device;
    scales B times (x, y): input pixels per pixel of the original image;
    seeds  B integers, one for each place in its stream: all chance inside the network comes
           from them, so that it does not depend on the number of processes;
    faults for each image, what could not be read on the way: its place was taken by another, or it is black
    (Sample.faults).
    """
    images: Tensor
    sizes: list[tuple[int, int]]
    boxes: Tensor
    labels: Tensor
    counts: list[int]
    masks: list[Masks | None]
    image_ids: list[int]
    scales: list[tuple[float, float]]
    seeds: list[int]
    faults: list[tuple[str, ...]] = field(default_factory=list)

    @classmethod
    def pack(cls, images: Tensor, sizes: list[tuple[int, int]], targets: list[Target], *rest: list) -> "Batch":
        """Of one Target an image; rest: image_ids, scales, seeds, and perhaps faults."""
        return cls(images, sizes, torch.cat([t.boxes for t in targets]), torch.cat([t.labels for t in targets]),
                   [len(t.labels) for t in targets], [t.masks for t in targets], *rest)

    @property
    def targets(self) -> list[Target]:
        """B Targets: parts of boxes and labels."""
        parts = zip(self.boxes.split(self.counts), self.labels.split(self.counts), self.masks, strict=True)
        return [Target(*part) for part in parts]

    def __len__(self) -> int:
        return len(self.image_ids)

    def to(self, device: torch.device) -> "Batch":
        return self._each_tensor(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        return self._each_tensor(Tensor.pin_memory)

    def _each_tensor(self, action: Callable[[Tensor], Tensor]) -> "Batch":
        return replace(self, images=action(self.images), boxes=action(self.boxes), labels=action(self.labels))

    def image_labels(self) -> Tensor:
        """(B,) the label of each image, of a batch whose images have one label each."""
        assert self.counts == [1] * len(self), f"images with {self.counts} objects, expected one label each"
        return self.labels


@dataclass
class Regions:
    """Sampled training regions of one image: the first num_objects of them hold an object, the others are background.
    boxes (R, 4); labels (R,) in [0, C) or BACKGROUND; gt_boxes (R, 4), meaningless for
    background; gt_index (R,) which object of the image, -1 for background."""
    boxes: Tensor
    labels: Tensor
    gt_boxes: Tensor
    gt_index: Tensor
    num_objects: int


def object_rows(regions: list[Regions], device: torch.device) -> Tensor:
    """Which rows of all images' regions, one after the other, hold an object. No wait: the host knows the numbers."""
    rows, begin = [], 0
    for r in regions:
        rows += range(begin, begin + r.num_objects)
        begin += len(r.labels)
    return to_device(rows, device, torch.int64)


class RegionScores:
    """The scores of one image's regions for all categories, read in parts: the (R, K) numbers need not exist.
    boxes (R, 4) decoded and clipped; shape (R, K)."""
    boxes: Tensor
    shape: tuple[int, int]

    def rows(self, first: int, end: int) -> Tensor:
        """(end - first, K): all scores of some regions."""
        raise NotImplementedError

    def at(self, region: Tensor, category: Tensor) -> Tensor:
        """(n,): the scores of n pairs."""
        raise NotImplementedError

    def of(self, category: int) -> Tensor:
        """(R,): one category's scores."""
        region = torch.arange(self.shape[0], device=self.boxes.device)
        return self.at(region, torch.full_like(region, category))

    def rows_at_once(self, width: int) -> int:
        """So many rows of this width stay in a processor's cache; a GPU wants more."""
        return max(1, (1 << 18 if self.boxes.device.type == "cpu" else 1 << 24) // max(width, 1))

    def parts(self) -> Iterator[tuple[int, Tensor]]:
        """(first, rows): all rows, some at a time."""
        step = self.rows_at_once(self.shape[1])
        for first in range(0, self.shape[0], step):
            yield first, self.rows(first, min(first + step, self.shape[0]))

    def with_boxes(self, boxes: Tensor) -> "RegionScores":
        """The same scores of other boxes (R, 4)."""
        other = copy.copy(self)
        other.boxes = boxes
        return other


class DenseScores(RegionScores):
    """scores (R, K) that are there already."""

    def __init__(self, boxes: Tensor, scores: Tensor) -> None:
        self.boxes, self.scores, self.shape = boxes, scores, (scores.shape[0], scores.shape[1])

    def rows(self, first: int, end: int) -> Tensor:
        return self.scores[first:end]

    def at(self, region: Tensor, category: Tensor) -> Tensor:
        return self.scores[region, category]


@dataclass
class Detections:
    """boxes (N, 4), scores (N,) best first, labels (N,) in [0, K); with a mask head masks, N RLE of the image."""
    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: list[dict] | None = None

    def pick(self, rows: list[int]) -> "Detections":
        return Detections(self.boxes[rows], self.scores[rows], self.labels[rows],
                          None if self.masks is None else [self.masks[i] for i in rows])

    def to(self, device: torch.device) -> "Detections":
        return Detections(self.boxes.to(device), self.scores.to(device), self.labels.to(device), self.masks)


@dataclass
class Prediction:
    """One image, boxes in one kind of pixels: every region's scores; the detections chosen from them; and, for the
    top-5 localization accuracies, before threshold and cap the five best after NMS, and the best box of each of the
    five best categories. masks (N, m, m): the probability of each detection's mask inside its box, or None.
    proposals (R, 4): the RPN's, best first, from which the regions' boxes were made; None where nobody asks."""
    regions: RegionScores
    detections: Detections
    five_best: Detections
    five_categories: Detections
    masks: Tensor | None = None
    proposals: Tensor | None = None

    def in_image(self, scale: tuple[float, float], size: tuple[int, int]) -> "Prediction":
        """In the pixels of the original image of size (h, w): scale as in Batch.scales. Masks are pasted one by one."""
        divisor = torch.tensor([*scale, *scale], device=self.regions.boxes.device)
        found, five, categories = (Detections(d.boxes / divisor, d.scores, d.labels)
                                   for d in (self.detections, self.five_best, self.five_categories))
        if self.masks is not None:
            found.masks = [paste(mask, box, size) for mask, box in zip(self.masks.cpu(), found.boxes.tolist())]
        return Prediction(self.regions.with_boxes(self.regions.boxes / divisor), found, five, categories,
                          proposals=None if self.proposals is None else self.proposals / divisor)

"""Images with boxes: a COCO-format file as packed tables, served one image at a time."""
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from s21k.annotation_faults import check_boxes, check_category_names, cut_boxes
from s21k.annotations import load_annotations
from s21k.archives import leaves_root
from s21k.errors import InputError
from s21k.image_files import find_file, sample_rows
from s21k.images import read_image
from s21k.masks import Masks
from s21k.packed import fingerprint
from s21k.structures import Target


class DetectionData:
    """category_names: one for each row of g (wnid where the file has one), in ascending id.

    Crowd regions, and boxes of which less than one pixel lies inside the image, are left out: `left_out` counts them,
    with those of unknown ids, and `notes` says why. Images without boxes stay: they teach the background. masks: serve
    the objects' masks, too. InputError: nothing to learn from, or two categories of one name.
    """

    def __init__(self, annotations: str | Path, images: str | Path, masks: bool = False) -> None:
        self.root = Path(images)
        if not self.root.is_dir():
            raise InputError(f"detection images {self.root}: no such folder")
        table = load_annotations(annotations, masks)
        if len(table.image_ids) == 0 or len(table.category_ids) == 0:
            raise InputError(f"{annotations}: no images or no categories in it")
        self.category_names = table.category_keys()
        self.image_ids, self.heights, self.widths = table.image_ids, table.heights, table.widths
        self.file_names = table.file_names
        check_category_names(table)
        cut = cut_boxes(table)
        self.notes = check_boxes(table, cut)
        corners, usable = cut.corners, cut.usable
        self.left_out = table.written - int(usable.sum())
        order = np.flatnonzero(usable)[np.argsort(table.image_index[usable], kind="stable")]
        self.boxes = corners[order].astype(np.float32)                               # (A, 4) xyxy, image after image
        self.labels = table.category_index[order]                                    # (A,)
        as_it_is = len(order) == len(usable) and bool((order[1:] > order[:-1]).all())          # then nothing of a mapped table is copied
        self.masks = table.masks if table.masks is None or as_it_is else table.masks.take(order)
        self.offsets = np.searchsorted(table.image_index[order], np.arange(len(self.image_ids) + 1))

    def __len__(self) -> int:
        return len(self.image_ids)

    def fingerprint(self) -> str:
        """What the data is: how many images, and a hash of their names, boxes and labels in order."""
        names = self.file_names.packed
        masks = [] if self.masks is None else self.masks.columns().values()
        return fingerprint(len(self), names.data, names.offsets, self.heights, self.widths, self.boxes, self.labels, self.offsets, *masks)

    def read(self, index: int, at_least: int | None = None) -> tuple[Image.Image, Target]:
        """RGB picture and its objects, in pixels of the annotated size.

        The picture may be smaller than annotated where at_least allows (images.read_image);
        InputError when the file has another size than its annotation says.
        """
        image = read_image(self.path(index), at_least, self.size(index))
        first, end = self.offsets[index:index + 2].tolist()
        masks = None if self.masks is None else Masks(tuple(self.masks[i] for i in range(first, end)))
        return image, Target(torch.from_numpy(self.boxes[first:end].copy()), torch.from_numpy(self.labels[first:end].astype(np.int64)), masks)

    def path(self, index: int) -> Path:
        """Where image index lies. InputError: its name leads elsewhere."""
        name = self.file_names[index]
        if leaves_root(name):
            raise InputError(f"{self.root}: picture {name!r:.80} leads out of it")
        return find_file(self.root, name)

    def sample(self) -> Iterator[tuple[Path | InputError, tuple[int, int]]]:
        """Some images and their annotated sizes, to be tried at the start of a command (image_files.check_images)."""
        for row in sample_rows(len(self)):
            try:
                yield self.path(row), self.size(row)
            except InputError as error:
                yield error, self.size(row)

    def size(self, index: int) -> tuple[int, int]:
        """The annotated (h, w)."""
        return int(self.heights[index]), int(self.widths[index])

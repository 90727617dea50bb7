"""Images with boxes: a COCO-format file as packed tables, served one image at a time."""
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from s21k.core.errors import InputError
from s21k.core.mask_tensors import Masks
from s21k.core.packed import fingerprint
from s21k.core.structures import Target
from s21k.files.annotation_faults import check_boxes, check_category_names, cut_boxes
from s21k.files.annotations import load_annotations
from s21k.files.archives import leaves_root
from s21k.files.image_files import find_file, sample_rows
from s21k.files.images import read_image
from s21k.files.tables import is_table


class DetectionData:
    """category_names: one for each row of g (wnid where the file has one), in ascending id.

    Crowd regions, and boxes of which less than one pixel lies inside the image, are left out: `left_out` counts them,
    with those of unknown ids, and `notes` says why. Images without boxes stay: they teach the background. masks: serve
    the objects' masks, too. InputError: nothing to learn from, or two categories of one name.
    """

    def __init__(self, annotations: str | Path, images: str | Path, masks: bool = False) -> None:
        self._open(annotations, images, masks)
        if len(self.table.image_ids) == 0 or len(self.table.category_ids) == 0:
            raise InputError(f"{annotations}: no images or no categories in it")
        self.category_names = self.table.category_keys()
        # What is asked of the data as a whole, in the main process only.
        check_category_names(self.table)
        cut = cut_boxes(self.table)
        self.notes = check_boxes(self.table, cut)
        usable = cut.usable
        self.left_out = self.table.written - int(usable.sum())
        self.boxes = cut.corners[usable].astype(np.float32)                                    # (A, 4) xyxy
        self.labels = self.table.category_index[usable]                                        # (A,)
        self.offsets = np.searchsorted(self.table.image_index[usable], np.arange(len(self.image_ids) + 1))

    def _open(self, annotations: str | Path, images: str | Path, masks: bool) -> None:
        """The table, image after image; of a saved one nothing is copied."""
        self.opened_from = (annotations, images, masks)
        self.root = Path(images)
        if not self.root.is_dir():
            raise InputError(f"detection images {self.root}: no such folder")
        self.table = load_annotations(annotations, masks).by_image()
        self.image_ids, self.heights, self.widths = self.table.image_ids, self.table.heights, self.table.widths
        self.file_names = self.table.file_names
        self.begins = np.searchsorted(self.table.image_index, np.arange(len(self.image_ids) + 1))

    def __getstate__(self) -> dict | tuple:
        """For a loader process that is no fork of this one: a saved table is opened and mapped again, not sent."""
        return self.opened_from if is_table(Path(self.opened_from[0])) else self.__dict__

    def __setstate__(self, state: dict | tuple) -> None:
        if isinstance(state, tuple):
            self._open(*state)
        else:
            self.__dict__ |= state

    def __len__(self) -> int:
        return len(self.image_ids)

    def fingerprint(self) -> str:
        """What the data is: how many images, and a hash of their names, boxes and labels in order."""
        names = self.file_names.packed
        masks = []
        if self.table.masks is not None:
            usable = cut_boxes(self.table).usable
            masks = (self.table.masks if usable.all()
                     else self.table.masks.take(np.flatnonzero(usable))).columns().values()
        return fingerprint(len(self), names.data, names.offsets, self.heights, self.widths, self.boxes, self.labels,
                           self.offsets, *masks)

    def read(self, index: int, at_least: int | None = None) -> tuple[Image.Image, Target]:
        """RGB image and its objects, in pixels of the annotated size.

        The image may be smaller than annotated where at_least allows (images.read_image);
        InputError when the file has another size than its annotation says.
        """
        image = read_image(self.path(index), at_least, self.size(index))
        rows = slice(*self.begins[index:index + 2].tolist())
        cut = cut_boxes(self.table, rows)
        labels = self.table.category_index[rows][cut.usable].astype(np.int64)
        masks = self.table.masks
        if masks is not None:
            masks = Masks(tuple(masks[rows.start + i] for i in np.flatnonzero(cut.usable).tolist()))
        return image, Target(torch.from_numpy(cut.corners[cut.usable].astype(np.float32)), torch.from_numpy(labels),
                             masks)

    def path(self, index: int) -> Path:
        """Where image index lies. InputError: its name leads elsewhere."""
        name = self.file_names[index]
        if leaves_root(name):
            raise InputError(f"{self.root}: image {name!r:.80} leads out of it")
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

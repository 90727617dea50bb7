"""What is to be found: the boxes of an annotation file, arranged for scoring.

I images    K categories    G boxes
"""
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from s21k.core.errors import InputError, note
from s21k.core.masks import PackedOutlines
from s21k.files.annotation_faults import check_category_names, check_truth
from s21k.files.annotation_table import AnnotationTable
from s21k.files.annotations import load_annotations

if TYPE_CHECKING:                                   # scoring a file imports no torch
    from s21k.core.categories import CategoryMap


@dataclass
class GroundTruth:
    """image_ids (I,) ascending, sizes (I, 2) as (h, w); category_ids, category_names K each, in evaluation order;
    groups: name -> (K,) bool.

    A row a box, in file order: image, category (positions in the above), boxes (G, 4) as
    [x, y, w, h] float64, areas, crowd, ignore, masks (G outlines, or None when not read). Boxes of categories outside
    the K are dropped [E3]. LVIS only: frequencies K letters, negative and not_exhaustive (n, 2) pairs of image and
    category.
    """
    path: str
    image_ids: np.ndarray
    sizes: np.ndarray
    category_ids: np.ndarray
    category_names: list[str]
    groups: dict[str, np.ndarray]
    image: np.ndarray
    category: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    ignore: np.ndarray
    masks: PackedOutlines | None
    frequencies: list[str | None]
    negative: np.ndarray
    not_exhaustive: np.ndarray

    @staticmethod
    def load(path: str | Path, categories: "CategoryMap | None" = None, masks: bool = False,
             with_crowds: bool = False) -> "GroundTruth":
        """Read a COCO-format file; categories None: the file's own, without groups; masks: the segmentations, too.

        with_crowds: crowd regions are objects as others are (LVIS). A category that the file does not have has no
        boxes, and -1 as its id (CategoryMap.find). What is odd about the boxes is noted. InputError: no category is
        there, or no annotation is left.
        """
        table = load_annotations(path, masks, files=False)
        for line in check_truth(table, with_crowds):
            note(line)
        if categories is None:
            return GroundTruth.of_table(table, np.arange(len(table.category_ids)), {})
        check_category_names(table)
        chosen = np.array(categories.find(table.category_names, table.category_wnids, path))
        group = np.array(categories.groups)
        names = list(dict.fromkeys(categories.groups))
        return GroundTruth.of_table(table, chosen, {name: group == name for name in names} if len(names) > 1 else {})

    @staticmethod
    def of_table(table: AnnotationTable, chosen: np.ndarray, groups: dict[str, np.ndarray]) -> "GroundTruth":
        """chosen (K,): positions in the table's categories, -1 where it has none."""
        position = np.full(len(table.category_ids), -1, dtype=np.int32)
        there = chosen >= 0
        position[chosen[there]] = np.flatnonzero(there)
        category = position[table.category_index]
        kept = category >= 0

        def pairs(listed: np.ndarray) -> np.ndarray:
            moved = np.stack([listed[:, 0], position[listed[:, 1]]], axis=1)
            return moved[moved[:, 1] >= 0]

        return GroundTruth(table.path, table.image_ids, np.stack([table.heights, table.widths], axis=1),
                           np.where(there, table.category_ids[chosen], -1),
                           [table.category_names[c] if c >= 0 else "" for c in chosen], groups, table.image_index[kept],
                           category[kept], table.boxes[kept], table.areas[kept], table.crowd[kept], table.ignore[kept],
                           None if table.masks is None else table.masks.take(np.flatnonzero(kept)),
                           [table.frequencies[c] if c >= 0 else None for c in chosen], pairs(table.negative),
                           pairs(table.not_exhaustive))

    def image_position(self, image_id: int) -> int:
        """The position of image_id in image_ids. InputError: the file has no such image [E2]."""
        at = int(np.searchsorted(self.image_ids, image_id))
        if at == len(self.image_ids) or self.image_ids[at] != image_id:
            raise InputError(f"image id {image_id} is not in {self.path}")
        return at


def iou_xywh(a: np.ndarray, b: np.ndarray, b_crowd: np.ndarray | None = None) -> np.ndarray:
    """IoU of pairs a (n, 4), b (n, 4), [x, y, w, h] float64, no +1, in pycocotools' order of operations [E14].

    With a crowd b the divisor is the area of a [E17]. No overlap, or no area at all, is 0.
    """
    w = np.minimum(a[:, 0] + a[:, 2], b[:, 0] + b[:, 2]) - np.maximum(a[:, 0], b[:, 0])
    h = np.minimum(a[:, 1] + a[:, 3], b[:, 1] + b[:, 3]) - np.maximum(a[:, 1], b[:, 1])
    inter = np.where((w <= 0) | (h <= 0), 0.0, w * h)
    a_area, b_area = a[:, 2] * a[:, 3], b[:, 2] * b[:, 3]
    union = a_area + b_area - inter
    if b_crowd is not None:
        union = np.where(b_crowd, a_area, union)
    return np.divide(inter, union, out=np.zeros_like(inter), where=inter > 0)


def xyxy_to_xywh(boxes: np.ndarray) -> np.ndarray:
    """(n, 4) corners -> [x, y, w, h] float64."""
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)

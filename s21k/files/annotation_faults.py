"""What is wrong with the boxes of an annotation file: counted by reason, with the first of each. Nothing else says it.

A annotations of a table; boxes are [x, y, w, h] in pixels, which only they say: fractions or corners look alike.
"""
from dataclasses import dataclass, replace

import numpy as np

from s21k.core.errors import InputError
from s21k.core.names import canonical
from s21k.files.annotation_table import AnnotationTable

JUDGED = 1_000_000  # boxes of a file that are judged, evenly chosen: tens of millions would need gigabytes
MOST = 0.5  # share of a file's boxes that makes it suspicious
EXPECTED = "expected boxes [x, y, w, h] in pixels, w and h above 0, of the categories and images that the file lists"


@dataclass(frozen=True)
class Boxes:
    """corners (A, 4) xyxy, cut at the images; usable (A,): no crowd, at least a pixel wide and high in its image."""

    corners: np.ndarray
    usable: np.ndarray


def cut_boxes(table: AnnotationTable, rows: slice = slice(None)) -> Boxes:
    """The boxes as training uses them; rows: of some annotations."""
    x, y, w, h = table.boxes[rows].T
    image = table.image_index[rows]
    width, height = table.widths[image], table.heights[image]
    corners = np.stack([x.clip(0, width), y.clip(0, height), (x + w).clip(0, width), (y + h).clip(0, height)], axis=1)
    sides = corners[:, 2:] - corners[:, :2]
    return Boxes(corners, ~table.crowd[rows] & (sides >= 1).all(axis=1))


def _first(table: AnnotationTable, rows: np.ndarray) -> str:
    """The first of rows (A,) bool, of which one is true: "(first: [5, 5, -2, 9] on a.jpg)"."""
    row = int(rows.argmax())
    image = int(table.image_index[row])
    name = table.file_names[image] if len(table.file_names) else ""
    box = [float(f"{v:.6g}") for v in table.boxes[row].tolist()]
    return f"(first: {box} on {name or f'image {table.image_ids[image]}'})"


def left_out(table: AnnotationTable, boxes: Boxes) -> list[str]:
    """A line for each reason for which annotations are not trained on."""
    lines, rest = list(table.unlisted), ~boxes.usable
    for what, rows in (("crowd regions", table.crowd),
                       ("boxes of a width or height that is 0 or negative", (table.boxes[:, 2:] <= 0).any(axis=1)),
                       ("boxes of which less than a pixel lies inside the image", rest)):
        rows = rows & rest
        if rows.any():
            lines.append(f"{int(rows.sum())} {what} {_first(table, rows)}")
        rest = rest & ~rows
    return lines


def suspicions(table: AnnotationTable) -> list[str]:
    """Lines about boxes that are probably not [x, y, w, h] in pixels. Images without a size say nothing of corners."""
    if len(table.boxes) > JUDGED:
        table = replace(table, masks=None).take(np.linspace(0, len(table.boxes) - 1, JUDGED).astype(np.int64))
    sizes = np.stack([table.widths, table.heights], axis=1)[table.image_index].astype(np.float64)  # (A, 2)
    judged = ~table.crowd & (sizes > 0).all(axis=1)
    start, side = table.boxes[:, :2], table.boxes[:, 2:]
    fraction = ~table.crowd & (np.abs(table.boxes) <= 1).all(axis=1)
    outside = judged & ((start + side > sizes + 1) | (start < -1) | (start > sizes)).any(axis=1)
    # Read as corners they lie inside: x2 > x1, y2 > y1, and no further than the image.
    corners = judged & ((side > start) & (side <= sizes + 1) & (start >= -1)).all(axis=1)
    count, lines = max(int((~table.crowd).sum()), 1), []

    def say(rows: np.ndarray, what: str) -> None:
        lines.append(f"{int(rows.sum())} of {count} boxes {what} {_first(table, rows)}")

    if fraction.sum() > MOST * count:
        say(fraction, "look like fractions of the image's sides, and are read as pixels")
    elif outside.sum() > 0.1 * count and corners.sum() > 0.9 * count:
        say(outside, "reach outside of their image, and all but a few would lie inside as corners [x1, y1, x2, y2]: "
                     "they are read as [x, y, w, h]")
    elif outside.sum() > MOST * count:
        say(outside, "reach outside of their image, as if they were corners [x1, y1, x2, y2] or of images of another "
                     "size")
    return lines


def check_boxes(table: AnnotationTable, boxes: Boxes) -> list[str]:
    """Notes about boxes to be trained on or looked for. InputError: the file has annotations, and none is left."""
    reasons, doubts = left_out(table, boxes), suspicions(table)
    if table.written and not boxes.usable.any():
        raise InputError(f"{table.path}: none of its {table.written} annotations is left: "
                         f"{'; '.join([*reasons, *doubts])}; {EXPECTED}")
    notes = [f"{table.path}: left out of {table.written} annotations: {'; '.join(reasons)}"] if reasons else []
    return notes + [f"{table.path}: {line}" for line in doubts]


def check_truth(table: AnnotationTable, with_crowds: bool) -> list[str]:
    """Notes about boxes that detections are scored against. with_crowds: crowd regions count as others do (LVIS).
    InputError: the file has annotations, and none can be found."""
    counted = len(table.boxes) if with_crowds else int((~table.crowd).sum())
    lines = list(table.unlisted)
    empty = (table.boxes[:, 2:] <= 0).any(axis=1)
    if empty.any():
        lines.append(f"{int(empty.sum())} boxes of a width or height that is 0 or negative can hardly be found "
                     f"{_first(table, empty)}")
    if table.written and not counted:
        crowds = [f"{len(table.boxes)} are crowd regions {_first(table, table.crowd)}"] if len(table.boxes) else []
        raise InputError(f"{table.path}: none of its {table.written} annotations can be found: "
                         f"{'; '.join(lines + crowds)}; {EXPECTED}")
    return [f"{table.path}: {line}" for line in [*lines, *suspicions(table)]]


def check_category_names(table: AnnotationTable) -> None:
    """InputError: two categories of one wnid, or without wnids one name, in any Unicode form: it tells labels apart."""
    seen: dict[str, int] = {}
    for row, key in enumerate(map(canonical, table.category_keys())):
        if (before := seen.setdefault(key, row)) != row:
            raise InputError(f"{table.path}: categories {table.category_ids[before]} and {table.category_ids[row]} are "
                             f"both {key!r}, expected each name (or wnid) once: give both one id, or rename one")

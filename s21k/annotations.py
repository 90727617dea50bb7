"""COCO-format JSON -> packed numpy tables: the one parser for training, scoring and preparation.

I images (ascending id)    A annotations (file order)    C categories (ascending id)
"""
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from s21k.errors import InputError
from s21k.masks import Outline, PackedOutlines, parse_outline
from s21k.packed import PackedStrings


@dataclass
class AnnotationTable:
    """One annotation file. Boxes are COCO's [x, y, w, h] in float64, as written (E14).

    image_ids, heights, widths (I,); file_names I strings; category_ids (C,), category_names,
    category_wnids, frequencies (LVIS: r, c, f) C each; then a row an annotation: image_index,
    category_index into the above, boxes (A, 4), areas (A,) (nan where the file has none: E7), crowd
    (A,) and ignore (A,) bool (E6); masks: A outlines, None when not asked for. LVIS only: negative and not_exhaustive (n, 2), pairs of image and
    category positions that were checked to be absent, or not boxed completely (E30, E31).
    """
    path: str
    image_ids: np.ndarray
    heights: np.ndarray
    widths: np.ndarray
    file_names: PackedStrings
    category_ids: np.ndarray
    category_names: list[str]
    category_wnids: list[str | None]
    frequencies: list[str | None]
    image_index: np.ndarray
    category_index: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    ignore: np.ndarray
    masks: PackedOutlines | None
    negative: np.ndarray
    not_exhaustive: np.ndarray

    def category_keys(self) -> list[str]:
        """What identifies each category: its wnid where the file has one, else its name."""
        return [wnid or name for wnid, name in zip(self.category_wnids, self.category_names)]


def _index_of(ids: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Positions of wanted in the ascending ids, -1 where absent."""
    if len(ids) == 0:
        return np.full(len(wanted), -1, dtype=np.int64)
    at = np.searchsorted(ids, wanted).clip(max=len(ids) - 1)
    return np.where(ids[at] == wanted, at, -1)


def _column(path: Path, part: str, rows: list, key: str, kind: type, default: object = None) -> np.ndarray:
    """rows[i][key] of every row as an array; InputError names the first row without it or of the wrong type."""
    numbers = (int, float) if kind is float else (int,)
    values = []
    for position, row in enumerate(rows):
        value = row.get(key, default) if isinstance(row, dict) else None
        if not isinstance(value, numbers) or (isinstance(value, bool) and key not in ("iscrowd", "ignore")):
            raise InputError(f"{path}: {part}[{position}] has {key} {value!r:.40}, expected {kind.__name__}")
        values.append(value)
    try:
        return np.array(values, dtype=np.float64 if kind is float else np.int64)
    except OverflowError:
        raise InputError(f"{path}: {part}: a value of {key} is too large") from None


def _listed_pairs(path: Path, images: list[dict], key: str, category_ids: np.ndarray) -> np.ndarray:
    """(n, 2): position of each image and of each category in its list `key`; unlisted categories are dropped."""
    rows, ids = [], []
    for position, image in enumerate(images):
        listed = image.get(key, [])
        if not isinstance(listed, list) or not all(isinstance(i, int) for i in listed):
            raise InputError(f"{path}: image {image['id']} has {key} {listed!r:.40}, expected a list of category ids")
        rows += [position] * len(listed)
        ids += listed
    category = _index_of(category_ids, np.array(ids, dtype=np.int64))
    return np.stack([np.array(rows, dtype=np.int64), category], axis=1)[category >= 0]


def _unique(path: Path, part: str, ids: np.ndarray) -> None:
    ordered = np.sort(ids)
    if (same := ordered[1:] == ordered[:-1]).any():
        raise InputError(f"{path}: {part}: id {ordered[1:][same][0]} stands twice, expected unique ids")


def _outline(path: Path, position: int, row: dict, size: tuple[int, int]) -> Outline:
    try:
        return parse_outline(row.get("segmentation"), size)
    except (ValueError, OverflowError) as error:
        raise InputError(f"{path}: annotations[{position}] has {error}") from None


def load_annotations(path: str | Path, masks: bool = False) -> AnnotationTable:
    """Read a COCO-format file.

    Annotations on images or categories that the file does not list are dropped (E3). masks: read the
    segmentations as well, which every annotation must then have (E37). InputError: not JSON, a part or a field missing, of the wrong type or not finite, or an id that stands twice (E8).
    """
    path = Path(path)
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error})") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected an object with images, annotations, categories, found a {type(content).__name__}")
    for part in ("images", "annotations", "categories"):
        if not isinstance(content.get(part), list):
            raise InputError(f"{path}: {part!r} is missing or no list")
    images, annotations, categories = content["images"], content["annotations"], content["categories"]

    image_ids = _column(path, "images", images, "id", int)
    heights, widths = (_column(path, "images", images, key, int) for key in ("height", "width"))
    if len(images) and min(heights.min(), widths.min()) < 1:
        raise InputError(f"{path}: image {image_ids[(heights < 1) | (widths < 1)][0]} has a side below 1 pixel")
    category_ids = _column(path, "categories", categories, "id", int)
    _unique(path, "images", image_ids)
    _unique(path, "categories", category_ids)
    for position, row in enumerate(images):
        if not isinstance(row.get("file_name"), str) and not isinstance(row.get("coco_url"), str):
            raise InputError(f"{path}: images[{position}] has no file_name")
    for position, row in enumerate(categories):
        if not isinstance(row.get("name"), str):
            raise InputError(f"{path}: categories[{position}] has no name")
    by_image, by_category = np.argsort(image_ids), np.argsort(category_ids)
    image_ids, category_ids = image_ids[by_image], category_ids[by_category]
    names = [images[i].get("file_name") or images[i]["coco_url"].rsplit("/", 1)[-1] for i in by_image]

    _unique(path, "annotations", _column(path, "annotations", annotations, "id", int))
    boxes = np.zeros((len(annotations), 4))
    for position, row in enumerate(annotations):
        box = row.get("bbox")
        if not (isinstance(box, list) and len(box) == 4 and all(isinstance(v, (int, float)) for v in box)):
            raise InputError(f"{path}: annotations[{position}] has bbox {box!r:.60}, expected [x, y, w, h]")
        boxes[position] = box
    if not np.isfinite(boxes).all():
        raise InputError(f"{path}: annotations[{np.argwhere(~np.isfinite(boxes))[0][0]}]: bbox is not finite")
    areas = _column(path, "annotations", annotations, "area", float, float("nan"))
    crowd = _column(path, "annotations", annotations, "iscrowd", int, 0) != 0
    ignore = _column(path, "annotations", annotations, "ignore", int, 0) != 0
    ordered_images = [images[i] for i in by_image]
    image_index = _index_of(image_ids, _column(path, "annotations", annotations, "image_id", int))
    category_index = _index_of(category_ids, _column(path, "annotations", annotations, "category_id", int))
    listed = (image_index >= 0) & (category_index >= 0)
    outlines = None
    if masks:
        heights_in_order, widths_in_order = heights[by_image], widths[by_image]
        outlines = PackedOutlines([_outline(path, i, annotations[i], (int(heights_in_order[at]), int(widths_in_order[at])))
                                   for i, at in zip(np.flatnonzero(listed).tolist(), image_index[listed].tolist())])
    return AnnotationTable(
        str(path), image_ids, heights[by_image].astype(np.int32), widths[by_image].astype(np.int32),
        PackedStrings(names), category_ids, [categories[i]["name"] for i in by_category],
        [categories[i].get("wnid") for i in by_category], [categories[i].get("frequency") for i in by_category],
        image_index[listed].astype(np.int32), category_index[listed].astype(np.int32), boxes[listed], areas[listed],
        crowd[listed], ignore[listed], outlines, _listed_pairs(path, ordered_images, "neg_category_ids", category_ids),
        _listed_pairs(path, ordered_images, "not_exhaustive_category_ids", category_ids))

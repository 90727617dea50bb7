"""A saved detections file -> flat arrays: COCO's results JSON, or columns in an .npz.

N detections in file order. Whatever is wrong is said with the entry's position.
"""
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from s21k.errors import InputError
from s21k.evaluation.ground_truth import GroundTruth


@dataclass
class DetectionColumns:
    """image_ids, category_ids, scores (N,), boxes (N, 4) as [x, y, w, h] float64."""
    image_ids: np.ndarray
    category_ids: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray


def read_detections(path: str | Path) -> DetectionColumns:
    """InputError: unreadable, an entry without a field, of the wrong type, or not finite (E10)."""
    path = Path(path)
    columns = _read_npz(path) if path.suffix == ".npz" else _read_json(path)
    for name, values in (("score", columns.scores), ("bbox", columns.boxes)):
        if not np.isfinite(values).all():
            raise InputError(f"{path}: detection {int(np.argwhere(~np.isfinite(values))[0][0])}: {name} is not finite")
    return columns


def _read_npz(path: Path) -> DetectionColumns:
    names = ("image_id", "category_id", "score", "bbox")
    try:
        with np.load(path, allow_pickle=False) as file:
            image, category, scores, boxes = (np.asarray(file[name]) for name in names)
    except KeyError as error:
        raise InputError(f"{path}: {error.args[0]}, expected the columns {', '.join(names)}") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not a readable .npz without pickled objects ({error})") from None
    if boxes.ndim != 2 or boxes.shape[1:] != (4,) or {image.shape, category.shape, scores.shape} != {(len(boxes),)}:
        raise InputError(f"{path}: shapes {image.shape} {category.shape} {scores.shape} {boxes.shape}, expected (N,) (N,) (N,) (N, 4)")
    if image.dtype.kind not in "iu" or category.dtype.kind not in "iu" or scores.dtype.kind not in "iuf" or boxes.dtype.kind not in "iuf":
        raise InputError(f"{path}: types {image.dtype} {category.dtype} {scores.dtype} {boxes.dtype}, expected two whole, two real")
    return DetectionColumns(image.astype(np.int64), category.astype(np.int64), scores.astype(np.float64), boxes.astype(np.float64))


def _read_json(path: Path) -> DetectionColumns:
    try:
        rows = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error})") from None
    if not isinstance(rows, list):
        raise InputError(f"{path}: expected a list of detections, found a {type(rows).__name__}")

    def number(value: object, whole: bool) -> bool:
        return isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)

    for position, row in enumerate(rows):
        good = isinstance(row, dict) and number(row.get("image_id"), True) and number(row.get("category_id"), True) \
            and number(row.get("score"), False) and isinstance(row.get("bbox"), list) and len(row["bbox"]) == 4 \
            and all(number(v, False) for v in row["bbox"])
        if not good:
            raise InputError(f"{path}: detection {position} is {row!r:.150}, expected image_id, category_id, score and bbox [x, y, w, h]")
    try:
        return DetectionColumns(np.array([r["image_id"] for r in rows], dtype=np.int64), np.array([r["category_id"] for r in rows], dtype=np.int64),
                                np.array([r["score"] for r in rows], dtype=np.float64),
                                np.array([r["bbox"] for r in rows], dtype=np.float64).reshape(-1, 4))
    except OverflowError:
        raise InputError(f"{path}: a number in it is too large") from None


def locate(columns: DetectionColumns, gt: GroundTruth, keep_unknown: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """-> positions of images and of categories in gt, scores, boxes. Unknown categories are dropped (E2), or kept as -1;
    an unknown image is an InputError."""
    image = np.searchsorted(gt.image_ids, columns.image_ids).clip(max=max(len(gt.image_ids) - 1, 0))
    if len(columns.image_ids) and (len(gt.image_ids) == 0 or (wrong := gt.image_ids[image] != columns.image_ids).any()):
        position = int(np.flatnonzero(wrong)[0]) if len(gt.image_ids) else 0
        raise InputError(f"detection {position} is on image {columns.image_ids[position]}, which is not in {gt.path}")
    order = np.argsort(gt.category_ids)
    at = np.searchsorted(gt.category_ids[order], columns.category_ids).clip(max=max(len(order) - 1, 0))
    known = gt.category_ids[order][at] == columns.category_ids if len(order) else np.zeros(len(at), dtype=bool)
    category = np.where(known, order[at] if len(order) else -1, -1)
    kept = known | keep_unknown
    return image[kept], category[kept], columns.scores[kept], columns.boxes[kept]

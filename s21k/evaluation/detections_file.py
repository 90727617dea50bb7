"""A detections file, read and written: COCO's results JSON, or columns in an .npz.

N detections in file order. A JSON file is read in pieces: the memory is that of the columns, not of the text.
Whatever is wrong is said with the entry's position.
"""
import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from s21k.core.errors import InputError, note, unlisted
from s21k.core.masks import Rles, broken_counts
from s21k.core.packed import Packed
from s21k.evaluation.columns import DetectionColumns
from s21k.evaluation.ground_truth import GroundTruth
from s21k.evaluation.sorting import index_of
from s21k.files.json_pieces import Entries, read_list

LARGEST = 1 << 1000                                 # a whole number that a float64 can hold
WRONG = (TypeError, KeyError, ValueError, AttributeError, OverflowError)


def read_detections(path: str | Path, masks: bool = False) -> DetectionColumns:
    """InputError: unreadable, an entry without a field, of the wrong type, or not finite [E10]; with masks, without one
    [E37]."""
    path = Path(path)
    columns = _read_npz(path, masks) if path.suffix == ".npz" else _read_json(path, masks)
    for name, values in (("score", columns.scores), ("bbox", columns.boxes)):
        finite = np.isfinite(values)
        if not finite.all():
            raise InputError(f"{path}: detection {int(np.argwhere(~finite)[0][0])}: {name} is not finite")
    return columns


def _read_npz(path: Path, masks: bool) -> DetectionColumns:
    names = ["image_id", "category_id", "score", "bbox"] + ["rle_counts", "rle_offsets", "rle_size"] * masks
    try:
        with np.load(path, allow_pickle=False) as file:
            image, category, scores, boxes, *rle = (np.asarray(file[name]) for name in names)
    except KeyError as error:
        raise InputError(f"{path}: {error.args[0]}, expected the columns {', '.join(names)}") from None
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except Exception as error:
        # numpy's reader raises whatever damaged bytes lead it to
        raise InputError(f"{path}: not a readable .npz without pickled objects ({error})") from None
    if boxes.ndim != 2 or boxes.shape[1:] != (4,) or {image.shape, category.shape, scores.shape} != {(len(boxes),)}:
        raise InputError(f"{path}: shapes {image.shape} {category.shape} {scores.shape} {boxes.shape}, expected (N,) "
                         f"(N,) (N,) (N, 4)")
    if (image.dtype.kind not in "iu" or category.dtype.kind not in "iu" or scores.dtype.kind not in "iuf"
        or boxes.dtype.kind not in "iuf"):
        raise InputError(f"{path}: types {image.dtype} {category.dtype} {scores.dtype} {boxes.dtype}, expected two "
                         f"whole, two real")
    # whole numbers cannot all be negated
    scores = scores.astype(np.float64) if scores.dtype.kind in "iu" else scores
    return DetectionColumns(image, category, scores, boxes, None, _rles(path, *rle, len(boxes)) if masks else None)


def _rles(path: Path, data: np.ndarray, offsets: np.ndarray, sizes: np.ndarray, count: int) -> Rles:
    good = data.dtype == np.uint8 and data.ndim == 1 and offsets.dtype.kind in "iu" and offsets.shape == (count + 1,) \
        and sizes.dtype.kind in "iu" and sizes.shape == (count, 2)
    if not good or offsets[0] != 0 or offsets[-1] != len(data) or (np.diff(offsets.astype(np.int64)) < 0).any() or (
        sizes < 0).any() \
            or (sizes >= 1 << 24).any():
        raise InputError(f"{path}: rle_counts {data.dtype} {data.shape}, rle_offsets {offsets.shape}, rle_size "
                         f"{sizes.shape}: expected uint8 (n,), rising ({count + 1},) from 0 to n, ({count}, 2)")
    return _checked(path, Rles(Packed.of_arrays(data, offsets.astype(np.int64)), sizes.astype(np.int32)))


def _checked(path: Path, masks: Rles) -> Rles:
    if (bad := broken_counts(masks.counts, masks.sizes)).any():
        raise InputError(f"{path}: detection {int(np.flatnonzero(bad)[0])}: run lengths that do not cover its size, or "
                         f"not COCO's compressed form")
    return masks


# --- JSON ------------------------------------------------------------------------------------------------------------

def _number(value: object, *kinds: type) -> bool:
    return type(value) in kinds                                          # exactly: True is no number


def _column(values: list, dtype: type, *kinds: type) -> np.ndarray:
    if not set(map(type, values)) <= set(kinds):
        raise TypeError
    return np.array(values, dtype=dtype)


def _is_rle(value: object) -> bool:
    return isinstance(value, dict) and isinstance(
        value.get("counts"), str) and value["counts"].isascii() and isinstance(value.get("size"), list) \
        and len(value["size"]) == 2 and all(_number(v, int) and 0 <= v < 1 << 24 for v in value["size"])


FIELDS = {"image_id": "i8", "category_id": "i8", "score": "f8", "bbox": "4f8"}


def _convert(rows: Entries, with_boxes: bool, masks: bool) -> DetectionColumns:
    """Columns of some entries; TypeError, KeyError, .. when one is not what it should be."""
    if isinstance(rows, dict):
        return DetectionColumns(*(rows[key] for key in FIELDS))
    image, category = (_column([r[key] for r in rows], np.int64, int) for key in ("image_id", "category_id"))
    scores = _column([r["score"] for r in rows], np.float64, int, float)
    rles = None
    if masks:
        found = [r["segmentation"] for r in rows]
        if not all(map(_is_rle, found)):
            raise TypeError
        rles = Rles(Packed(r["counts"].encode() for r in found),
                    np.array([r["size"] for r in found], dtype=np.int32).reshape(-1, 2))
    if not with_boxes:
        return DetectionColumns(image, category, scores, np.zeros((len(rows), 4)), None, rles)
    boxes = [r["bbox"] for r in rows]
    if not set(map(type, boxes)) <= {list} or not set(map(len, boxes)) <= {4}:
        raise TypeError
    flat = _column(list(itertools.chain.from_iterable(boxes)), np.float64, int, float)
    return DetectionColumns(image, category, scores, flat.reshape(-1, 4), None, rles)


def _wrong_field(row: object, with_boxes: bool, masks: bool) -> str | None:
    """What is wrong with an entry, None where nothing is: the first field that is not what it should be."""
    if not isinstance(row, dict):
        return f"{row!r:.60}, expected an object"
    fields = [("image_id", (int,), "a whole number", 1 << 63), ("category_id", (int,), "a whole number", 1 << 63),
              ("score", (int, float), "a number", LARGEST)]
    for key, kinds, expected, limit in fields:
        if key not in row:
            return f"without {key}, expected {expected}"
        if not _number(row[key], *kinds):
            return f"wrong: {key} is {row[key]!r:.60}, expected {expected}"
        if type(row[key]) is int and abs(row[key]) >= limit:
            return f"wrong: {key} is too large"
    box = row.get("bbox")
    if with_boxes and not (type(box) is list and len(box) == 4
                           and all(_number(v, int, float) and abs(v) < LARGEST for v in box)):
        return (f"wrong: bbox is {box!r:.60}, expected [x, y, w, h]" if "bbox" in row
                else "without bbox, expected [x, y, w, h]")
    if masks and not _is_rle(row.get("segmentation")):
        mask = row.get("segmentation")
        return f"wrong: segmentation is {mask!r:.60}, expected {{size, counts}} in COCO's compressed form"
    return None


def _read_json(path: Path, masks: bool) -> DetectionColumns:
    parts: list[DetectionColumns] = []
    done = 0
    try:
        first, = next(read_list(path, "detection"))[:1] or [None]        # decides for all [E9]
        with_boxes = not isinstance(first, dict) or "bbox" in first or "segmentation" not in first
        for rows in read_list(path, "detection", FIELDS if with_boxes and not masks else None):
            try:
                parts.append(_convert(rows, with_boxes, masks or not with_boxes))
            except WRONG:
                said = ((i, _wrong_field(row, with_boxes, masks or not with_boxes)) for i, row in enumerate(rows))
                bad, what = next(((i, what) for i, what in said if what), (0, "not what it should be"))
                raise InputError(f"{path}: detection {done + bad} is {what}") from None
            done += len(parts[-1])
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error})") from None
    columns = DetectionColumns.join(parts)
    if masks or not with_boxes:
        columns.masks = _checked(path, columns.masks or Rles.of([]))
        if not with_boxes:
            columns.areas, columns.boxes = columns.masks.areas_and_boxes()
    return columns


# --- writing ---------------------------------------------------------------------------------------------------------

def with_ids(found: DetectionColumns, category_ids: np.ndarray) -> DetectionColumns:
    """Categories as ids of the annotation file; one that the file lacks has no id there, and goes."""
    known = np.flatnonzero(category_ids[found.category] >= 0)
    found = found.take(known)
    return replace(found, category=category_ids[found.category])


def write_detections(folder: Path, found: DetectionColumns) -> None:
    """detections.npz (columns, exact) and detections.json (COCO's results format, boxes to 0.01 pixel); image and
    category are ids."""
    columns = {"image_id": found.image, "category_id": found.category, "score": found.scores, "bbox": found.boxes}
    if found.masks is not None:
        columns |= {"rle_counts": found.masks.counts.data, "rle_offsets": found.masks.counts.offsets,
                    "rle_size": found.masks.sizes}
    np.savez(folder / "detections.npz", **columns)
    with open(folder / "detections.json", "w") as file:                  # some rows at a time: there may be ten million
        for first in range(0, max(len(found), 1), 10000):
            some = slice(first, min(first + 10000, len(found)))
            rows = [{"image_id": image, "category_id": category, "bbox": [round(v, 2) for v in box], "score": score}
                    for image, category, score, box in zip(*(
                        column[some].tolist() for column in (found.image, found.category, found.scores, found.boxes)))]
            for number, row in enumerate(rows if found.masks is not None else [], start=first):
                row["segmentation"] = {"size": found.masks[number]["size"],
                                       "counts": found.masks[number]["counts"].decode()}
            file.write(("[" if first == 0 else ", ") + json.dumps(rows)[1:-1])
        file.write("]")


# --- against the ground truth -----------------------------------------------------------------------------------------

def locate(columns: DetectionColumns, gt: GroundTruth, keep_unknown: bool = False) -> DetectionColumns:
    """The same with positions of images and of categories in gt in place of ids.

    Detections of unknown categories are dropped [E2], or kept as -1, and noted. InputError: an unknown image, or no
    known category.
    """
    image = index_of(columns.image, gt.image_ids).astype(np.int32, copy=False)
    if line := unlisted(image < 0, columns.image, "detections", "on images"):
        position = int((image < 0).argmax())
        raise InputError(f"{line}: detection {position} is on image {columns.image[position]}, which is not in "
                         f"{gt.path}")
    order = np.argsort(gt.category_ids, kind="stable")
    place = index_of(columns.category, gt.category_ids[order])
    known = place >= 0
    if line := unlisted(~known, columns.category, "detections", "of categories"):
        if not known.any():
            raise InputError(f"{line}; {gt.path} lists {len(order)}, the first being "
                             f"{gt.category_ids[order[0]] if len(order) else 'none'}")
        note(line)
    category = np.append(order, -1).astype(np.int32)[place]
    located = replace(columns, image=image, category=category)
    return located if keep_unknown or known.all() else located.take(np.flatnonzero(known))

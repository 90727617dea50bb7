"""The three lists of a COCO-format JSON as columns: types are checked where they enter, with the place in the file."""
from pathlib import Path

import numpy as np

from s21k.core.errors import InputError
from s21k.core.masks import Outline, PackedOutlines, parse_outline
from s21k.core.packed import Packed
from s21k.files.json_pieces import read_object


class Part:
    """One list of the file, as columns: its entries come some at a time, `first` of them have come before."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name, self.first = path, name, 0
        self.columns: dict[str, list] = {}

    def fail(self, position: int, what: str) -> InputError:
        return InputError(f"{self.path}: {self.name}[{self.first + position}] {what}")

    def check_objects(self, rows: list) -> None:
        """InputError: an entry is no object."""
        for position, row in enumerate(rows):
            if type(row) is not dict:
                raise self.fail(position, f"is {row!r:.40}, expected an object")

    def values(self, key: str, rows: list[dict], allowed: tuple[type, ...], default: object = None) -> list:
        """rows[i][key] of every row. InputError names the first whose type is not allowed; bool is not taken for int.
        The first of the allowed types is the one that the message expects."""
        values = [row.get(key, default) for row in rows]
        if not set(map(type, values)) <= set(allowed):
            bad = next(i for i, value in enumerate(values) if type(value) not in allowed)
            found = f"has {key} {values[bad]!r:.40}" if key in rows[bad] else f"has no {key}"
            raise self.fail(bad, f"{found}, expected {allowed[0].__name__}")
        return values

    def _array(self, values: list, dtype: type, what: str) -> np.ndarray:
        try:
            return np.array(values, dtype=dtype)
        except OverflowError:
            raise InputError(f"{self.path}: {self.name}: {what} is too large") from None

    def numbers(self, key: str, rows: list[dict], allowed: tuple[type, ...] = (int,), dtype: type = np.int64,
                default: object = None) -> None:
        """A column of numbers."""
        part = self._array(self.values(key, rows, allowed, default), dtype, f"a value of {key}")
        self.columns.setdefault(key, []).append(part)

    def texts(self, key: str, rows: list[dict], allowed: tuple[type, ...] = (str,)) -> None:
        """A column of strings."""
        self.columns.setdefault(key, []).extend(self.values(key, rows, allowed))

    def boxes(self, rows: list[dict]) -> None:
        found = [row.get("bbox") for row in rows]
        good = [type(box) is list and len(box) == 4 and {*map(type, box)} <= {int, float} for box in found]
        if not all(good):
            bad = good.index(False)
            raise self.fail(bad, f"has bbox {found[bad]!r:.60}, expected [x, y, w, h]")
        boxes = self._array(found, np.float64, "a bbox").reshape(-1, 4)
        if not np.isfinite(boxes).all():
            raise self.fail(int(np.argwhere(~np.isfinite(boxes))[0][0]), "has a bbox that is not finite")
        self.columns.setdefault("bbox", []).append(boxes)

    def outlines(self, rows: list[dict]) -> None:
        outlines: list[Outline] = []
        for row in rows:
            try:
                outlines.append(parse_outline(row.get("segmentation")))
            except (ValueError, OverflowError) as error:
                raise self.fail(len(outlines), f"has {error}") from None
        self.columns.setdefault("segmentation", []).append(PackedOutlines(outlines))

    def listed(self, rows: list[dict], key: str) -> None:
        """(n, 2): position of the row, and an id in its list `key`."""
        pairs = []
        for position, row in enumerate(rows):
            listed = row.get(key, [])
            if type(listed) is not list or not {*map(type, listed)} <= {int}:
                raise self.fail(position, f"has {key} {listed!r:.40}, expected a list of category ids")
            pairs += [(self.first + position, i) for i in listed]
        self.columns.setdefault(key, []).append(self._array(pairs, np.int64, f"an id in {key}").reshape(-1, 2))

    def array(self, key: str, width: tuple[int, ...] = ()) -> np.ndarray:
        """The whole column; it is given up here."""
        return np.concatenate([np.zeros((0, *width), dtype=np.int64), *self.columns.pop(key, [])])


def _file_name(row: dict) -> str | None:
    """file_name, else the end of LVIS's coco_url, "train2017/000000391895.jpg": its val images lie in two folders."""
    name, url = row.get("file_name"), row.get("coco_url")
    if isinstance(name, str) and name:
        return name
    return "/".join(url.rsplit("/", 2)[-2:]) if isinstance(url, str) and url else None


def _add_images(part: Part, rows: list[dict], masks: bool, files: bool) -> None:
    for key in ("height", "width"):
        if not (files or masks):
            rows = [row | {key: row[key] if type(row.get(key)) is int and 0 < row[key] < 1 << 31 else 0}
                    for row in rows]
        part.numbers(key, rows)
    names = [_file_name(row) for row in rows]
    if files and None in names:
        raise part.fail(names.index(None), "has no file_name")
    part.columns.setdefault("file_name", []).append(Packed((n or "").encode(errors="replace") for n in names))


def read_first_images(path: Path, count: int) -> Part:
    """file_name, height and width of at least `count` images at the start of the file's list, if it has as many."""
    part = Part(path, "images")
    for _, rows in read_object(path, ("images",)):
        rows = rows[:count]
        part.check_objects(rows)
        _add_images(part, rows, masks=False, files=True)
        part.first += len(rows)
        if part.first >= count:
            break
    return part


def _add_categories(part: Part, rows: list[dict]) -> None:
    part.texts("name", rows)
    for key in ("wnid", "frequency", "synset"):
        part.texts(key, rows, (str, type(None)))


def read_categories(path: Path) -> Part:
    """The categories alone; the rest is passed over."""
    part = Part(path, "categories")
    for _, rows in read_object(path, ("categories",)):
        part.check_objects(rows)
        _add_categories(part, rows)
        part.first += len(rows)
    return part


def read_parts(path: Path, masks: bool, files: bool) -> dict[str, Part]:
    """The three lists of the file as columns.
    files: every image must have a file_name and a size; else "" and 0 where they are missing. Masks need sizes."""
    parts = {name: Part(path, name) for name in ("images", "annotations", "categories")}
    for name, rows in read_object(path, tuple(parts)):
        part = parts[name]
        part.check_objects(rows)
        part.numbers("id", rows)
        if name == "images":
            _add_images(part, rows, masks, files)
            for key in ("neg_category_ids", "not_exhaustive_category_ids"):
                part.listed(rows, key)
        elif name == "categories":
            _add_categories(part, rows)
        else:
            for key in ("image_id", "category_id"):
                part.numbers(key, rows)
            part.boxes(rows)
            part.numbers("area", rows, (float, int), np.float64, default=float("nan"))
            for key in ("iscrowd", "ignore"):
                part.numbers(key, rows, (int, bool), default=0)
            if masks:
                part.outlines(rows)
        part.first += len(rows)
    return parts

"""COCO-format JSON -> packed numpy tables: the one parser for training, scoring and preparation.

A file is read in pieces, so 6 GB of JSON need the memory of their columns only; a table can be saved as a folder of
columns that is mapped, not read, when it is used.

I images (ascending id)    A annotations (file order)    C categories (ascending id)
"""
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from s21k.errors import InputError
from s21k.json_pieces import read_object
from s21k.masks import Outline, PackedOutlines, parse_outline
from s21k.packed import Packed, PackedStrings
from s21k.tables import check_columns, is_table, load_table, save_table

KIND = "annotations"
INF = float("inf")


@dataclass
class AnnotationTable:
    """One annotation file. Boxes are COCO's [x, y, w, h] in float64, as written (E14).

    image_ids, heights, widths (I,); file_names I strings; category_ids (C,), category_names,
    category_wnids, frequencies (LVIS: r, c, f), synsets (LVIS: "dog.n.01") C each; then a row an annotation: image_index,
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
    synsets: list[str | None]
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

    def with_images(self, kept: np.ndarray) -> "AnnotationTable":
        """The images of kept (I,) bool, and what is said of them."""
        position = np.cumsum(kept) - 1
        table = self.take(np.flatnonzero(kept[self.image_index]))

        def moved(pairs: np.ndarray) -> np.ndarray:
            pairs = pairs[kept[pairs[:, 0]]]
            return np.stack([position[pairs[:, 0]], pairs[:, 1]], axis=1)

        rows = np.flatnonzero(kept)
        return replace(table, image_ids=self.image_ids[rows], heights=self.heights[rows], widths=self.widths[rows], file_names=self.file_names.take(rows),
                       image_index=position[table.image_index].astype(np.int32), negative=moved(self.negative), not_exhaustive=moved(self.not_exhaustive))

    def with_categories(self, kept: np.ndarray, wnids: list[str | None] | None = None) -> "AnnotationTable":
        """The categories of kept (C,) bool, and the annotations of these; all images stay. wnids: C of them, in place of the file's."""
        position = np.cumsum(kept) - 1
        table = self.take(np.flatnonzero(kept[self.category_index]))

        def moved(pairs: np.ndarray) -> np.ndarray:
            pairs = pairs[kept[pairs[:, 1]]]
            return np.stack([pairs[:, 0], position[pairs[:, 1]]], axis=1)

        rows = np.flatnonzero(kept).tolist()
        names, own, frequencies, synsets = ([column[i] for i in rows] for column in (self.category_names, wnids or self.category_wnids, self.frequencies, self.synsets))
        return replace(table, category_ids=self.category_ids[rows], category_names=names, category_wnids=own, frequencies=frequencies, synsets=synsets,
                       category_index=position[table.category_index].astype(np.int32), negative=moved(self.negative), not_exhaustive=moved(self.not_exhaustive))

    def take(self, rows: np.ndarray) -> "AnnotationTable":
        """These annotations, in this order; images and categories stay."""
        return replace(self, image_index=self.image_index[rows], category_index=self.category_index[rows], boxes=self.boxes[rows], areas=self.areas[rows],
                       crowd=self.crowd[rows], ignore=self.ignore[rows], masks=None if self.masks is None else self.masks.take(rows))

    def by_image(self) -> "AnnotationTable":
        """The annotations image after image, those of one image in their order; itself where they are so already."""
        if (self.image_index[1:] >= self.image_index[:-1]).all():
            return self
        return self.take(np.argsort(self.image_index, kind="stable"))

    def save(self, folder: Path) -> None:
        """Write a folder that load_annotations takes in place of the JSON, its annotations image after image."""
        table = self.by_image()
        names = table.file_names.packed
        masks = {} if table.masks is None else {f"mask_{name}": column for name, column in table.masks.columns().items()}
        own = {name: getattr(table, name) for name in COLUMNS}
        save_table(folder, KIND, own | masks | {"file_names": names.data, "file_name_offsets": names.offsets},
                   {name: getattr(self, name) for name in ("category_names", "category_wnids", "frequencies", "synsets")})


COLUMNS = ("image_ids", "heights", "widths", "category_ids", "image_index", "category_index", "boxes", "areas", "crowd", "ignore", "negative", "not_exhaustive")


def _load(folder: Path, masks: bool) -> AnnotationTable:
    """A saved table, its columns mapped."""
    columns, about = load_table(folder, KIND)
    i, c, a, n, names = (len(columns.get(name, ())) for name in ("image_ids", "category_ids", "image_index", "negative", "file_names"))
    e, p, m = (len(columns.get(name, ())) for name in ("not_exhaustive", "mask_part_offsets", "mask_counts"))
    corners = len(columns.get("mask_corners", ()))
    whole = {"image_ids": ("i", (i,), None, None), "heights": ("i", (i,), 1, INF), "widths": ("i", (i,), 1, INF), "category_ids": ("i", (c,), None, None),
             "image_index": ("i", (a,), 0, i - 1), "category_index": ("i", (a,), 0, c - 1), "boxes": ("f", (a, 4), -1e300, 1e300), "areas": ("f", (a,), None, None),
             "crowd": ("b", (a,), None, None), "ignore": ("b", (a,), None, None), "negative": ("i", (n, 2), 0, max(i, c) - 1), "not_exhaustive": ("i", (e, 2), 0, max(i, c) - 1),
             "file_names": ("u", (names,), None, None), "file_name_offsets": ("i", (i + 1,), 0, names)}
    rising = {"file_name_offsets": names}
    if masks:
        if "mask_sizes" not in columns:
            raise InputError(f"{folder}: was saved without segmentations, expected a table made with them")
        whole |= {"mask_corners": ("f", (corners,), -1e6, 1e6), "mask_part_offsets": ("i", (p,), 0, corners), "mask_object_offsets": ("i", (a + 1,), 0, p - 1),
                  "mask_counts": ("u", (m,), None, None), "mask_count_offsets": ("i", (a + 1,), 0, m), "mask_sizes": ("i", (a, 2), 1, INF)}
        rising |= {"mask_part_offsets": corners, "mask_object_offsets": p - 1, "mask_count_offsets": m}
    check_columns(folder, columns, whole, rising)
    lists = [about.get(name) for name in ("category_names", "category_wnids", "frequencies", "synsets")]
    if not all(isinstance(part, list) and len(part) == c and all(isinstance(v, (str, type(None))) for v in part) for part in lists):
        raise InputError(f"{folder}: expected the names of its {c} categories")
    outlines = None
    if masks:
        outlines = PackedOutlines.of_columns({name.removeprefix("mask_"): column for name, column in columns.items() if name.startswith("mask_")})
        if outlines.place(np.stack([columns["heights"], columns["widths"]], axis=1)[columns["image_index"]]).any():
            raise InputError(f"{folder}: holds run lengths that do not cover their pictures")
    own = {name: columns[name] for name in COLUMNS}
    return AnnotationTable(path=str(folder), file_names=PackedStrings(packed=Packed.of_arrays(columns["file_names"], columns["file_name_offsets"])), masks=outlines,
                           category_names=lists[0], category_wnids=lists[1], frequencies=lists[2], synsets=lists[3], **own)


# --- JSON --------------------------------------------------------------------------------------------------------------

def _index_of(ids: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Positions of wanted in the ascending ids, -1 where absent."""
    if len(ids) == 0:
        return np.full(len(wanted), -1, dtype=np.int64)
    at = np.searchsorted(ids, wanted).clip(max=len(ids) - 1)
    return np.where(ids[at] == wanted, at, -1)


class _Part:
    """One list of the file, as columns: its entries come some at a time, `first` of them have come before."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name, self.first = path, name, 0
        self.columns: dict[str, list] = {}

    def fail(self, position: int, what: str) -> InputError:
        return InputError(f"{self.path}: {self.name}[{self.first + position}] {what}")

    def add(self, key: str, rows: list[dict], kinds: tuple[type, ...], default: object = None) -> None:
        """rows[i][key] of every row; InputError names the first that is none of the kinds, exactly (true is no number)."""
        values = [row.get(key, default) for row in rows]
        if not set(map(type, values)) <= set(kinds):
            bad = next(i for i, value in enumerate(values) if type(value) not in kinds)
            raise self.fail(bad, f"has {key} {values[bad]!r:.40}, expected {kinds[0].__name__}")
        if kinds[0] is str:
            self.columns.setdefault(key, []).extend(values)
            return
        try:
            self.columns.setdefault(key, []).append(np.array(values, dtype=np.float64 if kinds[0] is float else np.int64))
        except OverflowError:
            raise InputError(f"{self.path}: {self.name}: a value of {key} is too large") from None

    def boxes(self, rows: list[dict]) -> None:
        found = [row.get("bbox") for row in rows]
        good = [type(box) is list and len(box) == 4 and {*map(type, box)} <= {int, float} for box in found]
        if not all(good):
            bad = good.index(False)
            raise self.fail(bad, f"has bbox {found[bad]!r:.60}, expected [x, y, w, h]")
        try:
            boxes = np.array(found, dtype=np.float64).reshape(-1, 4)
        except OverflowError:
            raise InputError(f"{self.path}: {self.name}: a bbox is too large") from None
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
        try:
            self.columns.setdefault(key, []).append(np.array(pairs, dtype=np.int64).reshape(-1, 2))
        except OverflowError:
            raise InputError(f"{self.path}: {self.name}: an id in {key} is too large") from None

    def array(self, key: str, width: tuple[int, ...] = ()) -> np.ndarray:
        """The whole column; it is given up here."""
        return np.concatenate([np.zeros((0, *width), dtype=np.int64), *self.columns.pop(key, [])])


def _file_name(row: dict) -> str | None:
    """file_name, else the end of LVIS's coco_url: "train2017/000000391895.jpg", for its val images lie in both of COCO's folders."""
    name, url = row.get("file_name"), row.get("coco_url")
    return name if isinstance(name, str) and name else "/".join(url.rsplit("/", 2)[-2:]) if isinstance(url, str) and url else None


def _read(path: Path, masks: bool) -> dict[str, _Part]:
    """The three lists of the file as columns."""
    parts = {name: _Part(path, name) for name in ("images", "annotations", "categories")}
    for name, rows in read_object(path, tuple(parts)):
        part = parts[name]
        for position, row in enumerate(rows):
            if type(row) is not dict:
                raise part.fail(position, f"is {row!r:.40}, expected an object")
        part.add("id", rows, (int,))
        if name == "images":
            for key in ("height", "width"):
                part.add(key, rows, (int,))
            names = [_file_name(row) for row in rows]
            if None in names:
                raise part.fail(names.index(None), "has no file_name")
            part.columns.setdefault("file_name", []).append(Packed(n.encode(errors="replace") for n in names))
            for key in ("neg_category_ids", "not_exhaustive_category_ids"):
                part.listed(rows, key)
        elif name == "categories":
            part.add("name", rows, (str,))
            for key in ("wnid", "frequency", "synset"):
                part.add(key, rows, (str, type(None)))
        else:
            for key in ("image_id", "category_id"):
                part.add(key, rows, (int,))
            part.boxes(rows)
            part.add("area", rows, (float, int), float("nan"))
            for key in ("iscrowd", "ignore"):
                part.add(key, rows, (int, bool), 0)
            if masks:
                part.outlines(rows)
        part.first += len(rows)
    return parts


def _sorted_ids(part: _Part, ids: np.ndarray) -> np.ndarray:
    """The order of ascending ids, which must be unique (E8)."""
    order = np.argsort(ids, kind="stable")
    if (same := ids[order][1:] == ids[order][:-1]).any():
        raise InputError(f"{part.path}: {part.name}: id {ids[order][1:][same][0]} stands twice, expected unique ids")
    return order


def load_annotations(path: str | Path, masks: bool = False) -> AnnotationTable:
    """Read a COCO-format file, or a folder that AnnotationTable.save wrote.

    Annotations on images or categories that the file does not list are dropped (E3). masks: read the
    segmentations as well, which every annotation must then have (E37). InputError: not JSON, a part or a field missing, of the wrong type or not finite, or an id that stands twice (E8).
    """
    path = Path(path)
    if is_table(path):
        return _load(path, masks)
    try:
        parts = _read(path, masks)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error})") from None
    images, annotations, categories = parts["images"], parts["annotations"], parts["categories"]
    image_ids, category_ids = images.array("id"), categories.array("id")
    by_image, by_category = _sorted_ids(images, image_ids), _sorted_ids(categories, category_ids)
    heights, widths = images.array("height")[by_image], images.array("width")[by_image]
    image_ids, category_ids = image_ids[by_image], category_ids[by_category]
    if (small := (heights < 1) | (widths < 1) | (heights >= 1 << 31) | (widths >= 1 << 31)).any():
        raise InputError(f"{path}: image {image_ids[small][0]} has a side below 1 pixel, or absurd")
    rank = np.argsort(by_image)                                          # file position -> position by id

    def pairs(key: str) -> np.ndarray:
        listed = images.array(key, (2,))
        category = _index_of(category_ids, listed[:, 1])
        return np.stack([rank[listed[:, 0]], category], axis=1)[category >= 0]

    _sorted_ids(annotations, annotations.array("id"))
    image_index, category_index = _index_of(image_ids, annotations.array("image_id")), _index_of(category_ids, annotations.array("category_id"))
    listed = (image_index >= 0) & (category_index >= 0)
    rows = slice(None) if listed.all() else np.flatnonzero(listed)       # all: views, no copies
    image_index, category_index = image_index[rows].astype(np.int32), category_index[rows].astype(np.int32)
    outlines = PackedOutlines.join(annotations.columns.pop("segmentation", [])) if masks else None
    if outlines is not None:
        outlines = outlines if listed.all() else outlines.take(rows)
        bad = outlines.place(np.stack([heights, widths], axis=1)[image_index])
        if bad.any():
            raise InputError(f"{path}: annotations[{np.flatnonzero(listed)[bad][0]}] has run lengths that do not cover its picture's pixels")
    boxes, areas = annotations.array("bbox", (4,))[rows], annotations.array("area").astype(np.float64)[rows]
    crowd, ignore = annotations.array("iscrowd")[rows] != 0, annotations.array("ignore")[rows] != 0
    in_order = [[categories.columns.get(key, [])[i] for i in by_category] for key in ("name", "wnid", "frequency", "synset")]
    names = Packed.join(images.columns.pop("file_name", []))
    return AnnotationTable(str(path), image_ids, heights.astype(np.int32), widths.astype(np.int32), PackedStrings(packed=names.take(by_image)), category_ids, *in_order,
                           image_index, category_index, boxes, areas, crowd, ignore, outlines,
                           pairs("neg_category_ids"), pairs("not_exhaustive_category_ids"))

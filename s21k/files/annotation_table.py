"""The columns of one annotation file, and how they are saved and mapped again."""
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from s21k.core.errors import InputError
from s21k.core.masks import PackedOutlines
from s21k.core.packed import Packed, PackedStrings
from s21k.files.tables import ColumnSpec, check_columns, load_table, save_table

KIND = "annotations"
INF = float("inf")
# The table's columns by what has a row in them; categories have lists, too.
IMAGES = ("image_ids", "heights", "widths", "file_names")
CATEGORIES = ("category_ids", "category_names", "category_wnids", "frequencies", "synsets")
ANNOTATIONS = ("image_index", "category_index", "boxes", "areas", "crowd", "ignore", "masks")
PAIRS = ("negative", "not_exhaustive")              # of an image and a category
ARRAYS = (*IMAGES[:-1], CATEGORIES[0], *ANNOTATIONS[:-1], *PAIRS)


@dataclass
class AnnotationTable:
    """One annotation file. Boxes are COCO's [x, y, w, h] in float64, as written [E14].

    image_ids, heights, widths (I,); file_names I strings; category_ids (C,), category_names, category_wnids,
    frequencies (LVIS: r, c, f), synsets (LVIS: "dog.n.01") C each; then a row an annotation: image_index,
    category_index into the above, boxes (A, 4), areas (A,) (nan where the file has none: E7), crowd (A,) and ignore
    (A,) bool [E6]; masks: A outlines, None when not asked for. LVIS only: negative and not_exhaustive (n, 2), pairs of
    image and category positions that were checked to be absent, or not boxed completely [E30, E31]. written: how many
    annotations the file has; unlisted: a line for each kind of those that were dropped as not listed [E3].
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
    written: int
    unlisted: list[str]

    def category_keys(self) -> list[str]:
        """What identifies each category: its wnid where the file has one, else its name."""
        return [wnid or name for wnid, name in zip(self.category_wnids, self.category_names)]

    def image(self, row: int) -> tuple[str, tuple[int, int]]:
        """The name of an image's file, and its (h, w)."""
        return self.file_names[row], (int(self.heights[row]), int(self.widths[row]))

    def _pick(self, columns: tuple[str, ...], rows: np.ndarray) -> "AnnotationTable":
        """These rows of some columns; the others stay."""
        picked: dict[str, object] = {}
        for name in columns:
            column = getattr(self, name)
            if isinstance(column, np.ndarray):
                picked[name] = column[rows]
            elif isinstance(column, list):
                picked[name] = [column[row] for row in rows.tolist()]
            elif column is not None:
                picked[name] = column.take(rows)
        return replace(self, **picked)

    def _keep(self, kept: np.ndarray, columns: tuple[str, ...], index: str, side: int) -> "AnnotationTable":
        """The images (side 0 of the pairs) or the categories (1) of kept, and what is said of them."""
        position = np.cumsum(kept) - 1
        table = self.take(np.flatnonzero(kept[getattr(self, index)]))._pick(columns, np.flatnonzero(kept))
        moved = {index: position[getattr(table, index)].astype(np.int32)}
        for name in PAIRS:
            pairs = getattr(self, name)
            moved[name] = pairs[kept[pairs[:, side]]]
            moved[name][:, side] = position[moved[name][:, side]]
        return replace(table, **moved)

    def with_images(self, kept: np.ndarray) -> "AnnotationTable":
        """The images of kept (I,) bool, and what is said of them."""
        return self._keep(kept, IMAGES, "image_index", 0)

    def with_categories(self, kept: np.ndarray, wnids: list[str | None] | None = None) -> "AnnotationTable":
        """The categories of kept (C,) bool and their annotations; all images stay. wnids: C, in place of the file's."""
        table = replace(self, category_wnids=wnids or self.category_wnids)
        return table._keep(kept, CATEGORIES, "category_index", 1)

    def take(self, rows: np.ndarray) -> "AnnotationTable":
        """These annotations, in this order; images and categories stay."""
        return self._pick(ANNOTATIONS, rows)

    def by_image(self) -> "AnnotationTable":
        """The annotations image after image, those of one image in their order; itself where they are so already."""
        if (self.image_index[1:] >= self.image_index[:-1]).all():
            return self
        return self.take(np.argsort(self.image_index, kind="stable"))

    def save(self, folder: Path) -> None:
        """Write a folder that load_annotations takes in place of the JSON, its annotations image after image."""
        table = self.by_image()
        names = table.file_names.packed
        masks = ({} if table.masks is None
                 else {f"mask_{name}": column for name, column in table.masks.columns().items()})
        own = {name: getattr(table, name) for name in ARRAYS}
        save_table(folder, KIND, own | masks | {"file_names": names.data, "file_name_offsets": names.offsets},
                   {name: getattr(self, name) for name in (*CATEGORIES[1:], "written", "unlisted")})


def _column_specs(columns: dict[str, np.ndarray]) -> dict[str, ColumnSpec]:
    """What each column of a table must be."""
    def length(name: str) -> int:
        return len(columns.get(name, ()))

    images, categories, annotations = length("image_ids"), length("category_ids"), length("image_index")
    letters = length("file_names")
    return {"image_ids": ColumnSpec("i", (images,)), "heights": ColumnSpec("i", (images,), 1, INF),
            "widths": ColumnSpec("i", (images,), 1, INF), "category_ids": ColumnSpec("i", (categories,)),
            "image_index": ColumnSpec("i", (annotations,), 0, images - 1),
            "category_index": ColumnSpec("i", (annotations,), 0, categories - 1),
            "boxes": ColumnSpec("f", (annotations, 4), -1e300, 1e300), "areas": ColumnSpec("f", (annotations,)),
            "crowd": ColumnSpec("b", (annotations,)), "ignore": ColumnSpec("b", (annotations,)),
            "negative": ColumnSpec("i", (length("negative"), 2), 0, INF),
            "not_exhaustive": ColumnSpec("i", (length("not_exhaustive"), 2), 0, INF),
            "file_names": ColumnSpec("u", (letters,)), "file_name_offsets": ColumnSpec("i", (images + 1,), 0, letters)}


def _mask_specs(columns: dict[str, np.ndarray]) -> dict[str, ColumnSpec]:
    """The same of the columns of masks."""
    annotations, corners, parts, counts = (len(columns.get(name, ())) for name in (
        "image_index", "mask_corners", "mask_part_offsets", "mask_counts"))
    return {"mask_corners": ColumnSpec("f", (corners,), -1e6, 1e6),
            "mask_part_offsets": ColumnSpec("i", (parts,), 0, corners),
            "mask_object_offsets": ColumnSpec("i", (annotations + 1,), 0, parts - 1),
            "mask_counts": ColumnSpec("u", (counts,)),
            "mask_count_offsets": ColumnSpec("i", (annotations + 1,), 0, counts),
            "mask_sizes": ColumnSpec("i", (annotations, 2), 1, INF)}


def load_saved(folder: Path, masks: bool) -> AnnotationTable:
    """A saved table, its columns mapped."""
    columns, about = load_table(folder, KIND)
    if masks and "mask_sizes" not in columns:
        raise InputError(f"{folder}: was saved without segmentations, expected a table made with them")
    check_columns(folder, columns, _column_specs(columns) | (_mask_specs(columns) if masks else {}))
    num_categories, num_annotations = len(columns["category_ids"]), len(columns["image_index"])
    for name in PAIRS:
        if (columns[name] >= [len(columns["image_ids"]), num_categories]).any():
            raise InputError(f"{folder}: column {name} names an image or a category that is not there")
    lists = {name: about.get(name) for name in CATEGORIES[1:]}
    if not all(isinstance(part, list) and len(part) == num_categories
               and all(isinstance(v, (str, type(None))) for v in part) for part in lists.values()):
        raise InputError(f"{folder}: expected the names of its {num_categories} categories")
    written, unlisted_lines = about.get("written", num_annotations), about.get("unlisted", [])
    if (type(written) is not int or not isinstance(unlisted_lines, list)
        or not all(isinstance(line, str) for line in unlisted_lines)):
        raise InputError(f"{folder}: expected a number of annotations, and lines about those left out")
    outlines = None
    if masks:
        outlines = PackedOutlines.of_columns(
            {name.removeprefix("mask_"): column for name, column in columns.items() if name.startswith("mask_")})
        if outlines.place(np.stack([columns["heights"], columns["widths"]], axis=1)[columns["image_index"]]).any():
            raise InputError(f"{folder}: holds run lengths that do not cover their images")
    names = PackedStrings(packed=Packed.of_arrays(columns["file_names"], columns["file_name_offsets"]))
    return AnnotationTable(path=str(folder), file_names=names, masks=outlines, written=written, unlisted=unlisted_lines,
                           **lists, **{name: columns[name] for name in ARRAYS})

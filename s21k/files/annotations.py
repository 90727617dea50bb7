"""COCO-format JSON -> packed numpy tables: the one parser for training, scoring and preparation.

A file is read in pieces, so 6 GB of JSON need the memory of their columns only; a table can be saved as a folder of
columns that is mapped, not read, when it is used.

I images (ascending id)    A annotations (file order)    C categories (ascending id)
"""
from pathlib import Path

import numpy as np

from s21k.core.errors import InputError, refused, unlisted
from s21k.core.masks import PackedOutlines
from s21k.core.packed import Packed, PackedStrings
from s21k.files.annotation_parts import Part, read_categories, read_first_images, read_parts
from s21k.files.annotation_table import AnnotationTable, load_saved
from s21k.files.tables import is_table


def _index_of(ids: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Positions of wanted in the ascending ids, -1 where absent."""
    if len(ids) == 0:
        return np.full(len(wanted), -1, dtype=np.int64)
    at = np.searchsorted(ids, wanted).clip(max=len(ids) - 1)
    return np.where(ids[at] == wanted, at, -1)


def sort_by_id(part: Part, ids: np.ndarray) -> np.ndarray:
    """The order of ascending ids, which must be unique [E8]."""
    order = np.argsort(ids, kind="stable")
    if (same := ids[order][1:] == ids[order][:-1]).any():
        raise InputError(f"{part.path}: {part.name}: id {ids[order][1:][same][0]} appears twice, expected unique ids")
    return order


def _unlisted(image_ids: np.ndarray, image_index: np.ndarray, category_ids: np.ndarray, category_index: np.ndarray,
              known: np.ndarray) -> list[str]:
    """A line for each way in which annotations are of what the file does not list. known (C,): its category ids."""
    lines = [unlisted(image_index < 0, image_ids, "annotations", "on images", "the file does"),
             unlisted(category_index < 0, category_ids, "annotations", "of categories", "the file does")]
    if lines[1] and len(known) and (category_ids[category_index < 0] == known[0] - 1).all():
        lines[1] += f": are its categories counted from {known[0] - 1} there, and from {known[0]} in the list?"
    return [line for line in lines if line]


def _check_sizes(path: Path, image_ids: np.ndarray, heights: np.ndarray, widths: np.ndarray, least: int) -> None:
    bad = (heights < least) | (widths < least) | (heights >= 1 << 31) | (widths >= 1 << 31)
    if bad.any():
        raise InputError(f"{path}: image {image_ids[bad][0]} is {widths[bad][0]} x {heights[bad][0]} pixels, "
                         f"expected sides of at least {least}")


def load_annotations(path: str | Path, masks: bool = False, files: bool = True) -> AnnotationTable:
    """Read a COCO-format file, or a folder that AnnotationTable.save wrote.

    Annotations on images or categories that the file does not list are dropped [E3], and counted in `unlisted`. masks:
    read the segmentations as well, which every annotation must then have [E37]. files: the images are to be read, so
    that each must have a file_name and a size; else "" and 0 stand where they are missing. InputError: not JSON, a
    part or a field missing, of the wrong type or not finite, or an id that appears twice [E8].
    """
    path = Path(path)
    if is_table(path):
        return load_saved(path, masks)
    with refused(f"{path}: cannot be read as JSON"):
        parts = read_parts(path, masks, files)
    images, annotations, categories = parts["images"], parts["annotations"], parts["categories"]
    image_ids, category_ids = images.array("id"), categories.array("id")
    by_image, by_category = sort_by_id(images, image_ids), sort_by_id(categories, category_ids)
    image_ids, category_ids = image_ids[by_image], category_ids[by_category]
    heights, widths = images.array("height")[by_image], images.array("width")[by_image]
    _check_sizes(path, image_ids, heights, widths, least=1 if files or masks else 0)
    position_by_id = np.argsort(by_image)                                # of the file's images, in its order

    def pairs(key: str) -> np.ndarray:
        """(n, 2): positions of an image and of a category in its list `key`; unknown categories are dropped."""
        image, category = images.array(key, (2,)).T
        position = _index_of(category_ids, category)
        return np.stack([position_by_id[image], position], axis=1)[position >= 0]

    sort_by_id(annotations, annotations.array("id"))                     # they must be unique; their order stays
    on_image, of_category = annotations.array("image_id"), annotations.array("category_id")
    image_index, category_index = _index_of(image_ids, on_image), _index_of(category_ids, of_category)
    unlisted_lines = _unlisted(on_image, image_index, of_category, category_index, category_ids)
    known = (image_index >= 0) & (category_index >= 0)
    rows = slice(None) if known.all() else np.flatnonzero(known)         # all: views, no copies
    image_index, category_index = image_index[rows].astype(np.int32), category_index[rows].astype(np.int32)
    outlines = None
    if masks:
        outlines = PackedOutlines.join(annotations.columns.pop("segmentation", []))
        outlines = outlines if known.all() else outlines.take(rows)
        bad = outlines.place(np.stack([heights, widths], axis=1)[image_index])
        if bad.any():
            raise InputError(f"{path}: annotations[{np.flatnonzero(known)[bad][0]}] has run lengths that do not cover "
                             f"its image's pixels")
    names, wnids, frequencies, synsets = ([categories.columns.get(key, [])[i] for i in by_category]
                                          for key in ("name", "wnid", "frequency", "synset"))
    file_names = Packed.join(images.columns.pop("file_name", [])).take(by_image)
    return AnnotationTable(
        path=str(path), image_ids=image_ids, heights=heights.astype(np.int32), widths=widths.astype(np.int32),
        file_names=PackedStrings(packed=file_names),
        category_ids=category_ids, category_names=names, category_wnids=wnids, frequencies=frequencies, synsets=synsets,
        image_index=image_index, category_index=category_index,
        boxes=annotations.array("bbox", (4,))[rows], areas=annotations.array("area").astype(np.float64)[rows],
        crowd=annotations.array("iscrowd")[rows] != 0, ignore=annotations.array("ignore")[rows] != 0,
        masks=outlines, negative=pairs("neg_category_ids"), not_exhaustive=pairs("not_exhaustive_category_ids"),
        written=len(on_image), unlisted=unlisted_lines)


def first_images(path: Path, count: int) -> list[tuple[str, tuple[int, int]]]:
    """(file name, (h, w)) of the first images of a file or table, in its order. A JSON is read no further than that."""
    if is_table(path):
        table = load_saved(path, masks=False)
        return [table.image(row) for row in range(min(count, len(table.image_ids)))]
    with refused(f"{path}: cannot be read as JSON"):
        images = read_first_images(path, count)
    names = Packed.join(images.columns.pop("file_name", []))
    sizes = np.stack([images.array("height"), images.array("width")], axis=1).tolist()
    return [(names[i].decode(errors="surrogateescape"), tuple(sizes[i])) for i in range(min(count, len(names)))]


def category_names(path: Path) -> tuple[list[str], list[str | None]]:
    """Names and wnids (None where it has none) of a file's or table's categories; the rest of it is not kept."""
    if is_table(path):
        table = load_saved(path, masks=False)
        return table.category_names, table.category_wnids
    with refused(f"{path}: cannot be read as JSON"):
        part = read_categories(path)
    return part.columns.get("name", []), part.columns.get("wnid", [])

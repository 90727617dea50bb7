"""Your own photos and boxes -> a config name for the commands.

    python -m s21k.prepare.own_data --photos photos/ --boxes boxes.json --images pictures/ \\
        [--val-boxes val.json --val-images val/] --out my_data.yaml

photos/ has one folder for each class. boxes.json is COCO-format, for some or all of the classes; a category of it and
a folder of the same name (in whatever Unicode form) are one. Names that differ in case, "_" or spaces only are refused:
one class would become two. Some images of each set are opened. Writes my_data.yaml and my_data.categories.json: then
`python train_stage1.py r50 my_data.yaml`, and so on. Classes with boxes are the group "base", others "novel".
"""
import argparse
from pathlib import Path

import numpy as np
import torch
import yaml

from s21k.core.categories import CategoryMap
from s21k.core.errors import InputError, note, refused, run_command
from s21k.core.names import canonical, check_no_doubles, loose
from s21k.core.options import read_options
from s21k.files.annotation_faults import check_boxes, check_category_names, cut_boxes
from s21k.files.annotation_table import AnnotationTable
from s21k.files.annotations import load_annotations
from s21k.files.archives import leaves_root
from s21k.files.image_files import check_images, class_folders, find_file, sample_rows


def make_categories(folders: list[str], boxed: list[str]) -> CategoryMap:
    """All folders, then the categories with boxes only; rows of g by the JSON's ids, of g-hat by the folders' order."""
    det_row, cls_row = ({canonical(name): row for row, name in enumerate(names)} for names in (boxed, folders))
    names = [*folders, *(name for name in boxed if canonical(name) not in cls_row)]
    keys = [canonical(name) for name in names]
    det = [det_row.get(key, -1) for key in keys]
    return CategoryMap(names, [None] * len(names), ["base" if row >= 0 else "novel" for row in det], torch.tensor(det),
                       torch.tensor([cls_row.get(key, -1) for key in keys]))


def check_spelling(folders: list[str], boxed: list[str], boxes: Path) -> None:
    """InputError: a folder and a category, neither with its like, differ in case, "_", "-" or spaces only."""
    known, there = ({canonical(name) for name in names} for names in (boxed, folders))
    categories = {loose(name): name for name in boxed if canonical(name) not in there}
    pairs = [(name, categories[loose(name)]) for name in folders
             if canonical(name) not in known and loose(name) in categories]
    if pairs:
        folder, category = pairs[0]
        raise InputError(f"{boxes}: category {category!r} and folder {folder!r} would be two classes (did you mean "
                         f"{folder!r}?); {len(pairs)} names differ in their spelling only, expected one spelling in "
                         "both")


def read_boxes(path: Path, images: Path, option: str) -> AnnotationTable:
    """A boxes file, looked at. InputError: no box is left, two categories of one name, or no image tried is good."""
    table = load_annotations(path)
    check_category_names(table)
    if not len(table.image_ids) or not len(table.category_ids):
        raise InputError(f"{path}: no images or no categories in it")
    if not table.written:
        raise InputError(f"{path}: no annotations in it, expected some boxes")
    for line in check_boxes(table, cut_boxes(table)):
        note(line)
    if not images.is_dir():
        raise InputError(f"--{option} {images}: no such folder")
    names = [table.image(row) for row in sample_rows(len(table.image_ids))]
    if outside := [name for name, _ in names if leaves_root(name)]:
        raise InputError(f"{path}: image {outside[0]!r:.80} leads out of its folder")
    check_images(f"--{option} {images}", ((find_file(images, name), size) for name, size in names))
    return table


def main(argv: list[str]) -> None:
    a = read_options(argv, "prepare.own_data", ("--photos", "--boxes", "--images", "--out"), val_boxes=Path,
                     val_images=Path)
    if not a.photos.is_dir():
        raise InputError(f"--photos {a.photos}: no such folder, expected one with a folder for each class")
    if a.out.suffix not in (".yaml", ".yml"):
        raise InputError(f"--out {a.out}: expected the name of a .yaml file")
    classes, passed = class_folders(a.photos)
    passed.say(a.photos)
    folders = list(classes)
    if not folders:
        raise InputError(f"--photos {a.photos}: no folders with images in it, expected one for each class")
    if double := check_no_doubles(folders, f"class folders of {a.photos}"):
        raise InputError(double)
    paths = [path for images in classes.values() for path in images]
    check_images(f"--photos {a.photos}", ((a.photos / paths[row], None) for row in sample_rows(len(paths))))
    table = read_boxes(a.boxes, a.images, "images")
    boxed = table.category_keys()
    check_spelling(folders, boxed, a.boxes)
    categories = make_categories(folders, boxed)
    val = table
    if a.val_boxes or a.val_images:
        val = read_boxes(a.val_boxes or a.boxes, a.val_images or a.images, "val-images" if a.val_images else "images")
        found = set(categories.find(val.category_names, val.category_wnids, val.path))
        if others := [name for row, name in enumerate(val.category_names) if row not in found]:
            note(f"{val.path}: {len(others)} of its {len(val.category_names)} categories have neither photos nor boxes "
                 f"here, and are not looked for (first: {others[0]!r})")
    write_words(a, categories, folders, boxed, val)


def write_words(a: argparse.Namespace, categories: CategoryMap, folders: list[str], boxed: list[str],
                val: AnnotationTable) -> None:
    """The YAML file, and the categories beside it; what they hold is printed."""
    # Localization accuracy is for images of one category each [E44]; AP is for all.
    one_category = all(len(set(val.category_index[val.image_index == image])) <= 1
                       for image in np.unique(val.image_index))
    path = a.out.with_suffix(".categories.json")
    data = {"root": ".", "det": {"annotations": str(a.boxes), "images": str(a.images), "classes": len(boxed)},
            "cls": {"train": str(a.photos), "val": None, "classes": len(folders)},
            "eval": {"annotations": str(a.val_boxes or a.boxes), "images": str(a.val_images or a.images),
                     "categories": str(path)}}
    metrics = ["localization", "box_ap"] if one_category else ["box_ap"]
    with refused(f"--out {a.out}: cannot be written"):
        a.out.parent.mkdir(parents=True, exist_ok=True)
        categories.save(path)
        a.out.write_text(yaml.safe_dump({"data": data, "eval": {"metrics": metrics}}, sort_keys=False))
    known = {canonical(name) for name in boxed}
    both = [name for name in folders if canonical(name) in known]
    some = ", ".join(both[:5]) + f" and {len(both) - 5} more" * (len(both) > 5)
    print(f"{a.out}: {len(folders)} classes with photos, {len(boxed)} with boxes, {len(both)} with both: "
          f"{some or 'no name is in both'}")


if __name__ == "__main__":
    run_command(main, __doc__)

"""Your own photos and boxes -> a word for the configuration.

    python -m s21k.prepare.own_data --photos photos/ --boxes boxes.json --images pictures/ \\
        [--val-boxes val.json --val-images val/] --out my_data.yaml

photos/ has one folder for each class. boxes.json is COCO-format, for some or all of the classes; a
category of it and a folder of the same name are the same category. Writes my_data.yaml and
my_data.categories.json: then `python train_stage1.py r50 my_data.yaml`, and so on. A class with boxes
is in the group "base", one without in "novel".
"""
import argparse
from pathlib import Path

import numpy as np
import torch
import yaml

from s21k.annotations import load_annotations
from s21k.categories import CategoryMap
from s21k.errors import InputError, run_command
from s21k.images import ENDINGS


def make_categories(folders: list[str], boxed: list[str]) -> CategoryMap:
    """All folders, then the categories that only have boxes; rows of g by the JSON's ids, of g-hat by the folders' order."""
    det_row, cls_row = ({name: row for row, name in enumerate(names)} for names in (boxed, folders))
    names = [*folders, *(name for name in boxed if name not in cls_row)]
    return CategoryMap(names, [None] * len(names), ["base" if name in det_row else "novel" for name in names],
                       torch.tensor([det_row.get(name, -1) for name in names]), torch.tensor([cls_row.get(name, -1) for name in names]))


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m s21k.prepare.own_data")
    for name in ("photos", "boxes", "images", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--val-boxes", type=Path)
    parser.add_argument("--val-images", type=Path)
    a = parser.parse_args(argv)
    if not a.photos.is_dir():
        raise InputError(f"--photos {a.photos}: no such folder, expected one with a folder for each class")
    if a.out.suffix not in (".yaml", ".yml"):
        raise InputError(f"--out {a.out}: expected the name of a .yaml file")
    folders = sorted(entry.name for entry in a.photos.iterdir()
                     if entry.is_dir() and any(p.suffix.lower() in ENDINGS for p in entry.rglob("*")))
    if not folders:
        raise InputError(f"--photos {a.photos}: no folders with pictures in it, expected one for each class")
    boxed = load_annotations(a.boxes).category_keys()
    categories = make_categories(folders, boxed)
    val = load_annotations(a.val_boxes or a.boxes)
    # Localization accuracy is for pictures of one category each (E44); AP is for all.
    one_category = all(len(set(val.category_index[val.image_index == image])) <= 1 for image in np.unique(val.image_index))
    path = a.out.with_suffix(".categories.json")
    data = {"root": ".", "det": {"annotations": str(a.boxes), "images": str(a.images), "classes": len(boxed)},
            "cls": {"train": str(a.photos), "val": None, "classes": len(folders)},
            "eval": {"annotations": str(a.val_boxes or a.boxes), "images": str(a.val_images or a.images), "categories": str(path)}}
    a.out.parent.mkdir(parents=True, exist_ok=True)
    categories.save(path)
    metrics = ["localization", "box_ap"] if one_category else ["box_ap"]
    a.out.write_text(yaml.safe_dump({"data": data, "eval": {"metrics": metrics}}, sort_keys=False))
    both = sum(name in set(boxed) for name in folders)
    print(f"{a.out}: {len(folders)} classes with photos, {len(boxed)} with boxes, {both} with both: "
          f"{', '.join(name for name in folders if name in set(boxed))[:200] or 'no name is in both'}")


if __name__ == "__main__":
    run_command(main, __doc__)

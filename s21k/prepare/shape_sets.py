"""How sets of drawn images lie on disk: COCO's format, and the categories JSON."""
from pathlib import Path

import torch
from pycocotools.mask import area

from s21k.core.categories import CategoryMap
from s21k.prepare.shape_drawing import Category


def coco(results: list[tuple], contents: list[list[Category]], listed: list[Category]) -> dict:
    """A COCO-format file of a set; category ids start at 1. results: (h, w, boxes, placed, masks) of each image, the
    objects that found a place by their positions in its contents, masks as RLE."""
    ids = {category.name: i for i, category in enumerate(listed, start=1)}
    images = [{"id": i, "file_name": f"{i:06d}.jpg", "height": r[0], "width": r[1]}
              for i, r in enumerate(results, start=0)]
    annotations = [{"image_id": i, "category_id": ids[contents[i][number].name], "bbox": box, "area": float(area(mask)),
                    "iscrowd": 0, "segmentation": {"size": mask["size"], "counts": mask["counts"].decode()}}
                   for i, r in enumerate(results) for box, number, mask in zip(*r[2:])]
    for number, annotation in enumerate(annotations, start=1):
        annotation["id"] = number
    return {"images": images, "annotations": annotations,
            "categories": [{"id": i, "name": c.name} for i, c in enumerate(listed, start=1)]}


def save_categories(path: Path, categories: list[Category]) -> None:
    """g has a row for each base category, in this order; g-hat one for each, by name, as a folder lists them."""
    det_row = {c.name: i for i, c in enumerate(c for c in categories if c.group == "base")}
    cls_row = {name: i for i, name in enumerate(sorted(c.name for c in categories))}
    CategoryMap([c.name for c in categories], [None] * len(categories), [c.group for c in categories],
                torch.tensor([det_row.get(c.name, -1) for c in categories]),
                torch.tensor([cls_row[c.name] for c in categories])).save(path)

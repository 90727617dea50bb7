"""The embedded toy world: images of textured shapes, in the formats of real data.

    python -m s21k.prepare.shapes --out data/shapes [--categories 24] [--images-per-category 250]
    python -m s21k.prepare.shapes --format lvis|imagenet|objects365 --out data/mini
                    a miniature in the form of the paper's data
    python -m s21k.prepare.shapes --annotate data/mini/imagenet21k/val_images.json
                    --truth data/mini/imagenet21k_tars_truth.json

A category is shape x fill x texture ("red striped triangle"); any number up to 21,952 can be asked
for. Half of them, the base categories, have boxes in the detection set; the novel half never does.
Every image of a category shows one object, anywhere, rotated, partly hidden, among plain clutter
on a textured background. Image i of a set is a function of (seed, set, i).

Writes cls_train/<category>/ (labelled images), det_train.json + det_train/ (with boxes), val.json +
val/ and val.tsv (the same validation images as a list), categories.json.
"""
import argparse
import json
import shutil
from multiprocessing import Pool
from pathlib import Path

import numpy as np
import torch
from pycocotools.mask import area

from s21k.core.categories import CategoryMap
from s21k.core.errors import InputError, run_command
from s21k.core.masks import encode
from s21k.core.randomness import derive_seed
from s21k.prepare.shape_drawing import Category, draw_image, make_categories
from s21k.prepare.shape_formats import FORMATS, THINGS, annotate


def _draw_one(job: tuple) -> tuple[int, int, list, list, list]:
    path, seed, categories, size, scale = job
    image, boxes, placed, masks = draw_image(seed, categories, size, scale)
    image.save(path, quality=92)
    return image.height, image.width, boxes, placed, [encode(mask) for mask in masks]


def _draw_set(pool, out: Path, name: str, seed: int, contents: list[list[Category]], size: int,
              scale: tuple[float, float],
              by_category: bool = False) -> list[tuple]:
    """Draw one set's images to out/name/000000.jpg .. or out/name/<category>/; (h, w, boxes, placed, masks) of each."""
    jobs = []
    for i, content in enumerate(contents):
        folder = out / name / content[0].name if by_category else out / name
        folder.mkdir(parents=True, exist_ok=True)
        jobs.append((folder / f"{i:06d}.jpg", derive_seed(seed, name, i), content, size, scale))
    return pool.map(_draw_one, jobs, chunksize=32)


def _coco(results: list[tuple], contents: list[list[Category]], listed: list[Category]) -> dict:
    """A COCO-format file of a set; category ids start at 1."""
    ids = {category.name: i for i, category in enumerate(listed, start=1)}
    images = [{"id": i, "file_name": f"{i:06d}.jpg", "height": r[0], "width": r[1]}
              for i, r in enumerate(results, start=0)]
    annotations = [{"image_id": i, "category_id": ids[contents[i][number].name], "bbox": box, "area": float(area(mask)),
                    "iscrowd": 0,
                    "segmentation": {"size": mask["size"], "counts": mask["counts"].decode()}}
                   for i, r in enumerate(results) for box, number, mask in zip(*r[2:])]
    for number, annotation in enumerate(annotations, start=1):
        annotation["id"] = number
    return {"images": images, "annotations": annotations,
            "categories": [{"id": i, "name": c.name} for i, c in enumerate(listed, start=1)]}


def write_world(out: Path, num_categories: int, per_category: int, det_images: int, val_per_category: int, size: int,
                seed: int, processes: int) -> list[Category]:
    """Draw all sets below `out`, which must not exist: first beside it, then renamed. Returns the categories."""
    if out.exists():
        raise InputError(f"--out {out}: exists already; remove it, or give another folder")
    final, out = out, out.with_name(out.name + ".unfinished")
    shutil.rmtree(out, ignore_errors=True)                               # of a run that was interrupted
    categories = make_categories(num_categories, seed)
    base = [c for c in categories if c.group == "base"]
    rng = np.random.default_rng(derive_seed(seed, "contents"))
    cls_contents = [[c] for c in categories for _ in range(per_category)]
    val_contents = [[c] for c in categories for _ in range(val_per_category)]
    det_contents = [[base[k] for k in rng.integers(0, len(base), rng.integers(1, 5))] for _ in range(det_images)]
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {out}: cannot be written ({error})") from None
    with Pool(processes) as pool:
        _draw_set(pool, out, "cls_train", seed, cls_contents, size, (0.4, 0.9), by_category=True)
        val = _draw_set(pool, out, "val", seed, val_contents, size, (0.3, 0.65))
        det = _draw_set(pool, out, "det_train", seed, det_contents, size, (0.25, 0.6))
    (out / "det_train.json").write_text(json.dumps(_coco(det, det_contents, base)))
    (out / "val.json").write_text(json.dumps(_coco(val, val_contents, categories)))
    (out / "val.tsv").write_text(
        "".join(f"val/{i:06d}.jpg\t{content[0].name}\n" for i, content in enumerate(val_contents)))
    det_row = {c.name: i for i, c in enumerate(base)}
    cls_row = {name: i for i, name in enumerate(sorted(c.name for c in categories))}
    CategoryMap([c.name for c in categories], [None] * len(categories), [c.group for c in categories],
                torch.tensor([det_row.get(c.name, -1) for c in categories]),
                torch.tensor([cls_row[c.name] for c in categories])).save(out / "categories.json")
    out.rename(final)
    return categories


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m s21k.prepare.shapes")
    parser.add_argument("--out", type=Path, default=Path("data/shapes"))
    parser.add_argument("--categories", type=int, default=24)
    parser.add_argument("--images-per-category", type=int, default=250)
    parser.add_argument("--detection-images", type=int, default=1500)
    parser.add_argument("--val-per-category", type=int, default=25)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--format", choices=["toy", *FORMATS], default="toy")
    for name in ("annotate", "truth"):
        parser.add_argument(f"--{name}", type=Path)
    a = parser.parse_args(argv)
    if a.annotate:
        if a.truth is None:
            raise InputError("--annotate: expected --truth, the file beside the miniature's tars")
        print(f"{a.annotate.with_name('val_boxes.json')}: {annotate(a.annotate, a.truth)} boxes")
        return
    if a.format != "toy":
        if a.out.exists():
            raise InputError(f"--out {a.out}: exists already; remove it, or give another folder")
        unfinished = a.out.with_name(a.out.name + ".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        try:
            FORMATS[a.format](unfinished, a.images_per_category, a.detection_images, a.val_per_category * len(THINGS),
                              a.size, a.seed)
            unfinished.rename(a.out)
        except OSError as error:
            raise InputError(f"--out {a.out}: cannot be written ({error})") from None
        print(f"{a.out}: {', '.join(sorted(entry.name for entry in a.out.iterdir()))}")
        return
    categories = write_world(a.out, a.categories, a.images_per_category, a.detection_images, a.val_per_category, a.size,
                             a.seed, a.processes)
    print(f"{a.out}: {len(categories)} categories ({sum(c.group == 'base' for c in categories)} base), "
          f"{len(categories) * a.images_per_category} labelled images, {a.detection_images} with boxes, "
          f"{len(categories) * a.val_per_category} for validation")


if __name__ == "__main__":
    run_command(main, __doc__)

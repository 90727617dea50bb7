"""The embedded toy world: images of textured shapes, in the formats of real data.

    python -m s21k.prepare.shapes --out data/shapes [--categories 24] [--images-per-category 250]
    python -m s21k.prepare.shapes --format lvis|imagenet|objects365 --out data/mini
                    a miniature in the form of the paper's data
    python -m s21k.prepare.shapes --format scenes --out data/scenes
                    the world of s21k.prepare.scenes, where boxes are hard
    python -m s21k.prepare.shapes --annotate data/mini/imagenet21k/val_images.json
                    --truth data/mini/imagenet21k_tars_truth.json

A category is shape x fill x texture ("red striped hourglass"); any number up to 21,952 can be asked
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

from s21k.core.errors import InputError, run_command
from s21k.core.masks import encode
from s21k.core.randomness import derive_seed
from s21k.prepare.scenes import write_scenes
from s21k.prepare.shape_drawing import Category, draw_image, make_categories
from s21k.prepare.shape_formats import FORMATS, THINGS, annotate
from s21k.prepare.shape_sets import coco, save_categories


def _draw_one(job: tuple) -> tuple[int, int, list, list, list]:
    path, seed, categories, size, scale = job
    image, boxes, placed, masks = draw_image(seed, categories, size, scale)
    image.save(path, quality=92)
    return image.height, image.width, boxes, placed, [encode(mask) for mask in masks]


def _draw_set(pool, out: Path, name: str, seed: int, contents: list[list[Category]], size: int,
              scale: tuple[float, float], by_category: bool = False) -> list[tuple]:
    """Draw one set's images to out/name/000000.jpg .. or out/name/<category>/; (h, w, boxes, placed, masks) of each."""
    jobs = []
    for i, content in enumerate(contents):
        folder = out / name / content[0].name if by_category else out / name
        folder.mkdir(parents=True, exist_ok=True)
        jobs.append((folder / f"{i:06d}.jpg", derive_seed(seed, name, i), content, size, scale))
    return pool.map(_draw_one, jobs, chunksize=32)


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
        _draw_set(pool, out, "cls_train", seed, cls_contents, size, (0.5, 0.9), by_category=True)
        val = _draw_set(pool, out, "val", seed, val_contents, size, (0.4, 0.7))
        det = _draw_set(pool, out, "det_train", seed, det_contents, size, (0.35, 0.65))
    (out / "det_train.json").write_text(json.dumps(coco(det, det_contents, base)))
    (out / "val.json").write_text(json.dumps(coco(val, val_contents, categories)))
    (out / "val.tsv").write_text(
        "".join(f"val/{i:06d}.jpg\t{content[0].name}\n" for i, content in enumerate(val_contents)))
    save_categories(out / "categories.json", categories)
    out.rename(final)
    return categories


# What each world has unless said otherwise: categories, labelled images of each, images with boxes, evaluation images
# for each, and about an image's side.
SIZES = {"toy": (24, 250, 1500, 25, 80), "scenes": (24, 150, 1500, 105, 144),
         **{name: (len(THINGS), 250, 1500, 25, 96) for name in FORMATS}}


def write_format(a: argparse.Namespace) -> str:
    """Write a world of another form than the toy's; what there is now. InputError: it cannot be written."""
    if a.out.exists():
        raise InputError(f"--out {a.out}: exists already; remove it, or give another folder")
    unfinished = a.out.with_name(a.out.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    numbers = a.images_per_category, a.detection_images
    try:
        if a.format == "scenes":
            counts = write_scenes(unfinished, a.categories, *numbers, a.val_per_category * a.categories, a.size,
                                  a.seed, a.processes)
            written = ", ".join(f"{100 * n:.1f} % of the objects novel in {name}" if isinstance(n, float)
                                else f"{n} {name}" for name, n in counts.items())
        else:
            FORMATS[a.format](unfinished, *numbers, a.val_per_category * len(THINGS), a.size, a.seed)
            written = ", ".join(sorted(entry.name for entry in unfinished.iterdir()))
        unfinished.rename(a.out)
    except OSError as error:
        raise InputError(f"--out {a.out}: cannot be written ({error})") from None
    return f"{a.out}: {written}"


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m s21k.prepare.shapes")
    for name in ("categories", "images-per-category", "detection-images", "val-per-category", "size"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    for name in ("out", "annotate", "truth"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--format", choices=list(SIZES), default="toy")
    a = parser.parse_args(argv)
    if a.annotate:
        if a.truth is None:
            raise InputError("--annotate: expected --truth, the file beside the miniature's tars")
        print(f"{a.annotate.with_name('val_boxes.json')}: {annotate(a.annotate, a.truth)} boxes")
        return
    for name, usual in zip(vars(a), SIZES[a.format]):                    # vars: in the order of their definition
        if getattr(a, name) is None:
            setattr(a, name, usual)
    a.out = a.out or Path("data/scenes" if a.format == "scenes" else "data/shapes")
    if a.format != "toy":
        return print(write_format(a))
    categories = write_world(a.out, a.categories, a.images_per_category, a.detection_images, a.val_per_category, a.size,
                             a.seed, a.processes)
    print(f"{a.out}: {len(categories)} categories ({sum(c.group == 'base' for c in categories)} base), "
          f"{len(categories) * a.images_per_category} labelled images, {a.detection_images} with boxes, "
          f"{len(categories) * a.val_per_category} for validation")


if __name__ == "__main__":
    run_command(main, __doc__)

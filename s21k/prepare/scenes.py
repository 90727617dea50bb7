"""The second small world, where boxes are hard: python -m s21k.prepare.shapes --format scenes --out data/scenes

The categories of the toy world in images of 128 to 160 px with one to six objects of very different size, base and
novel side by side, some cut by the border or partly hidden. A box is drawn around what is visible. Images with labels
are of another kind: one object, a smooth background, other light.

Of the objects on the images with boxes 0, 25 or 50 % are novel and have no box: det_00/, det_25/ and det_50/, one
det_train.json for all three. Novel objects lie beneath the base ones, so that base objects, their boxes and the
background are the same: as one data set before and after objects without boxes came in [G6].

Also written: cls_train/<category>/, val/ with val.json, cls_val/ with cls_val.tsv (images of the labelled kind, for
stage I), categories.json. Image i of a set is a function of (seed, set, i).
"""
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import Pool
from pathlib import Path

import numpy as np
from PIL import Image

from s21k.core.masks import encode
from s21k.core.randomness import derive_seed
from s21k.prepare.shape_drawing import Category, draw_background, draw_clutter, draw_object, make_categories
from s21k.prepare.shape_sets import coco, save_categories

SHARES = {"det_00": 0.0, "det_25": 0.25, "det_50": 0.5}     # novel objects among all, of the sets with boxes
ALIKE = 0.35                    # share of the evaluation images all of whose objects are of one category
TRIES = 30                      # places that are tried for one object


@dataclass(frozen=True)
class Style:
    """How images of one kind look. sides: of the image, in pixels; scale: an object's diameter as a share of the
    shorter side, log-uniform; visible: the least share of an object that is not hidden or cut; light: the most by
    which channels, and opposite sides of the image, differ in brightness."""
    sides: tuple[int, int]
    scale: tuple[float, float]
    visible: float
    light: tuple[float, float]
    background: Callable[[np.random.Generator, int, int], Image.Image]


def cluttered(rng: np.random.Generator, h: int, w: int) -> Image.Image:
    """The toy world's background and plain things: (h, w)."""
    return draw_clutter(rng, draw_background(rng, h, w), int(rng.integers(3, 9)))


def smooth(rng: np.random.Generator, h: int, w: int) -> Image.Image:
    """From one pale colour to another: (h, w)."""
    first, second = rng.uniform(120, 250, (2, 3))
    angle = rng.uniform(0, 2 * math.pi)
    y, x = np.mgrid[0:h, 0:w] / max(h, w)
    place = (x * math.cos(angle) + y * math.sin(angle))[..., None]
    place = (place - place.min()) / (place.max() - place.min())
    return Image.fromarray((first + (second - first) * place).clip(0, 255).astype(np.uint8))


def scene_style(size: int) -> Style:
    """Images with boxes, and those that are evaluated: sides of size - 11 % to size + 11 %."""
    return Style((round(size * 8 / 9), round(size * 10 / 9)), (0.14, 0.95), 0.4, (0.1, 0.1), cluttered)


def label_style(size: int) -> Style:
    """Images with a label: smaller ones, with one large object."""
    return Style((round(size * 6 / 9), round(size * 8 / 9)), (0.4, 0.95), 0.75, (0.35, 0.5), smooth)


def draw_scene(seed: int, categories: list[Category], style: Style,
               ) -> tuple[Image.Image, list[list[float]], list[int], list[np.ndarray]]:
    """One image -> image, boxes [x, y, w, h] of what is visible, positions in `categories` of those that found a
    place, masks (h, w) bool of what is visible.

    From front to back: each object lies beneath those before it, which it therefore does not change. The background,
    and every object, have a random stream of their own.
    """
    rng = np.random.default_rng(derive_seed(seed, "image"))
    h, w = (int(v) for v in rng.integers(style.sides[0], style.sides[1] + 1, 2))
    background = np.asarray(style.background(rng, h, w), dtype=np.float32)
    canvas, front = np.zeros((h, w, 3), dtype=np.float32), np.zeros((h, w, 1), dtype=np.float32)   # coverage so far
    boxes: list[list[float]] = []
    placed: list[int] = []
    masks: list[np.ndarray] = []
    for number, category in enumerate(categories):
        chance = np.random.default_rng(derive_seed(seed, "object", number))
        for _ in range(TRIES):
            diameter = math.exp(chance.uniform(*map(math.log, style.scale))) * min(h, w)
            colors, coverage = draw_object(chance, category, diameter)
            x, y = (int(chance.uniform(0, side) - part / 2)
                    for side, part in ((w, coverage.shape[1]), (h, coverage.shape[0])))
            placed_colors, alpha = place(colors, x, y, (h, w)), place(coverage[..., None], x, y, (h, w))
            visible = (alpha[..., 0] >= 0.5) & (front[..., 0] < 0.5)
            if visible.sum() < style.visible * (coverage >= 0.5).sum():
                continue
            canvas += placed_colors * alpha * (1 - front)
            front += alpha * (1 - front)
            rows, columns = np.flatnonzero(visible.any(1)), np.flatnonzero(visible.any(0))
            boxes.append([float(columns[0]), float(rows[0]), float(columns[-1] + 1 - columns[0]),
                          float(rows[-1] + 1 - rows[0])])
            placed.append(number)
            masks.append(visible)
            break
    lit = (canvas + background * (1 - front)) * light(rng, h, w, *style.light)
    return Image.fromarray(lit.clip(0, 255).astype(np.uint8)), boxes, placed, masks


def place(part: np.ndarray, x: int, y: int, size: tuple[int, int]) -> np.ndarray:
    """part (ph, pw, n) on zeros of size (h, w), its corner at (x, y), cut at the border."""
    (h, w), (ph, pw) = size, part.shape[:2]
    whole = np.zeros((h, w, part.shape[2]), dtype=np.float32)
    left, top, right, bottom = max(x, 0), max(y, 0), min(x + pw, w), min(y + ph, h)
    if left < right and top < bottom:
        whole[top:bottom, left:right] = part[top - y:bottom - y, left - x:right - x]
    return whole


def light(rng: np.random.Generator, h: int, w: int, tint: float, slope: float) -> np.ndarray:
    """Factors (h, w, 3): each channel's own, within 1 +- tint, and a slope across the image, within 1 +- slope / 2."""
    angle = rng.uniform(0, 2 * math.pi)
    y, x = np.mgrid[0:h, 0:w] / max(h, w) - 0.5
    across = 1 + rng.uniform(0, slope) * (x * math.cos(angle) + y * math.sin(angle))
    return across[..., None] * rng.uniform(1 - tint, 1 + tint, 3)


def det_contents(rng: np.random.Generator, base: list[Category], novel: list[Category],
                 images: int) -> dict[str, list[list[Category]]]:
    """For each set with boxes the objects of its images: one to three base ones, the same in all sets; after them
    novel ones, as many as the set's share needs; those of a smaller share are among those of a larger one."""
    contents: dict[str, list[list[Category]]] = {name: [] for name in SHARES}
    for _ in range(images):
        shown = [base[k] for k in rng.integers(0, len(base), rng.integers(1, 4))]
        chosen, chances = rng.integers(0, len(novel), len(shown)), rng.random(len(shown))
        hidden = [(novel[k], chance) for k, chance in zip(chosen, chances)]
        for name, share in SHARES.items():
            contents[name].append(shown + [c for c, chance in hidden if chance < share / (1 - share)])
    return contents


def val_contents(rng: np.random.Generator, categories: list[Category], images: int) -> list[list[Category]]:
    """One to six objects an image; of several, sometimes all of one category."""
    contents = []
    for _ in range(images):
        shown = [categories[k] for k in rng.integers(0, len(categories), rng.integers(1, 7))]
        contents.append(shown[:1] * len(shown) if rng.random() < ALIKE else shown)
    return contents


def _draw(job: tuple[Path, int, list[Category], Style]) -> tuple:
    path, seed, content, style = job
    image, boxes, placed, masks = draw_scene(seed, content, style)
    image.save(path, quality=92)
    return image.height, image.width, boxes, placed, [encode(mask) for mask in masks]


def _draw_set(pool: Pool, folder: Path, seed: tuple, contents: list[list[Category]], style: Style,
              by_category: bool = False) -> list[tuple]:
    """folder/000000.jpg .. or folder/<category>/..; (h, w, boxes, placed, masks) of each image."""
    jobs = []
    for i, content in enumerate(contents):
        where = folder / content[0].name if by_category else folder
        where.mkdir(parents=True, exist_ok=True)
        jobs.append((where / f"{i:06d}.jpg", derive_seed(*seed, i), content, style))
    return pool.map(_draw, jobs, chunksize=32)


def write_scenes(out: Path, num_categories: int, per_category: int, det_images: int, val_images: int, size: int,
                 seed: int, processes: int) -> dict[str, float]:
    """Write the world into the folder `out`. Returns counts, and the share of novel objects in each set with boxes."""
    categories = make_categories(num_categories, seed)
    base, novel = ([c for c in categories if c.group == group] for group in ("base", "novel"))
    rng = np.random.default_rng(derive_seed(seed, "contents"))
    scene, label = scene_style(size), label_style(size)
    shown, counts = det_contents(rng, base, novel, det_images), {}
    labelled = {"cls_train": [[c] for c in categories for _ in range(per_category)],
                "cls_val": [[c] for c in categories for _ in range(max(1, per_category // 10))]}
    wanted = val_contents(rng, categories, val_images)
    with Pool(processes) as pool:
        for name, contents in shown.items():
            drawn = _draw_set(pool, out / name, (seed, "det"), contents, scene)
            num_base = [sum(content[k].group == "base" for k in result[3]) for content, result in zip(contents, drawn)]
            counts[name] = 1 - sum(num_base) / sum(len(result[3]) for result in drawn)
            if name == next(iter(SHARES)):
                boxes = coco(drawn, contents, base)
        _draw_set(pool, out / "cls_train", (seed, "cls_train"), labelled["cls_train"], label, by_category=True)
        _draw_set(pool, out / "cls_val", (seed, "cls_val"), labelled["cls_val"], label)
        truth = coco(_draw_set(pool, out / "val", (seed, "val"), wanted, scene), wanted, categories)
    (out / "det_train.json").write_text(json.dumps(boxes))
    (out / "val.json").write_text(json.dumps(truth))
    (out / "cls_val.tsv").write_text("".join(f"cls_val/{i:06d}.jpg\t{content[0].name}\n"
                                             for i, content in enumerate(labelled["cls_val"])))
    save_categories(out / "categories.json", categories)
    return counts | {"labelled images": len(labelled["cls_train"]), "images with boxes": det_images,
                     "boxes": len(boxes["annotations"]), "evaluation images": val_images,
                     "evaluation boxes": len(truth["annotations"])}

"""Images of textured shapes: what a category of the toy world is, and how one image is drawn.

A category is shape x fill x texture. Pillow and numpy; objects are drawn larger and shrunk.
"""
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from s21k.core.errors import InputError
from s21k.core.randomness import derive_seed

SMOOTH = 2                                  # objects are drawn this many times larger, then shrunk: anti-aliasing
RIM = 0.86                                  # the texture's outline, as a share of the object's


# --- the three attributes of a category ----------------------------------------------------------------------------

def _polar(radius: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Outline (n, 2) of a shape given by its radius at each angle."""
    angle = np.linspace(0, 2 * math.pi, 240, endpoint=False)
    return (radius(angle)[:, None] * np.stack([np.sin(angle), -np.cos(angle)], axis=1))


def _polygon(corners: int) -> np.ndarray:
    return _polar(lambda a: math.cos(math.pi / corners) / np.cos(
        (a + math.pi / corners) % (2 * math.pi / corners) - math.pi / corners))


def _star(points: int) -> np.ndarray:
    angle = np.arange(2 * points) * math.pi / points
    radius = np.where(np.arange(2 * points) % 2 == 0, 1.0, 0.42)
    return radius[:, None] * np.stack([np.sin(angle), -np.cos(angle)], axis=1)


def _flower(petals: int) -> np.ndarray:
    return _polar(lambda a: 0.68 + 0.32 * np.cos(petals * a))


def _gear(teeth: int) -> np.ndarray:
    return _polar(lambda a: np.where(np.cos(teeth * a) > 0, 1.0, 0.66))


def _corners(*points: tuple[float, float]) -> np.ndarray:
    return np.array(points, dtype=float)


SHAPES: dict[str, np.ndarray] = {
    "disc": _polar(lambda a: np.ones_like(a)),
    "hourglass": _corners((-.9, -1), (.9, -1), (.18, 0), (.9, 1), (-.9, 1), (-.18, 0)),
    "plus": _corners((-.35, -1), (.35, -1), (.35, -.35), (1, -.35), (1, .35), (.35, .35), (.35, 1), (-.35, 1),
                     (-.35, .35), (-1, .35), (-1, -.35), (-.35, -.35)),
    "triangle": _polygon(3), "star": _star(5), "square": _polygon(4), "clover": _flower(3), "hexagon": _polygon(6),
    "arrow": _corners((0, -1), (.9, 0), (.35, 0), (.35, 1), (-.35, 1), (-.35, 0), (-.9, 0)),
    "gear": _gear(7),
    "ellipse": _polar(lambda a: 0.5 / np.sqrt(0.25 * np.cos(a) ** 2 + np.sin(a) ** 2)), "cross-star": _star(4),
    "corner": _corners((-.9, -1), (-.1, -1), (-.1, .2), (.9, .2), (.9, 1), (-.9, 1)), "daisy": _flower(6),
    "drop": _polar(lambda a: 0.55 + 0.45 * np.clip(np.cos(a), 0, 1) ** 3), "pentagon": _polygon(5),
    "tee": _corners((-1, -1), (1, -1), (1, -.35), (.35, -.35), (.35, 1), (-.35, 1), (-.35, -.35), (-1, -.35)),
    "chevron": _corners((-1, -.2), (0, -1), (1, -.2), (1, .8), (0, 0), (-1, .8)), "sun": _star(9),
    "bolt": _corners((.2, -1), (.9, -1), (.25, -.1), (.8, -.1), (-.5, 1), (-.1, .15), (-.7, .15)),
    "octagon": _polygon(8), "hexagram": _star(6), "quatrefoil": _flower(4), "sprocket": _gear(9), "rosette": _flower(8),
    "cog": _gear(5), "heptagram": _star(7), "bloom": _flower(5)}

_HUES = {"red": (215, 45, 45), "blue": (45, 80, 215), "yellow": (225, 205, 50), "green": (45, 160, 65),
         "violet": (140, 60, 200), "orange": (235, 130, 35), "cyan": (50, 200, 210)}
_SECONDS = {"": (245, 245, 245), "dark ": (25, 25, 25), "sandy ": (215, 180, 140), "slate ": (90, 105, 125)}
FILLS: dict[str, tuple] = {f"{second}{hue}": (rgb, other) for second, other in _SECONDS.items()
                           for hue, rgb in _HUES.items()}


def _stripes(angle: float, count: float) -> Callable:
    return lambda x, y: np.sin(math.pi * count * (x * math.cos(angle) + y * math.sin(angle))) > 0


def _dots(count: float) -> Callable:
    return lambda x, y: (np.sin(math.pi * count * x) * np.sin(math.pi * count * y)) > 0.35


def _checks(count: float) -> Callable:
    return lambda x, y: (np.sin(math.pi * count * x) * np.sin(math.pi * count * y)) > 0


def _rings(count: float) -> Callable:
    return lambda x, y: np.sin(math.pi * count * np.hypot(x, y)) > 0


def _rays(count: int) -> Callable:
    return lambda x, y: np.sin(count * np.arctan2(y, x)) > 0


def _waves(count: float) -> Callable:
    return lambda x, y: np.sin(math.pi * count * (y + 0.25 * np.sin(math.pi * 2 * x))) > 0


def _halves(angle: float) -> Callable:
    return lambda x, y: x * math.cos(angle) + y * math.sin(angle) > 0


def _spiral(count: int) -> Callable:
    return lambda x, y: np.sin(count * np.arctan2(y, x) + 2 * math.pi * 1.2 * np.hypot(x, y)) > 0


TEXTURES: dict[str, Callable] = {
    "striped": _stripes(0.0, 3), "checked": _checks(2), "barred": _stripes(math.pi / 2, 3), "ringed": _rings(3),
    "rayed": _rays(5), "halved": _halves(0.0),
    "dotted": _dots(3), "wavy": _waves(3), "spiral": _spiral(3),
    "quartered": _rays(2),
    "slanted": _stripes(math.pi / 4, 3), "fine-striped": _stripes(0.0, 5), "fine-checked": _checks(4),
    "banded": _rings(2),
    "fine-dotted": _dots(5), "split": _halves(math.pi / 2), "fine-rayed": _rays(9), "rippled": _waves(5),
    "fine-barred": _stripes(math.pi / 2, 5), "whirled": _spiral(5), "fine-ringed": _rings(5), "thirds": _rays(3),
    "broad-striped": _stripes(0.0, 1.6), "broad-checked": _checks(1.2), "broad-dotted": _dots(1.8),
    "twirled": _spiral(2),
    "diagonal": _halves(math.pi / 4), "steep": _stripes(-math.pi / 4, 3)}


@dataclass(frozen=True)
class Category:
    name: str
    shape: str
    fill: str
    texture: str
    group: str


def make_categories(count: int, seed: int = 0) -> list[Category]:
    """`count` categories; each attribute takes about count^(1/3) values, so that none alone tells them apart.

    A random half is base, the other novel. InputError: fewer than 2, or more than there are.
    """
    values = math.ceil(round(count ** (1 / 3), 6))
    if count < 2 or values > min(len(SHAPES), len(FILLS), len(TEXTURES)):
        raise InputError(f"--categories {count}: expected 2 to {min(len(SHAPES), len(FILLS), len(TEXTURES)) ** 3}")
    shapes, fills, textures = list(SHAPES), list(FILLS), list(TEXTURES)
    order = np.random.default_rng(derive_seed(seed, "groups")).permutation(count)
    base = set(order[:(count + 1) // 2].tolist())
    categories = []
    for k in range(count):
        shape, fill, texture = shapes[k % values], fills[k // values % values], textures[k // values**2]
        categories.append(Category(f"{fill} {texture} {shape}", shape, fill, texture, "base" if k in base else "novel"))
    return categories


# --- drawing -------------------------------------------------------------------------------------------------------

def draw_background(rng: np.random.Generator, h: int, w: int) -> Image.Image:
    """A field of muted colour at two scales, with grain: (h, w)."""
    coarse = rng.uniform(40, 215, (1, 1, 3)) + rng.normal(0, 30, (4, 4, 3))
    fine = rng.normal(0, rng.uniform(5, 22), (max(2, h // 6), max(2, w // 6), 3))
    layers = [np.asarray(Image.fromarray((layer + 128 * (i == 1)).clip(0, 255).astype(np.uint8)).resize(
        (w, h), Image.Resampling.BICUBIC),
                         dtype=np.float32) - 128 * (i == 1) for i, layer in enumerate((coarse, fine))]
    grain = rng.normal(0, rng.uniform(1, 9), (h, w, 1))
    return Image.fromarray((layers[0] + layers[1] + grain).clip(0, 255).astype(np.uint8))


def draw_clutter(rng: np.random.Generator, image: Image.Image, count: int) -> Image.Image:
    """Plain things without texture on the image: strokes and blobs of one colour. They are no category."""
    w, h = image.size
    layer = Image.new("RGBA", (w * SMOOTH, h * SMOOTH))
    draw = ImageDraw.Draw(layer)
    for _ in range(count):
        color = (*(int(v) for v in rng.integers(20, 236, 3)), 255)
        x, y = rng.uniform(0, w), rng.uniform(0, h)
        length, angle = rng.uniform(0.05, 0.3) * min(w, h), rng.uniform(0, 2 * math.pi)
        dx, dy = length * math.cos(angle), length * math.sin(angle)
        if rng.random() < 0.5:
            ends = [v * SMOOTH for v in (x - dx, y - dy, x + dx, y + dy)]
            draw.line(ends, fill=color, width=int(rng.integers(1, 4)) * SMOOTH)
        else:
            points = [((x + r * math.cos(a)) * SMOOTH, (y + r * math.sin(a)) * SMOOTH) for a, r in
                      zip(np.sort(rng.uniform(0, 2 * math.pi, 5)), rng.uniform(0.3, 0.6, 5) * length)]
            draw.polygon(points, fill=color)
    return Image.alpha_composite(image.convert("RGBA"), layer.reduce(SMOOTH)).convert("RGB")


def draw_object(rng: np.random.Generator, category: Category, size: float) -> tuple[np.ndarray, np.ndarray]:
    """Colours (s, s, 3) and coverage (s, s) in [0, 1] of one object, cut to its extent; size: its diameter in
    pixels."""
    turn = rng.uniform(-0.5, 0.5)
    stretch = np.array([rng.uniform(0.8, 1.0), rng.uniform(0.8, 1.0)])
    side = math.ceil(size * 1.05) * SMOOTH
    rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    radius = size * SMOOTH / 2
    outline = (SHAPES[category.shape] * stretch * 0.95) @ rotation.T * radius
    mask, inner = Image.new("L", (side, side)), Image.new("L", (side, side))
    ImageDraw.Draw(mask).polygon([tuple(p) for p in outline + side / 2], fill=255)
    ImageDraw.Draw(inner).polygon([tuple(p) for p in RIM * outline + side / 2], fill=255)
    y, x = (np.mgrid[0:side, 0:side] + 0.5 - side / 2) / radius
    local_x, local_y = x * math.cos(turn) + y * math.sin(turn), -x * math.sin(turn) + y * math.cos(turn)
    pattern = TEXTURES[category.texture](local_x + rng.uniform(-0.08, 0.08), local_y + rng.uniform(-0.08, 0.08))
    first, second = (np.clip(np.array(c) + rng.normal(0, 14, 3), 0, 255) for c in FILLS[category.fill])
    light = 1 + rng.uniform(-0.25, 0.25) * x[..., None] + rng.uniform(-0.25, 0.25) * y[..., None]
    pattern &= np.asarray(inner) > 0                # around it a rim of the first colour: the shape is seen
    colors = (np.where(pattern[..., None], second, first) * light).clip(0, 255).astype(np.uint8)
    small = (side // SMOOTH, side // SMOOTH)
    colors = np.asarray(Image.fromarray(colors).resize(small, Image.Resampling.BOX))
    coverage = np.asarray(mask.resize(small, Image.Resampling.BOX), dtype=np.float32) / 255
    rows, columns = np.flatnonzero(coverage.max(1) > 0.5), np.flatnonzero(coverage.max(0) > 0.5)
    cut = np.s_[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1]
    return colors[cut], coverage[cut]


def draw_image(seed: int, categories: list[Category], size: int, scale: tuple[float, float],
                 ) -> tuple[Image.Image, list[list[float]], list[int], list[np.ndarray]]:
    """One image with the given objects -> image, boxes [x, y, w, h], positions in `categories` of those that fit, masks
    (h, w) bool.

    size: about the image's side; scale: an object's diameter as a share of it. Objects do not
    cover one another, but clutter may hide a part of them.
    """
    rng = np.random.default_rng(seed)
    h, w = (int(size * rng.uniform(0.85, 1.15)) for _ in range(2))
    image = draw_clutter(rng, draw_background(rng, h, w), int(rng.integers(3, 9)))
    canvas = np.asarray(image, dtype=np.float32).copy()
    boxes: list[list[float]] = []
    placed: list[int] = []
    masks: list[np.ndarray] = []
    for number, category in enumerate(categories):
        for _ in range(20):
            colors, coverage = draw_object(rng, category, rng.uniform(*scale) * min(h, w))
            oh, ow = coverage.shape
            x, y = int(rng.integers(0, w - ow + 1)), int(rng.integers(0, h - oh + 1))
            if all(x + ow <= bx or bx + bw <= x or y + oh <= by or by + bh <= y for bx, by, bw, bh in boxes):
                part = canvas[y:y + oh, x:x + ow]
                part += (colors - part) * coverage[..., None]
                boxes.append([float(x), float(y), float(ow), float(oh)])
                placed.append(number)
                masks.append(np.zeros((h, w), dtype=bool))
                masks[-1][y:y + oh, x:x + ow] = coverage >= 0.5
                break
    image = draw_clutter(rng, Image.fromarray(canvas.clip(0, 255).astype(np.uint8)), int(rng.integers(0, 3)))
    return image, boxes, placed, masks

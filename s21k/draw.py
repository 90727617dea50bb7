"""Boxes, names, scores and legends on an image, and many images on a sheet (Pillow)."""
import colorsys
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from s21k.core.masks import decode

SMALLEST = 240                              # small images are enlarged to this shorter side, so that names can be read,
LONGEST = 1300                              # but to no longer side than this; and no image on a sheet is larger


def color_of(name: str) -> tuple[int, int, int]:
    """A bright colour that is always the same for a name."""
    hue = (sum(ord(c) * 31 ** (i % 5) for i, c in enumerate(name)) % 360) / 360
    return tuple(round(255 * v) for v in colorsys.hsv_to_rgb(hue, 0.6, 1.0))


def color_of_place(place: int) -> tuple[int, int, int]:
    """A bright colour for each whole number, far from those of its neighbours: hues a golden ratio apart."""
    return tuple(round(255 * v) for v in colorsys.hsv_to_rgb(place * 0.618 % 1, 0.7, 1.0))


def heat(value: float) -> tuple[int, int, int]:
    """A colour for a number in 0..1: from blue over violet and orange to light yellow."""
    places = (0.0, 0.25, 0.5, 0.75, 1.0)
    reds, greens, blues = (60, 150, 220, 250, 255), (80, 60, 70, 150, 250), (230, 200, 100, 30, 150)
    return tuple(round(float(np.interp(value, places, channel))) for channel in (reds, greens, blues))


def enlarged(image: Image.Image, smallest: int) -> tuple[Image.Image, float]:
    """The image with a shorter side of at least smallest, if its longer side stays within LONGEST; and the factor."""
    factor = max(1.0, min(smallest / min(image.size), LONGEST / max(image.size)))
    size = round(image.width * factor), round(image.height * factor)
    return image.resize(size, Image.Resampling.BICUBIC), factor


def faded(image: Image.Image) -> Image.Image:
    """A copy of image in dark grey, on which coloured boxes can be told apart."""
    return Image.eval(image.convert("L"), lambda value: round(0.6 * value)).convert("RGB")


def draw_regions(image: Image.Image, boxes: list[list[float]], colors: list[tuple[int, int, int]]) -> Image.Image:
    """A copy of image with thin boxes (n, 4) xyxy in these colours, the last on top."""
    image = image.copy()
    draw = ImageDraw.Draw(image)
    for (x1, y1, x2, y2), color in zip(boxes, colors, strict=True):
        draw.rectangle([x1, y1, max(x1, x2), max(y1, y2)], outline=color)
    return image


def draw_tagged(image: Image.Image, boxes: list[list[float]], colors: list[tuple[int, int, int]],
                tags: list[str]) -> Image.Image:
    """A copy of image with thick boxes (n, 4) xyxy, the first on top, and short tags above them, side by side."""
    image, font = image.copy(), ImageFont.load_default(12)
    draw = ImageDraw.Draw(image)
    for position in reversed(range(len(boxes))):
        x1, y1, x2, y2 = boxes[position]
        draw.rectangle([x1, y1, max(x1, x2), max(y1, y2)], outline=colors[position], width=2)
        width = font.getlength(tags[position]) + 4
        x = min(x1 + 18 * (position % 6), image.width - width - 1)       # boxes that nearly coincide keep their tags
        y = max(y1 - 16, 0)
        draw.rectangle([x, y, x + width, y + 15], fill=(0, 0, 0))
        draw.text((x + 2, y + 1), tags[position], fill=colors[position], font=font)
    return image


def with_legend(image: Image.Image, entries: list[tuple[tuple[int, int, int] | None, str]]) -> Image.Image:
    """The image above a white strip that says what its colours mean, in as many lines as its width needs.
    entries: a colour, or None, and its meaning."""
    font, places, x, y = ImageFont.load_default(12), [], 4, image.height + 4
    for _, text in entries:
        width = round(font.getlength(text)) + 30
        if x > 4 and x + width > image.width:
            x, y = 4, y + 18
        places.append((x, y))
        x += width
    sheet = Image.new("RGB", (image.width, y + 18), (255, 255, 255))
    sheet.paste(image)
    draw = ImageDraw.Draw(sheet)
    for (color, text), (x, y) in zip(entries, places, strict=True):
        if color is not None:
            draw.rectangle([x, y + 2, x + 11, y + 11], fill=color, outline=(0, 0, 0))
        draw.text((x + 16 if color is not None else x, y), text, fill=(0, 0, 0), font=font)
    return sheet


def tinted(image: Image.Image, names: list[str], masks: list[dict] | None) -> Image.Image:
    """The image under n masks (RLE), each a tint of its name's colour; the first lies on top."""
    for name, mask in reversed(list(zip(names, masks or []))):
        tint = Image.new("RGB", image.size, color_of(name))
        image = Image.composite(Image.blend(image, tint, 0.5), image, Image.fromarray(decode(mask) * np.uint8(255)))
    return image


def dashed(draw: ImageDraw.ImageDraw, x1: float, y1: float, x2: float, y2: float) -> None:
    """A box of white dashes on black, which shows on every ground."""
    draw.rectangle([x1, y1, x2, y2], outline=(0, 0, 0), width=2)
    for begin in np.arange(0, x2 - x1, 9):
        for y in (y1, y2 - 1):
            draw.line([x1 + begin, y, min(x1 + begin + 5, x2), y], fill=(255, 255, 255), width=2)
    for begin in np.arange(0, y2 - y1, 9):
        for x in (x1, x2 - 1):
            draw.line([x, y1 + begin, x, min(y1 + begin + 5, y2)], fill=(255, 255, 255), width=2)


class Drawn(NamedTuple):
    """Objects of an image: boxes (n, 4) xyxy in its pixels, n names, and scores and masks (RLE) where they exist."""
    boxes: np.ndarray
    names: list[str]
    scores: list[float] | None = None
    masks: list[dict] | None = None


def compare(image: Image.Image, truth: Drawn, found: Drawn, side: int) -> Image.Image:
    """The true boxes (dashed) and the detections (solid) in one square of side pixels, their names below it."""
    image = tinted(image, found.names, found.masks)
    factor = side / max(image.size)
    size = max(1, round(image.width * factor)), max(1, round(image.height * factor))
    left, top = (side - size[0]) // 2, (side - size[1]) // 2
    square = Image.new("RGB", (side, side), (235, 235, 235))
    square.paste(image.resize(size, Image.Resampling.BICUBIC), (left, top))
    draw = ImageDraw.Draw(square)
    shift = np.array([left, top, left, top])
    for position in reversed(range(len(found.names))):                   # the best one on top
        x1, y1, x2, y2 = np.asarray(found.boxes[position]) * factor + shift
        draw.rectangle([x1, y1, max(x1, x2), max(y1, y2)], outline=color_of(found.names[position]), width=3)
    for box in truth.boxes:
        x1, y1, x2, y2 = np.asarray(box) * factor + shift
        dashed(draw, x1, y1, max(x1, x2), max(y1, y2))
    names = [(None, f"truth: {name}") for name in dict.fromkeys(truth.names)]
    return with_legend(square, names + [(color_of(name), f"{name} {score:.2f}")
                                        for name, score in zip(found.names, found.scores or [])])


class Label(NamedTuple):
    """Where a name stands, in pixels."""
    x1: float
    y1: float
    x2: float
    y2: float


def free_label(label: Label, others: list[Label], bottom: float) -> Label:
    """The label, moved down until it covers none of the others; where it meets the bottom first, it stays."""
    place = label
    while hidden := [o for o in others if o.x1 < place.x2 and place.x1 < o.x2 and o.y1 < place.y2 and place.y1 < o.y2]:
        down = hidden[0].y2 - place.y1
        place = Label(place.x1, place.y1 + down, place.x2, place.y2 + down)
        if place.y2 > bottom:
            return label
    return place


def draw_boxes(image: Image.Image, boxes: np.ndarray, names: list[str], scores: list[float] | None,
               masks: list[dict] | None = None) -> Image.Image:
    """A copy of image, enlarged where small, with boxes (n, 4) xyxy, their names, and n masks (RLE) as a tint."""
    image = tinted(image, names, masks)
    image, factor = enlarged(image, SMALLEST)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(12)
    corners = [[float(v) * factor for v in box] for box in boxes]
    colors = [color_of(name) for name in names]
    for (x1, y1, x2, y2), color in reversed(list(zip(corners, colors))):          # the best one on top
        draw.rectangle([x1, y1, max(x1, x2), max(y1, y2)], outline=color, width=2)
    texts = names if scores is None else [f"{name} {score:.2f}" for name, score in zip(names, scores)]
    labels: list[Label] = []
    for (x1, y1, *_), color, text in zip(corners, colors, texts):
        _, _, width, height = draw.textbbox((0, 0), text, font=font)
        width, height = width + 4, height + 3
        x = min(max(0, x1), max(0, image.width - width))
        y = y1 - height if y1 > height else min(y1, image.height - height)
        labels.append(free_label(Label(x, y, x + width, y + height), labels, image.height))
        draw.rectangle(labels[-1], fill=(0, 0, 0))
        draw.text((labels[-1].x1 + 2, labels[-1].y1 + 1), text, fill=color, font=font)
    return image


def contact_sheet(images: list[Image.Image], columns: int, captions: list[str] | None = None) -> Image.Image:
    """All images on one sheet, row by row, each at most LONGEST pixels long; a caption above each where given."""
    images = [_fitted(image) for image in images]
    above = 16 if captions else 0
    width, height = max(i.width for i in images) + 6, max(i.height for i in images) + 6 + above
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (width * min(columns, len(images)), height * rows), (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    for number, image in enumerate(images):
        x, y = number % columns * width + 3, number // columns * height + 3
        if captions:
            draw.text((x + 2, y), captions[number], fill=(0, 0, 0), font=ImageFont.load_default(12))
        sheet.paste(image, (x, y + above))
    return sheet


def _fitted(image: Image.Image) -> Image.Image:
    """The image, smaller where its longer side is above LONGEST."""
    factor = min(1.0, LONGEST / max(image.size))
    size = max(1, round(image.width * factor)), max(1, round(image.height * factor))
    return image if size == image.size else image.resize(size, Image.Resampling.LANCZOS)

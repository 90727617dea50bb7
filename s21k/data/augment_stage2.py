"""Weak augmentation of stage II, the same for both kinds of images [P17, P54-P56], and the test resize.

Each takes an image, the size it was annotated at, and a Target in those pixels; it returns
(3, h, w) uint8 without padding, the Target in the new pixels, and the scale (x, y).
"""
import math
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from s21k.core import boxes as B
from s21k.core.structures import Target
from s21k.files.images import resize

Augmented = tuple[Tensor, Target, tuple[float, float]]


def move_target(target: Target, scale: tuple[float, float], shift: tuple[float, float],
                size: tuple[int, int]) -> Target:
    """Boxes times scale (x, y), minus shift (x, y), clipped to size (h, w); below one pixel a side they go [G23].

    Where masks are known, a box that was cut is drawn anew around the part of the mask that is left [G23].
    """
    whole = target.boxes * torch.tensor([*scale, *scale]) - torch.tensor([*shift, *shift])
    boxes = B.clip(whole, size)
    masks = None
    if target.masks is not None:
        masks = target.masks.moved(scale, (-shift[0], -shift[1]))
        for i in ((boxes - whole).abs() > 1e-3).any(dim=1).nonzero().squeeze(1).tolist():
            boxes[i] = torch.tensor(masks.seen_box(i, size) or [0.0, 0.0, 0.0, 0.0])
    return Target(boxes, target.labels, masks).pick((boxes[:, 2:] - boxes[:, :2] >= 1).all(dim=1))


class JitterParams(NamedTuple):
    """What chance decides for one image: the scale s, the place of the crop as shares, the flip."""
    s: float
    x: float
    y: float
    flip: bool


class LargeScaleJitter:
    """Large-scale jitter (Ghiasi et al., 2021) [P54, P55] and a random flip [P56].

    The image is resized so that it would just fit a size x size square, times s ~ U(scale); what
    is larger than the square is cropped at a random place, independently in x and y [G23].
    """

    def __init__(self, size: int, scale: tuple[float, float]) -> None:
        self.size, self.scale = size, scale

    def draw(self) -> JitterParams:
        """Chance from torch's global generator: s, then x, y and the flip as numbers in [0, 1)."""
        s, x, y, flip = torch.rand(4).tolist()
        return JitterParams(self.scale[0] + s * (self.scale[1] - self.scale[0]), x, y, flip < 0.5)

    def needed_side(self, draw: JitterParams) -> int:
        """The image's longer side after the resize: fewer pixels need not be decoded (images.read_image)."""
        return math.ceil(self.size * draw.s)

    def __call__(self, image: Image.Image, annotated: tuple[int, int], target: Target, draw: JitterParams) -> Augmented:
        h, w = annotated
        ratio = draw.s * min(self.size / h, self.size / w)
        new_h, new_w = max(1, round(h * ratio)), max(1, round(w * ratio))            # of the whole image
        crop_h, crop_w = min(new_h, self.size), min(new_w, self.size)
        # The image is cut before it is resized, at its own whole pixels: only what will be seen is resized, and the
        # boxes follow the cut exactly. Where nothing is cut, the window is the whole image.
        fx, fy = image.width / new_w, image.height / new_h
        window_w, window_h = max(1, round(crop_w * fx)), max(1, round(crop_h * fy))
        x, y = round(draw.x * (image.width - window_w)), round(draw.y * (image.height - window_h))
        tensor = resize(image, (crop_h, crop_w), (x, y, x + window_w, y + window_h), mirror=draw.flip)
        per_pixel = crop_w / window_w, crop_h / window_h                             # of the image as decoded
        scale = image.width / w * per_pixel[0], image.height / h * per_pixel[1]
        target = move_target(target, scale, (x * per_pixel[0], y * per_pixel[1]), (crop_h, crop_w))
        return tensor, flip_target(target, crop_w) if draw.flip else target, scale


def flip_target(target: Target, width: int) -> Target:
    """Mirrored left to right in an image of this width."""
    x1, y1, x2, y2 = target.boxes.unbind(1)
    masks = None if target.masks is None else target.masks.moved((-1.0, 1.0), (float(width), 0.0))
    return Target(torch.stack([width - x2, y1, width - x1, y2], dim=1), target.labels, masks)


class ResizeShortestEdge:
    """The test resize [P12, G25]: the shorter side to `shortest`, but the longer to `longest` at most."""

    def __init__(self, shortest: int, longest: int) -> None:
        self.shortest, self.longest = shortest, longest

    def new_size(self, annotated: tuple[int, int]) -> tuple[int, int]:
        """(h, w) of the original -> (h, w) of the network's input."""
        h, w = annotated
        ratio = min(self.shortest / min(h, w), self.longest / max(h, w))
        return max(1, round(h * ratio)), max(1, round(w * ratio))

    def __call__(self, image: Image.Image, annotated: tuple[int, int], target: Target) -> Augmented:
        (h, w), (new_h, new_w) = annotated, self.new_size(annotated)
        tensor = resize(image, (new_h, new_w))
        scale = (new_w / w, new_h / h)
        return tensor, move_target(target, scale, (0, 0), (new_h, new_w)), scale

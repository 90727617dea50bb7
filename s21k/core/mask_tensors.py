"""Masks where tensors meet them: cut out of an object's outline as the mask head's target, and pasted into the image
from its output.

M objects of an image
"""
from dataclasses import dataclass

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor
from torchvision.ops import roi_align

from s21k.core.masks import Outline, decode, encode


@dataclass(frozen=True)
class Masks:
    """The M objects of one image of the network. A point p of an outline lies at p * scale + shift (x, y);
    scale x is negative in a mirrored image."""
    outlines: tuple[Outline, ...]
    scale: tuple[float, float] = (1.0, 1.0)
    shift: tuple[float, float] = (0.0, 0.0)

    def __len__(self) -> int:
        return len(self.outlines)

    def moved(self, scale: tuple[float, float], shift: tuple[float, float]) -> "Masks":
        """Every point times scale, plus shift."""
        return Masks(self.outlines, tuple(a * b for a, b in zip(self.scale, scale)),
                     tuple(a * b + c for a, b, c in zip(self.shift, scale, shift)))

    def pick(self, kept: Tensor) -> "Masks":
        """kept (M,) bool."""
        return Masks(tuple(o for o, keep in zip(self.outlines, kept.tolist()) if keep), self.scale, self.shift)

    def _annotated(self, box: list[float]) -> tuple[float, float, float, float]:
        """A box of the network's image in the annotation's pixels."""
        (sx, sy), (tx, ty) = self.scale, self.shift
        x1, x2 = sorted(((box[0] - tx) / sx, (box[2] - tx) / sx))
        return x1, (box[1] - ty) / sy, x2, (box[3] - ty) / sy

    def crop(self, index: int, box: list[float], side: int) -> Tensor:
        """Object `index` inside a box of the network's image (x1, y1, x2, y2 with a size), on a side x side grid:
        bool."""
        outline = self.outlines[index]
        if outline.polygons:
            origin, extent = np.array(box[:2]), np.array(box[2:]) - np.array(box[:2])
            polygons = [(((p.reshape(-1, 2) * self.scale + self.shift) - origin) / extent * side).reshape(-1)
                        for p in outline.polygons]
            drawn = decode(coco_mask.merge(coco_mask.frPyObjects(polygons, side, side)))
            return torch.from_numpy(drawn).bool()
        whole = torch.from_numpy(decode(outline.rle())).float()[None, None]
        window = torch.tensor([[0.0, *self._annotated(box)]])
        inside = roi_align(whole, window, side, sampling_ratio=0, aligned=True)[0, 0] >= 0.5
        return inside.flip(-1) if self.scale[0] < 0 else inside

    def seen_box(self, index: int, size: tuple[int, int]) -> list[float] | None:
        """x1, y1, x2, y2 around the part of the object that lies in the image of size (h, w), to a pixel of the
        annotation; None: nothing does."""
        h, w = size
        x1, y1, x2, y2 = (int(v) for v in np.round(self._annotated([0.0, 0.0, w, h])).clip(min=0))
        seen = decode(self.outlines[index].rle())[y1:y2, x1:x2]
        columns, rows = np.flatnonzero(seen.any(axis=0)), np.flatnonzero(seen.any(axis=1))
        if len(columns) == 0:
            return None
        corners = (np.array([[x1 + columns[0], y1 + rows[0]], [x1 + columns[-1] + 1, y1 + rows[-1] + 1]]) * self.scale
                   + self.shift)
        (left, top), (right, bottom) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
        return [max(left, 0.0), max(top, 0.0), min(right, float(w)), min(bottom, float(h))]


def _interpolation(low: float, high: float, length: int, cells: int) -> tuple[int, int, Tensor]:
    """(first, end, (end - first, cells)): linear interpolation from `cells` cells between low and high to the pixels
    there."""
    first = max(0, int(np.floor(low)))
    end = max(first, min(length, int(np.ceil(high))))
    place = (torch.arange(first, end, dtype=torch.float32) + 0.5 - low) / max(high - low, 1e-6) * cells - 0.5
    return first, end, (1 - (place[:, None] - torch.arange(cells)).abs()).clamp(min=0)


def paste(probability: Tensor, box: list[float], size: tuple[int, int]) -> dict:
    """The mask (m, m) predicted in a box, as the RLE of an image of size (h, w): where, interpolated, it is >= 0.5.

    A pixel's value is read at its centre; outside of the m x m cells it falls to zero.
    """
    top, bottom, rows = _interpolation(box[1], box[3], size[0], probability.shape[0])
    left, right, columns = _interpolation(box[0], box[2], size[1], probability.shape[1])
    whole = np.zeros(size, dtype=np.uint8, order="F")
    with torch.autocast("cpu", enabled=False):                           # in float32, whatever the network runs in
        whole[top:bottom, left:right] = (rows @ probability.float() @ columns.T >= 0.5).numpy()
    return encode(whole)

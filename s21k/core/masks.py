"""Masks of objects: polygons or run lengths, kept as annotated and packed; tensors are mask_tensors.py's, so that
scoring a file imports no torch.

pycocotools draws polygons and codes run lengths [E35, E36]. A run-length dict ("RLE") is COCO's compressed
form: {"size": [h, w], "counts": bytes}.

A objects of a data set    N detections
"""
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as coco_mask

from s21k.core.packed import Packed, ranges


@dataclass(frozen=True)
class Outline:
    """One object in an image of size (h, w): polygons, each (2n,) as x, y, x, y .., or, without any, RLE counts."""
    size: tuple[int, int]
    polygons: tuple[np.ndarray, ...]
    counts: bytes = b""

    def rle(self) -> dict:
        """The whole image's mask; overlapping polygons are joined [E35]."""
        if not self.polygons:
            return {"size": list(self.size), "counts": self.counts}
        return coco_mask.merge(coco_mask.frPyObjects([p.astype(np.float64) for p in self.polygons], *self.size))


def parse_outline(segmentation: object) -> Outline:
    """COCO's `segmentation`: polygons, RLE with a list of counts, compressed RLE [E37]. ValueError: what is wrong.
    Polygons do not say their image's size: it is (0, 0). `broken_counts` says whether counts cover their image."""
    if isinstance(segmentation, dict):
        counts, size = segmentation.get("counts"), segmentation.get("size")
        if not isinstance(size, list) or len(size) != 2 or not all(type(n) is int and 0 < n < 1 << 20 for n in size):
            raise ValueError(f"a mask of size {size!r:.40}, expected [h, w]")
        if isinstance(counts, list):
            if not all(type(n) is int and n >= 0 for n in counts) or sum(counts) != size[0] * size[1]:
                raise ValueError(f"run lengths that do not sum to {size[0]} x {size[1]} pixels")
            return Outline(tuple(size), (), coco_mask.frPyObjects({"size": size, "counts": counts}, *size)["counts"])
        if not isinstance(counts, str) or not counts.isascii():
            raise ValueError(f"counts {counts!r:.40}, expected run lengths")
        return Outline(tuple(size), (), counts.encode())
    if not isinstance(segmentation, list) or not segmentation:
        raise ValueError(f"segmentation {segmentation!r:.40}, expected polygons or run lengths")
    for polygon in segmentation:
        if (not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2
            or not set(map(type, polygon)) <= {int, float}):
            raise ValueError(f"polygon {polygon!r:.40}, expected x, y of at least three corners")
    polygons = tuple(np.array(polygon, dtype=np.float64) for polygon in segmentation)
    if not all((np.abs(polygon) < 1e6).all() for polygon in polygons):           # false of nan as well
        raise ValueError("a polygon with a corner that is not finite or far outside of any image")
    return Outline((0, 0), polygons)


def broken_counts(counts: Packed, sizes: np.ndarray) -> np.ndarray:
    """(N,) bool: which of N compressed counts are not of COCO's form, or do not cover their h x w pixels; sizes (N, 2).
    pycocotools itself would read on beyond them. All at once; a run is 5 bits a byte, and a bit: more follow."""
    bad = np.zeros(len(counts), dtype=bool)
    for first in range(0, len(counts), 65536):
        offsets = counts.offsets[first:first + 65537]
        values = counts.data[offsets[0]:offsets[-1]].astype(np.int64) - 48
        offsets = offsets - offsets[0]
        lengths = np.diff(offsets)
        owner = np.repeat(np.arange(len(lengths)), lengths)
        wrong = lengths == 0
        wrong[owner[(values < 0) | (values > 63)]] = True
        last = values & 32 == 0                                                          # the last byte of a run
        mask_ends = offsets[1:][lengths > 0] - 1
        wrong[owner[mask_ends[~last[mask_ends]]]] = True
        last[mask_ends] = True
        ends = np.flatnonzero(last)
        begins = np.r_[0, ends[:-1] + 1][:len(ends)]
        place = np.arange(len(values)) - np.repeat(begins, ends - begins + 1)
        wrong[owner[place > 6]] = True
        place = place.clip(max=6)
        runs = np.add.reduceat((values & 31) << (5 * place), begins) if len(begins) else np.zeros(0, np.int64)
        runs -= np.where(values[ends] & 16, 1 << (5 * (place[ends] + 1)), 0)              # the sign bit
        # From the fourth run of a mask on, a run is written as the difference to the one two before it [E36].
        owner = owner[begins]
        turn = np.arange(len(runs)) - np.searchsorted(owner, owner)
        chain = 3 * owner + np.where(turn == 0, 0, 1 + turn % 2)
        order = np.argsort(chain, kind="stable")
        total = np.cumsum(runs[order])
        begins = np.searchsorted(chain[order], chain[order])
        runs[order] = total - (total - runs[order])[begins]
        wrong[owner[runs < 0]] = True
        height, width = sizes[first:first + 65536].astype(np.int64).T
        wrong |= np.bincount(owner, weights=runs, minlength=len(lengths)) != height * width
        bad[first:first + 65536] = wrong
    return bad


class PackedOutlines:
    """Outlines of A objects as a few arrays: all corners, where polygons and objects begin, run lengths."""

    def __init__(self, outlines: list[Outline]) -> None:
        parts = [p for o in outlines for p in o.polygons]
        self.corners = np.concatenate([np.zeros(0), *parts])            # as written: scoring needs every bit
        self.part_offsets = np.cumsum([0, *map(len, parts)])
        self.object_offsets = np.cumsum([0, *(len(o.polygons) for o in outlines)])
        self.counts = Packed(o.counts for o in outlines)
        self.sizes = np.array([o.size for o in outlines], dtype=np.int32).reshape(-1, 2)

    def columns(self) -> dict[str, np.ndarray]:
        """The arrays by name; of_columns takes them back."""
        return {"corners": self.corners, "part_offsets": self.part_offsets, "object_offsets": self.object_offsets,
                "counts": self.counts.data, "count_offsets": self.counts.offsets, "sizes": self.sizes}

    @classmethod
    def of_columns(cls, columns: dict[str, np.ndarray]) -> "PackedOutlines":
        packed = cls([])
        packed.corners, packed.part_offsets, packed.object_offsets, packed.sizes = (
            columns[name] for name in ("corners", "part_offsets", "object_offsets", "sizes"))
        packed.counts = Packed.of_arrays(columns["counts"], columns["count_offsets"])
        return packed

    @classmethod
    def join(cls, parts: "list[PackedOutlines]") -> "PackedOutlines":
        """One after the other."""
        def offsets(name: str) -> np.ndarray:
            own = [getattr(p, name) for p in parts]
            begins = np.cumsum([0, *(o[-1] for o in own)])
            return np.concatenate([*(o[:-1] + begin for o, begin in zip(own, begins)), begins[-1:]])

        counts = Packed.join([p.counts for p in parts])
        return cls.of_columns({"corners": np.concatenate([np.zeros(0), *(p.corners for p in parts)]),
                               "part_offsets": offsets("part_offsets"), "object_offsets": offsets("object_offsets"),
                               "sizes": np.concatenate([np.zeros((0, 2), np.int32), *(p.sizes for p in parts)]),
                               "counts": counts.data, "count_offsets": counts.offsets})

    def place(self, sizes: np.ndarray) -> np.ndarray:
        """Put the objects on images of sizes (A, 2); (A,) bool: drawn on another size, or counts not covering it."""
        drawn = np.diff(self.object_offsets) == 0
        bad = drawn & (self.sizes != sizes).any(axis=1)
        rows = np.flatnonzero(drawn & ~bad)
        bad[rows] = broken_counts(self.counts.take(rows), sizes[rows])
        self.sizes = sizes.astype(np.int32)
        return bad

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> Outline:
        parts = range(self.object_offsets[index], self.object_offsets[index + 1])
        polygons = tuple(self.corners[self.part_offsets[p]:self.part_offsets[p + 1]] for p in parts)
        return Outline(tuple(self.sizes[index].tolist()), polygons, self.counts[index])

    def take(self, rows: np.ndarray) -> "PackedOutlines":
        """The objects at these positions, in this order."""
        polygons = (self.object_offsets[1:] - self.object_offsets[:-1])[rows]
        parts = ranges(self.object_offsets[:-1][rows], polygons)
        lengths = (self.part_offsets[1:] - self.part_offsets[:-1])[parts]
        counts = self.counts.take(rows)
        return PackedOutlines.of_columns({
            "corners": np.asarray(self.corners[ranges(self.part_offsets[:-1][parts], lengths)]),
            "part_offsets": np.r_[0, np.cumsum(lengths)], "object_offsets": np.r_[0, np.cumsum(polygons)],
            "sizes": self.sizes[rows], "counts": counts.data, "count_offsets": counts.offsets})


def encode(mask: np.ndarray) -> dict:
    """(h, w) of 0 and 1 -> RLE."""
    return coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))


def decode(rle: dict) -> np.ndarray:
    """RLE -> (h, w) uint8 of 0 and 1."""
    return coco_mask.decode(rle)


@dataclass(frozen=True)
class Rles:
    """Masks of N detections: compressed counts, and the (h, w) of each one's image (N, 2)."""
    counts: Packed
    sizes: np.ndarray

    @classmethod
    def of(cls, rles: list[dict]) -> "Rles":
        return cls(Packed(r["counts"] for r in rles),
                   np.array([r["size"] for r in rles], dtype=np.int32).reshape(-1, 2))

    @classmethod
    def join(cls, parts: "list[Rles]") -> "Rles":
        return cls(Packed.join([p.counts for p in parts]),
                   np.concatenate([np.zeros((0, 2), np.int32), *(p.sizes for p in parts)]))

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> dict:
        return {"size": self.sizes[index].tolist(), "counts": self.counts[index]}

    def take(self, rows: np.ndarray) -> "Rles":
        return Rles(self.counts.take(rows), self.sizes[rows])

    def areas_and_boxes(self) -> tuple[np.ndarray, np.ndarray]:
        """Pixels of each (N,), and [x, y, w, h] around them (N, 4)."""
        if len(self) == 0:
            return np.zeros(0), np.zeros((0, 4))
        rles = [self[i] for i in range(len(self))]
        # One at a time: pycocotools 2.0.11 refuses to measure a list of more than 255.
        return np.array([coco_mask.area(rle) for rle in rles],
                        dtype=np.float64), np.stack([coco_mask.toBbox(rle) for rle in rles])


def mask_iou(detections: list[dict], objects: list[dict], crowd: np.ndarray) -> np.ndarray:
    """(d, g) IoU of pixels; with a crowd (g,) the divisor is the detection's area [E17, E36]."""
    return np.asarray(coco_mask.iou(detections, objects, crowd.astype(np.uint8).tolist()),
                      dtype=np.float64).reshape(len(detections), len(objects))

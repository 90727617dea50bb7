"""Tiny ImageNet (200 classes, 64 x 64 pixels, one box an image) -> lists, boxes and categories.

    python -m s21k.prepare.tiny_imagenet tiny-imagenet-200.zip [--out data/tiny-imagenet] [--classes 40]

--classes: every 5th class when 40 of the 200 are wanted, and so on. Every second class (of the sorted wnids) is base:
the detection set has the boxes of its training images. The other 100 are novel: their boxes are used for scoring only.
A zip with fewer images than the official one is taken as it is.

Writes train.tsv, val.tsv, det_train.json, val.json, categories.json and the images below --out.
"""
import io
import json
import zipfile
import zlib
from pathlib import Path

import torch

from s21k.core.categories import CategoryMap
from s21k.core.errors import InputError, refused, run_command
from s21k.core.options import read_options
from s21k.files.images import image_size
from s21k.prepare.imagenet_val import Found, coco_content

ROOT = "tiny-imagenet-200/"


def _box(fields: list[str], size: tuple[int, int], where: str) -> list[float]:
    """Four corner fields, inclusive pixels -> [x, y, w, h]: width = x2 - x1 + 1. size (h, w)."""
    try:
        x1, y1, x2, y2 = (int(field) for field in fields)
    except ValueError:
        raise InputError(f"{where}: {fields!r}, expected x1 y1 x2 y2") from None
    if not (0 <= x1 <= x2 < size[1] and 0 <= y1 <= y2 < size[0]):
        raise InputError(f"{where}: box {[x1, y1, x2, y2]} is not inside the image of {size} (h, w)")
    return [float(x1), float(y1), float(x2 - x1 + 1), float(y2 - y1 + 1)]


def _lines(archive: zipfile.ZipFile, name: str) -> list[str]:
    """The lines of a text member that are not blank."""
    try:
        return [line for line in archive.read(name).decode().splitlines() if line.strip()]
    except (KeyError, UnicodeDecodeError, zipfile.BadZipFile, zlib.error):
        raise InputError(f"{archive.filename}: no readable {name} in it, expected the official "
                         f"tiny-imagenet-200.zip") from None


def _extract(archive: zipfile.ZipFile, name: str, target: Path) -> tuple[int, int]:
    """Write one image to target; its (h, w)."""
    with refused(f"{archive.filename}: {name} is damaged", zipfile.BadZipFile, zlib.error):
        content = archive.read(name)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
    return image_size(io.BytesIO(content))


def prepare(source: Path, out: Path, num_classes: int | None = None) -> dict[str, int]:
    """Unpack the images and write the five files; counts by name. num_classes: of so many classes, evenly chosen."""
    with refused(f"{source}: not a readable zip", zipfile.BadZipFile):
        archive = zipfile.ZipFile(source)
    with archive:
        known = sorted(line.strip() for line in _lines(archive, ROOT + "wnids.txt"))
        num_classes = len(known) if num_classes is None else num_classes
        if not 2 <= num_classes <= len(known):
            raise InputError(f"--classes {num_classes}: expected 2 to {len(known)}")
        wnids = known[::len(known) // num_classes][:num_classes]
        words = dict(line.split("\t", 1) for line in _lines(archive, ROOT + "words.txt") if "\t" in line)
        base = wnids[::2]
        members = set(archive.namelist())
        train: Found = []
        for wnid in wnids:
            for line in _lines(archive, f"{ROOT}train/{wnid}/{wnid}_boxes.txt"):
                name, *corners = line.split()
                if (member := f"{ROOT}train/{wnid}/images/{name}") in members:
                    target = f"train/{wnid}/{Path(name).name}"
                    size = _extract(archive, member, out / target)
                    train.append((target, wnid, size, [_box(corners, size, f"{source}: {wnid}_boxes.txt: {name}")]))
        val: Found = []
        for line in _lines(archive, ROOT + "val/val_annotations.txt"):
            name, wnid, *corners = (line.split() + [""])[:6]
            if (member := f"{ROOT}val/images/{name}") in members:
                if wnid not in known:
                    raise InputError(f"{source}: val_annotations.txt: {name} is of {wnid!r}, which wnids.txt does "
                                     f"not list")
                if wnid not in wnids:
                    continue
                size = _extract(archive, member, out / f"val/{Path(name).name}")
                val.append((f"val/{Path(name).name}", wnid, size,
                            [_box(corners, size, f"{source}: val_annotations.txt: {name}")]))
    if not train or not val:
        raise InputError(f"{source}: holds {len(train)} training and {len(val)} validation images, expected some "
                         f"of each")
    with_boxes = [image for image in train if image[1] in set(base)]
    (out / "train.tsv").write_text("".join(f"{name}\t{wnid}\n" for name, wnid, _, _ in train))
    (out / "val.tsv").write_text("".join(f"{name}\t{wnid}\n" for name, wnid, _, _ in val))
    (out / "det_train.json").write_text(json.dumps(coco_content(with_boxes, base, words)))
    (out / "val.json").write_text(json.dumps(coco_content(val, wnids, words)))
    det_row = {wnid: i for i, wnid in enumerate(base)}
    CategoryMap([words.get(w, w) for w in wnids], list(wnids), ["base" if w in det_row else "novel" for w in wnids],
                torch.tensor([det_row.get(w, -1) for w in wnids]),
                torch.arange(len(wnids))).save(out / "categories.json")
    return {"classes": len(wnids), "base classes": len(base), "training images": len(train),
            "with boxes": len(with_boxes), "validation images": len(val)}


def main(argv: list[str]) -> None:
    a = read_options(argv, "prepare.tiny_imagenet", ("zip",), out=Path("data/tiny-imagenet"), classes=int)
    counts = prepare(a.zip, a.out, a.classes)
    print(f"{a.out}: " + ", ".join(f"{count} {name}" for name, count in counts.items()))


if __name__ == "__main__":
    run_command(main, __doc__)

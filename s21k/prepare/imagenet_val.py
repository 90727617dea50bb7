"""ImageNet-1K's validation set as it is distributed -> a list, its boxes, and the categories of localization [P40-P42].

    python -m s21k.prepare.imagenet_val --index data/imagenet1k/train --images ILSVRC2012_img_val
        --boxes ILSVRC2012_bbox_val_v3 [--truth ILSVRC2012_validation_ground_truth.txt]
        [--wordnet /usr/share/wordnet] --out data/imagenet1k

--index: that of the training images, whose classes are the rows of g-hat. --images: the folder of
ILSVRC2012_val_*.JPEG, flat or sorted into class folders. --boxes: the XML files, anywhere below it; one names each
object's wnid, and may have several. --truth: the development kit's list, a line an image in order, of class numbers or
wnids: it must agree with the XML. Box corners are pixels that belong to the object: a width is x2 - x1 + 1.

Writes val.tsv (image and wnid, for stage I's accuracy), val_boxes.json (COCO's format), categories.json (g-hat only:
the label sets of boxes and of labels are not joined, P41), and val.faults.tsv (what was left out, and why).
"""
import json
import os
from pathlib import Path
from xml.etree import ElementTree

import torch

from s21k.core.categories import CategoryMap
from s21k.core.errors import InputError, refused, run_command
from s21k.core.options import read_options
from s21k.files.archives import ImageIndex
from s21k.files.image_files import PassedOver, images_below
from s21k.files.images import check_image, stored_size
from s21k.prepare.wordnet import WordNet

Found = list[tuple[str, str, tuple[int, int], list[list[float]]]]  # of each image: name, wnid, (h, w), boxes
MAX_XML = 1 << 20                                   # bytes; a real one has about 500


def read_xml(path: Path) -> tuple[tuple[int, int], list[tuple[str, list[float]]]]:
    """The (h, w) boxes were drawn on, and (wnid, [x1, y1, x2, y2]) of each object. InputError: of another form."""
    if path.stat().st_size > MAX_XML:
        raise InputError(f"{path}: {path.stat().st_size} bytes, expected a small XML file")
    with refused(f"{path}: not an annotation of ImageNet", ElementTree.ParseError, ValueError):
        text = path.read_text(encoding="utf-8")
        if "<!DOCTYPE" in text or "<!ENTITY" in text:                   # entities can be made to fill the memory
            raise ValueError("it declares entities")
        objects, root = [], ElementTree.fromstring(text)
        size = int(root.findtext("size/height", "")), int(root.findtext("size/width", ""))
        for node in root.iter("object"):
            corners = [float(node.findtext(f"bndbox/{key}", "")) for key in ("xmin", "ymin", "xmax", "ymax")]
            objects.append(((node.findtext("name") or "").strip(), corners))
        if not all(name and all(abs(v) < 1e6 for v in corners) for name, corners in objects):
            raise ValueError("an object without a name, or a corner that is no number of pixels")
        return size, objects


def inside(corners: list[float], size: tuple[int, int]) -> list[float] | None:
    """Inclusive corners -> [x, y, w, h] clipped to the image of size (h, w); None where less than a pixel is left."""
    x1, y1 = max(corners[0], 0.0), max(corners[1], 0.0)
    x2, y2 = min(corners[2] + 1, float(size[1])), min(corners[3] + 1, float(size[0]))
    return [x1, y1, x2 - x1, y2 - y1] if x2 - x1 >= 1 and y2 - y1 >= 1 else None


def check_truth(path: Path, image_names: list[str], wnids: list[str]) -> None:
    """The kit's list says of each image, in order, what the XML says. InputError: the first where it does not."""
    with refused(f"--truth {path}: cannot be read"):
        lines = [line.split()[-1] for line in path.read_text().splitlines() if line.strip()]  # "n01751748", "a.jpg 490"
    if len(lines) != len(image_names):
        raise InputError(f"--truth {path}: {len(lines)} lines, but there are {len(image_names)} images")
    meant: dict[str, str] = {}  # the kit's class number -> wnid; its numbers are in no order of the wnids
    said: dict[str, str] = {}                       # and back
    for line, name, wnid in zip(lines, image_names, wnids):
        if wnid and meant.setdefault(line, line if line.startswith("n") else wnid) != wnid:
            raise InputError(f"--truth {path}: {name} is {line} ({meant[line]}), its XML says {wnid}")
        if wnid and said.setdefault(wnid, line) != line:
            raise InputError(f"--truth {path}: {name} is {line}, but {wnid} was {said[wnid]} before")


def only_class(objects: list[tuple[str, list[float]]]) -> str:
    """The wnid of an image's objects. InputError: they have several [E44]."""
    wnids = {wnid for wnid, _ in objects}
    if len(wnids) != 1:
        raise InputError(f"objects of {len(wnids)} classes ({', '.join(sorted(wnids)[:3])}), expected one [E44]")
    return wnids.pop()


def check_size(path: Path, drawn_on: tuple[int, int]) -> None:
    """InputError: no readable image, or its boxes were drawn on one of another size (h, w)."""
    with open(path, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 2048))
        size = check_image(path, file.read())
    # Boxes may be drawn on the image as stored: it is not rotated by EXIF then.
    if drawn_on != size and drawn_on != stored_size(path):
        raise InputError(f"its boxes were drawn on {drawn_on} (h, w), it has {size}")


def prepare(classes: list[str], images: Path, boxes: Path, truth: Path | None, names: dict[str, str],
            out: Path) -> dict[str, int]:
    """Write the four files; counts by name. classes: the rows of g-hat, in order."""
    row = {wnid: i for i, wnid in enumerate(classes)}
    if not images.is_dir() or not boxes.is_dir():
        raise InputError(f"{images if not images.is_dir() else boxes}: no such folder")
    passed = PassedOver()
    image_names = sorted((os.path.relpath(path, images) for path in images_below(images, passed)),
                         key=lambda name: (os.path.basename(name), name))
    passed.say(images)
    files = {path.stem: path for path in boxes.rglob("*.xml")}
    if not image_names or not files:
        raise InputError(f"{images}: {len(image_names)} images, {boxes}: {len(files)} XML files, expected some of each")
    faults: list[tuple[str, str]] = []
    found: Found = []
    classes_of_all: list[str] = []
    for name in image_names:
        classes_of_all.append("")
        try:
            if Path(name).stem not in files:
                raise InputError("no XML of its boxes")
            drawn_on, objects = read_xml(files[Path(name).stem])
            classes_of_all[-1] = only_class(objects)
            if classes_of_all[-1] not in row:
                raise InputError(f"its class {classes_of_all[-1]} is none of the {len(row)} of the training images")
            check_size(images / name, drawn_on)
            kept = [box for box in (inside(corners, drawn_on) for _, corners in objects) if box]
            if len(kept) < len(objects):
                faults.append(
                    (name, f"{len(objects) - len(kept)} of its {len(objects)} boxes lie outside of the image"))
            if kept:
                found.append((name, classes_of_all[-1], drawn_on, kept))
        except (InputError, OSError) as error:
            faults.append((name, str(error)))
    if truth is not None:
        check_truth(truth, image_names, classes_of_all)
    if not found:
        raise InputError(f"{images}: no image has good boxes; the first fault: {faults[0][1]}")
    return write(found, faults, classes, images, names, out)


def coco_content(found: Found, wnids: list[str], names: dict[str, str]) -> dict:
    """What a COCO-format file holds of these images and categories; ids start at 1."""
    ids = {wnid: i for i, wnid in enumerate(wnids, start=1)}
    rows = [{"image_id": i, "category_id": ids[wnid], "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            for i, (_, wnid, _, boxes) in enumerate(found, start=1) for box in boxes]
    return {"images": [{"id": i, "file_name": name, "height": h, "width": w}
                       for i, (name, _, (h, w), _) in enumerate(found, start=1)],
            "annotations": [{"id": i, **row} for i, row in enumerate(rows, start=1)],
            "categories": [{"id": i, "name": names.get(wnid, wnid), "wnid": wnid} for wnid, i in ids.items()]}


def write(found: Found, faults: list[tuple[str, str]], classes: list[str], images: Path, names: dict[str, str],
          out: Path) -> dict[str, int]:
    """The four files; counts by name. classes: the rows of g-hat, in order."""
    out.mkdir(parents=True, exist_ok=True)
    linked = out / "val"                                                 # the list's images lie below its own folder
    if not linked.exists():
        linked.symlink_to(os.path.relpath(os.path.realpath(images), os.path.realpath(out)), target_is_directory=True)
    elif not linked.samefile(images):
        raise InputError(f"{linked}: exists and is not {images}, expected nothing there, or that folder")
    (out / "val.tsv").write_text("".join(f"val/{name}\t{wnid}\n" for name, wnid, _, _ in found))
    (out / "val_boxes.json").write_text(json.dumps(coco_content(found, classes, names)))
    CategoryMap([names.get(wnid, wnid) for wnid in classes], list(classes), ["all"] * len(classes),
                torch.full((len(classes),), -1), torch.arange(len(classes))).save(out / "categories.json")
    (out / "val.faults.tsv").write_text("file\treason\n"
                                        + "".join(f"{name}\t{' '.join(reason.split())}\n" for name, reason in faults))
    return {"images": len(found), "boxes": sum(len(boxes) for *_, boxes in found),
            "classes": len({wnid for _, wnid, _, _ in found}), "faults": len(faults)}


def main(argv: list[str]) -> None:
    a = read_options(argv, "prepare.imagenet_val", ("--index", "--images", "--boxes"), truth=Path, wordnet=Path,
                     out=Path("data/imagenet1k"))
    names = {} if a.wordnet is None else {wnid: ", ".join(words) for wnid, words in WordNet(a.wordnet).names.items()}
    with refused(f"--out {a.out}: cannot be written"):
        counts = prepare(ImageIndex.load(a.index).class_names, a.images, a.boxes, a.truth, names, a.out)
    print(f"{a.out}: " + ", ".join(f"{count} {name}" for name, count in counts.items())
          + " (the full set: 50000 images of 1000 classes)")


if __name__ == "__main__":
    run_command(main, __doc__)

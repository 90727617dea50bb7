"""The toy world in the formats in which the paper's data sets are distributed, with their known faults: for trying the
preparation and the setups before the real archives are there (s21k.prepare.shapes --format).

Categories have real names, synsets and wnids, and look like shapes. Each format is a folder that serves as data.root.
"""
import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from pycocotools.mask import area

from s21k.core.errors import InputError
from s21k.core.masks import encode
from s21k.core.randomness import derive_seed
from s21k.prepare.shape_drawing import draw_image, make_categories


class Thing(NamedTuple):
    """A category as LVIS, WordNet 3.0, ImageNet-21K and Objects365 name it (None: not in that one)."""
    lvis: str | None
    synset: str
    frequency: str
    wnid: str | None
    lemmas: str
    objects365: str | None


THINGS = (Thing("airplane", "airplane.n.01", "f", "n02691156", "airplane aeroplane plane", "Airplane"),
          Thing("apple", "apple.n.01", "f", "n07739125", "apple", "Apple"),
          Thing("banana", "banana.n.02", "f", "n07753592", "banana", None),
          Thing("ashtray", "ashtray.n.01", "c", "n02747802", "ashtray", "Ashtrays/other"),
          Thing("bagel", "bagel.n.01", "c", "n07693725", "bagel beigel", None),
          Thing("bathrobe", "bathrobe.n.01", "c", "n02807616", "bathrobe", None),
          Thing("banjo", "banjo.n.01", "r", "n02787622", "banjo", None),
          Thing("barbell", "barbell.n.01", "r", "n02790996", "barbell", None),
          Thing("beetle", "beetle.n.01", "r", "n02164464", "beetle", None),
          Thing("stop_sign", "stop_sign.n.01", "f", None, "", "Stop Sign"),            # WordNet has no such synset
          # two classes have this lemma: not guessed
          Thing(None, "mouse.n.01", "", "n02330245", "mouse", "Mouse"),
          Thing(None, "mouse.n.04", "", "n03793489", "mouse computer_mouse", None))
# the others have one
SENSES = {"banana": ["12352287", "07753592"], "mouse": ["02330245", "14289387", "10335563", "03793489"]}
LOOKS = dict(zip(THINGS, make_categories(len(THINGS))))
# images of these classes, whatever is asked for: the split's rules [P45]
FEW = {"n02164464": 3, "n02790996": 6}


def _draw(seed: int, things: list[Thing], size: int,
          scale: tuple[float, float]) -> tuple[Image.Image, list[tuple[Thing, list[float], np.ndarray]]]:
    """An image of these things, and (thing, box [x, y, w, h], mask (h, w)) of each that found a place."""
    image, boxes, placed, masks = draw_image(seed, [LOOKS[thing] for thing in things], size, scale)
    return image, [(things[number], box, mask) for number, box, mask in zip(placed, boxes, masks)]


def _outline(box: list[float], mask: np.ndarray) -> list[list[float]]:
    """One polygon around a drawn mask, as an annotator clicks it: the leftmost and rightmost pixel of some rows."""
    rows = np.flatnonzero(mask.any(axis=1))
    rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), 16)).round().astype(int)]
    spans = [np.flatnonzero(mask[row])[[0, -1]] for row in rows]
    points = ([(left, row) for row, (left, _) in zip(rows, spans)]
              + [(right + 1, row) for row, (_, right) in reversed(list(zip(rows, spans)))])
    if len(points) < 3:
        x, y, w, h = box
        points = [(x, y), (x + w, y), (x + w, y + h), (x, y + h)]
    return [[float(v) for point in points for v in point]]


class Annotations:
    """A COCO-format file that grows image by image."""

    def __init__(self, categories: list[dict], ids: dict[Thing, int]) -> None:
        self.content: dict[str, list] = {"images": [], "annotations": [], "categories": categories}
        self.ids = ids

    def add(self, image: Image.Image, objects: list[tuple[Thing, list[float], np.ndarray]], polygons: bool,
            **named: object) -> None:
        number = len(self.content["images"]) + 1
        self.content["images"].append({"id": number, "height": image.height, "width": image.width, **named})
        for thing, box, mask in objects:
            rle = encode(mask)
            outline = {"segmentation": _outline(box, mask)} if polygons else {}
            self.content["annotations"].append({"id": len(self.content["annotations"]) + 1, "image_id": number,
                                                "category_id": self.ids[thing], "bbox": box,
                                                "area": float(area(rle)), "iscrowd": 0, **outline})

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.content))


def write_wordnet(folder: Path) -> None:
    """index.noun and data.noun with the things' synsets only, in WordNet's form."""
    folder.mkdir(parents=True, exist_ok=True)
    known = [thing for thing in THINGS if thing.wnid]
    senses = {lemma: SENSES.get(lemma, [thing.wnid[1:]]) for thing in known for lemma in thing.lemmas.split()}
    (folder / "index.noun").write_text("  1 in the form of WordNet 3.0\n" + "".join(
        f"{lemma} n {len(offsets)} 1 @ {len(offsets)} 0 {' '.join(offsets)}  \n"
        for lemma, offsets in sorted(senses.items())))
    (folder / "data.noun").write_text("  1 in the form of WordNet 3.0\n" + "".join(
        f"{thing.wnid[1:]} 06 n {len(thing.lemmas.split()):02x} "
        f"{' '.join(f'{word} 0' for word in thing.lemmas.split())} 000 | a thing  \n"
        for thing in sorted(known, key=lambda t: t.wnid)))


def _jpeg(image: Image.Image, **how: object) -> bytes:
    content = io.BytesIO()
    image.save(content, "JPEG", quality=92, **how)
    return content.getvalue()


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def write_tars(folder: Path, per_class: int, size: int, seed: int) -> None:
    """folder/<wnid>.tar of each class, and beside it <folder>_truth.json: the boxes of every image."""
    folder.mkdir(parents=True, exist_ok=True)
    truth = {}
    for thing in THINGS:
        if thing.wnid is None:
            continue
        with tarfile.open(folder / f"{thing.wnid}.tar", "w", format=tarfile.GNU_FORMAT) as tar:
            for i in range(FEW.get(thing.wnid, per_class)):
                image, objects = _draw(derive_seed(seed, thing.wnid, i), [thing], size, (0.4, 0.9))
                name = f"{thing.wnid}_{i}.JPEG"
                _add(tar, name, _jpeg(image))
                truth[f"{thing.wnid}/{name}"] = [box for _, box, _ in objects]
    (folder.parent / f"{folder.name}_truth.json").write_text(json.dumps(truth))


def plant_faults(folder: Path, size: int, seed: int) -> None:
    """One more class file whose images have every fault that ImageNet-21K's files are known for, and some that an enemy
    would plant."""
    thing = next(thing for thing in THINGS if thing.lvis == "banana")
    image = _draw(derive_seed(seed, "faults"), [thing], size, (0.4, 0.9))[0]
    good = _jpeg(image)
    grey = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 256)
    png, palette = io.BytesIO(), io.BytesIO()
    grey.save(png, "PNG")
    image.convert("P").save(palette, "PNG")
    rotated = Image.Exif()
    rotated[0x0112] = 6
    faults = {"truncated": good[:len(good) // 2], "gzipped": gzip.compress(good), "cmyk": _jpeg(image.convert("CMYK")),
              "16bit": png.getvalue(), "palette": palette.getvalue(), "1x1": _jpeg(image.resize((1, 1))),
              "rotated": _jpeg(image.transpose(Image.Transpose.ROTATE_90), exif=rotated), "empty": b"",
              "nopicture": b"<html>404</html>", "a" * 120: good, "twice": good}
    with tarfile.open(folder / f"{thing.wnid}.tar", "a", format=tarfile.GNU_FORMAT) as tar:
        for name, content in faults.items():
            _add(tar, f"{thing.wnid}_{name}.JPEG", content)
        _add(tar, f"{thing.wnid}_twice.JPEG", good)
        _add(tar, "../outside.JPEG", good)
        link = tarfile.TarInfo(f"{thing.wnid}_link.JPEG")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(link)


def write_lvis(out: Path, per_class: int, det_images: int, val_images: int, size: int, seed: int) -> None:
    """LVIS v1's two files and COCO's images; ImageNet-21K as tars; WordNet."""
    things = sorted((thing for thing in THINGS if thing.lvis), key=lambda t: t.lvis)
    ids = {thing: i for i, thing in enumerate(things, start=1)}
    categories = [{"id": i, "name": t.lvis, "synset": t.synset, "frequency": t.frequency, "synonyms": [t.lvis],
                   "def": "a thing", "image_count": 1, "instance_count": 1} for t, i in ids.items()]
    for part, count, folders in (("train", det_images, ["train2017"]), ("val", val_images, ["val2017", "train2017"])):
        file, rng = Annotations(categories, ids), np.random.default_rng(derive_seed(seed, part))
        for i in range(count):
            shown = [things[k] for k in rng.integers(0, len(things), rng.integers(1, 4))]
            image, objects = _draw(derive_seed(seed, part, i), shown, size, (0.25, 0.6))
            # LVIS's val images lie in both of COCO's folders
            folder = folders[i % len(folders)]
            name = f"{folder}/{1000 * (part == 'val') + i:012d}.jpg"
            (out / "coco" / folder).mkdir(parents=True, exist_ok=True)
            image.save(out / "coco" / name, quality=92)
            there = {ids[thing] for thing in shown}
            absent = [c for c in ids.values() if c not in there]
            file.add(image, objects, polygons=True, coco_url=f"http://images.cocodataset.org/{name}",
                     neg_category_ids=sorted(rng.choice(absent, 3, replace=False).tolist()),
                     not_exhaustive_category_ids=[min(there)] if i % 5 == 0 else [])
        file.content = {key: file.content[key] for key in ("annotations", "images", "categories")}       # LVIS's order
        file.save(out / f"lvis_v1_{part}.json")
    write_tars(out / "imagenet21k_tars", per_class, size, seed)
    write_wordnet(out / "wordnet")


def write_imagenet(out: Path, per_class: int, det_images: int, val_images: int, size: int, seed: int) -> None:
    """ImageNet-1K: folders of training images, the flat validation folder, its XML boxes and its list; COCO;
    WordNet."""
    things = [thing for thing in THINGS if thing.wnid]
    for thing in things:
        folder = out / "ILSVRC2012_img_train" / thing.wnid
        folder.mkdir(parents=True)
        for i in range(per_class):
            _draw(derive_seed(seed, "train", thing.wnid, i), [thing], size,
                  (0.4, 0.9))[0].save(folder / f"{thing.wnid}_{i}.JPEG", "JPEG", quality=92)
    pictures, boxes = out / "ILSVRC2012_img_val", out / "ILSVRC2012_bbox_val_v3" / "val"
    pictures.mkdir(parents=True)
    boxes.mkdir(parents=True)
    rng, numbers = np.random.default_rng(derive_seed(seed, "val")), []
    # the kit's class numbers are in no order of the wnids
    order = rng.permutation(len(things))
    for i in range(1, val_images + 1):
        k = int(rng.integers(0, len(things)))
        image, objects = _draw(derive_seed(seed, "val", i), [things[k]] * int(rng.integers(1, 3)), size, (0.25, 0.5))
        name = f"ILSVRC2012_val_{i:08d}"
        image.save(pictures / f"{name}.JPEG", quality=92)
        numbers.append(int(order[k]) + 1)
        shown = "".join(
            f"<object><name>{things[k].wnid}</name><bndbox><xmin>{x:.0f}</xmin><ymin>{y:.0f}</ymin>"
            f"<xmax>{x + w - 1:.0f}</xmax>"
            f"<ymax>{y + h - 1:.0f}</ymax></bndbox></object>" for _, (x, y, w, h), _ in objects)
        (boxes / f"{name}.xml").write_text(
            f"<annotation><folder>val</folder><filename>{name}</filename><size><width>{image.width}</width>"
            f"<height>{image.height}</height><depth>3</depth></size>{shown}</annotation>")
    (out / "ILSVRC2012_validation_ground_truth.txt").write_text("".join(f"{number}\n" for number in numbers))
    write_coco(out / "coco", det_images, size, seed)
    write_wordnet(out / "wordnet")


def write_coco(out: Path, det_images: int, size: int, seed: int) -> None:
    """COCO's training file and images, with a crowd region here and there; six categories, ids with a gap."""
    things = [thing for thing in THINGS if thing.frequency and thing.frequency != "r" and thing.wnid]
    ids = {thing: i for i, thing in zip((1, 2, 3, 5, 6, 7), things)}
    file, rng = Annotations([{"id": i, "name": t.lvis, "supercategory": "thing"} for t, i in ids.items()],
                            ids), np.random.default_rng(derive_seed(seed, "coco"))
    (out / "train2017").mkdir(parents=True)
    for i in range(det_images):
        image, objects = _draw(derive_seed(seed, "coco", i),
                               [things[k] for k in rng.integers(0, len(things), rng.integers(1, 4))], size, (0.25, 0.6))
        image.save(out / "train2017" / f"{i:012d}.jpg", quality=92)
        file.add(image, objects, polygons=True, file_name=f"{i:012d}.jpg")
    for annotation in file.content["annotations"][::20]:
        annotation["iscrowd"] = 1
    file.save(out / "annotations" / "instances_train2017.json")


def write_objects365(out: Path, per_class: int, det_images: int, val_images: int, size: int, seed: int) -> None:
    """Objects365 v2's file and patches, with its known faults; ImageNet-21K as tars, with theirs; WordNet."""
    things = [thing for thing in THINGS if thing.objects365]
    ids = {thing: i for i, thing in enumerate(things, start=1)}
    file, rng = Annotations([{"id": i, "name": t.objects365} for t, i in ids.items()],
                            ids), np.random.default_rng(derive_seed(seed, "objects"))
    for i in range(det_images):
        image, objects = _draw(derive_seed(seed, "objects", i),
                               [things[k] for k in rng.integers(0, len(things), rng.integers(1, 4))], size, (0.25, 0.6))
        name = f"patch{i % 3}/objects365_v2_{i:08d}.jpg"
        (out / "objects365" / "train" / f"patch{i % 3}").mkdir(parents=True, exist_ok=True)
        image.save(out / "objects365" / "train" / name, quality=92)
        file.add(image, objects, polygons=False, file_name=f"images/v2/{name}")
    rows = file.content["annotations"]
    w = file.content["images"][0]["width"]
    for number, (image, box, crowd) in enumerate([(1, rows[0]["bbox"], 0), (1, [w - 10, 5, 30, 20], 0), (
        1, [w + 5, 5, 9, 9], 0), (1, [3, 3, 0.4, 9], 0), (2, [1, 1, 20, 20], 1)]):
        rows.append({"id": 90000 + number, "image_id": image, "category_id": rows[0]["category_id"], "bbox": box,
                     "area": box[2] * box[3], "iscrowd": crowd})
    file.content["images"].append({"id": 80000, "file_name": "images/v2/patch1/objects365_v2_99999999.jpg",
                                   "height": 50, "width": 50})
    file.save(out / "zhiyuan_objv2_train.json")
    write_tars(out / "imagenet21k_tars", per_class, size, seed)
    plant_faults(out / "imagenet21k_tars", size, seed)
    write_wordnet(out / "wordnet")


FORMATS = {"lvis": write_lvis, "imagenet": write_imagenet, "objects365": write_objects365}


def annotate(val_images: Path, truth: Path) -> int:
    """What people do for the benchmark [P47]: val_images.json -> val_boxes.json beside it, from the toy world's truth.
    The number of boxes."""
    try:
        content, boxes = json.loads(val_images.read_text()), json.loads(truth.read_text())
        ids = {category["wnid"]: category["id"] for category in content["categories"]}
        rows = [{"image_id": image["id"], "category_id": ids[image["wnid"]], "bbox": box, "area": box[2] * box[3],
                 "iscrowd": 0} for image in content["images"]
                for box in boxes.get(image["file_name"], [[0, 0, image["width"], image["height"]]])]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"--annotate {val_images}: expected val_images.json of the benchmark, and {truth} "
                         f"({error})") from None
    content["annotations"] = [{"id": i, **row} for i, row in enumerate(rows, start=1)]
    val_images.with_name("val_boxes.json").write_text(json.dumps(content))
    return len(rows)

"""Objects365 v2 as it is distributed -> a packed table, and its overlap with ImageNet-21K [P43, G9].

    python -m s21k.prepare.objects365 --train zhiyuan_objv2_train.json --images data/objects365/train
        --wordnet /usr/share/wordnet [--reviewed reviewed.tsv] --out data/objects365

--images holds patch0/, patch1/, ..; an image's name in the JSON is cut down to its patch and its file. The 6 GB of
JSON are read once, in pieces. Mended: boxes that reach outside are cut, those outside or below a pixel and second
copies go, missing images go with their boxes; crowd boxes stay, marked. Writes train_boxes/ (the table) and faults.tsv.

Names: 13 that the distribution misspells are corrected first (MEANT), as Detic corrects them.

Overlap: a name of Objects365 and a class of ImageNet-21K are candidates where the name is one of the class's lemmas.
The only candidate is taken where it is also the first sense of the name in WordNet, and no other name claims it; every
other is left to a reviewer. overlap.tsv lists all, with where each came from; correct the wnid of a row (empty: no
overlap), set its decision to reviewed, and give the file as --reviewed. Writes categories.json: the 21,841 classes,
det: the overlapping row of g, or null: then g-hat alone decides [P34].
"""
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np
import torch

from s21k.core.categories import CategoryMap, imagenet21k_wnids
from s21k.core.errors import InputError, refused, run_command
from s21k.core.options import read_options
from s21k.core.packed import PackedStrings
from s21k.files.annotation_table import AnnotationTable
from s21k.files.annotations import load_annotations
from s21k.files.archives import leaves_root
from s21k.prepare.wordnet import WordNet

DECISIONS = ("lemma", "reviewed", "ambiguous", "none")
# Misspelt in the distribution -> as meant: Detic's list [G9]. "Ballon", "Billards" and "Noddles" stay, as there.
MEANT = {"Moniter/TV": "Monitor/TV", "Bakset": "Basket", "Dinning Table": "Dining Table", "Tea pot": "Teapot",
         "Extention Cord": "Extension Cord", "Hotair ballon": "Hot air balloon", "Hamimelon": "Hami melon",
         "Mushroon": "Mushroom", "Tape Measur/ Ruler": "Tape Measure/ Ruler", "Campel": "Camel",
         "Meat ball": "Meatball", "Buttefly": "Butterfly", "Table Teniis paddle": "Table Tennis paddle"}
HEADER = "name\tdecision\twnid\tcandidates\n"


def mend(table: AnnotationTable, images: Path) -> tuple[AnnotationTable, list[tuple[str, str]]]:
    """The table without its known faults, annotations image after image, and (image, what was wrong)."""
    names = ["/".join(PurePosixPath(table.file_names[i]).parts[-2:]) for i in range(len(table.image_ids))]
    if bad := [name for name in names if leaves_root(name)]:
        raise InputError(f"{table.path}: image {bad[0]!r} leads out of its folder")
    folders = {folder: set(os.listdir(images / folder)) if (images / folder).is_dir() else set()
               for folder in {os.path.dirname(name) for name in names}}
    there = np.array([os.path.basename(name) in folders[os.path.dirname(name)] for name in names], dtype=bool)
    if not there.any():
        raise InputError(f"--images {images}: holds none of the {len(names)} images, the first being "
                         f"{names[0] if names else ''}")
    faults = [(names[i], "missing") for i in np.flatnonzero(~there)]
    table = replace(table, file_names=PackedStrings(names)).with_images(there)
    owner = table.image_index
    limit = np.stack([table.widths, table.heights] * 2, axis=1)[owner].astype(np.float64)       # (A, 4)
    corners = np.concatenate([table.boxes[:, :2], table.boxes[:, :2] + table.boxes[:, 2:]], axis=1)
    cut = corners.clip(0, limit)
    sides = cut[:, 2:] - cut[:, :2]
    outside = (sides < 1).any(axis=1)
    # Copies: the same image, category and box; the first in the file stays.
    copy = second_copies([owner, table.category_index, *corners.T]) & ~outside
    reached = (cut != corners).any(axis=1) & ~outside & ~copy
    for rows, what in ((reached, "a box reaches outside: cut"),
                       (outside, "a box has less than a pixel inside: left out"),
                       (copy, "a second copy of a box: left out")):
        faults += [(table.file_names[i], what) for i in owner[rows].tolist()]
    kept = np.flatnonzero(~outside & ~copy)
    kept = kept[np.argsort(owner[kept], kind="stable")]
    table = replace(table, boxes=np.concatenate([cut[:, :2], sides], axis=1)).take(kept)
    return replace(table, masks=None), faults


def second_copies(columns: list[np.ndarray]) -> np.ndarray:
    """(A,) bool: rows equal, in all columns, to an earlier one. Rows of one 64-bit hash are compared."""
    key = np.zeros(len(columns[0]), dtype=np.uint64)
    for column in columns:
        key ^= np.ascontiguousarray(column + 0.0, dtype=np.float64).view(np.uint64) + np.uint64(0x9E3779B97F4A7C15) + (
            key << np.uint64(6)) + (key >> np.uint64(2))
    order = np.argsort(key, kind="stable")
    before, after = order[:-1], order[1:]
    copy = np.zeros(len(key), dtype=bool)
    copy[after] = np.logical_and.reduce([column[after] == column[before] for column in columns])
    return copy


def candidates(name: str, lemmas: dict[str, list[str]], wordnet: WordNet) -> tuple[list[str], bool]:
    """The classes that one of the name's alternatives ("Cabinet/shelf"), as it is or without its plural s, is a lemma
    of; and whether the only one is also the first sense that WordNet has of it. (If the sense that is meant is no
    class, another one would be the only one.)"""
    found, first = [], set()
    for part in name.lower().replace("_", " ").split("/"):
        part = " ".join(part.split())
        for form in (part, part.removesuffix("s"), part.removesuffix("es")):
            found += lemmas.get(form, [])
            first |= {*wordnet.senses.get(form.replace(" ", "_"), [])[:1]}
    found = list(dict.fromkeys(found))
    return found, len(found) == 1 and first == {found[0]}


def overlap(names: list[str], wordnet: WordNet,
            reviewed: dict[str, str | None]) -> list[tuple[str, str, str | None, list[str]]]:
    """(name, decision, wnid, candidates) of each: reviewed | lemma (one candidate, the first sense, no other name's) |
    ambiguous | none."""
    classes = imagenet21k_wnids()
    lemmas: dict[str, list[str]] = {}
    for wnid in classes:
        for lemma in wordnet.names.get(wnid, []):
            lemmas.setdefault(lemma.lower(), []).append(wnid)
    found = {name: candidates(name, lemmas, wordnet) for name in names}
    claims = Counter([wnid for name, (wnids, _) in found.items() if name not in reviewed for wnid in wnids]
                     + [wnid for wnid in reviewed.values() if wnid])
    rows = []
    for name, (wnids, is_first) in found.items():
        if name in reviewed:
            rows.append((name, "reviewed", reviewed[name], wnids))
        elif is_first and claims[wnids[0]] == 1:
            rows.append((name, "lemma", wnids[0], wnids))
        else:
            rows.append((name, "ambiguous" if wnids else "none", None, wnids))
    return rows


def read_review(path: Path, names: list[str]) -> dict[str, str | None]:
    """name -> wnid or None of the reviewed rows. InputError: unknown decision, name or class, or one class twice."""
    classes, reviewed = set(imagenet21k_wnids()), {}
    with refused(f"--reviewed {path}: cannot be read"):
        lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        name, decision, wnid = (line.split("\t") + ["", ""])[:3]
        name, decision, wnid = MEANT.get(name, name), decision.strip().lower(), wnid.strip()
        if number == 1 and decision == "decision" or not line.strip():
            continue
        if decision not in DECISIONS or (wnid and decision in ("ambiguous", "none")):
            raise InputError(f"{path}:{number}: decision {decision!r:.40} with wnid {wnid!r:.40}, expected one of "
                             f"{', '.join(DECISIONS)}; a wnid of yours needs the decision reviewed")
        if decision != "reviewed":
            continue
        if name not in names or name in reviewed:
            raise InputError(f"{path}:{number}: {name!r:.60}, expected a category of the annotations, once")
        if wnid and (wnid not in classes or wnid in reviewed.values()):
            raise InputError(f"{path}:{number}: {wnid!r:.40}, expected one of the 21,841 wnids, for one category only, "
                             f"or nothing")
        reviewed[name] = wnid or None
    return reviewed


def main(argv: list[str]) -> None:
    a = read_options(argv, "prepare.objects365", ("--train", "--images", "--wordnet"), reviewed=Path,
                     out=Path("data/objects365"))
    wordnet = WordNet(a.wordnet)
    table = load_annotations(a.train)
    distributed, names = table.category_names, [MEANT.get(name, name) for name in table.category_names]
    table = replace(table, category_names=names)
    reviewed = {} if a.reviewed is None else read_review(a.reviewed, names)
    rows = overlap(names, wordnet, reviewed)
    misspelt = Counter(decision for _, decision, _, _ in overlap(distributed, wordnet, {}))["lemma"]
    num_images, num_boxes = len(table.image_ids), len(table.boxes)
    table, faults = mend(table, a.images)
    table.save(a.out / "train_boxes")
    (a.out / "faults.tsv").write_text("file\twhat\n" + "".join(f"{name}\t{what}\n" for name, what in faults))
    (a.out / "overlap.tsv").write_text(HEADER + "".join(
        f"{name}\t{decision}\t{wnid or ''}\t{'; '.join(f'{w} {wordnet.name(w)}' for w in found)}\n"
        for name, decision, wnid, found in rows), encoding="utf-8")
    det_row = {wnid: i for i, (_, _, wnid, _) in enumerate(rows) if wnid}
    classes = imagenet21k_wnids()
    CategoryMap([wordnet.name(wnid) for wnid in classes], list(classes),
                ["base" if wnid in det_row else "novel" for wnid in classes],
                torch.tensor([det_row.get(wnid, -1) for wnid in classes]), torch.arange(len(classes)),
                [names[det_row[wnid]] if wnid in det_row else None for wnid in classes]).save(a.out / "categories.json")
    counts = Counter(what for _, what in faults)
    print(f"{a.out}: {len(table.image_ids)} of {num_images} images, {len(table.boxes)} of {num_boxes} boxes, "
          f"{len(names)} categories (the paper: 1.7 M, 29 M, 365)")
    print("faults: " + (", ".join(f"{count} x {what}" for what, count in counts.items()) or "none"))
    decisions = Counter(decision for _, decision, _, _ in rows)
    corrected = [f"{name} -> {MEANT[name]}" for name in distributed if name in MEANT]
    print(f"names: {len(corrected)} corrected ({', '.join(corrected) or 'none'})")
    print(f"overlap with the 21,841 classes: {decisions['lemma']} by lemma ({misspelt} with the names as distributed), "
          f"{decisions['reviewed']} reviewed, {decisions['ambiguous']} ambiguous and left out "
          f"(see {a.out / 'overlap.tsv'}), {decisions['none']} without a candidate")


if __name__ == "__main__":
    run_command(main, __doc__)

"""LVIS and the categories it shares with ImageNet-21K [P6, P36-P39, T11]: 997, of which 720 have boxes in training.

    python -m s21k.prepare.lvis997 --train lvis_v1_train.json --val lvis_v1_val.json
        --wordnet /usr/share/wordnet --out data/lvis

An LVIS category and an ImageNet class are one where their WordNet 3.0 synsets are. base: LVIS's "common" and
"frequent", novel: its "rare" ones [P37]. For training, annotations of novel and of unmatched categories go; their
images stay [G6]. The numbers 997, 720 and 277 must come out; --partial takes files with other categories.

Writes base_train/ (boxes and masks of the 720), val_997/ (the 997, with LVIS's federated lists, so that no other
category uses up the budget: E34), categories_997.json, wnids_997.txt (the classes of IN-997, for
s21k.prepare.imagenet); and for fine-tuning on all of LVIS [P49] train/, val/ and categories.json.
"""
from pathlib import Path

import numpy as np
import torch

from s21k.core.categories import CategoryMap, imagenet21k_wnids
from s21k.core.errors import InputError, run_command
from s21k.core.options import read_options
from s21k.files.annotation_table import AnnotationTable
from s21k.files.annotations import load_annotations
from s21k.prepare.wordnet import WordNet

EXPECTED = (997, 720, 277)                          # [P36, P37]
GROUPS = {"r": "novel", "c": "base", "f": "base"}   # [P37]
FREQUENCIES = {"r": "rare", "c": "common", "f": "frequent"}


def match(table: AnnotationTable, wordnet: WordNet) -> list[str | None]:
    """Each category's wnid, None if not of the 21,841. InputError: no synset or frequency, or one wnid twice."""
    classes = set(imagenet21k_wnids())
    wnids: list[str | None] = []
    for name, synset, frequency in zip(table.category_names, table.synsets, table.frequencies):
        if synset is None or frequency not in GROUPS:
            raise InputError(f"{table.path}: category {name!r} has synset {synset!r} and frequency {frequency!r}, "
                             f"expected LVIS's synset and r, c or f")
        wnid = wordnet.wnid(synset)
        wnids.append(wnid if wnid in classes else None)
        if wnid in wnids[:-1] and wnids[-1]:
            raise InputError(f"{table.path}: two categories are {wnid}, the second is {name!r}")
    return wnids


def prepare(train: AnnotationTable, val: AnnotationTable, wordnet: WordNet, out: Path) -> tuple[int, int, int]:
    """Write everything; the numbers of matched, base and novel categories. The tables have masks."""
    if (train.category_names, train.synsets, train.frequencies) != (val.category_names, val.synsets, val.frequencies):
        raise InputError(f"{val.path}: its categories are not those of {train.path}")
    wnids = match(train, wordnet)
    groups = np.array([GROUPS[letter] for letter in train.frequencies])
    matched = np.array([wnid is not None for wnid in wnids], dtype=bool)
    base = matched & (groups == "base")
    train.with_categories(base, wnids).save(out / "base_train")
    val.with_categories(matched, wnids).save(out / "val_997")
    rows = np.flatnonzero(matched)
    classes = sorted(wnids[i] for i in rows)        # the order of g-hat's rows
    det_row = np.where(base, np.cumsum(base) - 1, -1)[rows]
    CategoryMap([train.category_names[i] for i in rows], [wnids[i] for i in rows], groups[rows].tolist(),
                torch.from_numpy(det_row),
                torch.tensor([classes.index(wnids[i]) for i in rows])).save(out / "categories_997.json")
    (out / "wnids_997.txt").write_text("\n".join(classes) + "\n")
    train.save(out / "train")
    val.save(out / "val")
    count = len(train.category_names)
    CategoryMap(train.category_names, [None] * count, [FREQUENCIES[letter] for letter in train.frequencies],
                torch.arange(count), torch.full((count,), -1)).save(out / "categories.json")
    return int(matched.sum()), int(base.sum()), int((matched & ~base).sum())


def main(argv: list[str]) -> None:
    a = read_options(argv, "prepare.lvis997", ("--train", "--val", "--wordnet"), out=Path("data/lvis"), partial=False)
    wordnet = WordNet(a.wordnet)
    train = load_annotations(a.train, masks=True)
    wnids = match(train, wordnet)
    groups = [GROUPS[letter] for wnid, letter in zip(wnids, train.frequencies) if wnid]
    found = (len(groups), groups.count("base"), groups.count("novel"))
    if found != EXPECTED and not a.partial:         # before hours are spent on it
        raise InputError(f"{a.train}: {found[0]} categories match, {found[1]} base and {found[2]} novel; expected "
                         f"{EXPECTED[0]}, {EXPECTED[1]} and {EXPECTED[2]} of LVIS v1 (--partial takes other numbers)")
    counts = prepare(train, load_annotations(a.val, masks=True), wordnet, a.out)
    unmatched = [name for name, wnid in zip(train.category_names, wnids) if wnid is None]
    print(f"{a.out}: {counts[0]} of {len(wnids)} categories are in ImageNet-21K: {counts[1]} base, {counts[2]} novel "
          f"(the paper: 997, 720, 277)")
    print(f"not in it: {', '.join(unmatched[:8])}{', ..' if len(unmatched) > 8 else ''}; without a synset in WordNet: "
          f"{', '.join(n for n, s in zip(train.category_names, train.synsets) if wordnet.wnid(s) is None) or 'none'}")


if __name__ == "__main__":
    run_command(main, __doc__)

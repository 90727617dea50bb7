"""The 21,000-category benchmark's images: ImageNet-21K divided into training and validation [P44-P46, G30].

    python -m s21k.prepare.in21k_benchmark --index data/imagenet21k/all --out data/imagenet21k [--seed 0] [--no-images]

Of each synset 5 images go to validation, 20 % where it has fewer than 25 (rounded down, but one at least), none where
it has fewer than 5. Which, is decided by a hash of seed, wnid and file name: no order of listing and no other synset
matters. Boxes are drawn by people [P47]: put them into val_images.json as COCO's annotations, saved as val_boxes.json.

Writes train/ (an index without the validation images), val.tsv (a list, for stage I's accuracy), val/<wnid>/<file>
(copies of the images), val_images.json (COCO's format, without boxes), manifest.tsv.
"""
import json
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np
from tqdm import tqdm

from s21k.core.errors import refused, run_command
from s21k.core.options import read_options
from s21k.core.randomness import derive_seed
from s21k.files.archives import ImageIndex
from s21k.files.images import read_image

PAPER = (101_625, 21_077)                           # images, categories [P46]


def validation_count(n: int) -> int:
    """How many of a synset's n images go to validation."""
    if n < 5:
        return 0                                    # P45b
    return max(1, n // 5) if n < 25 else 5          # [P45, P44]


def choose(wnid: str, names: list[str], seed: int) -> list[int]:
    """Positions in names of the synset's validation images, ascending."""
    files = [PurePosixPath(name).name for name in names]                 # not where an archive happens to have it
    order = sorted(range(len(names)), key=lambda i: (derive_seed(seed, wnid, files[i]), names[i]))
    return sorted(order[:validation_count(len(names))])


def split(index: ImageIndex, seed: int) -> np.ndarray:
    """(N,) bool: the images for validation."""
    chosen = np.zeros(len(index), dtype=bool)
    offsets = np.searchsorted(index.label, np.arange(len(index.class_names) + 1))        # class after class
    for row, wnid in enumerate(tqdm(index.class_names, desc="synsets", mininterval=5.0)):
        first, end = offsets[row:row + 2].tolist()
        chosen[[first + i for i in choose(wnid, [index.names[i] for i in range(first, end)], seed)]] = True
    return chosen


def copy_images(index: ImageIndex, rows: np.ndarray, out: Path) -> list[str]:
    """val/<wnid>/<file> of each: the file, or a JPEG of it where not every reader takes it. Names below val/."""
    names = []
    for i in tqdm(rows.tolist(), desc="images", mininterval=5.0):
        wnid, source = index.class_names[index.label[i]], index.open(i)
        content = source.read_bytes() if isinstance(source, Path) else source.getvalue()
        names.append(f"{wnid}/{index.names[i]}")
        target = out / "val" / names[-1]
        target.parent.mkdir(parents=True, exist_ok=True)
        if content[:3] == b"\xff\xd8\xff":
            target.write_bytes(content)
        else:                                       # gzipped, a PNG of that name, ..
            read_image(source).save(target, "JPEG", quality=95)
    return names


def main(argv: list[str]) -> None:
    a = read_options(argv, "prepare.in21k_benchmark", ("--index",), out=Path("data/imagenet21k"), seed=0,
                     no_images=False)
    index = ImageIndex.load(a.index)
    index = replace(index, root=index.root.resolve())
    chosen = split(index, a.seed)
    rows = np.flatnonzero(chosen)
    index.take(np.flatnonzero(~chosen)).save(a.out / "train")
    wnids = [index.class_names[row] for row in index.label[rows]]
    with refused(f"--out {a.out}: cannot be written"):
        names = ([f"{wnid}/{index.names[i]}" for wnid, i in zip(wnids, rows.tolist())] if a.no_images
                 else copy_images(index, rows, a.out))
        present = {wnid: i for i, wnid in enumerate(dict.fromkeys(wnids), start=1)}
        (a.out / "val.tsv").write_text("".join(f"val/{name}\t{wnid}\n" for name, wnid in zip(names, wnids)))
        (a.out / "manifest.tsv").write_text(
            "wnid\tfile\n" + "".join(f"{wnid}\t{index.names[i]}\n" for wnid, i in zip(wnids, rows.tolist())))
        (a.out / "val_images.json").write_text(json.dumps(
            {"images": [{"id": n, "file_name": name, "height": int(index.heights[i]), "width": int(index.widths[i]),
                         "wnid": wnid}
                        for n, (i, name, wnid) in enumerate(zip(rows.tolist(), names, wnids), start=1)],
             "annotations": [], "categories": [{"id": i, "name": wnid, "wnid": wnid} for wnid, i in present.items()]}))
    counts = np.bincount(index.label, minlength=len(index.class_names))
    print(f"{a.out}: {len(rows)} images of {len(present)} categories for validation (the paper: {PAPER[0]} of "
          f"{PAPER[1]}), {len(index) - len(rows)} for training")
    print(f"{int(((counts > 0) & (counts < 5)).sum())} synsets with fewer than 5 images, {int((counts == 0).sum())} "
          f"with none: not validated")


if __name__ == "__main__":
    run_command(main, __doc__)

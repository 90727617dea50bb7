"""Images with one category each: a folder per class, or a list file of "path<TAB>class" lines."""
import os
from pathlib import Path

import numpy as np
from PIL import Image

from s21k.annotations import PackedStrings
from s21k.errors import InputError
from s21k.images import ENDINGS, read_image


def _from_folder(root: Path) -> tuple[list[str], list[str]]:
    """root/<class>/**/<picture> -> relative paths and their classes, sorted."""
    paths, classes = [], []
    for entry in sorted(p for p in root.iterdir() if p.is_dir()):
        for folder, _, files in sorted(os.walk(entry)):
            pictures = sorted(f for f in files if f.lower().endswith(ENDINGS))
            paths += [os.path.relpath(os.path.join(folder, f), root) for f in pictures]
            classes += [entry.name] * len(pictures)
    return paths, classes


def _from_list(path: Path) -> tuple[list[str], list[str]]:
    """Lines "path<TAB>class"; paths are relative to the list's folder."""
    paths, classes = [], []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        fields = line.split("\t")
        if not line.strip():
            continue
        if len(fields) != 2 or not all(fields):
            raise InputError(f"{path}:{number}: {line!r:.80}, expected path<TAB>class")
        if os.path.isabs(fields[0]) or ".." in Path(fields[0]).parts:
            raise InputError(f"{path}:{number}: {fields[0]!r} leaves the list's folder")
        paths.append(fields[0])
        classes.append(fields[1])
    return paths, classes


class ClassificationData:
    """N pictures and their labels, packed: paths in one byte array, labels (N,) int32.

    class_names: the ordered categories, one for each row of g-hat; None: those of this source,
    sorted. InputError: no pictures, or a class that is not among class_names.
    """

    def __init__(self, source: str | Path, class_names: list[str] | None = None) -> None:
        source = Path(source)
        if not source.exists():
            raise InputError(f"classification data {source}: not found, expected a folder per class or a list file")
        try:
            paths, classes = _from_folder(source) if source.is_dir() else _from_list(source)
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"classification data {source}: cannot be read ({error})") from None
        if not paths:
            raise InputError(f"classification data {source}: no pictures in it, expected <class>/<picture> or path<TAB>class")
        self.class_names = sorted(set(classes)) if class_names is None else class_names
        row = {name: i for i, name in enumerate(self.class_names)}
        if unknown := sorted(set(classes) - row.keys()):
            raise InputError(f"classification data {source}: class {unknown[0]!r} is none of the {len(row)} known")
        self.root = source if source.is_dir() else source.parent
        self.paths = PackedStrings(paths)
        self.labels = np.array([row[name] for name in classes], dtype=np.int32)

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int, at_least: int | None = None) -> tuple[Image.Image, int]:
        """RGB picture and label; at_least as in images.read_image."""
        return read_image(self.root / self.paths[index], at_least), int(self.labels[index])

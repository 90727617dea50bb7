"""Images with one category each: a folder per class, a list file of "path<TAB>class" lines, or an index (s21k.archives)."""
import os
from pathlib import Path

import numpy as np
from PIL import Image

from s21k.archives import PictureIndex
from s21k.errors import InputError
from s21k.images import ENDINGS, read_image
from s21k.packed import PackedStrings, fingerprint
from s21k.tables import is_table


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
    """N pictures and their labels, packed: paths in one byte array or an index, labels (N,) int32.

    class_names: the ordered categories, one for each row of g-hat; None: those of this source,
    sorted (an index says its own; some may have no picture). InputError: no pictures, or a class that is not among class_names.
    """

    def __init__(self, source: str | Path, class_names: list[str] | None = None) -> None:
        self.source = source = Path(source)
        if not source.exists():
            raise InputError(f"classification data {source}: not found, expected a folder per class, a list file, or an index")
        self.index = PictureIndex.load(source) if is_table(source) else None
        if self.index is not None:
            classes, labels = self.index.class_names, self.index.label
        else:
            classes, labels = self._read_names(source)
        if len(labels) == 0:
            raise InputError(f"classification data {source}: no pictures in it, expected <class>/<picture> or path<TAB>class")
        self.class_names, self.labels = classes, labels
        if class_names is not None and class_names != classes:
            row = {name: i for i, name in enumerate(class_names)}
            if unknown := [name for name in classes if name not in row]:
                raise InputError(f"classification data {source}: class {unknown[0]!r} is none of the {len(row)} known")
            self.class_names, self.labels = class_names, np.array([row[name] for name in classes], dtype=np.int32)[labels]

    def __getstate__(self) -> dict | tuple:
        """For a loader process that is not a fork of this one: an index is opened and mapped there again, not sent."""
        if self.index is None:
            return self.__dict__
        return self.source, None if self.class_names == self.index.class_names else self.class_names

    def __setstate__(self, state: dict | tuple) -> None:
        if isinstance(state, tuple):
            self.__init__(*state)
        else:
            self.__dict__ |= state

    def _read_names(self, source: Path) -> tuple[list[str], np.ndarray]:
        """The classes, sorted, and each picture's; its path goes into self.paths."""
        try:
            paths, classes = _from_folder(source) if source.is_dir() else _from_list(source)
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"classification data {source}: cannot be read ({error})") from None
        self.root = source if source.is_dir() else source.parent
        self.paths = PackedStrings(paths)
        names = sorted(set(classes))
        row = {name: i for i, name in enumerate(names)}
        return names, np.array([row[name] for name in classes], dtype=np.int32)

    def __len__(self) -> int:
        return len(self.labels)

    def fingerprint(self) -> str:
        """What the data is: how many images, and a hash of their names and labels in order."""
        names = self.paths if self.index is None else self.index.names
        return fingerprint(len(self), self.labels, names.packed.data, names.packed.offsets)

    def read(self, index: int, at_least: int | None = None) -> tuple[Image.Image, int]:
        """RGB picture and label; at_least as in images.read_image."""
        source = self.root / self.paths[index] if self.index is None else self.index.open(index)
        return read_image(source, at_least), int(self.labels[index])

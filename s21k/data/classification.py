"""Images of one category each: a folder a class, a list of "path<TAB>class" lines, an index (s21k.files.archives)."""
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from s21k.core.errors import InputError, refused
from s21k.core.names import canonical, check_no_doubles, nearest
from s21k.core.packed import PackedStrings, fingerprint
from s21k.files.archives import ImageIndex, leaves_root
from s21k.files.image_files import class_folders, find_file, sample_rows
from s21k.files.images import Source, read_image
from s21k.files.tables import is_table


def _from_folder(root: Path) -> tuple[list[str], list[str]]:
    """root/<class>/**/<image> -> relative paths and their classes, sorted; what is passed over is said."""
    folders, passed = class_folders(root)
    passed.say(root)
    if double := check_no_doubles(folders, f"class folders of {root}"):
        raise InputError(double)
    images = [(path, name) for name, paths in folders.items() for path in paths]
    return [path for path, _ in images], [name for _, name in images]


def _from_list(path: Path) -> tuple[list[str], list[str]]:
    """Lines "path<TAB>class"; paths are relative to the list's folder."""
    paths, classes = [], []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        fields = line.split("\t")
        if not line.strip():
            continue
        if len(fields) != 2 or not all(fields):
            raise InputError(f"{path}:{number}: {line!r:.80}, expected path<TAB>class")
        if leaves_root(fields[0]):
            raise InputError(f"{path}:{number}: {fields[0]!r} leaves the list's folder")
        paths.append(fields[0])
        classes.append(fields[1])
    return paths, classes


class ClassificationData:
    """N images and their labels, packed: paths in one byte array or an index, labels (N,) int32.
    class_names: one for each row of g-hat; None: those of this source, sorted (an index says its own; some may have
    no image). InputError: no images, or a class that is not among class_names."""

    def __init__(self, source: str | Path, class_names: list[str] | None = None) -> None:
        self.opened_from = source = Path(source)
        if not source.exists():
            raise InputError(f"classification data {source}: not found, expected a folder per class, a list file, or "
                             f"an index")
        self.index = ImageIndex.load(source) if is_table(source) else None
        if self.index is not None:
            classes, labels = self.index.class_names, self.index.label
        else:
            classes, labels = self._read_names(source)
        if len(labels) == 0:
            raise InputError(f"classification data {source}: no images in it, expected <class>/<image> or "
                             f"path<TAB>class")
        self.class_names, self.labels = classes, labels
        if class_names is not None and class_names != classes:
            row = {canonical(name): i for i, name in enumerate(class_names)}
            if unknown := [name for name in classes if canonical(name) not in row]:
                raise InputError(f"classification data {source}: class {unknown[0]!r} is none of the {len(row)} "
                                 f"known{nearest(unknown[0], class_names)}")
            self.class_names = class_names
            self.labels = np.array([row[canonical(name)] for name in classes], dtype=np.int32)[labels]

    def __getstate__(self) -> dict | tuple:
        """For a loader process that is not a fork of this one: an index is opened and mapped there again, not sent."""
        if self.index is None:
            return self.__dict__
        return self.opened_from, None if self.class_names == self.index.class_names else self.class_names

    def __setstate__(self, state: dict | tuple) -> None:
        if isinstance(state, tuple):
            self.__init__(*state)
        else:
            self.__dict__ |= state

    def _read_names(self, source: Path) -> tuple[list[str], np.ndarray]:
        """The classes, sorted, and each image's; its path goes into self.paths."""
        with refused(f"classification data {source}: cannot be read"):
            paths, classes = _from_folder(source) if source.is_dir() else _from_list(source)
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

    def source(self, index: int) -> Source:
        """Image index for images.read_image: a path, or its bytes. InputError: its container is gone."""
        return find_file(self.root, self.paths[index]) if self.index is None else self.index.open(index)

    def sample(self) -> Iterator[tuple[Source | InputError, None]]:
        """Some images to be tried at the start of a command (image_files.check_images)."""
        for row in sample_rows(len(self)):
            try:
                yield self.source(row), None
            except InputError as error:
                yield error, None

    def read(self, index: int, at_least: int | None = None) -> tuple[Image.Image, int]:
        """RGB image and label; at_least as in images.read_image."""
        return read_image(self.source(index), at_least), int(self.labels[index])

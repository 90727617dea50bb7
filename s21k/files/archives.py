"""Labelled images where they lie: in folders, or in one tar per class that is read in place and never unpacked.

An index is a table of (class, container, place, size of the file, size of the image), made once by
s21k.prepare.imagenet. Python's tarfile reads the headers (also GNU LongLink, pax); images are read by place.
"""
import io
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from s21k.core.errors import InputError, refused
from s21k.core.packed import Packed, PackedStrings
from s21k.files.images import NamedBytes, Source
from s21k.files.tables import ColumnSpec, check_columns, load_table, save_table

KIND = "pictures"
BLOCK = 512                                         # of a tar
COMPRESSED = {b"\x1f\x8b": "gzip data", b"BZh": "bzip2 data", b"\xfd7zXZ": "xz data", b"\x28\xb5\x2f\xfd": "zstd data",
              b"PK\3\4": "zip data"}


class Member(NamedTuple):
    """A file of a tar: its name, where its content begins, how many bytes it has."""
    name: str
    offset: int
    size: int


def leaves_root(name: str) -> bool:
    """A name that is absolute or climbs, with "/" or a Windows path's "\\": it could mean any file."""
    forms = {name, name.replace("\\", "/")}
    return "\0" in name or any(PurePosixPath(form).is_absolute() or ".." in PurePosixPath(form).parts for form in forms)


def members(path: Path) -> Iterator[Member]:
    """The regular files of a tar, in order. InputError: no tar, damaged or cut off; what came before is good.
    Links, devices and folders are passed over; names are as written (leaves_root)."""
    with refused(f"{path}: not a readable tar", tarfile.TarError, ValueError, EOFError):
        whole = path.stat().st_size
        with open(path, "rb") as file:
            start = file.read(8)
        if kind := next((kind for mark, kind in COMPRESSED.items() if start.startswith(mark)), None):
            raise InputError(f"{path}: {kind}, not a plain tar: it cannot be read in place, expected it unpacked")
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if member.size < 0 or member.offset_data + member.size > whole:
                    # a negative size would be read for ever
                    raise InputError(f"{path}: {'damaged' if member.size < 0 else 'cut off'} in {member.name!r:.100}")
                if member.isreg() and not member.issparse():
                    yield Member(member.name, member.offset_data, member.size)
            # tarfile takes a header that makes no sense for the end; a whole tar ends with blocks of zeros.
            tar.fileobj.seek(tar.offset)
            if tar.fileobj.read(BLOCK) != bytes(BLOCK):
                raise InputError(f"{path}: cut off or damaged at byte {tar.offset}: what may follow cannot be read")


class Region(io.RawIOBase):
    """The bytes [offset, offset + size) of a file as a file of their own; only what is asked for is read."""

    def __init__(self, path: Path, offset: int, size: int, name: str) -> None:
        self.file, self.shown = os.open(path, os.O_RDONLY), f"{path}:{name}"
        self.offset, self.size, self.at = offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: self.size}[whence])
        return self.at

    def readinto(self, buffer) -> int:
        content = os.pread(self.file, max(0, min(len(buffer), self.size - self.at)), self.offset + self.at)
        buffer[:len(content)] = content
        self.at += len(content)
        return len(content)

    def close(self) -> None:
        if not self.closed:
            os.close(self.file)
        super().close()

    def __str__(self) -> str:
        return self.shown


@dataclass(frozen=True)
class ImageIndex:
    """N images, class after class, by name within a class.
    containers: folders or tars below root; of image i: container[i], its name in it, label[i] (row of class_names), and
    for a tar offset[i] (-1: a file of a folder) and size[i] in bytes; heights, widths (N,) upright."""
    root: Path
    class_names: list[str]
    containers: list[str]
    container: np.ndarray
    names: PackedStrings
    label: np.ndarray
    offset: np.ndarray
    size: np.ndarray
    heights: np.ndarray
    widths: np.ndarray

    def __len__(self) -> int:
        return len(self.label)

    def open(self, i: int) -> Source:
        """Image i for images.read_image. InputError: its container is gone, or its name leads elsewhere."""
        name, container = self.names[i], self.root / self.containers[self.container[i]]
        if leaves_root(name):
            raise InputError(f"{container}: {name!r} leads out of it")
        if self.offset[i] < 0:
            return container / name
        # ValueError: a name that no file can have
        with refused(f"{container}: cannot be read", ValueError), open(container, "rb", buffering=0) as file:
            content = os.pread(file.fileno(), int(self.size[i]), int(self.offset[i]))
        return NamedBytes(content, f"{container}:{name}")

    def take(self, rows: np.ndarray) -> "ImageIndex":
        """The images at these positions; classes and containers stay."""
        return replace(self, names=self.names.take(rows), **{name: getattr(self, name)[rows] for name in COLUMNS})

    def save(self, folder: Path) -> None:
        names = self.names.packed
        # Relative: an index and its images can move together. Of real paths: ".." after a link leads elsewhere.
        save_table(folder, KIND, {name: getattr(self, name) for name in COLUMNS}
                   | {"names": names.data, "name_offsets": names.offsets},
                   {"root": os.path.relpath(os.path.realpath(self.root), os.path.realpath(folder)),
                    "class_names": self.class_names, "containers": self.containers})

    @staticmethod
    def load(folder: Path) -> "ImageIndex":
        """The columns are mapped, not read. InputError: not an index, or damaged."""
        columns, about = load_table(folder, KIND)
        n, total = len(columns.get("label", ())), len(columns.get("names", ()))
        classes, containers = about.get("class_names"), about.get("containers")
        if not all(isinstance(part, list) and all(isinstance(v, str) for v in part)
                   for part in (classes, containers)) or not isinstance(about.get("root"), str):
            raise InputError(f"{folder}: expected root, class_names and containers")
        if outside := [name for name in containers if leaves_root(name)]:
            raise InputError(f"{folder}: container {outside[0]!r} leads out of its root")
        check_columns(folder, columns, {
            "label": ColumnSpec("i", (n,), 0, len(classes) - 1),
            "container": ColumnSpec("i", (n,), 0, len(containers) - 1),
            "offset": ColumnSpec("i", (n,), -1, 1 << 60),
            "size": ColumnSpec("i", (n,), 0, 1 << 40),
            "heights": ColumnSpec("i", (n,), 1, 1 << 31),
            "widths": ColumnSpec("i", (n,), 1, 1 << 31),
            "names": ColumnSpec("u", (total,)),
            "name_offsets": ColumnSpec("i", (n + 1,), 0, total)})
        names = PackedStrings(packed=Packed.of_arrays(columns["names"], columns["name_offsets"]))
        return ImageIndex(folder / about["root"], classes, containers, names=names,
                          **{name: columns[name] for name in COLUMNS})


COLUMNS = ("container", "label", "offset", "size", "heights", "widths")

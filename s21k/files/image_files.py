"""Which files are images, which folders are classes, and where a named image lies: the one place that decides it.

An image is a file whose ending Pillow reads. What an operating system or a program leaves behind (hidden files,
Thumbs.db, ..) and every other file is passed over, counted and named. Linked folders are followed.
"""
import functools
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from s21k.core.errors import InputError, note
from s21k.core.names import nearest, spellings
from s21k.files.images import image_size, stored_size

# Pillow knows these and does not decode them: it only holds a place, or would run a program (Ghostscript for EPS).
NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "PDF", "WMF"}
SYSTEM_NAMES = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "__pycache__", "@eadir",
                "$recycle.bin", "system volume information", "lost+found"}
SAMPLE = 8  # images of a data set that are opened at the start of a command


@functools.cache
def endings() -> frozenset[str]:
    """The endings of image files, in lower case: ".jpg", ".jfif", ".tiff", .."""
    known = {ending.lower() for ending, kind in Image.registered_extensions().items()
             if kind in Image.OPEN and kind not in NOT_DECODED}
    return frozenset(known | {".mpo"})  # several JPEGs in one: opened as a JPEG


def is_image(name: str) -> bool:
    """Whether a file of this name is an image."""
    return not is_system(name) and os.path.splitext(name)[1].lower() in endings()


def is_system(name: str) -> bool:
    """A file or folder that nobody made on purpose: hidden, or left behind by an operating system."""
    return os.path.basename(name).startswith(".") or os.path.basename(name).lower() in SYSTEM_NAMES


@dataclass
class PassedOver:
    """What a search did not take: system files, other files by ending, and so on, each with the first of its kind."""

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, kind: str, name: str) -> None:
        self.counts[kind] += 1
        self.first.setdefault(kind, name)

    def say(self, root: str | Path) -> None:
        """One line, where there is something to say."""
        if self.counts:
            kinds = [f"{count} {kind} (first: {self.first[kind]})" for kind, count in self.counts.most_common()]
            note(f"{root}: passed over {'; '.join(kinds[:6])}{'; ..' if len(kinds) > 6 else ''}")


def walk(root: str | Path, passed: PassedOver) -> list[tuple[str, list[str]]]:
    """(folder, names of its files), sorted, of root and all folders below it, without system folders and files.
    Links to folders are followed, each real folder once, but none that leads back to a folder above."""
    found: list[tuple[str, list[str]]] = []
    seen: set[str] = set()
    waiting = [str(root)]
    above = {os.path.realpath(folder) for place in (os.path.abspath(root), os.path.realpath(root))
             for folder in Path(place).parents}

    def fault(error: OSError) -> None:
        passed.add("folders that cannot be listed", str(error.filename))

    while waiting:  # first what lies there, then what links lead to
        links: list[str] = []
        for folder, folders, files in (entry for start in waiting for entry in os.walk(start, onerror=fault)):
            real = os.path.realpath(folder)
            if real in seen or real in above:
                passed.add("links to folders that are read already, or lie above", folder)
                folders.clear()
                continue
            seen.add(real)
            for name in filter(is_system, [*folders, *files]):
                passed.add("hidden or system files and folders", os.path.join(folder, name))
            folders[:] = sorted(name for name in folders if not is_system(name))
            links += [path for path in (os.path.join(folder, name) for name in folders) if os.path.islink(path)]
            found.append((folder, sorted(name for name in files if not is_system(name))))
        waiting = links
    return sorted(found)


def images_below(root: str | Path, passed: PassedOver) -> list[str]:
    """All images below a folder, folder after folder: paths that begin with root."""
    images: list[str] = []
    for folder, files in walk(root, passed):
        for name in files:
            if is_image(name):
                images.append(os.path.join(folder, name))
            else:
                ending = os.path.splitext(name)[1].lower()[:12]
                passed.add(f"{ending} files, which are no images" if ending else "files without an ending",
                           os.path.join(folder, name))
    return images


def class_folders(root: Path) -> tuple[dict[str, list[str]], PassedOver]:
    """name -> its images, relative to root, of each folder in root that is a class: no system folder, with an image."""
    classes: dict[str, list[str]] = {}
    passed = PassedOver()
    for entry in sorted(root.iterdir()):
        if is_system(entry.name):
            passed.add("hidden or system files and folders", str(entry))
        elif not entry.is_dir():
            passed.add("files outside of class folders", str(entry))
        elif images := images_below(entry, passed):
            classes[entry.name] = [os.path.relpath(path, root) for path in images]
        else:
            passed.add("folders without an image, which are no classes", str(entry))
    return classes, passed


def find_file(root: Path, name: str) -> Path:
    """root / name, or where there is none, the same name as another system spells it. It need not be there."""
    path = root / name
    if os.path.exists(path):
        return path
    return next((root / form for form in spellings(name) if os.path.exists(root / form)), path)


def sample_rows(count: int) -> list[int]:
    """Positions of the images to be tried of `count`: the first ones, then some over the whole set."""
    half = SAMPLE // 2
    return sorted({*range(min(half, count)), *(count * i // half for i in range(half) if count)})


def check_images(what: str, images: Iterable[tuple[object, tuple[int, int] | None]]) -> None:
    """Try to open some images of a data set, each with the (h, w) that is annotated, if any.
    InputError: not one can be opened. A note where some cannot."""
    faults, tried = [], 0
    for source, size in images:
        tried += 1
        try:
            if isinstance(source, InputError):
                raise source
            if isinstance(source, Path) and not source.is_file():
                beside = os.listdir(source.parent)[:10_000] if source.parent.is_dir() else []
                raise InputError(f"{source}: no such file{nearest(source.name, beside)}")
            found = image_size(source)
            if size is not None and size not in (found, stored_size(source)):
                raise InputError(f"{source}: {found[0]} x {found[1]} pixels (h, w), its annotation says {size}")
        except InputError as error:
            faults.append(str(error))
    if faults and len(faults) == tried:
        raise InputError(f"{what}: none of {tried} images tried can be used; the first: {faults[0]}")
    if faults:
        note(f"{what}: {len(faults)} of {tried} images tried cannot be used; the first: {faults[0]}")

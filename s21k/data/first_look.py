"""The first look at data, before a command does anything: what is odd is said, and some images are opened.

A command also looks at the data of later commands, so that a wrong folder is not found after weeks of stage I.
"""
from collections.abc import Callable
from pathlib import Path

from s21k.core.categories import CategoryMap
from s21k.core.config import Config
from s21k.core.errors import InputError, note
from s21k.data.classification import ClassificationData
from s21k.data.detection import DetectionData
from s21k.files.annotations import category_names, first_images
from s21k.files.archives import leaves_root
from s21k.files.image_files import SAMPLE, check_images, find_file


def first_look(data: ClassificationData | DetectionData, what: str) -> None:
    """Say what is odd about the data. what: its key in the configuration. InputError: no image tried is good."""
    for line in getattr(data, "notes", []):
        note(line)
    check_images(what, data.sample())


def check_folder(what: str, annotations: Path, images: Path) -> None:
    """InputError: none of the file's first images can be used from that folder. The boxes are not read."""
    found = first_images(annotations, SAMPLE)
    check_images(f"{what} {images}",
                 ((InputError(f"{name!r:.80} leads out of it") if leaves_root(name) else find_file(images, name), size)
                  for name, size in found))


def look_ahead(cfg: Config, *parts: str, tell: Callable[[str], None] = note) -> None:
    """A look at data.det or data.eval, which a later command will read. tell: is given what is not there yet.
    InputError: none of the images tried can be used, or no category of data.eval is among the evaluated ones."""
    for part in parts:
        section = getattr(cfg.data, part)
        if section is None:
            continue
        paths = {name: Path(cfg.data.root) / getattr(section, name) for name in ("annotations", "images", "categories")
                 if hasattr(section, name)}
        if absent := [f"data.{part}.{name} {path}" for name, path in paths.items() if not path.exists()]:
            tell(f"not there yet, and needed later: {', '.join(absent)}")
            continue
        check_folder(f"data.{part}.images", paths["annotations"], paths["images"])
        if part == "eval":
            CategoryMap.load(paths["categories"]).find(*category_names(paths["annotations"]), paths["annotations"])

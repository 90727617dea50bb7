"""One's own photos in front of a trained detector: what s21k.predict and s21k.explain share.

Which words of a command are photos, the images below them, the detector, the categories asked for, a photo as a batch.
"""
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from s21k.core.categories import CategoryMap
from s21k.core.config import Config
from s21k.core.distributed import start_distributed
from s21k.core.errors import InputError, nearest, note, refused
from s21k.core.structures import Batch, Sample, Target
from s21k.core.transfer import model_to
from s21k.core.words import known_words
from s21k.data.augment_stage2 import ResizeShortestEdge
from s21k.data.loaders import collate
from s21k.files.image_files import PassedOver, images_below, is_image
from s21k.models.detector import Detector, restore_detector
from s21k.training.amp import note_precision, resolve_amp
from s21k.training.checkpoint import read, unfinished
from s21k.training.run import trained


def is_source(word: str) -> bool:
    """A photo or a folder, not a word of the configuration.
    A word of s21k/configs is that word, whatever the folder is called (tiny/ or ./tiny is the folder); YAML files and
    key=value are of the configuration. Every other file, folder or path is a source, there or not."""
    if word in known_words():
        if os.path.isdir(word):
            note(f"{word!r} is taken for the word of that name, not for the folder: write {word}{os.sep} for the "
                 "folder")
        return False
    ending = os.path.splitext(word)[1].lower()
    if os.path.isdir(word) or ending in (".yaml", ".yml"):
        return os.path.isdir(word)
    return os.path.isfile(word) or ("=" not in word and (os.sep in word or ending != ""))


def find_images(sources: list[str]) -> list[Path]:
    """All images below the folders, and the single ones. InputError: none, or one is not there or of another kind."""
    paths: list[Path] = []
    for source in map(Path, sources):
        if not os.path.exists(source):
            beside = os.listdir(source.parent) if os.path.isdir(source.parent) else []
            raise InputError(f"{source}: no such photo or folder{nearest(source.name, beside)}")
        if source.is_dir():
            passed = PassedOver()
            paths += map(Path, images_below(source, passed))
            passed.say(source)
        elif not is_image(source.name):
            raise InputError(f"{source}: {source.suffix or 'a name without an ending'} is no image that Pillow reads, "
                             "expected for example .jpg or .png")
        else:
            paths.append(source)
    if not paths:
        raise InputError(f"no images in {' '.join(sources) or 'the command'}, expected a folder, or files such as .jpg "
                         "or .png")
    return paths


@dataclass
class Opened:
    """A trained detector, on its device, in eval mode. cfg: with its precision; categories: all that the categories
    JSON lists, on the CPU; rows: {"det": C, "cls": C^ wnids or names} of the classifiers' rows."""
    cfg: Config
    detector: Detector
    categories: CategoryMap
    rows: dict[str, list[str]]
    device: torch.device


def open_detector(cfg: Config) -> Opened:
    """The detector that a configuration's run has trained. InputError: there is none, or it does not fit."""
    if cfg.data.eval is None:
        raise InputError("data.eval: missing, expected the categories JSON that names the classifiers' rows")
    categories = CategoryMap.load(Path(cfg.data.root) / cfg.data.eval.categories)
    world = start_distributed()
    cfg = resolve_amp(cfg, world)
    checkpoint = trained(cfg)
    content = read(checkpoint)
    note_precision(cfg, content.get("config", {}), checkpoint)
    if line := unfinished(content, checkpoint):
        note(f"warning: {line}")
    detector = model_to(restore_detector(cfg, content, categories), world.device)
    return Opened(cfg, detector, categories, content["categories"], world.device)


def find_categories(categories: CategoryMap, wanted: str, option: str) -> list[int]:
    """Positions of those named in a comma-separated list, by wnid or by any of a name's synonyms.
    InputError, which begins with the option's name: one is unknown."""
    positions: dict[str, list[int]] = {}
    for position, (name, wnid) in enumerate(zip(categories.names, categories.wnids, strict=True)):
        for key in {*(part.strip().lower() for part in name.split(",")), name.lower(), wnid or name.lower()}:
            positions.setdefault(key, []).append(position)
    chosen: list[int] = []
    for key in filter(None, (part.strip().lower() for part in wanted.split(","))):
        if key not in positions:
            known = f"{option}: {key!r} is none of the {len(categories)} categories"
            raise InputError(known + nearest(key, positions))
        chosen += positions[key]
    return list(dict.fromkeys(chosen))


def photo_batch(opened: Opened, image: Image.Image, number: int = 0) -> Batch:
    """One photo, at the size of a test image [G25], as a batch of one on the detector's device."""
    nothing, size = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)), (image.height, image.width)
    tensor, _, scale = ResizeShortestEdge(*opened.cfg.eval.resize)(image, size, nothing)
    return collate([Sample(tensor, nothing, number, scale, 0)]).to(opened.device)


def make_folder(out: Path) -> None:
    """The folder of --out. InputError: it cannot be made."""
    with refused(f"--out {out}: cannot be written"):
        out.mkdir(parents=True, exist_ok=True)

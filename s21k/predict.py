"""Detect in photos: names and scores on each, and detections.json. No annotations needed.

    python -m s21k.predict r18 tiny photos/                             a folder, or single photos
    python -m s21k.predict r18 tiny photos/ --categories dog,n02084071  only these, by name or wnid
    python -m s21k.predict r18 tiny photos/ --threshold 0.3 --out DIR

The words are those of training, key=value included; every other file, folder or path is a source of photos (write
./tiny for a folder that is called like a word). Default --out: predictions/ in the run's folder. What was detected
before an interruption is written.
"""
import argparse
import json
import os
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image

from s21k.core.categories import CategoryMap
from s21k.core.config import Config, load_config
from s21k.core.distributed import start_distributed
from s21k.core.errors import InputError, nearest, note, run_command
from s21k.core.structures import Prediction, Sample, Target
from s21k.core.words import known_words
from s21k.data.augment_stage2 import ResizeShortestEdge
from s21k.data.loaders import collate
from s21k.draw import contact_sheet, draw_boxes
from s21k.files.image_files import PassedOver, images_below, is_image
from s21k.files.images import read_image
from s21k.models.detector import Detector, restore_detector
from s21k.training.amp import autocast, note_precision, resolve_amp
from s21k.training.checkpoint import read
from s21k.training.run import trained

ON_SHEET = 40                                       # drawings on the contact sheet
MAX_NAME = 200                                      # bytes of a drawing's name, of the 255 that most file systems allow


def is_source(word: str) -> bool:
    """A photo or a folder, not a word of the configuration.

    A word of s21k/configs is that word, whatever the folder is called (tiny/ or ./tiny is the folder); YAML files and
    key=value are of the configuration. Every other file, folder or path is a source, there or not.
    """
    if word in known_words():
        if os.path.isdir(word):
            note(
                f"{word!r} is taken for the word of that name, not for the folder: write {word}{os.sep} for the folder"
            )
        return False
    ending = os.path.splitext(word)[1].lower()
    if os.path.isdir(word) or ending in (".yaml", ".yml"):
        return os.path.isdir(word)
    return os.path.isfile(word) or ("=" not in word and (os.sep in word or ending != ""))


def find_images(sources: list[str]) -> list[Path]:
    """All images below the folders, and the single ones. InputError: none, or one is not there or of a kind that is not
    read."""
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
            raise InputError(
                f"{source}: {source.suffix or 'a name without an ending'} is no image that Pillow reads, expected for "
                f"example .jpg or .png"
            )
        else:
            paths.append(source)
    if not paths:
        raise InputError(
            f"no images in {' '.join(sources) or 'the command'}, expected a folder, or files such as .jpg or .png"
        )
    return paths


def choose_categories(categories: CategoryMap, wanted: str | None) -> CategoryMap:
    """Those named in a comma-separated list, by wnid or by any of a name's synonyms. InputError: one is unknown."""
    if wanted is None:
        return categories
    positions: dict[str, list[int]] = {}
    for position, (name, wnid) in enumerate(zip(categories.names, categories.wnids)):
        for key in {*(part.strip().lower() for part in name.split(",")), name.lower(), wnid or name.lower()}:
            positions.setdefault(key, []).append(position)
    chosen: list[int] = []
    for key in filter(None, (part.strip().lower() for part in wanted.split(","))):
        if key not in positions:
            raise InputError(f"--categories: {key!r} is none of the {len(categories)} categories"
                             + nearest(key, positions))
        chosen += positions[key]
    return categories.subset(list(dict.fromkeys(chosen)))


@torch.no_grad()
def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m s21k.predict")
    parser.add_argument("words", nargs="+")
    parser.add_argument("--categories")
    parser.add_argument("--threshold", type=float, default=0.3)
    parser.add_argument("--out", type=Path)
    a = parser.parse_args(argv)
    sources = [word for word in a.words if is_source(word)]
    cfg = load_config([word for word in a.words if word not in sources])
    paths = find_images(sources)
    if cfg.data.eval is None:
        raise InputError("data.eval: missing, expected the categories JSON that names the classifiers' rows")
    everything = CategoryMap.load(Path(cfg.data.root) / cfg.data.eval.categories)
    world = start_distributed()
    cfg = resolve_amp(cfg, world)
    checkpoint = trained(cfg)
    content = read(checkpoint)
    note_precision(cfg, content.get("config", {}), checkpoint)
    detector = restore_detector(cfg, content, everything).to(world.device)
    categories = choose_categories(everything, a.categories).to(world.device)
    out = a.out or Path(cfg.output_dir) / "predictions"
    # not what an earlier call wrote
    paths = [path for path in paths if out.resolve() not in path.resolve().parents]
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {out}: cannot be written ({error})") from None

    rows: list[dict] = []
    drawn: list[Image.Image] = []
    read_ones = 0
    try:
        for number, path in enumerate(paths):
            drawing = detect(cfg, detector, categories, path, number, a.threshold, out, rows)
            read_ones += drawing is not None
            drawn += [drawing] if drawing is not None and len(drawn) < ON_SHEET else []
    finally:  # what is done is not lost, whatever comes between
        (out / "detections.json").write_text(json.dumps(rows, indent=1), encoding="ascii")
    if drawn:
        contact_sheet(drawn, columns=5).save(out / "contact_sheet.png")
    print(f"{read_ones} of {len(paths)} images, {len(rows)} detections above {a.threshold} -> {out}")


def detect(
    cfg: Config,
    detector: Detector,
    categories: CategoryMap,
    path: Path,
    number: int,
    threshold: float,
    out: Path,
    rows: list[dict],
) -> Image.Image | None:
    """Detect in one photo: rows gets its detections, out a drawing of it, which is returned small. None, and a line: it
    cannot be read."""
    try:
        image = read_image(path)
    except InputError as error:
        print(f"left out: {error}")
        return None
    nothing, size = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)), (image.height, image.width)
    tensor, _, scale = ResizeShortestEdge(*cfg.eval.resize)(image, size, nothing)
    batch = collate([Sample(tensor, nothing, number, scale, 0)]).to(categories.det_index.device)
    with autocast(cfg.amp, batch.images.device):
        prediction = next(detector.predict(batch, categories, cfg.eval))
    found = above(prediction, threshold).in_image(scale, size).detections.to(torch.device("cpu"))
    names = [categories.names[label] for label in found.labels.tolist()]
    for place, (box, score, label, name) in enumerate(
        zip(found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), names)
    ):
        x1, y1, x2, y2 = box
        rows.append({"file": str(path), "category": name, "wnid": categories.wnids[label], "score": score,
                     "bbox": [round(v, 2) for v in (x1, y1, x2 - x1, y2 - y1)]})
        if found.masks is not None:
            rows[-1]["segmentation"] = {
                "size": found.masks[place]["size"],
                "counts": found.masks[place]["counts"].decode(),
            }
    drawing = draw_boxes(
        image, found.boxes.numpy(), [name.split(",")[0] for name in names], found.scores.tolist(), found.masks
    )
    try:
        drawing.save(out / drawing_name(number, path))
    except OSError as error:
        note(f"{out}: drawings cannot be written, detections.json will be tried ({error.strerror})")
    drawing.thumbnail((320, 320), Image.Resampling.LANCZOS)
    print(
        f"{path}: {len(found.scores)} detections" + (f", best {names[0]} {float(found.scores[0]):.2f}" if names else "")
    )
    return drawing


def drawing_name(number: int, path: Path) -> str:
    """Numbered, so that a/1.jpg and b/1.jpg stay apart; no longer than a file's name may be."""
    return os.fsencode(f"{number:04d}-{path.stem}")[:MAX_NAME].decode(errors="ignore") + ".png"


def above(prediction: Prediction, threshold: float) -> Prediction:
    """With the detections that have a score of at least threshold, alone."""
    kept = (prediction.detections.scores >= threshold).nonzero().squeeze(1).tolist()
    return replace(prediction, detections=prediction.detections.pick(kept),
                   masks=None if prediction.masks is None else prediction.masks[kept])


if __name__ == "__main__":
    run_command(main, __doc__)

"""Detect in photos: names and scores on each, and detections.json. No annotations needed.

    python -m s21k.predict r18 tiny photos/                             a folder, or single photos
    python -m s21k.predict r18 tiny photos/ --categories dog,n02084071  only these, by name or wnid
    python -m s21k.predict r18 tiny photos/ --threshold 0.3 --out DIR

The words are those of training, key=value included; every other file, folder or path is a source of photos (./tiny
is the folder, tiny the word). Default --out: predictions/ in the run's folder. An interruption loses nothing.
"""
import argparse
import json
import os
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image

from s21k.core.categories import CategoryMap
from s21k.core.config import load_config
from s21k.core.errors import InputError, note, run_command
from s21k.core.structures import Prediction
from s21k.draw import contact_sheet, draw_boxes
from s21k.files.images import read_image
from s21k.photos import Opened, find_categories, find_images, is_source, make_folder, open_detector, photo_batch
from s21k.training.amp import autocast

ON_SHEET = 40                                       # drawings on the contact sheet
MAX_NAME = 200                                      # bytes of a drawing's name, of the 255 that most file systems allow


@torch.no_grad()
def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m s21k.predict")
    parser.add_argument("words", nargs="+")
    parser.add_argument("--categories")
    parser.add_argument("--threshold", type=float, default=0.3)
    parser.add_argument("--out", type=Path)
    a = parser.parse_intermixed_args(argv)
    sources = [word for word in a.words if is_source(word)]
    cfg = load_config([word for word in a.words if word not in sources])
    paths = find_images(sources)
    opened = open_detector(cfg)
    categories = opened.categories
    if a.categories is not None:
        categories = categories.subset(find_categories(categories, a.categories, "--categories"))
    categories = categories.to(opened.device)
    out = a.out or Path(opened.cfg.output_dir) / "predictions"
    paths = [path for path in paths if out.resolve() not in path.resolve().parents]     # not what an earlier call wrote
    make_folder(out)
    rows: list[dict] = []
    drawn: list[Image.Image] = []
    read_ones = 0
    try:
        for number, path in enumerate(paths):
            drawing = detect(opened, categories, path, number, a.threshold, out, rows)
            read_ones += drawing is not None
            drawn += [drawing] if drawing is not None and len(drawn) < ON_SHEET else []
    finally:  # what is done is not lost, whatever comes between
        (out / "detections.json").write_text(json.dumps(rows, indent=1), encoding="ascii")
    if drawn:
        contact_sheet(drawn, columns=5).save(out / "contact_sheet.png")
    print(f"{read_ones} of {len(paths)} images, {len(rows)} detections of at least {a.threshold} -> {out}")


def detect(opened: Opened, categories: CategoryMap, path: Path, number: int, threshold: float, out: Path,
           rows: list[dict]) -> Image.Image | None:
    """One photo's detections into rows, a drawing into out, returned small. None, and a line: it is unreadable."""
    try:
        image = read_image(path)
    except InputError as error:
        print(f"left out: {error}")
        return None
    batch = photo_batch(opened, image, number)
    with autocast(opened.cfg.amp, opened.device):
        prediction = next(opened.detector.predict(batch, categories, opened.cfg.eval))
    size = image.height, image.width
    found = at_least(prediction, threshold).in_image(batch.scales[0], size).detections.to(torch.device("cpu"))
    names = [categories.names[label] for label in found.labels.tolist()]
    columns = found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), names
    for place, (box, score, label, name) in enumerate(zip(*columns, strict=True)):
        x1, y1, x2, y2 = box
        rows.append({"file": str(path), "category": name, "wnid": categories.wnids[label], "score": score,
                     "bbox": [round(v, 2) for v in (x1, y1, x2 - x1, y2 - y1)]})
        if found.masks is not None:
            rows[-1]["segmentation"] = found.masks[place] | {"counts": found.masks[place]["counts"].decode()}
    titles = categories.titles()
    drawing = draw_boxes(image, found.boxes.numpy(), [titles[label] for label in found.labels.tolist()],
                         found.scores.tolist(), found.masks)
    try:
        drawing.save(out / drawing_name(number, path))
    except OSError as error:
        note(f"{out}: drawings cannot be written, detections.json will be tried ({error.strerror})")
    drawing.thumbnail((320, 320), Image.Resampling.LANCZOS)
    print(f"{path}: {len(found.scores)} detections"
          + (f", best {names[0]} {float(found.scores[0]):.2f}" if names else ""))
    return drawing


def drawing_name(number: int, path: Path) -> str:
    """Numbered, so that a/1.jpg and b/1.jpg stay apart; no longer than a file's name may be."""
    return os.fsencode(f"{number:04d}-{path.stem}")[:MAX_NAME].decode(errors="ignore") + ".png"


def at_least(prediction: Prediction, threshold: float) -> Prediction:
    """With the detections that have a score of at least threshold, alone."""
    kept = (prediction.detections.scores >= threshold).nonzero().squeeze(1).tolist()
    masks = None if prediction.masks is None else prediction.masks[kept]
    return replace(prediction, detections=prediction.detections.pick(kept), masks=masks)


if __name__ == "__main__":
    run_command(main, __doc__)

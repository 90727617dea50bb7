"""Detect in pictures: names and scores on each, and detections.json. No annotations needed.

    python -m s21k.predict r18 tiny photos/                             a folder, or single pictures
    python -m s21k.predict r18 tiny photos/ --categories dog,n02084071  only these, by name or wnid
    python -m s21k.predict r18 tiny photos/ --threshold 0.3 --out DIR

The words are those of training, key=value included; whatever else exists as a file or folder is
a picture source. Default --out: predictions/ in the run's folder.
"""
import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image

from s21k.categories import CategoryMap
from s21k.config import load_config
from s21k.data.augment_stage2 import ResizeShortestEdge
from s21k.data.loaders import collate
from s21k.distributed import start_distributed
from s21k.draw import contact_sheet, draw_boxes
from s21k.errors import InputError, nearest, run_command
from s21k.images import ENDINGS, read_image
from s21k.models.detector import restore_detector
from s21k.structures import Prediction, Sample, Target
from s21k.training.amp import autocast, note_precision, resolve_amp
from s21k.training.checkpoint import read
from s21k.training.run import trained


def is_source(word: str) -> bool:
    """A picture or a folder, not a word of the configuration."""
    path = Path(word)
    return "=" not in word and (path.is_dir() or path.suffix.lower() in ENDINGS)


def find_pictures(sources: list[str]) -> list[Path]:
    """All pictures below the folders, and the single ones. InputError: none."""
    paths: list[Path] = []
    for source in map(Path, sources):
        if not source.exists():
            raise InputError(f"{source}: no such picture or folder")
        inside = sorted(p for p in source.rglob("*") if p.suffix.lower() in ENDINGS) if source.is_dir() else [source]
        paths += inside
    if not paths:
        raise InputError(f"no pictures in {' '.join(sources) or 'the command'}, expected a folder or files of {', '.join(ENDINGS)}")
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
            raise InputError(f"--categories: {key!r} is none of the {len(categories)} categories" + nearest(key, positions))
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
    cfg = load_config([word for word in a.words if not is_source(word)])
    paths = find_pictures([word for word in a.words if is_source(word)])
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
    paths = [path for path in paths if out.resolve() not in path.resolve().parents]      # not what an earlier call wrote
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {out}: cannot be written ({error})") from None

    resize = ResizeShortestEdge(*cfg.eval.resize)
    nothing = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    rows, drawn, unread = [], [], 0
    for number, path in enumerate(paths):
        try:
            image = read_image(path)
        except InputError as error:
            print(f"left out: {error}")
            unread += 1
            continue
        tensor, _, scale = resize(image, (image.height, image.width), nothing)
        batch = collate([Sample(tensor, nothing, number, scale, 0)]).to(world.device)
        with autocast(cfg.amp, world.device):
            prediction = next(detector.predict(batch, categories, cfg.eval))
        found = above(prediction, a.threshold).in_picture(scale, (image.height, image.width)).detections.to(torch.device("cpu"))
        names = [categories.names[label] for label in found.labels.tolist()]
        for place, (box, score, label, name) in enumerate(zip(found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), names)):
            x1, y1, x2, y2 = box
            rows.append({"file": str(path), "category": name, "wnid": categories.wnids[label], "score": score,
                         "bbox": [round(v, 2) for v in (x1, y1, x2 - x1, y2 - y1)]})
            if found.masks is not None:
                rows[-1]["segmentation"] = {"size": found.masks[place]["size"], "counts": found.masks[place]["counts"].decode()}
        picture = draw_boxes(image, found.boxes.numpy(), [name.split(",")[0] for name in names], found.scores.tolist(), found.masks)
        picture.save(out / f"{number:04d}-{path.stem}.png")              # numbered: a/1.jpg and b/1.jpg stay apart
        picture.thumbnail((320, 320), Image.Resampling.LANCZOS)
        drawn.append(picture)
        print(f"{path}: {len(found.scores)} detections" + (f", best {names[0]} {float(found.scores[0]):.2f}" if names else ""))
    (out / "detections.json").write_text(json.dumps(rows, indent=1))
    if drawn:
        contact_sheet(drawn[:40], columns=5).save(out / "contact_sheet.png")
    print(f"{len(paths) - unread} pictures, {len(rows)} detections above {a.threshold} -> {out}")


def above(prediction: Prediction, threshold: float) -> Prediction:
    """With the detections that have a score of at least threshold, alone."""
    kept = (prediction.detections.scores >= threshold).nonzero().squeeze(1).tolist()
    return replace(prediction, detections=prediction.detections.pick(kept), masks=None if prediction.masks is None else prediction.masks[kept])


if __name__ == "__main__":
    run_command(main, __doc__)

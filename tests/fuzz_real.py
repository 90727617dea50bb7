"""Three kinds of input as other people and programs make them, put together by chance: image folders, results files,
checkpoints.

Each is compared with a plain reading of the same: what is right must be read as it is, what is wrong must be an
InputError of one line.
"""

import argparse
import contextlib
import json
import math
import os
import random
import shutil
import unicodedata

import numpy as np
import torch

from s21k.core.errors import InputError
from s21k.data.classification import ClassificationData
from s21k.evaluation.average_precision import AveragePrecision
from s21k.evaluation.detections_file import locate, read_detections
from s21k.evaluation.ground_truth import GroundTruth
from s21k.models.pretrained import load_backbone
from s21k.training.checkpoint import read

IMAGES = [
    "1.jpg",
    "2.JPEG",
    "\u00e9.jfif",
    "e\u0301.png",
    "a b.gif",
    "x" * 200 + ".webp",
    "p.TIF",
    "i.ico",
    "\udcff.jpg",
    "q=1.bmp",
    "\u2603.jpe",
]
OTHERS = ["notes.txt", "one.heic", "noending", "a.jpg.part", "x.eps", "list.tsv", "\udcfe"]
SYSTEM = [".DS_Store", "._1.jpg", "Thumbs.db", ".hidden.png", "desktop.ini"]
CLASSES = ["cat", "Cat", "caf\u00e9", "cafe\u0301", "a b", "train.jpg", "\udcff", "\u732b", "n01440764"]
SYSTEM_FOLDERS = [".ipynb_checkpoints", "__MACOSX", ".git", "@eaDir"]


def image_folder(world, rng: random.Random) -> None:
    """Folders of good and broken images, other files, system files, links out, round and to nowhere."""
    root, outside = world.root / "case_folder", world.root / "case_outside"
    for folder in (root, outside):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()

    def fill(folder, most: int) -> list[str]:
        names = rng.sample(IMAGES, rng.randrange(most + 1))
        for name in [*names, *rng.sample(OTHERS + SYSTEM, rng.randrange(4))]:
            (folder / name).write_bytes(rng.choice(world.pictures) if rng.random() < 0.8 else b"x" * rng.randrange(3))
        return names

    linked = fill(outside, 2)
    expected: dict[str, int] = {}
    for name in rng.sample(CLASSES, rng.randrange(4)) + rng.sample(SYSTEM_FOLDERS, rng.randrange(2)):
        (root / name).mkdir()
        count = len(fill(root / name, 3))
        if rng.random() < 0.3:
            (root / name / "deeper").mkdir()
            count += len(fill(root / name / "deeper", 2))
        if rng.random() < 0.3:
            (root / name / "out").symlink_to(outside)
            count += len(linked)
        for link, target in (("up", ".."), ("self", "."), ("gone", "/nowhere/at/all")):
            if rng.random() < 0.15:
                (root / name / link).symlink_to(target)
        if name not in SYSTEM_FOLDERS and count:
            expected[name] = count
    forms = [unicodedata.normalize("NFC", name) for name in expected]
    try:
        data = ClassificationData(root)
    except InputError:
        assert not expected or len(set(forms)) < len(forms)
        raise
    found = [data.class_names[label] for label in data.labels]
    assert {name: found.count(name) for name in found} == expected and data.class_names == sorted(expected)
    for i in range(len(data)):
        assert data.paths[i].split(os.sep)[0] == found[i]
        with contextlib.suppress(InputError):
            assert data.read(i)[0].mode == "RGB"


def _is_right(row: object) -> bool:
    """Whether an entry is one of a results file, told plainly."""

    def number(value, *kinds):
        return type(value) in kinds and (
            math.isfinite(value) if abs(value) < 1 << 1000 or isinstance(value, float) else False
        )

    return (
        isinstance(row, dict)
        and all(number(row.get(k), int) and -(2**63) <= row[k] < 2**63 for k in ("image_id", "category_id"))
        and number(row.get("score"), int, float)
        and isinstance(row.get("bbox"), list)
        and len(row["bbox"]) == 4
        and all(number(v, int, float) for v in row["bbox"])
    )


def results_file(world, rng: random.Random) -> None:
    """Rows of other programs: ids as 1.0 or "1", unknown ids, strings, several files in one; a truth without file
    names."""
    path, truth = world.root / "case_results.json", world.root / "case_truth.json"
    content = world.truth | {
        "images": [
            {k: v for k, v in image.items() if k == "id" or rng.random() < 0.3} for image in world.truth["images"]
        ]
    }
    truth.write_text(json.dumps(content))
    rows = [
        {k: v for k, v in row.items() if k != "segmentation"} for row in rng.choices(world.rows, k=rng.randrange(6))
    ]
    changes = [
        ("category_id", float),
        ("category_id", str),
        ("category_id", lambda v: v + 1000),
        ("category_id", lambda v: v - 1),
        ("image_id", str),
        ("image_id", lambda v: v + 1000),
        ("score", str),
        ("score", lambda v: [v]),
        ("score", lambda v: None),
        ("score", lambda v: 1),
        ("bbox", tuple),
        ("bbox", lambda v: v[:3]),
        ("bbox", lambda v: [*v, 0]),
        ("bbox", lambda v: [str(x) for x in v]),
        ("bbox", lambda v: [x + 0.123456789 for x in v]),
        ("bbox", lambda v: {"x": 1}),
        ("id", lambda v: 5),
        ("\u00fc" * 50, lambda v: {"deep": [{}]}),
        ("score", lambda v: rng.choice([1e308, 10**300, 10**400])),
    ]
    for row in rows:
        for key, change in {
            key: (key, change) for key, change in rng.sample(changes, rng.choice([0, 0, 0, 0, 0, 1, 2]))
        }.values():
            row[key] = change(row.get(key))
        if rng.random() < 0.03:
            row.pop(rng.choice(list(row)))
    text = json.dumps(
        rng.choice([rows, rows, rows, rows, {"annotations": rows}, [rows], rows[0] if rows else None]),
        indent=rng.choice([None, 1]),
    )
    path.write_text(text + rng.choice(["", "", "", "\n", "\n[]", ","]))
    gt = GroundTruth.load(truth)
    images, categories = set(gt.image_ids.tolist()), set(gt.category_ids.tolist())
    right = text == json.dumps(rows, indent=1) or text == json.dumps(rows)
    rows = json.loads(text) if right else rows
    fits = right and all(map(_is_right, rows)) and path.read_text().strip() == text
    known = [row for row in rows if fits and row["category_id"] in categories]
    fits = fits and all(row["image_id"] in images for row in rows) and (bool(known) or not rows)
    try:
        found = locate(read_detections(path), gt)
    except InputError:
        assert not fits
        raise
    assert fits and [
        (gt.image_ids[i], gt.category_ids[c], s) for i, c, s in zip(found.image, found.category, found.scores.tolist())
    ] == [(row["image_id"], row["category_id"], float(row["score"])) for row in known]
    metric = AveragePrecision(gt)
    metric.add_all(found)
    assert all(-1 <= value <= 1 for value in metric.compute().values())


class SmallNet(torch.nn.Module):
    """A backbone with a ResNet's names and 20 numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = torch.nn.Conv2d(1, 2, 1)
        self.layer1 = torch.nn.ModuleList(
            [torch.nn.ModuleDict({"conv1": torch.nn.Conv2d(2, 2, 1), "bn1": torch.nn.BatchNorm2d(2)})]
        )


class Stranger:
    """An object of another project."""


def other_checkpoint(world, rng: random.Random) -> None:
    """Weights below prefixes and in entries, beside optimizers, arguments and objects; kinds of files that are none."""
    path, right = world.root / "case_other.pt", SmallNet().state_dict()
    right = {name: torch.rand(value.shape) if value.is_floating_point() else value for name, value in right.items()}
    prefix = rng.choice(["", "", "module.", "backbone.", "module.encoder.", "\u00fc.", "0."])
    state = {prefix + name: value for name, value in right.items()}
    fits = True
    if rng.random() < 0.3:
        state |= {"head.weight": torch.zeros(3), f"{prefix}fc.weight": torch.zeros(2)}
    if rng.random() < 0.15:  # another copy below another prefix; where one has none, it is meant
        state |= {f"ema.{name}": value + 1 for name, value in right.items()}
        fits = prefix == ""
    if rng.random() < 0.15:
        name = rng.choice(sorted(right))
        if rng.random() < 0.5:
            del state[prefix + name]
        else:
            state[prefix + name] = rng.choice([torch.zeros(7, 7), None, 3, "x"])
        fits = False
    content = rng.choice(
        [
            state,
            {"model": state},
            {"state_dict": state},
            {"net": state, "epoch": 3},
            {"model": state, "optimizer": {"state": {0: torch.zeros(2)}}},
        ]
    )
    content = dict(content)
    for key, value in rng.sample(
        [
            ("epoch", 3),
            ("args", {"lr": 1.0}),
            ("\u00fc", [1]),
            ("config", None),
            ("args", argparse.Namespace(lr=1)),
            ("own", Stranger()),
            ("best", np.float64(1.0)),
            (7, 7),
        ],
        rng.choice([0, 0, 1, 2]),
    ):
        if key not in content:
            content[key] = value
            fits = fits and not isinstance(value, (argparse.Namespace, Stranger, np.float64))
    whole = rng.random()
    if whole < 0.08:
        content, fits = rng.choice([[state], torch.zeros(3), None, {}, {"model": {}}, {"a": 1}]), False
    if whole > 0.95:
        path.write_bytes(
            rng.choice(
                [
                    b"",
                    b"\x80\x04N.",
                    b"PK\3\4",
                    b"<html>",
                    b'\x10\0\0\0\0\0\0\0{"a":{}}      ',
                    bytes(rng.randrange(256) for _ in range(60)),
                ]
            )
        )
        fits = False
    else:
        torch.save(content, path, _use_new_zipfile_serialization=rng.random() < 0.8)
    backbone = SmallNet()
    try:
        report = load_backbone(backbone, read(path))
    except InputError as error:
        assert not fits and "\n" not in str(error) and "\x1b" not in str(error), error
        raise
    if fits:
        assert report.prefix == prefix
        assert all(torch.equal(value, backbone.state_dict()[name]) for name, value in right.items())
    else:  # the first copy is broken, and only the other one is recognised
        assert report.prefix == "ema." and report.share == 1

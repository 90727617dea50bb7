"""RandAugment against timm's rand-m9-mstd0.5-inc1: operation by operation, and in distribution."""
import random

import numpy as np
import pytest
import torch
from PIL import Image

from s21k.data import rand_augment as ours
from s21k.data.rand_augment import COLOUR, OPERATIONS, RandAugment
from tests.toy import DATA

timm = pytest.importorskip("timm.data.auto_augment")
# Our name -> timm's, where the two differ.
INCREASING = ("Posterize", "Solarize", "Color", "Contrast", "Brightness", "Sharpness")
THEIRS = ({"TranslateX": "TranslateXRel", "TranslateY": "TranslateYRel"}
          | {name: f"{name}Increasing" for name in INCREASING})
HOW = {"img_mean": COLOUR, "interpolation": Image.BICUBIC}


@pytest.fixture(autouse=True)
def no_bits(monkeypatch):
    """At the largest magnitude timm asks Pillow for 0 bits; Pillow 12 refuses, older versions gave black."""
    pillows = timm.ImageOps.posterize
    monkeypatch.setattr(timm.ImageOps, "posterize",
                        lambda image, bits: pillows(image, bits) if bits else image.point(lambda level: 0))


def photos(count, size):
    files = sorted((DATA / "coco-mini" / "train2017").glob("*.jpg"))[:count]
    if len(files) < count:
        pytest.skip("data absent")
    return [Image.open(file).convert("RGB").resize((size, size), Image.Resampling.BICUBIC) for file in files]


def drawn(seed):
    """An image of another height than width: stripes, edges and noise in a narrow range of levels."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(30, 200, (57, 83, 3))
    pixels[10:30, 20:60] = (200, 60, 90)
    return Image.fromarray(pixels.astype(np.uint8))


def test_the_operations_are_those_of_timms_list():
    """P52, G24."""
    assert [THEIRS.get(name, name) for name in OPERATIONS] == timm._RAND_INCREASING_TRANSFORMS


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_gives_timms_image_at_the_same_magnitude(name, monkeypatch):
    """P52, G24: every pixel equal, at magnitudes 0 to 10 and with both signs."""
    changed = False
    for magnitude in (0.0, 0.3, 4.9, 8.1, 9.0, 9.7, 10.0):
        for sign, draw in ((1, 0.1), (-1, 0.9)):
            monkeypatch.setattr(timm.random, "random", lambda draw=draw: draw)      # theirs is negative above one half
            image = drawn(int(magnitude * 10))
            expected = timm.AugmentOp(THEIRS.get(name, name), prob=1.0, magnitude=magnitude, hparams=HOW)(image)
            got = OPERATIONS[name](image, magnitude / 10, sign)
            assert got.size == image.size and np.array_equal(np.asarray(got), np.asarray(expected)), (magnitude, sign)
            changed |= not np.array_equal(np.asarray(got), np.asarray(image))
    assert changed


def test_strengths_and_probabilities_are_timms(monkeypatch):
    """P52, G24: what reaches an operation: how often, how strong, with which sign; 20,000 images of each."""
    seen = []
    fake = dict.fromkeys(OPERATIONS, lambda image, m, sign: seen.append((m * 10, sign)) or image)
    monkeypatch.setattr(ours, "OPERATIONS", fake)
    torch.manual_seed(0)
    for _ in range(20_000):
        RandAugment()(None)
    magnitudes, signs = np.array(seen).T
    assert len(seen) / 20_000 == pytest.approx(1.0, abs=0.02)                           # 2 x 1/2
    theirs = []
    monkeypatch.setattr(timm, "LEVEL_TO_ARG",
                        dict.fromkeys(timm.LEVEL_TO_ARG, lambda level, _: theirs.append(level) or ()))
    monkeypatch.setattr(timm, "NAME_TO_OP", dict.fromkeys(timm.NAME_TO_OP, lambda image, **_: image))
    augment = timm.rand_augment_transform("rand-m9-mstd0.5-inc1", HOW)
    random.seed(0)
    np.random.seed(0)
    for _ in range(20_000):
        augment(None)
    assert len(theirs) / len(seen) == pytest.approx(1.0, abs=0.02)
    for share in (1, 10, 25, 50, 75, 90, 97, 99):
        assert np.percentile(magnitudes, share) == pytest.approx(np.percentile(theirs, share), abs=0.05)
    assert magnitudes.max() == max(theirs) == 10 and abs(signs.mean()) < 0.02


def test_pictures_change_as_much_as_timms(capsys):
    """P52, G24: mean change of a pixel and share of unchanged images, 60 photos x 200 draws: within 5 % of timm's."""
    images = photos(60, 48)
    timms = timm.rand_augment_transform("rand-m9-mstd0.5-inc1", HOW)
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    figures = {}
    for name, augment in (("ours", RandAugment()), ("timm", timms)):
        change = []
        for image in images:
            before = np.asarray(image).astype(np.int16)
            change += [np.abs(np.asarray(augment(image)) - before).mean() for _ in range(200)]
        figures[name] = (np.mean(change), np.mean(np.array(change) == 0))
    with capsys.disabled():
        print("\nRandAugment, 60 photos x 200 draws: " + "; ".join(
            f"{name}: mean pixel change {change:.2f}, unchanged {100 * still:.1f} %"
            for name, (change, still) in figures.items()))
    assert figures["ours"][0] == pytest.approx(figures["timm"][0], rel=0.05)
    assert figures["ours"][1] == pytest.approx(figures["timm"][1], rel=0.05)


def test_chance_is_torchs_alone():
    """G32: the same seed of torch, the same image."""
    pictures = []
    for other in (1, 2):
        random.seed(other)
        np.random.seed(other)
        torch.manual_seed(5)
        pictures.append(np.stack([np.asarray(RandAugment()(drawn(i))) for i in range(20)]))
    assert np.array_equal(*pictures)

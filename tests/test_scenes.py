"""The world scenes: what is drawn where, and what its three sets with boxes share."""
import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from s21k.core.config import load_config
from s21k.core.errors import InputError
from s21k.data.classification import ClassificationData
from s21k.prepare import scenes
from s21k.prepare.scenes import draw_scene, label_style, scene_style
from s21k.prepare.shape_drawing import make_categories
from s21k.prepare.shapes import main


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    out = tmp_path_factory.mktemp("world") / "scenes"
    main(f"--format scenes --out {out} --images-per-category 2 --detection-images 40 --val-per-category 2 "
         f"--processes 1".split())
    return out


def test_a_box_is_drawn_around_what_is_visible_and_every_object_changes_only_what_lies_behind_it():
    categories = make_categories(24)[:6]
    whole, boxes, placed, masks = draw_scene(3, categories, scene_style(144))
    assert min(whole.size) >= 128 and max(whole.size) <= 160 and placed == sorted(placed)
    assert not np.any(sum(mask.astype(int) for mask in masks) > 1)
    for (x, y, w, h), mask in zip(boxes, masks):
        rows, columns = np.nonzero(mask)
        assert [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] == [x, y, x + w, y + h]
    for count in range(1, 6):
        fewer, some_boxes, _, some_masks = draw_scene(3, categories[:count], scene_style(144))
        assert boxes[:len(some_boxes)] == some_boxes
        inside = np.any([mask for mask in some_masks], axis=0)
        # a pixel at an outline is shared with what lies behind
        full = inside & ~np.any([np.roll(~inside, s, axis) for s in (-1, 1) for axis in (0, 1)], axis=0)
        assert full.sum() > 50 and np.array_equal(np.asarray(fewer)[full], np.asarray(whole)[full])


def test_objects_are_hidden_and_cut_and_of_very_different_size():
    sides, cut, hidden = [], 0, 0
    for seed in range(40):
        image, boxes, _, masks = draw_scene(seed, make_categories(24)[:6], scene_style(144))
        front = np.zeros((image.height, image.width), dtype=bool)
        for (x, y, w, h), mask in zip(boxes, masks):
            sides.append(max(w, h) / min(image.size))
            cut += x == 0 or y == 0 or x + w == image.width or y + h == image.height
            # what lies in front touches what is left of it
            hidden += any((np.roll(front, s, axis) & mask).any() for s in (-1, 1) for axis in (0, 1))
            front |= mask
    assert min(sides) < 0.15 and max(sides) > 0.7
    assert 0.2 < cut / len(sides) < 0.7 and 0.2 < hidden / len(sides) < 0.8


@pytest.mark.parametrize("style", [scene_style(144), label_style(144)])
def test_no_less_of_an_object_is_visible_than_the_style_wants(style, monkeypatch):
    """Objects are squares of 30 pixels here: how much of each is left can be counted."""
    square = np.full((30, 30, 3), 200, dtype=np.uint8), np.ones((30, 30), dtype=np.float32)
    monkeypatch.setattr(scenes, "draw_object", lambda rng, category, size: square)
    shares = [mask.sum() / 900 for seed in range(30)
              for mask in draw_scene(seed, make_categories(24)[:6], style)[3]]
    assert style.visible <= min(shares) < style.visible + 0.15 and max(shares) == 1


def test_the_sets_with_boxes_differ_in_novel_objects_alone(world):
    file = json.loads((world / "det_train.json").read_text())
    names = [f"{i['file_name']}" for i in file["images"]]
    assert len(names) == 40 and all(len(list((world / name).iterdir())) == 40 for name in scenes.SHARES)
    annotated = Counter(a["image_id"] for a in file["annotations"])
    changed = {name: 0 for name in scenes.SHARES}
    for image in file["images"]:
        pixels = {name: np.asarray(Image.open(world / name / image["file_name"])).astype(int) for name in scenes.SHARES}
        assert {p.shape for p in pixels.values()} == {(image["height"], image["width"], 3)}
        for name, shown in pixels.items():
            changed[name] += (np.abs(shown - pixels["det_00"]).max(-1) > 60).mean()
    assert changed["det_00"] == 0 < changed["det_25"] < changed["det_50"] and set(annotated.values()) <= {1, 2, 3}


def test_the_share_of_novel_objects_is_what_the_sets_are_called():
    categories = make_categories(24)
    base, novel = ([c for c in categories if c.group == group] for group in ("base", "novel"))
    contents = scenes.det_contents(np.random.default_rng(0), base, novel, 3000)
    for name, share in scenes.SHARES.items():
        objects = [c.group for content in contents[name] for c in content]
        assert objects.count("novel") / len(objects) == pytest.approx(share, abs=0.01)
        assert all(len(content) <= 6 and content[0].group == "base" for content in contents[name])
    for small, large in zip(contents["det_25"], contents["det_50"]):
        assert not Counter(c.name for c in small) - Counter(c.name for c in large)


def test_labelled_images_and_evaluation_images_are_read_by_the_word_scenes(world):
    cfg = load_config(["scenes", f"data.root={world.parent}"])
    train = ClassificationData(world / "cls_train")
    assert len(train.class_names) == cfg.data.cls.classes == 24
    assert ClassificationData(world / "cls_val.tsv", train.class_names).class_names == train.class_names
    truth = json.loads((world / "val.json").read_text())
    groups = {entry["name"]: entry["group"] for entry in json.loads((world / "categories.json").read_text())}
    of_id = {c["id"]: groups[c["name"]] for c in truth["categories"]}
    together = {a["image_id"]: set() for a in truth["annotations"]}
    for a in truth["annotations"]:
        together[a["image_id"]].add(of_id[a["category_id"]])
    assert len(truth["images"]) == 48 and {"base", "novel"} in together.values()
    for name in scenes.SHARES:
        assert (world / name).is_dir() and (world.parent / load_config(
            ["scenes", f"data.det.images=scenes/{name}"]).data.det.images).is_dir()


def test_a_folder_that_is_there_is_not_overwritten(world):
    with pytest.raises(InputError, match="exists already"):
        main(f"--format scenes --out {world}".split())

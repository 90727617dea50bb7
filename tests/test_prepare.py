"""The toy world and Tiny ImageNet: true boxes, the split, and the data formats."""
import io
import itertools
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from s21k.core.categories import CategoryMap
from s21k.core.errors import InputError
from s21k.data.classification import ClassificationData
from s21k.files.annotations import load_annotations
from s21k.prepare.shape_drawing import Category, draw_image, draw_object, make_categories
from s21k.prepare.shapes import write_world
from s21k.prepare.tiny_imagenet import prepare
from tests.toy import DATA, SMALL, run, write_toy


def test_any_number_of_categories_with_unique_names_half_of_them_base():
    for count in (2, 24, 1000, 21_841):
        categories = make_categories(count)
        assert len({c.name for c in categories}) == count
        assert sum(c.group == "base" for c in categories) == (count + 1) // 2
    with pytest.raises(InputError, match="expected 2 to 21952"):
        make_categories(30_000)


def test_no_attribute_alone_tells_the_24_categories_apart():
    categories = make_categories(24)
    for attribute in ("shape", "fill", "texture"):
        assert len({getattr(c, attribute) for c in categories}) == 3


def test_a_drawn_box_encloses_its_object_tightly():
    """An object's coverage reaches all four sides of its cut, and the cut's size is the box's."""
    for category in make_categories(64)[::3]:
        _, coverage = draw_object(np.random.default_rng(0), category, 40.0)
        assert min(coverage[0].max(), coverage[-1].max(), coverage[:, 0].max(), coverage[:, -1].max()) > 0.5
    image, boxes, placed, masks = draw_image(5, [category], 96, (0.3, 0.6))
    x, y, w, h = boxes[0]
    ys, xs = masks[0].nonzero()
    assert [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1] == pytest.approx([x, y, x + w, y + h], abs=1)
    assert placed == [0] and x >= 0 and y >= 0 and x + w <= image.width and y + h <= image.height
    assert 0.3 * 0.8 * 80 <= max(w, h) <= 0.6 * 1.06 * 111


def test_a_picture_is_a_function_of_its_seed():
    category = Category("t", "disc", "red", "striped", "base")
    pictures = [np.asarray(draw_image(seed, [category], 96, (0.3, 0.6))[0]) for seed in (1, 1, 2)]
    assert (np.array_equal(pictures[0], pictures[1])
            and not (pictures[0].shape == pictures[2].shape and np.array_equal(pictures[0], pictures[2])))


def test_the_world_has_boxes_for_base_categories_only(tmp_path):
    root = write_toy(tmp_path) / "shapes"
    categories = CategoryMap.load(root / "categories.json")
    table = load_annotations(root / "det_train.json")
    base = [name for name, group in zip(categories.names, categories.groups) if group == "base"]
    assert table.category_names == base and set(categories.groups) == {"base", "novel"}
    assert [categories.names[k] for k in sorted((k for k in range(4) if categories.det_index[k] >= 0),
                                                key=lambda k: int(categories.det_index[k]))] == base
    train = ClassificationData(root / "cls_train")
    assert [train.class_names[row] for row in categories.cls_index.tolist()] == categories.names
    assert len(load_annotations(root / "val.json").boxes) == 8


def tiny_zip(path, box="0 0 63 63", drop=False):
    """The official layout with 4 classes of 2 training and 1 validation images."""
    picture = io.BytesIO()
    Image.new("RGB", (64, 64), (10, 200, 30)).save(picture, "JPEG")
    wnids = ["n01443537", "n01629819", "n01641577", "n01644900"]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny-imagenet-200/wnids.txt", "\n".join(reversed(wnids)))
        archive.writestr("tiny-imagenet-200/words.txt", "".join(f"{w}\tname of {w}, other\n" for w in wnids))
        for w in wnids:
            archive.writestr(f"tiny-imagenet-200/train/{w}/{w}_boxes.txt",
                             f"{w}_0.JPEG\t10\t20\t29\t59\n{w}_1.JPEG\t{box.replace(' ', chr(9))}\n")
            for i in range(1 if drop else 2):
                archive.writestr(f"tiny-imagenet-200/train/{w}/images/{w}_{i}.JPEG", picture.getvalue())
        lines = "".join(f"val_{i}.JPEG\t{w}\t1\t2\t30\t40\n" for i, w in enumerate(wnids))
        archive.writestr("tiny-imagenet-200/val/val_annotations.txt", lines)
        for i in range(4):
            archive.writestr(f"tiny-imagenet-200/val/images/val_{i}.JPEG", picture.getvalue())
    return path


def test_tiny_imagenet_boxes_are_inclusive_pixels(tmp_path):
    counts = prepare(tiny_zip(tmp_path / "t.zip"), tmp_path / "out")
    assert counts == {"classes": 4, "base classes": 2, "training images": 8, "with boxes": 4,
                      "validation images": 4}
    table = load_annotations(tmp_path / "out" / "det_train.json")
    assert table.boxes[0].tolist() == [10, 20, 20, 40] and table.boxes[1].tolist() == [0, 0, 64, 64]
    assert table.category_keys() == ["n01443537", "n01641577"]
    categories = CategoryMap.load(tmp_path / "out" / "categories.json")
    assert categories.groups == ["base", "novel"] * 2 and categories.det_index.tolist() == [0, -1, 1, -1]
    assert ClassificationData(tmp_path / "out" / "train.tsv").class_names == categories.wnids


def test_a_smaller_zip_is_taken_as_it_is_and_bad_ones_are_refused(tmp_path):
    assert prepare(tiny_zip(tmp_path / "t.zip", drop=True), tmp_path / "out")["training images"] == 4
    with pytest.raises(InputError, match="not inside the image"):
        prepare(tiny_zip(tmp_path / "t.zip", box="0 0 64 63"), tmp_path / "out")
    (tmp_path / "no.zip").write_bytes(b"no zip")
    with pytest.raises(InputError, match="not a readable zip"):
        prepare(tmp_path / "no.zip", tmp_path / "out")


def test_the_given_tiny_imagenet_has_the_baselines_it_should(tmp_path):
    """On the official layout's validation boxes: the whole image 51.9 %, the best centred box 58.0 %."""
    source = DATA / "tiny-imagenet-200.zip"
    if not source.is_file():
        pytest.skip("data absent")
    from s21k.evaluation.ground_truth import GroundTruth
    from s21k.evaluation.localization import LocalizationAccuracy, box_baselines
    with zipfile.ZipFile(source) as archive:
        lines = [line.split()
                 for line in archive.read("tiny-imagenet-200/val/val_annotations.txt").decode().splitlines()]
        members = set(archive.namelist())
    lines = [line for line in lines if f"tiny-imagenet-200/val/images/{line[0]}" in members]
    wnids = sorted({line[1] for line in lines})
    content = {"images": [{"id": i, "file_name": line[0], "height": 64, "width": 64} for i, line in enumerate(lines)],
               "categories": [{"id": i, "name": wnid} for i, wnid in enumerate(wnids)],
               "annotations": [{"id": i, "image_id": i, "category_id": wnids.index(line[1]), "area": 1.0,
                                "bbox": [int(line[2]), int(line[3]), int(line[4]) - int(line[2]) + 1,
                                         int(line[5]) - int(line[3]) + 1]}
                               for i, line in enumerate(lines)]}
    (tmp_path / "val.json").write_text(json.dumps(content))
    results = box_baselines(LocalizationAccuracy(GroundTruth.load(tmp_path / "val.json")))
    assert len(lines) == 5000 and round(100 * results["gt_known_whole_image"], 1) == 51.9
    assert round(100 * results["gt_known_centred_box"], 1) == 58.0


def test_a_rim_of_the_first_colour_goes_around_the_texture():
    """Whatever the texture, no white reaches the outline: red has little blue."""
    for name, seed in itertools.product(("striped", "checked", "barred"), range(5)):
        category = Category(f"red {name} disc", "disc", "red", name, "base")
        colors, coverage = draw_object(np.random.default_rng(seed), category, 120.0)
        covered = coverage == 1
        inside = covered.copy()
        for axis, step in itertools.product((0, 1), (-4, 4)):
            inside &= np.roll(covered, step, axis)
        inside[:4], inside[-4:], inside[:, :4], inside[:, -4:] = False, False, False, False
        white = colors[..., 2] > 120
        assert white[covered & ~inside].mean() < 0.02 and white[inside].mean() > 0.2


def test_own_data_names_whole_categories_and_says_how_many_more(tmp_path):
    write_world(tmp_path / "shapes", 14, 1, 30, 1, 32, seed=0, processes=1)
    done = run("s21k.prepare.own_data", "--photos", str(tmp_path / "shapes" / "cls_train"), "--boxes",
               str(tmp_path / "shapes" / "det_train.json"), "--images", str(tmp_path / "shapes" / "det_train"),
               "--out", str(tmp_path / "mine.yaml"), module=True)
    base = sorted(row["name"] for row in json.loads((tmp_path / "shapes" / "categories.json").read_text())
                  if row["group"] == "base")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(f"7 with both: {', '.join(base[:5])} and 2 more\n"), done.stdout


def test_own_data_becomes_a_word_that_trains_and_evaluates(tmp_path):
    """A folder per class and a COCO JSON: names join the two; toy sizes, own data."""
    shapes = write_toy(tmp_path) / "shapes"
    done = run("s21k.prepare.own_data", "--photos", str(shapes / "cls_train"), "--boxes",
               str(shapes / "det_train.json"), "--images", str(shapes / "det_train"),
               "--val-boxes", str(shapes / "val.json"), "--val-images", str(shapes / "val"), "--out",
               str(tmp_path / "mine.yaml"), module=True)
    assert done.returncode == 0 and "4 classes with photos, 2 with boxes, 2 with both" in done.stdout
    small = ([word for word in SMALL if not word.startswith("data.")]
             + ["data.workers=0", f"output_dir={tmp_path / 'run'}"])
    for script in ("train_stage1.py", "train_stage2.py", "evaluate.py"):
        done = run(script, "toy", str(tmp_path / "mine.yaml"), *small)
        assert done.returncode == 0, done.stderr[-2000:]
    assert "top1_novel" in json.loads((tmp_path / "run" / "metrics.json").read_text())

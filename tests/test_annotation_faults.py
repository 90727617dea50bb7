"""Annotation files as people have them: boxes that would vanish are counted by reason, two categories of one name are
refused."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from s21k.core.categories import CategoryMap
from s21k.core.errors import InputError
from s21k.data.detection import DetectionData
from s21k.evaluation.ground_truth import GroundTruth
from s21k.files.annotation_faults import check_boxes, check_truth, cut_boxes
from s21k.files.annotations import load_annotations
from tests.toy import run, words, write_toy


def truth(boxes, categories=((1, "cat"), (2, "dog")), **fields):
    """A file of 100 x 80 images a.jpg, b.jpg, ..; boxes: (image id, category id, [x, y, w, h], and iscrowd) each."""
    rows = [
        {
            "id": i,
            "image_id": row[0],
            "category_id": row[1],
            "bbox": row[2],
            "area": 10.0,
            "iscrowd": row[3] if len(row) > 3 else 0,
        }
        for i, row in enumerate(boxes, 1)
    ]
    return {
        "images": [{"id": i, "file_name": f"{'abcdefgh'[i - 1]}.jpg", "width": 100, "height": 80} for i in range(1, 5)],
        "categories": [{"id": i, "name": name} for i, name in categories],
        "annotations": rows,
    } | fields


def write(tmp_path, content, name="a.json"):
    (tmp_path / name).write_text(json.dumps(content), encoding="utf-8")
    return tmp_path / name


def notes(path):
    table = load_annotations(path)
    return check_boxes(table, cut_boxes(table))


GOOD = [10, 10, 20, 20]


@pytest.mark.parametrize(
    "boxes, says",
    [
        (
            [(1, 0, GOOD), (1, 1, GOOD), (2, 1, GOOD)],
            "left out of 3 annotations: 1 of 3 annotations are of categories that the file does not list (first: 0): "
            "are its categories counted from 0",
        ),
        (
            [(1, 1, GOOD), (9, 1, GOOD), (8, 2, GOOD)],
            "2 of 3 annotations are on images that the file does not list (first: 9)",
        ),
        (
            [(1, 1, GOOD), (1, 1, [5, 5, -4, 9]), (2, 2, [1, 1, 3, 0])],
            "2 boxes of a width or height that is 0 or negative (first: [5.0, 5.0, -4.0, 9.0] on a.jpg)",
        ),
        (
            [(1, 1, GOOD), (3, 1, [99.5, 5, 40, 40]), (3, 2, GOOD)],
            "1 boxes of which less than a pixel lies inside the image (first: [99.5, 5.0, 40.0, 40.0] on c.jpg)",
        ),
        ([(1, 1, GOOD), (2, 1, GOOD, 1)], "1 crowd regions (first: [10.0, 10.0, 20.0, 20.0] on b.jpg)"),
    ],
)
def test_boxes_that_are_left_out_are_counted_by_reason(tmp_path, boxes, says):
    path = write(tmp_path, truth(boxes))
    assert len(notes(path)) == 1 and says in notes(path)[0]


def test_several_reasons_at_once_are_one_line_and_every_box_has_one(tmp_path):
    boxes = [
        (1, 0, GOOD),
        (1, 7, GOOD),
        (9, 1, GOOD),
        (1, 1, [5, 5, -4, 9], 1),
        (1, 1, [5, 5, -4, 9]),
        (2, 2, [0.1, 0.2, 0.3, 0.4]),
        (2, 2, GOOD),
    ]
    path = write(tmp_path, truth(boxes))
    (line,) = notes(path)
    for part in (
        "left out of 7 annotations",
        "1 of 7 annotations are on images",
        "2 of 7 annotations are of categories",
        "1 crowd regions",
        "1 boxes of a width",
        "1 boxes of which less",
    ):
        assert part in line, line
    (tmp_path / "pictures").mkdir()
    data = DetectionData(path, tmp_path / "pictures")
    assert data.left_out == 6 and data.notes == [line] and len(data.boxes) == 1
    load_annotations(path).save(tmp_path / "table")  # a saved table says it as well
    assert notes(tmp_path / "table")[0].replace("table:", "a.json:") == line


@pytest.mark.parametrize(
    "boxes, says",
    [
        (
            [(1, 7, GOOD), (2, 8, GOOD)],
            "none of its 2 annotations is left: 2 of 2 annotations are of categories that the file does not list "
            "(first: 7)",
        ),
        (
            [(1, 1, [0.1, 0.2, 0.5, 0.5]), (2, 2, [0, 0, 1, 1])][:1] * 2,
            "2 of 2 boxes look like fractions of the image's sides",
        ),
        ([(1, 1, GOOD, 1), (2, 2, GOOD, 1)], "2 crowd regions"),
        ([(1, 1, [50, 40, -20, -30])] * 3, "3 boxes of a width or height that is 0 or negative"),
        ([(77, 0, [0.1, 0.1, 0.2, 0.2])] * 5, "5 of 5 annotations are on images"),
    ],
)
def test_a_file_of_which_no_box_is_left_is_refused_everywhere(tmp_path, boxes, says):
    path = write(tmp_path, truth(boxes))
    (tmp_path / "pictures").mkdir()
    with pytest.raises(InputError, match="none of its .* annotations is left") as refused:
        DetectionData(path, tmp_path / "pictures")
    assert says in str(refused.value) and "expected boxes [x, y, w, h] in pixels" in str(refused.value)
    done = run(
        "s21k.prepare.own_data",
        "--photos",
        str(photos(tmp_path)),
        "--boxes",
        str(path),
        "--images",
        str(tmp_path / "photos"),
        "--out",
        str(tmp_path / "w.yaml"),
        module=True,
    )
    assert done.returncode == 2 and says in done.stderr and done.stderr.count("\n") == 1


def photos(tmp_path, names=("cat", "dog"), size=(100, 80)):
    for name in names:
        (tmp_path / "photos" / name).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (9, 90, 200)).save(tmp_path / "photos" / name / "1.jpg")
    (tmp_path / "boxed").mkdir(exist_ok=True)
    for name in "abcd":
        Image.new("RGB", size, (9, 90, 200)).save(tmp_path / "boxed" / f"{name}.jpg")
    return tmp_path / "photos"


def test_fractions_and_corners_are_suspected_and_ordinary_boxes_are_not(tmp_path):
    rng = np.random.default_rng(0)
    start, side = rng.uniform(0, [60, 50], (200, 2)), rng.uniform(2, [40, 30], (200, 2))
    xywh = np.concatenate([start, side], 1)
    corners = np.concatenate([start, start + side], 1)
    size = np.array([100, 80, 100, 80])

    def doubts(boxes):
        return notes(write(tmp_path, truth([(1 + i % 4, 1, box) for i, box in enumerate(boxes.round(3).tolist())])))

    assert doubts(xywh) == []
    assert any("would lie inside as corners [x1, y1, x2, y2]" in line for line in doubts(corners))
    few = np.concatenate([xywh[:20] / size, xywh[:3]])  # some are left: said, not refused
    assert any(
        "20 of 23 boxes look like fractions of the image's sides, and are read as pixels (first: " in line
        for line in doubts(few)
    )
    assert (
        any("reach outside of their image, as if" in line for line in doubts(xywh * 7))
        and doubts(xywh + [4, 4, 0, 0]) == []
    )
    assert not any("reach outside" in line for line in doubts(np.concatenate([xywh[:90], xywh[:10] + [60, 0, 0, 0]])))


def test_scoring_keeps_what_pycocotools_keeps_and_says_what_is_odd(tmp_path):
    """Fractions are scored as they are; a crowd alone can only be found by LVIS's rules."""
    table = load_annotations(
        write(tmp_path, truth([(1, 1, [0.1, 0.1, 0.5, 0.5]), (1, 2, [0, 0, 0, 0.5]), (1, 9, GOOD)])), files=False
    )
    said = check_truth(table, with_crowds=False)
    assert (
        len(said) == 3
        and "(first: 9)" in said[0]
        and "1 boxes of a width or height" in said[1]
        and "look like fractions" in said[2]
    )
    crowd = load_annotations(write(tmp_path, truth([(1, 1, GOOD, 1)])), files=False)
    assert check_truth(crowd, with_crowds=True) == []
    with pytest.raises(InputError, match="none of its 1 annotations can be found: 1 are crowd regions"):
        check_truth(crowd, with_crowds=False)
    assert check_truth(load_annotations(write(tmp_path, truth([])), files=False), with_crowds=False) == []
    with pytest.raises(InputError, match="2 of 2 annotations are of categories"):
        GroundTruth.load(write(tmp_path, truth([(1, 7, GOOD), (2, 8, GOOD)])))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = write_toy(tmp_path_factory.mktemp("world"))
    for script in ("train_stage1.py", "train_stage2.py"):
        assert run(script, *words(root)).returncode == 0
    return root


def changed(world, tmp_path, name, change):
    """A copy of the toy world in which change(content) has gone over shapes/<name>; its own output folder with the
    trained checkpoints."""
    root = tmp_path / "changed"
    shutil.copytree(world, root)
    content = json.loads((root / "shapes" / name).read_text())
    change(content)
    (root / "shapes" / name).write_text(json.dumps(content))
    return root


def test_stage_two_and_evaluation_say_what_vanishes_and_refuse_where_all_does(world, tmp_path):
    """Ids one below the listed ones: half of the boxes would be of the wrong class, the others gone."""

    def shift(content):
        for row in content["annotations"]:
            row["category_id"] -= 1

    def unlist(content):
        for row in content["annotations"]:
            row["category_id"] += 1000

    one = changed(world, tmp_path / "1", "det_train.json", shift)
    done = run(
        "train_stage2.py", *words(one, f"output_dir={tmp_path / 'o1'}", f"stage2.init={world / 'run' / 'stage1.pt'}")
    )
    assert done.returncode == 0 and "are its categories counted from 0 there, and from 1 in the list?" in done.stdout, (
        done.stderr
    )
    assert done.stdout.count("note: ") == 1 and " 0 boxes left out" not in done.stdout
    two = changed(world, tmp_path / "2", "det_train.json", unlist)
    done = run("train_stage2.py", *words(two))
    assert done.returncode == 2 and "annotations is left" in done.stderr and done.stderr.count("\n") == 1
    done = run("train_stage2.py", *words(two), "--plan")
    assert "annotations is left" in done.stdout.partition("missing:")[2]
    three = changed(world, tmp_path / "3", "val.json", unlist)
    done = run("evaluate.py", *words(three))
    assert (
        done.returncode == 2
        and "none of its 8 annotations can be found" in done.stderr
        and done.stderr.count("\n") == 1
    )
    four = changed(world, tmp_path / "4", "val.json", lambda content: content["annotations"][0].update(category_id=99))
    done = run("evaluate.py", *words(four))
    assert (
        done.returncode == 0
        and done.stdout.count("1 of 8 annotations are of categories that the file does not list (first: 99)") == 1
    )


def test_stage_two_without_any_box_is_refused(world, tmp_path):
    root = changed(world, tmp_path, "det_train.json", lambda content: content.update(annotations=[]))
    done = run("train_stage2.py", *words(root))
    assert done.returncode == 2 and "no boxes in it" in done.stderr and done.stderr.count("\n") == 1


# --- two categories of one name ---


@pytest.mark.parametrize(
    "names, says",
    [
        (["cat", "cat"], "categories 1 and 2 are both 'cat'"),
        (["caf\u00e9", "x", "cafe\u0301"], "categories 1 and 3 are both 'caf\u00e9'"),
        (["", "b", ""], "categories 1 and 3 are both ''"),
        (["c" * 5000] * 2, "are both 'cccc"),
    ],
)
def test_two_categories_of_one_name_are_refused_where_names_tell_labels_apart(tmp_path, names, says):
    path = write(tmp_path, truth([(1, 1, GOOD), (2, 2, GOOD)], categories=tuple(enumerate(names, 1))))
    pictures = photos(tmp_path, ["cat"])
    with pytest.raises(InputError, match="are both"):
        DetectionData(path, pictures)
    done = run(
        "s21k.prepare.own_data",
        "--photos",
        str(pictures),
        "--boxes",
        str(path),
        "--images",
        str(tmp_path / "boxed"),
        "--out",
        str(tmp_path / "w.yaml"),
        module=True,
    )
    assert done.returncode == 2 and says in done.stderr and done.stderr.count("\n") == 1
    done = run(
        "s21k.prepare.own_data",
        "--photos",
        str(pictures),
        "--boxes",
        str(write(tmp_path, truth([(1, 1, GOOD)]), "good.json")),
        "--images",
        str(tmp_path / "boxed"),
        "--val-boxes",
        str(path),
        "--out",
        str(tmp_path / "w.yaml"),
        module=True,
    )
    assert done.returncode == 2 and says in done.stderr
    assert len(GroundTruth.load(path).category_ids) == len(names)  # scoring tells them apart by their ids


def test_two_categories_of_one_name_and_two_wnids_are_two(tmp_path):
    """A crane is a bird and a machine: their wnids differ."""
    content = truth([(1, 1, GOOD), (2, 2, GOOD)], categories=((1, "crane"), (2, "crane")))
    for row, wnid in zip(content["categories"], ("n02012849", "n03126707")):
        row["wnid"] = wnid
    path = write(tmp_path, content)
    assert DetectionData(path, photos(tmp_path).parent / "boxed").category_names == ["n02012849", "n03126707"]
    entries = [
        {"name": "crane", "wnid": wnid, "det": row, "cls": None, "group": "base"}
        for row, wnid in enumerate(("n03126707", "n02012849"))
    ]
    (tmp_path / "c.json").write_text(json.dumps(entries))
    assert GroundTruth.load(path, CategoryMap.load(tmp_path / "c.json")).category_ids.tolist() == [2, 1]
    (tmp_path / "c.json").write_text(
        json.dumps([{"name": "crane", "wnid": None, "det": 0, "cls": None, "group": "base"}])
    )
    with pytest.raises(InputError, match="2 categories are called 'crane', expected a wnid"):
        GroundTruth.load(path, CategoryMap.load(tmp_path / "c.json"))


# --- names that differ in their spelling ---


def own(tmp_path, folders, categories, *more, boxes=((1, 1, GOOD),)):
    path = write(tmp_path, truth(list(boxes), categories=tuple(enumerate(categories, 1))))
    pictures = photos(tmp_path, folders)
    return run(
        "s21k.prepare.own_data",
        "--photos",
        str(pictures),
        "--boxes",
        str(path),
        "--images",
        str(tmp_path / "boxed"),
        "--out",
        str(tmp_path / "w.yaml"),
        *more,
        module=True,
    )


@pytest.mark.parametrize(
    "folder, category",
    [
        ("traffic_light", "traffic light"),
        ("Cat", "cat"),
        ("STRASSE", "stra\u00dfe"),
        ("hot-dog", "Hot_Dog"),
        ("\uff21\uff22", "ab"),
    ],
)
def test_a_folder_and_a_category_that_differ_in_spelling_are_asked_for(tmp_path, folder, category):
    done = own(tmp_path, [folder, "dog"], [category, "dog"])
    assert done.returncode == 2 and f"did you mean {folder!r}?" in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "w.yaml").exists()


@pytest.mark.parametrize(
    "folder, category", [("caf\u00e9", "cafe\u0301"), ("cafe\u0301", "caf\u00e9"), ("\u1112\u1161\u11ab", "\ud55c")]
)
def test_another_unicode_form_is_the_same_class(tmp_path, folder, category):
    done = own(tmp_path, [folder, "x"], ["dog", category])
    assert done.returncode == 0 and "2 classes with photos, 2 with boxes, 1 with both" in done.stdout, done.stderr
    categories = CategoryMap.load(tmp_path / "w.categories.json")
    assert (
        categories.names == sorted([folder, "x"]) + ["dog"]
        and categories.det_index[categories.names.index(folder)] == 1
    )
    categories.check_rows(["dog", category], sorted([folder, "x"]))
    gt = GroundTruth.load(tmp_path / "a.json", categories)
    assert gt.category_ids[categories.names.index(folder)] == 2


def test_names_that_differ_in_case_and_both_have_their_like_stay_two(tmp_path):
    done = own(tmp_path, ["polish", "Polish"], ["Polish", "polish"])
    assert done.returncode == 0 and "2 with both" in done.stdout, done.stderr


@pytest.mark.parametrize(
    "names, says",
    [
        (["zebra", "yak"], "has none of the 2 categories, the first being 'cat'"),
        (["Cat", "DOG"], "did you mean 'Cat' by 'cat'?"),
        (["caf\u00e9"], "has none of the 2"),
    ],
)
def test_validation_names_that_share_none_with_training_are_refused_at_once(tmp_path, names, says):
    val = write(tmp_path, truth([(1, 1, GOOD)], categories=tuple(enumerate(names, 1))), "val.json")
    done = own(tmp_path, ["cat", "dog"], ["cat"], "--val-boxes", str(val))
    assert done.returncode == 2 and says in done.stderr and "val.json" in done.stderr and done.stderr.count("\n") == 1


def test_validation_names_that_share_some_are_noted(tmp_path):
    val = write(tmp_path, truth([(1, 1, GOOD)], categories=((1, "cat"), (2, "Dog"), (3, "yak"))), "val.json")
    done = own(tmp_path, ["cat", "dog"], ["cat"], "--val-boxes", str(val))
    assert (
        done.returncode == 0
        and "1 categories are there by another spelling only, and are not found (did you mean 'Dog' by 'dog'?)"
        in done.stdout
    )
    assert (
        "2 of its 3 categories have neither photos nor boxes here, and are not looked for (first: 'Dog')" in done.stdout
        and done.stdout.count("note: ") == 2
    )


def test_validation_names_of_others_are_refused_before_stage_one(world, tmp_path):
    def rename(content):
        for row in content["categories"]:
            row["name"] = f"another {row['id']}"

    root = changed(world, tmp_path, "val.json", rename)
    for script, more in (("train_stage1.py", ()), ("train_stage2.py", ()), ("evaluate.py", ())):
        done = run(
            script,
            *words(
                root,
                f"output_dir={tmp_path / 'out'}",
                f"stage2.init={world / 'run' / 'stage1.pt'}",
                f"eval.checkpoint={world / 'run' / 'stage2.pt'}",
                *more,
            ),
        )
        assert (
            done.returncode == 2 and "has none of the 4 categories" in done.stderr and done.stderr.count("\n") == 1
        ), script
        done = run(script, *words(root), "--plan")
        assert done.returncode == 0 and "has none of the 4 categories" in done.stdout.partition("missing:")[2], script


# --- where the images lie ---


@pytest.mark.parametrize(
    "part, name, script", [("det", "det_train.json", "train_stage2.py"), ("eval", "val.json", "evaluate.py")]
)
def test_a_wrong_folder_is_found_before_stage_one_and_by_plan(world, tmp_path, part, name, script):
    """Another folder, names with a wrong ending, and images of another size; a folder that is not there yet is noted
    only."""
    (tmp_path / "empty").mkdir()

    def rename(content):
        for row in content["images"]:
            row["file_name"] = row["file_name"].replace(".jpg", ".JPEG")

    def enlarge(content):
        for row in content["images"]:
            row["width"] *= 2

    cases = [
        (
            changed(world, tmp_path / "1", name, lambda content: None),
            (f"data.{part}.images={tmp_path / 'empty'}",),
            "no such file",
        ),
        (changed(world, tmp_path / "2", name, rename), (), "did you mean"),
        (changed(world, tmp_path / "3", name, enlarge), (), "its annotation says"),
    ]
    for root, more, says in cases:
        for command in ("train_stage1.py", script):
            done = run(command, *words(root, *more))
            assert (
                done.returncode == 2
                and f"data.{part}.images" in done.stderr
                and says in done.stderr
                and done.stderr.count("\n") == 1
            ), done.stderr
            done = run(command, *words(root, *more), "--plan")
            assert done.returncode == 0 and says in done.stdout.partition("missing:")[2]
    absent = run(
        "train_stage1.py", *words(world, f"data.{part}.images={tmp_path / 'nowhere'}", f"output_dir={tmp_path / 'out'}")
    )
    assert absent.returncode == 0 and f"note: not there yet, and needed later: data.{part}.images" in absent.stdout


def test_own_data_opens_the_first_images(tmp_path):
    done = own(tmp_path, ["cat", "dog"], ["cat"])
    assert done.returncode == 0 and "note" not in done.stdout
    for file_name, says in (
        ("nowhere/a.jpg", "no such file"),
        ("../../a.jpg", "leads out of its folder"),
        ("A.jpg", "did you mean 'a.jpg'"),
        ("b\\..\\..\\x.jpg", "leads out"),
    ):
        content = truth([(1, 1, GOOD)], images=[{"id": 1, "file_name": file_name, "width": 100, "height": 80}])
        path = write(tmp_path, content, "bad.json")
        done = run(
            "s21k.prepare.own_data",
            "--photos",
            str(tmp_path / "photos"),
            "--boxes",
            str(path),
            "--images",
            str(tmp_path / "boxed"),
            "--out",
            str(tmp_path / "v.yaml"),
            module=True,
        )
        assert done.returncode == 2 and says in done.stderr and done.stderr.count("\n") == 1, done.stderr
    done = run(
        "s21k.prepare.own_data",
        "--photos",
        str(tmp_path / "photos"),
        "--boxes",
        str(tmp_path / "a.json"),
        "--images",
        str(tmp_path / "nowhere"),
        "--out",
        str(tmp_path / "v.yaml"),
        module=True,
    )
    assert done.returncode == 2 and "--images" in done.stderr and "no such folder" in done.stderr
    (tmp_path / "boxed" / "a.jpg").unlink()  # one of four: the others are used, and it is said
    done = run(
        "s21k.prepare.own_data",
        "--photos",
        str(tmp_path / "photos"),
        "--boxes",
        str(tmp_path / "a.json"),
        "--images",
        str(tmp_path / "boxed"),
        "--out",
        str(tmp_path / "v.yaml"),
        module=True,
    )
    assert done.returncode == 0 and "1 of 4 images tried cannot be used; the first: " in done.stdout
    for path in (tmp_path / "photos").rglob("1.jpg"):
        path.write_bytes(b"")
    done = run(
        "s21k.prepare.own_data",
        "--photos",
        str(tmp_path / "photos"),
        "--boxes",
        str(tmp_path / "a.json"),
        "--images",
        str(tmp_path / "boxed"),
        "--out",
        str(tmp_path / "v.yaml"),
        module=True,
    )
    assert done.returncode == 2 and "none of 2 images tried can be used" in done.stderr


@pytest.mark.parametrize(
    "names, wnids",
    [
        (["cat", "cat"], [None, None]),
        (["caf\u00e9", "cafe\u0301"], [None, None]),
        (["a", "b", "c"], ["n1", "n2", "n1"]),
    ],
)
def test_a_categories_json_with_one_name_twice_is_refused(tmp_path, names, wnids):
    rows = [
        {"name": name, "wnid": wnid, "det": i, "cls": i, "group": "base"}
        for i, (name, wnid) in enumerate(zip(names, wnids))
    ]
    (tmp_path / "c.json").write_text(json.dumps(rows))
    with pytest.raises(InputError, match="appears twice, expected each name once"):
        CategoryMap.load(tmp_path / "c.json")


def test_evaluation_by_lvis_rules_warns_where_nothing_is_said_of_absent_categories(world, tmp_path):
    """In the output and in metrics.json; not where the file says it, nor by COCO's rules."""

    def letters(content):
        for row in content["categories"]:
            row["frequency"] = "f"

    def lists(content):
        letters(content)
        for row in content["images"]:
            row["neg_category_ids"] = [category["id"] for category in content["categories"]]

    for number, (change, metric, warned) in enumerate(
        [(letters, "lvis_box_ap", True), (lists, "lvis_box_ap", False), (letters, "box_ap", False)]
    ):
        root = changed(world, tmp_path / str(number), "val.json", change)
        done = run("evaluate.py", *words(root, f"eval.metrics=[{metric}]", "eval.pictures=0"))
        assert done.returncode == 0, done.stderr
        results = json.loads((root / "run" / "metrics.json").read_text())
        assert ("warnings" in results) is warned is ("no image says by neg_category_ids" in done.stdout)

"""Image folders as people have them: what is an image, what is a class, what is passed over, and where a named file
lies."""

import json
import os
import unicodedata

import numpy as np
import pytest
from PIL import Image

from s21k.core.errors import InputError
from s21k.data.classification import ClassificationData
from s21k.data.detection import DetectionData
from s21k.data.first_look import check_folder
from s21k.files.image_files import (
    PassedOver,
    class_folders,
    endings,
    find_file,
    images_below,
    is_image,
    sample_rows,
)
from tests.toy import run


def image(path, size=(20, 10), kind="JPEG"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).save(path, kind)
    return path


def classes_of(root):
    folders, passed = class_folders(root)
    return {name: len(paths) for name, paths in folders.items()}, passed


@pytest.mark.parametrize(
    "name",
    [".ipynb_checkpoints", "__MACOSX", ".git", "@eaDir", "$RECYCLE.BIN", ".Trash-1000", "__pycache__", ".\u00e9"],
)
def test_a_folder_that_nobody_made_on_purpose_is_no_class(tmp_path, capsys, name):
    for place in ("a/1.jpg", "b/2.jpg", f"{name}/3.jpg", f"{name}/deep/4.jpg", f"a/{name}/5.jpg"):
        image(tmp_path / place)
    assert classes_of(tmp_path)[0] == {"a": 1, "b": 1}
    data = ClassificationData(tmp_path)
    assert data.class_names == ["a", "b"] and len(data) == 2
    said = capsys.readouterr().out
    assert (
        said.count("\n") == 1 and "passed over 2 hidden or system files and folders (first: " in said and name in said
    )


@pytest.mark.parametrize("name", ["._1.jpg", ".DS_Store", "Thumbs.db", "desktop.ini", ".hidden.png", "THUMBS.DB"])
def test_a_file_that_nobody_made_on_purpose_is_no_image(tmp_path, name):
    image(tmp_path / "a" / "1.jpg")
    (tmp_path / "a" / name).write_bytes(b"\0\5\x16\7")
    (tmp_path / name).write_bytes(b"")
    counts, passed = classes_of(tmp_path)
    assert counts == {"a": 1} and passed.counts == {"hidden or system files and folders": 2} and not is_image(name)


Image.init()
KINDS = {".jfif": "JPEG", ".JPE": "JPEG", ".tga": "TGA", ".jp2": "JPEG2000", ".avif": "AVIF", ".ppm": "PPM",
         ".ico": "ICO", ".TIF": "TIFF", ".qoi": "QOI", ".dib": "DIB", ".apng": "PNG", ".sgi": "SGI", ".mpo": "MPO"}


@pytest.mark.parametrize("ending, kind", [(ending, kind) for ending, kind in KINDS.items() if kind in Image.SAVE])
def test_every_ending_that_pillow_reads_is_an_image(tmp_path, ending, kind):
    image(tmp_path / "only" / f"\u00e9{ending}", (32, 16), kind)
    image(tmp_path / "other" / "1.jpg")
    data = ClassificationData(tmp_path)
    assert data.class_names == ["only", "other"] and data.read(0)[0].mode == "RGB"


def test_no_ending_is_an_image_that_pillow_only_knows_by_name():
    """EPS would start another program; the others are never decoded."""
    assert (
        not endings() & {".eps", ".ps", ".pdf", ".wmf", ".h5", ".mpg", ".heic", ".txt", ""}
        and {".jpg", ".png", ".webp"} <= endings()
    )


def test_what_is_passed_over_is_counted_and_named(tmp_path, capsys):
    """A class of such files only disappears, and that is said; so are files beside the classes."""
    image(tmp_path / "a" / "1.jpg")
    for name in ("a/notes.txt", "raw/1.CR2", "raw/2.cr2", "heic/1.heic", "heic/noending"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    image(tmp_path / "beside.jpg")
    counts, passed = classes_of(tmp_path)
    assert counts == {"a": 1}
    assert passed.counts == {
        ".txt files, which are no images": 1,
        ".cr2 files, which are no images": 2,
        ".heic files, which are no images": 1,
        "files without an ending": 1,
        "folders without an image, which are no classes": 3,
        "files outside of class folders": 1,
    }
    passed.say(tmp_path)
    said = capsys.readouterr().out
    assert (
        said.startswith("note: ")
        and said.count("\n") == 1
        and "3 folders without an image, which are no classes (first: " in said
        and "1.CR2" in said
    )


def test_images_below_linked_folders_are_read_and_no_link_leads_in_a_circle(tmp_path):
    """Relative and absolute links, a link to a link, and links up, to itself, to a folder that is there already, and to
    nowhere."""
    image(tmp_path / "elsewhere" / "deep" / "1.jpg")
    image(tmp_path / "elsewhere" / "2.jpg")
    (tmp_path / "hop").symlink_to(tmp_path / "elsewhere")
    for name in ("a", "b"):
        image(tmp_path / "set" / name / "own.jpg")
    (tmp_path / "set" / "a" / "linked").symlink_to("../../hop")
    (tmp_path / "set" / "a" / "again").symlink_to(tmp_path / "elsewhere" / "deep")
    (tmp_path / "set" / "a" / "up").symlink_to("..")
    (tmp_path / "set" / "a" / "self").symlink_to(".")
    (tmp_path / "set" / "a" / "gone").symlink_to("/nowhere/at/all")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "set")
    (tmp_path / "set" / "c").symlink_to(tmp_path / "elsewhere")
    folders, passed = class_folders(tmp_path / "set")
    assert [len(folders[name]) for name in "abc"] == [3, 1, 2] and sum(
        "own" in path for paths in folders.values() for path in paths
    ) == 2
    assert passed.counts["links to folders that are read already, or lie above"] >= 3
    data = ClassificationData(tmp_path / "set")
    assert [data.read(i)[0].mode for i in range(len(data))] == ["RGB"] * 6


def test_the_order_of_images_is_that_of_their_folders(tmp_path):
    """As it was before links were followed: a run that was begun goes on with the same images in the same places."""
    names = ["a/2.jpg", "a/10.jpg", "a/x/1.jpg", "a/x/y/1.jpg", "a/x-y/1.jpg", "b/\u00e9.jpg", "b/z.JPG", "b-1/1.png"]
    for name in names:
        image(tmp_path / name, kind="PNG" if name.endswith("png") else "JPEG")
    expected = []
    for entry in sorted(p for p in tmp_path.iterdir() if p.is_dir()):
        for folder, _, files in sorted(os.walk(entry)):
            expected += [os.path.relpath(os.path.join(folder, f), tmp_path) for f in sorted(files)]
    data = ClassificationData(tmp_path)
    assert [data.paths[i] for i in range(len(data))] == expected and len(expected) == len(names)


def test_a_folder_of_very_many_files_is_read_once(tmp_path):
    for number in range(3000):
        (tmp_path / f"{number:05d}.txt").write_bytes(b"")
    image(tmp_path / "z.jpg")
    passed = PassedOver()
    assert (
        len(images_below(tmp_path, passed)) == 1
        and passed.counts.most_common(1)[0][1] == 3000
        and len(passed.first) == 1
    )


# --- names in other spellings ---


@pytest.mark.parametrize(
    "written, lies",
    [
        ("caf\u00e9.jpg", "cafe\u0301.jpg"),
        ("cafe\u0301.jpg", "caf\u00e9.jpg"),
        ("images\\x.jpg", "images/x.jpg"),
        ("\uac00\\caf\u00e9.jpg", "\u1100\u1161/cafe\u0301.jpg"),
        ("a\\b\\c d.jpg", "a/b/c d.jpg"),
    ],
)
def test_a_file_is_found_by_the_name_that_another_system_gave_it(tmp_path, written, lies):
    image(tmp_path / "pictures" / lies)
    assert find_file(tmp_path / "pictures", written).read_bytes() == (tmp_path / "pictures" / lies).read_bytes()
    content = {
        "images": [{"id": 1, "file_name": written, "height": 10, "width": 20}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9], "area": 81}],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert DetectionData(tmp_path / "a.json", tmp_path / "pictures").read(0)[0].size == (20, 10)
    check_folder("images", tmp_path / "a.json", tmp_path / "pictures")
    (tmp_path / "pictures" / "list.tsv").write_text(f"{written}\ta\n", encoding="utf-8")
    assert ClassificationData(tmp_path / "pictures" / "list.tsv").read(0)[0].size == (20, 10)


def test_a_backslash_that_is_in_a_files_name_stays_there_and_leads_nowhere_else(tmp_path):
    image(tmp_path / "in" / "a\\b.jpg", (6, 5))
    image(tmp_path / "in" / "a" / "b.jpg", (7, 5))
    image(tmp_path / "out.jpg")
    assert find_file(tmp_path / "in", "a\\b.jpg").name == "a\\b.jpg"
    for name in ("..\\out.jpg", "a\\..\\..\\out.jpg", "\\etc\\hostname"):
        (tmp_path / "in" / "list.tsv").write_text(f"{name}\ta\n")
        with pytest.raises(InputError, match="leaves the list's folder"):
            ClassificationData(tmp_path / "in" / "list.tsv")


def test_one_class_folder_in_two_unicode_forms_is_refused(tmp_path):
    for name in ("caf\u00e9", "cafe\u0301", "other"):
        image(tmp_path / name / "1.jpg")
    if len(list(tmp_path.iterdir())) < 3:
        pytest.skip("data absent")  # a file system that knows one form only
    with pytest.raises(InputError, match="'caf\u00e9' appears twice"):
        ClassificationData(tmp_path)


@pytest.mark.parametrize(
    "train, val",
    [(["cafe\u0301", "b"], ["caf\u00e9"]), (["caf\u00e9", "b"], ["cafe\u0301", "b"]), (["\u1100\u1161"], ["\uac00"])],
)
def test_validation_folders_in_another_unicode_form_are_the_same_classes(tmp_path, train, val):
    for part, names in (("train", train), ("val", val)):
        for name in names:
            image(tmp_path / part / name / "1.jpg")
    first = ClassificationData(tmp_path / "train")
    data = ClassificationData(tmp_path / "val", first.class_names)
    assert data.class_names == first.class_names
    assert [unicodedata.normalize("NFC", data.class_names[label]) for label in data.labels] == sorted(
        unicodedata.normalize("NFC", name) for name in val
    )


@pytest.mark.parametrize("wrong", ["Traffic Light", "traffic-light", "TRAFFIC_LIGHT"])
def test_a_class_in_another_spelling_is_asked_for(tmp_path, wrong):
    image(tmp_path / wrong / "1.jpg")
    with pytest.raises(InputError, match=r"is none of the 2 known \(did you mean 'traffic_light'\?\)"):
        ClassificationData(tmp_path, ["cat", "traffic_light"])


# --- the first look ---


def test_the_sample_begins_with_the_first_images_and_reaches_over_the_whole():
    assert sample_rows(0) == [] and sample_rows(1) == [0] and sample_rows(3) == [0, 1, 2]
    assert sample_rows(1000) == [0, 1, 2, 3, 250, 500, 750]


def test_an_indexed_image_whose_tar_is_gone_is_one_line(tmp_path):
    from tests.test_archives import jpeg, write_tar

    (tmp_path / "tars").mkdir()
    write_tar(tmp_path / "tars" / "n00000001.tar", [("a.JPEG", jpeg())])
    assert (
        run(
            "s21k.prepare.imagenet",
            str(tmp_path / "tars"),
            "--out",
            str(tmp_path / "index"),
            "--processes",
            "1",
            module=True,
        ).returncode
        == 0
    )
    (tmp_path / "tars" / "n00000001.tar").unlink()
    from s21k.data.first_look import first_look

    with pytest.raises(
        InputError, match="data.cls.train: none of 1 images tried can be used; the first: .*n00000001.tar"
    ):
        first_look(ClassificationData(tmp_path / "index"), "data.cls.train")


def test_a_container_whose_name_no_file_can_have_is_one_line(tmp_path):
    """A lone half of a UTF-16 pair, a zero byte, and a name that is too long."""
    from s21k.core.packed import PackedStrings
    from s21k.files.archives import ImageIndex

    one, zero = np.ones(1, np.int64), np.zeros(1, np.int32)
    for name in ("\ud800", "a\0b", "x" * 5000):
        index = ImageIndex(tmp_path, ["a"], [name], zero, PackedStrings(["1.jpg"]), zero, one, one, one, one)
        with pytest.raises(InputError, match="cannot be read"):
            index.open(0)

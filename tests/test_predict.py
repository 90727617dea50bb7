"""predict on photos as people have them, and sheets of images of any shape: nothing is lost, and memory has a bound."""

import json
import os
import shutil
import sys
import tracemalloc

import numpy as np
import pytest
import torch
from PIL import Image

from s21k import predict
from s21k.core import errors
from s21k.core.errors import InputError, run_command
from s21k.draw import LONGEST, SMALLEST, Label, contact_sheet, draw_boxes, free_label
from s21k.photos import find_images, is_source
from s21k.predict import drawing_name
from tests.toy import run, words, write_toy


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = write_toy(tmp_path_factory.mktemp("world"))
    for script in ("train_stage1.py", "train_stage2.py"):
        assert run(script, *words(root)).returncode == 0
    return root


def photo(path, size=(64, 48)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).save(path, "JPEG")
    return path


# --- sheets ---


@pytest.mark.parametrize("odd", [(4000, 4), (4, 4000), (1, 1), (20000, 1), (9000, 6000)])
def test_one_image_of_an_odd_shape_does_not_enlarge_the_sheet(odd):
    """Among twelve of 64 x 48: its drawing and the sheet stay below 100 MB."""
    tracemalloc.start()
    images = [Image.new("RGB", (64, 48), (9, 9, 9))] * 11 + [Image.new("RGB", odd, (200, 9, 9))]
    before = tracemalloc.get_traced_memory()[0]
    drawn = [draw_boxes(image, np.array([[0.0, 0, image.width, image.height]]), ["a name"], [0.5]) for image in images]
    sheet = contact_sheet([contact_sheet([d, d], columns=2, captions=["one", "two"]) for d in drawn], columns=3)
    tracemalloc.stop()
    assert max(drawn[-1].size) <= max(LONGEST, *odd) and sheet.width * sheet.height < 20e6 and before >= 0
    assert drawn[0].size == (320, SMALLEST)


def test_labels_do_not_cover_one_another_while_there_is_room():
    first, second = Label(10, 5, 90, 20), Label(10, 20, 60, 35)
    assert free_label(Label(20, 5, 80, 20), [first, second], 100) == Label(20, 35, 80, 50)
    assert free_label(Label(90, 5, 120, 20), [first, second], 100) == Label(90, 5, 120, 20)       # beside them
    assert free_label(Label(20, 5, 80, 20), [first, second], 40) == Label(20, 5, 80, 20)          # no room
    image = draw_boxes(Image.new("RGB", (240, 240), (255, 255, 255)), np.array([[40.0, 60, 200, 200]] * 4),
                       ["one name", "another", "a third", "a fourth"], [0.9, 0.8, 0.7, 0.6])
    black = (np.asarray(image) == 0).all(2)[:, 42]                       # left of the text, inside all four labels
    assert black.sum() >= 4 * 13                                         # one alone has 13 or 14


def test_images_of_ordinary_sizes_are_drawn_and_laid_out_as_before():
    for size, expected in (
        ((64, 64), (240, 240)),
        ((640, 480), (640, 480)),
        ((100, 300), (240, 720)),
        ((240, 240), (240, 240)),
    ):
        assert draw_boxes(Image.new("RGB", size), np.zeros((0, 4)), [], None).size == expected
    assert contact_sheet([Image.new("RGB", (640, 480))] * 4, columns=3).size == (3 * 646, 2 * 486)


def test_evaluation_with_a_thin_image_ends_with_its_table(world, tmp_path):
    root = tmp_path / "changed"
    shutil.copytree(world, root)
    content = json.loads((root / "shapes" / "val.json").read_text())
    for row, size in zip(content["images"], ((2000, 4), (3, 1500), (1, 1))):
        row |= {"width": size[0], "height": size[1]}
        photo(root / "shapes" / "val" / row["file_name"], size)
    (root / "shapes" / "val.json").write_text(json.dumps(content))
    done = run("evaluate.py", *words(root, "eval.pictures=8"))
    assert (
        done.returncode == 0
        and "GT" in done.stdout.upper()
        and Image.open(root / "run" / "pictures" / "contact_sheet.png").width < 6000
    ), done.stderr


def test_an_unfinished_training_is_said(world, tmp_path):
    """By predict, explain and evaluation, which go on; nothing is said of a finished one."""
    content = torch.load(world / "run" / "stage2.pt", weights_only=True)
    torch.save(content | {"step": 1}, tmp_path / "stage2.pt")
    image = str(photo(tmp_path / "a.jpg"))
    for place, said in ((tmp_path / "stage2.pt", 1), (world / "run" / "stage2.pt", 0)):
        more = [f"eval.checkpoint={place}", f"output_dir={tmp_path / 'out'}"]
        for command, module, argv in (("s21k.predict", True, [image]), ("s21k.explain", True, [image]),
                                      ("evaluate.py", False, [])):
            done = run(command, *words(world, *more, *argv), module=module)
            errors._said.clear()
            assert done.returncode == 0, done.stderr
            assert (done.stdout + done.stderr).count("stage2.pt is unfinished: 1 of 4 steps") == said


# --- names ---

NAMES = [
    b"caf\xe9.jpg",
    "caf\u00e9.jpg".encode(),
    b"IMG=1.jpg",
    b"a b\tc.jpg",
    b"x" * 250 + b".jpg",
    b"\xff\xfe\xfd.JPG",
    ("\u00e9" * 120 + ".jpg").encode(),
    b"stage2.lr=1.jpg",
    b"-n.jpg",
]


def test_photos_of_any_name_are_all_detected_in(world, tmp_path, monkeypatch):
    """Names that are not UTF-8, too long for a longer one, with "=", tabs, and a terminal that shows ASCII only."""
    folder = os.fsencode(tmp_path / "photos")
    os.mkdir(folder)
    photo(tmp_path / "one.jpg")
    for name in NAMES:
        shutil.copy(os.fsencode(tmp_path / "one.jpg"), os.path.join(folder, name))
    with open(tmp_path / "screen", "w", encoding="ascii") as screen:  # strict, as a pipe in the C locale
        monkeypatch.setattr(sys, "stdout", screen)
        monkeypatch.setattr(
            sys,
            "argv",
            ["predict", *words(world), os.fsdecode(folder), "--threshold", "0", "--out", str(tmp_path / "out")],
        )
        run_command(predict.main, "doc")
    rows = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert {os.fsencode(row["file"]) for row in rows} == {os.path.join(folder, name) for name in NAMES}
    drawings = list((tmp_path / "out").glob("0*.png"))
    assert len(drawings) == len(NAMES) and all(len(os.fsencode(d.name)) <= 204 for d in drawings)
    assert (
        f"{len(NAMES)} of {len(NAMES)} images" in (tmp_path / "screen").read_text()
        and "caf\\udce9.jpg" in (tmp_path / "screen").read_text()
    )


@pytest.mark.parametrize("stem", ["x" * 300, "\u00e9" * 200, "\udcff" * 255, "", "a/b"[-1:], "\u2603" * 70])
def test_a_drawings_name_is_short_and_numbered(stem):
    from pathlib import Path

    name = drawing_name(12, Path(f"{stem}.jpg"))
    assert name.startswith("0012-") and name.endswith(".png") and len(name.encode()) <= 204


def test_what_is_done_is_kept_when_something_comes_between(world, tmp_path, monkeypatch):
    """A disk that is full for the drawings, an interruption, an error of the program."""
    for name in "abcd":
        photo(tmp_path / "photos" / f"{name}.jpg")
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"x")
    arguments = [*words(world), str(tmp_path / "photos"), "--threshold", "0", "--out", str(tmp_path / "out")]
    original = predict.draw_boxes
    for error, code in ((KeyboardInterrupt(), 130), (OSError(28, "No space left"), 3)):
        seen = []

        def draw(*a, error=error, seen=seen):
            seen.append(1)
            if len(seen) == 3:
                raise error
            return original(*a)

        monkeypatch.setattr(predict, "draw_boxes", draw)
        monkeypatch.setattr(sys, "argv", ["predict", *arguments])
        with pytest.raises(SystemExit) as end:
            run_command(predict.main, "doc")
        assert end.value.code == code
        assert {
            os.path.basename(row["file"]) for row in json.loads((tmp_path / "out" / "detections.json").read_text())
        } == {"a.jpg", "b.jpg", "c.jpg"}
    monkeypatch.setattr(predict, "draw_boxes", original)
    monkeypatch.setattr(
        Image.Image, "save", lambda self, *a, **k: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    monkeypatch.setattr(sys, "argv", ["predict", *arguments])
    with pytest.raises(SystemExit) as end:
        run_command(predict.main, "doc")
    assert end.value.code == 3  # the sheet cannot be written either
    assert len({row["file"] for row in json.loads((tmp_path / "out" / "detections.json").read_text())}) == 4


# --- words and photos ---


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("IMG=1.jpg", "photos/a.jpg", "tiny/b.jpg", "r18/c.jpg", "lone.jfif", "photos/sub/d.avif.jpg"):
        photo(tmp_path / name)
    (tmp_path / "one.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (tmp_path / "noending").write_bytes(b"x")
    (tmp_path / "mine.yaml").write_text("seed: 1")
    return tmp_path


@pytest.mark.parametrize(
    "word, expected",
    [
        ("IMG=1.jpg", True),
        ("photos", True),
        ("photos/", True),
        ("photoss/", True),
        ("tiny", False),
        ("tiny/", True),
        ("./tiny", True),
        ("r18", False),
        ("toy", False),
        ("one.heic", True),
        ("lone.jfif", True),
        ("mine.yaml", False),
        ("other.yaml", False),
        ("stage2.lr=1e-3", False),
        ("nothere.jpg", True),
        ("eval.checkpoint=runs/x/stage2.pt", False),
        ("output_dir=a.jpg", False),
        ("noending", True),
        ("tiyn", False),
        ("\u00fc" * 3000, False),
        ("a\0b", False),
    ],
)
def test_what_is_a_word_and_what_a_photo(here, word, expected):
    assert is_source(word) is expected


def test_a_folder_that_is_called_like_a_word_is_said(here, capsys, monkeypatch):
    monkeypatch.setattr(errors, "_said", set())
    assert (
        not is_source("tiny")
        and "'tiny' is taken for the word of that name, not for the folder: write tiny/ for the folder"
        in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    "sources, says",
    [
        (["photoss/"], "photoss: no such photo or folder (did you mean 'photos'?)"),
        (["one.heic"], "one.heic: .heic is no image that Pillow reads"),
        (["noending"], "a name without an ending is no image"),
        (["IMG=2.jpg"], "(did you mean 'IMG=1.jpg'?)"),
        ([], "no images in the command"),
        (["x" * 400 + ".jpg"], "no such photo or folder"),
    ],
)
def test_a_source_that_is_none_is_one_line(here, sources, says):
    with pytest.raises(InputError) as refused:
        find_images(sources)
    assert says in str(refused.value) and "\n" not in str(refused.value)


def test_all_images_below_folders_are_found(here, capsys):
    (here / "photos" / ".DS_Store").write_bytes(b"")
    (here / "photos" / "link").symlink_to(here / "tiny")
    assert [str(p) for p in find_images(["photos", "IMG=1.jpg", "lone.jfif"])] == [
        "photos/a.jpg",
        "photos/link/b.jpg",
        "photos/sub/d.avif.jpg",
        "IMG=1.jpg",
        "lone.jfif",
    ]
    assert "passed over 1 hidden or system files" in capsys.readouterr().out


def test_options_may_stand_between_the_photos(monkeypatch):
    """As in `predict toy --threshold 0 a.jpg`: the photos are found wherever they are."""
    seen = []
    monkeypatch.setattr(predict, "find_images", lambda sources: seen.append(sources) or [])
    monkeypatch.setattr(predict, "open_detector", lambda cfg: (_ for _ in ()).throw(InputError("far enough")))
    with pytest.raises(InputError, match="far enough"):
        predict.main(["toy", "a.jpg", "--threshold", "0", "b.jpg"])
    assert seen == [["a.jpg", "b.jpg"]]

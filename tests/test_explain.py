"""explain on the toy world: its detections are predict's, its numbers multiply, and it says why a category lost."""
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from s21k import evidence as evidence_module
from s21k.core.config import load_config
from s21k.core.errors import InputError
from s21k.draw import color_of_place, draw_tagged, enlarged, heat, with_legend
from s21k.evidence import look
from s21k.explain import Explainer
from s21k.files.images import read_image
from s21k.models.plain import plain_scores
from s21k.photos import open_detector, photo_batch
from tests.toy import run, words, write_toy


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = write_toy(tmp_path_factory.mktemp("world"))
    for script in ("train_stage1.py", "train_stage2.py"):
        assert run(script, *words(root)).returncode == 0
    return root


def photo(world, position=0):
    return sorted((world / "shapes" / "val").glob("*.*"))[position]


def names(world):
    return [entry["name"] for entry in json.loads((world / "shapes" / "categories.json").read_text())]


@pytest.fixture(scope="module")
def look_at(world):
    """A photo of the world by its detector, which is opened once, at test time as the words say."""
    opened = open_detector(load_config(words(world)))

    def look_again(*more, position=0):
        again = replace(opened, cfg=load_config(words(world, *more)))
        return again, look(again, read_image(photo(world, position)))

    return look_again


@pytest.mark.parametrize("more", [(), ("eval.class_agnostic_nms=true",), ("eval.max_detections=7",),
                                  ("eval.fusion=arithmetic",), ("eval.threshold=0.02", "eval.nms=0.3"),
                                  ("eval.resize=[50,80]",)])
def test_its_detections_are_those_of_predict(world, look_at, more):
    """Boxes, labels and scores to the last bit, and the scores agree with Eqs. 1 to 5 as printed."""
    for position in range(3):
        opened, evidence = look_at(*more, position=position)
        image = read_image(photo(world, position))
        batch = photo_batch(opened, image)
        prediction = next(opened.detector.predict(batch, opened.categories, opened.cfg.eval))
        found = prediction.in_image(batch.scales[0], (image.height, image.width)).detections
        assert len(found.scores) > 0 and torch.equal(evidence.result.scores, found.scores)
        assert torch.equal(evidence.result.labels, found.labels) and torch.equal(evidence.result.boxes, found.boxes)
        index = opened.categories.det_index, opened.categories.cls_index
        test = opened.cfg.eval
        plain = plain_scores(evidence.fg, evidence.det, evidence.cls, *index, test.fusion, test.fusion_exponent)
        torch.testing.assert_close(evidence.scores.double(), plain, rtol=1e-4, atol=1e-9)


def products(text):
    """(printed factors as an expression, printed result) of every line with a product."""
    for line in text.splitlines():
        form = r"S\^?'(?:_c)? = (?:S_fg x \S+ = )?([-0-9.e+x^()/ ]+) = ([-0-9.e+]+)"
        for expression, result in re.findall(form, line):
            yield expression.replace("x", "*").replace("^", "**"), float(result)


def test_the_numbers_printed_multiply_to_the_result_printed(look_at):
    """Eqs. 4 and 5, of categories that both classifiers know and of those that g-hat alone knows."""
    for fusion in ("geometric", "arithmetic", "det_only", "cls_only"):
        for exponent in ("0.6", "0.6666666666666666"):
            opened, evidence = look_at(f"eval.fusion={fusion}", f"eval.fusion_exponent={exponent}")
            explainer = Explainer(evidence, opened, 0.3)
            text = "\n".join(line for pair in evidence.result.survivors for line in explainer.equations(pair))
            found = list(products(text))
            assert len(found) > 60 and "only g-hat knows" in text and "Eq. 3" in text
            for expression, result in found:
                assert eval(expression) == pytest.approx(result, rel=2e-3), expression
            assert ("^(2/3) x" in text) == (fusion == "geometric" and exponent != "0.6")


def test_the_command_prints_and_writes_numbers_and_drawings(world, tmp_path):
    done = run("s21k.explain", *words(world), str(photo(world)), "--category", names(world)[0], "--threshold", "0",
               "--out", str(tmp_path), module=True)
    assert done.returncode == 0, done.stderr
    width, height = Image.open(photo(world)).size
    assert f"{photo(world)}: {width} x {height} pixels" in done.stdout
    assert [f"detection {place}: " in done.stdout for place in range(1, 7)] == [True] * 5 + [False]
    assert (tmp_path / "explanation.txt").read_text().strip() in done.stdout
    for name in ("proposals", "levels", "kept", "explained"):
        assert min(Image.open(tmp_path / f"{name}.png").size) >= 480


def fates(look_at, category, *more, threshold=0.3, top=20):
    opened, evidence = look_at(*more)
    explainer = Explainer(evidence, opened, threshold)
    lines = [line for line in explainer.category(category, top) if line.strip().startswith(("fate", "next"))]
    return opened, evidence, explainer, lines


def test_a_category_that_lost_says_why(look_at):
    opened, evidence, explainer, lines = fates(look_at, 0, threshold=0.0)
    assert "and drawn" in lines[0] and any("removed by detection" in line for line in lines)
    for line in lines:
        if "removed by" in line:
            assert float(re.search(r"IoU ([0-9.]+) > 0.5", line).group(1)) >= 0.5
    _, evidence, _, lines = fates(look_at, 0, threshold=1.0)
    assert "not drawn" in lines[0] and "below --threshold 1" in lines[0]
    for threshold, said in ((1.0, " (not drawn: below --threshold 1)"), (0.0, "")):
        first = fates(look_at, 0, threshold=threshold)[2].detection(1, 3)[0]
        assert re.fullmatch(r"detection 1: [^()]+ [0-9.e-]+" + re.escape(said), first), first
    _, evidence, _, lines = fates(look_at, 0, "eval.threshold=0.9999")
    assert all("lost" in line and "is not above eval.threshold = 0.9999" in line for line in lines)
    worst = int(evidence.scores.amax(0).argmin())
    _, _, _, lines = fates(look_at, worst, "eval.max_detections=1")
    assert "lost: number" in lines[0] and "beyond the best 1 (eval.max_detections)" in lines[0]
    lost = [fates(look_at, c, "eval.class_agnostic_nms=true", "eval.nms=0.01", top=1)[3][0] for c in range(4)]
    assert sum("removed by detection" in line for line in lost) >= 2


def test_a_removed_box_names_the_better_one_that_removed_it(look_at):
    opened, evidence, explainer, _ = fates(look_at, 0)
    removed = evidence.result.removed_by
    assert removed
    for pair, better in removed.items():
        assert better[1] == pair[1] and evidence.scores[better] >= evidence.scores[pair]
        assert explainer.iou(pair, better) > 0.5 - 1e-6
        assert f"region {better[0]})" in explainer.fate(pair)
    place = explainer.place[next(iter(removed.values()))]
    assert re.search(r"NMS     removed region \d+ \([0-9.]+, IoU 0\.", explainer.detection(place, 3)[-1])


@pytest.mark.parametrize("arguments, says", [
    (["nothere.jpg"], "nothere.jpg: no such photo or folder"),
    (["PHOTO", "--category", "red circl"], "--category: 'red circl' is none of the 4 categories"),
    (["BROKEN"], "broken.jpg: not a readable image"),
    (["PHOTO", "BROKEN"], "2 photos in"),
    ([], "no images in the command"),
    (["PHOTO", "eval.checkpoint=nothere.pt"], "nothere.pt"),
    (["PHOTO", "--top", "0"], "--top 0: expected at least 1"),
    (["PHOTO", "--out", "PHOTO"], "cannot be written"),
    (["PHOTO", "output_dir=EMPTY"], "no stage2.pt in it"),
])
def test_bad_input_is_one_line(world, tmp_path, arguments, says):
    (tmp_path / "broken.jpg").write_bytes(b"x")
    places = {"PHOTO": photo(world), "BROKEN": tmp_path / "broken.jpg", "EMPTY": tmp_path / "empty"}
    for word, place in places.items():
        arguments = [argument.replace(word, str(place)) for argument in arguments]
    done = run("s21k.explain", *words(world), "--out", str(tmp_path / "out"), *arguments, module=True)
    assert done.returncode == 2 and says in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_a_category_with_a_spelling_mistake_is_told_the_nearest(world):
    name = names(world)[0]
    done = run("s21k.explain", *words(world), str(photo(world)), "--category", name[:-1], module=True)
    assert done.returncode == 2 and f"did you mean '{name}'?" in done.stderr


def test_other_heads_are_refused_and_masks_are_not(world, tmp_path):
    """A mask head changes nothing of the scores; a softmax over C + 1 has no Eq. 1."""
    more = [f"stage2.init={world / 'run' / 'stage1.pt'}", "stage2.iterations=1", "model.with_masks=true",
            f"output_dir={tmp_path / 'm'}"]
    assert run("train_stage2.py", *words(world, *more)).returncode == 0
    done = run("s21k.explain", *words(world, *more), str(photo(world)), module=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "m" / "explained" / photo(world).stem / "kept.png").is_file()
    done = run("s21k.explain", *words(world, "stage2.baseline=image"), str(photo(world)), module=True)
    assert done.returncode == 2 and "stage2.baseline=image does not score by Eqs. 1 to 5" in done.stderr, done.stderr


def test_a_photo_without_regions_is_explained_too(world, look_at, monkeypatch):
    opened, _ = look_at()
    monkeypatch.setattr(opened.detector.rpn, "forward", lambda *_: ([torch.zeros(0, 4)], {}))
    evidence = look(opened, read_image(photo(world)))
    explainer = Explainer(evidence, opened, 0.3)
    assert "regions: 0" in explainer.summary()[1] and "there is no region" in explainer.category(0, 5)[0]


def test_scores_that_cannot_be_explained_are_refused(look_at, monkeypatch):
    monkeypatch.setattr(evidence_module, "MOST_CANDIDATES", 10)
    with pytest.raises(InputError, match=r"eval.threshold=0.0001: \d+ scores are above it, expected at most 10"):
        look_at()
    opened, _ = look_at("eval.threshold=0.9")
    monkeypatch.setattr(opened.detector.box_head, "classify", lambda x: x.new_full((len(x), 4), float("nan")))
    with pytest.raises(InputError, match="not numbers"):
        look_at()


def test_help_says_how_it_is_called():
    assert "python -m s21k.explain r18 tiny photo.jpg" in run("s21k.explain", "--help", module=True).stdout


def test_colours_and_legends():
    assert heat(0) == (60, 80, 230) and heat(1) == (255, 250, 150)
    image, factor = enlarged(Image.fromarray(np.zeros((48, 64, 3), dtype=np.uint8)), 480)
    assert image.size == (640, 480) and factor == 10
    tagged = draw_tagged(image, [[100.0, 40, 200, 90]] * 2, [color_of_place(0), color_of_place(1)], ["1", "lost"])
    assert tagged.getpixel((100, 60)) == color_of_place(0) != color_of_place(1)
    narrow = with_legend(image.resize((100, 50)), [((1, 2, 3), "one meaning"), (None, "another meaning"), (None, "x")])
    assert narrow.width == 100 and narrow.height > 50 + 2 * 18 and narrow.getpixel((6, 59)) == (1, 2, 3)

"""The figure of the method says what the code does: its names, its losses and what their gradients reach."""
import ast
import operator
import re
from xml.etree import ElementTree

import pytest
import torch
from PIL import ImageFont

from s21k.core.config import Stage2Config, load_config
from s21k.experiments import method_figure
from s21k.experiments.diagram import DARK, LIGHT
from s21k.experiments.method_figure import PARTS, PICTURE, REACHES, Figure, draw
from s21k.models.detector import build_detector
from tests.toy import ROOT, SMALL, batch

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def detector():
    torch.manual_seed(0)
    return build_detector(load_config(["toy", *SMALL, "model.with_masks=true"])).train()


@pytest.fixture(scope="module")
def losses(detector):
    return detector(batch(2), batch(3, objects=1, seed=1, first_seed=2))


def test_the_committed_figure_is_what_the_command_draws(tmp_path):
    method_figure.main(["--out", str(tmp_path / "method.svg")])
    assert (tmp_path / "method.svg").read_text() == PICTURE.read_text(), "run python -m s21k.experiments.method_figure"


def test_every_name_in_the_figure_is_one_of_the_code():
    known = set()
    for path in [*(ROOT / "s21k" / "models").glob("*.py"), ROOT / "train_stage1.py"]:
        for node in ast.walk(ast.parse(path.read_text())):
            values = (getattr(node, field, None) for field in ("id", "attr", "name", "value"))
            known |= {value for value in values if isinstance(value, str)}       # variables, attributes, keys of losses
    names = re.findall(r'<tspan font-family="monospace">([^<]+)</tspan>', draw())
    assert {"RegionEncoder", "BoxHead", "foreground", "cls_classifier", "rpn", "region_score"} <= set(names)
    for name in names:
        assert (ROOT / name).is_file() if name.endswith(".py") else set(name.split(".")) <= known, name


def test_a_part_that_the_detector_has_no_longer_cannot_be_drawn(monkeypatch):
    monkeypatch.setitem(PARTS, "foreground", "box_head.objectness")
    with pytest.raises(AttributeError, match="objectness"):
        draw()


def test_the_losses_are_those_of_a_training_step(losses):
    assert losses.keys() == REACHES.keys()
    texts = {"".join(text.itertext()) for text in ElementTree.fromstring(draw()).iter(SVG + "text")}
    assert losses.keys() <= texts


@pytest.mark.parametrize("name", REACHES)
def test_the_gradient_of_a_loss_reaches_the_parts_that_the_figure_names_and_no_others(detector, losses, name):
    leaves = ("backbone", "fpn", "fc1", "fc2", "rpn", "foreground", "det_classifier", "cls_classifier", "box_regressor",
              "mask_head")
    reached = set()
    for leaf in leaves:
        parameters = list(operator.attrgetter(PARTS[leaf])(detector).parameters())
        gradients = torch.autograd.grad(losses[name], parameters, retain_graph=True, allow_unused=True)
        if any(gradient is not None and gradient.any() for gradient in gradients):
            reached.add(leaf)
    said = {leaf for part in REACHES[name] for leaf in leaves if PARTS[leaf].startswith(PARTS[part])}
    assert reached == said


def test_boxes_have_the_colour_of_their_origin():
    """Stage II takes the encoder and g-hat from stage I; all else is new [P29]."""
    figure = Figure()
    for name in PARTS:
        figure.part(0, 0, 100, 30, name)
    kinds = [part.partition('class="')[2].partition('"')[0] for part in figure.parts if part.startswith("<rect")]
    inherited = {name for name, kind in zip(PARTS, kinds, strict=True) if kind == "inherited"}
    assert inherited == {"backbone", "fpn", "fc1", "fc2", "encoder", "cls_classifier"}
    assert set(kinds) == {"inherited", "new"}


def test_numbers_are_the_defaults_of_the_configuration(monkeypatch):
    texts = {"".join(text.itertext()) for text in ElementTree.fromstring(draw()).iter(SVG + "text")}
    assert {"λ = 0.1", "3 images with one", "512 an image"} <= texts
    monkeypatch.setattr(Stage2Config, "image_loss_weight", 0.25)
    assert "λ = 0.25" in draw()


def test_no_text_lies_on_another_or_leaves_the_figure():
    places = []
    for element in ElementTree.fromstring(draw()).iter(SVG + "text"):
        text, size = "".join(element.itertext()).replace("\u200b", ""), int(element.get("font-size"))
        width = ImageFont.load_default(size).getlength(text) * 1.1               # other fonts are wider
        left = float(element.get("x")) - width * {"start": 0, "middle": 0.5, "end": 1}[element.get("text-anchor")]
        places.append((left, float(element.get("y")) - size + 2, left + width, float(element.get("y")) + 2, text))
    for number, (x1, y1, x2, y2, text) in enumerate(places):
        assert x1 >= 10 and x2 <= 990 and y1 >= 10 and y2 <= 838, text
        for a1, b1, a2, b2, other in places[:number]:
            assert x1 >= a2 or a1 >= x2 or y1 >= b2 or b1 >= y2, (text, other)


def test_the_figure_has_colours_for_a_light_and_a_dark_theme():
    text = draw()
    assert "@media (prefers-color-scheme: dark)" in text and len(LIGHT) == len(DARK)
    assert all(color in text for color in [*LIGHT, *DARK])

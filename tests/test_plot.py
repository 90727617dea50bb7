"""Training curves: what is read from log.jsonl, and where it is drawn."""
import json
import math
import sys
from xml.etree import ElementTree

import pytest
import torch

from s21k.core.distributed import World
from s21k.core.errors import InputError, run_command
from s21k.experiments import plot
from s21k.experiments.plot import draw_curves, plot_curves, read_log, ticks

SVG = "{http://www.w3.org/2000/svg}"
# The first panel's axes, by the constants of plot.py: 12 + 54 to 12 + 310 - 14, and 12 + 34 + 42 to 12 + 34 + 210 - 28.
LEFT, RIGHT, TOP, BOTTOM = 66, 308, 88, 228


def write(folder, *lines):
    """A run's folder with these lines in its log; text stays as it is."""
    folder.mkdir(exist_ok=True)
    with open(folder / "log.jsonl", "w") as file:
        for line in lines:
            file.write(line if isinstance(line, str) else json.dumps({"stage": "stage1", "of": 40} | line) + "\n")
    return folder


def panels(svg):
    """{name of a panel: (polylines, dots)}, each a list of points in pixels, in the order of the runs."""
    found = {}
    for group in ElementTree.fromstring(svg).iter(SVG + "g"):
        corners = [line.get("points").split() for line in group.iter(SVG + "polyline")]
        lines = [[tuple(map(float, corner.split(","))) for corner in of_line] for of_line in corners]
        dots = [(float(dot.get("cx")), float(dot.get("cy"))) for dot in group.iter(SVG + "circle")]
        found[group.find(SVG + "text").text] = lines, dots
    return found


def texts(svg):
    return [element.text for element in ElementTree.fromstring(svg).iter(SVG + "text")]


def test_points_are_where_their_numbers_belong(tmp_path):
    rows = [{"step": 10, "loss": 4.0}, {"step": 20, "loss": 1.0}, {"step": 40, "loss": 0.0}]
    svg = draw_curves({"a": read_log(write(tmp_path / "a", *rows))})
    lines, dots = panels(svg)["loss"]
    # x from 0 to 40: a quarter, a half and the whole of the width. y from 0 to 4: all of the height, a quarter, none.
    assert lines == [[(126.5, TOP), (187.0, 193.0), (RIGHT, BOTTOM)]] and dots == lines[0]
    assert (126.5 - LEFT) / (RIGHT - LEFT) == 10 / 40 and (BOTTOM - 193) / (BOTTOM - TOP) == 1 / 4
    assert "Stage I: 40 of 40 steps" in texts(svg) and "last 0" in texts(svg)


def test_every_number_of_the_log_has_a_panel_and_the_stages_are_apart(tmp_path):
    rows = [{"step": 1, "lr": 0.1, "loss": 2.0, "new_thing": 3, "name": "text", "flag": True, "list": [1]},
            {"step": 1, "epoch": 1.0, "val_top1": 0.5},
            {"stage": "stage2", "step": 3, "region_score": 1.0, "lr": 0.2}]
    svg = draw_curves({"a": read_log(write(tmp_path / "a", *rows))})
    titles = [text.text for group in ElementTree.fromstring(svg).iter(SVG + "g") for text in [group.find(SVG + "text")]]
    assert titles == ["loss", "new_thing", "val_top1", "lr", "region_score", "lr"]
    assert [text for text in texts(svg) if "steps" in text] == ["Stage I: 1 of 40 steps", "Stage II: 3 of 40 steps"]


def test_a_torn_line_is_left_out_and_the_line_written_behind_it_is_read(tmp_path):
    folder = write(tmp_path / "a", {"step": 1, "loss": 1.0}, '{"stage": "stage1", "st', {"step": 2, "loss": 2.0},
                   "[1]\n", "\n", "7\n", {"step": "x", "loss": 9.0}, {"step": math.inf, "loss": 9.0},
                   '{"stage": "stage1", "step": 3, "lo')
    assert read_log(folder)["stage1"]["loss"] == {1: 1.0, 2: 2.0}
    (folder / "log.jsonl").write_bytes(b'\xff\xfe\x00\n{"stage": "stage1", "step": 5, "loss": 1}\n')
    assert read_log(folder) == {"stage1": {"step": {5: 5.0}, "loss": {5: 1.0}}}


def test_of_a_step_that_is_repeated_the_last_line_wins(tmp_path):
    """The run ended after step 3 and continued from its checkpoint of step 1."""
    rows = [{"step": 1, "loss": 5.0}, {"step": 2, "loss": 6.0}, {"step": 3, "loss": 7.0}, {"step": 2, "loss": 1.0}]
    loss = read_log(write(tmp_path / "a", *rows))["stage1"]["loss"]
    assert list(loss.items()) == [(1, 5.0), (2, 1.0), (3, 7.0)]


def test_two_runs_share_the_panels_and_are_named_by_their_folders(tmp_path, monkeypatch, capsys):
    one = write(tmp_path / "one", {"step": 10, "loss": 2.0}, {"step": 20, "loss": 1.0})
    two = write(tmp_path / "t<o", {"step": 10, "loss": 4.0})
    monkeypatch.setattr(sys, "argv", ["x", str(one), str(two), "--out", str(tmp_path / "both.svg")])
    run_command(plot.main, plot.__doc__)
    svg = (tmp_path / "both.svg").read_text()
    assert texts(svg)[:2] == ["one", "t<o"] and "both.svg" in capsys.readouterr().out
    lines, dots = panels(svg)["loss"]
    down = 2 * 18                                                              # two lines of the legend
    assert lines == [[(187.0, down + 158.0), (RIGHT, down + 193.0)]] and dots == [*lines[0], (187.0, down + TOP)]


def test_runs_in_folders_of_the_same_name_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "run", {"step": 1, "loss": 1.0})
    plot.main(["a/run", "b/run"])
    assert texts((tmp_path / "curves.svg").read_text())[:2] == ["a/run", "b/run"]


def test_an_empty_log_is_a_picture_that_says_so(tmp_path):
    plot.main([str(write(tmp_path / "a"))])
    assert texts((tmp_path / "a" / "curves.svg").read_text()) == ["log.jsonl holds no numbers yet"]
    assert "last" not in draw_curves({"a": {}, "b": {}})


def test_one_point_is_a_dot(tmp_path):
    lines, dots = panels(draw_curves({"a": read_log(write(tmp_path / "a", {"step": 1, "loss": 0.5}))}))["loss"]
    assert lines == [] and len(dots) == 1 and dots[0][0] == RIGHT and LEFT < RIGHT


def test_numbers_that_are_not_finite_leave_a_gap(tmp_path):
    values = [4.0, 3.0, math.nan, 2.0, math.inf, 1.0, 1.0, 10 ** 400]
    log = read_log(write(tmp_path / "a", *({"step": 5 * n, "loss": value} for n, value in enumerate(values))))
    svg = draw_curves({"a": log})
    lines, dots = panels(svg)["loss"]
    assert [len(line) for line in lines] == [2, 2] and len(dots) == 5 and "last nan" in texts(svg)
    attributes = [value for element in ElementTree.fromstring(svg).iter() for value in element.attrib.values()]
    assert not any("nan" in value or "inf" in value for value in attributes)
    draw_curves({"a": read_log(write(tmp_path / "b", {"step": 1, "loss": math.nan}, {"step": 2, "loss": math.nan}))})


def test_axes_hold_every_number_and_zero():
    assert ticks([3.1, 0.4]) == [0, 1, 2, 3, 4] and ticks([]) == ticks([0.0]) == pytest.approx([0, 0.5, 1.0])
    assert ticks([1, 3], least=1) == [0, 1, 2, 3] and ticks([-1.0, 1.0]) == [-1, -0.5, 0, 0.5, 1]
    generator = torch.Generator().manual_seed(0)
    for exponent in range(-40, 30):
        values = (torch.randn(3, generator=generator, dtype=torch.float64) * 10.0 ** exponent).tolist()
        marks = ticks(values)
        slack = 1e-6 * (marks[-1] - marks[0])
        assert marks[0] - slack <= min(0, *values) and max(0, *values) <= marks[-1] + slack and 2 <= len(marks) <= 7


def test_long_curves_are_drawn_as_means_of_neighbours():
    points = plot.thinned({step: float(step) for step in range(1, 601)})
    assert len(points) == 300 and points[0] == (1.5, 1.5) and points[-1] == (599.5, 599.5)


def test_text_that_xml_cannot_hold_is_replaced(tmp_path):
    folder = write(tmp_path / "a", {"step": 1, "<&>\x00\ud800": 1.0})
    assert "<&>\ufffd\ufffd" in texts(draw_curves({"a": read_log(folder)}))


def test_the_picture_has_colours_for_a_light_and_a_dark_theme():
    text = draw_curves({"a": {}})
    assert "@media (prefers-color-scheme: dark)" in text and all(color in text for color in plot.LIGHT + plot.DARK)


def test_a_folder_that_is_no_run_is_one_line(tmp_path, monkeypatch, capsys):
    with pytest.raises(InputError):
        read_log(tmp_path)
    monkeypatch.setattr(sys, "argv", ["x", str(tmp_path)])
    with pytest.raises(SystemExit) as end:
        run_command(plot.main, plot.__doc__)
    error = capsys.readouterr().err
    assert end.value.code == 2 and error.count("\n") == 1
    assert "log.jsonl: No such file or directory, expected the folder of a run" in error


def test_rank_0_alone_draws_the_curves_and_a_failure_is_one_line(tmp_path, capsys, monkeypatch):
    ranks = [World(rank, 2, torch.device("cpu")) for rank in (0, 1)]
    folder = tmp_path / "a"
    folder.mkdir()
    plot_curves(folder, ranks[0])
    assert list(folder.iterdir()) == [] and capsys.readouterr().out == ""                  # no log yet: nothing to say
    write(folder, {"step": 1, "loss": 1.0})
    plot_curves(folder, ranks[1])
    assert not (folder / "curves.svg").exists()
    plot_curves(folder, ranks[0])
    assert "loss" in texts((folder / "curves.svg").read_text())
    (folder / "curves.svg").unlink()
    (folder / "curves.svg").mkdir()                                                        # cannot be written
    monkeypatch.setattr("s21k.core.errors._said", set())
    plot_curves(folder, ranks[0])
    plot_curves(folder, ranks[0])
    said = capsys.readouterr().out
    assert said.startswith("note: ") and said.count("\n") == 1 and "curves.svg is not written" in said

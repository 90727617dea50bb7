"""The experiments' bookkeeping on worked examples, and whole rows, CAM and the diagnosis on a world of four classes."""
import io
import json
import os
import runpy
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from s21k.core.categories import CategoryMap
from s21k.core.config import load_config
from s21k.core.distributed import World
from s21k.core.errors import InputError
from s21k.data.detection import DetectionData
from s21k.data.loaders import eval_batches
from s21k.evaluation.ground_truth import GroundTruth
from s21k.evaluation.localization import LocalizationAccuracy
from s21k.experiments import __main__ as command
from s21k.experiments import cam, noise, running, tables
from s21k.experiments.plot import line_plot, round_up
from s21k.experiments.why import Curve, look
from s21k.experiments.worlds import CLAIMS, GROUPED, TITLES, WORLDS
from s21k.models.classifier import build_classifier
from s21k.models.detector import build_detector
from s21k.prepare.tiny_imagenet import prepare
from tests.toy import ROOT, SMALL


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(running, "RESULTS", tmp_path / "results")
    (tmp_path / "results").mkdir()
    return tmp_path / "results"


def write(path, *rows):
    path.write_text(
        "".join(json.dumps({"row": row, "seed": seed, "figures": figures}) + "\n" for row, seed, figures in rows))


def test_a_difference_is_paired_by_seed_and_judged_by_students_t():
    def one(*pairs):
        row, other = ({seed: {"top1": pair[n]} for seed, pair in enumerate(pairs)} for n in (0, 1))
        found = noise.difference(row, other, "top1", {}, {})
        return None if found is None else (str(found), found.verdict)

    # 10, 10, 20: mean 40 / 3, deviation sqrt(300 / 9)
    assert one((0.5, 0.4), (0.7, 0.6), (0.3, 0.1)) == ("+13.3 ± 5.8", "not seen")
    assert one((0.5, 0.4), (0.7, 0.6), (0.3, 0.15)) == ("+11.7 ± 2.9", "holds")          # 10, 10, 15: t = 7.0 > 4.30
    assert one((0.4, 0.5), (0.6, 0.7), (0.15, 0.3)) == ("-11.7 ± 2.9", "reversed")
    assert one((0.5, 0.4)) == ("+10.0", "one seed") and one() is None


def test_a_difference_that_the_draws_of_images_do_not_confirm_is_not_seen():
    """Both rows move with the draw: only their difference, draw by draw, counts."""
    figures = [{seed: {"top1": value + seed / 1000} for seed in range(3)} for value in (0.5, 0.4)]
    common = np.random.default_rng(0).normal(0, 0.2, 1000)

    def found(apart):
        other = {seed: {"top1": common} for seed in range(3)}
        return noise.difference(*figures, "top1", {seed: {"top1": common + apart} for seed in range(3)}, other)

    steady = found(np.linspace(0.06, 0.14, 1000))
    assert steady.verdict == "holds" and steady.interval == pytest.approx((0.062, 0.138))
    assert str(steady) == "+10.0 ± 0.0 [+6.2, +13.8]"
    assert found(np.linspace(-0.05, 0.25, 1000)).verdict == "not seen"
    # the draws tell the spread, not the mean
    assert found(np.linspace(0.26, 0.34, 1000)).interval == pytest.approx((0.062, 0.138))
    alone = noise.difference(*figures, "top1", {0: {"top1": common}}, {0: {"top1": common}})
    assert alone.interval is None and alone.verdict == "holds"                            # draws of one seed alone


def test_the_verdicts_name_claim_rows_and_the_figures_of_each_world(results):
    rows = [(row, seed, {"top1": top1 + seed / 100 * (row == "full"), "AP50_base": ap})
            for row, top1, ap in (("full", 0.5, 0.2), ("g alone", 0.4, 0.3)) for seed in range(3)]
    write(results / "tiny40.jsonl", *rows)
    write(results / "scenes.jsonl", *rows)
    assert tables.verdicts()[2:] == ["| Eq. 5 beats g alone where both know a category [P33] | full - g alone | "
                                     "Top-1 +11.0 ± 1.0: holds; AP50 base -10.0 ± 0.0: reversed | "
                                     "AP50 base -10.0 ± 0.0: reversed; Top-1 +11.0 ± 1.0: holds |"]
    write(results / "scenes.jsonl", *((row, seed, {"AP50_novel": ap}) for row, ap in (("novel 0 %", 0.3), ("full", 0.2))
                                      for seed in range(2)))
    assert tables.verdicts()[-1].endswith("| novel 0 % - full | not asked | AP50 novel +10.0 ± 0.0: holds |")


def test_the_committed_lines_of_both_ages_are_read():
    lines = running.read_results("tiny40")
    assert {line["row"] for line in lines} == set(WORLDS["tiny40"].rows) and all("figures" in line for line in lines)
    for name in ("tiny40", "scenes"):
        for line in running.read_results(name):
            assert "minutes" in line or {"revision", "config", "seconds", "words"} <= set(line)


def test_by_chance_one_claim_of_twenty_is_seen():
    """The bars of Student's t against their definition, on a million draws."""
    draws = torch.randn(5, 1_000_000, generator=torch.Generator().manual_seed(0))
    for count, bar in noise.STUDENT.items():
        t = draws[:count].mean(0) / (draws[:count].std(0) / count**0.5)
        assert (t.abs() > bar).float().mean().item() == pytest.approx(0.05, abs=0.001)


def test_the_table_has_mean_and_sample_deviation_of_what_is_there(results):
    write(results / "tiny40.jsonl", ("full", 0, {"top1": 0.2, "top1_base": 0.3}),
          ("full", 1, {"top1": 0.3, "top1_base": 0.3}), ("cam", 0, {"top1": 0.1}))
    head, _, full, cam = tables.table("tiny40", ("", "base"), ("top1", "gt_known"))
    assert head.startswith("| row | seeds | Top-1, all | Top-1, base | GT-Known, all |")
    assert (full.startswith("| full: the method | 2 | 25.0 ± 7.1 | 30.0 ± 0.0 |  |")
            and cam.startswith("| cam: class activation maps, no boxes in training | 1 | 10.0 |  |"))


def test_rows_that_are_there_are_not_run_again_and_others_are_appended_at_once(results, monkeypatch):
    done = []

    def finish(words, variant=""):
        done.append((words, variant))
        if "stage2.lr=0.5" in words:
            raise InputError("stopped")
        return {"top1": 0.123456789}, {"top1": np.array([0.1, 0.2]), "cls_top1_base": np.zeros(2)}

    monkeypatch.setattr(running, "finish", finish)
    write(results / "x.jsonl", ("b", 0, {"top1": 0.5}))
    rows = {"a %": ["eval.nms=0.4"], "b": [], "c": ["stage2.lr=0.5"]}
    with pytest.raises(InputError, match="stopped"):
        running.run_rows("x", rows, [0], ["toy"])
    assert done == [(["toy", "eval.nms=0.4", "seed=0"], "a-percent"), (["toy", "stage2.lr=0.5", "seed=0"], "")]
    lines = running.read_results("x")
    assert [(line["row"], line["seed"], line["figures"]) for line in lines] == [("b", 0, {"top1": 0.5}),
                                                                               ("a %", 0, {"top1": 0.12346})]
    assert lines[1]["words"] == done[0][0] and lines[1]["seconds"] >= 0 and "revision" in lines[1]
    assert lines[1]["config"] == running.config_hash(load_config(lines[1]["words"]))
    kept = running.draws_of("x", "a %")[0]
    assert set(kept) == {"top1"} and kept["top1"] == pytest.approx([0.1, 0.2], abs=1e-4)
    assert running.draws_of("x", "b") == {0: {}}
    running.run_rows("x", {"b": []}, [0, 1], ["toy"])
    assert done[2:] == [(["toy", "seed=1"], "")]
    (results / "x.jsonl").write_text("{")
    with pytest.raises(InputError, match="x.jsonl: a line is not JSON"):
        running.read_results("x")


def test_the_hash_is_of_what_changes_a_figure():
    def hashed(*more):
        return running.config_hash(load_config(["scenes", *more]))

    assert hashed() == hashed("data.root=elsewhere", "output_dir=x", "eval.pictures=0", "data.workers=0",
                              "stage2.save_every=7")
    assert len({hashed(), hashed("seed=1"), hashed("eval.nms=0.6"), hashed("stage2.lr=1e-3"), hashed("amp=off"),
                hashed("data.eval.images=x"), hashed("data.det.images=scenes/det_50")}) == 7


def test_the_revision_says_whether_the_code_was_changed_and_leaves_out_results(tmp_path, monkeypatch):
    monkeypatch.setattr(running, "ROOT", tmp_path)
    assert running.revision() == ""                                      # no repository
    result = tmp_path / "s21k" / "experiments" / "results" / "scenes.jsonl"
    result.parent.mkdir(parents=True)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], cwd=tmp_path, check=True)
    for name in (result, tmp_path / "code.py"):
        name.write_text("1")
    for words in (["add", "-A"], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], cwd=tmp_path, check=True)
    clean = running.revision()
    result.write_text("2")
    assert running.revision() == clean and len(clean) >= 7
    (tmp_path / "code.py").write_text("2")
    assert running.revision() == f"{clean}+"


@pytest.mark.parametrize("name", list(WORLDS))
def test_a_repeated_row_stands_beside_the_committed_one(results, monkeypatch, capsys, name):
    monkeypatch.setattr(running, "finish", lambda words, variant="": (
        {"top1": 0.25, "gt_known": 0.5, "top5": 0.4, "AP50": 0.3}, {}))
    same = {"gt_known": 0.6, "top5": 0.4, "AP50": 0.3}
    write(results / f"{name}.jsonl", ("full", 0, {"top1": 0.2, **same}), ("full", 1, {"top1": 0.3, **same}))
    running.repeat(WORLDS[name], {"full": []}, [1])
    lines = capsys.readouterr().out.splitlines()
    assert "full, seed 1: Top-1 25.0, committed 30.0, standard deviation over seeds 7.1" in lines
    assert "full, seed 1: GT-Known 50.0, committed 60.0, standard deviation over seeds 0.0" in lines
    assert len(lines) == (4 if name == "tiny40" else 3)
    with pytest.raises(InputError, match="'full', seed 2: not in .*expected one of the committed seeds .0, 1."):
        running.repeat(WORLDS[name], {"full": []}, [2])


def test_a_repeated_row_says_that_its_configuration_is_another(results, monkeypatch, capsys):
    monkeypatch.setattr(running, "finish", lambda words, variant="": ({}, {}))
    line = {"row": "full", "seed": 0, "figures": {}, "revision": "abc", "config": "0123"}
    (results / "scenes.jsonl").write_text(json.dumps(line))
    running.repeat(WORLDS["scenes"], {"full": []}, [0])
    assert "full, seed 0: committed with another configuration, 0123 at revision abc" in capsys.readouterr().out
    line["config"] = running.config_hash(load_config(["scenes", "seed=0"]))
    (results / "scenes.jsonl").write_text(json.dumps(line))
    running.repeat(WORLDS["scenes"], {"full": []}, [0])
    assert "another configuration" not in capsys.readouterr().out


@pytest.mark.parametrize("name", list(WORLDS))
def test_every_row_and_choice_is_a_configuration_and_shares_what_it_should(name):
    world = WORLDS[name]

    def folders(words):
        cfg = load_config([*world.base, *words, "seed=3"])
        return cfg.output_dir, cfg.parent_dir

    rows = {row: folders(words) for row, words in world.rows.items()}
    choices = {row: folders(words) for row, words in world.choices.items()}
    for row in ("g alone", "g-hat alone", "exponent 1/2", "exponent 1/3", "arithmetic"):
        assert rows[row] == rows["full"]                                                  # the same trained model
    own = [row for row, words in world.rows.items()
           if not any(word.startswith("eval.") for word in words) and row != "cam"]
    assert len({rows[row][0] for row in own}) == len(own)
    for row in set(own) - {"no_reform", "no_stage1", "mean of levels"}:
        assert rows[row][1] == rows["full"][1]                                            # the same stage I
    if choices:
        # g, g-hat alone
        assert (all(choices[row][1] == rows["full"][1] for row in choices if row in list(choices)[:11])
                and len({c[0] for c in choices.values()}) == len(choices) - 2)
        assert len({choices[row][1] for row in choices if row.startswith("level")}) == 4
    for claim in CLAIMS:
        keys = getattr(claim, name)
        assert not keys or {claim.row, claim.other} <= set(world.rows)
        assert {key.removesuffix("_base").removesuffix("_novel") for key in keys} <= set(GROUPED)
    assert {key for keys in world.tables for key in keys} <= set(TITLES)
    assert len({running.file_name(row) for row in world.rows}) == len(world.rows)


def test_the_command_knows_the_rows_of_its_world(capsys):
    with pytest.raises(InputError, match="--world scenes: it has no choices"):
        command.main(["choices", "--world", "scenes"])
    with pytest.raises(InputError, match="--rows 'novel 0 %': not one of full"):
        command.main(["run", "--rows", "novel 0 %"])
    command.main(["table"])
    assert "| full: the method | 3 |" in capsys.readouterr().out


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Four classes of Tiny ImageNet's layout: a coloured square on noise."""
    root = tmp_path_factory.mktemp("world")
    rng, wnids = np.random.default_rng(0), [f"n0000000{i}" for i in range(4)]

    def picture(c):
        pixels = rng.integers(0, 80, (64, 64, 3), dtype=np.uint8)
        x, y = rng.integers(0, 24, 2)
        pixels[y:y + 40, x:x + 40, c % 3] = 120 + 40 * (c // 3)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG")
        return file.getvalue(), f"{x}\t{y}\t{x + 39}\t{y + 39}"

    with zipfile.ZipFile(root / "tiny.zip", "w") as archive:
        archive.writestr("tiny-imagenet-200/wnids.txt", "\n".join(wnids))
        archive.writestr("tiny-imagenet-200/words.txt", "".join(f"{w}\tthing {w}\n" for w in wnids))
        val = []
        for c, wnid in enumerate(wnids):
            lines = []
            for i in range(5):
                content, box = picture(c)
                archive.writestr(f"tiny-imagenet-200/train/{wnid}/images/{wnid}_{i}.JPEG", content)
                lines.append(f"{wnid}_{i}.JPEG\t{box}\n")
            archive.writestr(f"tiny-imagenet-200/train/{wnid}/{wnid}_boxes.txt", "".join(lines))
            for i in range(2):
                content, box = picture(c)
                archive.writestr(f"tiny-imagenet-200/val/images/val_{c}{i}.JPEG", content)
                val.append(f"val_{c}{i}.JPEG\t{wnid}\t{box}\n")
        archive.writestr("tiny-imagenet-200/val/val_annotations.txt", "".join(val))
    prepare(root / "tiny.zip", root / "data" / "tiny40")
    return root


def test_whole_rows_cam_and_the_diagnosis_run(world, tmp_path, monkeypatch, results, capsys):
    small = [word for word in SMALL if not word.startswith(("stage1.size", "eval.resize"))]
    base = ["r18", "tiny40", *small, f"data.root={world / 'data'}", "stage2.det_batch=1", "eval.pictures=1"]
    monkeypatch.setattr(running, "ROOT", tmp_path)
    monkeypatch.setattr(cam, "CAM_SIZES", (64, 96))
    monkeypatch.chdir(tmp_path)
    ran = []

    def script(name, words):
        ran.append(name)
        monkeypatch.setattr(sys, "argv", [name, *words])
        try:
            runpy.run_path(str(ROOT / name), run_name="__main__")
        except SystemExit as end:
            assert not end.code, capsys.readouterr().err

    monkeypatch.setattr(running, "script", script)
    rows = {row: WORLDS["tiny40"].rows[row] for row in ("full", "no_reform", "no_stage1", "det_only", "cam", "g alone")}
    running.run_rows("tiny40", rows, [0], base)
    figures = {line["row"]: line["figures"] for line in running.read_results("tiny40")}
    assert list(figures) == list(rows) and ran.count("train_stage1.py") == 5 and ran.count("evaluate.py") == 5
    full = tmp_path / load_config([*base, "seed=0"]).output_dir
    # another evaluation of one model has a folder of its own
    for key in ("gt_known", "AP50"):
        for row, folder in (("full", full), ("g alone", full / "g-alone")):
            assert json.loads((folder / "metrics.json").read_text())[key] == pytest.approx(figures[row][key], abs=1e-5)
            assert len(running.draws_of("tiny40", row)[0][key]) == 200
    assert running.draws_of("tiny40", "cam") == {0: {}}
    # det_only takes that of full, CAM that of no_reform
    assert len(list((tmp_path / "runs").glob("*/stage1.pt"))) == 2
    assert all(0 <= f[f"gt_known{group}"] <= 1 for f in figures.values() for group in ("", "_base", "_novel"))
    assert "stage1_top1" in figures["full"] and "stage1_top1" not in figures["no_stage1"]
    assert figures["cam"]["cam_size"] in cam.CAM_SIZES and figures["cam"]["images"] == 8
    weights = [torch.load(tmp_path / load_config([*base, *rows[row], "seed=0"]).output_dir / "stage2.pt")["step"]
               for row in ("full", "no_reform", "no_stage1")]
    assert weights == [4, 4, 4]
    cut = torch.load(place := tmp_path / load_config([*base, "seed=0"]).parent_dir / "stage1.pt")
    torch.save({**cut, "step": 1}, place)                                # a stage I that was stopped is no row
    monkeypatch.setattr(running, "script", lambda name, words: None)
    with pytest.raises(InputError, match="stage1.pt is unfinished: 1 of 2 steps"):
        running.finish([*base, "seed=0"])
    torch.save(cut, place)

    monkeypatch.setattr(sys, "argv", ["why", *base, "seed=0", "--out", str(tmp_path / "pictures")])
    try:
        runpy.run_path(str(ROOT / "s21k" / "experiments" / "why.py"), run_name="__main__")
    except SystemExit as end:
        assert not end.code, capsys.readouterr().err
    why = json.loads((tmp_path / load_config([*base, "seed=0"]).output_dir / "why.json").read_text())
    assert set(why["curves"]) == {"iou", "S_fg, base", "S_fg, novel", "g-hat, base", "g-hat, novel"}
    assert set(why["means"]) == {"entire image, base", "entire image, novel", "largest proposal",
                                 "best-scored proposal", "box by f", "box by f and category"}
    assert why["means"]["box by f and category"][0] == figures["full"]["gt_known"]
    assert all(0 <= value <= 1 for values in why["means"].values() for value in values)
    assert os.path.getsize(tmp_path / "pictures" / "failures.jpg") > 1000
    ElementTree.parse(tmp_path / "pictures" / "foreground.svg")


def test_cam_finds_what_its_maps_show(world, monkeypatch):
    """Maps made of the images' own colours, logits of their brightest channel: boxes, rows and thresholds must come out
    right."""
    def maps(classifier, images):
        pooled = torch.nn.functional.avg_pool2d(images, 32)
        return torch.stack([pooled[:, c % 3] for c in range(4)], 1), torch.stack(
            [images[:, c].mean((1, 2)) for c in range(3)] + [images.mean((1, 2, 3)) - 9], 1)

    monkeypatch.setattr(cam, "cam_maps", maps)
    cfg = load_config(["r18", "tiny40", *SMALL, "no_reform", f"data.root={world / 'data'}", "eval.resize=[64,96]"])
    classifier = build_classifier(cfg.model, 4, 0.0)
    torch.save({"model": classifier.state_dict()}, world / "pooled.pt")
    found = cam.cam_figures(cfg, world / "pooled.pt")
    # two by two cells cannot show a square of 40 pixels
    assert found["gt_known"] >= 0.9 and found["cam_size"] > 64
    # the fourth class looks like the first
    assert found["cls_top1"] == found["cls_top1_base"] / 2 + found["cls_top1_novel"] / 2 == 0.75


def test_cam_with_several_objects_counts_images_of_one_category_and_boxes_of_the_first(world, tmp_path, monkeypatch):
    """Every training image's first box is around all of it, and the object's goes to another category: a map's box is
    right at low thresholds alone. One image to score on gets a second category."""
    shutil.copytree(world / "data", tmp_path / "data")
    cfg = load_config(["r18", "tiny40", *SMALL, "no_reform", f"data.root={tmp_path / 'data'}", "eval.resize=[64,96]"])
    monkeypatch.setattr(cam, "cam_maps", lambda classifier, images: (
        torch.nn.functional.avg_pool2d(images, 32)[:, [0, 1, 2, 0]], images.mean((2, 3))[:, [0, 1, 2, 0]]))
    torch.save({"model": build_classifier(cfg.model, 4, 0.0).state_dict()}, tmp_path / "pooled.pt")
    before = cam.cam_figures(cfg, tmp_path / "pooled.pt")
    place = tmp_path / "data" / cfg.data.det.annotations
    train = json.loads(place.read_text())
    ids = [category["id"] for category in train["categories"]]
    boxes = train["annotations"]
    around = [{**box, "id": 10_000 + box["id"], "bbox": [0, 0, 64, 64], "area": 4096} for box in boxes]
    for box in boxes:
        box["category_id"] = ids[1 - ids.index(box["category_id"])]
    place.write_text(json.dumps({**train, "annotations": around + boxes}))
    place = tmp_path / "data" / cfg.data.eval.annotations
    val = json.loads(place.read_text())
    first = val["annotations"][0]
    other = next(c["id"] for c in val["categories"] if c["id"] != first["category_id"])
    val["annotations"].append({**first, "id": 9999, "category_id": other})
    place.write_text(json.dumps(val))
    found = cam.cam_figures(cfg, tmp_path / "pooled.pt")
    assert (before["images"], found["images"]) == (8, 7)
    assert found["cam_threshold"] < 0.4 < before["cam_threshold"]


def test_why_reads_the_box_of_gt_known_and_the_choices_of_detics_losses(world):
    """A detector that proposes the truth, the truth moved by half its side, and the whole image."""
    cfg = load_config(["r18", "tiny40", *SMALL, f"data.root={world / 'data'}", "eval.resize=[64,96]"])
    root, where = world / "data", cfg.data.eval
    categories = CategoryMap.load(root / where.categories)
    gt, data = GroundTruth.load(root / where.annotations,
                                categories), DetectionData(root / where.annotations, root / where.images)
    torch.manual_seed(0)
    detector = build_detector(cfg).eval()
    # boxes stay where they are proposed
    torch.nn.init.zeros_(detector.box_head.box_regressor.weight)
    with torch.no_grad():
        # f prefers one proposal, the categories another
        for layer in (detector.box_head.foreground, detector.box_head.det_classifier, detector.box_head.cls_classifier):
            layer.weight *= 300
    order = []
    for batch in eval_batches(cfg, data, World(0, 1, torch.device("cpu"))):
        for target in batch.targets:
            truth = target.boxes[0]
            shift = (truth[2:] - truth[:2]).repeat(2) / 2
            order.append(torch.stack([truth, (truth + shift).clamp(max=64), torch.tensor([0.0, 0, 64, 64])]))

    class Proposer(torch.nn.Module):
        def forward(self, pyramid, sizes):
            return [next(queue) for _ in sizes], {}

    detector.rpn = Proposer()
    # look and predict ask once each
    doubled = [boxes for start in range(0, len(order), cfg.eval.batch)
               for boxes in order[start:start + cfg.eval.batch] * 2]
    queue = iter(doubled)
    _, _, _, means = look(cfg, detector, data, gt, categories)
    metric, queue = LocalizationAccuracy(gt), iter(order)
    for batch in eval_batches(cfg, data, World(0, 1, torch.device("cpu"))):
        for image_id, scale, prediction in zip(batch.image_ids, batch.scales,
                                               detector.predict(batch, categories, cfg.eval)):
            metric.update(image_id, prediction.in_image(scale, (64, 64)))
    assert (means["box by f and category"][0] == metric.compute()["gt_known"]
            and 0 < means["box by f and category"][0] < 1)
    assert means["largest proposal"] == pytest.approx([1.0, 1600 / 4096], abs=1e-4)
    with torch.no_grad():
        # all proposals alike: half a pair is right
        detector.box_head.foreground.weight.zero_()
    queue = iter(doubled)
    assert look(cfg, detector, data, gt, categories)[0]["S_fg, base"].ordered() == 0.5


def test_a_line_plot_has_its_points_where_they_belong(tmp_path):
    line_plot(tmp_path / "p.svg", "a < b", "x", "y", [0.0, 0.5, 1.0], {"one": [0.0, None, 2.0], "two": [1.0, 1.0, 1.0]})
    root = ElementTree.parse(tmp_path / "p.svg").getroot()
    lines = [[tuple(map(float, point.split(","))) for point in e.get("points").split()]
             for e in root.iter("{http://www.w3.org/2000/svg}polyline")]
    (x0, y0), (x2, y2) = lines[0]
    assert len(lines[1]) == 3 and x0 < lines[1][1][0] < x2 and y2 < y0                    # pixels grow downwards
    assert lines[1][0][1] == pytest.approx((y0 + y2) / 2, abs=0.1)                        # 1 is half-way from 0 to 2
    assert [round_up(v) for v in (0.95, 0.72, 1.0, 2.1, 9.0, 0.1)] == pytest.approx([1.0, 0.8, 1.0, 4.0, 10.0, 0.1])
    assert any(e.text == "a < b" for e in root.iter("{http://www.w3.org/2000/svg}text"))


def test_a_curve_is_means_by_overlap_and_the_order_of_pairs():
    """P31, against plain loops."""
    generator, curve = torch.Generator().manual_seed(0), Curve()
    pictures = [(torch.rand(60, generator=generator).round(decimals=1), torch.rand(60, generator=generator))
                for _ in range(5)]
    right = pairs = 0
    for scores, overlap in pictures:
        curve.add(scores, overlap)
        for s, o in zip(scores.tolist(), overlap.tolist()):
            for s2, o2 in zip(scores.tolist(), overlap.tolist()):
                if o - o2 >= 0.2 and o2 >= 0.3:
                    pairs, right = pairs + 1, right + (s > s2) + 0.5 * (s == s2)
    assert curve.ordered() == pytest.approx(right / pairs)
    scores, overlap = (torch.cat(part) for part in zip(*pictures))
    for n, mean in enumerate(curve.means()):
        inside = scores[(overlap >= n / 10) & (overlap < (n + 1) / 10)]
        assert mean == (pytest.approx(inside.mean().item()) if len(inside) >= 20 else None)
    assert Curve().ordered() is None and Curve().means() == [None] * 10

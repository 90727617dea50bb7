"""The experiments' bookkeeping on worked examples, and whole rows, CAM and the diagnosis on a world of four classes."""
import io
import json
import os
import runpy
import sys
import xml.etree.ElementTree as ElementTree
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

import s21k.experiments.__main__ as experiments
from s21k.core.categories import CategoryMap
from s21k.core.config import load_config
from s21k.core.distributed import World
from s21k.core.errors import InputError
from s21k.data.detection import DetectionData
from s21k.data.loaders import eval_batches
from s21k.evaluation.ground_truth import GroundTruth
from s21k.evaluation.localization import LocalizationAccuracy
from s21k.experiments import cam
from s21k.experiments.plot import line_plot, round_up
from s21k.experiments.why import Curve, look
from s21k.models.classifier import build_classifier
from s21k.models.detector import build_detector
from s21k.prepare.tiny_imagenet import prepare
from tests.toy import ROOT, SMALL


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(experiments, "RESULTS", tmp_path / "results")
    (tmp_path / "results").mkdir()
    return tmp_path / "results"


def write(path, *rows):
    path.write_text(
        "".join(json.dumps({"row": row, "seed": seed, "figures": figures}) + "\n" for row, seed, figures in rows))


def test_a_difference_is_paired_by_seed_and_judged_by_students_t(results):
    def one(*pairs):
        write(results / "tiny40.jsonl", *(("a", seed, {"top1": a}) for seed, (a, _) in enumerate(pairs)),
              *(("b", seed, {"top1": b}) for seed, (_, b) in enumerate(pairs)))
        return experiments.difference("a", "b", "top1")

    # 10, 10, 20: mean 40 / 3, deviation sqrt(300 / 9)
    assert one((0.5, 0.4), (0.7, 0.6), (0.3, 0.1)) == ("+13.3 ± 5.8", "not seen")
    assert one((0.5, 0.4), (0.7, 0.6), (0.3, 0.15)) == ("+11.7 ± 2.9", "holds")          # 10, 10, 15: t = 7.0 > 4.30
    assert one((0.4, 0.5), (0.6, 0.7), (0.15, 0.3)) == ("-11.7 ± 2.9", "reversed")
    assert one((0.5, 0.4)) is None


def test_the_verdicts_name_claim_rows_and_figures(results):
    write(results / "tiny40.jsonl", *(("full", seed, {"top1": 0.5 + seed / 100, "AP50_base": 0.2}) for seed in range(
        3)), *(("g alone", seed, {"top1": 0.4, "AP50_base": 0.3}) for seed in range(3)))
    assert experiments.verdicts()[2:] == ["| Eq. 5 beats g alone where both know a category [P33] | full - g alone | "
                                          "Top-1 +11.0 ± 1.0: holds; AP50 base -10.0 ± 0.0: reversed |"]


def test_by_chance_one_claim_of_twenty_is_seen():
    """The bars of Student's t against their definition, on a million draws."""
    draws = torch.randn(5, 1_000_000, generator=torch.Generator().manual_seed(0))
    for count, bar in experiments.STUDENT.items():
        t = draws[:count].mean(0) / (draws[:count].std(0) / count**0.5)
        assert (t.abs() > bar).float().mean().item() == pytest.approx(0.05, abs=0.001)


def test_the_table_has_mean_and_sample_deviation_of_what_is_there(results):
    write(results / "tiny40.jsonl", ("full", 0, {"top1": 0.2, "top1_base": 0.3}),
          ("full", 1, {"top1": 0.3, "top1_base": 0.3}), ("cam", 0, {"top1": 0.1}))
    head, _, full, cam = experiments.table("tiny40", ("", "base"), ("top1", "gt_known"))
    assert head.startswith("| row | seeds | Top-1, all | Top-1, base | GT-Known, all |")
    assert (full.startswith("| full: the method | 2 | 25.0 ± 7.1 | 30.0 ± 0.0 |  |")
            and cam.startswith("| cam: class activation maps, no boxes in training | 1 | 10.0 |  |"))


def test_rows_that_are_there_are_not_run_again_and_others_are_appended_at_once(results, monkeypatch):
    done = []

    def finish(words):
        done.append(words)
        if "stop" in words:
            raise InputError("stopped")
        return {"top1": 0.123456789}

    monkeypatch.setattr(experiments, "finish", finish)
    write(results / "x.jsonl", ("b", 0, {"top1": 0.5}))
    with pytest.raises(InputError, match="stopped"):
        experiments.run_rows("x", {"a": ["k=1"], "b": [], "c": ["stop"]}, [0], ["base"])
    assert done == [["base", "k=1", "seed=0"], ["base", "stop", "seed=0"]]
    assert [(line["row"], line["seed"], line["figures"]["top1"])
            for line in experiments.read_results("x")] == [("b", 0, 0.5), ("a", 0, 0.12346)]
    experiments.run_rows("x", {"a": ["k=1"], "b": []}, [0, 1], ["base"])
    assert done[2:] == [["base", "k=1", "seed=1"], ["base", "seed=1"]]
    (results / "x.jsonl").write_text("{")
    with pytest.raises(InputError, match="x.jsonl: a line is not JSON"):
        experiments.read_results("x")


def test_a_repeated_row_stands_beside_the_committed_one(results, monkeypatch, capsys):
    monkeypatch.setattr(experiments, "finish", lambda words: {"top1": 0.25, "gt_known": 0.5, "top5": 0.4, "AP50": 0.3})
    same = {"gt_known": 0.6, "top5": 0.4, "AP50": 0.3}
    write(results / "tiny40.jsonl", ("full", 0, {"top1": 0.2, **same}), ("full", 1, {"top1": 0.3, **same}))
    experiments.repeat({"full": []}, [1])
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["full, seed 1: Top-1 25.0, committed 30.0, standard deviation over seeds 7.1",
                         "full, seed 1: GT-Known 50.0, committed 60.0, standard deviation over seeds 0.0"] and len(
                             lines) == 4
    with pytest.raises(InputError, match="'full', seed 2: not in .*expected one of the committed seeds .0, 1."):
        experiments.repeat({"full": []}, [2])


def test_every_row_and_choice_is_a_configuration_and_shares_what_it_should():
    def folders(words):
        cfg = load_config([*experiments.BASE, *words, "seed=3"])
        return cfg.output_dir, cfg.parent_dir

    rows = {row: folders(words) for row, words in experiments.ROWS.items()}
    choices = {row: folders(words) for row, words in experiments.CHOICES.items()}
    for row in ("g alone", "g-hat alone", "exponent 1/2", "exponent 1/3", "arithmetic"):
        assert rows[row] == rows["full"]                                                  # the same trained model
    own = [row for row, words in experiments.ROWS.items()
           if not any(word.startswith("eval.") for word in words) and row != "cam"]
    assert len({rows[row][0] for row in own}) == len(own)
    for row in ("max_size", "max_score", "image", "softmax"):
        assert rows[row][1] == rows["full"][1]                                            # the same stage I
    # g, g-hat alone
    assert (all(choices[row][1] == rows["full"][1] for row in choices if row in list(choices)[:11])
            and len({c[0] for c in choices.values()}) == len(choices) - 2)
    assert len({choices[row][1] for row in choices if row.startswith("level")}) == 4
    for _, row, other, keys in experiments.CLAIMS:
        assert ({row, other} <= set(experiments.ROWS)
                and all(key.removesuffix("_base").removesuffix("_novel") in experiments.KEYS for key in keys))


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
    monkeypatch.setattr(experiments, "BASE", base)
    monkeypatch.setattr(experiments, "ROOT", tmp_path)
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

    monkeypatch.setattr(experiments, "script", script)
    rows = {row: experiments.ROWS[row] for row in ("full", "no_reform", "no_stage1", "det_only", "cam", "g alone")}
    experiments.run_rows("tiny40", rows, [0], base)
    figures = {line["row"]: line["figures"] for line in experiments.read_results("tiny40")}
    assert list(figures) == list(rows) and ran.count("train_stage1.py") == 5 and ran.count("evaluate.py") == 5
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
    monkeypatch.setattr(experiments, "script", lambda name, words: None)
    with pytest.raises(InputError, match="stage1.pt: 1 of 2 steps"):
        experiments.finish([*base, "seed=0"])
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

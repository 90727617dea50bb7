"""Whole commands on a ten-image world: stage I -> II -> evaluate, on one process and on two; continuing; errors."""
import json

import numpy as np
import pytest
import torch

from s21k.data.augment_stage1 import TrainAugment
from s21k.data.classification import ClassificationData
from s21k.data.loaders import LabelStream
from s21k.files import image_files
from s21k.models.detector import Detector
from tests.toy import run, words, write_toy


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A toy run on one process, all three scripts."""
    root = write_toy(tmp_path_factory.mktemp("world"))
    for script in ("train_stage1.py", "train_stage2.py", "evaluate.py"):
        done = run(script, *words(root))
        assert done.returncode == 0, done.stderr[-3000:]
    return root


def model_of(path):
    return torch.load(path, weights_only=True)["model"]


def test_the_three_scripts_leave_what_the_readme_says(trained):
    folder = trained / "run"
    for name in ("config.yaml", "stage1.pt", "stage2.pt", "log.jsonl", "curves.svg", "metrics.json",
                 "detections.json", "detections.npz", "pictures/contact_sheet.png"):
        assert (folder / name).exists(), name
    results = json.loads((folder / "metrics.json").read_text())
    for key in ("top1", "top5", "top5_classes", "gt_known", "top1_base", "gt_known_novel", "AP", "AP50_novel",
                "gt_known_whole_image"):
        assert key in results
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert any("val_top1" in line for line in lines)
    curves = (folder / "curves.svg").read_text()
    assert "Stage II: 4 of 4 steps" in curves and "val_top1" in curves
    last = lines[-1]
    assert (last["step"] == last["of"] == 4
            and {"rpn_objectness", "rpn_box", "region_score", "region_box", "image_category"} <= last.keys())
    for row in json.loads((folder / "detections.json").read_text()):
        assert row.keys() == {"image_id", "category_id", "bbox", "score"}


def test_the_encoder_of_stage_one_is_where_stage_two_started(trained, tmp_path):
    """P5, P1: with a learning rate of zero stage II's encoder is stage I's, bit for bit."""
    done = run("train_stage2.py",
               *words(trained, f"output_dir={tmp_path}", f"stage2.init={trained / 'run' / 'stage1.pt'}", "stage2.lr=0"))
    assert done.returncode == 0, done.stderr[-2000:]
    one, two = model_of(trained / "run" / "stage1.pt"), model_of(tmp_path / "stage2.pt")
    assert all(torch.equal(value, two[key]) for key, value in one.items() if key.startswith("encoder."))
    assert torch.equal(one["cls_classifier.weight"], two["box_head.cls_classifier.weight"])


def test_two_processes_train_both_stages_and_one_evaluates_them(trained, tmp_path):
    """Several that evaluate: tests/test_processes.py."""
    for script in ("train_stage1.py", "train_stage2.py"):
        done = run(script, *words(trained, f"output_dir={tmp_path}"), processes=2)
        assert done.returncode == 0, done.stderr[-3000:]
    done = run("evaluate.py", *words(trained, f"output_dir={tmp_path}"))
    assert done.returncode == 0 and json.loads(
        (tmp_path / "metrics.json").read_text())["images"] == 8, done.stderr[-3000:]


def test_the_benchmarks_report_is_printed_with_its_protocol(trained, tmp_path):
    done = run("evaluate.py", *words(trained, "eval.metrics=[in21k]", f"output_dir={tmp_path}",
                                     f"eval.checkpoint={trained / 'run' / 'stage2.pt'}"))
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.index("lower bound") < done.stdout.index("AP50_fed") and "truncated_images" in done.stdout
    results = json.loads((tmp_path / "metrics.json").read_text())
    before = json.loads((trained / "run" / "metrics.json").read_text())
    for key in ("top1", "top5", "top5_classes", "gt_known", "AP", "AP50", "AP50_novel", "gt_known_novel",
                "gt_known_whole_image"):
        # 20 regions x 4 categories: 100 detections cut nothing off here
        assert results[key] == pytest.approx(before[key], abs=1e-12)
    assert results["AP50_fed"] >= results["AP50"]


def test_masks_are_trained_written_and_scored(trained, tmp_path):
    """Mask R-CNN's head beside the others; the written masks score as the command says, from .npz to the last bit."""
    more = ("model.with_masks=true", "eval.metrics=[box_ap,mask_ap]", f"output_dir={tmp_path}",
            f"stage2.init={trained / 'run' / 'stage1.pt'}")
    for script in ("train_stage2.py", "evaluate.py"):
        done = run(script, *words(trained, *more))
        assert done.returncode == 0, done.stderr[-3000:]
    assert "mask" in json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    results = json.loads((tmp_path / "metrics.json").read_text())
    for name in ("detections.npz", "detections.json"):
        done = run("s21k.evaluation.score", "--metric", "coco", "--iou-type", "segm", "--annotations",
                   str(trained / "shapes" / "val.json"),
                   "--detections", str(tmp_path / name), "--out", str(tmp_path / "m.json"), module=True)
        assert done.returncode == 0, done.stderr
        again = json.loads((tmp_path / "m.json").read_text())
        assert {key: results[f"mask_{key}"] for key in again} == pytest.approx(again, abs=1e-12)
    done = run("s21k.predict", *words(trained, *more), str(trained / "shapes" / "val"), "--threshold", "0", module=True)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "predictions" / "detections.json").read_text())
    assert rows and all(row["segmentation"].keys() == {"size", "counts"} for row in rows)
    # nothing is found: that scores, too
    done = run("evaluate.py", *words(trained, *more, "eval.threshold=1"))
    assert done.returncode == 0, done.stderr
    for name in ("detections.npz", "detections.json"):
        done = run("s21k.evaluation.score", "--metric", "coco", "--iou-type", "segm", "--annotations",
                   str(trained / "shapes" / "val.json"),
                   "--detections", str(tmp_path / name), "--out", str(tmp_path / "m.json"), module=True)
        assert done.returncode == 0 and json.loads((tmp_path / "m.json").read_text())["AP"] == 0, done.stderr
    refused = run("evaluate.py", *words(trained, "eval.metrics=[in21k,box_ap]"))
    assert refused.returncode == 2 and "without localization and box_ap" in refused.stderr
    refused = run("evaluate.py", *words(trained, "eval.metrics=[mask_ap]"))
    assert refused.returncode == 2 and "model.with_masks" in refused.stderr


@pytest.mark.parametrize("script, stop", [("train_stage1.py", None), ("train_stage2.py", 2)])
def test_a_stopped_and_restarted_run_ends_with_the_weights_of_an_unbroken_one(trained, tmp_path, script, stop):
    """T12, G32: bit for bit. The first part is a run whose checkpoint is set back to an earlier step."""
    name = "stage1.pt" if "1" in script else "stage2.pt"
    more = [f"output_dir={tmp_path}", f"stage2.init={trained / 'run' / 'stage1.pt'}", "stage1.save_every=1",
            "stage2.save_every=1"]
    assert run(script, *words(trained, *more)).returncode == 0
    unbroken = model_of(tmp_path / name)
    previous = tmp_path / name.replace(".pt", ".previous.pt")
    (tmp_path / name).unlink()                                                # as if killed before the last save
    assert torch.load(previous, weights_only=True)["step"] == torch.load(trained / "run" / name,
                                                                         weights_only=True)["step"] - 1
    done = run(script, *words(trained, *more))
    assert done.returncode == 0 and "continuing" in done.stdout
    restarted = model_of(tmp_path / name)
    assert unbroken.keys() == restarted.keys() and all(torch.equal(unbroken[k], restarted[k]) for k in unbroken)


def test_the_script_itself_feeds_three_labelled_images_for_each_with_boxes(tmp_path, monkeypatch):
    """P57."""
    root, seen, forward = write_toy(tmp_path), [], Detector.forward
    monkeypatch.setattr(Detector, "forward", lambda self, det,
                        cls: seen.append((len(det), len(cls))) or forward(self, det, cls))
    for parts in (1, 2):
        done = run("train_stage2.py", *words(root, "no_stage1", "stage2.iterations=2", f"stage2.accumulate={parts}",
                                             f"output_dir={tmp_path / str(parts)}"))
        assert done.returncode == 0, done.stderr[-2000:]
    assert seen == [(2, 6)] * 2 + [(1, 3)] * 4


def test_lambda_weighs_the_loss_of_labelled_images_and_no_other(tmp_path):
    """P61, G4: at zero, without decay, g-hat stays as it was drawn while g learns."""
    root, states = write_toy(tmp_path), []
    for steps in (1, 3):
        done = run("train_stage2.py", *words(root, "no_stage1", "stage2.image_loss_weight=0", "stage2.weight_decay=0",
                                             f"stage2.iterations={steps}", f"output_dir={tmp_path / str(steps)}"))
        assert done.returncode == 0, done.stderr[-2000:]
        states.append(model_of(tmp_path / str(steps) / "stage2.pt"))
    same = {part: torch.equal(*(state[f"box_head.{part}.weight"] for state in states))
            for part in ("cls_classifier", "det_classifier", "foreground")}
    assert same == {"cls_classifier": True, "det_classifier": False, "foreground": False}


def test_accumulation_keeps_the_order_of_images(trained, tmp_path):
    """G19: a step in two parts sees the same images; with group norm its loss is the same mean."""
    done = run("train_stage2.py", *words(trained, f"output_dir={tmp_path}",
                                         f"stage2.init={trained / 'run' / 'stage1.pt'}", "stage2.accumulate=2"))
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "stage2.pt").exists()


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_mixed_precision_trains_and_stays_near_full_precision(trained, tmp_path, amp):
    """G21: fp16 with its scaler; the first step's losses agree to a few per cent."""
    first = []
    for mode in ("off", amp):
        more = [f"output_dir={tmp_path / mode}", f"stage2.init={trained / 'run' / 'stage1.pt'}", f"amp={mode}",
                "stage2.iterations=2"]
        done = run("train_stage2.py", *words(trained, *more))
        assert done.returncode == 0, done.stderr[-2000:]
        first.append(json.loads((tmp_path / mode / "log.jsonl").read_text().splitlines()[0]))
    for name in ("rpn_objectness", "region_score", "image_category"):
        assert first[0][name] == pytest.approx(first[1][name], rel=0.05), name


def test_public_weights_start_either_stage_and_the_load_is_reported(trained, tmp_path):
    import torchvision
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "public.pt")
    more = ["model.norm=frozen_bn", f"output_dir={tmp_path / 'run'}"]
    for script, key in (("train_stage1.py", "stage1.init"), ("train_stage2.py", "stage2.init")):
        done = run(script, *words(trained, "model.backbone=resnet18", *more, f"{key}={tmp_path / 'public.pt'}"))
        assert done.returncode == 0, done.stderr
        assert "ResNet weights: " in done.stdout and "100.0 % of the backbone's parameters" in done.stdout


def copied(trained, tmp_path):
    import shutil
    shutil.copytree(trained / "shapes", tmp_path / "world" / "shapes")
    return tmp_path / "world"


def test_data_that_cannot_be_read_at_all_is_one_line_even_from_a_loader_process(trained, tmp_path, monkeypatch):
    """At the start where the first images are like that; later where only the others are (here: none is tried at the
    start)."""
    world = copied(trained, tmp_path)
    for path in (world / "shapes" / "cls_train").rglob("*.jpg"):
        path.write_bytes(b"no image")
    done = run("train_stage1.py", *words(world))
    assert (
        done.returncode == 2
        and "data.cls.train: none of 7 images tried can be used; the first: " in done.stderr
        and done.stderr.count("\n") == 1
    )
    monkeypatch.setattr(image_files, "SAMPLE", 0)
    done = run("train_stage1.py", *words(world, "data.workers=1"))
    assert (done.returncode == 2 and "10 images of the stage1 data in a row cannot be read" in done.stderr
            and "Traceback" not in done.stderr)


def test_a_picture_that_went_bad_gives_its_place_to_another_with_that_ones_label(trained, tmp_path):
    """Of both streams; named in the log once; the run ends as any other. A validation image counts as wrong."""
    world = copied(trained, tmp_path)
    bad = [sorted((world / "shapes" / "cls_train").rglob("*.jpg"))[5], world / "shapes" / "det_train" / "000002.jpg",
           world / "shapes" / "val" / "000003.jpg"]
    for path in bad:
        path.write_bytes(path.read_bytes()[:400])
    for script in ("train_stage1.py", "train_stage2.py"):
        done = run(script, *words(world))
        assert done.returncode == 0, done.stderr[-2000:]
    lines = [json.loads(line) for line in (world / "run" / "log.jsonl").read_text().splitlines()]
    named = [(line["stage"], line["unreadable"]) for line in lines if "unreadable" in line]
    assert sorted({stage for stage, _ in named}) == ["stage1", "stage2"] and len(named) == len(set(named)) == 3
    assert all(any(str(path) in text for path in bad[:2]) for _, text in named)
    done = run("train_stage1.py", *words(world, "stage1.epochs=2", f"output_dir={world / 'longer'}"))
    assert done.returncode == 0 and "1 validation images cannot be read and count as wrong" in done.stdout
    data = ClassificationData(world / "shapes" / "cls_train")
    stream = LabelStream(data, "stage1", 0, TrainAugment(32, (0.5, 1.0), 0.0, False, 0.0))
    samples = [stream[position, 5] for position in range(20)]
    others = {sample.image_id for sample in samples}
    assert 5 not in others and len(others) > 3 and all(1 <= len(sample.faults) < 5 for sample in samples)
    assert all(int(sample.target.labels[0]) == data.labels[sample.image_id] for sample in samples)
    assert [sample.image_id for sample in samples] == [stream[position, 5].image_id for position in range(20)]


@pytest.mark.parametrize("ablation", ["no_stage1", "det_only", "no_reform"])
def test_the_ablations_run(trained, tmp_path, ablation):
    """P95."""
    scripts = ["train_stage2.py"] if ablation != "no_reform" else ["train_stage1.py", "train_stage2.py"]
    more = [ablation, f"output_dir={tmp_path}"]
    if ablation == "det_only":
        more.append(f"parent_dir={trained / 'run'}")
    for script in scripts:
        done = run(script, *words(trained, *more))
        assert done.returncode == 0, done.stderr[-2000:]
    state = model_of(tmp_path / "stage2.pt")
    stage1 = model_of(trained / "run" / "stage1.pt")
    kept = torch.equal(state["box_head.cls_classifier.weight"], stage1["cls_classifier.weight"])
    assert kept == (ablation == "det_only")                                   # g-hat untouched there, and only there


@pytest.mark.parametrize("bad, says", [
    (["toyy"], "did you mean 'toy'"), (["toy", "stage2.lrr=1"], "unknown key stage2.lrr"),
    (["toy", "stage2.lr=fast"], "stage2.lr: expected float"),
    (["toy", "amp=bf17"], "none of auto, off, bf16, fp16"), (["toy", "data.root=nowhere"], "nowhere"),
    ([], "no word given"),
    (["toy", "stage2.accumulate=3"], "do not divide"),
    (["toy", "no_stage1", "stage2.copy_fpn_output=p2"], "no stage I has trained")])
def test_a_wrong_word_is_one_line_and_exit_2(bad, says, tmp_path):
    done = run("train_stage2.py", *bad, *([f"output_dir={tmp_path}"] if bad else []))
    assert (done.returncode == 2 and says in done.stderr and done.stderr.count("\n") == 1
            and "Traceback" not in done.stderr)


def test_frozen_norms_without_weights_are_refused(trained, tmp_path):
    """G17."""
    done = run("train_stage2.py", *words(trained, "no_stage1", "model.norm=frozen_bn", f"output_dir={tmp_path}"))
    assert done.returncode == 2 and "frozen BN cannot train random weights" in done.stderr


def test_the_output_layer_that_stage1_trained_can_be_copied(trained, tmp_path):
    """G15."""
    own = words(trained, f"output_dir={tmp_path}", f"stage2.init={trained / 'run' / 'stage1.pt'}",
                "stage2.copy_fpn_output=p2", "stage2.lr=0")
    assert ("no FPN is taken" in run("train_stage2.py", *own, "stage2.inherit=backbone").stderr
            and run("train_stage2.py", *own).returncode == 0)
    wanted = model_of(trained / "run" / "stage1.pt")["encoder.fpn.output.0.weight"]
    assert all(torch.equal(model_of(tmp_path / "stage2.pt")[f"encoder.fpn.output.{i}.weight"], wanted)
               for i in range(4))


def test_a_detector_is_not_evaluated_with_another_model_than_it_was_trained_with(trained):
    done = run("evaluate.py", *words(trained, "model.anchor_scale=7"))
    assert done.returncode == 2 and "trained with model.anchor_scale=4.0, the configuration says 7.0" in done.stderr


def test_scores_do_not_depend_on_the_evaluation_batch(trained, tmp_path):
    """Images of different sizes, group norm: each is padded as if it were alone."""
    found = []
    for size in (1, 5):
        folder = tmp_path / str(size)
        done = run("evaluate.py", *words(trained, f"output_dir={folder}",
                                         f"eval.checkpoint={trained / 'run' / 'stage2.pt'}", f"eval.batch={size}"))
        assert done.returncode == 0, done.stderr[-2000:]
        found.append(np.load(folder / "detections.npz", allow_pickle=False))
    assert np.array_equal(found[0]["category_id"], found[1]["category_id"])
    assert (np.abs(found[0]["score"] - found[1]["score"]).max() < 1e-5
            and np.abs(found[0]["bbox"] - found[1]["bbox"]).max() < 1e-2)


def test_a_picture_that_cannot_be_read_counts_with_no_detections(trained, tmp_path):
    """Evaluation goes on to its end, says so, and everything on that image is missed."""
    world = copied(trained, tmp_path)
    (world / "shapes" / "val" / "000003.jpg").write_bytes(b"no image")
    more = [f"output_dir={world / 'run'}", f"eval.checkpoint={trained / 'run' / 'stage2.pt'}", "eval.pictures=0"]
    done = run("evaluate.py", *words(world, *more))
    assert done.returncode == 0, done.stderr
    assert "1 images cannot be read and count with no detections; the first: " in done.stdout
    assert (3 not in np.load(world / "run" / "detections.npz")["image_id"]
            and json.loads((world / "run" / "metrics.json").read_text())["images"] == 8)


def test_another_configuration_in_the_same_folder_is_refused(trained):
    before = (trained / "run" / "config.yaml").read_text()
    done = run("train_stage2.py", *words(trained, "stage2.lr=0.123"))
    assert done.returncode == 2 and "stage2.lr (0.0005 before, now 0.123)" in done.stderr
    assert (trained / "run" / "config.yaml").read_text() == before


def test_help_works_everywhere():
    for script in ("train_stage1.py", "train_stage2.py", "evaluate.py"):
        assert script in run(script, "--help").stdout
    for module in ("s21k.demo", "s21k.predict", "s21k.explain", "s21k.audit", "s21k.prepare.shapes",
                   "s21k.prepare.tiny_imagenet", "s21k.prepare.imagenet", "s21k.prepare.imagenet_val",
                   "s21k.prepare.lvis997",
                   "s21k.prepare.objects365", "s21k.prepare.in21k_benchmark", "s21k.prepare.own_data",
                   "s21k.evaluation.score"):
        assert module in run(module, "--help", module=True).stdout


def test_predict_needs_pictures_only(trained, tmp_path):
    pictures = trained / "shapes" / "val"
    done = run("s21k.predict", *words(trained), str(pictures), "--threshold", "0", "--out", str(tmp_path), module=True)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = json.loads((tmp_path / "detections.json").read_text())
    assert (len(list(tmp_path.glob("000?-*.png"))) == 8 and rows
            and {"file", "category", "wnid", "score", "bbox"} == rows[0].keys())
    name = rows[0]["category"]
    done = run("s21k.predict", *words(trained), str(pictures), "--threshold", "0", "--categories", name, "--out",
               str(tmp_path), module=True)
    assert {row["category"] for row in json.loads((tmp_path / "detections.json").read_text())} == {name}
    done = run("s21k.predict", *words(trained), str(pictures), "--categories", "unicorn", module=True)
    assert done.returncode == 2 and "'unicorn' is none of the 4 categories" in done.stderr

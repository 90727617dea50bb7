"""The paper's setups from end to end, as the README says, on miniatures in the formats of the real distributions: the
paper's own YAML files, and sizes."""
import json
import re
import shutil

import numpy as np
import pytest
import torch
import torchvision

from s21k.core.categories import CategoryMap
from s21k.files.annotations import load_annotations
from s21k.files.archives import ImageIndex
from s21k.models.backbones import BACKBONES
from s21k.plan import forward_flops
from tests.toy import run

SIZES = ["model.fpn_channels=16", "model.region_dim=32", "model.regions_per_image=16", "model.rpn_batch=32",
         "model.rpn_pre_nms=[50,50]",
         "model.rpn_proposals=[20,20]", "stage1.batch=4", "stage1.epochs=0.05", "stage1.warmup_epochs=0",
         "stage1.size=64", "stage2.size=96",
         "stage2.det_batch=2", "stage2.iterations=2", "stage2.warmup=1", "data.workers=0", "eval.resize=[96,128]",
         "eval.pictures=1", "amp=off"]


def call(script, *words, module=True):
    done = run(script, *map(str, words), module=module)
    assert done.returncode == 0, f"{script} {words}: {done.stderr[-3000:]}"
    return done.stdout


def stages(root, name, *words, scripts=("train_stage1.py", "train_stage2.py", "evaluate.py")):
    """The scripts with these words and sizes; metrics.json and all that was printed."""
    out = [call(script, *words, *SIZES, f"data.root={root}", f"output_dir={root / name}", module=False)
           for script in scripts]
    return json.loads((root / name / "metrics.json").read_text()) if "evaluate.py" in scripts else {}, "".join(out)


def miniature(tmp_path_factory, form):
    root = tmp_path_factory.mktemp(form) / "data"
    call("s21k.prepare.shapes", "--format", form, "--out", root, "--images-per-category", 26, "--detection-images", 20,
         "--val-per-category", 1, "--size", 64)
    return root


@pytest.fixture(scope="module")
def lvis(tmp_path_factory):
    root = miniature(tmp_path_factory, "lvis")
    call("s21k.prepare.lvis997", "--train", root / "lvis_v1_train.json", "--val", root / "lvis_v1_val.json",
         "--wordnet", root / "wordnet", "--out", root / "lvis", "--partial")
    call("s21k.prepare.imagenet", root / "imagenet21k_tars", "--wnids", root / "lvis" / "wnids_997.txt", "--out",
         root / "imagenet997" / "train", "--processes", 1)
    return root


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    root = miniature(tmp_path_factory, "imagenet")
    call("s21k.prepare.imagenet", root / "ILSVRC2012_img_train", "--out", root / "imagenet1k" / "train", "--processes",
         1)
    call("s21k.prepare.imagenet_val", "--index", root / "imagenet1k" / "train", "--images", root / "ILSVRC2012_img_val",
         "--boxes", root / "ILSVRC2012_bbox_val_v3",
         "--truth", root / "ILSVRC2012_validation_ground_truth.txt", "--wordnet", root / "wordnet", "--out",
         root / "imagenet1k")
    return root


@pytest.fixture(scope="module")
def objects365(tmp_path_factory):
    root = miniature(tmp_path_factory, "objects365")
    call("s21k.prepare.imagenet", root / "imagenet21k_tars", "--wnids", "imagenet21k", "--out",
         root / "imagenet21k" / "all", "--processes", 1)
    call("s21k.prepare.in21k_benchmark", "--index", root / "imagenet21k" / "all", "--out", root / "imagenet21k")
    call("s21k.prepare.shapes", "--annotate", root / "imagenet21k" / "val_images.json", "--truth",
         root / "imagenet21k_tars_truth.json")
    call("s21k.prepare.objects365", "--train", root / "zhiyuan_objv2_train.json", "--images",
         root / "objects365" / "train", "--wordnet", root / "wordnet", "--out", root / "objects365")
    return root


S1 = ("r50", "s1", "data.det.classes=6", "data.cls.classes=9")
S2 = ("swin_t", "s2", "data.det.classes=6", "data.cls.classes=11")
S3 = ("swin_t", "s3", "data.det.classes=5")


def test_setup_one_gives_mask_ap_of_base_and_novel_categories(lvis):
    """P6, P38, P39, P95. Table 2: "Ours" and both ablations."""
    results, printed = stages(lvis, "ours", *S1)
    for key in ("lvis_mask_AP", "lvis_mask_AP_base", "lvis_mask_AP_novel", "lvis_AP", "lvis_AP_novel", "lvis_mask_APr"):
        assert 0 <= results[key] <= 1, key
    assert results["lvis_mask_AP_novel"] == pytest.approx(results["lvis_mask_APr"])      # novel are the rare ones [P37]
    assert "from" in printed and "random: f, g, box regression, mask head, RPN" in printed
    found = np.load(lvis / "ours" / "detections.npz")
    assert len(found["rle_size"]) == len(found["score"]) and np.bincount(found["image_id"]).max() <= 300
    known = {c["id"] for c in json.loads((lvis / "lvis_v1_val.json").read_text())["categories"]
             if c["name"] != "stop_sign"}
    # LVIS's own ids; no category beside the 997 [E34]
    assert set(found["category_id"].tolist()) <= known
    _, printed = stages(lvis, "no_reform", *S1, "no_reform")
    assert "stage1.pt: backbone; random: f, g, box regression, mask head, FPN, RoI head" in printed
    results, _ = stages(lvis, "no_stage1", *S1, "no_stage1", "model.norm=sync_bn",
                        scripts=("train_stage2.py", "evaluate.py"))
    assert "lvis_mask_AP_novel" in results


def test_setup_two_evaluates_the_labels_classifier_alone(imagenet):
    """P7, P40, P95. Table 3: localization by g-hat [P41, P42]; "-reform.", too."""
    results, printed = stages(imagenet, "ours", *S2)
    assert ({"top1", "top5", "gt_known", "images"} <= results.keys() and results["images"] == 12
            and "top-1 accuracy" in printed)
    categories = CategoryMap.load(imagenet / "imagenet1k" / "categories.json")
    assert ((categories.det_index == -1).all() and categories.cls_index.tolist() == list(range(11))
            and categories.names[0].startswith("beetle"))
    stages(imagenet, "no_reform", *S2, "no_reform")
    stages(imagenet, "no_stage1", *S2, "no_stage1", scripts=("train_stage2.py", "evaluate.py"))


def test_setup_three_and_the_three_rows_of_fine_tuning(objects365, lvis):
    """P8, P43, P49, P90, P95. Table 4 at 21,841 categories, and Table 5: what each row inherits is printed."""
    results, _ = stages(objects365, "ours", *S3)
    assert {"AP50", "AP50_fed", "top1", "top5_classes", "gt_known"} <= results.keys()
    assert len(torch.load(objects365 / "ours" / "stage2.pt", weights_only=True)["categories"]["cls"]) == 21841
    _, printed = stages(objects365, "det_only", *S3, "det_only", f"stage2.init={objects365 / 'ours' / 'stage1.pt'}",
                        scripts=("train_stage2.py",))
    assert "and 0 with labels" in printed
    tune = ("swin_t", "lvis_finetune", "data.det.classes=10", "stage2.drop_path=0.2")
    rows = {"IN-21K": ("ours/stage1.pt", "stage2.inherit=backbone",
                       "backbone; random: category layer, box regression, FPN, RoI head, first layer"),
            "IN-21K -> O365": ("det_only/stage2.pt", "stage2.inherit=all", "backbone, FPN, RoI head, first layer, RoI "
                               "head, second layer, RPN; random: category layer, box regression"),
            "Ours": ("ours/stage2.pt", "stage2.inherit=all", "backbone, FPN, RoI head, first layer, RoI head, second "
                     "layer, RPN; random: category layer, box regression")}
    for row, (start, how, says) in rows.items():
        shutil.rmtree(lvis / "tuned", ignore_errors=True)
        results, printed = stages(lvis, "tuned", *tune, f"stage2.init={objects365 / start}", how,
                                  scripts=("train_stage2.py", "evaluate.py"))
        assert says in printed, (row, printed)
        assert {"lvis_AP", "lvis_APr", "lvis_APc", "lvis_APf"} <= results.keys()


def test_the_lvis_tables_are_the_files_without_what_is_not_for_training(lvis):
    """P38, G6: annotations of novel and unmatched categories go, images stay; against a plain filter of the JSON."""
    raw = json.loads((lvis / "lvis_v1_train.json").read_text())
    base = {c["id"]: c["name"] for c in raw["categories"] if c["frequency"] in "cf" and c["name"] != "stop_sign"}
    table = load_annotations(lvis / "lvis" / "base_train", masks=True)
    assert len(table.image_ids) == len(raw["images"]) == 20 and table.category_names == [base[i] for i in sorted(base)]
    expected = [(a["image_id"], a["category_id"], a["bbox"]) for a in raw["annotations"] if a["category_id"] in base]
    assert list(zip(table.image_ids[table.image_index].tolist(), table.category_ids[table.category_index].tolist(),
                    table.boxes.tolist())) == expected
    assert len(table.masks) == len(expected) < len(raw["annotations"]) and table.file_names[0].startswith("train2017/")
    categories = CategoryMap.load(lvis / "lvis" / "categories_997.json")
    assert categories.groups.count("base") == 6 and categories.groups.count("novel") == 3
    classes = ImageIndex.load(lvis / "imagenet997" / "train").class_names
    for name, wnid, group, det, cls in zip(categories.names, categories.wnids, categories.groups,
                                           categories.det_index.tolist(), categories.cls_index.tolist()):
        assert (classes[cls] == wnid and (det >= 0) == (group == "base")
                and (det < 0 or table.category_names[det] == name))


def test_a_permuted_category_list_is_refused(lvis):
    """The rows of a checkpoint mean what they meant: at continuing, inheriting and evaluating."""
    path = lvis / "ours" / "stage2.pt"
    content = torch.load(path, weights_only=True)
    for part in ("det", "cls"):
        names = content["categories"][part]
        changed = content | {"categories": content["categories"] | {part: [names[1], names[0], *names[2:]]}}
        torch.save(changed, lvis / "permuted.pt")
        done = run("evaluate.py", *S1, *SIZES, f"data.root={lvis}", f"output_dir={lvis / 'permuted'}",
                   f"eval.checkpoint={lvis / 'permuted.pt'}")
        assert done.returncode == 2 and f"{part} row" in done.stderr, done.stderr
        (lvis / "again").mkdir(exist_ok=True)
        shutil.copy(lvis / "permuted.pt", lvis / "again" / "stage2.pt")
        done = run("train_stage2.py", *S1, *SIZES, f"data.root={lvis}", f"output_dir={lvis / 'again'}",
                   "stage2.iterations=2")
        assert done.returncode == 2 and f"row 0 of its {part} classifier" in done.stderr, done.stderr
    done = run("train_stage2.py", *S1, *SIZES, f"data.root={lvis}", f"output_dir={lvis / 'other'}",
               f"stage2.init={lvis / 'permuted.pt'}")
    assert done.returncode == 2 and "row 0 of its cls classifier" in done.stderr


@pytest.mark.parametrize("words, says", [
    (("swin_b", "s3"), ["270000 of 16 + 48 images", "4.32 M images (2.48 epochs of 1742289)",
                        "12.96 M images (0.91 epochs of 14197122)", "x 0.1 at 210000, 250000", "g-hat 22.39 M"]),
    (("r50", "s2"), ["4.32 M images (36.52 epochs of 118287)", "12.96 M images (10.12 epochs of 1281167)",
                     "80 categories", "1000 categories"]),
    (("r50", "s1"), ["270000 of 16 + 48 images", "4.32 M images (43.13 epochs of 100170)", "masks", "lambda 0.1",
                     "weight decay 0.05"]),
    (("swin_b", "lvis_finetune", "stage2.init=x.pt"),
     ["150255 of 16 + 0 images", "(24.00 epochs", "AdamW 0.0001", "100170, 137734", "softmax head"])])
def test_the_plan_of_stage_two_follows_from_the_paper(words, says, tmp_path):
    """P40, P43, P57 to P61, P90, G18 to G20; nothing is on disk and nothing is written."""
    out = call("train_stage2.py", *words, "--plan", f"data.root={tmp_path}", f"output_dir={tmp_path / 'run'}",
               module=False)
    for text in [*says, f"missing:              data.det.annotations: {tmp_path}"]:
        assert text in out, (text, out)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name, weights", [("resnet50", torchvision.models.ResNet50_Weights), (
    "swin_t", torchvision.models.Swin_T_Weights), ("swin_b", torchvision.models.Swin_B_Weights)])
def test_the_plan_counts_the_operations_that_torchvision_publishes(name, weights):
    """Theirs are multiply-adds in 1e9, of backbone and classifier together."""
    with torch.device("meta"):
        backbone = BACKBONES[name]()
        classifier = torch.nn.Linear(backbone.channels[-1], 1000)
    counted = forward_flops((backbone, (1, 3, 224, 224)), (classifier, (1, backbone.channels[-1])))
    assert counted / 2e9 == pytest.approx(weights.DEFAULT.meta["_ops"], abs=0.001)


def test_the_plan_counts_every_part_of_a_detectors_step(tmp_path):
    """An image with boxes costs more than one with a label by the RPN, 512 regions and their g, and masks of 128 of
    them: by hand, 3 forwards of 2 operations."""
    def plan(*words):
        out = call("train_stage2.py", "r50", "s1", *words, "--plan", f"data.root={tmp_path}", module=False)
        return [float(value) for value in re.findall(r"([0-9.]+) GFLOPs an image", out)]

    (with_masks, label), (without, _) = plan(), plan("model.with_masks=false")
    masks = 128 * (4 * 14 * 14 * 256 * 256 * 9 + 14 * 14 * 256 * 256 * 4 + 28 * 28 * 256)
    places = sum((1024 // stride) ** 2 for stride in (4, 8, 16, 32, 64))
    rpn = places * (256 * 256 * 9 + 256 * 3 + 256 * 12)
    head = [512 * (256 * 49 * 1024 + 1024 * 1024 + 1024 * 720), 256 * 49 * 1024 + 1024 * 1024 + 1024 * 997]
    assert with_masks - without == pytest.approx(6e-9 * masks, abs=0.11)
    # of the FPN a labelled image needs P5 alone: one lateral and one output convolution
    finer = sum((1024 // stride) ** 2 * 256 * (256 * stride // 4 + 256 * 9) for stride in (4, 8, 16))
    assert without - label == pytest.approx(6e-9 * (rpn + finer + head[0] - head[1]), abs=0.11)


def test_the_plans_hours_follow_from_its_operations(tmp_path):
    """Of "-reform.", where no FPN is in the way: 100 epochs of batches of 256, three forwards each, at 40 TFLOP/s;
    g-hat knows 1000 classes."""
    out = call("train_stage1.py", "r50", "s2", "no_reform", "--plan", f"data.root={tmp_path}", module=False)
    each = 3 * 2 * torchvision.models.ResNet50_Weights.DEFAULT.meta["_ops"]                  # 24.5 GFLOPs
    total = each * 1e9 * 256 * round(100 * (1281167 // 256))
    work = f"{total / 1e18:.1f} EFLOPs in all, {total / 4e13 / 3600:.0f} GPU-hours at 40 TFLOP/s"
    assert f"work:                 {each:.1f} GFLOPs an image with a label: {work}" in out


def test_the_plan_counts_what_is_there(lvis):
    out = call("train_stage2.py", *S1, *SIZES, "--plan", f"data.root={lvis}", f"output_dir={lvis / 'planned'}",
               f"stage2.init={lvis / 'ours' / 'stage1.pt'}", module=False)
    assert ("20 images, 6 categories (whole: 100170)" in out and "191 images, 9 categories" in out
            and "missing:              nothing" in out)
    assert "RoI head, second layer, g-hat; random: f, g, box regression, mask head, RPN" in out
    out = call("train_stage1.py", *S1, *SIZES, "--plan", f"data.root={lvis}", module=False)
    assert "191 images" in out and "P2 100 %" in out
    out = call("evaluate.py", *S1, *SIZES, "--plan", f"data.root={lvis}", f"output_dir={lvis / 'ours'}", module=False)
    assert ("9: 6 known to g and g-hat (Eq. 5), 0 to g alone, 3 to g-hat alone" in out
            and "missing:              nothing" in out)

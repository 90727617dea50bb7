"""Schedules, parameter groups, checkpoints, configuration."""
import json
import os
import pickle
import signal
import types
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from s21k.core.config import load_config, save_config, training_difference
from s21k.core.distributed import World
from s21k.core.errors import InputError, TrainingFault
from s21k.core.words import CONFIG_FOLDER
from s21k.models.classifier import build_classifier
from s21k.models.swin import swin_t
from s21k.training.checkpoint import check_categories, latest, read, save
from s21k.training.log import Log
from s21k.training.optim import build_optimizer, parameter_groups
from s21k.training.schedule import warmup_cosine, warmup_steps
from s21k.training.step_monitor import StepMonitor
from tests.toy import SMALL, batch, run, write_toy
from tests.toy import words as toy_words

ROOT = Path(__file__).resolve().parent.parent


def test_cosine_rises_linearly_and_falls_to_its_end():
    """P50."""
    assert warmup_cosine(0, 100, 10, 1.0) == pytest.approx(0.001)
    assert warmup_cosine(5, 100, 10, 1.0) == pytest.approx(0.5005)
    assert warmup_cosine(10, 100, 10, 1.0) == 1.0 and warmup_cosine(55, 100, 10, 1.0) == pytest.approx(0.5)
    assert warmup_cosine(100, 100, 10, 1.0, 0.1) == pytest.approx(0.1)


def test_cosine_equals_torchs_after_the_warm_up():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 50, eta_min=0.01)
    for step in range(50):
        assert warmup_cosine(step, 50, 0, 0.3, 0.01) == pytest.approx(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step()


def microsofts(t, epochs, warmup_epochs, base_lr, warmup_lr, min_lr, images=1281167, batch=1024):
    """The rate at update t as Swin's published training code computes it: every rate times batch / 512, linear up, then
    timm's cosine over the steps that are left."""
    per_epoch = images // batch
    steps, warmup = epochs * per_epoch, warmup_epochs * per_epoch
    base, first, last = (rate * batch / 512.0 for rate in (base_lr, warmup_lr, min_lr))
    if t < warmup:
        return first + t * (base - first) / warmup
    return last + 0.5 * (base - last) * (1 + np.cos(np.pi * (t - warmup) / (steps - warmup)))


@pytest.mark.parametrize("words, images, published", [
    (["swin_t", "s2"], 1281167, (300, 20, 5e-4, 5e-7, 5e-6)),
    (["swin_b", "s3"], 14197122, (100, 5, 1.25e-4, 1.25e-7, 1.25e-6))])
def test_swins_rates_are_microsofts_at_every_step(words, images, published):
    """P52, P53, G24: the numbers of their configuration files, at 1,024 images; to 1e-12."""
    cfg = load_config(words)
    s, per_epoch = cfg.stage1, images // cfg.stage1.batch
    assert cfg.data.cls.expected == images
    total, warmup = round(s.epochs * per_epoch), round(s.warmup_epochs * per_epoch)
    base, last = s.rate(s.lr), s.rate(s.min_lr)
    ours = np.array([warmup_cosine(t, total, warmup, base, last) for t in range(total)])
    theirs = np.array([microsofts(t, *published, images=images) for t in range(total)])
    assert np.abs(ours - theirs).max() < 1e-12
    assert (ours[0], ours.max(), ours[-1]) == pytest.approx((base / 1000, base, last), rel=1e-6)


def test_steps_fall_tenfold_at_each_milestone():
    """G20, G21."""
    assert warmup_steps(0, 1.0, 10, [50, 80]) == pytest.approx(0.001)
    assert [warmup_steps(s, 1.0, 10, [50, 80]) for s in (10, 49, 50, 79, 80)] == pytest.approx([1, 1, 0.1, 0.1, 0.01])


def test_norms_biases_and_position_tables_are_not_decayed():
    """G18."""
    model = swin_t()
    decayed, plain = parameter_groups(model, 0.05)
    assert decayed["weight_decay"] == 0.05 and plain["weight_decay"] == 0
    names = {id(p): n for n, p in model.named_parameters()}
    assert len(decayed["params"]) + len(plain["params"]) == len(names)
    assert all(n.endswith((".bias", "relative_position_bias_table")) or "norm" in n
               for n in (names[id(p)] for p in plain["params"]))
    assert all("norm" not in names[id(p)] and p.ndim > 1 for p in decayed["params"])
    assert sum(names[id(p)].endswith("position_bias_table") for p in plain["params"]) == 12        # one in each block


def test_under_sgd_everything_is_decayed():
    """P50, as He et al. [17]: a step on zero gradients shrinks every parameter of stage I alike, norms and biases,
    too."""
    config = load_config(["r18", "tiny", "stage1.optimizer=sgd", "model.norm=frozen_bn"])
    model = build_classifier(config.model, 4, 0.0)
    for parameter in model.parameters():
        torch.nn.init.ones_(parameter)
        parameter.grad = torch.zeros_like(parameter)
    build_optimizer(parameter_groups(model, 0.5, exempt=False), "sgd", 0.1, 0.0).step()
    assert sum(parameter.ndim == 1 for parameter in model.parameters()) > 20
    assert all(torch.allclose(parameter, torch.tensor(0.95)) for parameter in model.parameters())


def test_layers_of_the_fpn_that_no_image_uses_keep_their_start():
    """G15: at 64 px the entire image is pooled from P2; decayed, the others would be lost before stage II."""
    model = build_classifier(load_config(["toy", *SMALL]).model, 4, 0.0)
    before = {name: value.clone() for name, value in model.named_parameters()}
    model(torch.randn(2, 3, 64, 64)).square().sum().backward()
    build_optimizer(parameter_groups(model, 0.5), "adamw", 0.1).step()
    same = {name for name, value in model.named_parameters() if "fpn" in name and torch.equal(value, before[name])}
    assert same == {f"encoder.fpn.output.{i}.{kind}" for i in (1, 2, 3) for kind in ("weight", "bias")}


@pytest.mark.parametrize("optimizer, decays", [("sgd", [0.3, 0.3]), ("adamw", [0.3, 0.0])])
def test_stage_one_exempts_norms_and_biases_under_adamw_only(optimizer, decays, tmp_path):
    """P50, G18: as the script itself saves its optimizer."""
    more = f"stage1.optimizer={optimizer}", "stage1.weight_decay=0.3", "stage1.lr=1e-3"
    done = run("train_stage1.py", *toy_words(write_toy(tmp_path), *more))
    assert done.returncode == 0, done.stderr
    saved = torch.load(tmp_path / "run" / "stage1.pt", weights_only=True)["optimizer"]
    assert [group["weight_decay"] for group in saved["param_groups"]] == decays


def test_a_save_keeps_the_one_before_and_a_cut_write_harms_nothing(tmp_path):
    path = tmp_path / "stage1.pt"
    save(path, {"model": {"a": torch.ones(1)}, "step": 1})
    save(path, {"model": {"a": torch.ones(1)}, "step": 2})
    assert read(path)["step"] == 2 and read(tmp_path / "stage1.previous.pt")["step"] == 1
    path.unlink()                                                             # between the two renamings
    assert read(latest(path))["step"] == 1
    (tmp_path / "stage1.writing").write_bytes(b"half")
    assert latest(path).name == "stage1.previous.pt"


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "harm",))
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Evil()))
    torch.save({"model": Evil()}, tmp_path / "evil2.pt")
    (tmp_path / "cut.pt").write_bytes(b"PK\x03\x04 cut")
    for name in ("evil.pt", "evil2.pt", "cut.pt", "missing.pt"):
        with pytest.raises(InputError, match=name):
            read(tmp_path / name)
    assert not (tmp_path / "harm").exists()


def test_a_permuted_category_list_is_refused_with_the_first_difference(tmp_path):
    with pytest.raises(InputError, match="row 1 of its cls classifier is 'b', in the data it is 'c'"):
        check_categories({"cls": ["a", "b", "c"]}, {"cls": ["a", "c", "b"]}, tmp_path)
    with pytest.raises(InputError, match="has 1 categories, the data has 2"):
        check_categories({"det": ["a"]}, {"det": ["a", "b"]}, tmp_path)


@pytest.fixture
def monitor(tmp_path):
    world = World(0, 1, torch.device("cpu"))
    with StepMonitor(world, Log(tmp_path / "log.jsonl", 0, 10, 1, world, "stage2"), max_faults=0.1) as made:
        yield made


def scaler(enabled):
    return types.SimpleNamespace(is_enabled=lambda: enabled)


def test_a_loss_that_is_not_finite_stops_with_the_step_the_losses_and_the_images(monitor):
    assert monitor.check({"a": torch.tensor(1.5)}, [batch(2), None], 3) == {"a": 1.5}
    with pytest.raises(TrainingFault, match=r"step 3.*b nan; images \[\[0, 1\]\]"):
        monitor.check({"a": torch.tensor(1.5), "b": torch.tensor(float("nan"))}, [batch(2), None], 3)


def test_a_gradient_that_is_not_finite_stops_naming_its_own_step_and_images(monitor):
    loss = {"a": torch.tensor(1.5)}
    monitor.check(loss, [batch(3)], 7)
    monitor.gradient(torch.tensor(float("inf")), scaler(False))
    with pytest.raises(TrainingFault, match=r"step 7: the gradient.*\[\[0, 1, 2\]\]"):
        # the next losses are no numbers, either: they follow from it
        monitor.check({"a": torch.tensor(float("nan"))}, [batch(2)], 8)


def test_steps_that_the_scaler_skips_are_counted_once(monitor):
    loss = {"a": torch.tensor(1.5)}
    for step, norm in enumerate([1.0, float("inf"), float("nan"), 1.0]):
        monitor.check(loss, [batch(1)], step)
        monitor.check(loss, [batch(1)], step)                                  # two parts of a step
        monitor.gradient(torch.tensor(norm), scaler(True))
    monitor.check(loss, [batch(1)], 4)
    assert monitor.skipped == 2


def test_unreadable_pictures_are_named_once_and_too_many_stop_the_run(monitor, tmp_path):
    loss, bad = {"a": torch.tensor(1.5)}, batch(10)
    bad.faults = [("x.jpg: cannot be decoded",)] + [()] * 9
    for step in range(30):
        monitor.check(loss, [bad], step)                                       # one of ten: just within the share
    bad.faults = [(f"{i}.jpg: cannot be decoded",) for i in range(5)]
    with pytest.raises(TrainingFault, match="images cannot be read, more than data.max_faults=0.1"):
        for step in range(30, 60):
            monitor.check(loss, [bad], step)
    named = [json.loads(line)["unreadable"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert sorted(named) == sorted({*named}) and "x.jpg: cannot be decoded" in named and len(named) == 6


def test_a_signal_asks_for_a_stop_at_the_next_step(monitor):
    loss = {"a": torch.tensor(1.5)}
    monitor.check(loss, [batch(1)], 0)
    assert not monitor.stop
    os.kill(os.getpid(), signal.SIGUSR1)
    monitor.check(loss, [batch(1)], 1)
    assert monitor.stop


def test_signals_mean_what_they_meant_once_training_is_over_however_it_ends(tmp_path):
    world, before = World(0, 1, torch.device("cpu")), signal.getsignal(signal.SIGTERM)
    with pytest.raises(ValueError), StepMonitor(world, Log(tmp_path / "log.jsonl", 0, 10, 1, world, "stage2"), 0.1):
        assert signal.getsignal(signal.SIGTERM) != before
        child = os.fork()
        if child == 0:
            # a process forked inside ends of it, as any does
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 128 + signal.SIGTERM
        raise ValueError
    assert signal.getsignal(signal.SIGTERM) == before


# --- configuration ---

@pytest.mark.parametrize("words", [["toy"], ["r18", "tiny"], ["r18", "tiny", "no_reform"], ["r18", "tiny", "no_stage1"],
                                   ["r18", "tiny", "det_only"],
                                   ["swin_t", "tiny"], ["swin_s", "tiny"], ["swin_b", "tiny"], ["r50", "tiny"]])
def test_every_sum_of_words_in_the_readme_loads(words):
    cfg = load_config(words)
    assert cfg.output_dir == "runs/" + "-".join(words)


@pytest.mark.parametrize("word, says", [
    ("stage2.milestones=[90000,120000]", "rising shares"), ("stage2.milestones=[0.9,0.5]", "rising shares"),
    ("stage2.milestones=[-3,1]", "rising shares"),
    ("stage1.momentum=-1", "stage1.momentum"), ("stage1.min_lr=-1", "stage1.min_lr"),
    ("stage1.crop_scale=[0.5,3]", "at most 1"), ("eval.threshold=-5", "eval.threshold"),
    ("timeout=0", "timeout"), ("data.max_faults=2", "data.max_faults")])
def test_values_out_of_range_are_refused(word, says):
    with pytest.raises(InputError, match=says):
        load_config(["toy", word])


def test_a_run_from_before_a_key_existed_had_its_default():
    from dataclasses import asdict
    cfg = load_config(["toy"])
    before = asdict(cfg)
    del before["stage2"]["baseline"], before["model"]["head"]
    assert training_difference(cfg, before, "none.") == []
    assert training_difference(load_config(["toy", "stage2.baseline=image"]), before,
                               "none.") == ["stage2.baseline (none before, now image)"]


def test_every_file_is_a_word_and_unknown_keys_are_named():
    for path in CONFIG_FOLDER.glob("*.yaml"):
        load_config([path.stem])
    with pytest.raises(InputError, match="did you mean 'lr'"):
        load_config(["toy", "stage2.lrr=1"])


def test_the_later_word_wins_and_numbers_without_a_point_are_numbers():
    """PyYAML reads 1e-4 as text."""
    cfg = load_config(["toy", "stage2.lr=1e-4", "stage2.lr=3e-4", "stage2.scale=[0.5,2]"])
    assert cfg.stage2.lr == 3e-4 and cfg.stage2.scale == (0.5, 2.0)


def test_folders_are_named_by_words_and_changes_of_training_only():
    plain = load_config(["toy"])
    changed = load_config(["toy", "stage2.lr=1e-3"])
    assert (plain.output_dir == "runs/toy" and changed.output_dir.startswith("runs/toy-")
            and len(changed.output_dir) == len("runs/toy-") + 6)
    assert changed.parent_dir == "runs/toy"                                   # stage I is shared
    assert load_config(["toy", "eval.threshold=0.1", "data.workers=0"]).output_dir == "runs/toy"
    assert (load_config(["toy", "no_stage1"]).parent_dir == "runs/toy"
            and load_config(["toy", "no_reform"]).parent_dir == "runs/toy-no_reform")


def test_the_same_final_values_have_the_same_folder_whatever_their_spelling_or_order():
    a, b, c = (load_config(["toy", *w]).output_dir for w in (["stage2.lr=1e-3"], ["stage2.lr=5e-4", "stage2.lr=0.001"],
                                                             ["stage2.lr=1e-3", "stage2.lr=5e-4"]))
    assert a == b != c


@pytest.mark.parametrize("word", ["stage1.val_crop=0", "stage1.mixup=-1", "eval.pictures=-1", "stage2.drop_path=1.0",
                                  "model.rpn_proposals=[0,0]",
                                  "stage1.label_smoothing=2", "data.cls.classes=0", "eval.fusion_exponent=-1",
                                  "stage2.scale=[2,1]", "seed=-1"])
def test_numbers_out_of_range_are_refused_by_name(word):
    with pytest.raises(InputError, match=word.split("=")[0]):
        load_config(["toy", word])


def test_the_saved_configuration_is_the_same_experiment(tmp_path):
    cfg = load_config(["r18", "tiny", "stage2.lr=1e-3"])
    save_config(cfg, tmp_path / "config.yaml")
    assert load_config([str(tmp_path / "config.yaml")]) == cfg
    before = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert training_difference(cfg, before, "stage1.") == []
    other = load_config(["r18", "tiny", "stage2.lr=1e-3", "stage1.lr=0.5", "data.workers=0"])
    assert training_difference(other, before, "stage1.") == []
    assert training_difference(other, before, "stage2.") == ["stage1.lr (0.0004 before, now 0.5)"]


def test_the_ratio_of_the_two_kinds_of_images_is_one_to_three():
    """P57, and the other values of Sec. 4.1: P11, P15, P50, P52 to P55, P58 to P60; G20."""
    stage2 = load_config(["r50"]).stage2
    assert (stage2.cls_per_det, stage2.size, stage2.scale, stage2.weight_decay) == (3, 1024, (0.1, 2.0), 0.05)
    assert stage2.lr == 3e-4 and stage2.iterations * stage2.det_batch == 4_320_000
    assert [round(m * stage2.iterations) for m in stage2.milestones] == [210_000, 250_000]
    stage1 = load_config(["r50"]).stage1
    assert (stage1.optimizer, stage1.lr, stage1.weight_decay, stage1.epochs) == ("sgd", 0.1, 1e-4, 100)
    swin = load_config(["swin_t"]).stage1
    assert (swin.optimizer, swin.epochs, swin.rand_augment, swin.mixup, swin.cutmix, swin.erasing,
            swin.drop_path) == ("adamw", 300, True, 0.8, 1.0, 0.25, 0.2)
    assert stage1.size == swin.size == 224 and stage1.color_jitter > 0
    assert load_config(["swin_b", "s3"]).stage1.epochs == 100 and load_config(["swin_b", "s2"]).stage1.epochs == 300
    assert (stage1.rate(stage1.lr), stage1.batch) == (0.1, 256)


def test_what_the_paper_leaves_open_has_the_values_of_the_ledger():
    """P30, P61, P62, G4, G7, G8, G11, G13, G18, G19, G21, G22."""
    cfg = load_config(["r50"])
    stage2, model = cfg.stage2, cfg.model
    assert (stage2.image_loss_weight, stage2.load_image_classifier, stage2.det_batch, stage2.warmup, stage2.clip_norm,
            cfg.amp) == (0.1, True, 16, 1000, 1.0, "auto")
    assert (model.region_dim, model.rpn_batch, model.rpn_pre_nms, model.rpn_proposals,
            model.regions_per_image) == (1024, 256, (2000, 1000), (1000, 1000), 512)
    assert model.rpn_rescue_iou == 0
    assert [(s.stage1.drop_path, s.stage2.drop_path)
            for s in map(load_config, (["swin_t"], ["swin_s"], ["swin_b"]))] == [(0.2, 0.2), (0.3, 0.2), (0.5, 0.3)]


def test_detections_are_cut_as_the_paper_cuts_them():
    """P85, P33, G25, G26; LVIS's own cap is 300 [G29]."""
    for words, most in ((["swin_b", "s3"], 100), (["r50", "s2"], 100), (["r50", "s1"], 300),
                        (["swin_b", "lvis_finetune"], 300)):
        test = load_config(words).eval
        assert (test.threshold, test.nms, test.max_detections, test.resize) == (1e-4, 0.5, most, (800, 1333))
        assert (test.fusion, test.fusion_exponent, test.class_agnostic_nms) == ("geometric", 2 / 3, False)

"""Ours, off by default [G6]: background that g-hat takes for a category without boxes is left out of f's loss."""
import json
import math

import pytest
import torch

from s21k.core.config import load_config
from s21k.core.errors import InputError
from s21k.core.randomness import set_seed
from s21k.core.structures import BACKGROUND, Regions
from s21k.models.box_head import BoxHead
from s21k.models.detector import build_detector, novel_rows
from tests.toy import SMALL, run, words, write_toy

NOVEL = torch.tensor([1, 4])                        # of five rows of g-hat


def head_and_regions(reading, threshold):
    set_seed(0, "head")
    head = BoxHead(8, 2, 5, reading, ignore_novel_above=threshold)
    with torch.no_grad():
        head.cls_classifier.weight *= 150
        head.foreground.weight *= 50
    generator = torch.Generator().manual_seed(0)
    boxes = torch.rand(40, 4, generator=generator).cumsum(1) * 20
    labels = torch.cat([torch.tensor([0, 1, 1, 0, 1]), torch.full((35,), BACKGROUND)])
    return head, torch.randn(40, 8, generator=generator), [Regions(boxes, labels, boxes, labels.clamp(min=-1), 5)]


@pytest.mark.parametrize("reading", ["nll", "bce_product"])
def test_the_loss_is_that_of_the_other_regions_over_the_number_of_all(reading):
    head, x, regions = head_and_regions(reading, 0.6)
    off = head.region_losses(x, regions)
    head.novel_rows = NOVEL
    on = head.region_losses(x, regions)
    with torch.no_grad():
        f, g, _ = head(x)
    score, left_out = 0.0, 0
    for i, label in enumerate(regions[0].labels.tolist()):
        s_fg, s = float(torch.sigmoid(f[i])), g[i].softmax(0).tolist()
        s_hat = head.classify(x)[i].softmax(0).tolist()
        if label == BACKGROUND and max(s_hat[1], s_hat[4]) >= 0.6:
            left_out += 1
        elif reading == "bce_product":
            score -= sum(math.log(s_fg * p if c == label else 1 - s_fg * p) for c, p in enumerate(s))
        else:
            score -= math.log(1 - s_fg if label == BACKGROUND else s_fg * s[label])
    assert 3 < left_out < 25
    assert on["region_score"].item() == pytest.approx(score / 40, rel=1e-4)
    assert on["region_score"] < off["region_score"] and on["region_box"] == off["region_box"]
    on["region_score"].backward()
    assert head.cls_classifier.weight.grad is None and head.foreground.weight.grad.abs().sum() > 0


def test_an_object_is_never_left_out():
    """Only background may be [G6]."""
    head, x, regions = head_and_regions("nll", 1e-12)
    head.novel_rows = NOVEL
    only = head.region_losses(x, regions)["region_score"]
    labels = regions[0].labels[:5]
    f, g, _ = head(x[:5])
    expected = -(torch.sigmoid(f) * g.softmax(1)[torch.arange(5), labels]).log().sum() / 40
    torch.testing.assert_close(only, expected)


def test_novel_is_what_g_does_not_know(tmp_path):
    entries = [("a", 0, 3, "base"), ("b", None, 1, "novel"), ("c", 1, None, "base"), ("d", None, 0, "novel")]

    def rows(chosen):
        (tmp_path / "c.json").write_text(json.dumps([dict(zip(("name", "det", "cls", "group"), e)) for e in chosen]))
        return novel_rows(load_config(["toy", f"data.root={tmp_path}", "data.eval.categories=c.json"])).tolist()

    assert rows(entries) == [1, 0]
    with pytest.raises(InputError, match="stage2.ignore_novel_above: c.json has no category that g-hat alone knows"):
        rows(entries[::2])


@pytest.mark.parametrize("missing", ["data.eval=null", "data.cls=null"])
def test_without_categories_or_g_hat_it_is_refused(missing):
    with pytest.raises(InputError, match="stage2.ignore_novel_above needs data.cls, for g-hat, and data.eval"):
        build_detector(load_config(["toy", *SMALL[:1], "stage2.ignore_novel_above=0.5", missing]))
    with pytest.raises(InputError, match="ignore_novel_above: 1.5 is not between 0 and 1"):
        load_config(["toy", "stage2.ignore_novel_above=1.5"])


def test_training_takes_it_from_the_key_and_is_the_method_where_nothing_is_left_out(tmp_path):
    root, weights = write_toy(tmp_path), {}
    assert run("train_stage1.py", *words(root)).returncode == 0
    for above in ("0", "1", "0.2501"):
        done = run("train_stage2.py", *words(root, f"stage2.ignore_novel_above={above}",
                                             f"stage2.init={root / 'run' / 'stage1.pt'}",
                                             f"output_dir={root / above}"))
        assert done.returncode == 0, done.stderr
        weights[above] = torch.load(root / above / "stage2.pt")["model"]
    same = {above: all(torch.equal(value, weights["0"][key]) for key, value in model.items())
            for above, model in weights.items()}
    assert same == {"0": True, "1": True, "0.2501": False}

"""Words add up in any order, or are refused; every line of words in the documents is a model that can be built."""
import dataclasses
import itertools
import re

import pytest
import yaml

from s21k.core.config import load_config
from s21k.core.errors import InputError
from s21k.core.words import CONFIG_FOLDER, known_words
from tests.toy import ROOT, build_models

BACKBONES = ("r18", "r50", "swin_t", "swin_s", "swin_b")


def experiment(words):
    """What the words say, without where it is written; or the one line that refuses them."""
    try:
        return dataclasses.replace(load_config(list(words)), output_dir="", parent_dir="")
    except InputError as error:
        return str(error)


@pytest.mark.parametrize("pair", list(itertools.combinations(known_words(), 2)), ids="+".join)
def test_two_words_mean_the_same_in_both_orders_or_are_refused_in_both(pair):
    first, second = experiment(pair), experiment(pair[::-1])
    if isinstance(first, str):
        assert isinstance(second, str)
        assert all(part in text for text in (first, second) for part in ("do not go together", *map(repr, pair)))
    else:
        assert first == second


def test_which_pairs_are_refused():
    """Two backbones, two worlds, and a drawn world, which brings its backbone, with another."""
    worlds = ("toy", "scenes", "tiny", "tiny40", "s1", "s2", "s3", "lvis_finetune")
    two_of_a_kind = {*itertools.combinations(BACKBONES, 2), *itertools.combinations(worlds, 2)}
    expected = two_of_a_kind | {(backbone, world) for backbone in BACKBONES for world in ("toy", "scenes")}
    refused = {pair for pair in itertools.combinations(known_words(), 2) if isinstance(experiment(pair), str)}
    assert refused == {tuple(sorted(pair)) for pair in expected}


@pytest.mark.parametrize("words, recipe", [
    (("r50", "s3"), ("sgd", 0.1, 0.0, 256, 100, 5, 0.0)),
    (("r50", "s2"), ("sgd", 0.1, 0.0, 256, 100, 5, 0.0)),
    (("swin_t", "s1"), ("adamw", 1e-3, 1e-5, 1024, 300, 20, 0.2)),
    (("swin_b", "s2"), ("adamw", 1e-3, 1e-5, 1024, 300, 20, 0.5)),
    (("swin_t", "s3"), ("adamw", 2.5e-4, 2.5e-6, 1024, 100, 5, 0.1)),
    (("swin_s", "s3"), ("adamw", 2.5e-4, 2.5e-6, 1024, 100, 5, 0.2)),
    (("swin_b", "s3"), ("adamw", 2.5e-4, 2.5e-6, 1024, 100, 5, 0.2)),
    (("swin_t", "tiny"), ("adamw", 4e-4, 5e-6, 64, 6, 0.5, 0.2)),
    (("r18", "tiny40"), ("adamw", 1e-3, 0.0, 64, 10, 0.5, 0.0))])
def test_each_backbone_has_its_own_recipe_for_its_data_set(words, recipe):
    """P50, P52, P53, G22, G24: optimizer, first and last rate, batch, epochs, warm-up, drop path; in both orders."""
    for order in (words, words[::-1]):
        s = load_config(list(order)).stage1
        numbers = (s.rate(s.lr), s.rate(s.min_lr), s.batch, s.epochs, s.warmup_epochs, s.drop_path)
        assert s.optimizer == recipe[0] and numbers == pytest.approx(recipe[1:], rel=1e-12)


def test_rates_follow_the_batch():
    """G24: half the batch, half the rate; a small world's rates hold for any batch."""
    s = load_config(["swin_t", "s2", "stage1.batch=512"]).stage1
    assert (s.rate(s.lr), s.rate(s.min_lr)) == (5e-4, 5e-6)
    s = load_config(["r50", "s2", "stage1.batch=64"]).stage1
    assert s.rate(s.lr) == 0.025
    s = load_config(["r18", "tiny", "stage1.batch=8"]).stage1
    assert s.rate(s.lr) == 4e-4


def test_what_is_given_beside_two_words_settles_them(tmp_path):
    assert load_config(["r50", "toy", "model.backbone=swin_t"]).model.backbone == "swin_t"
    (tmp_path / "mine.yaml").write_text("model: {backbone: resnet34}\nstage1: {lr: 0.5}\n")
    cfg = load_config(["toy", str(tmp_path / "mine.yaml"), "stage1.lr=0.25"])
    assert cfg.model.backbone == "resnet34" and cfg.stage1.lr == 0.25
    assert load_config(["stage1.lr=0.25", str(tmp_path / "mine.yaml"), "toy"]).stage1.lr == 0.5      # the later of them


def test_recipes_of_ones_own_are_checked(tmp_path):
    (tmp_path / "a.yaml").write_text("recipes: {imagenet22k: {lr: 1}}\n")
    with pytest.raises(InputError, match="recipes.imagenet22k: expected one of"):
        load_config(["toy", str(tmp_path / "a.yaml")])
    (tmp_path / "a.yaml").write_text("recipes: {imagenet1k: {lrr: 1}}\n")
    with pytest.raises(InputError, match="unknown key stage1.lrr"):
        load_config(["toy", str(tmp_path / "a.yaml")])
    with pytest.raises(InputError, match="stage1.recipe: .* is none of imagenet1k, imagenet21k"):
        load_config(["swin_t", "s2", "stage1.recipe=[1]"])
    for text in ("recipes: 3\n", "recipes: {imagenet1k: 3}\n", "stage1: 3\nrecipes: {imagenet1k: {lr: 1}}\n"):
        (tmp_path / "a.yaml").write_text(text)
        with pytest.raises(InputError):
            load_config([str(tmp_path / "a.yaml")])


# --- the documents ---

def word_lines():
    """Every list of words in README and ledger: in `quotes`, or behind a script's name."""
    found = {}
    for name in ("README.md", "s21k/audit.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        quoted = re.findall(r"`([^`\n]+)`", text)
        quoted += re.findall(r"(?:train_stage1|train_stage2|evaluate)\.py +([^#\n`]+)", text)
        for line in quoted:
            words = [word.strip('",') for word in line.split()]
            if words and words[0] in known_words() and all(word in known_words() or "=" in word for word in words):
                found[" ".join(words)] = words
    return found


LINES = word_lines()


def test_the_lines_of_the_documents_are_found():
    assert {"r50 s1", "r50 s1 no_reform", "swin_b s3", "r18 tiny", "swin_t s2"} <= LINES.keys() and len(LINES) > 25


@pytest.mark.parametrize("line", LINES)
def test_every_line_of_words_in_the_documents_builds_its_model_in_any_order(line):
    words = LINES[line]
    names, more = [w for w in words if "=" not in w], [w for w in words if "=" in w]
    for order in itertools.permutations(names):
        build_models([*order, *more])


def test_no_word_of_the_configurations_is_read_in_two_ways():
    """A word's keys are its own: what two words both say, they say alike, but for the pairs that are refused."""
    for path in CONFIG_FOLDER.glob("*.yaml"):
        tree = yaml.safe_load(path.read_text())
        assert tree.keys() <= {"data", "model", "stage1", "stage2", "eval", "recipes"}, path
        assert not ("recipes" in tree and "stage1" in tree), f"{path}: its stage-I keys would stand over any world's"

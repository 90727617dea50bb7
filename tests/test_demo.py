"""The demo goes on only where a stage came to its end."""
import pytest
import torch

from s21k import demo
from s21k.core.categories import CategoryMap
from s21k.core.errors import InputError
from s21k.training.checkpoint import unfinished


@pytest.mark.parametrize("step", [10, 7])
def test_a_stage_that_was_stopped_ends_the_demo(tmp_path, monkeypatch, step):
    monkeypatch.setattr(demo, "read", lambda path: {"categories": {}, "step": step, "total": 10})
    seen = []
    monkeypatch.setattr(demo, "run", lambda *command: seen.append(command))
    if step == 10:
        demo.train("What it does.", "train_stage1.py", tmp_path / "stage1.pt", "seed=1")
    else:
        with pytest.raises(InputError, match="stage1.pt is unfinished: 7 of 10 steps"):
            demo.train("What it does.", "train_stage1.py", tmp_path / "stage1.pt", "seed=1")
    assert seen == [("What it does.", "train_stage1.py", "toy", "seed=1")]


def test_an_unfinished_checkpoint_is_one_line_and_public_weights_are_none(tmp_path):
    assert unfinished({"categories": {}, "step": 3, "total": 9}, tmp_path) == f"{tmp_path} is unfinished: 3 of 9 steps"
    assert unfinished({"categories": {}, "step": 9, "total": 9}, tmp_path) == unfinished({"conv1": 0}, tmp_path) == ""


@pytest.mark.parametrize("groups, shown", [(["base", "novel"], ["a", "c (novel)"]), (["base", "base"], ["a", "c"])])
def test_pictures_name_a_category_by_its_first_word_and_say_which_are_not_base(groups, shown):
    none = torch.tensor([-1, -1])
    assert CategoryMap(["a, b", "c"], [None, None], groups, none, none).titles() == shown

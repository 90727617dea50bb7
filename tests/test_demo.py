"""The demo goes on only where a stage came to its end."""
import pytest
import torch

from s21k import demo
from s21k.core.errors import InputError


@pytest.mark.parametrize("step", [10, 7])
def test_a_stage_that_was_stopped_ends_the_demo(tmp_path, monkeypatch, step):
    torch.save({"step": step, "total": 10}, tmp_path / "stage1.pt")
    monkeypatch.setattr(demo, "ROOT", tmp_path)
    seen = []
    monkeypatch.setattr(demo, "run", lambda *command: seen.append(command))
    if step == 10:
        demo.train("What it does.", "train_stage1.py", tmp_path / "stage1.pt", "seed=1")
    else:
        with pytest.raises(InputError, match="train_stage1.py was stopped after 7 of 10 steps"):
            demo.train("What it does.", "train_stage1.py", tmp_path / "stage1.pt", "seed=1")
    assert seen == [("What it does.", "train_stage1.py", "toy", "seed=1")]

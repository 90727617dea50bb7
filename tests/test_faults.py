"""A run of weeks: kills, signals, a full disk, processes that disagree, and files that would run code. Long versions:
tests/bench/kills.py, faults.py."""
import errno
import json
import os
import pickle
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from s21k.core import distributed, errors
from s21k.core.config import load_config
from s21k.core.distributed import World
from s21k.core.errors import InputError, TrainingFault, refused
from s21k.evaluation.detections_file import read_detections
from s21k.training import checkpoint
from s21k.training import run as training_run
from s21k.training.optim import build_optimizer
from s21k.training.run import Identity, Run, check_ranks_agree, to_continue
from tests.bench import kills
from tests.toy import ROOT, run, words, write_toy


def a_run(path) -> Run:
    """Of one process, of a model of two numbers, not saved yet."""
    model = torch.nn.Linear(1, 1)
    return Run(load_config(["toy"]), World(0, 1, torch.device("cpu")), path.stem, Identity({}, {}), path, None, model,
               torch.optim.SGD(model.parameters(), 0.1), torch.amp.GradScaler("cpu", enabled=False))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = write_toy(tmp_path_factory.mktemp("world"))
    assert run("train_stage1.py", *words(root)).returncode == 0
    return root


def test_a_run_killed_at_any_moment_ends_with_the_weights_of_an_unbroken_one(world):
    """Two processes, SIGKILL; every random choice of the loop is on. Often, and in writes: tests/bench/kills.py."""
    hashes = []
    for name, count, save_every in (("unbroken", 0, 1000), ("broken", 1, 1)):
        arguments = words(world, "stage2.iterations=12", f"output_dir={world / name}",
                          f"stage2.init={world / 'run' / 'stage1.pt'}", f"stage2.save_every={save_every}")
        met, _ = kills.run_with_kills("train_stage2.py", arguments, 2, world / name / "stage2.pt", count,
                                      random.Random(1))
        assert len(met) == count
        hashes.append(kills.weights_hash(world / name / "stage2.pt"))
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize("workers, number", [(0, signal.SIGTERM), (1, signal.SIGTERM), (1, signal.SIGUSR1)])
def test_a_signal_saves_and_ends_in_order_and_the_same_words_continue(world, tmp_path, workers, number):
    """To the whole group, as torchrun and schedulers send it: loader processes must not die of it."""
    arguments = words(world, "stage1.epochs=400", f"output_dir={tmp_path}", "stage1.validate_every=1000",
                      "stage1.save_every=100000", f"data.workers={workers}")
    process = subprocess.Popen([sys.executable, "train_stage1.py", *arguments], cwd=ROOT, env=os.environ
                               | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               text=True, start_new_session=True)
    while process.poll() is None and not (tmp_path / "log.jsonl").exists():
        time.sleep(0.02)
    os.killpg(process.pid, number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and "stopped after" in out and "Traceback" not in err, err
    step = torch.load(tmp_path / "stage1.pt", weights_only=True)["step"]
    assert 0 < step < 800 and f"stopped after {step} of 800 steps" in out


def test_a_write_that_fails_leaves_the_checkpoints_as_they_were(tmp_path, monkeypatch):
    for step in (1, 2):
        checkpoint.save(tmp_path / "a.pt", {"step": step})

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(tmp_path / "a.pt", {"step": 3})
    monkeypatch.setattr(checkpoint.torch, "save", lambda content,
                        file: (_ for _ in ()).throw(RuntimeError("unexpected pos 1 vs 2")))
    with pytest.raises(OSError, match="is the disk full"):
        checkpoint.save(tmp_path / "a.pt", {"step": 3})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.previous.pt", "a.pt"]
    assert [torch.load(tmp_path / n)["step"] for n in ("a.pt", "a.previous.pt")] == [2, 1]
    with pytest.raises(TrainingFault, match="step 3: .*cannot be written"):
        a_run(tmp_path / "a.pt").save(3, 4, torch.tensor(1.0))


@pytest.mark.parametrize("changed, says", [({"stage2.lr": 0.1}, "rank 1 has stage2.lr 0.1, rank 0 has 0.0005"),
                                           ({"det data": "7 images, x"}, "rank 1 has det data '7 images, x'"),
                                           ({"output_dir": "runs/other"}, "rank 1 has output_dir"),
                                           ({"stage2.save_every": 7}, "rank 1 has stage2.save_every 7")])
def test_processes_with_other_words_or_data_are_found_at_the_start(monkeypatch, changed, says):
    monkeypatch.setattr(training_run, "gather_objects", lambda mine: [mine, mine | changed])
    with pytest.raises(InputError, match=says):
        check_ranks_agree(load_config(["toy"]), Identity({"det": ["a"]}, {"det": "6 images, y"}))
    monkeypatch.setattr(training_run, "gather_objects", lambda mine: [mine, dict(mine)])
    check_ranks_agree(load_config(["toy"]), Identity({"det": ["a"]}, {"det": "6 images, y"}))


def test_processes_that_continue_from_different_checkpoints_are_found(monkeypatch, tmp_path):
    """A folder that not all machines share: the others would train random weights."""
    monkeypatch.setattr(training_run, "gather_objects",
                        lambda mine: [mine, True if mine in (True, False) and isinstance(mine, bool) else 5])
    with pytest.raises(InputError, match="only some processes see a checkpoint"):
        to_continue(tmp_path / "stage2.pt")
    monkeypatch.setattr(training_run, "gather_objects", lambda mine: [mine, mine if isinstance(mine, bool) else 5])
    with pytest.raises(InputError, match="continue from different steps"):
        a_run(tmp_path / "stage2.pt").resume()


def test_a_checkpoint_of_another_memory_layout_continues_with_the_same_weights(tmp_path):
    """As written on a GPU, channels last, and continued on a CPU."""
    def made(found=None):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Conv2d(4, 8, 3), torch.nn.Flatten())
        if found is None:
            model = model.to(memory_format=torch.channels_last)
        optimizer = build_optimizer([{"params": list(model.parameters())}], "adamw", 0.1)
        return Run(load_config(["toy"]), World(0, 1, torch.device("cpu")), "stage1", Identity({}, {}),
                   tmp_path / "stage1.pt", found, model, optimizer, torch.amp.GradScaler("cpu", enabled=False))

    def step(one):
        one.optimizer.zero_grad()
        one.model(torch.linspace(-1, 1, 200).view(2, 4, 5, 5)).square().mean().backward()
        one.optimizer.step()

    unbroken = made()
    step(unbroken)
    unbroken.save(1, 2, torch.zeros(()))
    continued = made(unbroken.path)
    assert continued.resume() == 1
    for one in (unbroken, continued):
        step(one)
    for one, two in zip(unbroken.model.parameters(), continued.model.parameters()):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


def test_what_fails_on_one_process_fails_on_all_with_its_reason(monkeypatch):
    monkeypatch.setattr(distributed, "gather_objects", lambda mine: [mine, "boxes.json: not found"])
    with pytest.raises(InputError, match="on rank 1: boxes.json: not found"):
        distributed.on_all_ranks(lambda: 1)
    monkeypatch.setattr(distributed, "gather_objects", lambda mine: [mine, ""])
    assert distributed.on_all_ranks(lambda: 1) == 1
    with pytest.raises(InputError, match="No such file"):
        distributed.on_all_ranks(lambda: os.stat("/nowhere/x"))


def test_a_run_does_not_continue_on_other_images(world):
    """Their number or order would change what comes next; the categories are the same."""
    moved = world / "moved"
    moved.mkdir()
    import shutil
    shutil.copytree(world / "shapes", moved / "shapes")
    shutil.copytree(world / "run", moved / "run")
    next((moved / "shapes" / "cls_train").rglob("*.jpg")).unlink()
    done = run("train_stage1.py", *words(moved))
    assert done.returncode == 2 and "its cls data was 16 images" in done.stderr and "now it is 15 images" in done.stderr


def test_the_saved_configuration_alone_repeats_the_run(world, tmp_path):
    """config.yaml as the only word."""
    done = run("train_stage1.py", str(world / "run" / "config.yaml"), f"output_dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert kills.weights_hash(tmp_path / "stage1.pt") == kills.weights_hash(world / "run" / "stage1.pt")


# --- files that would run code ---

class Evil:
    def __reduce__(self):
        return os.system, (f"touch {os.environ['S21K_EVIL']}",)


@pytest.fixture
def mark(tmp_path, monkeypatch):
    monkeypatch.setenv("S21K_EVIL", str(tmp_path / "was-here"))
    yield tmp_path / "was-here"
    assert not (tmp_path / "was-here").exists()


def test_a_pickle_that_runs_code_gives_its_line_and_does_nothing(world, tmp_path, mark):
    (tmp_path / "raw.pt").write_bytes(pickle.dumps({"model": Evil()}))
    torch.save({"model": {"a": Evil()}, "categories": {}}, tmp_path / "torch.pt")
    for name in ("raw.pt", "torch.pt"):
        for script, key in (("train_stage1.py", "stage1.init"), ("train_stage2.py", "stage2.init"),
                            ("evaluate.py", "eval.checkpoint")):
            done = run(script, *words(world, f"output_dir={tmp_path / 'out'}", f"{key}={tmp_path / name}"))
            assert done.returncode == 2 and "cannot be read" in done.stderr and done.stderr.count(
                "\n") == 1, done.stderr


def test_a_pickled_column_and_a_yaml_object_do_nothing(world, tmp_path, mark):
    np.savez(tmp_path / "d.npz",
             **{k: np.array([Evil()], dtype=object) for k in ("image_id", "category_id", "score", "bbox")})
    with pytest.raises(InputError, match="without pickled objects"):
        read_detections(tmp_path / "d.npz")
    (tmp_path / "evil.yaml").write_text(f"seed: !!python/object/apply:os.system ['touch {mark}']\n")
    for word in (str(tmp_path / "evil.yaml"), f"seed=!!python/object/apply:os.system ['touch {mark}']"):
        done = run("train_stage1.py", "toy", word, f"output_dir={tmp_path / 'out'}")
        assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr


@pytest.mark.parametrize("name", ["../outside.jpg", "/etc/hostname", "a/../../outside.jpg"])
def test_paths_that_leave_the_data_are_refused(world, tmp_path, name):
    (tmp_path / "list.tsv").write_text(f"{name}\ta\n")
    from s21k.data.classification import ClassificationData
    with pytest.raises(InputError, match="leaves the list's folder"):
        ClassificationData(tmp_path / "list.tsv")
    content = json.loads((world / "shapes" / "det_train.json").read_text())
    content["images"][0]["file_name"] = name
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    from s21k.data.detection import DetectionData
    with pytest.raises(InputError, match="leads out of"):
        DetectionData(tmp_path / "boxes.json", world / "shapes" / "det_train").read(0)


# --- the edge of a command ---

@pytest.mark.parametrize("error, code, says", [
    (OSError(errno.ENOSPC, "No space left on device", "log.jsonl"), 3, "No space left on device"),
    (KeyboardInterrupt(), 130, "the last checkpoint is kept"),
    (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), 3, "a loader process died")])
def test_trouble_of_the_machine_is_one_line(monkeypatch, capsys, error, code, says):
    def main(argv):
        raise error

    monkeypatch.setattr(sys, "argv", ["x"])
    with pytest.raises(SystemExit) as end:
        errors.run_command(main, "doc")
    assert end.value.code == code and says in capsys.readouterr().err


@pytest.mark.parametrize("text", ["a mistake", "Caught RuntimeError in DataLoader worker process 0.",
                                  "peer access is not supported"])
def test_an_error_of_the_program_keeps_its_traceback(monkeypatch, text):
    def main(argv):
        raise RuntimeError(text)

    monkeypatch.setattr(sys, "argv", ["x"])
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RuntimeError, match=text):
        errors.run_command(main, "doc")


def test_a_log_that_cannot_be_written_ends_every_process_with_one_line(tmp_path):
    """Rank 0 alone writes; the others hear of it with the next step's losses."""
    from s21k.core.distributed import World
    from s21k.training.log import Log
    from s21k.training.step_monitor import StepMonitor
    from tests.toy import batch
    world = World(0, 1, torch.device("cpu"))
    log = Log(tmp_path / "absent" / "log.jsonl", 0, 10, 100, world, "stage1")
    monitor = StepMonitor(world, log, 0.01)
    monitor.check({"loss": torch.tensor(1.0)}, [batch(2)], 0)
    log.write({"step": 1})
    with pytest.raises(TrainingFault,
                       match="step 1: .*log.jsonl cannot be written .*No such file.*; the last checkpoint is kept"):
        monitor.check({"loss": torch.tensor(1.0)}, [batch(2)], 1)
    with pytest.raises(TrainingFault, match="the checkpoint is whole"):
        log.close()


def test_the_time_that_a_step_waits_for_its_images_is_in_the_log(tmp_path):
    from s21k.core.distributed import World
    from s21k.training.log import Log
    log = Log(tmp_path / "log.jsonl", 0, 2, 1, World(0, 1, torch.device("cpu")), "stage1")
    batches = log.waits(time.sleep(pause) for pause in (0.2, 0.0))
    for step in range(2):
        next(batches)
        log.add({"loss": 1.0})
        log.step_done(step, 0.1, 0)
    first, second = (json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines())
    assert 0.19 < first["data_seconds"] <= first["seconds_per_step"] + 1e-3 and second["data_seconds"] < 0.1


@pytest.mark.parametrize("raised, said", [
    (OSError("disk"), "what (disk), expected this"), (InputError("inner"), "inner"),
    (ValueError("odd"), "what (odd), expected this")])
def test_what_is_refused_is_said_once(raised, said):
    with pytest.raises(InputError) as error, refused("what", ValueError, expected=", expected this"):
        raise raised
    assert str(error.value) == said

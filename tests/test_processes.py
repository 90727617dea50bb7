"""What depends on processes: descriptors, loaders that hang, signals, start methods, evaluation by parts, several
machines."""
import json
import os
import pickle
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from s21k.core.config import load_config
from s21k.core.distributed import World
from s21k.core.errors import InputError
from s21k.core.packed import Packed, PackedStrings
from s21k.core.structures import Sample, Target
from s21k.data.classification import ClassificationData
from s21k.data.detection import DetectionData
from s21k.data.loaders import (
    collate,
    loader_workers,
    open_classification,
    open_detection,
    stage1_batches,
    stage2_batches,
)
from s21k.evaluation.parts import open_parts
from s21k.files.annotation_table import AnnotationTable
from s21k.files.annotations import load_annotations
from s21k.files.archives import ImageIndex
from s21k.models.detector import Detector
from tests.bench import kills
from tests.toy import ROOT, run, words, write_toy

ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
WATCHED = str(ROOT / "tests" / "watched.py")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A trained toy detector with masks, of 8 evaluation images of two canvas sizes."""
    root = write_toy(tmp_path_factory.mktemp("world"))
    for script in ("train_stage1.py", "train_stage2.py"):
        done = run(script, *words(root, "model.with_masks=true"))
        assert done.returncode == 0, done.stderr
    return root


def evaluation(root, name, *more):
    """Words of an evaluation into a folder of its own."""
    return words(root, "model.with_masks=true", f"output_dir={root / name}",
                 f"eval.checkpoint={root / 'run' / 'stage2.pt'}",
                 "eval.metrics=[localization,box_ap,mask_ap]", "eval.batch=3", *more)


def files_of(folder):
    return {name: (folder / name).read_bytes() for name in ("metrics.json", "detections.json", "detections.npz")}


# --- loaders ----------------------------------------------------------------------------------------------------------

def test_a_batch_is_three_tensors_however_many_images_it_has():
    """Each tensor that leaves a loader process is a file descriptor in both processes."""
    sample = Sample(torch.zeros(3, 8, 8, dtype=torch.uint8), Target(torch.tensor([[0.0, 0, 8, 8]]), torch.tensor([1])),
                    0, (1.0, 1.0), 0)
    batch = collate([sample] * 256, canvas=8)
    tensors = [value for value in vars(batch).values() if isinstance(value, torch.Tensor)]
    assert len(tensors) == 3 and not any(isinstance(v, torch.Tensor)
                                         for value in vars(batch).values() if isinstance(value, list) for v in value)
    assert [len(t.labels) for t in batch.targets] == [1] * 256 and batch.image_labels().shape == (256,)


def test_stage_one_trains_with_few_file_descriptors(world, tmp_path):
    arguments = words(world, f"output_dir={tmp_path}", "stage1.batch=256", "stage1.epochs=2", "data.workers=2")
    command = f"ulimit -n 256; exec {sys.executable} train_stage1.py " + " ".join(f"'{a}'" for a in arguments)
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, env=ONE_THREAD, capture_output=True, text=True,
                          timeout=120)
    assert done.returncode == 0 and "stage I done" in done.stdout, done.stderr[-2000:]


def hanging(world, tmp_path, timeout):
    arguments = words(world, f"output_dir={tmp_path}", "data.workers=1", f"timeout={timeout}")
    return subprocess.Popen([sys.executable, WATCHED, "sleeping", "--", "train_stage1.py", *arguments], cwd=ROOT,
                            env=ONE_THREAD, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            # a shell's background jobs ignore Ctrl-C, and hand that on
                            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))


def test_a_loader_that_hangs_ends_the_run_in_one_line(world, tmp_path):
    process = hanging(world, tmp_path, 2)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 3 and "the loader processes gave no batch" in err and "Traceback" not in err, err


@pytest.mark.parametrize("signals, code", [((signal.SIGTERM, signal.SIGTERM), 143), ((signal.SIGINT,), 130)])
def test_a_process_that_waits_for_data_ends_at_the_second_signal(world, tmp_path, signals, code):
    """The first SIGTERM asks for an end after the step, which never comes; Ctrl-C alone interrupts at once."""
    process = hanging(world, tmp_path, 600)
    while "stage I:" not in process.stdout.readline():
        assert process.poll() is None
    for number in signals:
        time.sleep(1.0)
        assert process.poll() is None
        process.send_signal(number)
    began = time.monotonic()
    out, err = process.communicate(timeout=30)
    # An interrupt leaves in order, with Python's own clean-up; a second signal does not.
    assert process.returncode == code and "Traceback" not in err and time.monotonic() - began < (
        2 if len(signals) == 2 else 10), err


def test_loader_processes_follow_the_cores_and_the_processes(monkeypatch):
    cfg = load_config(["r50", "s2"])
    for cores, local, alone, det in ((64, 1, 8, 2), (64, 16, 4, 1), (2, 1, 2, 1), (1, 8, 1, 1)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid, cores=cores: set(range(cores)))
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(local))
        assert (loader_workers(cfg), loader_workers(cfg, 0.25)) == (alone, det)
    assert loader_workers(load_config(["r50", "s2", "data.workers=3"])) == 3


# --- what a loader process is sent ------------------------------------------------------------------------------------

def test_data_on_an_index_or_a_table_is_opened_again_not_sent(tmp_path):
    """336,738 images of 21,841 classes, a million boxes: a few kilobytes, and the same data on the other side."""
    n, classes, boxes = 336_738, 21_841, 1_000_000
    label = np.sort(np.arange(n, dtype=np.int32) % classes)
    names = PackedStrings(packed=Packed.of_arrays(np.full(8 * n, 97, np.uint8), 8 * np.arange(n + 1)))
    ones = np.ones(n, dtype=np.int64)
    ImageIndex(tmp_path, [f"n{i:08d}" for i in range(classes)], ["tar"], np.zeros(n, np.int32), names, label, 0 * ones,
               ones, ones.astype(np.int32),
               ones.astype(np.int32)).save(tmp_path / "index")
    data = ClassificationData(tmp_path / "index")
    rng = np.random.default_rng(0)
    image = rng.integers(0, n, boxes).astype(np.int32)
    table = AnnotationTable("", np.arange(n), np.full(n, 50, np.int32), np.full(n, 60, np.int32), names, np.arange(365),
                            [f"c{i}" for i in range(365)], [None] * 365,
                            [None] * 365, [None] * 365, image, rng.integers(0, 365, boxes).astype(np.int32),
                            rng.uniform(0, 70, (boxes, 4)), np.ones(boxes),
                            rng.random(boxes) < 0.1, np.zeros(boxes, bool), None, np.zeros((0, 2), np.int64),
                            np.zeros((0, 2), np.int64), boxes, [])
    table.save(tmp_path / "table")
    (tmp_path / "images").mkdir()
    detection = DetectionData(tmp_path / "table", tmp_path / "images")
    for whole in (data, detection):
        content = pickle.dumps(whole)
        assert len(content) <= 65_536
        assert pickle.loads(content).__dict__.keys() <= whole.__dict__.keys()
    again = pickle.loads(pickle.dumps(data))
    assert (np.array_equal(again.labels, data.labels) and again.class_names == data.class_names
            and isinstance(again.labels, np.memmap))
    again = pickle.loads(pickle.dumps(detection))
    assert (isinstance(again.table.boxes, np.memmap) and np.array_equal(again.begins, detection.begins)
            and not hasattr(again, "boxes"))


def test_other_start_methods_train_and_evaluate_as_fork_does(world, tmp_path):
    """Boxes from a saved table; forkserver is the default from Python 3.14 on."""
    weights, metrics = set(), set()
    table = tmp_path / "det_table"
    load_annotations(world / "shapes" / "det_train.json").save(table)
    for method, scripts in (("fork", ["train_stage1.py", "train_stage2.py", "evaluate.py"]),
                            ("forkserver", ["train_stage1.py", "train_stage2.py", "evaluate.py"]),
                            ("spawn", ["train_stage1.py"])):
        arguments = words(world, f"output_dir={tmp_path / method}", f"data.det.annotations={table}", "data.workers=1",
                          "stage2.iterations=2", "eval.pictures=0",
                          "data.cls.val=null")
        if method == "fork":
            done = [run(script, *arguments) for script in scripts]
        else:
            commands = [part for script in scripts for part in ("--", script, *arguments)]
            done = [subprocess.run([sys.executable, WATCHED, f"start={method}", *commands], cwd=ROOT, env=ONE_THREAD,
                                   capture_output=True, text=True)]
        assert all(d.returncode == 0 for d in done), done[-1].stderr[-2000:]
        for stage in ("stage1.pt", "stage2.pt")[:len(scripts)]:
            weights.add((stage, kills.weights_hash(tmp_path / method / stage)))
        metrics |= {(tmp_path / method / "metrics.json").read_text()} if "evaluate.py" in scripts else set()
    assert len(weights) == 2 and len(metrics) == 1


# --- evaluation by parts ----------------------------------------------------------------------------------------------

def test_evaluation_does_not_depend_on_the_number_of_processes_and_nothing_large_is_exchanged(world):
    done = run("evaluate.py", *evaluation(world, "one"))
    assert done.returncode == 0, done.stderr
    for processes in (2, 3):
        done = run(WATCHED, "collectives", "--", "evaluate.py", *evaluation(world, str(processes)), processes=processes)
        assert done.returncode == 0, done.stderr[-2000:]
        assert files_of(world / str(processes)) == files_of(world / "one")
        largest = int(re.search(r"largest collective: (\d+) bytes", done.stdout)[1])
        print(f"{processes} processes, the largest collective: {largest} bytes")
        assert largest < 1_000_000
    assert not list((world / "one").glob("parts"))


def test_a_killed_evaluation_continues_and_ends_with_the_same_figures(world):
    arguments = evaluation(world, "killed")
    done = subprocess.run([sys.executable, WATCHED, "killed=3", "--", "evaluate.py", *arguments], cwd=ROOT,
                          env=ONE_THREAD, capture_output=True, text=True)
    assert done.returncode == 137 and not (world / "killed" / "metrics.json").exists()
    done = run("evaluate.py", *arguments)
    assert done.returncode == 0 and "continuing: 3 of 8 images" in done.stdout, done.stderr
    run("evaluate.py", *evaluation(world, "whole"))
    assert files_of(world / "killed") == files_of(world / "whole")


def test_parts_of_another_evaluation_are_not_continued(world):
    """Another threshold, and the same checkpoint trained anew."""
    arguments = evaluation(world, "other")
    subprocess.run([sys.executable, WATCHED, "killed=3", "--", "evaluate.py", *arguments], cwd=ROOT, env=ONE_THREAD,
                   capture_output=True)
    shutil.copytree(world / "other" / "parts", world / "kept")
    for change in ("eval.threshold=0.02", "touch", ""):
        shutil.copytree(world / "kept", world / "other" / "parts", dirs_exist_ok=True)
        before = (world / "run" / "stage2.pt").stat()
        if change == "touch":
            os.utime(world / "run" / "stage2.pt")
        done = run("evaluate.py", *arguments, *([change] if "=" in change else []))
        os.utime(world / "run" / "stage2.pt", ns=(before.st_atime_ns, before.st_mtime_ns))
        assert done.returncode == 0 and ("continuing" in done.stdout) == (change == ""), done.stderr


def test_evaluation_is_refused_where_images_cannot_be_read(world, tmp_path):
    """All of a few, and more than data.max_faults of many."""
    (tmp_path / "empty").mkdir()
    done = run("evaluate.py", *evaluation(world, "nothing", f"data.eval.images={tmp_path / 'empty'}"))
    assert (done.returncode == 2 and "images tried can be used" in done.stderr
            and not (world / "nothing" / "metrics.json").exists())
    truth = json.loads((world / "shapes" / "val.json").read_text())
    truth["images"] += [truth["images"][0] | {"id": 1000 + i, "file_name": f"absent{i}.jpg"} for i in range(30)]
    (tmp_path / "more.json").write_text(json.dumps(truth))
    done = run("evaluate.py", *evaluation(world, "many", f"data.eval.annotations={tmp_path / 'more.json'}"))
    assert done.returncode == 2, done.stderr
    assert "images cannot be read, more than data.max_faults=0.01 allows; the first: " in done.stderr


@pytest.mark.parametrize("name", ["file.txt/run", "x" * 300, "file.txt/\u1100\u1161 caf\u00e9", "zero\0byte"])
def test_an_output_folder_that_cannot_be_written_is_refused_before_anything_is_detected(tmp_path, name):
    (tmp_path / "file.txt").write_text("a file, no folder")
    with pytest.raises(InputError, match="cannot be written"):
        open_parts(tmp_path / name / "parts", {"eval": 1}, 0)
    open_parts(tmp_path / name / "parts", {"eval": 1}, 1)        # rank 0 alone makes it


def test_evaluate_refuses_such_a_folder_with_one_line_and_detects_nothing(world, tmp_path, monkeypatch):
    (tmp_path / "file.txt").write_text("")
    monkeypatch.setattr(Detector, "predict", lambda *args: pytest.fail("it detects"))
    done = run("evaluate.py", *evaluation(world, "unused", f"output_dir={tmp_path / 'file.txt' / 'run'}"))
    assert done.returncode == 2 and "cannot be written" in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_evaluation_is_refused_where_the_files_hold_no_images(world, tmp_path):
    """Names as they should be; a text, nothing, and half a JPEG inside."""
    whole = (world / "shapes" / "val" / "000000.jpg").read_bytes()
    folder = tmp_path / "caf\u00e9"
    folder.mkdir()
    for number, path in enumerate(sorted((world / "shapes" / "val").iterdir())):
        (folder / path.name).write_bytes([b"no image", b"", whole[:len(whole) // 2]][number % 3])
    done = run("evaluate.py", *evaluation(world, "texts", f"data.eval.images={folder}"))
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert not (world / "texts" / "metrics.json").exists()


# --- several machines -------------------------------------------------------------------------------------------------

def on_two_nodes(script, *arguments):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nodes = [subprocess.Popen([sys.executable, "-m", "torch.distributed.run", "--nnodes=2", f"--node-rank={rank}",
                               "--nproc-per-node=1", "--master-addr=127.0.0.1",
                               f"--master-port={port}", script, *arguments], cwd=ROOT, env=ONE_THREAD,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
             for rank in (0, 1)]
    for node in nodes:
        out, err = node.communicate(timeout=180)
        assert node.returncode == 0, err[-2000:]


def test_two_nodes_train_and_evaluate_as_one_process(world, tmp_path):
    start = f"stage2.init={world / 'run' / 'stage1.pt'}"
    for name in ("one", "nodes"):
        arguments = words(world, f"output_dir={tmp_path / name}", start, "eval.batch=3")
        for script in ("train_stage2.py", "evaluate.py"):
            if name == "one":
                assert run(script, *arguments).returncode == 0
            else:
                on_two_nodes(script, *arguments)
    one, two = (torch.load(tmp_path / name / "stage2.pt", weights_only=True)["model"] for name in ("one", "nodes"))
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-3, atol=1e-4, msg=key)
    first, second = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "nodes"))
    assert first.keys() == second.keys() and all(abs(first[key] - second[key]) < 0.05 for key in first)


def test_a_batch_that_cannot_be_shared_names_the_ways_out(world):
    cfg = load_config(words(world, "stage1.batch=10", "stage2.det_batch=2"))
    four = World(0, 4, torch.device("cpu"))
    with pytest.raises(InputError, match="10 images a step cannot be shared evenly by 4 processes, expected a "
                       "stage1.batch that is a multiple of 4.*or fewer processes"):
        stage1_batches(cfg, open_classification(cfg, "train"), four, 0)
    with pytest.raises(InputError, match="expected a stage2.det_batch that is a multiple of 4"):
        stage2_batches(cfg, open_detection(cfg), "det", four, 2, 0)


def test_the_gpu_bench_runs_to_its_end_without_a_gpu(tmp_path):
    env = ONE_THREAD | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-m", "tests.bench.gpu", "--out", str(tmp_path)], cwd=ROOT, env=env,
                          capture_output=True, text=True)
    results = json.loads((tmp_path / "results.json").read_text())
    assert done.returncode == 0 and len(results["items"]) >= 10 and (tmp_path / "table.md").is_file(), done.stderr
    assert all(found["skipped"] == "no CUDA device" for found in results["items"].values())


def test_output_that_nobody_reads_any_more_is_no_traceback():
    """As in `... | head -1`: the reader has gone before the command prints."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-m", "s21k.prepare.shapes", "--help"], cwd=ROOT, env=ONE_THREAD,
                          stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert done.returncode == 0 and done.stderr == "", done.stderr

"""Checkpoints as other projects save them: read, with a common prefix taken off, or refused by a line that says what to
save."""

import argparse
import collections
import json
import os
import pathlib
import pickle

import numpy as np
import pytest
import torch
import torchvision

from s21k.core.errors import InputError
from s21k.models import resnet
from s21k.models.pretrained import find_tensors, load_backbone
from s21k.training.checkpoint import read
from tests.toy import run, words, write_toy


@pytest.fixture(scope="module")
def public():
    return torchvision.models.resnet18(weights=None).state_dict()


class Odd:
    pass


@pytest.mark.parametrize(
    "extra, names",
    [
        ({"args": argparse.Namespace(lr=1)}, "argparse.Namespace"),
        ({"path": pathlib.PurePosixPath("a")}, f"{pathlib.PurePosixPath.__module__}.PurePosixPath"),
        ({"loss": np.float64(1.0)}, "numpy"),
        ({"own": Odd()}, "Odd"),
        ({"a": argparse.Namespace(), "\u00fc": Odd(), "c": collections.Counter("aab")}, "argparse.Namespace"),
        ({"module": torchvision.models.resnet18(weights=None)}, "torchvision.models.resnet"),
    ],
)
def test_a_file_with_objects_is_a_line_that_says_which_and_what_to_save(tmp_path, public, extra, names):
    torch.save({"model": dict(list(public.items())[:3])} | extra, tmp_path / "a.pt")
    with pytest.raises(InputError) as refused:
        read(tmp_path / "a.pt")
    line = str(refused.value)
    assert (
        names in line
        and "save the weights alone, torch.save({'model': model.state_dict()}, 'weights.pt')" in line
        and "\n" not in line
        and "\x1b" not in line
        and len(line) < 500
    )


def test_files_that_are_no_checkpoints_are_a_line(tmp_path, public):
    torch.save({"a": argparse.Namespace()}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "script.pt")
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "safe.pt").write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 4)
    (tmp_path / "pickle.pkl").write_bytes(pickle.dumps({"model": {"a": np.zeros(3)}}))
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "text.pt").write_text("\x1b[31m<html>not found</html>\x1b[0m")
    (tmp_path / "cut.pt").write_bytes(b"PK\3\4" + bytes(100))
    torch.save(public["conv1.weight"], tmp_path / "tensor.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    for name, says in {
        "old.pt": "it holds objects of argparse.Namespace",
        "script.pt": "a TorchScript archive",
        "safe.pt": "a safetensors file",
        "pickle.pkl": "objects of any kind, as a plain pickle does",
        "empty.pt": "no file of torch.save",
        "text.pt": "no file of torch.save",
        "cut.pt": "no file of torch.save",
        "tensor.pt": "holds a Tensor",
        "list.pt": "holds a list",
        "gone.pt": "no such file",
    }.items():
        with pytest.raises(InputError) as refused:
            read(tmp_path / name)
        line = str(refused.value)
        assert says in line and name in line and "\n" not in line and "\x1b" not in line, line


@pytest.mark.parametrize(
    "prefix", ["module.", "backbone.", "_orig_mod.", "model.module.encoder.", "\u00fc.", "module.layers.0."]
)
@pytest.mark.parametrize("inside", [None, "state_dict", "model_ema", "net"])
def test_a_common_prefix_is_taken_off_and_said(public, prefix, inside):
    state = {prefix + name: value for name, value in public.items()} | {
        "head.weight": torch.zeros(2),
        "queue": torch.zeros(1),
    }
    backbone = resnet.resnet18()
    report = load_backbone(
        backbone, state if inside is None else {inside: state, "epoch": 3, "optimizer": {"state": {}}}
    )
    assert (
        report.prefix == prefix
        and f"ResNet weights (below {prefix!r}, which is taken off): " in str(report)
        and report.share == 1
    )
    assert torch.equal(backbone.layer2[1].conv1.weight, public["layer2.1.conv1.weight"]) and {
        "head.weight",
        "queue",
        f"{prefix}fc.weight",
    } <= set(report.unexpected)
    assert str(load_backbone(backbone, public)).startswith("ResNet weights: ")


def test_weights_that_could_be_two_are_refused_and_both_are_named(public):
    """MoCo's query and key encoders, a student and its teacher, two entries of a file."""
    for first, second in (("encoder_q.", "encoder_k."), ("student.", "teacher.")):
        both = {first + n: v for n, v in public.items()} | {second + n: v for n, v in public.items()}
        with pytest.raises(
            InputError, match=f"ResNet weights more than once, below '{min(first, second)}', '{max(first, second)}'"
        ):
            load_backbone(resnet.resnet18(), both)
    with pytest.raises(InputError, match="weights: student, teacher all hold tensors"):
        load_backbone(resnet.resnet18(), {"student": public, "teacher": public, "epoch": 1})


@pytest.mark.parametrize(
    "content, says",
    [
        ({}, "no tensors in it, it holds nothing"),
        ({"epoch": 3, "\u00fc": "x"}, "it holds epoch, \u00fc"),
        ({"model": {}}, "no tensors in it, it holds model"),
        ({f"key{i}": i for i in range(10_000)}, "it holds key0, key1, key10, key100, key1000;"),
        ({1: 2, None: []}, "no tensors"),
        ({"a.b": torch.zeros(1)}, "no known source"),
    ],
)
def test_a_file_without_known_weights_says_what_it_holds(content, says):
    with pytest.raises(InputError) as refused:
        load_backbone(resnet.resnet18(), content)
    assert says in str(refused.value)


def test_the_tensors_beside_others_are_found(public):
    assert (
        find_tensors(public | {"epoch": 1}).keys() == public.keys()
        and find_tensors({"model": public, "state_dict": {"a": torch.zeros(1)}}) is not public
    )
    assert find_tensors({"state_dict": {"a": torch.zeros(1), 7: "x"}, "ema": {"b": torch.zeros(1)}}).keys() == {"a"}


def test_the_commands_print_the_same_lines(public, tmp_path):
    root, backbone = write_toy(tmp_path / "world"), "model.backbone=resnet18"
    torch.save({"state_dict": {f"module.{k}": v for k, v in public.items()}}, tmp_path / "ddp.pt")
    torch.save({"model": public, "args": argparse.Namespace(lr=1)}, tmp_path / "args.pt")
    for script, key in (("train_stage1.py", "stage1.init"), ("train_stage2.py", "stage2.init")):
        more = ["model.norm=frozen_bn", f"output_dir={tmp_path / script}"]
        done = run(script, *words(root, backbone, *more, f"{key}={tmp_path / 'ddp.pt'}"))
        assert done.returncode == 0 and "(below 'module.', which is taken off)" in done.stdout, done.stderr
        done = run(script, *words(root, backbone, f"output_dir={tmp_path / 'x'}", f"{key}={tmp_path / 'args.pt'}"))
        assert done.returncode == 2 and done.stderr.count("\n") == 1
        assert "it holds objects of argparse.Namespace" in done.stderr
    done = run("evaluate.py", *words(root, backbone, f"eval.checkpoint={tmp_path / 'ddp.pt'}"))
    assert done.returncode == 2 and "not one of stage II" in done.stderr and os.path.isdir(root)

"""A tiny world on disk and a configuration for it: seconds, not minutes. Used by the tests of whole commands."""
import contextlib
import io
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from s21k.core.config import load_config
from s21k.core.mask_tensors import Masks
from s21k.core.masks import Outline
from s21k.core.structures import Batch, Target
from s21k.models.classifier import build_classifier
from s21k.models.detector import build_detector
from s21k.prepare.shapes import write_world

ROOT = Path(__file__).resolve().parent.parent
# Real data that some tests compare on; they skip where it is absent.
DATA = Path(os.environ.get("S21K_TEST_DATA", ROOT.parent / "shared" / "data"))
SMALL = ["model.norm=gn", "model.fpn_channels=16", "model.region_dim=32", "model.regions_per_image=16",
         "model.rpn_batch=32",
         "model.rpn_pre_nms=[50,50]", "model.rpn_proposals=[20,20]", "stage1.batch=8", "stage1.epochs=1",
         "stage1.size=32",
         "stage2.size=64", "stage2.det_batch=2", "stage2.iterations=4", "stage2.warmup=1", "stage1.log_every=1",
         "stage2.log_every=1", "data.det.classes=2", "data.cls.classes=4", "data.workers=0", "eval.resize=[64,96]",
         "eval.pictures=2", "amp=off"]


def write_toy(root: Path) -> Path:
    """4 categories, 2 of them base; 10 + 6 + 8 images under root/shapes. Returns root."""
    write_world(root / "shapes", 4, 4, 6, 2, 48, seed=0, processes=1)
    return root


def words(root: Path, *more: str) -> list[str]:
    """The words of the toy experiment on root's data, output in root/run unless said otherwise."""
    return ["toy", *SMALL, f"data.root={root}", f"output_dir={root / 'run'}", *more]


def run(script: str, *argv: str, processes: int = 1, module: bool = False) -> subprocess.CompletedProcess:
    """A command of the project as a user runs it: in this process when alone (importing torch anew costs
    seconds), under torchrun when there are several."""
    if processes > 1:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}",
                   script, *argv]
        env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    out, err, code = io.StringIO(), io.StringIO(), 0
    before, folder = sys.argv, os.getcwd()
    sys.argv = [script, *argv]
    os.chdir(ROOT)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            if module:
                runpy.run_module(script, run_name="__main__")
            else:
                runpy.run_path(str(ROOT / script), run_name="__main__")
    except SystemExit as end:
        code = end.code or 0
    finally:
        sys.argv = before
        os.chdir(folder)
    return subprocess.CompletedProcess([script, *argv], code, out.getvalue(), err.getvalue())


def build_models(words: list[str]) -> None:
    """Both stages' models of an experiment, on the meta device: nothing is computed. InputError: the code refuses
    them."""
    cfg = load_config(words)
    with torch.device("meta"):
        if cfg.data.cls is not None:
            build_classifier(cfg.model, cfg.data.cls.classes, cfg.stage1.drop_path)
        if cfg.data.det is not None:
            build_detector(cfg)


def batch(num_images: int, objects: int = 2, size: int = 64, seed: int = 0, first_seed: int = 0) -> Batch:
    """num_images random images with `objects` random boxes of labels 0 and 1; the upper half of each is its mask."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (num_images, 3, size, size), dtype=torch.uint8, generator=generator)
    targets, square = [], np.array([0.0, 0, 1, 0, 1, 1, 0, 1])
    for _ in range(num_images):
        corner = torch.rand(objects, 2, generator=generator) * size * 0.5
        sides = 10 + torch.rand(objects, 2, generator=generator) * size * 0.4
        outlines = tuple(Outline((size, size), ((square.reshape(4, 2) * s.numpy() * [1, 0.5] + c.numpy()).reshape(-1),))
                         for c, s in zip(corner, sides))
        targets.append(Target(torch.cat([corner, corner + sides], 1),
                              torch.randint(0, 2, (objects,), generator=generator), Masks(outlines)))
    return Batch.pack(images, [(size, size)] * num_images, targets, list(range(num_images)), [(1.0, 1.0)] * num_images,
                      list(range(first_seed, first_seed + num_images)))

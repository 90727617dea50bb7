"""Scoring at the size of the 21,000-category benchmark, and how pycocotools, lvis and ours grow.

    python -m tests.bench.scoring [--all] [--json PATH]     all of these:
    python -m tests.bench.scoring write     the files, seeded; the other parts write them, too, where they are missing
    python -m tests.bench.scoring score     s21k.evaluation.score --metric in21k beside the floor; --all: of JSON, too
    python -m tests.bench.scoring check     20 random categories over all images with pycocotools
    python -m tests.bench.scoring growth    two sizes, --all: three; each tool in a process of its own

The files are runs/in21k-synthetic, 10.16 million detections (--images, --categories, --out: others). An image has one
category and 1.5 boxes, and 100 detections, a quarter of them of its category. The floor is a process that reads the
columns of the .npz and sorts them once by one packed key of category and score. Everything runs on one core, with
start and imports. Seconds are the clock's; the processor's are those that other programs on the machine add little to.
"""
import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tests.bench.timing import Bench

MINUTES = (1, 4)
PER_IMAGE = 100


class Cost(NamedTuple):
    """Of a process on one core."""
    seconds: float
    processor_seconds: float
    gigabytes: float

    def __str__(self) -> str:
        return f"{self.seconds:.1f} s ({self.processor_seconds:.1f} s of the processor), {self.gigabytes:.2f} GB"


def write(out: Path, num_images: int, num_categories: int, with_json: bool) -> None:
    """truth.json, detections.npz and, asked for, detections.json; they stay where they are already."""
    if (out / "detections.npz").is_file() and (not with_json or (out / "detections.json").is_file()):
        return
    rng = np.random.default_rng(0)
    out.mkdir(parents=True, exist_ok=True)
    category = rng.permutation(np.arange(num_images) % num_categories)           # of each image
    num_boxes = 1 + (rng.random(num_images) < 0.5)
    owner = np.repeat(np.arange(num_images), num_boxes)
    side = rng.uniform(40, 300, (len(owner), 2))
    truth = np.concatenate([rng.uniform(0, 1, (len(owner), 2)) * (500 - side), side], axis=1).round(1)
    annotations = [{"id": i + 1, "image_id": int(o) + 1, "category_id": int(category[o]) + 1, "bbox": box,
                    "area": box[2] * box[3], "iscrowd": 0}
                   for i, (o, box) in enumerate(zip(owner, truth.tolist()))]
    (out / "truth.json").write_text(json.dumps({
        "images": [{"id": i + 1, "width": 500, "height": 500, "file_name": f"{i}.jpg"} for i in range(num_images)],
        "annotations": annotations,
        "categories": [{"id": c + 1, "name": f"category {c}"} for c in range(num_categories)]}))
    image = np.repeat(np.arange(num_images, dtype=np.int32), PER_IMAGE)
    label = rng.integers(0, num_categories, len(image), dtype=np.int32)
    own = rng.random(len(image)) < 0.25
    label[own] = category[image[own]]
    side = rng.uniform(40, 300, (len(image), 2)).astype(np.float32)
    boxes = np.concatenate([rng.random((len(image), 2), dtype=np.float32) * (500 - side), side], axis=1)
    first = np.cumsum(num_boxes) - num_boxes
    near = np.flatnonzero(own & (rng.random(len(image)) < 0.4))                   # of those, some lie near a box
    boxes[near] = truth[first[image[near]]] + rng.normal(0, 15, (len(near), 4))
    boxes[:, 2:] = boxes[:, 2:].clip(1)
    score = rng.random(len(image), dtype=np.float32)
    mixed = np.lexsort((rng.random(len(image)), image)) if num_images < 10000 else np.arange(len(image))
    boxes, score, label = boxes.round(2), score[mixed].round(5), label[mixed]
    boxes = boxes[mixed]
    np.savez(out / "detections.npz", image_id=image + 1, category_id=label + 1, score=score, bbox=boxes)
    if with_json:
        with open(out / "detections.json", "w") as file:
            file.write("[")
            for begin in range(0, len(image), 100000):
                part = slice(begin, begin + 100000)
                rows = zip(image[part].tolist(), label[part].tolist(), score[part].astype(float).round(5).tolist(),
                           boxes[part].astype(float).round(2).tolist())
                file.write("," * (begin > 0) + ",".join(f'{{"image_id": {i + 1}, "category_id": {c + 1}, "bbox": {b}, '
                                                        f'"score": {s}}}' for i, c, s, b in rows))
            file.write("]")
    print(f"{out}: {num_images} images, {num_categories} categories, {len(annotations)} boxes, {len(image)} "
          f"detections; "
          + ", ".join(f"{p.name} {p.stat().st_size / 1e6:.0f} MB"
                      for p in sorted(out.iterdir()) if p.suffix in (".json", ".npz")))


def measured(command: list[str]) -> Cost:
    """Of a command on one core."""
    code = ("import os, resource, subprocess, sys, time\nos.sched_setaffinity(0, "
            "{sorted(os.sched_getaffinity(0))[0]})\nbegan = time.perf_counter()\n"
            "subprocess.run(sys.argv[1:], check=True, stdout=sys.stderr)\n"
            "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
            "print(time.perf_counter() - began, used.ru_utime + used.ru_stime, used.ru_maxrss / 1e6)")
    done = subprocess.run([sys.executable, "-c", code, *command], env=os.environ | {"OMP_NUM_THREADS": "1"},
                          capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return Cost(*map(float, done.stdout.split()))


def one(tool: str, out: Path) -> Cost:
    return measured([sys.executable, "-m", "tests.bench.scoring", "--tool", tool, "--out", str(out)])


def score(bench: Bench, out: Path, of_json: bool) -> None:
    floor = one("floor", out)
    bench.line(f"floor: {floor}", **floor._asdict())
    for name in ["detections.npz"] + ["detections.json"] * of_json:
        cost = measured([sys.executable, "-m", "s21k.evaluation.score", "--metric", "in21k", "--annotations",
                         str(out / "truth.json"), "--detections", str(out / name), "--out", str(out / "metrics.json"),
                         "--per-category"])
        ratio = cost.seconds / floor.seconds
        bench.line(f"{name}: {cost}, one core; {ratio:.2f} times the floor", times_the_floor=ratio, **cost._asdict())


def sort_once(out: Path) -> None:
    """The floor: read the columns, and sort them once by (category, falling score)."""
    with np.load(out / "detections.npz") as file:
        columns = {name: file[name] for name in file}
    score = ~columns["score"].view(np.uint32)                            # of scores above 0
    key = columns["category_id"].astype(np.uint64) << np.uint64(32) | score
    np.argsort(key, kind="stable")


def check(bench: Bench, out: Path) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval
    if not (out / "metrics.json").is_file():
        score(bench, out, of_json=False)
    ours = json.loads((out / "metrics.json").read_text())["per_category"]
    chosen = np.random.default_rng(1).choice(sorted(map(int, ours)), 20, replace=False).tolist()
    with np.load(out / "detections.npz") as file:
        rows = np.isin(file["category_id"], chosen)
        columns = {name: file[name][rows] for name in file}
    found = [{"image_id": int(i), "category_id": int(c), "score": float(s), "bbox": b}
             for i, c, s, b in zip(columns["image_id"], columns["category_id"], columns["score"],
                                   columns["bbox"].astype(float).tolist())]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(out / "truth.json"))
        evaluator = COCOeval(truth, truth.loadRes(found), "bbox")
        evaluator.params.catIds = sorted(chosen)
        evaluator.params.areaRng = evaluator.params.areaRng[:1]
        evaluator.params.areaRngLbl = evaluator.params.areaRngLbl[:1]
        evaluator.evaluate()
        evaluator.accumulate()
    precision = evaluator.eval["precision"][:, :, :, 0, -1]                       # (T, 101, 20)
    difference = max(abs(precision[:, :, k].mean() - ours[str(c)][0]) for k, c in enumerate(sorted(chosen)))
    bench.line(f"20 categories, {len(found)} detections: largest difference of AP to pycocotools {difference:.1e}; "
               f"mean AP of these {precision.mean():.4f}", largest_difference=difference)
    assert difference <= 1e-9, difference


def run_tool(tool: str, out: Path) -> None:
    """In a process of its own."""
    truth, found = str(out / "truth.json"), str(out / "detections.json")
    if tool == "pycocotools":
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
        gt = COCO(truth)
        evaluator = COCOeval(gt, gt.loadRes(found), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    elif tool == "lvis":
        np.float = float
        from lvis import LVIS, LVISEval, LVISResults
        content = json.loads(Path(truth).read_text())
        for image in content["images"]:
            image |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
        for row in content["categories"]:
            row["frequency"] = "f"
        federated = out / "lvis.json"
        federated.write_text(json.dumps(content))
        gt = LVIS(str(federated))
        LVISEval(gt, LVISResults(gt, found), "bbox").run()
    elif tool == "floor":
        sort_once(out)
    else:
        from s21k.evaluation.score import main
        main(["--metric", "coco", "--annotations", truth, "--detections", found])


def growth(bench: Bench, every_size: bool) -> None:
    for num_images, num_categories in ((500, 100), (1000, 200), (2000, 400))[:3 if every_size else 2]:
        out = Path(f"runs/growth-{num_images}")
        with contextlib.redirect_stdout(io.StringIO()):
            write(out, num_images, num_categories, True)
        costs = {tool: one(tool, out) for tool in ("pycocotools", "lvis", "ours")}
        bench.line(f"{num_images} images x {num_categories} categories, {PER_IMAGE * num_images} detections, with "
                   f"start and reading JSON: " + ", ".join(f"{tool} {cost}" for tool, cost in costs.items()),
                   **{tool: cost.seconds for tool, cost in costs.items()})


def main(argv: list[str]) -> None:
    bench = Bench(__doc__, MINUTES, ("write", "score", "check", "growth"))
    bench.parser.add_argument("--images", type=int, default=101625)
    bench.parser.add_argument("--categories", type=int, default=21077)
    bench.parser.add_argument("--out", type=Path, default=Path("runs/in21k-synthetic"))
    bench.parser.add_argument("--tool", help=argparse.SUPPRESS)                   # in a process of its own
    a = bench.begin(argv)
    if a.tool:
        return run_tool(a.tool, a.out)
    if a.parts != ["growth"]:
        write(a.out, a.images, a.categories, a.all)
    run = {"score": lambda: score(bench, a.out, a.all), "check": lambda: check(bench, a.out),
           "growth": lambda: growth(bench, a.all)}
    for part in a.parts:
        if part in run:
            run[part]()


if __name__ == "__main__":
    main(sys.argv[1:])

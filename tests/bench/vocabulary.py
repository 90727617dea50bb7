"""What 21,841 categories cost beside 100: evaluate.py and s21k.predict with a toy detector that knows as many.

    python -m tests.bench.vocabulary [--images 100] [--out runs/vocabulary]

The toy world is drawn with that many categories, a step of each stage is trained (learning is not the point), and 100
images are evaluated: seconds an image, and how much memory.
"""
import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

from s21k.prepare.shapes import write_world
from tests.toy import ROOT


def command(*argv: str) -> tuple[float, str]:
    began = time.perf_counter()
    done = subprocess.run([sys.executable, *argv], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return time.perf_counter() - began, done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path("runs/vocabulary"))
    a = parser.parse_args()
    for num in (100, 21841):
        root = (a.out / str(num)).resolve()
        if not (root / "shapes").exists():
            write_world(root / "shapes", num, 1, 16, 1, 96, seed=0, processes=os.cpu_count())
            truth = json.loads((root / "shapes" / "val.json").read_text())
            (root / "shapes" / "all.json").write_text(json.dumps(truth))
            for count in (a.images, a.images // 2):
                images = truth["images"][:count]
                ids = {image["id"] for image in images}
                (root / "shapes" / f"val{count}.json").write_text(json.dumps(truth | {
                    "images": images, "annotations": [row for row in truth["annotations"] if row["image_id"] in ids]}))
        words = ["toy", f"data.root={root}", f"output_dir={root / 'run'}", f"data.det.classes={(num + 1) // 2}",
                 f"data.cls.classes={num}",
                 "data.cls.val=null", "stage1.epochs=0.001", "stage2.iterations=1", "data.workers=0", "eval.pictures=0",
                 "eval.metrics=[in21k]",
                 "model.rpn_proposals=[1000,1000]", "model.rpn_pre_nms=[1000,1000]"]
        for script in ("train_stage1.py", "train_stage2.py"):
            command(script, *words)
        # Starting, reading the categories and the annotations cost the same for half of the pictures: the difference is
        # theirs.
        whole, half = (command("evaluate.py", *words, f"data.eval.annotations=shapes/val{count}.json")[0]
                       for count in (a.images, a.images // 2))
        memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
        print(f"{num} categories: {1000 * (whole - half) / (a.images - a.images // 2):.0f} ms an image of 1,000 "
              f"regions, {half - (whole - half):.1f} s to start and to score, "
              f"{memory:.2f} GB at most so far", flush=True)
        seconds, said = command("-m", "s21k.predict", *words, *(
            str(p) for p in sorted((root / "shapes" / "val").iterdir())[:5]), "--threshold", "0.00001")
        print(f"  predict, 5 images, all {num} names: {seconds:.1f} s; {said.strip().splitlines()[-1]}")


if __name__ == "__main__":
    main()

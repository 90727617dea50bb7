"""Does the detector learn real photos, boxes and masks, from random weights? The first images of coco-mini, by id.

    python -m tests.bench.learn_photos [--all] [--images 4] [--iterations 200] [--out ..] [--json PATH] [key=value ..]

Trains with train_stage2.py and scores with evaluate.py on the same images: a detector that cannot learn
some images by heart has an error in it. Prints the figures and the time. --all: 16 images, 1,700 iterations.
"""
import json
import subprocess
import sys
import time
from pathlib import Path

import yaml

from tests.bench.timing import Bench
from tests.toy import DATA, ROOT

MINUTES = (3, 20)
SETUP = {
    "data": {"workers": 1, "cls": None},
    "model": {"backbone": "resnet18", "norm": "gn", "fpn_channels": 64, "region_dim": 256, "anchor_scale": 4,
              "with_masks": True, "rpn_batch": 128,
              "rpn_pre_nms": [300, 300], "rpn_proposals": [200, 200], "regions_per_image": 96},
    "stage2": {"init": "scratch", "size": 384, "scale": [0.9, 1.0], "det_batch": 4, "cls_per_det": 0, "lr": 1.0e-3,
               "weight_decay": 0.01,
               "warmup": 30, "milestones": [0.8, 0.95], "save_every": 100000},
    "eval": {"resize": [384, 384], "metrics": ["box_ap", "mask_ap"], "pictures": 16, "batch": 1, "threshold": 0.01}}


def write_setup(out: Path, num_images: int) -> Path:
    """The annotations of the first images, the categories JSON, and the word for the commands."""
    folder = DATA / "coco-mini"
    content = json.loads((folder / "annotations" / "instances_train2017.json").read_text())
    images = sorted(content["images"], key=lambda image: image["id"])[:num_images]
    ids = {image["id"] for image in images}
    annotations = [a for a in content["annotations"] if a["image_id"] in ids]
    present = {a["category_id"] for a in annotations if not a["iscrowd"]}
    categories = sorted((c for c in content["categories"] if c["id"] in present), key=lambda c: c["id"])
    out.mkdir(parents=True, exist_ok=True)
    (out / "truth.json").write_text(
        json.dumps({"images": images, "annotations": [a for a in annotations if a["category_id"] in present],
                    "categories": categories}))
    (out / "categories.json").write_text(
        json.dumps([{"name": c["name"], "wnid": None, "det": row, "cls": None, "group": "base"}
                    for row, c in enumerate(categories)]))
    setup = SETUP | {"output_dir": str(out / "run")}
    pictures = str((folder / "train2017").resolve())
    setup["data"] = SETUP["data"] | {"root": str(out), "det": {"annotations": "truth.json", "images": pictures,
                                                               "classes": len(categories)},
                                     "eval": {"annotations": "truth.json", "images": pictures,
                                              "categories": "categories.json"}}
    (out / "photos.yaml").write_text(yaml.safe_dump(setup))
    print(f"{len(images)} images, {len(annotations)} annotations, {len(categories)} categories")
    return out / "photos.yaml"


def main() -> None:
    bench = Bench(__doc__, MINUTES)
    bench.parser.add_argument("changes", nargs="*", metavar="key=value")
    bench.parser.add_argument("--images", type=int)
    bench.parser.add_argument("--iterations", type=int)
    bench.parser.add_argument("--out", type=Path, default=Path("runs/learn-photos"))
    a = bench.begin()
    out = a.out.resolve()
    word = write_setup(out, a.images or (16 if a.all else 4))
    iterations, began = a.iterations or (1700 if a.all else 200), time.time()
    for script in ("train_stage2.py", "evaluate.py"):
        subprocess.run([sys.executable, script, str(word), f"stage2.iterations={iterations}", *a.changes], cwd=ROOT,
                       check=True)
    figures = json.loads((out / "run" / "metrics.json").read_text())
    bench.line(f"box AP50 {100 * figures['AP50']:.1f}, mask AP50 {100 * figures['mask_AP50']:.1f} on the training "
               f"images, {iterations} iterations, {(time.time() - began) / 60:.1f} minutes", box_ap50=figures["AP50"],
               mask_ap50=figures["mask_AP50"])


if __name__ == "__main__":
    main()

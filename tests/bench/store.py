"""A store of 21,841 synsets: indexing, splitting and serving it, and packing a JSON of millions of boxes. Linux only.

    python -m tests.bench.store [write] [index] [serve] [boxes] [--out runs/store] [--all] [--json PATH]

write   tiny JPEGs, real wnids, one tar each and the same as folders, where they are not there yet
index   s21k.prepare.imagenet and in21k_benchmark: seconds, sizes, memory
serve   images/s from tars and from folders; memory of loader processes
boxes   seconds and peak memory of packing COCO's JSON
--synsets (by default 1000, with --all 21841) and --boxes (500000, with --all 5000000) say how many.

A synset has 1 to 30 images of 64 px; the figures are those of a warm disk cache.
"""
import io
import json
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from torch.utils.data import DataLoader

from s21k.core.categories import imagenet21k_wnids
from s21k.data.augment_stage1 import TrainAugment
from s21k.data.classification import ClassificationData
from s21k.data.loaders import LabelStream, collate
from s21k.files.annotations import load_annotations
from tests.bench.timing import Bench

MINUTES = (3, 25)
MB = 1e6


def write(bench: Bench, out: Path, synsets: int) -> None:
    if (out / "folders").exists():
        return
    rng = np.random.default_rng(0)
    contents = []
    for _ in range(64):
        content = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((64, 64)).save(content, "JPEG",
                                                                                               quality=80)
        contents.append(content.getvalue())
    counts = rng.integers(1, 31, synsets)
    for wnid, count in zip(imagenet21k_wnids()[:synsets], counts.tolist()):
        (out / "folders" / wnid).mkdir(parents=True)
        (out / "tars").mkdir(exist_ok=True)
        with tarfile.open(out / "tars" / f"{wnid}.tar", "w", format=tarfile.GNU_FORMAT) as tar:
            for i in range(count):
                content = contents[int(rng.integers(64))]
                member = tarfile.TarInfo(f"{wnid}_{i}.JPEG")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
                (out / "folders" / wnid / f"{wnid}_{i}.JPEG").write_bytes(content)
    bench.line(f"{out}: {synsets} synsets, {counts.sum()} images of "
               f"about {statistics.mean(map(len, contents)):.0f} bytes")


def command(bench: Bench, *words: str) -> None:
    """Run it; its seconds and peak resident memory, of the largest process."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                               text=True)
    printed = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, printed
    seconds = time.perf_counter() - began
    bench.line(f"{words[0]} {words[1]}: {seconds:.1f} s, peak {usage.ru_maxrss / 1024:.0f} MB; "
               f"{printed.splitlines()[0]}", seconds=seconds, megabytes=usage.ru_maxrss / 1024)


def size_of(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def index(bench: Bench, out: Path) -> None:
    for source in ("tars", "folders"):
        for _ in range(2):                                               # the second time nothing has changed
            command(bench, "s21k.prepare.imagenet", str(out / source), "--out", str(out / f"{source}_index"), "--wnids",
                    "imagenet21k")
        n = len(ClassificationData(out / f"{source}_index"))
        size = size_of(out / f"{source}_index")
        bench.line(f"  index {size / MB:.1f} MB, {size / n:.0f} "
                   f"bytes an image")
    command(bench, "s21k.prepare.in21k_benchmark", "--index", str(out / "tars_index"), "--out", str(out / "benchmark"))


def private_bytes(pid: int) -> int:
    """Memory that a process has to itself: what it shares with its parent, or maps from files, does not count."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("Private_Clean", "Private_Dirty")))


def serve(bench: Bench, out: Path) -> None:
    rng = np.random.default_rng(0)
    datas = {name: ClassificationData(out / f"{name}_index") for name in ("tars", "folders")}
    order = rng.permutation(len(datas["tars"]))[:20000].tolist()
    for name, data in datas.items():                                     # in turn, twice; the first warms the cache
        for _ in range(2):
            began = time.perf_counter()
            for i in order:
                data.read(i)
            rate = len(order) / (time.perf_counter() - began)
        bench.line(f"{name}: {rate:.0f} images of 64 px a second and core, at random", rate=rate)
    index = datas["tars"].index
    index.take(np.arange(0, len(index), 10)).save(out / "tenth_index")
    for part in ("tars", "tenth"):
        for start, workers in (("fork", 0), ("fork", 2), ("fork", 4), ("forkserver", 2)):
            # each in a process of its own
            code = f"from tests.bench.store import serve_one; serve_one({str(out)!r}, {part!r}, {workers}, {start!r})"
            done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True,
                                  text=True)
            bench.line(done.stdout.strip())


def serve_one(out: str, part: str, workers: int, start: str) -> None:
    multiprocessing.set_start_method(start)
    data = ClassificationData(Path(out) / f"{part}_index")
    stream = LabelStream(data, "stage1", 0, TrainAugment(64, (0.08, 1.0), 0.4, False, 0.0))
    order = np.resize(np.random.default_rng(0).permutation(len(data)), 12800)    # a small store is read several times
    places = [(p, int(i)) for p, i in enumerate(order)]
    loader = iter(DataLoader(stream, batch_size=64, sampler=places, num_workers=workers, collate_fn=collate))
    began = time.perf_counter()
    for _ in range(150):
        next(loader)
    rate = 150 * 64 / (time.perf_counter() - began)
    own = [private_bytes(w.pid) / MB for w in getattr(loader, "_workers", [])]
    main = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{len(data)} images, {workers} loader processes by {start}: {rate:.0f} images a second, main process at "
          f"most {main:.0f} MB, "
          f"each loader process {', '.join(f'{b:.0f}' for b in own) or '-'} MB of its own", flush=True)


def boxes(bench: Bench, out: Path, count: int) -> None:
    """17 boxes an image, as in Objects365."""
    path = out / f"boxes-{count}.json"
    if not path.exists():
        rng, images = np.random.default_rng(0), count // 17
        out.mkdir(parents=True, exist_ok=True)
        with open(path, "w") as file:
            file.write('{"images": ['
                       + ",".join(f'{{"id": {i}, "file_name": "images/v1/patch{i % 50}/objects365_v1_{i:08d}.jpg", '
                                  f'"height": 500, "width": 700}}' for i in range(1, images + 1)))
            file.write('], "categories": ' + json.dumps([{"id": i, "name": f"thing {i}"} for i in range(1, 366)])
                       + ', "annotations": [')
            for first in range(0, count, 100000):
                n = min(100000, count - first)
                rows = zip(rng.integers(1, images + 1, n).tolist(), rng.integers(1, 366, n).tolist(),
                           (rng.random((n, 4)) * 200).round(8).tolist())
                file.write("," * (first > 0)
                           + ",".join(f'{{"id": {first + k}, "iscrowd": 0, "isfake": 0, "area": {b[2] * b[3]}, '
                                      f'"isreflected": 0, "bbox": {b}, "image_id": {i}, "category_id": {c}}}'
                                      for k, (i, c, b) in enumerate(rows, start=1)))
            file.write("]}")
    began = time.perf_counter()
    table = load_annotations(path)
    read = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    table.save(out / "boxes_table")
    again = time.perf_counter()
    opened = load_annotations(out / "boxes_table")
    opening = time.perf_counter() - again
    bench.line(f"{path.stat().st_size / MB:.0f} MB of JSON, {len(table.boxes)} boxes: {read:.1f} s, peak {peak:.0f} MB "
               f"(of it about 400 for Python and torch); table {size_of(out / 'boxes_table') / MB:.0f} MB, opened in "
               f"{opening:.2f} s ({len(opened.boxes)} boxes)", read=read, megabytes=peak, opening=opening)


PARTS = ("write", "index", "serve", "boxes")


def main() -> None:
    bench = Bench(__doc__, MINUTES, PARTS)
    bench.parser.add_argument("--out", type=Path, default=Path("runs/store"))
    bench.parser.add_argument("--synsets", type=int)
    bench.parser.add_argument("--boxes", type=int)
    a = bench.begin()
    synsets, num_boxes = a.synsets or (21841 if a.all else 1000), a.boxes or (5_000_000 if a.all else 500_000)
    out = a.out / str(synsets)
    for part in a.parts:
        {"write": lambda: write(bench, out, synsets), "index": lambda: index(bench, out),
         "serve": lambda: serve(bench, out), "boxes": lambda: boxes(bench, out, num_boxes)}[part]()


if __name__ == "__main__":
    main()

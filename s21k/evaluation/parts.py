"""An evaluation on its way: every process writes what it finds into parts on disk, one process scores them.

Nothing large goes from process to process, and an evaluation that was interrupted continues with the images that no
part has. A part is an .npz: image_ids (n,); the detections of these images as columns, boxes [x, y, w, h] in pixels of
the original; and for each metric that needs more than the detections a row an image (`noted_<metric>`).
"""
import json
import os
import shutil
import time
from pathlib import Path

import numpy as np

from s21k.core.errors import InputError
from s21k.core.masks import Rles
from s21k.core.packed import Packed
from s21k.evaluation.columns import DetectionColumns

FLUSH_SECONDS = 30.0                    # what a killed evaluation loses at most, of each process
ABOUT = "evaluation.json"
# What is kept of an evaluation: image_id (I,) ascending, and of each metric that notes something its rows (I, ..).
IMAGE_ROWS = "image_rows.npz"


def open_parts(folder: Path, about: dict, rank: int) -> None:
    """Make the folder of an evaluation (rank 0 alone). about: all that the detections depend on; parts of another
    evaluation are removed. InputError: it cannot be written."""
    if rank:
        return
    text = json.dumps(about, indent=1, sort_keys=True, default=str)
    try:
        same = (folder / ABOUT).is_file() and (folder / ABOUT).read_text() == text
        if folder.exists() and not same:
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for marker in folder.glob("done-*.json"):
            marker.unlink()
        (folder / ABOUT).write_text(text)
    except (OSError, ValueError) as error:          # ValueError: a zero byte in the name
        raise InputError(f"{folder}: cannot be written ({error})") from None


def finished_images(folder: Path) -> set[int]:
    """The ids of all images that the folder's parts have."""
    return {int(i) for path in folder.glob("part-*.npz") for i in _read(path, ["image_ids"])[0]}


def _read(path: Path, names: list[str]) -> list[np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return [file[name] for name in names]
    except Exception as error:                      # numpy's reader raises whatever damaged bytes lead it to
        raise InputError(f"{path}: not a readable part of an evaluation ({error}); remove {path.parent} to "
                         f"start anew") from None


class PartWriter:
    """The images of one process; a part is written every FLUSH_SECONDS and at the end."""

    def __init__(self, folder: Path, rank: int) -> None:
        self.folder, self.rank = folder, rank
        numbers = [int(path.stem.split("-")[2]) for path in folder.glob(f"part-{rank}-*.npz")]
        self.number = max(numbers, default=-1) + 1
        self._start()

    def _start(self) -> None:
        self.image_ids: list[int] = []
        self.columns: list[DetectionColumns] = []
        self.noted: dict[str, list[np.ndarray]] = {}
        self.since = time.monotonic()

    def add(self, image_id: int, found: DetectionColumns, noted: dict[str, np.ndarray]) -> None:
        """One image: its detections, and the rows of the metrics that note something."""
        self.image_ids.append(image_id)
        self.columns.append(found)
        for name, row in noted.items():
            self.noted.setdefault(name, []).append(row)

    def flush(self, now: bool = False) -> None:
        """Write a part if it is time, or now. OSError: it cannot be written."""
        if not self.image_ids or not (now or time.monotonic() - self.since >= FLUSH_SECONDS):
            return
        found = DetectionColumns.join(self.columns)
        content = {"image_ids": np.array(self.image_ids, dtype=np.int64), "image": found.image,
                   "category": found.category, "score": found.scores, "bbox": found.boxes}
        if found.masks is not None:
            content |= {"rle_counts": found.masks.counts.data, "rle_offsets": found.masks.counts.offsets,
                        "rle_size": found.masks.sizes}
        content |= {f"noted_{name}": np.stack(rows) for name, rows in self.noted.items()}
        beside = self.folder / f"writing-{self.rank}"
        with open(beside, "wb") as file:
            np.savez(file, **content)
        os.replace(beside, self.folder / f"part-{self.rank}-{self.number}.npz")      # whole, or not there
        self.number += 1
        self._start()

    def done(self, faults: list[str]) -> None:
        """This process has no image left. faults: the images it could not read."""
        self.flush(now=True)
        beside = self.folder / f"writing-{self.rank}"
        beside.write_text(json.dumps(faults))
        os.replace(beside, self.folder / f"done-{self.rank}.json")


def wait_for_all(folder: Path, processes: int) -> list[str]:
    """Until every process is done; the images that could not be read. torchrun ends this process if another one
    fails."""
    markers = [folder / f"done-{rank}.json" for rank in range(processes)]
    while not all(marker.is_file() for marker in markers):
        time.sleep(0.2)
    return [fault for marker in markers for fault in json.loads(marker.read_text())]


def read_parts(folder: Path) -> tuple[np.ndarray, DetectionColumns, dict[str, np.ndarray]]:
    """image_ids (n,) ascending; the detections in that order; for each metric that noted something n rows. image of a
    detection is an id, category a position among the evaluated categories."""
    paths = sorted(folder.glob("part-*.npz"))
    names = set() if not paths else set(np.load(paths[0], allow_pickle=False).files)
    columns, ids, noted = [], [np.zeros(0, np.int64)], {name: [] for name in names if name.startswith("noted_")}
    for path in paths:
        image_ids, *detections = _read(path, ["image_ids", "image", "category", "score", "bbox"])
        ids.append(image_ids)
        masks = None
        if "rle_counts" in names:
            counts, offsets, sizes = _read(path, ["rle_counts", "rle_offsets", "rle_size"])
            masks = Rles(Packed.of_arrays(counts, offsets), sizes)
        columns.append(DetectionColumns(*detections, None, masks))
        for name, rows in noted.items():
            rows += _read(path, [name])
    image_ids, found = np.concatenate(ids), DetectionColumns.join(columns)
    order = np.argsort(image_ids, kind="stable")
    rows = {name.removeprefix("noted_"): np.concatenate(parts)[order] for name, parts in noted.items()}
    return image_ids[order], found.take(np.argsort(found.image, kind="stable")), rows

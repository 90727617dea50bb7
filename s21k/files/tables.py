"""A table on disk: a folder of .npy columns and table.json, mapped into memory that a machine's processes share."""
import json
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from s21k.core.errors import InputError, refused

ABOUT = "table.json"


def is_table(folder: Path) -> bool:
    return (folder / ABOUT).is_file()


def save_table(folder: Path, kind: str, columns: dict[str, np.ndarray], about: dict[str, Any]) -> None:
    """Write the columns and what is said about them: beside the folder first, then in its place (an older one goes).
    kind: what load_table must find. InputError: the folder holds something else, or cannot be written."""
    if folder.exists() and not is_table(folder):
        raise InputError(f"{folder}: exists and is no table, expected another name or an older table")
    beside = folder.with_name(folder.name + ".writing")
    with refused(f"{folder}: cannot be written"):
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        for name, column in columns.items():
            np.save(beside / f"{name}.npy", column)
        shapes = {name: [column.dtype.str, len(column)] for name, column in columns.items()}
        (beside / ABOUT).write_text(json.dumps({"kind": kind, "columns": shapes, "about": about}))
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(beside, folder)


def load_table(folder: Path, kind: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The columns, mapped, and what is said about them. InputError: not a table of that kind, or damaged."""
    with refused(f"{folder}: not a readable table", Exception):   # numpy raises whatever damaged bytes lead it to
        content = json.loads((folder / ABOUT).read_text())
        if content["kind"] != kind:
            raise InputError(f"{folder}: a table of {content['kind']!r:.40}, expected one of {kind!r}")
        columns = {}
        for name, (dtype, length) in content["columns"].items():
            path = folder / f"{Path(name).name}.npy"
            columns[name] = np.load(path, mmap_mode="r" if length else None, allow_pickle=False)
            if columns[name].dtype.str != dtype or len(columns[name]) != length:
                raise InputError(f"{path}: {columns[name].dtype.str} x {len(columns[name])}, {ABOUT} says {dtype} x "
                                 f"{length}")
        return columns, dict(content["about"])


class ColumnSpec(NamedTuple):
    """What a column must be."""
    kind: str                               # of its type: "i", "u", "f" or "b"
    shape: tuple[int, ...]
    least: float | None = None              # None: any value
    most: float | None = None


def check_columns(folder: Path, columns: dict[str, np.ndarray], expected: dict[str, ColumnSpec]) -> None:
    """InputError: a column is missing, or not so; or one called .._offsets does not rise from 0 to its most."""
    for name, (kind, shape, least, most) in expected.items():
        column = columns.get(name)
        if column is None or column.dtype.kind != kind or column.shape != shape:
            raise InputError(f"{folder}: column {name} is "
                             f"{'missing' if column is None else f'{column.dtype} {column.shape}'}, expected type "
                             f"{kind!r} {shape}")
        if column.size and least is not None and not (least <= column.min() and column.max() <= most):
            # false of nan as well
            raise InputError(f"{folder}: column {name} has values {column.min()} to {column.max()}, expected {least} "
                             f"to {most}")
    for name in (name for name in expected if name.endswith("_offsets")):
        column, total = columns[name], expected[name].most
        if column[0] != 0 or column[-1] != total or (column[1:] < column[:-1]).any():
            raise InputError(f"{folder}: column {name} does not rise from 0 to {total}")

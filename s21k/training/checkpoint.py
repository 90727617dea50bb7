"""Checkpoints: written whole or not at all, the one before kept, read without unpickling code.

Each holds model, optimizer, scaler, step, the resolved configuration, the ordered category
names of every classifier's rows: {"det": [C names], "cls": [C^ names]}, and a fingerprint of each stream's data.
"""
import os
import re
from pathlib import Path
from typing import Any

import torch

from s21k.core.errors import InputError

GLOBAL = re.compile(r"GLOBAL ([\w.]+)")  # what torch's message calls a class or function in a file
TERMINAL = re.compile(r"\x1b\[[0-9;]*m")                                 # its colours


def save(path: Path, content: dict[str, Any]) -> None:
    """Write content to path: first beside it, then renamed; path's former content becomes <stem>.previous.pt.
    OSError: it cannot be written (a full disk, ..); path and its predecessor stand as they were."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".writing")
    try:
        with open(temporary, "wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:
        temporary.unlink(missing_ok=True)  # torch says RuntimeError where the file's write failed
        raise error if isinstance(error, OSError) else OSError(
            f"the write failed, is the disk full? {str(error).splitlines()[0]}") from None
    if path.exists():
        os.replace(path, path.with_suffix(".previous.pt"))
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)                           # the new names are on disk as well
    os.fsync(folder)
    os.close(folder)


def _check_ours(content: dict[str, Any], where: str) -> None:
    """InputError: a part of a checkpoint of this project is not of its kind."""
    def is_tree(value: Any, kind: type) -> bool:
        return isinstance(value, dict) and all(isinstance(k, str) and isinstance(v, kind) for k, v in value.items())

    rows = content["categories"]
    good = {"model": is_tree(content.get("model"), torch.Tensor),
            "categories": is_tree(rows, list) and all(isinstance(n, str) for names in rows.values() for n in names),
            "config": isinstance(content.get("config"), dict), "data": is_tree(content.get("data"), str),
            **{key: type(content.get(key)) is int and content[key] >= 0 for key in ("step", "total")},
            **{key: isinstance(content.get(key), dict) for key in ("optimizer", "scaler")}}
    if wrong := [key for key, is_good in good.items() if not is_good]:
        raise InputError(f"{where}: its {wrong[0]} is not that of a checkpoint of this project")


def unfinished(content: dict[str, Any], path: Path) -> str:
    """One line where training was stopped before its end; "" where it was not, or these are public weights."""
    if not is_ours(content) or content["step"] == content["total"]:
        return ""
    return f"{path} is unfinished: {content['step']} of {content['total']} steps"


def is_ours(content: dict[str, Any]) -> bool:
    """A checkpoint of this project, not public weights."""
    return "categories" in content


def read(path: str | Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """The content of a checkpoint or of a file of public weights.
    InputError: not there, damaged, or holding more than tensors and plain values."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"checkpoint {path}: no such file")
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:
        # torch's reader raises whatever damaged bytes lead it to
        raise InputError(f"checkpoint {path}: cannot be read: {_why(path, error)}") from None
    if not isinstance(content, dict):
        raise InputError(f"checkpoint {path}: holds a {type(content).__name__}, expected a dict of tensors, as "
                         "model.state_dict() gives")
    if is_ours(content):
        _check_ours(content, f"checkpoint {path}")
    return content


def saved_config(path: Path) -> dict[str, Any]:
    """The configuration that a checkpoint of this project was made with, or {}; its tensors are not read."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:                                                    # damaged: whoever reads it whole says so
        return {}
    found = content.get("config") if isinstance(content, dict) else None
    return found if isinstance(found, dict) else {}


def _why(path: Path, error: Exception) -> str:
    """What a file holds that is not read, and what to save in its place; else the first line of torch's words."""
    with open(path, "rb") as file:
        start = file.read(16)
    if start[8:9] == b"{":
        return ("a safetensors file; expected one of torch.save: "
                "torch.save(safetensors.torch.load_file(PATH), 'weights.pt')")
    try:
        objects = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # as above; files of old torch are asked by the error's words
        objects = GLOBAL.findall(str(error))
    if not objects and start[:1] == b"\x80":
        objects = ["any kind, as a plain pickle does"]
    if objects:
        first = sorted(objects, key=lambda name: (name.startswith("torch."), name))[:3]  # those of torch say less
        return (f"it holds objects of {', '.join(first)}{', ..' if len(objects) > 3 else ''}, and reading them could "
                "run code; expected tensors and plain values: save the weights alone, torch.save({'model': "
                "model.state_dict()}, 'weights.pt')")
    if "TorchScript" in str(error):
        return ("a TorchScript archive; expected its weights alone: "
                "torch.save(torch.jit.load(PATH).state_dict(), 'weights.pt')")
    words = next(iter(TERMINAL.sub("", str(error)).splitlines()), type(error).__name__)
    return f"no file of torch.save, or damaged ({words:.120})"


def latest(path: Path) -> Path | None:
    """path, or the one before where a save was cut between its two renamings, or None."""
    return next((p for p in (path, path.with_suffix(".previous.pt")) if p.is_file()), None)


def check_categories(saved: dict[str, list[str]], now: dict[str, list[str]], where: Path) -> None:
    """The classifiers' rows must mean what they meant; InputError names the first row that differs."""
    for part, names in now.items():
        before = saved.get(part)
        if before is None or before == names:
            continue
        if len(before) != len(names):
            raise InputError(f"{where}: its {part} classifier has {len(before)} categories, the data has {len(names)}")
        row = next(i for i, (a, b) in enumerate(zip(before, names)) if a != b)
        raise InputError(f"{where}: row {row} of its {part} classifier is {before[row]!r}, in the data it is "
                         f"{names[row]!r}")

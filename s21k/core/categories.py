"""A setup is data: the K evaluated categories, and which row of which classifier knows each.

det_index (K,) is the row of g (Eq. 2), cls_index (K,) the row of g-hat (Eq. 3), -1 where that
classifier does not know the category. Eq. 5 needs nothing else: the file is the overlap map [G9].
"""
import json
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

import torch
from torch import Tensor

from s21k.core.errors import InputError, note, refused
from s21k.core.names import canonical, check_no_doubles, loose, nearest


def imagenet21k_wnids() -> list[str]:
    """The 21,841 wnids of ImageNet-21K (Fall 2011), sorted."""
    return resources.files("s21k.vocabulary").joinpath("imagenet21k.txt").read_text().split()


@dataclass(frozen=True)
class CategoryMap:
    """names, wnids (None where unknown) and groups ("base", "novel", ...) of K categories; det_names: what the
    detection data calls each, where that is neither [G9]."""
    names: list[str]
    wnids: list[str | None]
    groups: list[str]
    det_index: Tensor
    cls_index: Tensor
    det_names: list[str | None] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def keys(self) -> list[str]:
        """What identifies each category: its wnid, else its name."""
        return [wnid or name for wnid, name in zip(self.wnids, self.names)]

    def titles(self) -> list[str]:
        """Names as pictures show them: up to the first comma; and the group, where there are several, but for base."""
        several = len(set(self.groups)) > 1
        return [name.split(",")[0] + (f" ({group})" if several and group != "base" else "")
                for name, group in zip(self.names, self.groups)]

    def to(self, device: torch.device) -> "CategoryMap":
        return replace(self, det_index=self.det_index.to(device), cls_index=self.cls_index.to(device))

    def find(self, names: list[str], wnids: list[str | None], where: str | Path) -> list[int]:
        """Of each category, its position in a file: by wnid or, failing that, name, in whatever Unicode form; -1: none.
        One that is there in another spelling only is noted. InputError: none is there, or a name is two there."""
        by_name: dict[str, list[int]] = {}
        for position, name in enumerate(names):
            by_name.setdefault(canonical(name), []).append(position)
        by_wnid = {canonical(wnid): [position] for position, wnid in enumerate(wnids) if wnid is not None}
        found = []
        for name, wnid in zip(self.names, self.wnids):
            places = [by_wnid.get(canonical(key)) or by_name.get(canonical(key)) for key in (wnid, name)
                      if key is not None]
            at = next(filter(None, places), [-1])
            if len(at) > 1:
                raise InputError(f"{where}: {len(at)} categories are called {name!r}, expected a wnid, or other names, "
                                 "to tell them apart")
            found.append(at[0])
        absent = [name for name, at in zip(self.names, found) if at < 0]
        spelled = {loose(name): name for position, name in enumerate(names) if position not in set(found)}
        close = [(name, spelled[loose(name)]) for name in absent if loose(name) in spelled]
        hint = f" (did you mean {close[0][1]!r} by {close[0][0]!r}?)" if close else nearest(self.names[0], names)
        if len(absent) == len(self):
            raise InputError(f"{where}: has none of the {len(self)} categories, the first being "
                             f"{self.names[0]!r}{hint}")
        if close:
            note(f"{where}: {len(close)} categories are there by another spelling only, and are not found{hint}")
        return found

    def subset(self, positions: list[int]) -> "CategoryMap":
        """The categories at these positions, in this order (any vocabulary can be asked for at run time)."""
        pick = torch.tensor(positions, dtype=torch.int64)
        return CategoryMap([self.names[p] for p in positions], [self.wnids[p] for p in positions],
                           [self.groups[p] for p in positions], self.det_index[pick], self.cls_index[pick],
                           None if self.det_names is None else [self.det_names[p] for p in positions])

    @staticmethod
    def load(path: str | Path) -> "CategoryMap":
        """Read a list of {"name", "wnid", "det": row | null, "cls": row | null, "group"} and perhaps "det_name".

        InputError: unreadable, an entry without name or with one that is no string, a row that is no whole number >= 0,
        an entry that no classifier knows, one classifier's row used twice, or one wnid or name (in whatever Unicode
        form) twice.
        """
        path = Path(path)
        with refused(f"categories {path}: cannot be read", ValueError):
            entries = json.loads(path.read_text())
        if not isinstance(entries, list) or not entries:
            raise InputError(f"categories {path}: expected a non-empty list of entries")
        rows: dict[str, list[int]] = {"det": [], "cls": []}
        used: dict[str, set[int]] = {"det": set(), "cls": set()}
        for position, entry in enumerate(entries):
            where = f"categories {path}: entry {position}"
            if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
                raise InputError(f"{where} is {entry!r:.80}, expected an object with a name")
            for key in ("wnid", "group", "det_name"):
                if not isinstance(entry.get(key), (str, type(None))):
                    raise InputError(f"{where} ({entry['name']}): {key} is {entry[key]!r:.40}, expected a string "
                                     f"or null")
            for part in ("det", "cls"):
                row = entry.get(part)
                if row is not None and (not isinstance(row, int) or isinstance(row, bool) or not 0 <= row < 1 << 31):
                    raise InputError(f"{where} ({entry['name']}): {part} is {row!r}, expected a row >= 0 or null")
                if row in used[part]:
                    raise InputError(f"{where} ({entry['name']}): {part} row {row} belongs to an earlier entry")
                rows[part].append(-1 if row is None else row)
                used[part] |= set() if row is None else {row}
            if rows["det"][-1] < 0 and rows["cls"][-1] < 0:
                raise InputError(f"{where} ({entry['name']}): neither det nor cls: no classifier knows it")
        if double := check_no_doubles([e.get("wnid") or e["name"] for e in entries], f"categories {path}"):
            raise InputError(f"{double}: a name, or a wnid where there is one, tells labels apart")
        return CategoryMap([e["name"] for e in entries], [e.get("wnid") for e in entries],
                           [e.get("group") or "all" for e in entries],
                           torch.tensor(rows["det"]), torch.tensor(rows["cls"]), [e.get("det_name") for e in entries])

    def save(self, path: str | Path) -> None:
        """Write what load reads."""
        entries = [{"name": name, "wnid": wnid, "det": det if det >= 0 else None, "cls": cls if cls >= 0 else None,
                    "group": group}
                   for name, wnid, group, det, cls in zip(
                       self.names, self.wnids, self.groups, self.det_index.tolist(), self.cls_index.tolist())]
        for entry, det_name in zip(entries, self.det_names or ()):
            entry |= {} if det_name is None else {"det_name": det_name}
        Path(path).write_text(json.dumps(entries, indent=0))

    def check_rows(self, det_names: list[str], cls_names: list[str]) -> None:
        """Compare with the rows that a checkpoint says its classifiers have, by wnid or name.
        InputError names the first entry whose row is missing or holds another category."""
        nothing = [None] * len(self)
        for part, index, rows, others in (("det", self.det_index, det_names, self.det_names or nothing),
                                          ("cls", self.cls_index, cls_names, nothing)):
            for name, wnid, other, row in zip(self.names, self.wnids, others, index.tolist()):
                if row >= len(rows):
                    raise InputError(f"category {name}: {part} row {row}, but the classifier has {len(rows)} rows")
                if row >= 0 and canonical(rows[row]) not in {canonical(key) for key in (name, wnid, other) if key}:
                    raise InputError(f"category {name} ({wnid}): {part} row {row} of the checkpoint is {rows[row]!r}")

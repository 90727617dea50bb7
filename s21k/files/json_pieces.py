"""JSON files larger than memory: the entries of a list, some at a time. The memory is that of a piece, not of the file.

Read are a list (a results file), and an object that holds lists (COCO's annotation files).
"""
import gc
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from s21k.core.errors import InputError
from s21k.files.json_columns import columns_alike

PIECE = 1 << 21                                                          # characters read at a time
LONGEST_ENTRY = 1 << 26
TAIL = 1 << 16
BETWEEN = re.compile(r"\s*(?:,\s*(?=[^\]\s])|(?=\]))")  # after an entry: a comma and the next one, or the end
GAP = re.compile(r"\}\s*,\s*(?=\{)")


class _Text:
    """A file's characters from some place on; `text` holds the next ones."""

    def __init__(self, path: Path) -> None:
        self.path, self.file = path, path.open(encoding="utf-8-sig")
        self.text = ""
        self.skip(0)

    def more(self) -> bool:
        """Read on; False at the end of the file."""
        new = self.file.read(PIECE)
        self.text = (self.text + new).lstrip()
        return bool(new)

    def skip(self, count: int) -> None:
        self.text = self.text[count:].lstrip()
        while not self.text and self.more():
            pass

    def take(self, symbol: str, where: str) -> None:
        """The next character, which must be `symbol`."""
        if not self.text.startswith(symbol):
            raise InputError(f"{self.path}: {where}: found {self.text[:20]!r}, expected {symbol}")
        self.skip(1)

    def value(self, where: str) -> object:
        """One whole value."""
        while True:
            try:
                value, end = json.JSONDecoder().raw_decode(self.text)
                if end < len(self.text) and self.text[end] in ",:]} \t\r\n" or not self.more():
                    self.skip(end)                                      # else a number could go on
                    return value
            except (ValueError, RecursionError) as error:
                if len(self.text) > LONGEST_ENTRY or not self.more():
                    raise InputError(f"{self.path}: {where} is not JSON, or the file is cut off ({error}): "
                                     f"{self.text[:60]!r}") from None

    def end(self, where: str) -> None:
        if self.text or self.more():
            raise InputError(f"{self.path}: something follows the end of {where}")


def _one_by_one(source: _Text, done: int, part: str, final: bool) -> tuple[list, int]:
    """The complete entries at the start of the text, and where they end. InputError: damaged, or (final) cut off."""
    decoder, rows, at, text = json.JSONDecoder(), [], 0, source.text
    while text[at:at + 1] != "]":
        try:
            row, end = decoder.raw_decode(text, at)
            after = BETWEEN.match(text, end)
            if after is None:
                raise ValueError("no comma and entry, or ], after it")   # perhaps it is still to be read
        except (ValueError, RecursionError) as error:
            if not final and len(text) - at < LONGEST_ENTRY:
                break
            raise InputError(f"{source.path}: {part} {done + len(rows)} is not JSON, or the file is cut off ({error}): "
                             f"{text[at:at + 60]!r}") from None
        rows.append(row)
        at = after.end()
    return rows, at


Entries = list | dict[str, np.ndarray]              # or the columns of what was wanted of them


def _together(text: str, wanted: dict[str, str] | None) -> tuple[Entries, int, int]:
    """The entries before the last place that looks like the gap between two ("}, {"): they, how many, and where they
    end. Nothing where there is no such place, or it lies inside an entry, or what is before it is not JSON."""
    *_, gap = None, *GAP.finditer(text, max(0, len(text) - TAIL))
    if gap is None:
        return [], 0, 0
    head = text[:gap.start() + 1]
    columns = columns_alike(head, wanted) if wanted else None
    if columns is not None:
        return columns, len(next(iter(columns.values()))), gap.end()
    collects = gc.isenabled()
    gc.disable()            # the garbage collector would look through all that was read, again and again
    try:
        rows, end = json.JSONDecoder().raw_decode(f"[{head}]")
    except (ValueError, RecursionError):
        return [], 0, 0
    finally:
        if collects:
            gc.enable()
    return rows, len(rows), gap.end() if end == len(head) + 2 else end - 2         # the list ends before the gap


def _entries(source: _Text, part: str, wanted: dict[str, str] | None = None) -> Iterator[Entries]:
    """The entries of the list whose [ comes next, some at a time; at least one piece, perhaps empty. Its ] is read,
    too. wanted: as columns_alike's; where it finds columns, they come in place of the entries."""
    source.take("[", part)
    done = 0
    while True:
        rows, count, end = _together(source.text, wanted)
        if not count:
            rows, end = _one_by_one(source, done, part, final=False)
            if not rows and not source.text.startswith("]") and not source.more():
                rows, end = _one_by_one(source, done, part, final=True)
            count = len(rows)
        done += count
        source.skip(end)
        if count and not source.text.startswith("]"):
            source.more()                                                # so that a piece is about PIECE long again
        if source.text.startswith("]"):
            source.skip(1)
            yield rows
            return
        if not source.text:
            raise InputError(f"{source.path}: cut off after {done} entries of {part}, expected ]")
        yield rows


def read_list(path: Path, part: str, wanted: dict[str, str] | None = None) -> Iterator[Entries]:
    """The entries of a JSON list, some at a time; part names an entry in errors ("detection"). wanted: the fields that
    are asked for; where columns_alike finds them, their columns come in place of the entries.

    InputError: not a list, or not JSON, and where. OSError and UnicodeDecodeError pass."""
    source = _Text(path)
    with source.file:
        if not source.text.startswith("["):
            raise InputError(f"{path}: expected a list of {part}s, found {source.text[:20]!r}")
        yield from _entries(source, part, wanted)
        source.end(f"the list of {part}s")


def read_object(path: Path, lists: tuple[str, ...]) -> Iterator[tuple[str, list]]:
    """(key, entries) of an object in file order, of the keys in `lists`, some at a time; others are passed over.
    InputError: not an object, not JSON, one of these keys holds no list, is missing, or appears twice."""
    source = _Text(path)
    with source.file:
        source.take("{", f"expected an object with {', '.join(lists)}")
        seen: set[str] = set()
        while not source.text.startswith("}"):
            if seen:
                source.take(",", f"after {len(seen)} parts")
            key = source.value("a key")
            if not isinstance(key, str) or key in seen:
                raise InputError(f"{path}: key {key!r:.40}, expected each part once, by its name")
            seen.add(key)
            source.take(":", key)
            if source.text.startswith("["):
                for rows in _entries(source, key):
                    if key in lists:
                        yield key, rows
            elif key in lists:
                raise InputError(f"{path}: {key!r} is no list")
            else:
                source.value(key)
        source.skip(1)
        source.end("the object")
        if missing := [key for key in lists if key not in seen]:
            raise InputError(f"{path}: {missing[0]!r} is missing, expected an object with {', '.join(lists)}")

"""Entries of a JSON list that are all written alike, as programs write them, become columns without an object an entry.

    {"image_id": 1, "bbox": [2.5, 3, 4, 5]}, {"image_id": 7, ..

What is left of them without digits, points and signs is one text repeated; what is left without all else is one flat
list of numbers, which the JSON parser reads in half of the time of the entries. Whatever does not fit is None here: the
parser then reads it as it stands, and says what is wrong.
"""
import json
import re

import numpy as np

TIMES_TEN = b"~"                                    # stands for the e- of 1e-05 while other letters go
OF_NUMBERS = b"0123456789.-" + TIMES_TEN
NOT_OF_NUMBERS = bytes(set(range(256)) - set(OF_NUMBERS + b","))


def columns_alike(text: str, wanted: dict[str, str]) -> dict[str, np.ndarray] | None:
    """The wanted fields of the entries in `text`, n columns; other fields of numbers are passed over.

    wanted: name -> numpy's word for what a field holds: "i8" (whole numbers only), "f8", "4f8" (a list of four).
    None: fewer than two entries, or they are not alike, not of numbers only, or a wanted field is not what it should
    be.
    """
    try:
        first, end = json.JSONDecoder().raw_decode(text)
        second = text.index("{", end)                                    # where the next entry begins
        widths = _widths(first, wanted)
        one, raw = (part.encode("ascii").replace(b"e-", TIMES_TEN) for part in (text[:second], text))
    except ValueError:
        return None
    if TIMES_TEN.decode() in text:
        return None
    one, rest = (part.translate(None, OF_NUMBERS) for part in (one, raw))
    count = rest.count(b"}")
    if rest != (one * count)[:len(rest)] or any(raw.count(f'"{key}"'.encode()) != count for key in widths):
        return None
    flat = raw.translate(None, NOT_OF_NUMBERS).replace(TIMES_TEN, b"e-")
    try:
        numbers = json.loads(b"[" + flat + b"]")
        every = np.array(numbers, dtype=np.float64).reshape(count, sum(widths.values()))
        return dict(_columns(numbers, every, widths, wanted))
    except (ValueError, OverflowError):
        return None


def _widths(entry: object, wanted: dict[str, str]) -> dict[str, int]:
    """How many numbers each field of an entry holds. ValueError: it is no entry of numbers with the wanted fields."""
    if not isinstance(entry, dict) or not wanted.keys() <= entry.keys():
        raise ValueError
    widths = {}
    for key, value in entry.items():
        values = value if type(value) is list else [value]
        if not re.fullmatch("[A-Za-z_]+", key) or not values or not set(map(type, values)) <= {int, float}:
            raise ValueError
        if key in wanted and np.dtype(wanted[key]).shape != ((len(values),) if type(value) is list else ()):
            raise ValueError
        widths[key] = len(values)
    return widths


def _columns(numbers: list, every: np.ndarray, widths: dict[str, int], wanted: dict[str, str]):
    """(name, column) of each wanted field. numbers: of all entries; every (n, width): the same. ValueError: one of a
    column of whole numbers is not whole."""
    begin = 0
    for key, width in widths.items():
        if wanted.get(key) == "i8":
            values = numbers[begin::every.shape[1]]
            if set(map(type, values)) != {int}:
                raise ValueError
            yield key, np.array(values, dtype=np.int64)
        elif key in wanted:
            yield key, (every[:, begin] if wanted[key] == "f8" else every[:, begin:begin + width]).copy()
        begin += width

"""Entries of a JSON list that are all written alike, as programs write them, become columns without an object an entry.

    {"image_id": 1, "bbox": [2.5, 3, 4, 5]}, {"image_id": 7, ..

Without digits, points and signs they are one text repeated; without all else they are a list of numbers, each read as
a whole number and divided by a power of ten. Whatever does not fit is None here: the JSON parser then reads it as it
stands, and says what is wrong.
"""
import json
import re
from collections.abc import Iterator

import numpy as np

TIMES_TEN = b"~"                                    # stands for the e- of 1e-05 while other letters go
OF_NUMBERS = b"0123456789.-" + TIMES_TEN
A_NUMBER = re.compile(b"[%s]+" % re.escape(OF_NUMBERS))
NOT_OF_NUMBERS = bytes(set(range(256)) - set(OF_NUMBERS + b","))
POINT, MINUS, ZERO, END = (ord(symbol) for symbol in ".-0,")
TENS = 10.0 ** np.arange(23)                        # exact: a whole number below 2^53 divided by one is rounded once


def columns_alike(text: str, wanted: dict[str, str]) -> dict[str, np.ndarray] | None:
    """The wanted fields of the entries in `text`, n columns; other fields of numbers are passed over.

    wanted: name -> numpy's word for what a field holds: "i8" (whole numbers only), "f8", "4f8" (a list of four).
    None: fewer than two entries, or they are not alike, not of numbers only, or a wanted field is not what it should
    be.
    """
    try:
        first, end = json.JSONDecoder().raw_decode(text)
        widths = _widths(first, wanted)
        gap = re.compile(r"\s*,\s*(?={)").match(text, end)               # between two entries
        if gap is None or TIMES_TEN.decode() in text:
            return None
        one, raw = (part.encode("ascii").replace(b"e-", TIMES_TEN) for part in (text[:gap.end()], text + gap.group()))
        start = A_NUMBER.split(one)[0]                                   # from an entry to its first number
        rest = raw.translate(None, OF_NUMBERS)
        count = rest.count(b"}")
        if rest != one.translate(None, OF_NUMBERS) * count:
            return None
        # What stands between two numbers stands there unbroken: no digit has come into it.
        one, raw = one + start, raw + start
        if any(raw.count(part) != count * one.count(part) for part in {*A_NUMBER.split(one)[1:]}):
            return None
        numbers, whole = _numbers(raw.translate(None, NOT_OF_NUMBERS))
        shape = count, sum(widths.values())
        return dict(_columns(numbers.reshape(shape), whole.reshape(shape), widths, wanted))
    except ValueError:
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


def _numbers(text: bytes) -> tuple[np.ndarray, np.ndarray]:
    """JSON's numbers, a comma after each: float64 (n,), and which are written as whole ones. ValueError: not so."""
    symbols = np.frombuffer(text.replace(TIMES_TEN, b",") + b",", dtype=np.uint8)
    ends = np.flatnonzero(symbols[:-1] == END)
    digits = np.fromstring(text[:-1].replace(TIMES_TEN, b",").translate(None, b"."), dtype=np.int64, sep=",")
    if len(digits) != len(ends):
        raise ValueError
    begins = np.r_[0, ends[:-1] + 1]
    points = np.flatnonzero(symbols == POINT)
    owner = np.searchsorted(ends, points)                                # the number that has the point
    unsigned = begins + (symbols[begins] == MINUS)
    is_power = np.r_[False, np.frombuffer(text, dtype=np.uint8)[ends[:-1]] != END]      # what follows an e-
    zeros_first = (symbols[unsigned] == ZERO) & (symbols[unsigned + 1] - ZERO < 10) & ~is_power
    if (owner[1:] == owner[:-1]).any() or zeros_first.any() or is_power[owner].any() or (
            symbols[np.r_[points - 1, points + 1, unsigned]] - ZERO > 9).any() or (
            is_power & ((digits < 0) | np.r_[is_power[1:], False])).any():
        raise ValueError
    scale = np.zeros(len(ends), dtype=np.int64)
    scale[owner] = ends[owner] - points - 1
    powers = np.flatnonzero(is_power)
    scale[powers - 1] += digits[powers].clip(max=len(TENS))
    values = digits / TENS[scale.clip(max=len(TENS) - 1)]
    whole = ~np.r_[is_power[1:], False]
    whole[owner] = False
    hard = (ends - begins > 15) | (scale >= len(TENS)) | (digits == 0) & (unsigned > begins) & ~whole    # -0.0
    values, whole, hard = (column[~is_power] for column in (values, whole & ~hard, hard))
    if hard.any():                                  # as Python reads them, one by one
        written, places = text.replace(TIMES_TEN, b"e-").decode().split(","), np.flatnonzero(hard)
        values[places] = [float(written[place]) for place in places.tolist()]
    return values, whole


def _columns(numbers: np.ndarray, whole: np.ndarray, widths: dict[str, int],
             wanted: dict[str, str]) -> Iterator[tuple[str, np.ndarray]]:
    """(name, column) of each wanted field. numbers, whole (n, width): as _numbers'. ValueError: a number of a column of
    whole ones is not whole, or has more than 15 digits."""
    begin = 0
    for key, width in widths.items():
        part = numbers[:, begin] if wanted.get(key) in ("i8", "f8") else numbers[:, begin:begin + width]
        if wanted.get(key) == "i8" and not whole[:, begin].all():
            raise ValueError
        if key in wanted:
            yield key, part.astype(np.int64 if wanted[key] == "i8" else np.float64)
        begin += width

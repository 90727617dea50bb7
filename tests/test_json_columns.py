"""Entries written alike become columns: the values of the JSON parser to the last bit, and nothing that it refuses."""
import json
import random

import numpy as np
import pytest

from s21k.core.errors import InputError
from s21k.evaluation.detections_file import FIELDS, read_detections
from s21k.files import json_pieces
from s21k.files.json_columns import columns_alike


def a_number(rng):
    """Whole ones, short and long fractions, either sign, powers of ten, both zeros."""
    return rng.choice([rng.randrange(-500, 500), round(rng.random(), 5), rng.random(), rng.random() * 1e-7, -0.0, 0,
                       0.0, round(rng.uniform(-9, 999), 2), float(np.float32(rng.random())), 1e-30 * rng.random(),
                       5e-324, 1e-22, 9007199254740993, 123456789012345, 999999999999999.9])


def entries(rng, digits=15):
    return [{"image_id": rng.randrange(10 ** rng.randrange(1, digits + 1)), "category_id": rng.randrange(99),
             "bbox": [a_number(rng) for _ in range(4)], "score": a_number(rng)} for _ in range(rng.randrange(2, 6))]


def expected(rows):
    return {key: np.array([row[key] for row in rows], dtype=kind[-2:]) for key, kind in FIELDS.items()}


def same(found, rows):
    return all(found[key].dtype == column.dtype and found[key].tobytes() == column.tobytes()
               for key, column in expected(rows).items())


@pytest.mark.parametrize("separators", [(", ", ": "), (",", ":")])
def test_columns_are_those_of_the_json_parser_bit_by_bit(separators):
    rng = random.Random(0)
    for _ in range(500):
        rows = entries(rng)
        assert same(columns_alike(json.dumps(rows, separators=separators)[1:-1], FIELDS), rows)
    for other in (1e300, 10**15, 10**400, float("nan")):                 # left to the parser
        rows[-1]["score" if isinstance(other, float) else "image_id"] = other
        assert columns_alike(json.dumps(rows, separators=separators)[1:-1], FIELDS) is None


def test_a_changed_character_gives_what_the_parser_reads_or_nothing():
    """Replaced, inserted, taken out or swapped: never a number of what is no JSON, or of a field of another name."""
    rng, taken = random.Random(1), 0
    for _ in range(300):
        text = json.dumps(entries(rng))[1:-1]
        for change in range(20):
            letters, at = list(text), rng.randrange(len(text))
            other = rng.choice('0123456789.,-e~+ "{}[]a')
            if change % 4 == 3:
                to = rng.randrange(len(text))
                letters[at], letters[to] = letters[to], letters[at]
            else:
                letters[at:at + (change % 4 != 1)] = [other] * (change % 4 != 2)
            found = columns_alike("".join(letters), FIELDS)
            if found is not None:
                taken += 1
                assert same(found, json.loads(f"[{''.join(letters)}]")), "".join(letters)
    assert taken > 300


@pytest.mark.parametrize("text", [
    "", "{", '{"image_id": 1}, {"image_id": 2}', "1, 2", '{"a": ~}, {"a": 1}',
    '{"image_id": 1, "category_id": 2, "bbox": [1, 2, 3], "score": 1}, '
    '{"image_id": 1, "category_id": 2, "bbox": [1, 2, 3], "score": 1}',
    '{"image_id": 1, "category_id": 2, "bbox": [1, 2, 3, 4], "score": [1]}, '
    '{"image_id": 1, "category_id": 2, "bbox": [1, 2, 3, 4], "score": [1]}',
    '{"image_id": 1.0, "category_id": 2, "bbox": [1, 2, 3, 4], "score": 1}, '
    '{"image_id": 1, "category_id": 2, "bbox": [1, 2, 3, 4], "score": 1}',
    '{"image_id": 1, "category_id": 2, "bbox": [1, 2, 3, 4], "score": true}, '
    '{"image_id": 1, "category_id": 2, "bbox": [1, 2, 3, 4], "score": true}'])
def test_what_is_not_asked_for_is_left_to_the_parser(text):
    assert columns_alike(text, FIELDS) is None


def test_other_fields_of_numbers_are_passed_over():
    rows = [{"id": i, "score": 0.5, "bbox": [1, 2.5, 3, 4], "image_id": 7, "area": 1e-05, "category_id": i}
            for i in (1, 2)]
    assert same(columns_alike(json.dumps(rows)[1:-1], FIELDS), rows)


@pytest.mark.parametrize("piece", [800, 1 << 21])
def test_a_file_reads_the_same_whether_its_entries_are_alike_or_not(tmp_path, monkeypatch, piece):
    """Among many that are alike one with a name: its piece is parsed, the others are columns."""
    rng = random.Random(2)
    rows = [row | {"score": 0.25 * rng.random()} for _ in range(60) for row in entries(rng)]
    monkeypatch.setattr(json_pieces, "PIECE", piece)
    read = []
    named = [row | {"name": "x"} if i == 70 else row for i, row in enumerate(rows)]
    for some in (rows, named):
        (tmp_path / "d.json").write_text(json.dumps(some))
        kinds = [type(part) for part in json_pieces.read_list(tmp_path / "d.json", "detection", FIELDS)]
        found = read_detections(tmp_path / "d.json")
        read.append([column.tolist() for column in (found.image, found.category, found.scores, found.boxes)])
        assert (dict in kinds) == (some is rows or piece == 800)
    assert read[0] == read[1]
    assert dict(zip(FIELDS, read[0])) == {key: column.tolist() for key, column in expected(rows).items()}


def test_a_wrong_entry_among_columns_is_said_with_its_place(tmp_path, monkeypatch):
    rows = [{"image_id": 1, "category_id": 2, "bbox": [1.0, 2.0, 3.0, 4.0], "score": 0.5} for _ in range(100)]
    monkeypatch.setattr(json_pieces, "PIECE", 500)
    rows[63] = rows[63] | {"score": "high"}
    (tmp_path / "d.json").write_text(json.dumps(rows))
    with pytest.raises(InputError, match="detection 63 is wrong: score is 'high'"):
        read_detections(tmp_path / "d.json")

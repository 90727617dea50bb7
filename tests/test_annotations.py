"""Annotation files: read in pieces of any size as json reads them whole, saved as mapped tables, filtered."""
import json

import numpy as np
import pytest

from s21k.core.errors import InputError
from s21k.evaluation.ground_truth import GroundTruth
from s21k.files import json_pieces
from s21k.files.annotations import load_annotations
from s21k.files.tables import save_table
from tests.test_average_precision import add_masks, random_truth
from tests.toy import DATA


def truth(seed: int = 0, order: str = "iac") -> dict:
    """A random file with masks, LVIS's lists, and its three parts in some order among others."""
    rng = np.random.default_rng(seed)
    content = random_truth(rng)
    add_masks(content, [])
    for image in content["images"]:
        image |= {"neg_category_ids": rng.choice([1, 2, 3, 99], 2, replace=False).tolist(),
                  "not_exhaustive_category_ids": [3] if rng.random() < 0.5 else []}
        image.setdefault("file_name", f"{image['id']}.jpg")
    for number, category in enumerate(content["categories"]):
        category |= ({"frequency": "rcf"[number % 3], "synset": f"thing.n.{number:02d}"}
                     | ({"wnid": f"n{number:08d}"} if number % 2 else {}))
    names = {"i": "images", "a": "annotations", "c": "categories"}
    return {"info": {"year": 2026, "note": "}, {"}, **{names[k]: content[names[k]] for k in order},
            "licenses": [{"id": 1}, [2]], "version": 1.25, "big": [[0.5] * 40] * 40}


def write(tmp_path, content, indent=None):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content, indent=indent))
    return path


def same(a, b):
    for name, column in vars(a).items():
        other = getattr(b, name)
        if isinstance(column, np.ndarray):
            np.testing.assert_array_equal(column, other, err_msg=name)
        elif name == "file_names":
            assert [column[i] for i in range(len(column))] == [other[i] for i in range(len(other))]
        elif name == "masks":
            assert (column is None) == (other is None)
            for i in range(len(column or ())):
                assert column[i].size == other[i].size and column[i].counts == other[i].counts
                assert all(np.array_equal(p, q) for p, q in zip(column[i].polygons, other[i].polygons, strict=True))
        elif name not in ("path", "written", "unlisted"):                      # these are of the whole file
            assert column == other, name


@pytest.mark.parametrize("order", ["iac", "aic", "cai"])
@pytest.mark.parametrize("piece, indent", [(9, None), (200, 1), (1 << 24, None)])
def test_a_file_is_read_in_pieces_as_json_reads_it_whole(tmp_path, monkeypatch, order, piece, indent):
    content = truth(3, order)
    monkeypatch.setattr(json_pieces, "PIECE", piece)
    table = load_annotations(write(tmp_path, content, indent), masks=True)
    images = sorted(content["images"], key=lambda row: row["id"])
    categories = sorted(content["categories"], key=lambda row: row["id"])
    assert (table.image_ids.tolist() == [r["id"] for r in images]
            and table.heights.tolist() == [r["height"] for r in images])
    assert [table.file_names[i] for i in range(len(images))] == [r["file_name"] for r in images]
    for column, key in ((table.category_names, "name"), (table.category_wnids, "wnid"),
                        (table.frequencies, "frequency"), (table.synsets, "synset")):
        assert column == [r.get(key) for r in categories]
    rows = content["annotations"]
    assert (table.image_ids[table.image_index].tolist() == [r["image_id"] for r in rows]
            and table.boxes.tolist() == [r["bbox"] for r in rows])
    assert (table.category_ids[table.category_index].tolist() == [r["category_id"] for r in rows]
            and table.areas.tolist() == [r["area"] for r in rows])
    assert table.crowd.tolist() == [bool(r.get("iscrowd")) for r in rows] and len(table.masks) == len(rows)
    position = {r["id"]: i for i, r in enumerate(categories)}
    for pairs, key in ((table.negative, "neg_category_ids"), (table.not_exhaustive, "not_exhaustive_category_ids")):
        expected = [(i, position[c]) for i, r in enumerate(images) for c in r[key] if c in position]
        assert sorted(map(tuple, pairs.tolist())) == sorted(expected)


def test_a_saved_table_is_the_same_table_and_is_mapped(tmp_path):
    table = load_annotations(write(tmp_path, truth()), masks=True)
    table.save(tmp_path / "table")
    again = load_annotations(tmp_path / "table", masks=True)
    same(table, again)
    assert isinstance(again.boxes, np.memmap) and isinstance(again.masks.corners, np.memmap)
    assert load_annotations(tmp_path / "table").masks is None
    table.save(tmp_path / "table")                                            # an older table may be replaced
    (tmp_path / "other").mkdir()
    with pytest.raises(InputError, match="is no table"):
        table.save(tmp_path / "other")
    load_annotations(write(tmp_path, truth())).save(tmp_path / "bare")
    with pytest.raises(InputError, match="without segmentations"):
        load_annotations(tmp_path / "bare", masks=True)


def test_a_damaged_table_is_one_line(tmp_path):
    load_annotations(write(tmp_path, truth()), masks=True).save(tmp_path / "table")
    good = {p.name: p.read_bytes() for p in (tmp_path / "table").iterdir()}

    def refused(name, content, says):
        (tmp_path / "table" / name).write_bytes(content)
        with pytest.raises(InputError, match=says):
            load_annotations(tmp_path / "table")
        (tmp_path / "table" / name).write_bytes(good[name])

    refused("boxes.npy", good["boxes.npy"][:-8], "not a readable table")
    refused("boxes.npy", b"junk", "not a readable table")
    refused("table.json", b"{}", "not a readable table")
    refused("table.json", good["table.json"].replace(b'"annotations"', b'"pictures"'), "expected one of 'annotations'")
    index = np.load(tmp_path / "table" / "image_index.npy")
    np.save(tmp_path / "bad.npy", index + 1000)
    refused("image_index.npy", (tmp_path / "bad.npy").read_bytes(), "image_index has values")
    np.save(tmp_path / "bad.npy", np.array([{}], dtype=object), allow_pickle=True)
    refused("boxes.npy", (tmp_path / "bad.npy").read_bytes(), "not a readable table")
    load_annotations(tmp_path / "table", masks=True)
    columns = {p.stem: np.load(p) for p in (tmp_path / "table").glob("*.npy")}
    about = json.loads(good["table.json"])

    def resaved(name, column, says):
        changed = {k: v for k, v in columns.items() if k != name} | ({} if column is None else {name: column})
        save_table(tmp_path / "other", "annotations", changed, about["about"])
        with pytest.raises(InputError, match=says):
            load_annotations(tmp_path / "other", masks=True)

    for name in columns:
        if name != "mask_sizes":
            resaved(name, None, f"column {name} is missing|not a readable|expected|does not rise")
    resaved("mask_sizes", None, "without segmentations")
    resaved("boxes", columns["boxes"][:, :3], "column boxes is float64")
    resaved("boxes", columns["boxes"][:, 0], "column boxes is float64")
    resaved("mask_object_offsets", columns["mask_object_offsets"][::-1].copy(), "does not rise|has values")
    resaved("mask_object_offsets", columns["mask_object_offsets"][:-1], "column mask_object_offsets")
    save_table(tmp_path / "other", "annotations", columns, [])
    with pytest.raises(InputError, match="expected the names"):
        load_annotations(tmp_path / "other")


def test_filtering_keeps_what_it_says(tmp_path):
    """Images or categories out of a table, against the same done to the JSON."""
    content = truth(5)
    table = load_annotations(write(tmp_path, content), masks=True)
    kept = np.arange(len(table.image_ids)) % 2 == 0
    ids = set(table.image_ids[kept].tolist())
    content_images = content | {"images": [r for r in content["images"] if r["id"] in ids]}
    same(table.with_images(kept), load_annotations(write(tmp_path, content_images), masks=True))
    some = np.arange(len(table.category_ids)) != 1
    ids = set(table.category_ids[some].tolist())
    content_categories = content | {"categories": [r for r in content["categories"] if r["id"] in ids]}
    same(table.with_categories(some), load_annotations(write(tmp_path, content_categories), masks=True))
    assert table.with_categories(some, ["w"] * len(some)).category_keys() == ["w"] * some.sum()


def test_lvis_pictures_are_named_by_the_end_of_their_url(tmp_path):
    content = truth()
    for image in content["images"]:
        del image["file_name"]
        image["coco_url"] = f"http://images.cocodataset.org/train2017/{image['id']:012d}.jpg"
    table = load_annotations(write(tmp_path, content))
    assert table.file_names[0] == f"train2017/{table.image_ids[0]:012d}.jpg"


@pytest.mark.parametrize("piece", [11, 1 << 24])
@pytest.mark.parametrize("text, says", [
    ('{"images": [], "annotations": []}', "'categories' is missing"),
    ('{"images": [], "images": []}', "each part once"), ('{"images": [7]}', r"images\[0\] is 7"),
    ('{"images": [] "annotations": []}', "expected ,"),
    ('{"images": [{"id": 1, "height": 1, "width": 1}]}', "no file_name"), ('{"images": [', "cut off"),
    ('{"images": [], "annotations": [], "categories": []} 1', "something follows"),
    ('{"images": [], "annotations": [{"id": 1e3}], "categories": []}', "has id 1000.0"),
    ('{"images": [{"id": ' + "9" * 30 + "}]}", "too large"), ("{" * 100000, "cut off|not JSON")])
def test_what_is_wrong_in_an_object_is_said_with_its_place(tmp_path, monkeypatch, piece, text, says):
    (tmp_path / "a.json").write_text(text)
    monkeypatch.setattr(json_pieces, "PIECE", piece)
    with pytest.raises(InputError, match=says):
        load_annotations(tmp_path / "a.json")


def test_real_annotations_score_the_same_from_the_saved_table(tmp_path):
    source = DATA / "lvis" / "lvis_v0.5_val_100.json"
    if not source.is_file():
        pytest.skip("data absent")
    load_annotations(source, masks=True).save(tmp_path / "table")
    table = load_annotations(source, masks=True).by_image()
    one, two = GroundTruth.of_table(table, np.arange(len(table.category_ids)),
                                    {}), GroundTruth.load(tmp_path / "table", masks=True)
    same(one, two)


def test_a_saved_table_whose_lists_name_categories_that_are_not_there_is_refused(tmp_path):
    """Each column of pairs has its own bound: there may be more images than categories."""
    content = {"images": [{"id": i, "file_name": f"{i}.jpg", "height": 9, "width": 9, "neg_category_ids": [1]}
                          for i in range(1, 6)],
               "annotations": [], "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]}
    (tmp_path / "a.json").write_text(json.dumps(content))
    load_annotations(tmp_path / "a.json").save(tmp_path / "table")
    assert load_annotations(tmp_path / "table").negative.tolist() == [[i, 0] for i in range(5)]
    column = np.load(tmp_path / "table" / "negative.npy")
    column[3, 1] = 2                                                     # a position among images, none of categories
    np.save(tmp_path / "table" / "negative.npy", column)
    with pytest.raises(InputError, match="column negative names an image or a category that is not there"):
        load_annotations(tmp_path / "table")

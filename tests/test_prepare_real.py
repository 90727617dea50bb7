"""Preparation of the paper's data sets: category matching on the real lists, mending of Objects365, ImageNet's XML."""
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from s21k.core.categories import CategoryMap, imagenet21k_wnids
from s21k.core.errors import InputError
from s21k.files.annotations import load_annotations
from s21k.prepare.imagenet_val import check_truth, inside, read_xml
from s21k.prepare.lvis997 import GROUPS, match, prepare
from s21k.prepare.objects365 import MEANT, main, mend, overlap, read_review
from s21k.prepare.shape_formats import write_wordnet
from s21k.prepare.wordnet import WordNet
from tests.toy import DATA, run

WORDNET = Path(os.environ.get("S21K_TEST_WORDNET", "/usr/share/wordnet"))         # Debian's wordnet-base


@pytest.fixture(scope="module")
def wordnet():
    if not (WORDNET / "data.noun").is_file():
        pytest.skip("data absent")
    return WordNet(WORDNET)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    write_wordnet(tmp_path_factory.mktemp("wordnet"))
    return WordNet(tmp_path_factory.getbasetemp() / "wordnet0")


def test_lvis_and_imagenet_share_997_categories_720_of_them_base(wordnet, tmp_path):
    """T11, P36, P37: LVIS v1's real category list, WordNet 3.0, the 21,841 wnids: 390 common, 330 frequent, 277
    rare."""
    source = DATA / "lvis" / "lvis_v1_categories.json"
    if not source.is_file():
        pytest.skip("data absent")
    (tmp_path / "lvis.json").write_text(
        json.dumps({"images": [], "annotations": [], "categories": json.loads(source.read_text())}))
    table = load_annotations(tmp_path / "lvis.json")
    wnids = match(table, wordnet)
    letters = [letter for wnid, letter in zip(wnids, table.frequencies) if wnid]
    assert [letters.count(letter) for letter in "cfr"] == [390, 330, 277] and len({w for w in wnids if w}) == 997
    assert sum(GROUPS[letter] == "base" for letter in letters) == 720
    assert (wordnet.wnid("stop_sign.n.01") is None
            and [n for n, s in zip(table.category_names, table.synsets) if wordnet.wnid(s) is None] == ["stop_sign"])


def test_wordnet_names_every_class_of_imagenet_21k(wordnet):
    assert all(wnid in wordnet.names for wnid in imagenet21k_wnids())
    assert (wordnet.wnid("dog.n.01") == "n02084071"
            and wordnet.name("n02084071") == "dog, domestic dog, Canis familiaris")
    assert (wordnet.wnid("mouse.n.04") == "n03793489" and wordnet.wnid("mouse.n.05") is None
            and wordnet.wnid("Band_Aid.n.01") == "n02786058")


def test_real_lemmas_of_some_objects365_names(wordnet):
    rows = {name: (decision, wnid) for name, decision, wnid, _ in overlap(
        ["Airplane", "Mouse", "Lamp", "Desk", "Potted Plant", "Other Shoes", "Hat", "Cabinet/shelf"], wordnet, {})}
    assert (rows["Airplane"] == ("lemma", "n02691156") and rows["Desk"] == ("lemma", "n03179701")
            and rows["Hat"] == ("lemma", "n03497657"))
    rows |= {name: (decision, wnid)
             for name, decision, wnid, _ in overlap(["Sausage", "Napkin", "Cake", "chips"], wordnet, {})}
    # the sense that is meant is no class, or not the only one
    assert {rows[name][0] for name in ("Sausage", "Napkin", "Cake", "chips")} == {"ambiguous"}
    assert (rows["Mouse"][0] == rows["Lamp"][0] == rows["Cabinet/shelf"][0] == "ambiguous"
            and rows["Potted Plant"] == ("none", None))


def test_names_that_objects365_misspells_overlap_once_they_are_corrected(wordnet):
    """G9: Detic's 13 corrections; six of them bring a class each. The whole list has 139 before and 145 after."""
    assert len(MEANT) == 13
    before = {decision for _, decision, _, _ in overlap(list(MEANT), wordnet, {})}
    rows = overlap(list(MEANT.values()), wordnet, {})
    after = {name: wnid for name, decision, wnid, _ in rows if decision == "lemma"}
    assert "lemma" not in before
    assert after == {"Dining Table": "n03201208", "Teapot": "n04398044", "Extension Cord": "n03307037",
                     "Camel": "n02437136",
                     "Meatball": "n07871436", "Butterfly": "n02274259"}


# --- on the miniature WordNet ---

def test_a_synset_that_is_none_is_refused(small):
    assert (small.wnid("banana.n.02") == "n07753592" and small.wnid("unicorn.n.01") is None
            and small.wnid("apple.n.02") is None)
    for bad in ("apple", "apple.v.01", "apple.n.", ".n.01"):
        with pytest.raises(InputError, match="expected lemma.n.number"):
            small.wnid(bad)


def test_common_and_frequent_categories_are_base_and_rare_ones_novel(small, tmp_path):
    """P37, P38, G6: rows of g are the base ones in their order, those of g-hat all by wnid; what has no synset is in
    neither."""
    named = [("airplane", "airplane.n.01", "f"), ("apple", "apple.n.01", "r"), ("ashtray", "ashtray.n.01", "c"),
             ("unicorn", "unicorn.n.01", "f")]
    content = {"images": [{"id": 1, "file_name": "1.jpg", "height": 50, "width": 50}], "categories": [
        {"id": i, "name": name, "synset": synset, "frequency": letter}
        for i, (name, synset, letter) in enumerate(named, start=1)]}
    content["annotations"] = [{"id": i, "image_id": 1, "category_id": i, "bbox": [i, i, 9, 9], "area": 81,
                               "segmentation": [[i, i, i + 9, i, i + 9, i + 9]]} for i in range(1, 5)]
    (tmp_path / "lvis.json").write_text(json.dumps(content))
    table = load_annotations(tmp_path / "lvis.json", masks=True)
    assert prepare(table, table, small, tmp_path) == (3, 2, 1)
    categories = CategoryMap.load(tmp_path / "categories_997.json")
    assert categories.groups == ["base", "novel", "base"] and categories.det_index.tolist() == [0, -1, 1]
    assert [sorted(categories.wnids)[row] for row in categories.cls_index.tolist()] == categories.wnids == [small.wnid(
        synset) for _, synset, _ in named[:3]]
    base = load_annotations(tmp_path / "base_train", masks=True)
    assert (base.category_names == ["airplane", "ashtray"] and base.boxes[:, 0].tolist() == [1, 3]
            and len(base.image_ids) == 1)


def test_a_folder_that_is_not_wordnet_is_one_line(tmp_path):
    with pytest.raises(InputError, match="wordnet-base"):
        WordNet(tmp_path)
    write_wordnet(tmp_path)
    (tmp_path / "index.noun").write_text("apple n 2 1 @ 2 0 07739125\n")
    with pytest.raises(InputError, match="index.noun:1"):
        WordNet(tmp_path)


def test_ambiguous_names_wait_for_a_review_and_a_review_is_obeyed(small, tmp_path):
    """G9."""
    names = ["Airplane", "Apple", "Apples", "Mouse", "Stop Sign", "Ashtrays/other"]
    rows = {name: (decision, wnid) for name, decision, wnid, _ in overlap(names, small, {})}
    assert rows == {"Airplane": ("lemma", "n02691156"), "Apple": ("ambiguous", None), "Apples": ("ambiguous", None),
                    "Mouse": ("ambiguous", None),
                    "Stop Sign": ("none", None), "Ashtrays/other": ("lemma", "n02747802")}
    path = tmp_path / "reviewed.tsv"
    path.write_text(
        "name\tdecision\twnid\tcandidates\nMouse\treviewed\tn03793489\t\n"
        "Apples\treviewed\t\t\nAirplane\tlemma\tn02691156\t\n")
    reviewed = read_review(path, names)
    rows = {name: (decision, wnid) for name, decision, wnid, _ in overlap(names, small, reviewed)}
    assert (rows["Mouse"] == ("reviewed", "n03793489") and rows["Apples"] == ("reviewed", None)
            and rows["Apple"] == ("lemma", "n07739125"))
    path.write_text("Mouse\tReviewed \tn03793489\t\n")
    assert read_review(path, names) == {"Mouse": "n03793489"}
    for line, says in (("Moose\treviewed\t", "'Moose'"), ("Mouse\tambiguous\tn03793489", "needs the decision reviewed"),
                       ("Mouse\tyes\t", "decision 'yes'"), ("Mouse\treviewed\tn00000000", "one of the 21,841"),
                       ("Mouse\treviewed\tn02330245\nApple\treviewed\tn02330245", ":2: 'n02330245'")):
        path.write_text(line)
        with pytest.raises(InputError, match=says):
            read_review(path, names)


def test_a_misspelt_name_is_corrected_everywhere_and_what_it_brings_is_said(small, tmp_path, monkeypatch, capsys):
    """G9: "Aple" stands for one of the 13; a review may use either spelling."""
    monkeypatch.setitem(MEANT, "Aple", "Apple")
    gradient = np.zeros((20, 20, 3), dtype=np.uint8)
    (tmp_path / "patch0").mkdir()
    Image.fromarray(gradient).save(tmp_path / "patch0" / "a.jpg")
    content = {"images": [{"id": 1, "file_name": "patch0/a.jpg", "height": 20, "width": 20}],
               "categories": [{"id": 1, "name": "Aple"}, {"id": 2, "name": "Airplane"}],
               "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "area": 12}]}
    (tmp_path / "train.json").write_text(json.dumps(content))
    places = {"train": tmp_path / "train.json", "images": tmp_path, "wordnet": tmp_path.parent / "wordnet0",
              "out": tmp_path / "out"}
    argv = [text for name, path in places.items() for text in (f"--{name}", str(path))]
    main(argv)
    printed = capsys.readouterr().out
    assert "names: 1 corrected (Aple -> Apple)" in printed and "2 by lemma (1 with the names as distributed)" in printed
    assert load_annotations(tmp_path / "out" / "train_boxes").category_names == ["Apple", "Airplane"]
    assert "Apple\tlemma\tn07739125" in (tmp_path / "out" / "overlap.tsv").read_text()
    for spelling in ("Aple", "Apple"):
        (tmp_path / "reviewed.tsv").write_text(f"{spelling}\treviewed\t\n")
        main([*argv, "--reviewed", str(tmp_path / "reviewed.tsv")])
        assert "1 by lemma" in capsys.readouterr().out


def test_objects365_is_mended_as_a_plain_loop_mends_it(tmp_path):
    """Cut, outside, below a pixel, copied, missing, crowd: against a loop over the JSON."""
    rng = np.random.default_rng(0)
    images = [{"id": 10 - i, "file_name": f"images/v1/patch{i % 2}/{i}.jpg", "height": 40, "width": 60}
              for i in range(8)]
    rows = [{"id": i, "image_id": int(rng.integers(3, 11)), "category_id": int(rng.integers(1, 3)),
             "bbox": [float(v) for v in rng.integers(-10, 60, 2)] + [float(v) for v in rng.choice([0.5, 5, 20, 40], 2)],
             "area": 1.0, "iscrowd": int(rng.random() < 0.1)} for i in range(150)]
    rows += [{**rows[k], "id": 200 + k} for k in range(0, 60, 3)]
    (tmp_path / "a.json").write_text(json.dumps(
        {"images": images, "annotations": rows, "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]}))
    for image in images[:6]:
        path = tmp_path / "train" / image["file_name"].removeprefix("images/v1/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    table, faults = mend(load_annotations(tmp_path / "a.json"), tmp_path / "train")
    expected, seen, counts = [], set(), {"missing": 2, "cut": 0, "inside": 0, "copy": 0}
    for image in sorted(images[:6], key=lambda r: r["id"]):
        for row in (r for r in rows if r["image_id"] == image["id"]):
            x, y, w, h = row["bbox"]
            x1, y1, x2, y2 = max(x, 0), max(y, 0), min(x + w, 60), min(y + h, 40)
            key = (row["image_id"], row["category_id"], *row["bbox"])
            if x2 - x1 < 1 or y2 - y1 < 1:
                counts["inside"] += 1
            elif key in seen:
                counts["copy"] += 1
            else:
                counts["cut"] += [x1, y1, x2, y2] != [x, y, x + w, y + h]
                expected.append((row["image_id"], row["category_id"], [x1, y1, x2 - x1, y2 - y1], bool(row["iscrowd"])))
                seen.add(key)
    assert list(zip(table.image_ids[table.image_index].tolist(), table.category_ids[table.category_index].tolist(),
                    table.boxes.tolist(), table.crowd.tolist())) == expected
    assert {word: sum(word in what for _, what in faults) for word in counts} == counts and min(counts.values()) > 1
    assert table.file_names[0] == "patch1/5.jpg" and table.image_ids.tolist() == [5, 6, 7, 8, 9, 10]
    with pytest.raises(InputError, match="holds none of the 8 images"):
        mend(load_annotations(tmp_path / "a.json"), tmp_path / "nothing")


XML = ("<annotation><size><width>100</width><height>50</height></size><object><name>n01440764</name><bndbox>"
       "<xmin>0</xmin><ymin>2</ymin><xmax>9</xmax><ymax>{}</ymax></bndbox></object></annotation>")


def test_imagenets_boxes_are_inclusive_pixels_cut_at_the_picture(tmp_path):
    (tmp_path / "a.xml").write_text(XML.format(5))
    assert read_xml(tmp_path / "a.xml") == ((50, 100), [("n01440764", [0, 2, 9, 5])])
    assert (inside([0, 2, 9, 5], (100, 100)) == [0, 2, 10, 4]
            and inside([-3, 90, 120, 120], (100, 100)) == [0, 90, 100, 10])
    assert inside([100, 0, 120, 50], (100, 100)) is None
    bomb = '<!DOCTYPE a [<!ENTITY b "' + "x" * 99 + '">]>'
    for text, says in (("<a>", "not an annotation"), (XML.format("x"), "not an annotation"), (XML.format(
        "nan"), "no number of pixels"), (bomb + XML.format(5), "entities"), (XML.format("1e9"), "no number of pixels")):
        (tmp_path / "a.xml").write_text(text)
        with pytest.raises(InputError, match=says):
            read_xml(tmp_path / "a.xml")


def test_the_kits_list_must_agree_with_the_boxes(tmp_path):
    """As class numbers in an order of their own, as wnids, or with file names before them."""
    pictures, wnids = ["a", "b", "c", "d"], ["n2", "n1", "n2", ""]
    for text in ("7\n3\n7\n3\n", "n2\nn1\nn2\nn1\n", "a n2\nb n1\nc n2\nd n9\n"):
        (tmp_path / "t.txt").write_text(text)
        check_truth(tmp_path / "t.txt", pictures, wnids)
    for text, says in (("7\n3\n3\n3\n", "c is 3 .n1., its XML says n2"),
                       ("7\n3\n8\n3\n", "c is 8, but n2 was 7 before"), ("n1\nn1\nn2\nn1", "a is n1"),
                       ("1\n2\n", "2 lines, but there are 4")):
        (tmp_path / "t.txt").write_text(text)
        with pytest.raises(InputError, match=says):
            check_truth(tmp_path / "t.txt", pictures, wnids)


def test_faulty_validation_pictures_are_left_out_with_a_reason(tmp_path):
    done = run("s21k.prepare.shapes", "--format", "imagenet", "--out", str(tmp_path / "d"), "--images-per-category",
               "1", "--detection-images", "1", "--val-per-category", "1", "--size", "48", module=True)
    assert done.returncode == 0, done.stderr
    images, boxes = tmp_path / "d" / "ILSVRC2012_img_val", tmp_path / "d" / "ILSVRC2012_bbox_val_v3" / "val"
    names = sorted(p.stem for p in images.iterdir())
    (images / f"{names[0]}.JPEG").write_bytes((images / f"{names[0]}.JPEG").read_bytes()[:-300])
    (boxes / f"{names[1]}.xml").unlink()
    (boxes / f"{names[2]}.xml").write_text("<x")
    two = (boxes / f"{names[3]}.xml").read_text()
    (boxes / f"{names[3]}.xml").write_text(two.replace("</annotation>", XML.format(5)[XML.index("<object>"):]))
    call = ["s21k.prepare.imagenet_val", "--index", str(tmp_path / "d" / "train"), "--images", str(images), "--boxes",
            str(boxes), "--out", str(tmp_path / "d" / "imagenet1k")]
    assert run("s21k.prepare.imagenet", str(tmp_path / "d" / "ILSVRC2012_img_train"), "--out",
               str(tmp_path / "d" / "train"), "--processes", "1", module=True).returncode == 0
    done = run(*call, module=True)
    assert done.returncode == 0, done.stderr
    faults = dict(line.split("\t")
                  for line in (tmp_path / "d" / "imagenet1k" / "val.faults.tsv").read_text().splitlines()[1:])
    for name, says in zip(names, ("cannot be decoded", "no XML", "not an annotation", "objects of 2 classes")):
        assert says in faults[f"{name}.JPEG"]
    table = load_annotations(tmp_path / "d" / "imagenet1k" / "val_boxes.json")
    assert (len(table.image_ids) == len(names) - 4
            and len((tmp_path / "d" / "imagenet1k" / "val.tsv").read_text().splitlines()) == len(names) - 4)
    assert run(*call, module=True).returncode == 0                                    # again: the link is there
    done = run(*call[:3], "--images", str(tmp_path / "d" / "coco" / "train2017"), *call[5:], module=True)
    assert done.returncode == 2


def test_boxes_stay_where_they_were_drawn_on_pictures_that_exif_rotates(tmp_path):
    """XML of the file's own rows: the image is then read unrotated. XML of another size: a fault."""
    from PIL import Image

    from s21k.data.detection import DetectionData
    from s21k.files.archives import ImageIndex
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("val", "train/n01440764", "xml"):
        (tmp_path / name).mkdir(parents=True)
    for i in range(3):
        Image.new("RGB", (100, 50), (200, 10, 10)).save(tmp_path / "val" / f"{i}.JPEG", exif=exif)
        size = [(100, 50), (50, 100), (70, 70)][i]                                     # stored, upright, neither
        (tmp_path / "xml" / f"{i}.xml").write_text(
            XML.format(5).replace("<width>100", f"<width>{size[0]}").replace("<height>50", f"<height>{size[1]}"))
    Image.new("RGB", (9, 9)).save(tmp_path / "train" / "n01440764" / "a.JPEG")
    assert run("s21k.prepare.imagenet", str(tmp_path / "train"), "--out", str(tmp_path / "index"), "--processes", "1",
               module=True).returncode == 0
    done = run("s21k.prepare.imagenet_val", "--index", str(tmp_path / "index"), "--images", str(tmp_path / "val"),
               "--boxes", str(tmp_path / "xml"), "--out", str(tmp_path / "out"), module=True)
    assert done.returncode == 0 and ImageIndex.load(tmp_path / "index").class_names == ["n01440764"], done.stderr
    table = load_annotations(tmp_path / "out" / "val_boxes.json")
    assert (list(zip(table.heights.tolist(), table.widths.tolist())) == [(50, 100), (100, 50)]
            and "drawn on (70, 70)" in (tmp_path / "out" / "val.faults.tsv").read_text())
    data = DetectionData(tmp_path / "out" / "val_boxes.json", tmp_path / "out" / "val")
    assert [data.read(i)[0].size for i in range(2)] == [(100, 50), (50, 100)]


def test_second_copies_are_found_as_a_dictionary_finds_them():
    from s21k.prepare.objects365 import second_copies
    rng = np.random.default_rng(0)
    columns = [rng.integers(0, 3, 500).astype(np.int32), rng.choice([0.0, -0.0, 1.5, 2.0**40], 500),
               rng.choice([1e-300, 7.25], 500)]
    seen, slow = set(), []
    for row in zip(*(c.tolist() for c in columns)):
        slow.append(row in seen)
        seen.add(row)
    assert second_copies(columns).tolist() == slow and 400 < sum(slow) < 500

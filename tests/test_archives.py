"""ImageNet read where it lies: tars and folders, their faults, the index, and the benchmark's split."""
import io
import json
import os
import shutil
import tarfile

import numpy as np
import pytest
from PIL import Image

from s21k.core.categories import imagenet21k_wnids
from s21k.core.errors import InputError
from s21k.core.packed import PackedStrings
from s21k.data.classification import ClassificationData
from s21k.files.archives import ImageIndex, Region, members
from s21k.files.images import image_size, read_image
from s21k.prepare.in21k_benchmark import choose, split, validation_count
from s21k.prepare.shape_formats import write_tars
from tests.toy import run


def jpeg(color=(10, 200, 30), size=(40, 30)) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", size, color).save(content, "JPEG")
    return content.getvalue()


def write_tar(path, files, form=tarfile.GNU_FORMAT):
    with tarfile.open(path, "w", format=form) as tar:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_members_are_found_at_their_bytes(tmp_path, form):
    """Names longer than a header's 100 characters (GNU LongLink, pax) included."""
    files = ([(f"n{i}.JPEG", os.urandom(700 * i)) for i in range(5)]
             + ([] if form == tarfile.USTAR_FORMAT else [("d/" * 60 + "long.JPEG", b"x" * 513)]))
    path = write_tar(tmp_path / "a.tar", files, form)
    raw = path.read_bytes()
    assert [(m.name, raw[m.offset:m.offset + m.size]) for m in members(path)] == files


def test_a_damaged_tar_gives_what_comes_before_and_says_where(tmp_path):
    files = [(f"{i}.JPEG", bytes([i]) * 1000) for i in range(4)]
    raw = write_tar(tmp_path / "a.tar", files).read_bytes()

    def read(content):
        (tmp_path / "b.tar").write_bytes(content)
        found = []
        with pytest.raises(InputError, match="cut off|damaged|not a readable tar") as said:
            for member in members(tmp_path / "b.tar"):
                found.append(member.name)
        return found, str(said.value)

    third = 3 * (512 + 1024)
    assert read(raw[:third + 600])[0] == ["0.JPEG", "1.JPEG", "2.JPEG"]               # in the middle of a file
    assert read(raw[:third])[0] == ["0.JPEG", "1.JPEG", "2.JPEG"]                     # between two, without an end mark
    broken = bytearray(raw)
    broken[2 * 1536:2 * 1536 + 512] = os.urandom(512)
    names, says = read(bytes(broken))
    # a header of noise: tarfile alone would end in silence
    assert names == ["0.JPEG", "1.JPEG"] and "3072" in says
    assert read(b"no tar at all")[0] == [] and read(b"")[0] == []
    negative = tarfile.TarInfo("back.JPEG").tobuf(tarfile.GNU_FORMAT)
    # base 256, -512: tarfile would step back for ever
    size = (256**11 - 512 + 0xFF * 256**11).to_bytes(12, "big")
    header = negative[:124] + size + negative[136:]
    header = header[:148] + b"%06o\0 " % (sum(header[:148]) + 32 * 8 + sum(header[156:])) + header[156:]
    names, says = read(raw[:1536] + header + raw[1536:])
    assert names == ["0.JPEG"] and "back.JPEG" in says


def test_a_region_is_a_file_of_its_own(tmp_path):
    raw = os.urandom(100) + jpeg() + os.urandom(50)
    (tmp_path / "f").write_bytes(raw)
    with Region(tmp_path / "f", 100, len(raw) - 150, "x") as region:
        assert image_size(region) == (30, 40)
        region.seek(-10, os.SEEK_END)
        assert region.read(100) == raw[-60:-50] and region.read(5) == b""


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    """The miniature of ImageNet-21K with planted faults, as tars and unpacked into folders, both indexed."""
    root = tmp_path_factory.mktemp("faulty")
    done = run("s21k.prepare.shapes", "--format", "objects365", "--out", str(root / "data"), "--images-per-category",
               "8", "--detection-images", "2", "--size", "48", module=True)
    assert done.returncode == 0, done.stderr
    tars, folders = root / "data" / "imagenet21k_tars", root / "folders"
    for path in sorted(tars.glob("*.tar")):
        (folders / path.stem).mkdir(parents=True)
        for member in members(path):
            if "/" not in member.name:
                (folders / path.stem / member.name).write_bytes(
                    path.read_bytes()[member.offset:member.offset + member.size])
    for source, out in ((tars, "from_tars"), (folders, "from_folders")):
        done = run("s21k.prepare.imagenet", str(source), "--out", str(root / out), "--processes", "1", module=True)
        assert done.returncode == 0, done.stderr
    return root


def test_every_planted_fault_ends_as_documented(faulty):
    """Repaired, or in quarantine with a reason; none is served with a wrong label, none cannot be read."""
    rows = [line.split("\t") for line in (faulty / "from_tars.quarantine.tsv").read_text().splitlines()[1:]]
    reasons = {name.removeprefix("n07753592_").removesuffix(".JPEG"): reason
               for wnid, name, reason in rows if wnid == "n07753592"}
    assert reasons.keys() == {"truncated", "empty", "nopicture", "twice", "../outside"} and len(rows) == 5
    for name, says in {"truncated": "cannot be decoded", "empty": "empty file", "nopicture": "of no known format",
                       "twice": "second file", "../outside": "leads out"}.items():
        assert says in reasons[name]
    index = ImageIndex.load(faulty / "from_tars")
    by_name = {index.names[i].removeprefix("n07753592_").removesuffix(".JPEG"): i
               for i in range(len(index)) if "_link" not in index.names[i]}
    repaired = {name: by_name[name]
                for name in ("gzipped", "cmyk", "16bit", "palette", "1x1", "rotated", "a" * 120, "twice")}
    data = ClassificationData(faulty / "from_tars")
    good, grey = (np.asarray(data.read(repaired[name])[0]).astype(int) for name in ("a" * 120, "16bit"))
    for name, i in repaired.items():
        picture, label = data.read(i)
        assert (picture.mode == "RGB" and data.class_names[label] == "n07753592"
                and (picture.height, picture.width) == (index.heights[i], index.widths[i]))
        if name in ("gzipped", "twice"):
            assert np.array_equal(np.asarray(picture), good)
        if name in ("cmyk", "palette", "rotated"):
            # a palette of 216 colours; half is 128
            assert np.abs(np.asarray(picture).astype(int) - good).mean() < 25, name
    light = np.asarray(data.read(repaired["twice"])[0].convert("L")).astype(int)[..., None]
    assert np.abs(grey - light).mean() < 3 and repaired["1x1"] in range(len(index))
    assert not any("link" in index.names[i] for i in range(len(index)))               # a link in a tar is no file


def test_tars_and_folders_give_the_same_pictures(faulty):
    one, two = ClassificationData(faulty / "from_tars"), ClassificationData(faulty / "from_folders")
    names = [[data.index.names[i] for i in range(len(data))] for data in (one, two)]
    assert names[0] == names[1] and np.array_equal(one.labels, two.labels) and one.class_names == two.class_names
    for i in range(0, len(one), 7):
        assert np.array_equal(np.asarray(one.read(i)[0]), np.asarray(two.read(i)[0]))
    # without an index; the faults are among them
    plain = ClassificationData(faulty / "folders")
    assert len(plain) == len(one) + 3 and plain.class_names == one.class_names


def test_the_index_moves_with_its_pictures_and_refuses_other_places(faulty, tmp_path):
    shutil.copytree(faulty, tmp_path / "moved")
    data = ClassificationData(tmp_path / "moved" / "from_tars")
    assert str(tmp_path) in str(data.index.root.resolve()) and data.read(0)[0].mode == "RGB"
    about = json.loads((tmp_path / "moved" / "from_tars" / "table.json").read_text())
    about["about"]["containers"][0] = "../../../etc"
    (tmp_path / "moved" / "from_tars" / "table.json").write_text(json.dumps(about))
    with pytest.raises(InputError, match="leads out of its root"):
        ClassificationData(tmp_path / "moved" / "from_tars")
    hostile = ImageIndex(tmp_path, ["a"], ["a"], np.zeros(1, np.int32), PackedStrings(["../secret.jpg"]), np.zeros(
        1, np.int32), np.full(1, -1), np.ones(1, np.int64), np.ones(1, np.int32), np.ones(1, np.int32))
    with pytest.raises(InputError, match="leads out of it"):
        hostile.open(0)


def test_indexing_continues_and_reads_only_what_changed(tmp_path):
    write_tars(tmp_path / "tars", 3, 40, seed=0)

    def index():
        done = run("s21k.prepare.imagenet", str(tmp_path / "tars"), "--out", str(tmp_path / "index"), "--processes",
                   "1", module=True)
        assert done.returncode == 0, done.stderr
        return ImageIndex.load(tmp_path / "index")

    before = len(index())
    parts = sorted((tmp_path / "index.parts").iterdir())
    stamps = [p.stat().st_mtime_ns for p in parts]
    parts[3].write_bytes(parts[3].read_bytes()[:100])                                 # as if killed while writing
    parts[5].unlink()
    write_tar(tmp_path / "tars" / f"{parts[7].stem}.tar", [("new.JPEG", jpeg())])
    after = index()
    renewed = [i for i, (p, stamp) in enumerate(zip(parts, stamps)) if p.stat().st_mtime_ns != stamp]
    assert renewed == [3, 5, 7] and len(after) == before - 3 + 1
    names = [after.names[i] for i in range(len(after))]
    assert "new.JPEG" in names and not any(n.startswith(f"{parts[7].stem}_") for n in names)


def test_a_changed_file_and_a_broken_link_in_a_folder_are_seen(tmp_path):
    folder = tmp_path / "pictures" / "n00000001" / "deeper"
    folder.mkdir(parents=True)
    for name in "ab":
        (folder / f"{name}.JPEG").write_bytes(jpeg())
    (folder / "gone.JPEG").symlink_to("/nowhere/x.JPEG")

    def index():
        done = run("s21k.prepare.imagenet", str(tmp_path / "pictures"), "--out", str(tmp_path / "index"), "--processes",
                   "1", module=True)
        assert done.returncode == 0, done.stderr
        return ImageIndex.load(tmp_path / "index"), (tmp_path / "index.quarantine.tsv").read_text()

    first, quarantine = index()
    assert len(first) == 2 and "deeper/gone.JPEG\tcannot be read" in quarantine
    (folder / "a.JPEG").write_bytes(jpeg(size=(80, 60)))                              # the folder's own time stays
    (folder / "b.JPEG").write_bytes(b"")
    second, quarantine = index()
    assert len(second) == 1 and second.widths.tolist() == [80] and "b.JPEG" in quarantine


def test_an_index_below_a_linked_folder_finds_its_pictures(tmp_path):
    """".." after a link leads elsewhere than the path says."""
    for name in ("deep/disk/data", "archives", "project"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "project" / "data").symlink_to(tmp_path / "deep" / "disk" / "data")
    write_tar(tmp_path / "archives" / "n00000001.tar", [("a.JPEG", jpeg())])
    out = tmp_path / "project" / "data" / "x" / "train"
    out.parent.mkdir()
    done = run("s21k.prepare.imagenet", str(tmp_path / "archives"), "--out", str(out), "--processes", "1", module=True)
    assert done.returncode == 0 and ClassificationData(out).read(0)[0].size == (40, 30), done.stderr


@pytest.mark.parametrize("words, says", [
    (["nowhere"], "no such folder"), (["empty"], "no n<8 digits>"), (["tars", "--wnids", "nofile"], "cannot be read"),
    (["tars", "--wnids", "bad.txt"], "entry 2 is 'dog'"),
    (["tars", "--wnids", "twice.txt"], "expected each once"),
    (["tars", "--wnids", "imagenet21K"], "did you mean 'imagenet21k'"),
    (["tars", "--wnids", "other.txt"], "no good images")])
def test_what_cannot_be_indexed_is_one_line(tmp_path, monkeypatch, words, says):
    (tmp_path / "empty").mkdir()
    (tmp_path / "tars").mkdir()
    write_tar(tmp_path / "tars" / "n00000001.tar", [("a.JPEG", jpeg())])
    for name, text in {"bad.txt": "n00000001\ndog", "twice.txt": "n00000001 n00000001",
                       "other.txt": "n00000002"}.items():
        (tmp_path / name).write_text(text)
    words = [str(tmp_path / w) if w in ("nowhere", "empty", "tars") or w.endswith(".txt") else w for w in words]
    done = run("s21k.prepare.imagenet", *words, "--out", str(tmp_path / "out"), "--processes", "1", module=True)
    assert done.returncode == 2 and says in done.stderr and done.stderr.strip().count("\n") <= 1, done.stderr


# --- the split [P44-P46, G30, T7] ---

def test_the_splits_rule_for_every_small_class():
    """P44, P45, G30, T7: none below 5; 20 % rounded down, one at least, below 25; 5 from 25 on."""
    expected = {4: 0, **{n: 1 for n in range(5, 10)}, **{n: 2 for n in range(10, 15)}, **{n: 3 for n in range(15, 20)},
                **{n: 4 for n in range(20, 25)}, **{n: 5 for n in range(25, 31)}}
    assert {n: validation_count(n) for n in range(4, 31)} == expected
    assert [validation_count(n) for n in (0, 1, 3, 1000)] == [0, 0, 0, 5]
    for n in range(4, 31):
        names = [f"{i}.JPEG" for i in range(n)]
        assert len(choose("n01440764", names, 0)) == expected[n]


def test_the_split_does_not_depend_on_the_order_of_listing_nor_on_other_classes():
    """P44, G30."""
    rng, names = np.random.default_rng(0), [f"n01440764_{i}.JPEG" for i in range(40)]
    chosen = {names[i] for i in choose("n01440764", names, 0)}
    for _ in range(5):
        order = rng.permutation(40)
        assert {names[order[i]] for i in choose("n01440764", [names[i] for i in order], 0)} == chosen
    assert {names[i] for i in choose("n01440764", names, 1)} != chosen
    for packed in ("./{}", "n01440764/{}"):                                           # nor on how an archive was packed
        assert choose("n01440764", [packed.format(name) for name in names], 0) == choose("n01440764", names, 0)
    assert [choose(wnid, names, 0) for wnid in ("n01440764", "n01443537")][0] != choose("n01443537", names, 0)


def test_training_and_validation_share_no_picture(faulty, tmp_path):
    """P44, G30; the paper's counts are printed beside [P46]."""
    done = run("s21k.prepare.in21k_benchmark", "--index", str(faulty / "from_tars"), "--out", str(tmp_path / "b"),
               module=True)
    assert done.returncode == 0 and "21077" in done.stdout, done.stderr
    everything, train = ImageIndex.load(faulty / "from_tars"), ClassificationData(tmp_path / "b" / "train")
    val = ClassificationData(tmp_path / "b" / "val.tsv", train.class_names)
    manifest = [tuple(line.split("\t")) for line in (tmp_path / "b" / "manifest.tsv").read_text().splitlines()[1:]]
    trained = {(train.class_names[train.labels[i]], train.index.names[i]) for i in range(len(train))}
    whole = {(everything.class_names[everything.label[i]], everything.names[i]) for i in range(len(everything))}
    assert trained | set(manifest) == whole and not trained & set(manifest) and len(val) == len(manifest)
    counts = np.bincount(everything.label, minlength=len(everything.class_names))
    for row, wnid in enumerate(everything.class_names):
        assert sum(w == wnid for w, _ in manifest) == validation_count(counts[row])
    content = json.loads((tmp_path / "b" / "val_images.json").read_text())
    for image in content["images"]:
        assert image_size(tmp_path / "b" / "val" / image["file_name"]) == (image["height"], image["width"])
    assert split(everything, 0).sum() == len(manifest) and train.read(0)[0].mode == "RGB"


def test_the_vocabulary_is_the_one_of_imagenet_21k():
    wnids = imagenet21k_wnids()
    assert len(wnids) == 21841 and wnids == sorted(set(wnids)) and wnids[0] == "n00004475"


def test_a_gzip_bomb_is_refused(tmp_path):
    """Inside is more than any image has; no more than the limit is unpacked."""
    import zlib

    from s21k.files import images
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    (tmp_path / "bomb.JPEG").write_bytes(packer.compress(bytes(300_000_000)) + packer.flush())
    with pytest.raises(InputError, match="not a readable image"):
        read_image(tmp_path / "bomb.JPEG")
    assert images.MAX_BYTES < 300_000_000


# --- tars and folders as people have them ---

def gz(path):
    import gzip
    target = path.with_name(path.name + ".gz")
    target.write_bytes(gzip.compress(path.read_bytes()))
    return target


def index_of(tmp_path, source, *more):
    done = run(
        "s21k.prepare.imagenet", str(source), "--out", str(tmp_path / "index"), "--processes", "1", *more, module=True
    )
    assert done.stderr.count("\n") <= (done.returncode == 2) + 1, done.stderr  # a progress bar, and a line
    return done


@pytest.mark.parametrize("kind", ["gzip", "bz2", "lzma"])
def test_a_compressed_tar_that_is_named_tar_says_so_and_leaves_its_quarantine(tmp_path, kind):
    import importlib
    (tmp_path / "tars").mkdir()
    path = write_tar(tmp_path / "tars" / "n00000001.tar", [("a.JPEG", jpeg())])
    path.write_bytes(importlib.import_module(kind).compress(path.read_bytes()))
    done = index_of(tmp_path, tmp_path / "tars")
    name = {"gzip": "gzip", "bz2": "bzip2", "lzma": "xz"}[kind]
    assert (
        done.returncode == 2
        and f"{name} data, not a plain tar: it cannot be read in place, expected it unpacked (see index.quarantine.tsv)"
        in done.stderr
    )
    assert (
        "n00000001\t\t" in (tmp_path / "index.quarantine.tsv").read_text()
        and "n00000001\t0\t1" in (tmp_path / "index.report.tsv").read_text()
    )
    write_tar(tmp_path / "tars" / "n00000002.tar", [("\u00fc.JPEG", jpeg())])                # the others are indexed
    done = index_of(tmp_path, tmp_path / "tars")
    assert done.returncode == 0 and "1 images of 1 synsets of 2" in done.stdout and "1 in quarantine" in done.stdout


def test_tars_with_a_compressed_ending_are_counted_and_named(tmp_path):
    (tmp_path / "tars").mkdir()
    paths = [write_tar(tmp_path / "tars" / f"n0000000{i}.tar", [("a.JPEG", jpeg())]) for i in range(5)]
    gz(paths[0])                                                              # its plain tar is there as well
    for path in paths[1:3]:
        gz(path)
        path.unlink()
    paths[3].rename(paths[3].with_suffix(".tgz"))
    done = index_of(tmp_path, tmp_path / "tars")
    assert (
        done.returncode == 0
        and "note: " in done.stdout
        and "3 compressed tars are passed over (n00000001.tar.gz, n00000002.tar.gz, n00000003.tgz)" in done.stdout
    )
    assert "2 images of 2 synsets of 2" in done.stdout
    (tmp_path / "wnids.txt").write_text("n00000000 n00000002")
    done = index_of(tmp_path, tmp_path / "tars", "--wnids", str(tmp_path / "wnids.txt"))
    assert "1 compressed tars are passed over (n00000002.tar.gz)" in done.stdout
    for path in (paths[0], paths[4]):
        path.unlink()
    done = index_of(tmp_path, tmp_path / "tars")
    assert done.returncode == 2 and "its 4 tars are compressed (n00000000.tar.gz), expected plain ones" in done.stderr


@pytest.mark.parametrize("content", [b"", b"x", None])
def test_the_outer_tar_is_told_to_be_unpacked(tmp_path, content):
    inner = write_tar(tmp_path / "n00000001.tar", [("a.JPEG", jpeg())]).read_bytes()
    outer = write_tar(tmp_path / "ILSVRC2012_img_train.tar", [("n00000001.tar", inner)])
    if content is not None:
        outer.write_bytes(content)
    done = index_of(tmp_path, outer)
    assert (
        done.returncode == 2
        and "a file, expected a folder with a folder or a tar for each synset; of the outer tar: tar -xf FILE -C FOLDER"
        in done.stderr
    )


def test_linked_folders_and_system_files_of_a_synset(tmp_path):
    source, other = tmp_path / "all" / "n00000001", tmp_path / "disk" / "more"
    for folder in (source, other, source / ".ipynb_checkpoints", source / "__MACOSX"):
        folder.mkdir(parents=True)
        (folder / f"{folder.name[:4].strip('._')}.JPEG").write_bytes(jpeg())
    (source / "._x.JPEG").write_bytes(b"\0\5\x16\7")
    (source / "linked").symlink_to(other)
    (source / "round").symlink_to(source)
    done = index_of(tmp_path, tmp_path / "all")
    index = ImageIndex.load(tmp_path / "index")
    assert done.returncode == 0 and [index.names[i] for i in range(len(index))] == ["linked/more.JPEG", "n000.JPEG"]
    assert "the first of 3 hidden or system files and folders" in (tmp_path / "index.quarantine.tsv").read_text()
    (other / "new.JPEG").write_bytes(jpeg())                                  # below a link: seen as a change as well
    index_of(tmp_path, tmp_path / "all")
    assert len(ImageIndex.load(tmp_path / "index")) == 3


@pytest.mark.parametrize("layout", ["flat", "classes", "linked", "deep"])
def test_validation_images_are_found_flat_or_in_class_folders(tmp_path, layout):
    from s21k.prepare.imagenet_val import prepare
    wnids = ["n00000001", "n00000002"]
    images, boxes = tmp_path / "images", tmp_path / "xml"
    boxes.mkdir()
    for number in range(1, 5):
        name, wnid = f"ILSVRC2012_val_{number:08d}", wnids[number % 2]
        folder = {
            "flat": images,
            "classes": images / wnid,
            "linked": tmp_path / "disk" / wnid,
            "deep": images / "val" / "\u00fc" / wnid,
        }[layout]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.JPEG").write_bytes(jpeg())
        (boxes / f"{name}.xml").write_text(
            f"<annotation><size><width>40</width><height>30</height></size><object>"
            f"<name>{wnid}</name><bndbox><xmin>1</xmin><ymin>2</ymin>"
            "<xmax>20</xmax><ymax>25</ymax></bndbox></object></annotation>"
        )
    if layout == "linked":
        images.mkdir()
        for wnid in wnids:
            (images / wnid).symlink_to(tmp_path / "disk" / wnid)
    (images / ".DS_Store").write_bytes(b"")
    (tmp_path / "truth.txt").write_text("2\n1\n2\n1\n")  # in the order of the files' numbers, not of the folders
    counts = prepare(wnids, images, boxes, tmp_path / "truth.txt", {}, tmp_path / "out")
    assert counts == {"images": 4, "boxes": 4, "classes": 2, "faults": 0}
    data = ClassificationData(tmp_path / "out" / "val.tsv", wnids)
    assert [wnids[label] for label in data.labels] == [wnids[n % 2] for n in (1, 2, 3, 4)] and data.read(3)[0].size == (
        40,
        30,
    )
    from s21k.data.detection import DetectionData
    assert DetectionData(tmp_path / "out" / "val_boxes.json", images).read(0)[0].size == (40, 30)

"""Seeded mutation of everything that enters from outside. What comes of it must be correct work, or an InputError of
one line; no other error, no hang, and no label that the file does not say.
"""
import contextlib
import copy
import io
import json
import math
import random
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image

from s21k.core import errors
from s21k.core.categories import CategoryMap
from s21k.core.config import load_config
from s21k.core.errors import InputError
from s21k.data.classification import ClassificationData
from s21k.data.detection import DetectionData
from s21k.evaluation.detections_file import locate, read_detections
from s21k.evaluation.ground_truth import GroundTruth
from s21k.files.annotations import load_annotations
from s21k.files.archives import ImageIndex, members
from s21k.files.images import check_image, image_size, read_image
from s21k.models.detector import restore_detector
from s21k.prepare.imagenet import _listing, scan
from s21k.prepare.imagenet_val import read_xml
from s21k.prepare.objects365 import read_review
from s21k.prepare.shape_formats import write_tars, write_wordnet
from s21k.prepare.wordnet import WordNet
from s21k.training.checkpoint import read
from tests.fuzz_real import image_folder, other_checkpoint, results_file
from tests.test_average_precision import add_masks, random_detections, random_truth

WEIRD = [None, True, False, -1, 0, 1, 7, 2**31, 2**63, 2**70, -2**70, 0.5, 1e308, float("nan"), float("inf"), "", "a",
         "1", "\0", "ü" * 50, "../../x", "/x", "\ud800", [], {}, [[]], [0] * 4, {"id": 1}, [[[[[[]]]]]]]
SECONDS, HANGS = 20, 300  # for one case: of the processor, and on the clock (a busy machine may let it wait)


def mutate_tree(rng: random.Random, tree: object) -> object:
    """A copy with some values or keys replaced, taken out, doubled or moved."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        node = tree
        while isinstance(node, (dict, list)) and node:
            key = rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
            if not isinstance(node[key], (dict, list)) or not node[key] or rng.random() < 0.15:
                kind = rng.random()
                if kind < 0.6:
                    node[key] = copy.deepcopy(rng.choice(WEIRD))
                elif kind < 0.75:
                    del node[key]
                elif isinstance(node, list):
                    node.insert(rng.randrange(len(node) + 1), copy.deepcopy(rng.choice(node)))
                else:
                    node[str(rng.choice(["x", key, "id", "name"]))] = copy.deepcopy(rng.choice(list(node.values())))
                break
            node = node[key]
    return tree


def mutate_bytes(rng: random.Random, content: bytes) -> bytes:
    """Flipped, cut, inserted, doubled bytes."""
    content = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 4, 20])):
        at = rng.randrange(len(content) + 1)
        kind = rng.random()
        if kind < 0.4 and content:
            content[at % len(content)] = rng.randrange(256)
        elif kind < 0.55:
            del content[at:at + rng.choice([1, 2, 10, 1000])]
        elif kind < 0.7:
            content[at:at] = bytes(rng.randrange(256) for _ in range(rng.choice([1, 4, 50])))
        elif kind < 0.8:
            content[at:at] = content[max(0, at - rng.randrange(1, 200)):at]
        elif kind < 0.9 and len(content) > 8:
            content[at:at + 4] = rng.choice([b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x80\0\0\0"])
        else:
            del content[at:]
    return bytes(content)


def dumps(tree: object) -> bytes:
    return json.dumps(tree).encode("utf-8", errors="surrogatepass")


def both_ways(rng: random.Random, tree: object) -> bytes:
    return dumps(mutate_tree(rng, tree)) if rng.random() < 0.6 else mutate_bytes(rng, dumps(tree))


class World:
    """The good inputs, made once below a folder."""

    def __init__(self, root: Path) -> None:
        rng = np.random.default_rng(0)
        self.root = root
        self.truth = random_truth(rng)
        for image in self.truth["images"]:
            image.setdefault("file_name", f"{image['id']}.jpg")
            image["neg_category_ids"] = [1]
        self.rows = random_detections(rng, self.truth, per_image=4)
        add_masks(self.truth, self.rows)
        (root / "truth.json").write_bytes(dumps(self.truth))
        self.gt = GroundTruth.load(root / "truth.json")
        self.categories = [{"name": f"c{i}", "wnid": f"n{i:08d}", "det": i if i < 3 else None, "cls": i,
                            "group": "base" if i < 3 else "novel"} for i in range(6)]
        write_tars(root / "tars", 2, 32, seed=0)
        self.tar = (root / "tars" / "n02691156.tar").read_bytes()
        picture = Image.fromarray(rng.integers(0, 256, (40, 30, 3), dtype=np.uint8))
        self.pictures = []
        for kind, how in (("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("GIF", {}), ("TIFF", {}),
                          ("TIFF", {"compression": "tiff_lzw"}), ("WEBP", {}), ("BMP", {}), ("PPM", {}), ("ICO", {})):
            content = io.BytesIO()
            exif = Image.Exif()
            exif[0x0112] = 6
            picture.save(content, kind, **how, **({"exif": exif} if kind in ("JPEG", "WEBP", "TIFF") else {}))
            self.pictures.append(content.getvalue())
        (root / "pictures").mkdir()
        for name in ("a/1.jpg", "a/2.jpg", "b/1.jpg"):
            (root / "pictures" / name).parent.mkdir(exist_ok=True)
            (root / "pictures" / name).write_bytes(self.pictures[0])
        self.list = b"".join(f"pictures/{name}\t{name[0]}\n".encode() for name in ("a/1.jpg", "a/2.jpg", "b/1.jpg"))
        load_annotations(root / "truth.json", masks=True).save(root / "table")
        scan(root / "tars", root, ("n02691156", "n02691156.tar"))
        self.index_of(root / "tars").save(root / "index")
        write_wordnet(root / "wordnet")
        self.checkpoint, self.words = None, None

    @staticmethod
    def index_of(tars: Path) -> ImageIndex:
        from s21k.core.packed import PackedStrings
        found = list(members(tars / "n02691156.tar"))
        n = len(found)
        return ImageIndex(tars, ["n02691156", "n99999999"], ["n02691156.tar"], np.zeros(n, np.int32),
                          PackedStrings([m.name for m in found]), np.zeros(n, np.int32),
                          np.array([m.offset for m in found]), np.array([m.size for m in found]),
                          np.full(n, 9, np.int32), np.full(n, 9, np.int32))

    def trained(self) -> tuple[dict, list[str]]:
        """A checkpoint's content, and the words that made it."""
        if self.checkpoint is None:
            from s21k.models.detector import build_detector
            from tests.toy import SMALL
            self.words = ["toy", *SMALL, "data.det.classes=3", "data.cls.classes=6"]
            cfg = load_config(self.words)
            import dataclasses
            self.checkpoint = {"model": build_detector(cfg).state_dict(), "step": 1, "total": 2,
                               "config": dataclasses.asdict(cfg), "optimizer": {}, "scaler": {}, "data": {},
                               "categories": {"det": [f"c{i}" for i in range(3)], "cls": [f"c{i}" for i in range(6)]}}
        return self.checkpoint, self.words


# --- the targets: each mutates one kind of input, lets the project read it, and checks what was read ------------------

def annotations(world: World, rng: random.Random) -> None:
    path = world.root / "case.json"
    path.write_bytes(both_ways(rng, world.truth))
    masks = rng.random() < 0.5
    table = load_annotations(path, masks)
    content = json.loads(path.read_bytes().decode("utf-8-sig"))
    images, categories = ({row["id"] for row in content[part]} for part in ("images", "categories"))
    said = [(r["image_id"], r["category_id"], [float(v) for v in r["bbox"]])
            for r in content["annotations"] if r["image_id"] in images and r["category_id"] in categories]
    assert list(zip(table.image_ids[table.image_index].tolist(), table.category_ids[table.category_index].tolist(),
                    table.boxes.tolist())) == said
    data = DetectionData(path, world.root, masks)
    if len(data):
        with contextlib.suppress(InputError):
            data.read(0)


def image_list(world: World, rng: random.Random) -> None:
    path = world.root / "case.tsv"
    path.write_bytes(mutate_bytes(rng, world.list))
    data = ClassificationData(path, ["a", "b"] if rng.random() < 0.5 else None)
    said = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    assert [[data.paths[i], data.class_names[data.labels[i]]] for i in range(len(data))] == said
    data.read(0)


def category_json(world: World, rng: random.Random) -> None:
    path = world.root / "case.json"
    path.write_bytes(both_ways(rng, world.categories))
    categories = CategoryMap.load(path)
    for entry, name, det, cls in zip(json.loads(path.read_text()), categories.names, categories.det_index.tolist(),
                                     categories.cls_index.tolist(), strict=True):
        assert (entry["name"], entry.get("det"),
                entry.get("cls")) == (name, None if det < 0 else det, None if cls < 0 else cls)
    categories.check_rows([f"c{i}" for i in range(3)], [f"c{i}" for i in range(6)])


def picture(world: World, rng: random.Random) -> None:
    path = world.root / "case.jpg"
    content = mutate_bytes(rng, rng.choice(world.pictures))
    path.write_bytes(content)
    size = check_image(path, content[-2048:])
    assert size == image_size(path)
    image = read_image(path, rng.choice([None, 5]))
    assert image.mode == "RGB" and image.width > 0


def tar(world: World, rng: random.Random) -> None:
    folder = world.root / "case_tars"
    folder.mkdir(exist_ok=True)
    path, content = folder / "n02691156.tar", bytearray(mutate_bytes(rng, world.tar))
    if rng.random() < 0.7 and len(content) > 1024:
        # a header whose sum is right again: its values are believed
        at = rng.choice([0, *(member.offset - 512 for member in members(world.root / "tars" / "n02691156.tar"))])
        header = bytearray(content[at:at + 512])
        if len(header) == 512:
            place = rng.randrange(90, 260)
            header[place:place + 12] = rng.choice([b"\xff" * 12, b"\x80" + b"\0" * 10 + b"\1", b"77777777777\0",
                                                   b"5" + b"\0" * 11, bytes(rng.randrange(256) for _ in range(12))])
            header = header[:512]
            header[148:156] = b"%06o\0 " % (sum(header[:148]) + 256 + sum(header[156:]))
            content[at:at + 512] = header
    path.write_bytes(content)
    listed, faults = _listing(path)
    assert all(".." not in Path(name).parts and offset >= 0 and offset + size <= path.stat().st_size
               for name, offset, size in listed)
    scan(folder, world.root, ("n02691156", "n02691156.tar"))


def config(world: World, rng: random.Random) -> None:
    words = ["r18", "tiny"]
    if rng.random() < 0.5:
        path = world.root / "case.yaml"
        tree = yaml.safe_load(Path("s21k/configs/toy.yaml").read_text())
        content = (yaml.safe_dump(mutate_tree(rng, tree), allow_unicode=True).encode("utf-8", errors="replace")
                   if rng.random() < 0.6 else mutate_bytes(rng, yaml.safe_dump(tree).encode()))
        path.write_bytes(content)
        words.append(str(path))
    else:
        word = rng.choice(["stage2.lr=3e-4", "eval.metrics=[box_ap]", "model.rpn_pre_nms=[300,300]", "amp=bf16",
                           "data.cls=null", "stage1.epochs=2"])
        words.append(mutate_bytes(rng, word.encode()).decode(errors="replace"))
    cfg = load_config(words)
    assert cfg.stage2.lr >= 0 and math.isfinite(cfg.stage2.lr) and cfg.stage1.batch >= 1 and cfg.output_dir


def checkpoint_bytes(world: World, rng: random.Random) -> None:
    path = world.root / "case.pt"
    small = {"model": {"a": torch.arange(6.0)}, "step": 3, "categories": {"cls": ["a"]}, "config": {}, "data": {},
             "total": 3, "optimizer": {}, "scaler": {}}
    buffer = io.BytesIO()
    torch.save(small, buffer)
    path.write_bytes(mutate_bytes(rng, buffer.getvalue()))
    read(path)


def checkpoint_tree(world: World, rng: random.Random) -> None:
    content, words = world.trained()
    light = {key: value for key, value in content.items() if key != "model"}
    changed = mutate_tree(rng, light) | ({"model": dict(content["model"])} if rng.random() < 0.9 else {})
    if "model" in changed and rng.random() < 0.5:
        name = rng.choice(list(changed["model"]))
        changed["model"][name] = rng.choice([torch.zeros(3), torch.full_like(changed["model"][name], math.nan), 7,
                                             None])
    path = world.root / "case.json"
    path.write_bytes(dumps([{**c, "wnid": None} for c in world.categories]))
    torch.save(changed, world.root / "case.pt")
    changed = read(world.root / "case.pt")
    restore_detector(load_config(words), changed, CategoryMap.load(path))
    assert (changed["categories"]["det"][:3] == ["c0", "c1", "c2"]
            and changed["categories"]["cls"][:6] == [f"c{i}" for i in range(6)])


def detections(world: World, rng: random.Random) -> None:
    if rng.random() < 0.7:
        path = world.root / "case.json"
        path.write_bytes(both_ways(rng, world.rows))
    else:
        path = world.root / "case.npz"
        buffer = io.BytesIO()
        columns = {"image_id": np.array([r["image_id"] for r in world.rows]),
                   "category_id": np.array([r["category_id"] for r in world.rows]),
                   "score": np.array([r["score"] for r in world.rows]),
                   "bbox": np.array([r["bbox"] for r in world.rows])}
        name = rng.choice(list(columns))
        columns[name] = rng.choice([columns[name], columns[name][:-1], columns[name].astype(np.float32),
                                    columns[name].astype(str), np.zeros(3), columns[name] * np.nan])
        np.savez(buffer, **columns)
        path.write_bytes(buffer.getvalue() if rng.random() < 0.4 else mutate_bytes(rng, buffer.getvalue()))
    found = read_detections(path, masks=rng.random() < 0.3 and path.suffix == ".json")
    if path.suffix == ".json":
        said = json.loads(path.read_bytes().decode("utf-8-sig"))
        assert (found.category.tolist() == [r["category_id"] for r in said]
                and found.scores.tolist() == [float(r["score"]) for r in said])
    locate(found, world.gt)


def table(world: World, rng: random.Random) -> None:
    source, opened = rng.choice([("table", lambda path: load_annotations(path, masks=True)),
                                 ("index", ClassificationData)])
    folder = world.root / "case_table"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(world.root / source, folder)
    path = rng.choice(sorted(folder.iterdir()))
    if rng.random() < 0.4:
        path.write_bytes(mutate_bytes(rng, path.read_bytes()))
    else:
        # a well-formed table that is not what it should be
        said = json.loads((folder / "table.json").read_text())
        name = rng.choice(sorted(said["columns"]))
        column = np.load(folder / f"{name}.npy")
        column = rng.choice([None, column[:-1], column[..., None], column.reshape(-1), column.astype(np.float32),
                             column * 0 - 1, column[::-1].copy(), column.astype(np.int64) * 1000])
        said["about"] = mutate_tree(rng, said["about"]) if rng.random() < 0.3 else said["about"]
        if column is None:
            del said["columns"][name]
        else:
            np.save(folder / f"{name}.npy", column)
            said["columns"][name] = [column.dtype.str, len(column)]
        (folder / "table.json").write_text(json.dumps(said))
    found = opened(folder)
    if source == "index":
        with contextlib.suppress(InputError):
            found.read(0)


def small_text(world: World, rng: random.Random) -> None:
    """XML of boxes, WordNet's files, a review."""
    kind = rng.randrange(3)
    if kind == 0:
        path = world.root / "case.xml"
        path.write_bytes(
            mutate_bytes(rng,
                         b"<annotation><object><name>n01440764</name><bndbox><xmin>0</xmin><ymin>2</ymin>"
                         b"<xmax>9</xmax><ymax>5</ymax></bndbox></object></annotation>"))
        assert all(name and all(math.isfinite(v) for v in corners) for name, corners in read_xml(path))
    elif kind == 1:
        folder = world.root / "case_wordnet"
        shutil.copytree(world.root / "wordnet", folder, dirs_exist_ok=True)
        path = folder / rng.choice(["index.noun", "data.noun"])
        path.write_bytes(mutate_bytes(rng, path.read_bytes()))
        WordNet(folder).wnid("banana.n.02")
    else:
        path = world.root / "case.tsv"
        path.write_bytes(
            mutate_bytes(rng, b"name\tdecision\twnid\nMouse\treviewed\tn03793489\nApple\tlemma\tn07739125\n"))
        assert set(read_review(path, ["Mouse", "Apple"]).values()) <= {None, "n03793489"}


TARGETS: dict[str, Callable[[World, random.Random], None]] = {
    f.__name__: f
    for f in (
        annotations,
        image_list,
        category_json,
        picture,
        tar,
        config,
        checkpoint_bytes,
        checkpoint_tree,
        detections,
        table,
        small_text,
        image_folder,
        results_file,
        other_checkpoint,
    )
}


def run(root: Path, cases: int, seed: int, kinds: Sequence[str] = tuple(TARGETS)) -> Counter:
    """cases mutations in turn over the kinds; {(target, "refused" | "accepted"): n}. Whatever else happens is raised
    with its case."""
    world, outcomes = World(root), Counter()

    def too_long(number, frame):
        raise AssertionError(f"more than {SECONDS} s of the processor, or {HANGS} s")

    before = {number: signal.signal(number, too_long) for number in (signal.SIGALRM, signal.SIGPROF)}
    try:
        for number in range(cases):
            name = kinds[number % len(kinds)]
            signal.alarm(HANGS)
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            errors._said.clear()
            try:
                with contextlib.redirect_stdout(io.StringIO()):          # notes
                    TARGETS[name](world, random.Random(f"{seed}/{number}"))
                outcomes[name, "accepted"] += 1
            except InputError as error:
                assert str(error).strip() and len(str(error)) < 2000, f"case {seed}/{number} ({name}): {error!r:.300}"
                outcomes[name, "refused"] += 1
            except BaseException as error:
                raise AssertionError(f"case {seed}/{number} ({name}): {type(error).__name__}: {error}") from error
            finally:
                signal.alarm(0)
                signal.setitimer(signal.ITIMER_PROF, 0)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return outcomes

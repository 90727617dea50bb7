"""ImageNet as it is distributed -> an index of its images, read where they lie.

    python -m s21k.prepare.imagenet DIR --out data/imagenet21k/all --wnids imagenet21k
    python -m s21k.prepare.imagenet DIR --out data/imagenet997/train --wnids data/lvis/wnids_997.txt
    python -m s21k.prepare.imagenet DIR --out data/imagenet1k/train

DIR has one folder or one tar for each synset (n01440764/ or n01440764.tar). Nothing is unpacked. --wnids: the classes
in the order of g-hat's rows, a file of one wnid a line, or imagenet21k for the 21,841; without it, those found. Only
headers and ends of files are read. Started again, it continues; a synset that has changed is read anew.

Writes --out (the index), and beside it <out>.quarantine.tsv (what was left out and why), <out>.report.tsv (images of
each synset) and <out>.parts/ (what a later run need not read again).
"""
import contextlib
import hashlib
import os
import re
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from io import BufferedReader
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from tqdm import tqdm

from s21k.core.categories import imagenet21k_wnids
from s21k.core.errors import InputError, nearest, note, refused, run_command
from s21k.core.options import read_options
from s21k.core.packed import Packed, PackedStrings
from s21k.files.archives import ImageIndex, Region, leaves_root, members
from s21k.files.image_files import PassedOver, walk
from s21k.files.images import check_image

TAIL = 2048                                         # bytes at a file's end in which its end mark is looked for
WNID = re.compile(r"n\d{8}")
COMPRESSED = re.compile(r"n\d{8}\.(tar\.(gz|bz2|xz|zst)|tgz|tbz2?|txz|zip)")
UNPACK = ("images are read in place, which a compressed file does not allow; unpack it, for example gunzip "
          "n01440764.tar.gz")


def read_wnids(source: str | None, found: list[str]) -> list[str]:
    """The classes in order. InputError: not wnids, or one appears twice."""
    if source == "imagenet21k":
        return imagenet21k_wnids()
    if source is None:
        return sorted(found)
    expected = ", expected a file of wnids, or imagenet21k" + nearest(source, ["imagenet21k"])
    with refused(f"--wnids {source}: cannot be read", expected=expected):
        wnids = Path(source).read_text().split()
    for number, wnid in enumerate(wnids, start=1):
        if not WNID.fullmatch(wnid):
            raise InputError(f"--wnids {source}: entry {number} is {wnid!r:.40}, expected a wnid such as n01440764")
    if not wnids or len(set(wnids)) < len(wnids):
        raise InputError(f"--wnids {source}: {len(wnids)} wnids, {len(set(wnids))} different, expected each once")
    return wnids


def find_containers(root: Path) -> tuple[dict[str, str], list[str]]:
    """wnid -> its folder or tar below root (of both the tar); and compressed tars, not read. InputError: none."""
    if root.is_file():
        raise InputError(f"{root}: a file, expected a folder with a folder or a tar for each synset; of the outer tar: "
                         "tar -xf FILE -C FOLDER gives one tar a synset, which is read as it is")
    if not root.is_dir():
        raise InputError(f"{root}: no such folder, expected one with a folder or a tar for each synset")
    found, compressed = {}, []
    for entry in sorted(os.scandir(root), key=lambda e: e.name):
        wnid = entry.name.removesuffix(".tar")
        if WNID.fullmatch(wnid) and (entry.is_dir() or entry.name.endswith(".tar")):
            found[wnid] = entry.name
        elif COMPRESSED.fullmatch(entry.name):
            compressed.append(entry.name)
    if not found and compressed:
        raise InputError(f"{root}: its {len(compressed)} tars are compressed ({compressed[0]}), expected plain ones: "
                         f"{UNPACK}")
    if not found:
        raise InputError(f"{root}: no n<8 digits>/ and no n<8 digits>.tar in it")
    return found, [name for name in compressed if name[:9] not in found]


def _listing(path: Path) -> tuple[list[tuple[str, int, int]], list[tuple[str, str]]]:
    """(name, offset, size) of a container's files by name, and (name, reason) of what cannot be listed."""
    faults, rows = [], []
    if path.is_dir():
        passed = PassedOver()
        for folder, files in walk(path, passed):
            for name in (os.path.relpath(os.path.join(folder, f), path) for f in files):
                try:
                    rows.append((name, -1, os.path.getsize(path / name)))
                except OSError as error:            # a link to nowhere, ..
                    faults.append((name, f"cannot be read ({error.strerror})"))
        faults += [(os.path.relpath(passed.first[kind], path), f"the first of {count} {kind}")
                   for kind, count in passed.counts.items()]
    else:
        try:
            rows.extend(members(path))
        except InputError as error:                 # what came before the damage is good
            faults.append(("", str(error)))
    listed, seen = [], set()
    for name, offset, size in sorted(rows):
        reason = ("its name leads out of the container" if leaves_root(name) else "a name with control characters"
                  if not name.isprintable() else "a second file of this name" if name in seen else None)
        if reason:
            faults.append((name, reason))
        else:
            listed.append((name, offset, size))
        seen.add(name)
    return listed, faults


def _check(path: Path, name: str, offset: int, size: int) -> tuple[int, int]:
    """(h, w) of one image."""
    if size == 0:
        raise InputError(f"{path}:{name}: empty file")
    region = Region(path, offset, size, name) if offset >= 0 else Region(path / name, 0, size, name)
    with region:
        region.seek(max(0, size - TAIL))
        tail = region.read(TAIL)
        region.seek(0)
        return check_image(_Named(region, 4096), tail)


class _Named(BufferedReader):
    def __str__(self) -> str:
        return str(self.raw)


def _stamp(path: Path) -> bytes:
    """What changes when a container does: of a tar its size and time, of a folder those of every file below it."""
    seen = hashlib.blake2b(digest_size=16)
    places = ([os.path.join(folder, f) for folder, files in walk(path, PassedOver()) for f in files] if path.is_dir()
              else [str(path)])
    places.sort()
    for place in places:
        state = os.lstat(place)
        seen.update(f"{place.removeprefix(str(path))} {state.st_size} "
                    f"{state.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return seen.digest()


def scan(root: Path, parts: Path, job: tuple[str, str]) -> str:
    """One synset's images -> parts/<wnid>.npz, unless that is there already and the container has not changed."""
    wnid, container = job
    path, part = root / container, parts / f"{wnid}.npz"
    stamp = np.frombuffer(_stamp(path), dtype=np.uint8)
    try:
        with np.load(part, allow_pickle=False) as saved:
            if np.array_equal(saved["stamp"], stamp) and str(saved["container"]) == container:
                return wnid
    except Exception:
        pass                # not there, or cut off (numpy raises what its bytes lead it to): read the container
    listed, faults = _listing(path)
    good = []
    for name, offset, size in listed:
        try:
            good.append((name, offset, size, *_check(path, name, offset, size)))
        except (InputError, OSError) as error:
            faults.append((name, str(error)))
    names = Packed(row[0].encode(errors="surrogateescape") for row in good)
    reasons = [Packed(text.encode(errors="replace") for text in column)
               for column in (zip(*faults) if faults else ((), ()))]
    beside = part.with_suffix(".writing.npz")
    np.savez(beside, stamp=stamp, container=container,
             numbers=np.array([row[1:] for row in good], dtype=np.int64).reshape(-1, 4), names=names.data,
             name_offsets=names.offsets, fault_names=reasons[0].data, fault_name_offsets=reasons[0].offsets,
             faults=reasons[1].data, fault_offsets=reasons[1].offsets)
    os.replace(beside, part)
    return wnid


def build_index(root: Path, out: Path, wnids: list[str], containers: dict[str, str],
                processes: int) -> tuple[ImageIndex, list[tuple[str, str, str]]]:
    """The index of the wnids' images, and (wnid, name, reason) of what was left out. Parts stay in <out>.parts."""
    parts = out.with_name(out.name + ".parts")
    parts.mkdir(parents=True, exist_ok=True)
    jobs = [(wnid, containers[wnid]) for wnid in wnids if wnid in containers]
    work = partial(scan, root, parts)
    with contextlib.ExitStack() as stack:
        run = stack.enter_context(ProcessPoolExecutor(processes, get_context("spawn"))).map if processes > 1 else map
        try:
            for _ in tqdm(run(work, jobs, **({"chunksize": 8} if processes > 1 else {})), total=len(jobs),
                          desc="synsets", mininterval=5.0):
                pass
        except BrokenProcessPool:
            raise InputError(f"{root}: a process was killed, often for want of memory; started again it continues, "
                             f"--processes with fewer needs less") from None
    numbers, names, labels, place, quarantined = [], [], [], [], []
    row = {wnid: i for i, wnid in enumerate(wnids)}
    for position, (wnid, _) in enumerate(jobs):
        with np.load(parts / f"{wnid}.npz", allow_pickle=False) as part:
            numbers.append(part["numbers"])
            names.append(Packed.of_arrays(part["names"], part["name_offsets"]))
            what, why = (Packed.of_arrays(part[name], part[offsets])
                         for name, offsets in (("fault_names", "fault_name_offsets"), ("faults", "fault_offsets")))
            quarantined += [(wnid, what[i].decode(errors="replace"), why[i].decode()) for i in range(len(what))]
        labels.append(np.full(len(numbers[-1]), row[wnid], dtype=np.int32))
        place.append(np.full(len(numbers[-1]), position, dtype=np.int32))
    offset, size, heights, widths = np.concatenate([np.zeros((0, 4), np.int64), *numbers]).T
    label, container = (np.concatenate([np.zeros(0, np.int32), *column]) for column in (labels, place))
    return ImageIndex(root, wnids, [container for _, container in jobs], container,
                      PackedStrings(packed=Packed.join(names)), label,
                      offset.copy(), size.copy(), heights.astype(np.int32), widths.astype(np.int32)), quarantined


def write_reports(out: Path, wnids: list[str], counts: np.ndarray, quarantined: list[tuple[str, str, str]]) -> None:
    """<out>.quarantine.tsv and <out>.report.tsv. counts: images of each wnid."""
    bad = Counter(wnid for wnid, _, _ in quarantined)
    clean = str.maketrans("\t\n\r", "   ")
    out.with_name(out.name + ".quarantine.tsv").write_text(
        "wnid\tfile\treason\n"
        + "".join(f"{w}\t{name.translate(clean)}\t{reason.translate(clean)}\n" for w, name, reason in quarantined)
    )
    out.with_name(out.name + ".report.tsv").write_text(
        "wnid\tpictures\tquarantined\n" + "".join(f"{w}\t{n}\t{bad[w]}\n" for w, n in zip(wnids, counts.tolist())))


def main(argv: list[str]) -> None:
    a = read_options(argv, "prepare.imagenet", ("source", "--out"), wnids=str, processes=os.cpu_count() or 1)
    containers, compressed = find_containers(a.source)
    wnids = read_wnids(a.wnids, list(containers))
    compressed = [name for name in compressed if a.wnids is None or name[:9] in set(wnids)]
    if compressed:
        note(f"{a.source}: {len(compressed)} compressed tars are passed over "
             f"({', '.join(compressed[:3])}{', ..' if len(compressed) > 3 else ''}): {UNPACK}")
    with refused(f"--out {a.out}: cannot be written, or {a.source} cannot be read"):
        index, quarantined = build_index(a.source, a.out, wnids, containers, a.processes)
        counts = np.bincount(index.label, minlength=len(wnids))
        write_reports(a.out, wnids, counts, quarantined)
    if len(index) == 0:
        first = (f"; the first of {len(quarantined)} faults: {quarantined[0][0]}: {quarantined[0][2]} (see "
                 f"{a.out.name}.quarantine.tsv)" if quarantined else "")
        raise InputError(f"{a.source}: has no good images of the {len(wnids)} synsets wanted{first}")
    index.save(a.out)
    missing = [wnid for wnid in wnids if wnid not in containers]
    print(f"{a.out}: {len(index)} images of {int((counts > 0).sum())} synsets of {len(wnids)}; "
          f"{int(counts[counts > 0].min())} to {int(counts.max())} each; {len(quarantined)} in quarantine")
    if missing:
        print(f"{len(missing)} synsets are not in {a.source}: "
              f"{', '.join(missing[:5])}{', ..' if len(missing) > 5 else ''}")
    if extra := len(containers) - (len(wnids) - len(missing)):
        print(f"{extra} of its synsets were not asked for")


if __name__ == "__main__":
    run_command(main, __doc__)

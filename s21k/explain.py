"""How the result of one photo came about, in numbers and pictures: Eqs. 1 to 5, NMS, the thresholds.

    python -m s21k.explain r18 tiny photo.jpg                    the five best detections
    python -m s21k.explain r18 tiny photo.jpg --category dog     and why a dog was found, or was not
    python -m s21k.explain r18 tiny photo.jpg --top 20 --threshold 0.3 --out DIR

The words are those of s21k.predict, and so are the detections. Computed the plain way (s21k/models/plain.py), except
for the scores that decide the order: those are the detector's own float32, so that no tie is decided otherwise. Default
--out: explained/<photo's name> in the run's folder; it gets explanation.txt, proposals.png, levels.png and kept.png.

R regions    K evaluated categories
"""
import argparse
import os
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from s21k.core.categories import CategoryMap
from s21k.core.config import EvalConfig, load_config
from s21k.core.errors import InputError, run_command
from s21k.evidence import LEVELS, Evidence, draw_evidence, look
from s21k.files.images import read_image
from s21k.models.plain import Pair, plain_iou, plain_parts, plain_scores
from s21k.photos import Opened, find_categories, find_images, is_source, make_folder, open_detector

NAMES_SHOWN = 3                                     # best categories of each classifier


def row_names(index: Tensor, categories: CategoryMap, rows: list[str]) -> list[str]:
    """A short name of each row of a classifier: the category's, else the wnid or name that the checkpoint has."""
    names = list(rows)
    for row, name in zip(index.tolist(), categories.names, strict=True):
        if row >= 0:
            names[row] = short(name)
    return names


def short(name: str) -> str:
    """The first of a name's synonyms."""
    return name.split(",")[0]


def number(value: float) -> str:
    return f"{value:.4g}"


def corners(box: Tensor) -> str:
    return "(" + ", ".join(f"{value:.1f}" for value in box.tolist()) + ")"


def power(exponent: float) -> str:
    return {2 / 3: "(2/3)", 1 - 2 / 3: "(1/3)"}.get(exponent, f"{exponent:g}")


class Explainer:
    """Sentences about one photo's Evidence."""

    def __init__(self, evidence: Evidence, opened: Opened, threshold: float) -> None:
        """threshold: the score from which predict draws a detection."""
        self.evidence, self.categories, self.threshold = evidence, opened.categories, threshold
        self.test: EvalConfig = opened.cfg.eval
        self.det_names = row_names(self.categories.det_index, self.categories, opened.rows["det"])
        self.cls_names = row_names(self.categories.cls_index, self.categories, opened.rows["cls"])
        self.names = [short(name) for name in self.categories.names]
        survivors = evidence.result.survivors
        self.place = {pair: place for place, pair in enumerate(survivors, start=1)}
        self.num_found = len(evidence.result.labels)

    def summary(self) -> list[str]:
        """What was counted on the way, from regions to detections."""
        e, test = self.evidence, self.test
        (num_regions, num_categories), (h, w) = e.scores.shape, e.input_size
        removed, kept = len(e.result.removed_by), len(e.result.survivors)
        shares = ", ".join(f"P{level}: {int((e.levels == level).sum())}" for level in LEVELS)
        drawn = int((e.result.scores >= self.threshold).sum())
        group = "among all categories" if test.class_agnostic_nms else "within a category"
        most = "all" if test.max_detections < 0 else f"the best {test.max_detections}"
        return [f"input of the network: {w} x {h} pixels",
                f"regions: {num_regions}, pooled from {shares}; 0 is the proposal that the RPN likes best",
                f"scores: {num_regions} regions x {num_categories} categories, {removed + kept} above "
                f"eval.threshold = {test.threshold:g}",
                f"NMS {group} at IoU > {test.nms:g}: {removed} removed, {kept} left; of these {most}: {self.num_found} "
                f"detections",
                f"of these with a score of at least {self.threshold:g} (--threshold), the ones drawn: {drawn}"]

    def equations(self, pair: Pair) -> list[str]:
        """Eqs. 1 to 5 of one region and category, with their numbers."""
        region, category = pair
        e, name = self.evidence, self.names[category]
        row, row_hat = int(self.categories.det_index[category]), int(self.categories.cls_index[category])
        logits = e.fg[region, None], e.det[region, None], e.cls[region, None]
        s_fg, s, s_hat = (part[0] for part in plain_parts(*logits))
        fg = number(float(s_fg))
        lines = [f"Eq. 1   S_fg = {fg}", f"Eq. 2   S_c  = {best_of(s, self.det_names)}"]
        if len(s_hat):
            lines.append(f"Eq. 3   S^_c = {best_of(s_hat, self.cls_names)}")
        known = []                                                       # of Eq. 4, by each classifier that knows it
        if row >= 0:
            known.append(f"S'_c = S_fg x S_c = {fg} x {number(float(s[row]))} = {number(float(s_fg * s[row]))}")
        if row_hat >= 0:
            known.append(f"S^'_c = S_fg x S^_c = {fg} x {number(float(s_hat[row_hat]))} = "
                         f"{number(float(s_fg * s_hat[row_hat]))}")
        lines.append(f"Eq. 4   of {name}: " + ";  ".join(known))
        index = self.categories.det_index[category, None], self.categories.cls_index[category, None]
        final = number(float(plain_scores(*logits, *index, self.test.fusion, self.test.fusion_exponent)))
        if row >= 0 and row_hat >= 0:
            written = self.fusion(fg, number(float(s[row])), number(float(s_hat[row_hat])))
            lines.append(f"Eq. 5   S' = {written} = {final}")
        else:
            alone, s_alone = ("g", s[row]) if row >= 0 else ("g-hat", s_hat[row_hat])
            lines.append(f"Eq. 5   only {alone} knows {name}: S' = {fg} x {number(float(s_alone))} = {final}")
        return lines

    def fusion(self, fg: str, det: str, cls: str) -> str:
        """Eq. 5, or what eval.fusion puts in its place, of three numbers. Eq. 4's S_fg is in it once: 2/3 + 1/3 = 1."""
        a, b = power(self.test.fusion_exponent), power(1 - self.test.fusion_exponent)
        return {"geometric": f"{fg} x {det}^{a} x {cls}^{b}", "arithmetic": f"{fg} x ({a} x {det} + {b} x {cls})",
                "det_only": f"{fg} x {det}", "cls_only": f"{fg} x {cls}"}[self.test.fusion]

    def where(self, region: int) -> str:
        e = self.evidence
        return (f"region {region}: proposal {corners(e.proposals[region])}, pooled from P{int(e.levels[region])}, box "
                f"{corners(e.boxes[region])} in the photo")

    def score(self, pair: Pair) -> float:
        return float(self.evidence.scores[pair])

    def iou(self, a: Pair, b: Pair) -> float:
        return plain_iou(self.evidence.boxes[a[0]].tolist(), self.evidence.boxes[b[0]].tolist())

    def fate(self, pair: Pair) -> str:
        """What became of a score: drawn, kept, removed by which box, beyond the best, or below the threshold."""
        score, better = self.score(pair), self.evidence.result.removed_by.get(pair)
        if better is not None:
            place = self.place[better]
            kind = f"detection {place}" if place <= self.num_found else f"number {place} of what NMS left"
            winner = f"{self.names[better[1]]} {number(self.score(better))}, region {better[0]}"
            return f"lost: removed by {kind} ({winner}), IoU {self.iou(pair, better):.3f} > {self.test.nms:g}"
        place = self.place.get(pair)
        if place is None:
            return f"lost: {number(score)} is not above eval.threshold = {self.test.threshold:g}"
        if place > self.num_found:
            return f"lost: number {place} of what NMS left, beyond the best {self.num_found} (eval.max_detections)"
        if score < self.threshold:
            return f"kept as detection {place}, not drawn: {number(score)} is below --threshold {self.threshold:g}"
        return f"kept as detection {place}, and drawn"

    def detection(self, place: int, top: int) -> list[str]:
        """The place-th detection in full, and which worse boxes it removed."""
        pair = self.evidence.result.survivors[place - 1]
        removed = [other for other, better in self.evidence.result.removed_by.items() if better == pair]
        drawn = "" if self.score(pair) >= self.threshold else f" (not drawn: below --threshold {self.threshold:g})"
        lines = [f"detection {place}: {self.names[pair[1]]} {number(self.score(pair))}{drawn}",
                 f"  {self.where(pair[0])}"]
        lines += [f"  {line}" for line in self.equations(pair)]
        shown = [f"region {r} ({self.names[c] + ' ' if c != pair[1] else ''}{number(self.score((r, c)))}, IoU "
                 f"{self.iou(pair, (r, c)):.3f})" for r, c in removed[:top]]
        more = f", and {len(removed) - top} more" if len(removed) > top else ""
        return [*lines, f"  NMS     removed {', '.join(shown) + more if shown else 'nothing'}"]

    def best(self, category: int, top: int) -> list[Pair]:
        """The best regions of a category; ties: the lower region first."""
        order = self.evidence.scores[:, category].sort(descending=True, stable=True).indices
        return [(region, category) for region in order[:top].tolist()]

    def category(self, category: int, top: int) -> list[str]:
        """The best region of one category in full, whether it was kept or not, and the fate of the next ones."""
        if not (pairs := self.best(category, top)):
            return [f"{self.names[category]}: there is no region, the RPN proposed nothing"]
        best, *others = pairs
        lines = [f"{self.names[category]}, its best region of {len(self.evidence.scores)}: {number(self.score(best))}",
                 f"  {self.where(best[0])}", *(f"  {line}" for line in self.equations(best)),
                 f"  fate    {self.fate(best)}"]
        return lines + [f"  next    region {pair[0]}, {number(self.score(pair))}, {self.fate(pair)}" for pair in others]


def best_of(scores: Tensor, names: list[str]) -> str:
    """The best names and their scores: "dog 0.803, cat 0.1, .. (of 80)"."""
    best = scores.topk(min(NAMES_SHOWN, len(scores)))
    pairs = zip(best.values.tolist(), best.indices.tolist(), strict=True)
    shown = ", ".join(f"{names[row]} {number(value)}" for value, row in pairs)
    return f"{shown}{', ..' if len(scores) > NAMES_SHOWN else ''} (of {len(scores)})"


@torch.no_grad()
def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m s21k.explain")
    parser.add_argument("words", nargs="+")
    parser.add_argument("--category")
    parser.add_argument("--top", type=int, default=5)
    parser.add_argument("--threshold", type=float, default=0.3)
    parser.add_argument("--out", type=Path)
    a = parser.parse_intermixed_args(argv)
    sources = [word for word in a.words if is_source(word)]
    cfg = load_config([word for word in a.words if word not in sources])
    paths = find_images(sources)
    if len(paths) != 1:
        raise InputError(f"{len(paths)} photos in {' '.join(sources)}, expected one to explain")
    if a.top < 1:
        raise InputError(f"--top {a.top}: expected at least 1")
    if cfg.model.head != "decoupled" or cfg.stage2.baseline != "none":
        raise InputError(f"model.head={cfg.model.head} with stage2.baseline={cfg.stage2.baseline} does not score by "
                         f"Eqs. 1 to 5, expected model.head=decoupled and stage2.baseline=none")
    opened = open_detector(cfg)
    wanted = find_categories(opened.categories, a.category, "--category") if a.category is not None else []
    image = read_image(paths[0])
    out = a.out or Path(cfg.output_dir) / "explained" / os.fsencode(paths[0].stem)[:200].decode(errors="ignore")
    make_folder(out)
    explain(opened, image, paths[0], wanted, a.top, a.threshold, out)


def explain(opened: Opened, image: Image.Image, path: Path, wanted: list[int], top: int, threshold: float,
            out: Path) -> None:
    """Print and write explanation.txt and the drawings. wanted: categories to explain besides the best detections."""
    evidence = look(opened, image)
    explainer = Explainer(evidence, opened, threshold)
    places = range(1, min(top, explainer.num_found) + 1)
    parts = [[f"{path}: {image.width} x {image.height} pixels", *explainer.summary()]]
    parts += [explainer.detection(place, top) for place in places]
    parts += [explainer.category(category, top) for category in wanted]
    text = "\n\n".join("\n".join(lines) for lines in parts)
    found = evidence.result.survivors[:explainer.num_found]
    shown = [pair for pair in found if explainer.score(pair) >= threshold] or found[:top]
    (out / "explanation.txt").write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
    asked = [pair for category in wanted for pair in explainer.best(category, 1) if pair not in shown]
    for name, drawing in draw_evidence(image, evidence, explainer.names, shown, asked).items():
        drawing.save(out / f"{name}.png")
    print(text)                                                          # last: `| head` does not keep the files away
    print(f"\nexplanation.txt, proposals.png, levels.png, kept.png, and all three as explained.png -> {out}")


if __name__ == "__main__":
    run_command(main, __doc__)
